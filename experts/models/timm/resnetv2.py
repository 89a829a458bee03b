"""timm's `ResNetV2` as BiT's networks are there: our ResNet under timm's names, with its terms against division by zero."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experts.models import layers as ours
from experts.models import resnet
from experts.models.timm import layers
from experts.models.timm.scope import Scope

# Depth and width of those that BiT published.
ARCHITECTURES: dict[str, dict[str, Any]] = {
  f'resnetv2_{depth}x{width}_bit': {'layers': resnet.DEPTHS[depth], 'width_factor': width}
  for depth, width in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
}
_IGNORED = ('num_classes', 'drop_rate', 'drop_path_rate', 'zero_init_last')
_FIXED = {'in_chans': 3, 'global_pool': 'avg', 'output_stride': 32, 'stem_type': 'fixed'}
_GROUPS = 32
_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a network is: units of each block, and the factor on all channels."""

  layers: tuple[int, ...]
  width_factor: int


def head(settings: Settings) -> str:
  """timm's name of the classifier, a convolution of 1×1."""
  del settings
  return 'head.fc'


def settings(architecture: str, arguments: Mapping[str, Any]) -> Settings:
  """What the network of that name is.

  Raises:
    ValueError: an argument is unknown, or its value is not supported.
  """
  for name, value in arguments.items():
    if name in _FIXED and value != _FIXED[name]:
      raise ValueError(f'{name}: {value!r} is not supported, only {_FIXED[name]!r}')
    if name not in _FIXED and name not in _IGNORED:
      raise ValueError(f'{name} is no argument of this network')
  return Settings(**ARCHITECTURES[architecture])


def fault(settings: Settings, side: int) -> str:
  """Images of any side can be taken."""
  del settings, side
  return ''


def embed(settings: Settings, scope: Scope, images: jax.Array) -> jax.Array:
  """Normalised images [B, S, S, 3] -> embeddings [B, D] in float32."""
  base = 64 * settings.width_factor
  x = ours.max_pool(_conv(scope / 'stem' / 'conv', images, base, 7, 2))
  for stage, units in enumerate(settings.layers):
    for unit in range(units):
      stride = 2 if stage and not unit else 1
      x = _unit(scope / 'stages' / stage / 'blocks' / unit, x, base * 2**stage, stride, not unit)
  return layers.mean_pool(_norm(scope / 'norm', x))


def from_ours(backbone: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
  """The backbone of a ResNet of ours under timm's names, with kernels standardised already.

  timm adds another number to a kernel's variance than BiT, which is seen where kernels are small, as decay makes them; of a
  kernel of unit variance neither is. It computes the same, but its weights are not those that were trained.
  """
  found = {}
  put = lambda name, conv: found.update(
    {name: {'kernel': np.asarray(ours.standardize(jnp.asarray(conv['kernel'])))}}
  )
  put('stem.conv', backbone['root'])
  found['norm'] = dict(backbone['norm'])
  for block in range(1, 5):
    for name, unit in backbone[f'block{block}'].items():
      to = f'stages.{block - 1}.blocks.{int(name.removeprefix("unit")) - 1}'
      for number, part in enumerate('abc', 1):
        found[f'{to}.norm{number}'] = dict(unit[part]['norm'])
        put(f'{to}.conv{number}', unit[part]['conv'])
      if 'proj' in unit:
        put(f'{to}.downsample.conv', unit['proj'])
  return found


def _unit(scope: Scope, x: jax.Array, width: int, stride: int, project: bool) -> jax.Array:
  first = _norm(scope / 'norm1', x)
  if project:
    x = _conv(scope / 'downsample' / 'conv', first, 4 * width, 1, stride)
  y = _conv(scope / 'conv1', first, width, 1)
  y = _conv(scope / 'conv2', _norm(scope / 'norm2', y), width, 3, stride)
  return x + _conv(scope / 'conv3', _norm(scope / 'norm3', y), 4 * width, 1)


def _norm(scope: Scope, x: jax.Array) -> jax.Array:
  scale, bias = (scope.param(leaf, x.shape[-1]) for leaf in ('scale', 'bias'))
  return jax.nn.relu(ours.group_norm(x, scale, bias, _GROUPS))


def _conv(scope: Scope, x: jax.Array, features: int, size: int, stride: int = 1) -> jax.Array:
  kernel = scope.param('kernel', size, size, x.shape[-1], features).astype(jnp.float32)
  centred = kernel - kernel.mean((0, 1, 2))
  variance = jnp.square(centred).mean((0, 1, 2))
  return ours.conv(x, centred * jax.lax.rsqrt(variance + _EPSILON), stride)
