"""What timm's networks of tokens share: tokens [B, N, D] of patches and where they are, attention, perceptrons, pooling."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experts.models.timm.layers import ACTIVATIONS, layer_norm, linear
from experts.models.timm.scope import Scope

# 'layernorm' or 'rmsnorm', and what is added to the variance.
Norm = tuple[str, float]
_EPSILON = 1e-6


def norm_kind(value: Any) -> Norm:
  """What timm's argument `norm_layer` stands for: a name, or a name and its epsilon; None is a layer norm.

  Raises:
    ValueError: no such norm.
  """
  name, epsilon = (value, _EPSILON) if value is None or isinstance(value, str) else value
  name = (name or 'layernorm').replace('_', '').lower()
  if name not in ('layernorm', 'rmsnorm'):
    raise ValueError(f'norm_layer: {name} is not supported')
  return name, epsilon


def side_of(name: str, value: Any) -> int:
  """The side of a square that timm's argument gives as a number or a pair.

  Raises:
    ValueError: not a square.
  """
  sides = {value} if isinstance(value, int) else set(value)
  if len(sides) != 1:
    raise ValueError(f'{name}: {tuple(value)} is not a square')
  return sides.pop()


def known_arguments(
  arguments: Mapping[str, Any], known: set[str], fixed: Mapping[str, Any]
) -> dict[str, Any]:
  """What of timm's arguments says what a network is.

  Args:
    arguments: by timm's names.
    known: names of settings.
    fixed: the one value of each other argument that is supported, in its place.

  Raises:
    ValueError: an argument that is unknown, or a value that is not supported.
  """
  found = {}
  for name, value in arguments.items():
    if name in known:
      found[name] = value
    elif name in fixed and value != fixed[name]:
      raise ValueError(f'{name}: {value} is not supported')
    elif name not in fixed and name not in _WITHOUT_EFFECT:
      raise ValueError(f'{name} is no argument of this network')
  return found


# On an embedding: the classifier's, what is on in training only, or in initialisation; resampling is always dynamic here.
_WITHOUT_EFFECT = {
  'num_classes',
  'drop_rate',
  'pos_drop_rate',
  'patch_drop_rate',
  'proj_drop_rate',
  'attn_drop_rate',
  'drop_path_rate',
  'weight_init',
  'fix_init',
  'head_init_scale',
  'dynamic_img_size',
}


def fault(img_size: int, patch_size: int, side: int) -> str:
  """Why images of this side (pixels) cannot be taken; empty if they can.

  At its own size a network leaves out what is less than a patch, as it did in training.
  """
  if side == img_size or (side > 0 and side % patch_size == 0):
    return ''
  return f'{side} pixels are not a multiple of the patch of {patch_size}'


def patches(scope: Scope, images: jax.Array, size: int, features: int, bias: bool) -> jax.Array:
  """Projects patches: images [B, S, S, I] -> [B, G, G, D]."""
  grid, channels = images.shape[1] // size, images.shape[-1]
  kernel = scope.param('kernel', size, size, channels, features).astype(images.dtype)
  # One product, which every backend runs fast, with its gradient, where a convolution of that stride may not.
  x = images[:, : grid * size, : grid * size].reshape(-1, grid, size, grid, size, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, size * size * channels)
  out = x @ kernel.reshape(-1, features)
  out = out + scope.param('bias', features).astype(out.dtype) if bias else out
  return out.reshape(-1, grid, grid, features)


def resample_grid(grid: jax.Array, side: int) -> jax.Array:
  """Embeddings of positions [G, G, D] for another grid [side, side, D]: bicubic, antialiased, float32."""
  if grid.shape[:2] == (side, side):
    return grid
  shape = side, side, grid.shape[-1]
  return jax.image.resize(grid.astype(jnp.float32), shape, 'bicubic', antialias=True)


def resample_positions(positions: jax.Array, prefix: int, side: int) -> jax.Array:
  """Embeddings of positions [1, prefix + G * G, D] for another grid [1, prefix + side * side, D].

  Args:
    positions: those of tokens that stand before the patches' first.
    prefix: number of these, which stay as they are.
    side: of the grid, in patches.
  """
  features = positions.shape[-1]
  old = round((positions.shape[1] - prefix) ** 0.5)
  if old == side:
    return positions
  grid = resample_grid(positions[0, prefix:].reshape(old, old, features), side)
  return jnp.concatenate([positions[:, :prefix], grid.reshape(1, -1, features)], 1)


def place(
  scope: Scope, x: jax.Array, prefix: Mapping[str, int], own: int | None, patches_only: bool
) -> jax.Array:
  """Puts learnt tokens before those of patches and adds what says where each is: [B, G, G, D] -> [B, N, D].

  Args:
    scope: holds the tokens, and `pos_embed`.
    x: patches.
    prefix: how many tokens each leaf holds, in their order.
    own: side of the grid that `pos_embed` is of, in patches; None where there is none.
    patches_only: it has nothing for the tokens before the patches.
  """
  batch, side, _, features = x.shape
  before = [scope.param(leaf, 1, n, features).astype(x.dtype) for leaf, n in prefix.items() if n]
  before = [jnp.broadcast_to(token, (batch, *token.shape[1:])) for token in before]
  x = x.reshape(batch, side * side, features)
  if own is None:
    return jnp.concatenate([*before, x], 1)
  number = 0 if patches_only else sum(prefix.values())
  positions = scope.param('pos_embed', 1, number + own * own, features)
  positions = resample_positions(positions, number, side).astype(x.dtype)
  if patches_only:
    return jnp.concatenate([*before, x + positions], 1)
  return jnp.concatenate([*before, x], 1) + positions


def norm(scope: Scope, x: jax.Array, kind: Norm) -> jax.Array:
  """Normalises over the last axis."""
  name, epsilon = kind
  if name == 'layernorm':
    return layer_norm(scope, x, epsilon)
  wide = x.astype(jnp.float32)
  square = jnp.square(wide).mean(-1, keepdims=True)
  out = wide * jax.lax.rsqrt(square + epsilon) * scope.param('scale', x.shape[-1])
  return out.astype(x.dtype)


def layer_scale(scope: Scope, x: jax.Array, leaf: str = 'gamma') -> jax.Array:
  """A factor for each channel."""
  return x * scope.param(leaf, x.shape[-1]).astype(x.dtype)


def flat(x: jax.Array) -> jax.Array:
  """The tokens of a batch one below the other: [B, N, D] -> [B * N, D].

  In this form XLA multiplies and adds them on a CPU as they lie. With one more axis it copies them for each layer's
  kernel gradient, and computes anew for each copy the sum of all layers' gradients above: twice the time of a step.
  """
  return x.reshape(-1, x.shape[-1])


def split_heads(x: jax.Array, batch: int, number: int) -> jax.Array:
  """[B * N, heads * D] -> [B, heads, N, D]."""
  return x.reshape(batch, -1, number, x.shape[-1] // number).swapaxes(1, 2)


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Each query's mean of values by its likeness to keys: [B, heads, N or M, D] -> [B * N, heads * D]."""
  scores = (query * query.shape[-1] ** -0.5) @ key.swapaxes(-1, -2)
  weights = jax.nn.softmax(scores.astype(jnp.float32), -1).astype(value.dtype)
  out = (weights @ value).swapaxes(1, 2)
  return out.reshape(-1, out.shape[2] * out.shape[3])


def _second(
  scope: Scope, y: jax.Array, features: int, scale_norm: Norm | None, bias: bool
) -> jax.Array:
  """What all perceptrons end with."""
  y = norm(scope / 'norm', y, scale_norm) if scale_norm else y
  return linear(scope / 'fc2', y, features, bias)


def mlp(
  scope: Scope,
  x: jax.Array,
  hidden: int,
  activation: str,
  scale_norm: Norm | None = None,
  bias: bool = True,
) -> jax.Array:
  """A perceptron of one hidden layer, normalised where `scale_norm` says how."""
  y = ACTIVATIONS[activation](linear(scope / 'fc1', x, hidden, bias))
  return _second(scope, y, x.shape[-1], scale_norm, bias)


def gated_mlp(
  scope: Scope,
  x: jax.Array,
  hidden: int,
  activation: str,
  scale_norm: Norm | None = None,
  bias: bool = True,
) -> jax.Array:
  """`mlp` with a hidden layer (timm's SwiGLU) that a second one opens and closes."""
  gate = ACTIVATIONS[activation](linear(scope / 'fc1_g', x, hidden, bias))
  y = gate * linear(scope / 'fc1_x', x, hidden, bias)
  return _second(scope, y, x.shape[-1], scale_norm, bias)


def packed_gated_mlp(
  scope: Scope,
  x: jax.Array,
  hidden: int,
  activation: str,
  scale_norm: Norm | None = None,
  bias: bool = True,
) -> jax.Array:
  """`gated_mlp` with both layers' `hidden` outputs from one product (timm's GluMlp), the gate's first."""
  gate, y = jnp.split(linear(scope / 'fc1', x, hidden, bias), 2, -1)
  y = ACTIVATIONS[activation](gate) * y
  return _second(scope, y, x.shape[-1], scale_norm, bias)


MLPS = {'Mlp': mlp, 'SwiGLU': gated_mlp, 'SwiGLUPacked': packed_gated_mlp}


def attention_pool(
  scope: Scope, x: jax.Array, heads: int, hidden: int, activation: str, kind: Norm
) -> jax.Array:
  """Attention of one learnt query: [B, N, D] -> [B, D]."""
  batch, _, features = x.shape
  latent = scope.param('latent', 1, 1, features).astype(x.dtype)
  query = split_heads(linear(scope / 'q', flat(latent), features), 1, heads)
  kv = jnp.split(linear(scope / 'kv', flat(x), 2 * features), 2, -1)
  y = attend(query, *(split_heads(y, batch, heads) for y in kv))
  y = linear(scope / 'proj', y, features)
  return y + mlp(scope / 'mlp', norm(scope / 'norm', y, kind), hidden, activation)
