"""A network of timm behind the contract of networks."""

import dataclasses
import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from experts.models import network
from experts.models.timm.scope import Scope

Params = network.Params

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

  def shapes(self, classes: int) -> Params:
    trees, dimension = _noted(self.family, self.settings)
    return {**trees, 'head': jax.eval_shape(lambda: network.head(dimension, classes))}


def side(settings: Any) -> int:
  """A side of images that a network takes, pixels."""
  found = getattr(settings, 'img_size', _SIDE)
  return found if isinstance(found, int) else found[0]


@functools.cache
def _noted(family: ModuleType, settings: Any) -> tuple[Mapping[str, Any], int]:
  """The shapes of a network's trees, and the dimension of its embeddings."""
  scope, length = Scope(None), side(settings)
  images = jax.ShapeDtypeStruct((1, length, length, 3), jnp.float32)
  embedding = jax.eval_shape(lambda x: family.embed(settings, scope, x), images)
  return scope.noted, embedding.shape[1]
