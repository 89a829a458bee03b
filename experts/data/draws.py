"""Draws disjoint parts of a data set by a seed, each class in proportion and what belongs together on one side."""

from collections.abc import Mapping

import numpy as np
from sklearn.model_selection import train_test_split

from experts.data.dataset import Dataset


def split(
  dataset: Dataset,
  indices: np.ndarray,
  first: int,
  seed: int,
  unit: Mapping[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Two disjoint parts, the first of `first` images, each with the classes in proportion.

  A class of one image, which cannot be on both sides, goes to the first.

  Args:
    dataset: the images.
    indices: int [N].
    first: images of the first part; about so many where units are larger than an image.
    seed: of the draw.
    unit: index -> a number; images of one number stay together.
  """
  if first == len(indices):
    return indices, indices[:0]
  if first == 0:
    return indices[:0], indices
  own = np.arange(len(indices)) if unit is None else np.array([unit[int(i)] for i in indices])
  rows = np.sort(np.unique(own, return_index=True)[1])  # the first image of each unit
  number = min(max(round(first * len(rows) / len(indices)), 1), len(rows) - 1)
  labels = dataset.labels[indices[rows]]
  counts = np.bincount(labels)
  alone = counts[labels] == 1
  if alone.sum() >= number or alone.all():
    # More such classes than the first part holds: chance decides.
    alone = np.zeros(len(rows), bool)
  rest, number = rows[~alone], number - int(alone.sum())
  labels = dataset.labels[indices[rest]]
  counts = np.bincount(labels)
  # Proportions need an image of every class on both sides; where a side is too small, chance decides.
  smallest = min(number, len(rest) - number)
  proportional = smallest >= np.count_nonzero(counts) and counts[counts > 0].min() >= 2
  one, other = train_test_split(
    rest, train_size=number, random_state=seed, stratify=labels if proportional else None
  )
  one = np.concatenate([one, rows[alone]])
  if unit is None:
    return indices[one], indices[other]
  return indices[np.isin(own, own[one])], indices[np.isin(own, own[other])]


def groups(dataset: Dataset) -> dict[int, int] | None:
  """Index -> a number, the same for images of one group; None where nothing tells of groups."""
  if not dataset.groups:
    return None
  numbers = {}
  return {i: numbers.setdefault(name or i, len(numbers)) for i, name in enumerate(dataset.groups)}


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
