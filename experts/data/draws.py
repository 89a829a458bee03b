"""What is mended of a draw by chance: a class that would be tested, and never trained."""

import collections
from collections.abc import Callable, Set

import numpy as np


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
  count = collections.Counter(labels[train].tolist())
  classes = lambda images: collections.Counter(labels[images].tolist())
  order = np.random.default_rng(seed).permutation(sorted(set(inside) - set(stays))).tolist()
  came = set()
  for label in missing.tolist():
    if count[label]:
      continue  # With a unit of several classes.
    having = [u for u, own in outside.items() if label in labels[own]]
    comes = min(having, key=lambda u: len(outside[u]))
    count += classes(outside[comes])
    ranks = {}
    for u in order:
      if u in inside and u not in came:
        spare = min(count[c] - n for c, n in classes(inside[u]).items())
        if spare > 0:
          ranks[u] = abs(len(inside[u]) - len(outside[comes])), -spare
    if single and not ranks:
      break
    came.add(comes)
    inside[comes] = outside.pop(comes)
    if ranks:
      leaves = min(ranks, key=ranks.get)
      count -= classes(inside[leaves])
      outside[leaves] = inside.pop(leaves)
  if not outside:
    return train, rest
  return _all(inside), _all(outside)


def _by_unit(indices: np.ndarray, unit: Callable[[int], int]) -> dict[int, list[int]]:
  found = collections.defaultdict(list)
  for index in indices.tolist():
    found[unit(index)].append(index)
  return dict(found)


def _all(units: dict[int, list[int]]) -> np.ndarray:
  return np.array(sorted(index for own in units.values() for index in own), np.int64)
