"""EfficientNet and what timm builds like it: v2, Lite, MobileNet v1 to v4, MnasNet, MixNet, FBNet, LCNet, TinyNet."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experts.models.timm import efficientnet_blocks as blocks
from experts.models.timm import layers
from experts.models.timm.efficientnet_architectures import EFFICIENTNETS
from experts.models.timm.mobilenetv3_architectures import MOBILENETS
from experts.models.timm.scope import Scope

ARCHITECTURES: dict[str, dict[str, Any]] = {**EFFICIENTNETS, **MOBILENETS}

# Of training, or of the classifier.
_IGNORED = ('num_classes', 'drop_rate', 'drop_path_rate', 'bn_momentum')
# What only one value of is supported.
_FIXED = {'in_chans': 3, 'global_pool': 'avg', 'output_stride': 32}


@dataclasses.dataclass(frozen=True)
class Arguments:
  """timm's arguments of a network, under their names where it has the same.

  Attributes:
    arch_def: blocks of each stage, in timm's notation.
    channel_multiplier: of the channels, which are rounded then.
    depth_multiplier: of the numbers of blocks in a stage; several are one a stage.
    depth_trunc: how these are rounded, 'ceil' or 'round'.
    channel_divisor: of the channels.
    round_limit: the least part of the multiplied channels that rounding may leave.
    group_size: channels in a group of what else is depthwise; None where each block says it.
    stem_size: channels of the stem.
    stem_kernel_size: pixels of its kernel.
    fix_stem: whether no multiplier changes it.
    fix_stem_head: whether none changes the stem, the depth of the first and last stage, and `num_features`.
    num_features: channels of the convolution after the last stage; 0 for none.
    scale_features: '' where these are fixed, 'round' where they are multiplied, 'grow' where only a multiplier above 1
      counts.
    efficient_head: whether that convolution comes after the pooling.
    head_bias: whether it has a bias then.
    head_norm: whether it has a normalisation then, and no bias.
    se_divisor: see `efficientnet_blocks.Style`, as for all others.
    layer_scale_init_value: None where no block has a layer scale.
  """

  arch_def: tuple[str, ...]
  channel_multiplier: float = 1.0
  depth_multiplier: float | tuple[float, ...] = 1.0
  depth_trunc: str = 'ceil'
  channel_divisor: int = 8
  round_limit: float = 0.9
  group_size: int | None = None
  stem_size: int = 32
  stem_kernel_size: int = 3
  fix_stem: bool = False
  fix_stem_head: bool = False
  num_features: int = 1280
  scale_features: str = ''
  efficient_head: bool = False
  head_bias: bool = True
  head_norm: bool = False
  pad_type: str = ''
  bn_eps: float = 1e-5
  act_layer: str = 'relu'
  aa_layer: str = ''
  se_from_exp: bool = False
  se_gate: str = 'sigmoid'
  se_act: str = ''
  se_divisor: int = 1
  layer_scale_init_value: float | None = None


_CHOICES = {
  'pad_type': ('', 'same'),
  'aa_layer': ('', 'avg'),
  'act_layer': tuple(layers.ACTIVATIONS),
}
# What timm has no argument for.
_INTERNAL = ('arch_def', 'scale_features', 'efficient_head', 'se_gate', 'se_act', 'se_divisor')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a network is.

  Attributes:
    stages: its blocks; their channels are those that they give.
    stem_size: channels of the stem.
    stem_kernel_size: pixels of its kernel.
    num_features: channels of the convolution after the last stage; 0 for none.
    efficient_head: whether that comes after the pooling.
    head_bias: whether it has a bias then.
    head_norm: whether it has a normalisation then.
    style: of all blocks.
  """

  stages: tuple[tuple[blocks.Block, ...], ...]
  stem_size: int
  stem_kernel_size: int
  num_features: int
  efficient_head: bool
  head_bias: bool
  head_norm: bool
  style: blocks.Style


def head(settings: Settings) -> str:
  """timm's name of the classifier."""
  del settings
  return 'classifier'


def settings(architecture: str, arguments: Mapping[str, Any]) -> Settings:
  """What the network of that name is.

  Args:
    architecture: a name in `ARCHITECTURES`.
    arguments: timm's `model_args`, which come before those of the name.

  Raises:
    ValueError: an argument is unknown, or a value of it is not supported.
  """
  taken = Arguments(**{**ARCHITECTURES[architecture], **_checked(arguments)})
  fixed = taken.fix_stem_head
  rounded = lambda channels: blocks.divisible(
    channels * taken.channel_multiplier, taken.channel_divisor, taken.round_limit
  )
  features = taken.num_features
  if features and taken.scale_features and not fixed:
    least = features if taken.scale_features == 'grow' else 0
    features = max(least, rounded(features))
  stem = taken.stem_size
  return Settings(
    stages=_stages(taken, rounded),
    stem_size=stem if fixed or taken.fix_stem else rounded(stem),
    stem_kernel_size=taken.stem_kernel_size,
    num_features=features,
    efficient_head=taken.efficient_head,
    head_bias=taken.head_bias,
    head_norm=taken.head_norm,
    style=_style(taken),
  )


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
  """timm's arguments as fields of `Arguments`."""
  hints = typing.get_type_hints(Arguments)
  fields = {}
  for name, value in arguments.items():
    if name in _IGNORED:
      continue
    if name in _FIXED:
      if value != _FIXED[name]:
        raise ValueError(f'{name}: {value!r} is not supported, only {_FIXED[name]!r}')
      continue
    if name not in hints or name in _INTERNAL:
      raise ValueError(f'{name}: unknown to EfficientNet and its kin')
    value = tuple(value) if isinstance(value, list) else value
    # JSON has one kind of number, and none for what timm leaves empty.
    value = '' if value is None and name in _CHOICES else value
    if not _fits(value, hints[name]) or value not in _CHOICES.get(name, (value,)):
      raise ValueError(f'{name}: {value!r} is not supported')
    fields[name] = value
  return fields


def _fits(value: Any, hint: Any) -> bool:
  if isinstance(hint, types.UnionType):
    return any(_fits(value, option) for option in typing.get_args(hint))
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if typing.get_origin(hint) is tuple:
    return isinstance(value, tuple) and all(_fits(part, typing.get_args(hint)[0]) for part in value)
  return type(value) is hint


def _stages(taken: Arguments, rounded) -> tuple[tuple[blocks.Block, ...], ...]:
  last = len(taken.arch_def) - 1
  depths = taken.depth_multiplier
  depths = depths if isinstance(depths, tuple) else (depths,) * (last + 1)
  if len(depths) != last + 1:
    raise ValueError(f'depth_multiplier: {depths!r} is not of {last + 1} stages')
  stages = []
  for i, (text, depth) in enumerate(zip(taken.arch_def, depths)):
    described = [blocks.decode(block, taken.group_size) for block in text.split()]
    depth = 1.0 if taken.fix_stem_head and i in (0, last) else depth
    stages.append(
      tuple(
        dataclasses.replace(
          block,
          channels=rounded(block.channels),
          force_in=rounded(block.force_in) if block.force_in else 0,
        )
        for block in blocks.repeat(described, depth, taken.depth_trunc)
      )
    )
  return tuple(stages)


def _style(taken: Arguments) -> blocks.Style:
  shared = {field.name for field in dataclasses.fields(blocks.Style)}
  values = {name: value for name, value in vars(taken).items() if name in shared}
  return blocks.Style(**values, layer_scale=taken.layer_scale_init_value is not None)


def embed(settings: Settings, scope: Scope, images: jax.Array) -> jax.Array:
  """What timm's network gives its classifier.

  Args:
    settings: of the network.
    scope: its parameters.
    images: float [B, S, S, 3], normalised.

  Returns:
    Embeddings [B, D], float32.
  """
  style = settings.style
  stem = blocks.Conv(settings.stem_size, settings.stem_kernel_size, 2)
  x = blocks.unit(style, scope, 'conv_stem bn1', images, stem, style.act_layer)
  for i, stage in enumerate(settings.stages):
    for j, block in enumerate(stage):
      x = blocks.apply(style, scope / 'blocks' / i / j, x, block)
  if settings.efficient_head:
    return _efficient_head(settings, scope, layers.mean_pool(x).astype(x.dtype))
  if settings.num_features:
    last = blocks.Conv(settings.num_features)
    x = blocks.unit(style, scope, 'conv_head bn2', x, last, style.act_layer)
  return layers.mean_pool(x)


def _efficient_head(settings: Settings, scope: Scope, pooled: jax.Array) -> jax.Array:
  """The last convolution of pooled maps, [B, C] -> [B, D]."""
  bias = settings.head_bias and not settings.head_norm
  pooled = pooled[:, None, None]
  x = layers.conv(scope / 'conv_head', pooled, settings.num_features, bias=bias)
  if settings.head_norm:
    x = layers.batch_norm(scope / 'norm_head', x, settings.style.bn_eps)
  return layers.ACTIVATIONS[settings.style.act_layer](x)[:, 0, 0].astype(jnp.float32)


def fault(settings: Settings, side: int) -> str:
  """Why images of this side, in pixels, cannot be taken; empty if they can."""
  # Averages leave out what juts out of them, convolutions do not.
  if settings.style.aa_layer and side % 32:
    return f'{side} pixels are not a multiple of 32'
  return ''
