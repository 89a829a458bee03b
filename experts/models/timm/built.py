"""A network of timm behind the contract of networks."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from experts.models import network
from experts.models.timm.scope import Scope

Params = network.Params

# Of the modules of a block, how timm's families name it.
_BLOCK = re.compile(r'blocks\.\d+(\.\d+)?(?=\.)|stages\.\d+\.blocks\.\d+|layer\d+\.\d+')
# Of images to learn shapes from, where a network's settings name none: parameters do not depend on it.
_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Network:
  """Behind the contract.

  Attributes:
    family: the module that computes it.
    settings: the family's, of this network.
    mean: of the channels of images in [0, 1].
    std: of those.
    dtype: of the activations.
  """

  family: ModuleType
  settings: Any
  mean: tuple[float, ...]
  std: tuple[float, ...]
  dtype: Any

  @property
  def dimension(self) -> int:
    return _noted(self.family, self.settings)[1]

  def forward(self, params: Params, images: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    mean, std = (255 * jnp.array(values, jnp.float32) for values in (self.mean, self.std))
    pixels = ((images.astype(jnp.float32) - mean) / std).astype(self.dtype)
    embedding = self.family.embed(self.settings, Scope(params, self.dtype), pixels)
    embedding = embedding.astype(jnp.float32)
    if 'head' not in params:
      return None, embedding
    return embedding @ params['head']['kernel'] + params['head']['bias'], embedding

  def fault(self, side: int) -> str:
    return self.family.fault(self.settings, side)

  @property
  def blocks(self) -> int:
    return _layers(self.family, self.settings)[1]

  def layer(self, path: tuple[str, ...]) -> int:
    return _layers(self.family, self.settings)[0][path[0]]

  def shapes(self, classes: int) -> Params:
    trees, dimension = _noted(self.family, self.settings)
    return {**trees, 'head': jax.eval_shape(lambda: network.head(dimension, classes))}


def side(settings: Any) -> int:
  """A side of images that a network takes, pixels."""
  found = getattr(settings, 'img_size', _SIDE)
  return found if isinstance(found, int) else found[0]


@functools.cache
def _layers(family: ModuleType, settings: Any) -> tuple[Mapping[str, int], int]:
  """Where in its depth each module is, and how many blocks there are; modules are noted in the order of their use."""
  trees, _ = _noted(family, settings)
  names = [name for name, found in trees['backbone'].items() if isinstance(found, Mapping)]
  keys = [match and match[0] for match in map(_BLOCK.match, names)]
  blocks = list(dict.fromkeys(filter(None, keys)))
  last = max((i for i, key in enumerate(keys) if key), default=-1)
  # What is held by no module, such as a class token, comes before the first block.
  found, at = dict.fromkeys(trees['backbone'], 0), 0
  for i, (name, key) in enumerate(zip(names, keys)):
    at = blocks.index(key) + 1 if key else at
    found[name] = at if i <= last or not blocks else len(blocks) + 1
  return found, len(blocks)


@functools.cache
def _noted(family: ModuleType, settings: Any) -> tuple[Mapping[str, Any], int]:
  """The shapes of a network's trees, and the dimension of its embeddings."""
  scope, length = Scope(None), side(settings)
  images = jax.ShapeDtypeStruct((1, length, length, 3), jnp.float32)
  embedding = jax.eval_shape(lambda x: family.embed(settings, scope, x), images)
  return scope.noted, embedding.shape[1]
