"""timm's `ConvNeXt`: both versions, with all its stems, norms and heads; so are those of CLIP and DINOv3."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experts.models.timm import layers
from experts.models.timm.scope import Scope


def _sizes(depths: tuple[int, ...], width: int) -> dict[str, Any]:
  return {'depths': depths, 'dims': tuple(width * 2**stage for stage in range(4))}


_MLP, _TIERED = {'conv_mlp': True}, {'stem_type': 'overlap_tiered'}
_ZEPTO = _sizes((2, 2, 4, 2), 32) | _MLP | {'norm_layer': 'simplenorm'}
_ATTO, _FEMTO, _PICO = (_sizes((2, 2, 6, 2), width) | _MLP for width in (40, 48, 64))
_NANO = _sizes((2, 2, 8, 2), 80) | _MLP
_TINY = _sizes((3, 3, 9, 3), 96)
_SMALL, _BASE, _LARGE, _XLARGE, _HUGE = (
  _sizes((3, 3, 27, 3), width) for width in (96, 128, 192, 256, 352)
)
_V2 = {'use_grn': True, 'ls_init_value': None}
_EPSILON = {'norm_eps': 1e-5}

ARCHITECTURES: dict[str, dict[str, Any]] = {
  'convnext_zepto_rms': _ZEPTO,
  'convnext_zepto_rms_ols': _ZEPTO | {'stem_type': 'overlap_act'},
  'convnext_atto': _ATTO,
  'convnext_atto_ols': _ATTO | _TIERED,
  'convnext_atto_rms': _ATTO | {'norm_layer': 'rmsnorm2d'},
  'convnext_femto': _FEMTO,
  'convnext_femto_ols': _FEMTO | _TIERED,
  'convnext_pico': _PICO,
  'convnext_pico_ols': _PICO | _TIERED,
  'convnext_nano': _NANO,
  'convnext_nano_ols': _NANO | {'stem_type': 'overlap'},
  'convnext_tiny_hnf': _TINY | _MLP | {'head_norm_first': True},
  'convnext_tiny': _TINY,
  'convnext_small': _SMALL,
  'convnext_base': _BASE,
  'convnext_large': _LARGE,
  'convnext_large_mlp': _LARGE | {'head_hidden_size': 1536},
  'convnext_xlarge': _XLARGE,
  'convnext_xxlarge': _sizes((3, 4, 30, 3), 384) | _EPSILON,
  'convnextv2_atto': _ATTO | _V2,
  'convnextv2_femto': _FEMTO | _V2,
  'convnextv2_pico': _PICO | _V2,
  'convnextv2_nano': _NANO | _V2,
  'convnextv2_tiny': _TINY | _V2,
  'convnextv2_small': _SMALL | _V2,
  'convnextv2_base': _BASE | _V2,
  'convnextv2_large': _LARGE | _V2,
  'convnextv2_huge': _HUGE | _V2,
  'test_convnext': _EPSILON
  | {'depths': (1, 2, 4, 2), 'dims': (24, 32, 48, 64), 'act_layer': 'gelu_tanh'},
  'test_convnext2': _EPSILON
  | {'depths': (1, 1, 1, 1), 'dims': (32, 64, 96, 128), 'act_layer': 'gelu_tanh'},
  'test_convnext3': _EPSILON
  | {
    'depths': (1, 1, 1, 1),
    'dims': (32, 64, 96, 128),
    'kernel_sizes': (7, 5, 5, 3),
    'act_layer': 'silu',
  },
}

# Of a classifier, of training, of how weights begin.
_NO_MATTER = {'num_classes', 'drop_rate', 'drop_path_rate', 'head_init_scale'}
_FIXED = {'in_chans': 3, 'output_stride': 32, 'global_pool': 'avg'}
_CHOICES = {
  'stem_type': ('patch', 'overlap', 'overlap_tiered', 'overlap_act'),
  'patch_size': (2, 4),
  'act_layer': layers.ACTIVATIONS,
  # Of one for a map and one for channels last, which compute the same.
  'norm_layer': ('layernorm', 'layernorm2d', 'rmsnorm', 'rmsnorm2d', 'simplenorm', 'simplenorm2d'),
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a network is; the names are timm's.

  Attributes:
    depths: blocks of each stage.
    dims: channels of each stage.
    kernel_sizes: of each stage's depthwise convolutions.
    layer_scale: whether blocks end in a factor for each channel; timm's `ls_init_value` is not None.
    stem_type: 'patch' one convolution, 'overlap' two of 3x3, '_tiered' the first of half the channels, '_act' an
      activation between.
    patch_size: of the stem 'patch', 2 or 4.
    head_norm_first: whether the norm precedes the mean over the map.
    head_hidden_size: of a dense layer before the classifier, 0 for none.
    conv_mlp: whether a block's dense layers are kept as 1x1 convolutions.
    conv_bias: whether convolutions have a bias.
    use_grn: whether a block's hidden channels are normalised by their responses to the whole map.
    act_layer: a name of `layers.ACTIVATIONS`.
    norm_layer: 'layernorm', 'rmsnorm' or 'simplenorm'.
    norm_eps: added to variances.
  """

  depths: tuple[int, ...]
  dims: tuple[int, ...]
  kernel_sizes: tuple[int, ...] = (7, 7, 7, 7)
  layer_scale: bool = True
  stem_type: str = 'patch'
  patch_size: int = 4
  head_norm_first: bool = False
  head_hidden_size: int = 0
  conv_mlp: bool = False
  conv_bias: bool = True
  use_grn: bool = False
  act_layer: str = 'gelu'
  norm_layer: str = 'layernorm'
  norm_eps: float = 1e-6


def head(settings: Settings) -> str:
  """The classifier's name in timm's state dict."""
  return 'head.fc'


def settings(architecture: str, arguments: Mapping[str, Any]) -> Settings:
  """What a network of `ARCHITECTURES` is, with arguments that differ from its own.

  Raises:
    ValueError: an argument is unknown, or its value is not supported.
  """
  given = ARCHITECTURES[architecture] | dict(arguments)
  given = {name: value for name, value in given.items() if name not in _NO_MATTER}
  for name, value in _FIXED.items():
    if given.pop(name, value) != value:
      raise ValueError(f'{architecture}: {name} other than {value!r} is not supported')
  given['layer_scale'] = given.pop('ls_init_value', 1e-6) is not None
  # None stands for timm's own.
  for name in ('norm_layer', 'norm_eps', 'head_hidden_size'):
    if given.get(name, '') is None:
      del given[name]
  fields = {field.name for field in dataclasses.fields(Settings)}
  if unknown := sorted(set(given) - fields):
    raise ValueError(f'{architecture}: unknown argument {unknown[0]}')
  for name, choices in _CHOICES.items():
    if name in given and given[name] not in choices:
      raise ValueError(f'{architecture}: {name} {given[name]!r} is not supported')
  if 'norm_layer' in given:
    given['norm_layer'] = given['norm_layer'].removesuffix('2d')
  if isinstance(given.get('kernel_sizes'), int):
    given['kernel_sizes'] = (given['kernel_sizes'],) * 4
  found = Settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
  for name in ('depths', 'dims', 'kernel_sizes'):
    if len(getattr(found, name)) != 4:
      raise ValueError(f'{architecture}: {name} are of 4 stages, not {len(getattr(found, name))}')
  if found.head_norm_first and found.head_hidden_size:
    raise ValueError(f'{architecture}: head_hidden_size does not go with head_norm_first')
  return found


def fault(settings: Settings, side: int) -> str:
  """Why images of this side (pixels) cannot be taken; empty if they can."""
  # What the stem rounds up, stages round down.
  least = 32 if settings.stem_type == 'patch' else 29
  return f'must be at least {least}' if side < least else ''


def embed(settings: Settings, scope: Scope, images: jax.Array) -> jax.Array:
  """Normalised images [B, S, S, 3] -> embeddings [B, D] in float32."""
  x = _stem(settings, scope / 'stem', images)
  for stage, channels in enumerate(settings.dims):
    within = scope / 'stages' / stage
    stride = 2 if stage or (settings.stem_type, settings.patch_size) == ('patch', 2) else 1
    if stride > 1 or x.shape[-1] != channels:
      x = _norm(settings, within / 'downsample' / 0, x)
      x = _conv(settings, within / 'downsample' / 1, x, channels, stride, stride, 0)
    for block in range(settings.depths[stage]):
      x = _block(settings, within / 'blocks' / block, x, settings.kernel_sizes[stage])
  if settings.head_norm_first:
    return layers.mean_pool(_norm(settings, scope / 'norm_pre', x))
  x = _norm(settings, scope / 'head' / 'norm', layers.mean_pool(x))
  if settings.head_hidden_size:
    hidden = layers.linear(scope / 'head' / 'pre_logits' / 'fc', x, settings.head_hidden_size)
    x = layers.ACTIVATIONS['gelu'](hidden)
  return x


def _stem(settings: Settings, scope: Scope, x: jax.Array) -> jax.Array:
  channels, size = settings.dims[0], settings.patch_size
  if settings.stem_type == 'patch':
    return _norm(settings, scope / 1, _conv(settings, scope / 0, x, channels, size, size, 0))
  middle = _eights(channels // 2) if settings.stem_type == 'overlap_tiered' else channels
  x = _conv(settings, scope / 0, x, middle, 3, 2, 1)
  second = 1
  if settings.stem_type == 'overlap_act':
    x, second = layers.ACTIVATIONS[settings.act_layer](x), 2
  x = _conv(settings, scope / second, x, channels, 3, 2, 1)
  return _norm(settings, scope / (second + 1), x)


def _eights(channels: int) -> int:
  """The nearest multiple of 8 that takes away no more than a tenth."""
  near = max(8, (channels + 4) // 8 * 8)
  return near + 8 if near < 0.9 * channels else near


def _block(settings: Settings, scope: Scope, x: jax.Array, size: int) -> jax.Array:
  channels, act = x.shape[-1], layers.ACTIVATIONS[settings.act_layer]
  depthwise = scope / 'conv_dw'
  out = layers.conv(depthwise, x, channels, size, groups=channels, bias=settings.conv_bias)
  out = _norm(settings, scope / 'norm', out)
  hidden = act(_dense(settings, scope / 'mlp' / 'fc1', out, 4 * channels))
  if settings.use_grn:
    hidden = _response_norm(scope / 'mlp' / 'grn', hidden)
  out = _dense(settings, scope / 'mlp' / 'fc2', hidden, channels)
  if settings.layer_scale:
    out = out * scope.param('gamma', channels).astype(x.dtype)
  return x + out


def _conv(
  settings: Settings,
  scope: Scope,
  x: jax.Array,
  channels: int,
  size: int,
  stride: int,
  padding: int,
) -> jax.Array:
  return layers.conv(scope, x, channels, size, stride, padding, bias=settings.conv_bias)


def _dense(settings: Settings, scope: Scope, x: jax.Array, channels: int) -> jax.Array:
  if settings.conv_mlp:
    return layers.conv(scope, x, channels, bias=True)
  return layers.linear(scope, x, channels)


def _norm(settings: Settings, scope: Scope, x: jax.Array) -> jax.Array:
  """Normalises over the last axis; moments are float32."""
  if settings.norm_layer == 'layernorm':
    return layers.layer_norm(scope, x, settings.norm_eps)
  wide = x.astype(jnp.float32)
  if settings.norm_layer == 'rmsnorm':
    square = jnp.square(wide).mean(-1, keepdims=True)
  else:
    # The deviation from the mean, though the mean stays.
    square = wide.var(-1, keepdims=True, ddof=1)
  factor = jax.lax.rsqrt(square + settings.norm_eps)
  return (wide * factor * scope.param('scale', x.shape[-1])).astype(x.dtype)


def _response_norm(scope: Scope, x: jax.Array) -> jax.Array:
  """Global response normalisation (ConvNeXt V2, section 3.2): channels compete by their norms over the map."""
  squares = jnp.square(x.astype(jnp.float32)).sum((1, 2), keepdims=True)
  # The gradient of a root at zero, where a channel is silent, is no number.
  silent = squares == 0
  norms = jnp.where(silent, 0, jnp.sqrt(jnp.where(silent, 1, squares)))
  share = (norms / (norms.mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)
  scale, bias = (scope.param(leaf, x.shape[-1]).astype(x.dtype) for leaf in ('scale', 'bias'))
  return x + (bias + scale * (x * share))
