"""timm's layers as pure functions, channels last; each finds its parameters in a `Scope`."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experts.models.timm.scope import Scope

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': jax.nn.relu,
  'relu6': jax.nn.relu6,
  'silu': jax.nn.silu,
  'swish': jax.nn.silu,
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
  'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
  'hard_swish': lambda x: x * jax.nn.relu6(x + 3) / 6,
  'hard_sigmoid': lambda x: jax.nn.relu6(x + 3) / 6,
  'sigmoid': jax.nn.sigmoid,
  'tanh': jnp.tanh,
  'identity': lambda x: x,
}


def linear(scope: Scope, x: jax.Array, features: int, bias: bool = True) -> jax.Array:
  """A dense layer on the last axis: [..., I] -> [..., O]."""
  out = x @ scope.param('kernel', x.shape[-1], features).astype(x.dtype)
  return out + scope.param('bias', features).astype(x.dtype) if bias else out


def conv(
  scope: Scope,
  x: jax.Array,
  features: int,
  size: int | tuple[int, int] = 1,
  stride: int = 1,
  padding: str | int | None = None,
  groups: int = 1,
  bias: bool = False,
) -> jax.Array:
  """A convolution [B, H, W, I] -> [B, H', W', O].

  Args:
    scope: holds `kernel` [K, K, I / groups, O], and `bias`.
    x: activations.
    features: O.
    size: K; a pair is height and width.
    stride: in both directions.
    padding: zeros on each side; None for timm's default, (stride - 1 + K - 1) // 2; 'same' as TensorFlow pads.
    groups: of channels; I where it is depthwise.
    bias: whether there is one.
  """
  size = (size, size) if isinstance(size, int) else size
  kernel = scope.param('kernel', *size, x.shape[-1] // groups, features).astype(x.dtype)
  pads = _pads(x.shape[1:3], size, stride, padding)
  if groups > 1 and groups == x.shape[-1] == features and x.dtype == jnp.float32:
    out = _depthwise(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, stride)
  elif size == (1, 1) and groups == 1 and x.dtype == jnp.float32 and pads == [(0, 0)] * 2:
    # On a CPU, whose dtype float32 is, XLA's kernel gradient of a 1x1 convolution is several times slower.
    out = x[:, ::stride, ::stride] @ kernel[0, 0]
  else:
    out = jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      pads,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )
  return out + scope.param('bias', features).astype(x.dtype) if bias else out


def _pads(sides, size, stride, padding) -> list[tuple[int, int]]:
  if padding == 'same':
    needed = [max((-(-side // stride) - 1) * stride + k - side, 0) for side, k in zip(sides, size)]
    return [(n // 2, n - n // 2) for n in needed]
  if padding is None:
    return [((stride - 1 + k - 1) // 2,) * 2 for k in size]
  return [(padding, padding)] * 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x, kernel, stride):
  """A sum of shifted maps, which a CPU runs as one loop over the channels; its convolution is a naive one there."""
  height, width = kernel.shape[:2]
  rows, columns = ((s - k) // stride + 1 for s, k in zip(x.shape[1:3], (height, width)))
  return sum(
    x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
    * kernel[i, j, 0]
    for i in range(height)
    for j in range(width)
  )


def _depthwise_gradients(stride, operands, gradient):
  """What differentiation makes of the sum is several times slower than another such sum, and compiles for seconds."""
  x, kernel = operands
  (height, width), (rows, columns) = kernel.shape[:2], gradient.shape[1:3]

  def kernel_row(i):
    map_rows = jax.lax.dynamic_slice_in_dim(x, i, stride * (rows - 1) + 1, 1)[:, ::stride]
    shifted = (map_rows[:, :, j : j + stride * (columns - 1) + 1 : stride] for j in range(width))
    return jnp.stack([(part * gradient).sum((0, 1, 2)) for part in shifted])

  # Each place of x meets the turned kernel over the gradient, spread as far as the stride went.
  pads = [
    (k - 1, side - stride * (n - 1) - 1, stride - 1)
    for k, side, n in ((height, x.shape[1], rows), (width, x.shape[2], columns))
  ]
  none = (0, 0, 0)
  spread = jax.lax.pad(gradient, jnp.zeros((), x.dtype), (none, *pads, none))
  kernel_gradient = jax.lax.map(kernel_row, jnp.arange(height))[:, :, None]
  return _depthwise(spread, kernel[::-1, ::-1], 1), kernel_gradient


_depthwise.defvjp(
  lambda x, kernel, stride: (_depthwise(x, kernel, stride), (x, kernel)), _depthwise_gradients
)


def batch_norm(scope: Scope, x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
  """Normalises by the statistics of its upstream data, which stay as they are."""
  channels = x.shape[-1]
  inverse = jax.lax.rsqrt(scope.statistic('var', channels).astype(jnp.float32) + epsilon)
  factor = inverse * scope.param('scale', channels)
  offset = scope.param('bias', channels) - scope.statistic('mean', channels) * factor
  return x * factor.astype(x.dtype) + offset.astype(x.dtype)


def layer_norm(
  scope: Scope, x: jax.Array, epsilon: float = 1e-6, bias: bool = True, scale: bool = True
) -> jax.Array:
  """Normalises over the last axis; moments are float32."""
  wide = x.astype(jnp.float32)
  mean = wide.mean(-1, keepdims=True)
  variance = jnp.square(wide - mean).mean(-1, keepdims=True)
  out = (wide - mean) * jax.lax.rsqrt(variance + epsilon)
  if scale:
    out = out * scope.param('scale', x.shape[-1])
  if bias:
    out = out + scope.param('bias', x.shape[-1])
  return out.astype(x.dtype)


def group_norm(scope: Scope, x: jax.Array, groups: int = 32, epsilon: float = 1e-5) -> jax.Array:
  """Normalises each image's groups of channels over the map; moments are float32."""
  channels = x.shape[-1]
  wide = x.astype(jnp.float32).reshape(*x.shape[:-1], groups, channels // groups)
  mean = wide.mean((1, 2, 4), keepdims=True)
  variance = jnp.square(wide - mean).mean((1, 2, 4), keepdims=True)
  out = ((wide - mean) * jax.lax.rsqrt(variance + epsilon)).reshape(x.shape)
  return (out * scope.param('scale', channels) + scope.param('bias', channels)).astype(x.dtype)


def max_pool(x: jax.Array, size: int = 3, stride: int = 2, padding: str | int = 1) -> jax.Array:
  """The maximum of windows; what lies outside the map is less than anything in it."""
  pads = _pads(x.shape[1:3], (size, size), stride, padding)
  return nn.max_pool(x, (size, size), (stride, stride), pads)


def average_pool(x: jax.Array, size: int = 2, stride: int = 2) -> jax.Array:
  """The mean of windows that lie in the map; at its end those that jut out count what they cover (torch's ceil mode)."""
  pads = [(0, -(-(side - size) // stride) * stride + size - side) for side in x.shape[1:3]]
  window = (1, size, size, 1), (1, stride, stride, 1), [(0, 0), *pads, (0, 0)]
  add = lambda y: jax.lax.reduce_window(y, np.zeros((), y.dtype), jax.lax.add, *window)
  return add(x) / add(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def mean_pool(x: jax.Array) -> jax.Array:
  """The mean over height and width, [B, C] in float32."""
  return x.astype(jnp.float32).mean((1, 2))
