"""ResNet-v2 with group normalisation and weight standardisation, as in BiT."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experts.models import adapters, layers, network

Params = Any

# Units of each block. 50 to 152 are BiT's; 14 and 26 are for small images and small machines.
DEPTHS = {
  14: (1, 1, 1, 1),
  26: (2, 2, 2, 2),
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
}
# Kernel size of the root convolution. Only BiT's root, for photographs, is followed by a max-pool.
ROOTS = {'imagenet': 7, 'small': 3}


class GroupNorm(nn.Module):
  """`layers.group_norm` with its parameters."""

  groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    return layers.group_norm(x, scale, bias, self.groups)


class StdConv(nn.Module):
  """`layers.conv` with a weight-standardised kernel."""

  features: int
  size: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    return layers.conv(x, layers.standardize(kernel), self.stride)


class PreActivation(nn.Module):
  """GroupNorm → ReLU → convolution; returns the activated input too, for the projection."""

  features: int
  size: int
  groups: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = nn.relu(GroupNorm(self.groups, name='norm')(x))
    return x, StdConv(self.features, self.size, self.stride, name='conv')(x)


class Unit(nn.Module):
  """A bottleneck: 1×1, 3×3 (with the stride), 1×1 to 4 × features, around a shortcut."""

  features: int
  groups: int
  stride: int
  project: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    activated, y = PreActivation(self.features, 1, self.groups, name='a')(x)
    if self.project:
      x = StdConv(4 * self.features, 1, self.stride, name='proj')(activated)
    _, y = PreActivation(self.features, 3, self.groups, self.stride, name='b')(y)
    _, y = PreActivation(4 * self.features, 1, self.groups, name='c')(y)
    return x + y


class Block(nn.Module):
  """The units of one resolution; the first has the stride and the projection."""

  features: int
  groups: int
  stride: int
  units: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for unit in range(1, self.units + 1):
      first = unit == 1
      stride = self.stride if first else 1
      x = Unit(self.features, self.groups, stride, first, name=f'unit{unit:02d}')(x)
    return x


class ResNet(nn.Module):
  """The backbone: images to embeddings.

  Normalisation has 32 groups, as in BiT. A net narrower than width 1 has 32 · width of them, so
  that its groups hold as many channels as those of the full net.

  Attributes:
    depth: one of `DEPTHS`.
    width: factor on all channels; 64 · width must be a multiple of the number of groups.
    root: 'imagenet' (7×7/2 and max-pool/2, for photographs) or 'small' (3×3/2, for 32×32).
    dtype: of activations and of the kernels at use. Parameters, statistics and the embedding
      are float32.
  """

  depth: int = 50
  width: float = 1
  root: str = 'imagenet'
  dtype: Any = jnp.float32

  def __post_init__(self):
    if self.depth not in DEPTHS:
      raise ValueError(f'ResNet depth {self.depth} is unknown; known: {sorted(DEPTHS)}')
    if self.root not in ROOTS:
      raise ValueError(f'ResNet root {self.root!r} is unknown; known: {sorted(ROOTS)}')
    base = 64 * self.width
    if self.width <= 0 or base != int(base) or self.groups < 1 or base % self.groups:
      raise ValueError(
        f'ResNet width {self.width} gives {base:g} channels, which do not divide into '
        f'normalisation groups; use a whole number, or 1/2, 1/4, ... 1/32'
      )
    super().__post_init__()

  @property
  def groups(self) -> int:
    return min(32, int(32 * self.width))

  @property
  def embedding_dim(self) -> int:
    return int(2048 * self.width)

  @property
  def block_inputs(self) -> tuple[int, ...]:
    """Channels that enter each block, which are those of its adapter."""
    return tuple(int(c * self.width) for c in (64, 256, 512, 1024))

  @nn.compact
  def __call__(self, images: jax.Array, adapter: Params | None = None) -> jax.Array:
    """Embeds images.

    Args:
      images: [B, H, W, 3] floats in [-1, 1].
      adapter: an adapter tree, or None for the backbone alone.

    Returns:
      float32 [B, 2048 · width].
    """
    features = int(64 * self.width)
    x = images.astype(self.dtype)
    x = StdConv(features, ROOTS[self.root], 2, name='root')(x)
    if self.root == 'imagenet':
      x = layers.max_pool(x)
    for block, units in enumerate(DEPTHS[self.depth], 1):
      if adapter is not None:
        x = adapters.apply(adapter[f'block{block}'], x, self.groups)
      stride = 1 if block == 1 else 2
      width = features * 2 ** (block - 1)
      x = Block(width, self.groups, stride, units, name=f'block{block}')(x)
    x = nn.relu(GroupNorm(self.groups, name='norm')(x))
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def init(model: ResNet, rng: jax.Array, num_classes: int) -> Params:
  """Returns {'backbone', 'head'}: random kernels and a zero head over `num_classes`."""
  # Under jit the forward pass that shapes the parameters is dropped as dead code.
  backbone = jax.jit(model.init)(rng, jnp.zeros((1, 32, 32, 3)))['params']
  return {'backbone': backbone, 'head': network.head(model.embedding_dim, num_classes)}


def init_adapter(model: ResNet, rng: jax.Array) -> Params:
  """Returns the adapter tree of one new expert, which changes nothing yet."""
  return adapters.init(rng, model.block_inputs)


def forward(model: ResNet, params: Params, images: jax.Array) -> tuple[jax.Array | None, jax.Array]:
  """Computes class scores and embeddings.

  Args:
    model: the backbone.
    params: {'backbone'} and optionally 'adapter' and 'head'.
    images: [B, H, W, 3] floats in [-1, 1].

  Returns:
    float32 logits [B, C] (None without a head) and float32 embeddings [B, D].
  """
  embedding = model.apply({'params': params['backbone']}, images, params.get('adapter'))
  if 'head' not in params:
    return None, embedding
  return embedding @ params['head']['kernel'] + params['head']['bias'], embedding


def normalise(images: jax.Array) -> jax.Array:
  """Maps uint8 images to float32 in [-1, 1], BiT's input range."""
  return images.astype(jnp.float32) / 127.5 - 1
