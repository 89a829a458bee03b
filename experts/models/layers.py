"""The layers of a BiT ResNet as pure functions, in forms that every XLA backend runs fast."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def group_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float = 1e-5
) -> jax.Array:
  """Normalises over height, width and the channels of a group.

  Args:
    x: [B, H, W, C] activations.
    scale: [C] multiplier.
    bias: [C] offset.
    groups: number of groups, a divisor of C.
    epsilon: added to the variance.

  Returns:
    [B, H, W, C] in the dtype of `x`; statistics are float32.
  """
  wide = x.astype(jnp.float32)
  # Moments of each channel first: reducing over H and W keeps the channels in the vector lanes,
  # where reducing over (H, W, C/groups) would transpose.
  mean = jnp.mean(wide, axis=(1, 2))
  grouped = mean.reshape(*mean.shape[:-1], groups, -1)
  group_mean = jnp.mean(grouped, axis=-1, keepdims=True)
  if x.dtype == jnp.bfloat16:
    # Both moments in one pass, which XLA joins to the convolution that makes x: on a TPU memory
    # traffic is what takes the time. E[x²] − E[x]² cancels where the mean is large, but in
    # float32 by less than the rounding of x to bfloat16 has already added to its variance.
    square = jnp.mean(jnp.square(wide), axis=(1, 2)).reshape(grouped.shape)
    variance = jnp.mean(square, axis=-1, keepdims=True) - jnp.square(group_mean)
    variance = jnp.maximum(variance, 0)
  else:
    # A second pass. At the mean the variance's derivative by the mean is zero, so the gradient
    # (not a second one) need not go that way.
    centre = jax.lax.stop_gradient(mean)[:, None, None]
    within = jnp.mean(jnp.square(wide - centre), axis=(1, 2)).reshape(grouped.shape)
    within = within + jnp.square(grouped - group_mean)
    variance = jnp.mean(within, axis=-1, keepdims=True)
  inverse = jax.lax.rsqrt(variance + epsilon)
  factor = jnp.broadcast_to(inverse, grouped.shape).reshape(mean.shape) * scale
  offset = bias - jnp.broadcast_to(group_mean, grouped.shape).reshape(mean.shape) * factor
  return (wide * factor[:, None, None] + offset[:, None, None]).astype(x.dtype)


def standardize(kernel: jax.Array) -> jax.Array:
  """Returns an [H, W, I, O] kernel with zero mean and unit variance over (H, W, I)."""
  # Both moments in one pass, around a value of the kernel itself, so that they do not cancel where
  # the mean is large. The result does not depend on that value, hence neither does the gradient.
  centred = kernel - jax.lax.stop_gradient(kernel[:1, :1, :1])
  mean = jnp.mean(centred, axis=(0, 1, 2), keepdims=True)
  square = jnp.mean(jnp.square(centred), axis=(0, 1, 2), keepdims=True)
  variance = jnp.maximum(square - jnp.square(mean), 0)
  return (centred - mean) * jax.lax.rsqrt(variance + 1e-10)


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """Convolves without bias, zero-padded by half the kernel on each side.

  Args:
    x: [B, H, W, I] activations.
    kernel: [K, K, I, O], K odd; cast to the dtype of `x`.
    stride: step in both directions.

  Returns:
    [B, ceil(H/stride), ceil(W/stride), O] in the dtype of `x`.
  """
  size = kernel.shape[0]
  # float32 is the dtype of CPUs, where XLA's kernel gradient of a 1×1 convolution is several times
  # slower than that of the product it is, and a map smaller than the kernel (the last block of a
  # small net) falls to a naive loop, tens of times slower. On a TPU the convolution is faster.
  smallest = -(-min(x.shape[1:3]) // stride)
  if x.dtype == jnp.float32 and (size == 1 or smallest < size):
    return product(x, kernel, stride)
  pad = size // 2
  return jax.lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (stride, stride),
    [(pad, pad), (pad, pad)],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def product(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """`conv` as one matrix product: under `vmap` over kernels a batch of products.

  A convolution would become a grouped one, which is slow everywhere.
  """
  kernel = kernel.astype(x.dtype)
  size, _, inputs, outputs = kernel.shape
  if size == 1 and x.dtype != jnp.float32:
    # The reshapes below, free on a CPU, are copies between layouts on a TPU, a third of an adapter
    # step; on a CPU this form's kernel gradient takes 1.4 times as long as theirs.
    return x[:, ::stride, ::stride] @ kernel[0, 0]
  pad = size // 2
  height, width = (-(-length // stride) for length in x.shape[1:3])
  padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  shifted = [
    padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
    for i in range(size)
    for j in range(size)
  ]
  patches = jnp.concatenate(shifted, axis=-1).reshape(-1, size * size * inputs)
  return (patches @ kernel.reshape(-1, outputs)).reshape(-1, height, width, outputs)


def max_pool(x: jax.Array) -> jax.Array:
  """3×3 maximum with stride 2, zero-padded by 1, as in BiT.

  Zeros and not -inf: BiT's root has no ReLU, so a zero can be the largest. Only windows over the
  border see one, which saves a padded copy of the largest map of the net.
  """
  pooled = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])

  def over_border(length, windows):
    first = 2 * jnp.arange(windows) - 1
    return (first < 0) | (first + 2 >= length)

  rows, columns = map(over_border, x.shape[1:3], pooled.shape[1:3])
  border = (rows[:, None] | columns)[..., None]
  return jnp.where(border, jnp.maximum(pooled, 0), pooled)
