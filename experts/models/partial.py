"""Fine-tuning of a part of a network: all of it, its head, or its last blocks and its head."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from experts.models.network import FROZEN, Network

Trees = Mapping[str, Any]

ALL, HEAD = 'all', 'head'
# The tree that holds what stays as it is of those that are trained in part.
_REST = 'rest'
_LAST = re.compile(r'last:([1-9]\d*)')


def blocks(part: str) -> float:
  """How many of the last blocks are trained: none of 'head', two of 'last:2', every one of 'all'.

  Raises:
    ValueError: no such part.
  """
  if part in (ALL, HEAD):
    return float('inf') if part == ALL else 0
  if not (found := _LAST.fullmatch(part)):
    raise ValueError(f"{part!r} is no part of a network: 'all', 'head', or 'last:2' and the like")
  return int(found[1])


@dataclasses.dataclass(frozen=True)
class Partial:
  """A network some of whose trees are trained in part: what stays as it is of them is in the tree `rest`."""

  whole: Network

  @property
  def dimension(self) -> int:
    return self.whole.dimension

  @property
  def dtype(self) -> Any:
    return self.whole.dtype

  @property
  def blocks(self) -> int:
    return self.whole.blocks

  def fault(self, side: int) -> str:
    return self.whole.fault(side)

  def layer(self, path: tuple[str, ...]) -> int:
    return self.whole.layer(path)

  def shapes(self, classes: int) -> Trees:
    return self.whole.shapes(classes)

  def forward(self, params: Trees, images: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    return self.whole.forward(join(params) if _REST in params else params, images)


def split(network: Network, params: Trees, part: str) -> tuple[Network, Trees, Trees]:
  """Parts a network's trees into those that train and those that stay as they are.

  Args:
    network: whose they are.
    params: its trees.
    part: what is trained.

  Returns:
    The network that computes with both, the trees that train, and those that do not; `join` makes one of both again.
  """
  frozen = {name: params[name] for name in FROZEN if name in params}
  whole = {name: tree for name, tree in params.items() if name not in frozen}
  if part == ALL:
    return network, whole, frozen
  if part == HEAD:
    others = {name: tree for name, tree in whole.items() if name != 'head'}
    return network, {'head': whole['head']}, {**frozen, **others}
  first = network.blocks + 1 - blocks(part)
  trained, rest = {'head': whole['head']}, {}
  for name, tree in whole.items():
    if name == 'head':
      continue
    flat = traverse_util.flatten_dict(tree)
    late = {path: leaf for path, leaf in flat.items() if network.layer(path) >= first}
    early = {path: leaf for path, leaf in flat.items() if path not in late}
    for trees, found in ((trained, late), (rest, early)):
      if found:
        trees[name] = traverse_util.unflatten_dict(found)
  return Partial(network), trained, {**frozen, _REST: rest}


def join(params: Trees) -> dict[str, Any]:
  """The whole trees, of those that train and those that do not."""
  whole = dict(params)
  for name, tree in whole.pop(_REST, {}).items():
    flat = traverse_util.flatten_dict(whole.get(name, {})) | traverse_util.flatten_dict(tree)
    whole[name] = traverse_util.unflatten_dict(flat)
  return whole
