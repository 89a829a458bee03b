"""The is-a hierarchy of labels, a directed acyclic graph."""

import dataclasses
import difflib
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Hierarchy:
  """Nodes of an is-a graph, of which the first are the classes.

  Attributes:
    nodes: node names; the first num_leaves are the classes, in class order.
    parents: for every node, the ids of its direct parents, ascending.
    num_leaves: number of classes. A class may itself be an ancestor of another class.
  """

  nodes: tuple[str, ...]
  parents: tuple[tuple[int, ...], ...]
  num_leaves: int

  @functools.cached_property
  def ancestors(self) -> tuple[tuple[int, ...], ...]:
    """For every node the ids of itself (first) and all its ancestors (ascending)."""
    known: dict[int, set[int]] = {}
    for node in _topological(self.nodes, self.parents):
      known[node] = {node}.union(*(known[parent] for parent in self.parents[node]))
    return tuple((node, *sorted(known[node] - {node})) for node in range(len(self.nodes)))

  @functools.cached_property
  def table(self) -> np.ndarray:
    """int32 [num_leaves, A]: ids of the class and all its ancestors ([EXP §6.1]), padded with -1."""
    widest = max((len(self.ancestors[leaf]) for leaf in range(self.num_leaves)), default=0)
    table = np.full((self.num_leaves, widest), -1, np.int32)
    for leaf in range(self.num_leaves):
      table[leaf, : len(self.ancestors[leaf])] = self.ancestors[leaf]
    return table

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {name: node for node, name in enumerate(self.nodes)}

  def index(self, name: str) -> int:
    """The id of a node; an unknown name is an error that lists the nearest known ones."""
    if name not in self._ids:
      near = difflib.get_close_matches(name, self.nodes, 3, 0.5)
      hint = f'the nearest are {", ".join(map(repr, near))}' if near else 'and none is similar'
      raise ValueError(f'no node {name!r} among the {len(self.nodes)} of the hierarchy; {hint}')
    return self._ids[name]


def from_edges(edges: Iterable[tuple[str, str]], leaves: Sequence[str]) -> Hierarchy:
  """Builds the hierarchy of the classes and their ancestors.

  Args:
    edges: (child, parent) names. Those that lead from no class are left out.
    leaves: the class names, in class order.

  Returns:
    The hierarchy: the classes first, then their ancestors by name.

  Raises:
    ValueError: two classes of one name, or a cycle, which the message prints.
  """
  if len(set(leaves)) != len(leaves):
    double = sorted({name for name in leaves if leaves.count(name) > 1})
    raise ValueError(f'class names must differ; given twice: {", ".join(map(repr, double))}')
  above: dict[str, set[str]] = {}
  for child, parent in edges:
    above.setdefault(child, set()).add(parent)
  reached, queue = set(leaves), list(leaves)
  while queue:
    new = above.get(queue.pop(), set()) - reached
    reached |= new
    queue.extend(new)
  nodes = (*leaves, *sorted(reached - set(leaves)))
  ids = {name: node for node, name in enumerate(nodes)}
  parents = tuple(tuple(sorted(ids[name] for name in above.get(node, ()))) for node in nodes)
  _topological(nodes, parents)
  return Hierarchy(nodes=nodes, parents=parents, num_leaves=len(leaves))


def read_edges(path: str | os.PathLike) -> tuple[tuple[str, str], ...]:
  """Reads an is-a file, whose lines are child<TAB>parent.

  A line with one name only tells of a class that is below none.

  Returns:
    (child, parent) names; the parent is empty for a name by itself.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line of another form.
  """
  edges = []
  for number, line in enumerate(pathlib.Path(path).read_text('utf-8').splitlines(), 1):
    names = [name.strip() for name in line.split('\t')]
    if not any(names):
      continue
    if len(names) > 2 or not names[0]:
      raise ValueError(f'{path}, line {number}: {line!r} is not child<TAB>parent')
    edges.append((names[0], names[1] if len(names) == 2 else ''))
  return tuple(edges)


def _topological(nodes: Sequence[str], parents: Sequence[tuple[int, ...]]) -> list[int]:
  """Node ids, every parent before its children; a cycle is an error."""
  order: list[int] = []
  state = [0] * len(nodes)  # 0 not met, 1 on the path from the start, 2 done
  for start in range(len(nodes)):
    if state[start]:
      continue
    path, rest = [start], [iter(parents[start])]
    state[start] = 1
    while path:
      parent = next(rest[-1], None)
      if parent is None:
        state[path[-1]] = 2
        order.append(path.pop())
        rest.pop()
      elif state[parent] == 1:
        cycle = [*path[path.index(parent) :], parent]
        raise ValueError(f'the is-a graph has a cycle: {" -> ".join(nodes[n] for n in cycle)}')
      elif state[parent] == 0:
        state[parent] = 1
        path.append(parent)
        rest.append(iter(parents[parent]))
  return order
