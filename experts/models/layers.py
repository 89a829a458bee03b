"""The layers of a BiT ResNet as pure functions, in forms that every XLA backend runs fast."""

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
  # where reducing over (H, W, C/groups) would transpose. The variance takes a second pass,
  # because E[x²] − E[x]² cancels where the mean is large. At the mean the variance's derivative
  # by the mean is zero, so the gradient (not a second one) need not go that way.
  mean = jnp.mean(wide, axis=(1, 2))
  centre = jax.lax.stop_gradient(mean)[:, None, None]
  variance = jnp.mean(jnp.square(wide - centre), axis=(1, 2))
  grouped = mean.reshape(*mean.shape[:-1], groups, -1)
  group_mean = jnp.mean(grouped, axis=-1, keepdims=True)
  within = variance.reshape(grouped.shape) + jnp.square(grouped - group_mean)
  inverse = jax.lax.rsqrt(jnp.mean(within, axis=-1, keepdims=True) + epsilon)
  factor = jnp.broadcast_to(inverse, grouped.shape).reshape(mean.shape) * scale
  offset = bias - jnp.broadcast_to(group_mean, grouped.shape).reshape(mean.shape) * factor
  return (wide * factor[:, None, None] + offset[:, None, None]).astype(x.dtype)


def standardize(kernel: jax.Array) -> jax.Array:
  """Returns an [H, W, I, O] kernel with zero mean and unit variance over (H, W, I)."""
  mean = jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
  variance = jnp.mean(jnp.square(kernel - mean), axis=(0, 1, 2), keepdims=True)
  return (kernel - mean) * jax.lax.rsqrt(variance + 1e-10)


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """Convolves without bias, zero-padded by half the kernel on each side.

  Args:
    x: [B, H, W, I] activations.
    kernel: [K, K, I, O], K odd; cast to the dtype of `x`.
    stride: step in both directions.

  Returns:
    [B, ceil(H/stride), ceil(W/stride), O] in the dtype of `x`.
  """
  kernel = kernel.astype(x.dtype)
  size, _, inputs, outputs = kernel.shape
  pad = size // 2
  height, width = (-(-length // stride) for length in x.shape[1:3])
  if min(height, width) >= size > 1:
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      [(pad, pad), (pad, pad)],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
  # As one matrix product. XLA's CPU kernel gradient of a 1×1 convolution is several times slower
  # than that of the product it is, and a map smaller than the kernel (the last block of a small
  # net) falls to a naive loop, tens of times slower. The operations are the same in number.
  padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  shifted = [
    padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
    for i in range(size)
    for j in range(size)
  ]
  patches = jnp.concatenate(shifted, axis=-1).reshape(-1, size * size * inputs)
  return (patches @ kernel.reshape(-1, outputs)).reshape(-1, height, width, outputs)
