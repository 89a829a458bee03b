"""The blocks of EfficientNet and its kin: what timm's notation says of them, and what they compute."""

import dataclasses
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experts.models.timm import layers
from experts.models.timm.scope import Scope

Size = int | tuple[int, ...]

_ACTIVATIONS = {'re': 'relu', 'r6': 'relu6', 'hs': 'hard_swish', 'sw': 'swish'}


@dataclasses.dataclass(frozen=True)
class Block:
  """One block as its stage describes it.

  Attributes:
    kind: 'ds' depthwise-separable (timm's 'dsa' too), 'ir' inverted residual, 'er' with a dense expansion, 'cn' a
      convolution, 'uir' the universal one of MobileNet v4, 'mqa' attention with one head of keys and values.
    channels: that it gives.
    stride: of its depthwise (or only) convolution.
    size: of that convolution's kernel; several share the channels among them, 0 is none.
    start: the same of the pointwise convolution before, in 'uir' of a depthwise one.
    end: the same of what comes after.
    expansion: of the channels within.
    se_ratio: of the channels that squeeze and excitation leaves; 0 without.
    group_size: channels in a group of the convolution; 1 depthwise, 0 dense.
    act: its activation; empty for the network's.
    skip: whether it may add its input.
    end_act: whether it ends in the activation.
    force_in: channels to expand instead of those that come; 0 for these.
    heads: of attention.
    dim: of a head.
    kv_stride: of keys and values.
  """

  kind: str
  channels: int
  stride: int
  size: Size
  start: Size = 1
  end: Size = 1
  expansion: float = 1.0
  se_ratio: float = 0.0
  group_size: int = 1
  act: str = ''
  skip: bool = True
  end_act: bool = False
  force_in: int = 0
  heads: int = 0
  dim: int = 0
  kv_stride: int = 1


def decode(text: str, group_size: int | None) -> tuple[Block, int]:
  """A block and how often it repeats.

  Args:
    text: timm's notation, such as ir_r2_k3_s2_e6_c24_se0.25_nsw_noskip: the kind, then repeats, kernel, stride,
      expansion, channels, squeeze ratio and activation in any order.
    group_size: where the text has none; None for the kind's.
  """
  kind, *options = text.split('_')
  flags = {
    option for option in options if option in ('skip', 'noskip') or option[1:] in _ACTIVATIONS
  }
  values = dict(
    re.fullmatch('([a-z]+)([0-9.]+)', option).groups() for option in options if option not in flags
  )
  number = lambda key, default: int(values.get(key, default))
  pointwise = 0 if kind == 'uir' else 1
  usual = 0 if kind in ('er', 'cn') else 1
  block = Block(
    kind='ds' if kind == 'dsa' else kind,
    channels=number('c', 0),
    stride=number('s', 1),
    size=_size(values['k']),
    start=_size(values.get('a', f'{pointwise}')),
    end=_size(values.get('p', f'{pointwise}')),
    expansion=float(values.get('e', 1)) if kind not in ('ds', 'dsa', 'cn') else 1.0,
    se_ratio=float(values.get('se', 0)),
    group_size=number('gs', usual if group_size is None else group_size),
    act=next((_ACTIVATIONS[flag[1:]] for flag in flags if flag[1:] in _ACTIVATIONS), ''),
    skip='skip' in flags if kind == 'cn' else kind != 'dsa' and 'noskip' not in flags,
    end_act=kind == 'dsa',
    force_in=number('fc', 0),
    heads=number('h', 0),
    dim=number('d', 0),
    kv_stride=number('v', 1),
  )
  return block, number('r', 1)


def _size(text: str) -> Size:
  return tuple(int(size) for size in text.split('.')) if '.' in text else int(text)


def repeat(blocks: list[tuple[Block, int]], depth: float, trunc: str) -> list[Block]:
  """The blocks of a stage, one by one: only the first has a stride.

  Args:
    blocks: each with how often it repeats.
    depth: the multiplier of their number.
    trunc: how that is rounded, 'ceil' or 'round'.
  """
  left = sum(times for _, times in blocks)
  scaled = max(1, round(left * depth)) if trunc == 'round' else math.ceil(left * depth)
  stage: list[Block] = []
  # From the last, so that the first, which differs where blocks do, is repeated least.
  for block, times in reversed(blocks):
    share = max(1, round(times / left * scaled))
    stage = [block] * share + stage
    left, scaled = left - times, scaled - share
  return stage[:1] + [dataclasses.replace(block, stride=1) for block in stage[1:]]


def divisible(channels: float, divisor: int = 8, round_limit: float = 0.9) -> int:
  """The nearest multiple of the divisor, the next one where that were less than `round_limit` of the channels."""
  near = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return near + divisor if near < round_limit * channels else near


class Conv(NamedTuple):
  """A convolution: channels that it gives, its kernel, its stride, and channels in a group (0: dense)."""

  channels: int
  size: Size = 1
  stride: int = 1
  group_size: int = 0


@dataclasses.dataclass(frozen=True)
class Style:
  """What the blocks of a network have in common, under timm's names of arguments.

  Attributes:
    pad_type: 'same' as TensorFlow pads; empty for timm's default.
    bn_eps: of the normalisations.
    act_layer: the activation.
    aa_layer: 'avg' where maps are averaged to shrink them, after a convolution without stride; empty for none.
    se_from_exp: whether a block's squeeze ratio is of its inner channels, not of those that come.
    se_gate: the activation at the end of squeeze and excitation.
    se_act: the activation within; empty for the block's.
    se_divisor: of the squeezed channels; 1 rounds them to the nearest number.
    round_limit: see `divisible`.
    layer_scale: whether 'uir' and 'mqa' end in a factor per channel.
  """

  pad_type: str
  bn_eps: float
  act_layer: str
  aa_layer: str
  se_from_exp: bool
  se_gate: str
  se_act: str
  se_divisor: int
  round_limit: float
  layer_scale: bool


def unit(
  style: Style, scope: Scope, names: str, x: jax.Array, conv: Conv, act: str = ''
) -> jax.Array:
  """A convolution, its normalisation and activation: [B, H, W, I] -> [B, H', W', O].

  Args:
    style: of the network.
    scope: of both modules.
    names: of the convolution and of the normalisation.
    x: activations.
    conv: the convolution.
    act: the activation; empty for none.
  """
  name, norm = names.split()
  x = layers.batch_norm(scope / norm, _conv(style, scope / name, x, conv), style.bn_eps)
  return layers.ACTIVATIONS[act](x) if act else x


def _strided(style, scope, names, x, conv, act=''):
  """The unit of a block that may shrink the map."""
  if style.aa_layer != 'avg' or conv.stride == 1:
    return unit(style, scope, names, x, conv, act)
  return layers.average_pool(unit(style, scope, names, x, conv._replace(stride=1), act))


def _conv(style: Style, scope: Scope, x: jax.Array, conv: Conv) -> jax.Array:
  padding = style.pad_type or None
  if isinstance(conv.size, int):
    groups = x.shape[-1] // conv.group_size if conv.group_size else 1
    return layers.conv(scope, x, conv.channels, conv.size, conv.stride, padding, groups)
  parts, start = [], 0
  inward, outward = (_shares(total, len(conv.size)) for total in (x.shape[-1], conv.channels))
  for i, (size, taken, given) in enumerate(zip(conv.size, inward, outward)):
    part = x[..., start : start + taken]
    groups = taken if conv.group_size else 1
    parts.append(layers.conv(scope / i, part, given, size, conv.stride, padding, groups))
    start += taken
  return jnp.concatenate(parts, -1)


def _squeeze(style: Style, scope: Scope, x: jax.Array, block: Block, act: str) -> jax.Array:
  """Squeeze and excitation of a block's inner activations; these where it has none."""
  if not block.se_ratio:
    return x
  ratio = block.se_ratio if style.se_from_exp else block.se_ratio / block.expansion
  width = x.shape[-1] * ratio
  if style.se_divisor > 1:
    width = divisible(width, style.se_divisor, style.round_limit)
  mean = layers.mean_pool(x).astype(x.dtype)[:, None, None]
  mean = layers.conv(scope / 'conv_reduce', mean, round(width), bias=True)
  mean = layers.ACTIVATIONS[style.se_act or act](mean)
  mean = layers.conv(scope / 'conv_expand', mean, x.shape[-1], bias=True)
  return x * layers.ACTIVATIONS[style.se_gate](mean)


def apply(style: Style, scope: Scope, x: jax.Array, block: Block) -> jax.Array:
  """A block, [B, H, W, I] -> [B, H / stride, W / stride, O]; its `channels` and `force_in` are rounded already."""
  out = _KINDS[block.kind](style, scope, x, block, block.act or style.act_layer)
  return out + x if block.skip and block.stride == 1 and out.shape == x.shape else out


def _shares(total: int, parts: int) -> list[int]:
  return [total // parts + (total % parts if part == 0 else 0) for part in range(parts)]


def _depthwise_separable(
  style: Style, scope: Scope, x: jax.Array, block: Block, act: str
) -> jax.Array:
  conv = Conv(x.shape[-1], block.size, block.stride, block.group_size)
  x = _strided(style, scope, 'conv_dw bn1', x, conv, act)
  x = _squeeze(style, scope / 'se', x, block, act)
  end = Conv(block.channels, block.end)
  return unit(style, scope, 'conv_pw bn2', x, end, act if block.end_act else '')


def _inverted_residual(
  style: Style, scope: Scope, x: jax.Array, block: Block, act: str
) -> jax.Array:
  width = divisible(x.shape[-1] * block.expansion)
  x = unit(style, scope, 'conv_pw bn1', x, Conv(width, block.start), act)
  conv = Conv(width, block.size, block.stride, block.group_size)
  x = _strided(style, scope, 'conv_dw bn2', x, conv, act)
  x = _squeeze(style, scope / 'se', x, block, act)
  return unit(style, scope, 'conv_pwl bn3', x, Conv(block.channels, block.end))


def _edge_residual(style: Style, scope: Scope, x: jax.Array, block: Block, act: str) -> jax.Array:
  width = divisible((block.force_in or x.shape[-1]) * block.expansion)
  # timm counts the groups by the channels that come out.
  groups = width // block.group_size if block.group_size else 1
  conv = Conv(width, block.size, block.stride, x.shape[-1] // groups if groups > 1 else 0)
  x = _strided(style, scope, 'conv_exp bn1', x, conv, act)
  x = _squeeze(style, scope / 'se', x, block, act)
  return unit(style, scope, 'conv_pwl bn2', x, Conv(block.channels, block.end))


def _convolution(style: Style, scope: Scope, x: jax.Array, block: Block, act: str) -> jax.Array:
  conv = Conv(block.channels, block.size, block.stride, block.group_size)
  return _strided(style, scope, 'conv bn1', x, conv, act)


def _universal(style: Style, scope: Scope, x: jax.Array, block: Block, act: str) -> jax.Array:
  inner = x.shape[-1]
  if block.start:
    stride = 1 if block.size else block.stride
    conv = Conv(inner, block.start, stride, block.group_size)
    x = _strided(style, scope / 'dw_start', 'conv bn', x, conv)
  width = divisible(inner * block.expansion)
  x = unit(style, scope / 'pw_exp', 'conv bn', x, Conv(width), act)
  if block.size:
    conv = Conv(width, block.size, block.stride, block.group_size)
    x = _strided(style, scope / 'dw_mid', 'conv bn', x, conv, act)
  x = _squeeze(style, scope / 'se', x, block, act)
  x = unit(style, scope / 'pw_proj', 'conv bn', x, Conv(block.channels))
  return _layer_scale(style, scope, x)


def _attention(style: Style, scope: Scope, x: jax.Array, block: Block, act: str) -> jax.Array:
  """Attention over the map whose heads share keys and values, which may come from a smaller map."""
  x = layers.batch_norm(scope / 'norm', x, style.bn_eps)
  inner, attn = x.shape[-1], scope / 'attn'

  def shared(name):
    y = x
    if block.kv_stride > 1:
      conv = Conv(inner, block.size, block.kv_stride, 1)
      y = unit(style, attn / name, 'down_conv norm', y, conv)
    return layers.conv(attn / name / 'proj', y, block.dim).reshape(x.shape[0], -1, block.dim)

  query = layers.conv(attn / 'query' / 'proj', x, block.heads * block.dim)
  query = query.reshape(x.shape[0], -1, block.heads, block.dim)
  scores = jnp.einsum('bnhd,bmd->bhnm', query, shared('key')).astype(jnp.float32)
  weights = jax.nn.softmax(scores * block.dim**-0.5).astype(x.dtype)
  out = jnp.einsum('bhnm,bmd->bnhd', weights, shared('value')).reshape(*x.shape[:3], -1)
  return _layer_scale(style, scope, layers.conv(attn / 'output' / 'proj', out, block.channels))


def _layer_scale(style: Style, scope: Scope, x: jax.Array) -> jax.Array:
  if not style.layer_scale:
    return x
  return x * (scope / 'layer_scale').param('gamma', x.shape[-1]).astype(x.dtype)


_KINDS = {
  'ds': _depthwise_separable,
  'ir': _inverted_residual,
  'er': _edge_residual,
  'cn': _convolution,
  'uir': _universal,
  'mqa': _attention,
}
