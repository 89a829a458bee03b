"""timm's `ResNet`: ResNet of both papers, its stems and shortcuts C, D, S and T, ResNeXt, SE, ECA, anti-aliased and RS."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experts.models.timm import layers
from experts.models.timm.scope import Scope


def _basic(*depths: int) -> dict[str, Any]:
  return {'block': 'basic', 'layers': depths}


def _bottleneck(*depths: int) -> dict[str, Any]:
  return {'block': 'bottleneck', 'layers': depths}


def _groups(cardinality: int, base_width: int) -> dict[str, Any]:
  return {'cardinality': cardinality, 'base_width': base_width}


_18, _34 = _basic(2, 2, 2, 2), _basic(3, 4, 6, 3)
_26, _50, _101 = _bottleneck(2, 2, 2, 2), _bottleneck(3, 4, 6, 3), _bottleneck(3, 4, 23, 3)
_152, _200, _269 = _bottleneck(3, 8, 36, 3), _bottleneck(3, 24, 36, 3), _bottleneck(3, 30, 48, 8)
_C = {'stem_width': 32, 'stem_type': 'deep'}
_D = _C | {'avg_down': True}
_S = {'stem_width': 64, 'stem_type': 'deep'}
_T = _D | {'stem_type': 'deep_tiered'}
_AVERAGE, _BLUR = {'aa_layer': 'avg'}, {'aa_layer': 'blur'}
_SE, _ECA = {'block_args': {'attn_layer': 'se'}}, {'block_args': {'attn_layer': 'eca'}}
# timm's class gets the attention with its ratio bound to it.
_RS = _D | {'replace_stem_pool': True, 'block_args': {'attn_layer': 'se', 'rd_ratio': 0.25}}

# Classes that timm's entrypoints name are named 'basic', 'bottleneck'; 'avg', 'blur'.
ARCHITECTURES: dict[str, dict[str, Any]] = {
  'resnet10t': _basic(1, 1, 1, 1) | _T,
  'resnet14t': _bottleneck(1, 1, 1, 1) | _T,
  'resnet18': _18,
  'resnet18d': _18 | _D,
  'resnet26': _26,
  'resnet26d': _26 | _D,
  'resnet26t': _26 | _T,
  'resnet34': _34,
  'resnet34d': _34 | _D,
  'resnet50': _50,
  'resnet50c': _50 | _C,
  'resnet50d': _50 | _D,
  'resnet50s': _50 | _S,
  'resnet50t': _50 | _T,
  'resnet50_gn': _50 | {'norm_layer': 'groupnorm'},
  'resnet101': _101,
  'resnet101c': _101 | _C,
  'resnet101d': _101 | _D,
  'resnet101s': _101 | _S,
  'resnet152': _152,
  'resnet152c': _152 | _C,
  'resnet152d': _152 | _D,
  'resnet152s': _152 | _S,
  'resnet200': _200,
  'resnet200d': _200 | _D,
  'wide_resnet50_2': _50 | {'base_width': 128},
  'wide_resnet101_2': _101 | {'base_width': 128},
  'resnext50_32x4d': _50 | _groups(32, 4),
  'resnext50d_32x4d': _50 | _groups(32, 4) | _D,
  'resnext101_32x4d': _101 | _groups(32, 4),
  'resnext101_32x8d': _101 | _groups(32, 8),
  'resnext101_32x16d': _101 | _groups(32, 16),
  'resnext101_32x32d': _101 | _groups(32, 32),
  'resnext101_64x4d': _101 | _groups(64, 4),
  'ecaresnet26t': _26 | _T | _ECA,
  'ecaresnet50d': _50 | _D | _ECA,
  'ecaresnet50t': _50 | _T | _ECA,
  'ecaresnetlight': _bottleneck(1, 1, 11, 3) | _ECA | {'stem_width': 32, 'avg_down': True},
  'ecaresnet101d': _101 | _D | _ECA,
  'ecaresnet200d': _200 | _D | _ECA,
  'ecaresnet269d': _269 | _D | _ECA,
  'ecaresnext26t_32x4d': _26 | _groups(32, 4) | _T | _ECA,
  'ecaresnext50t_32x4d': _50 | _groups(32, 4) | _T | _ECA,
  'seresnet18': _18 | _SE,
  'seresnet34': _34 | _SE,
  'seresnet50': _50 | _SE,
  'seresnet50t': _50 | _T | _SE,
  'seresnet101': _101 | _SE,
  'seresnet152': _152 | _SE,
  'seresnet152d': _152 | _D | _SE,
  'seresnet200d': _200 | _D | _SE,
  'seresnet269d': _269 | _D | _SE,
  'seresnext26d_32x4d': _26 | _groups(32, 4) | _D | _SE,
  'seresnext26t_32x4d': _26 | _groups(32, 4) | _T | _SE,
  'seresnext50_32x4d': _50 | _groups(32, 4) | _SE,
  'seresnext101_32x4d': _101 | _groups(32, 4) | _SE,
  'seresnext101_32x8d': _101 | _groups(32, 8) | _SE,
  'seresnext101d_32x8d': _101 | _groups(32, 8) | _D | _SE,
  'seresnext101_64x4d': _101 | _groups(64, 4) | _SE,
  'senet154': _152
  | _groups(64, 4)
  | _SE
  | {'stem_type': 'deep', 'down_kernel_size': 3, 'block_reduce_first': 2},
  'resnetblur18': _18 | _BLUR,
  'resnetblur50': _50 | _BLUR,
  'resnetblur50d': _50 | _BLUR | _D,
  'resnetblur101d': _101 | _BLUR | _D,
  'resnetaa34d': _34 | _AVERAGE | _D,
  'resnetaa50': _50 | _AVERAGE,
  'resnetaa50d': _50 | _AVERAGE | _D,
  'resnetaa101d': _101 | _AVERAGE | _D,
  'seresnetaa50d': _50 | _AVERAGE | _D | _SE,
  'seresnextaa101d_32x8d': _101 | _groups(32, 8) | _AVERAGE | _D | _SE,
  'seresnextaa201d_32x8d': _bottleneck(3, 24, 36, 4)
  | _groups(32, 8)
  | _AVERAGE
  | _S
  | _SE
  | {'avg_down': True},
  'resnetrs50': _50 | _RS,
  'resnetrs101': _101 | _RS,
  'resnetrs152': _152 | _RS,
  'resnetrs200': _200 | _RS,
  'resnetrs270': _bottleneck(4, 29, 53, 4) | _RS,
  'resnetrs350': _bottleneck(4, 36, 72, 4) | _RS,
  'resnetrs420': _bottleneck(4, 44, 87, 4) | _RS,
  'test_resnet': {
    'block': ('basic', 'basic', 'bottleneck', 'basic'),
    'layers': (1, 1, 1, 1),
    'channels': (32, 48, 48, 96),
    'stem_width': 16,
    'stem_type': 'deep',
    'avg_down': True,
  },
}

# Of a classifier, of training, of how weights begin.
_NO_MATTER = {'num_classes', 'drop_rate', 'drop_path_rate', 'drop_block_rate', 'zero_init_last'}
_FIXED = {'in_chans': 3, 'output_stride': 32, 'global_pool': 'avg'}
_CHOICES = {
  'stem_type': ('', 'deep', 'deep_tiered'),
  'act_layer': layers.ACTIVATIONS,
  'norm_layer': ('batchnorm', 'batchnorm2d', 'groupnorm'),
  'aa_layer': ('', 'avg', 'blur'),
  'attn_layer': ('', 'se', 'eca'),
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a network is; the names are timm's.

  Attributes:
    block: of each stage, 'basic' or 'bottleneck'.
    layers: blocks of each stage.
    channels: of each stage, before a bottleneck's expansion by 4.
    cardinality: groups of a bottleneck's 3x3 convolution.
    base_width: channels of a group, or of a bottleneck, per 64 of the stage's.
    stem_width: channels of a deep stem's first convolutions.
    stem_type: '' one 7x7 convolution, 'deep' three of 3x3, 'deep_tiered' the first of them narrower.
    replace_stem_pool: whether a convolution stands where a maximum is taken else.
    block_reduce_first: what a block's first convolution divides its channels by.
    down_kernel_size: of a shortcut's convolution where it halves the map.
    avg_down: whether a shortcut halves the map by averages.
    act_layer: a name of `layers.ACTIVATIONS`.
    norm_layer: 'batchnorm2d' or 'groupnorm'.
    aa_layer: what halves a map in a convolution's stead: '' nothing, 'avg' or 'blur'.
    attn_layer: of channels, at a block's end: '' none, 'se' or 'eca'.
    rd_ratio: hidden channels of 'se' per channel.
  """

  block: tuple[str, ...]
  layers: tuple[int, ...]
  channels: tuple[int, ...] = (64, 128, 256, 512)
  cardinality: int = 1
  base_width: int = 64
  stem_width: int = 64
  stem_type: str = ''
  replace_stem_pool: bool = False
  block_reduce_first: int = 1
  down_kernel_size: int = 1
  avg_down: bool = False
  act_layer: str = 'relu'
  norm_layer: str = 'batchnorm2d'
  aa_layer: str = ''
  attn_layer: str = ''
  rd_ratio: float = 1 / 16


def head(settings: Settings) -> str:
  """The classifier's name in timm's state dict."""
  return 'fc'


def settings(architecture: str, arguments: Mapping[str, Any]) -> Settings:
  """What a network of `ARCHITECTURES` is, with arguments that differ from its own.

  Raises:
    ValueError: an argument is unknown, or its value is not supported.
  """
  given = ARCHITECTURES[architecture] | dict(arguments)
  given |= given.pop('block_args', None) or {}
  given = {name: value for name, value in given.items() if name not in _NO_MATTER}
  for name, value in _FIXED.items():
    if given.pop(name, value) != value:
      raise ValueError(f'{architecture}: {name} other than {value!r} is not supported')
  fields = {field.name for field in dataclasses.fields(Settings)}
  if unknown := sorted(set(given) - fields):
    raise ValueError(f'{architecture}: unknown argument {unknown[0]}')
  for name, choices in _CHOICES.items():
    if name in given and (given[name] or '') not in choices:
      raise ValueError(f'{architecture}: {name} {given[name]!r} is not supported')
  given |= {name: given[name] or '' for name in ('aa_layer', 'attn_layer') if name in given}
  if given.get('norm_layer') == 'batchnorm':
    given['norm_layer'] = 'batchnorm2d'
  if isinstance(given['block'], str):
    given['block'] = (given['block'],) * 4
  found = Settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
  for name in ('block', 'layers', 'channels'):
    if len(getattr(found, name)) != 4:
      raise ValueError(f'{architecture}: {name} are of 4 stages, not {len(getattr(found, name))}')
  if not set(found.block) <= {'basic', 'bottleneck'}:
    raise ValueError(f'{architecture}: block {found.block!r} is not supported')
  if 'basic' in found.block and (found.cardinality, found.base_width) != (1, 64):
    raise ValueError(f'{architecture}: cardinality and base_width are of bottleneck blocks only')
  return found


def fault(settings: Settings, side: int) -> str:
  """Why images of this side (pixels) cannot be taken; empty if they can."""
  # Averages leave out a last odd row, shortcuts do not.
  pooled = -(-side // 2) // 2
  if settings.aa_layer == 'avg' and (pooled % 8 or not pooled):
    return f'maps of side {pooled} behind the stem are no multiple of 8'
  if settings.aa_layer == 'blur' and side <= 16:
    return 'maps of one pixel cannot be blurred'
  return ''


def embed(settings: Settings, scope: Scope, images: jax.Array) -> jax.Array:
  """Normalised images [B, S, S, 3] -> embeddings [B, D] in float32."""
  x = _stem(settings, scope, images)
  for stage in range(4):
    for block in range(settings.layers[stage]):
      stride = 2 if stage and not block else 1
      x = _block(settings, scope / f'layer{stage + 1}' / block, x, stage, stride)
  return layers.mean_pool(x)


def _stem(settings: Settings, scope: Scope, x: jax.Array) -> jax.Array:
  act = layers.ACTIVATIONS[settings.act_layer]
  width = settings.stem_width
  if settings.stem_type:
    first = 3 * (width // 4) if settings.stem_type == 'deep_tiered' else width
    convolutions = scope / 'conv1'
    x = layers.conv(convolutions / 0, x, first, 3, 2)
    x = act(_norm(settings, convolutions / 1, x))
    x = layers.conv(convolutions / 3, x, width, 3)
    x = act(_norm(settings, convolutions / 4, x))
    x = layers.conv(convolutions / 6, x, 2 * width, 3)
  else:
    x = layers.conv(scope / 'conv1', x, 64, 7, 2)
  x = act(_norm(settings, scope / 'bn1', x))
  aliased = not settings.aa_layer
  if settings.replace_stem_pool:
    x = layers.conv(scope / 'maxpool' / 0, x, x.shape[-1], 3, 2 if aliased else 1)
    x = x if aliased else _halve(settings, x)
    return act(_norm(settings, scope / 'maxpool' / (1 if aliased else 2), x))
  if settings.aa_layer == 'avg':
    return _halve(settings, x)
  return layers.max_pool(x) if aliased else _halve(settings, layers.max_pool(x, stride=1))


def _block(settings: Settings, scope: Scope, x: jax.Array, stage: int, stride: int) -> jax.Array:
  """Convolutions beside a shortcut; of a bottleneck the second sees neighbours, else the first and second."""
  act = layers.ACTIVATIONS[settings.act_layer]
  planes, deep = settings.channels[stage], settings.block[stage] == 'bottleneck'
  width = math.floor(planes * (settings.base_width / 64)) * settings.cardinality
  first, out = width // settings.block_reduce_first, planes * 4 if deep else planes
  shortcut = x
  if deep:
    x = layers.conv(scope / 'conv1', x, first)
    x = act(_norm(settings, scope / 'bn1', x))
  wide, name = (width, 2) if deep else (first, 1)
  own = 1 if settings.aa_layer else stride
  x = layers.conv(scope / f'conv{name}', x, wide, 3, own, groups=settings.cardinality)
  x = act(_norm(settings, scope / f'bn{name}', x))
  if stride != own:
    x = _halve(settings, x)
  x = layers.conv(scope / f'conv{name + 1}', x, out, 1 if deep else 3)
  x = _attention(settings, scope / 'se', _norm(settings, scope / f'bn{name + 1}', x))
  if stride > 1 or shortcut.shape[-1] != out:
    shortcut = _shortcut(settings, scope / 'downsample', shortcut, out, stride)
  return act(x + shortcut)


def _shortcut(
  settings: Settings, scope: Scope, x: jax.Array, channels: int, stride: int
) -> jax.Array:
  if settings.avg_down:
    x = layers.average_pool(x) if stride > 1 else x
    return _norm(settings, scope / 2, layers.conv(scope / 1, x, channels))
  size = settings.down_kernel_size if stride > 1 else 1
  return _norm(settings, scope / 1, layers.conv(scope / 0, x, channels, size, stride))


def _norm(settings: Settings, scope: Scope, x: jax.Array) -> jax.Array:
  return (layers.group_norm if settings.norm_layer == 'groupnorm' else layers.batch_norm)(scope, x)


def _attention(settings: Settings, scope: Scope, x: jax.Array) -> jax.Array:
  """Channels weighed by what the whole map shows of them."""
  channels = x.shape[-1]
  mean = layers.mean_pool(x).astype(x.dtype)
  if settings.attn_layer == 'se':
    hidden = max(8, int(channels * settings.rd_ratio + 4) // 8 * 8)
    inner = layers.conv(scope / 'fc1', mean[:, None, None], hidden, bias=True)
    weights = layers.conv(scope / 'fc2', jax.nn.relu(inner), channels, bias=True)
  elif settings.attn_layer == 'eca':
    # The paper's size of a neighbourhood of channels, made odd.
    reach = int((math.log2(channels) + 1) / 2)
    size = max(reach if reach % 2 else reach + 1, 3)
    kernel = (scope / 'conv').param('kernel', size, 1, 1).astype(x.dtype)
    padded = jnp.pad(mean, ((0, 0), (size // 2, size // 2)))
    weights = sum(padded[:, i : i + channels] * kernel[i, 0, 0] for i in range(size))[:, None, None]
  else:
    return x
  return x * jax.nn.sigmoid(weights)


def _halve(settings: Settings, x: jax.Array) -> jax.Array:
  """Halves a map so that no frequency is taken for another."""
  if settings.aa_layer == 'avg':
    rows, columns = (side // 2 * 2 for side in x.shape[1:3])
    return layers.average_pool(x[:, :rows, :columns])
  for axis in (1, 2):
    sides = [(0, 0)] * 4
    sides[axis] = (1, 1)
    padded = jnp.pad(x, sides, mode='reflect')
    parts = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], 2, axis) for i in range(3)]
    x = (parts[0] + 2 * parts[1] + parts[2]) / 4
  return x
