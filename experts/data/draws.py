"""Draws disjoint parts of a data set by a seed, each class in proportion and what belongs together on one side."""

import collections
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
from sklearn.model_selection import train_test_split

from experts.data.dataset import Dataset


def split(
  dataset: Dataset,
  indices: np.ndarray,
  first: int,
  seed: int,
  unit: Mapping[int, int] | None = None,
  stays: Set[int] = frozenset(),
) -> tuple[np.ndarray, np.ndarray]:
  """Two disjoint parts, the first of `first` images, each with the classes in proportion.

  A class of one image, which cannot be on both sides, goes to the first.

  Args:
    dataset: the images.
    indices: int [N].
    first: images of the first part; about so many where units are larger than an image.
    seed: of the draw.
    unit: index -> a number; images of one number stay together.
    stays: those numbers whose images are all in the first part, even if these are more than `first`.
  """
  if first == len(indices):
    return indices, indices[:0]
  if first == 0:
    return indices[:0], indices
  own = np.arange(len(indices)) if unit is None else np.array([unit[int(i)] for i in indices])
  rows = np.sort(np.unique(own, return_index=True)[1])  # the first image of each unit
  kept = np.isin(own[rows], list(stays))
  if kept.all() or len(rows) == 1:
    return indices, indices[:0]
  number = max(min(max(round(first * len(rows) / len(indices)), 1), len(rows) - 1), kept.sum())
  labels = dataset.labels[indices[rows]]
  counts = np.bincount(labels)
  alone = kept | (counts[labels] == 1)
  if alone.sum() >= number or alone.all():
    # More such classes than the first part holds: chance decides.
    alone = kept
  if number == kept.sum():
    first_part = np.isin(own, own[rows[kept]])
    return indices[first_part], indices[~first_part]
  rest, number = rows[~alone], number - int(alone.sum())
  one, other = _draw(rest, dataset.labels[indices[rest]], number, seed)
  one = np.concatenate([one, rows[alone]])
  if unit is None:
    return indices[one], indices[other]
  return indices[np.isin(own, own[one])], indices[np.isin(own, own[other])]


def split_to_train(
  dataset: Dataset,
  indices: np.ndarray,
  first: int,
  seed: int,
  unit: Mapping[int, int] | None = None,
  stays: Set[int] = frozenset(),
) -> tuple[np.ndarray, np.ndarray]:
  """As `split`, and no class of the second part is without an image in the first, which trains, if that can be."""
  one, other = split(dataset, indices, first, seed, unit, stays)
  number = (lambda index: index) if unit is None else unit.__getitem__
  return cover(dataset.labels, one, other, number, stays, seed)


def cover(
  labels: np.ndarray,
  train: np.ndarray,
  rest: np.ndarray,
  unit: Callable[[int], int],
  stays: Set[int],
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Two parts, changed so that each class of the second has an image in the first, as far as that goes.

  For each unit that has to come into the first another leaves it, of about the same size, none of whose classes that
  takes away. Where units are single images, no part changes its size.

  Args:
    labels: of every image of the data set.
    train: indices of the first part.
    rest: indices of the second.
    unit: index -> a number; images of one number stay together.
    stays: units that do not leave the first part.
    seed: which of equals leave.

  Returns:
    Both parts, as given where no class lacks or nothing can be done for any.
  """
  missing = np.setdiff1d(labels[rest], labels[train])
  if not missing.size:
    return train, rest
  inside, outside = _by_unit(train, unit), _by_unit(rest, unit)
  single = max(map(len, [*inside.values(), *outside.values()])) == 1
  count = _classes(labels, train)
  order = np.random.default_rng(seed).permutation(sorted(set(inside) - set(stays))).tolist()
  came = set()
  for label in missing.tolist():
    if count[label]:
      continue  # With a unit of several classes.
    having = [u for u, own in outside.items() if label in labels[own]]
    comes = min(having, key=lambda u: len(outside[u]))
    count += _classes(labels, outside[comes])
    may = {u: inside[u] for u in order if u in inside and u not in came}
    leaves = _leaving(may, len(outside[comes]), labels, count)
    if single and leaves is None:
      break
    came.add(comes)
    inside[comes] = outside.pop(comes)
    if leaves is not None:
      count -= _classes(labels, inside[leaves])
      outside[leaves] = inside.pop(leaves)
  if not outside:
    return train, rest
  return _all(inside), _all(outside)


def groups(dataset: Dataset) -> dict[int, int] | None:
  """Index -> a number, the same for images of one group; None where nothing tells of groups."""
  if not dataset.groups:
    return None
  numbers = {}
  return {i: numbers.setdefault(name or i, len(numbers)) for i, name in enumerate(dataset.groups)}


def shared_groups(dataset: Dataset, other: Dataset | None) -> frozenset[int]:
  """The numbers, as of `groups`, of those that another data set has images of, too."""
  names = set(other.groups if other is not None else ()) - {''}
  numbers = groups(dataset) or {}
  return frozenset(numbers[i] for i, name in enumerate(dataset.groups) if name in names)


def without(indices: np.ndarray, unit: Mapping[int, int] | None, units: Set[int]) -> np.ndarray:
  """The indices that are of none of these units."""
  if not units:
    return indices
  return indices[[unit[int(i)] not in units for i in indices]]


def together(first: Mapping[int, int], second: Mapping[int, int] | None) -> Mapping[int, int]:
  """The numbers of `first`, made equal for images that are joined by either, however indirectly."""
  if second is None:
    return first
  parent = {}

  def root(node):
    while (above := parent.setdefault(node, node)) != node:
      node = above
    return node

  for index, number in first.items():
    parent[root(('second', second[index]))] = root(('first', number))
  numbers = {}
  return {i: numbers.setdefault(root(('first', n)), len(numbers)) for i, n in first.items()}


def _draw(
  rows: np.ndarray, labels: np.ndarray, number: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """So many of the rows, and the others; each with the classes in proportion where both can have all of them."""
  counts = np.bincount(labels)
  # Proportions need an image of every class on both sides; where a side is too small, chance decides.
  smallest = min(number, len(rows) - number)
  proportional = smallest >= np.count_nonzero(counts) and counts[counts > 0].min() >= 2
  return train_test_split(
    rows, train_size=number, random_state=seed, stratify=labels if proportional else None
  )


def _leaving(
  units: Mapping[int, list[int]], size: int, labels: np.ndarray, count: Mapping[int, int]
) -> int | None:
  """The unit nearest to a size that leaves some of all its classes; None where none does.

  Args:
    units: those that may leave -> their images; of equals the first leaves.
    size: in images.
    labels: of every image of the data set.
    count: class -> how many images of it there are where the units would leave.
  """
  ranks = {}
  for unit, images in units.items():
    spare = min(count[label] - own for label, own in _classes(labels, images).items())
    if spare > 0:
      ranks[unit] = abs(len(images) - size), -spare
  return min(ranks, key=ranks.get, default=None)


def _classes(labels: np.ndarray, images: Sequence[int]) -> collections.Counter[int]:
  return collections.Counter(labels[images].tolist())


def _by_unit(indices: np.ndarray, unit: Callable[[int], int]) -> dict[int, list[int]]:
  found = collections.defaultdict(list)
  for index in indices.tolist():
    found[unit(index)].append(index)
  return dict(found)


def _all(units: dict[int, list[int]]) -> np.ndarray:
  return np.array(sorted(index for own in units.values() for index in own), np.int64)
