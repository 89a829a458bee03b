"""Residual adapters: the few parameters in which an adapter expert differs from the baseline."""

from typing import Any

import jax
import jax.numpy as jnp

from experts.models import layers

Params = Any

# Adapter experts share the backbone: up to that many at once make one large batch of it.
AT_ONCE = 8


def init(rng: jax.Array, channels: tuple[int, ...]) -> Params:
  """Returns one expert's adapters, which change nothing until they are trained.

  Args:
    rng: a PRNG key.
    channels: number of input channels c of each block.

  Returns:
    A tree block{i}/{a1,a2}/{norm,conv}; kernels are [1, 1, c, c/2] and [1, 1, c/2, c], the
    second one zero, so that a new expert is the baseline exactly.
  """
  tree = {}
  for i, (key, wide) in enumerate(zip(jax.random.split(rng, len(channels)), channels), 1):
    narrow = wide // 2
    first = jax.nn.initializers.lecun_normal()(key, (1, 1, wide, narrow))
    tree[f'block{i}'] = {
      'a1': {'norm': _unit_norm(wide), 'conv': {'kernel': first}},
      'a2': {'norm': _unit_norm(narrow), 'conv': {'kernel': jnp.zeros((1, 1, narrow, wide))}},
    }
  return tree


def _unit_norm(channels: int) -> Params:
  return {'scale': jnp.ones(channels), 'bias': jnp.zeros(channels)}


def apply(adapter: Params, x: jax.Array, groups: int) -> jax.Array:
  """Returns x + A2(A1(x)), A = GroupNorm → ReLU → 1×1 convolution (Puigcerver et al., §4).

  Args:
    adapter: the subtree {a1, a2} of one block.
    x: [B, H, W, c] input of that block.
    groups: number of normalisation groups.
  """
  y = x
  for name in ('a1', 'a2'):
    norm = adapter[name]['norm']
    y = jax.nn.relu(layers.group_norm(y, norm['scale'], norm['bias'], groups))
    # Experts of a bank differ in these kernels: see `layers.product`.
    y = layers.product(y, adapter[name]['conv']['kernel'])
  return x + y


def embed_bank(model: Any, backbone: Params, bank: Params, images: jax.Array) -> jax.Array:
  """Embeds a batch with every expert of a bank over one shared backbone.

  The experts join the batch dimension of the backbone's convolutions, so that these stay plain
  convolutions over E·B images; the root, which no adapter precedes, runs once.

  Args:
    model: a `resnet.ResNet`.
    backbone: its parameters.
    bank: adapter tree with a leading axis of E experts on every leaf.
    images: [B, H, W, 3] in [-1, 1].

  Returns:
    float32 [E, B, D].
  """
  return jax.vmap(lambda adapter: model.apply({'params': backbone}, images, adapter))(bank)
