"""Where a network finds its parameters: by the names that timm's modules have."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Tree = Mapping[str, Any]


class Scope:
  """A module's place in the trees of a network.

  A tree is {module: {leaf: array}} with timm's dotted module names; what a network holds by itself, such as `cls_token`,
  stands beside its modules. Leaves are named as Flax names them: `kernel` (of convolutions HWIO, of dense layers [in,
  out]), `bias`, `scale`; in the tree `statistics` `mean` and `var`.

  A network says the shape of each parameter where it uses it. So the same code computes, and tells its shapes.
  """

  def __init__(self, trees: Mapping[str, Tree] | None, dtype: Any = jnp.float32):
    """The root of a network.

    Args:
      trees: 'backbone', and 'statistics' where there are any; None to note shapes instead (in `noted`).
      dtype: of the activations.
    """
    self.dtype = jnp.dtype(dtype)
    self.noted: dict[str, dict[str, Any]] | None = {} if trees is None else None
    self._trees, self._path = trees, ''

  def __truediv__(self, name: str | int) -> 'Scope':
    """The scope of a module in this one."""
    child = object.__new__(Scope)
    child.__dict__.update(self.__dict__, _path=f'{self._path}.{name}' if self._path else f'{name}')
    return child

  def param(self, leaf: str, *shape: int) -> jax.Array:
    """A parameter, in the dtype that it is kept in; cast it where it is used."""
    return self._find('backbone', leaf, shape)

  def statistic(self, leaf: str, *shape: int) -> jax.Array:
    """What is never trained by gradients."""
    return self._find('statistics', leaf, shape)

  def _find(self, tree, leaf, shape):
    if self.noted is not None:
      place = self.noted.setdefault(tree, {})
      place = place.setdefault(self._path, {}) if self._path else place
      place[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32)
      return jnp.zeros(shape)
    place = self._trees[tree]
    found = (place[self._path] if self._path else place)[leaf]
    if found.shape != shape:
      # A network is built for its weights; what differs was checked when they joined a pool.
      raise ValueError(f'{self._path}.{leaf} is of shape {found.shape}, not {shape}')
    return found
