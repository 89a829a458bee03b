"""What networks of other people's files ask alike: whether weights fit, what tells networks apart, what an image costs."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experts.models import network, weights

Params = network.Params

# Of the names in a message.
_NAMED = 6


def problems(needed: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
  """What arrays, shapes by their names, are missing, left over or misshapen, in words; empty if none."""
  told = {
    'missing': [name for name in needed if name not in found],
    'left over': [name for name in found if name not in needed],
    'of another shape': [
      f'{name} {found[name]} instead of {shape}'
      for name, shape in needed.items()
      if name in found and found[name] != shape
    ],
  }
  return '; '.join(f'{what}: {_listed(names)}' for what, names in told.items() if names)


def content_hash(described: Mapping[str, Any], trees: Params) -> str:
  """Of weights, and of what makes another function of them."""
  content = [weights.content_hash(trees), dict(described)]
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def gflops(one: network.Network, trees: Params, size: int) -> float:
  """10⁹ operations of one image's embedding, as the compiler counts them before it optimises."""
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), trees)
  cost = jax.jit(one.forward).lower(shapes, images).cost_analysis()
  return float(f'{cost["flops"] / 1e9:.4g}')


def probe(number: int, size: int) -> np.ndarray:
  """uint8 images [N, S, S, 3] with coarse and fine structure, always the same, that tell functions of images apart."""
  rng = np.random.default_rng(0)
  cells = -(-size // 8)
  coarse = rng.uniform(0, 255, (number, cells, cells, 3)).repeat(8, 1).repeat(8, 2)
  fine = rng.normal(0, 25, (number, size, size, 3))
  return np.clip(coarse[:, :size, :size] + fine, 0, 255).astype(np.uint8)


def _listed(names) -> str:
  more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
  return ', '.join(names[:_NAMED]) + more
