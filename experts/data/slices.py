"""Slices: the parts of the upstream data on which the experts are trained ([EXP §4])."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experts.data.dataset import Dataset
from experts.data.hierarchy import Hierarchy


def counts(labels: np.ndarray, hierarchy: Hierarchy) -> np.ndarray:
  """Number of images of every node, its descendants' included; int64 [num_nodes]."""
  return of_nodes(np.bincount(labels, minlength=hierarchy.num_leaves), hierarchy)


def of_nodes(of_classes: np.ndarray, hierarchy: Hierarchy) -> np.ndarray:
  """Number of images of every node, int64 [num_nodes], from those of every class, [num_leaves]."""
  true = hierarchy.table >= 0
  # As float64, exact up to 2^53 images.
  weights = np.repeat(of_classes, true.sum(1))
  total = np.bincount(hierarchy.table[true], weights, minlength=len(hierarchy.nodes))
  return total.astype(np.int64)


def indices(labels: np.ndarray, hierarchy: Hierarchy, node: str) -> np.ndarray:
  """The images of a node and of all below it.

  Args:
    labels: int [N], the class of every image.
    hierarchy: the classes' hierarchy.
    node: name of a class or of an ancestor.

  Returns:
    Ascending int64 indices into the data set.

  Raises:
    ValueError: an unknown node, or one without an image.
  """
  member = (hierarchy.table == hierarchy.index(node)).any(1)
  chosen = np.flatnonzero(member[labels])
  if not chosen.size:
    raise ValueError(f'the slice {node!r} holds no image: choose another node, or add images')
  return chosen


def largest(
  labels: np.ndarray,
  hierarchy: Hierarchy,
  number: int,
  *,
  least: int = 1,
  most_share: float = 1.0,
  merge: bool = False,
  nodes: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """The slices of the experts: those of the nodes with most images, unless named.

  Args:
    labels: int [N], the class of every image.
    hierarchy: the classes' hierarchy.
    number: how many slices; 0: all that fit.
    least: least number of images; a small slice makes an expert worse than the baseline.
    most_share: largest share of all images a slice may hold. Below 1, no expert is the baseline
      again.
    merge: nodes that hold the very same images count once, by their most specific name. The paper
      keeps them all ('entity' and 'physical entity').
    nodes: take exactly these, in this order, instead.

  Returns:
    Node name -> ascending int64 indices, largest slice first (ties in node order).

  Raises:
    ValueError: fewer nodes fit than asked for, an unknown node, or a slice without an image.
  """
  if nodes:
    return {node: indices(labels, hierarchy, node) for node in nodes}
  size = counts(labels, hierarchy)
  fits = np.flatnonzero((size >= max(least, 1)) & (size <= most_share * len(labels)))
  if merge:
    fits = _one_of_each(fits, labels, hierarchy)
  chosen = sorted(fits.tolist(), key=lambda node: (-size[node], node))
  if len(chosen) < max(number, 1):
    raise ValueError(
      f'{number or "all"} slices were asked for, but only {len(chosen)}{" differing ones" if merge else ""} of the'
      f' {len(size)} nodes hold between {least} images and {most_share:.0%} of all {len(labels)}:'
      ' ask for fewer, or lower the least size'
    )
  chosen = chosen[: number or None]
  names = [hierarchy.nodes[node] for node in chosen]
  return {name: indices(labels, hierarchy, name) for name in names}


def _one_of_each(nodes: np.ndarray, labels: np.ndarray, hierarchy: Hierarchy) -> np.ndarray:
  below = _leaves_below(hierarchy, np.bincount(labels, minlength=hierarchy.num_leaves) > 0)
  depth = np.array([len(above) for above in hierarchy.ancestors])
  deepest: dict[bytes, int] = {}
  for node in nodes:
    images = below[node].tobytes()
    other = deepest.get(images)
    if other is None or depth[node] > depth[other]:
      deepest[images] = int(node)
  return np.array(sorted(deepest.values()), int)


def _leaves_below(hierarchy: Hierarchy, present: np.ndarray) -> list[np.ndarray]:
  """For every node the ascending ids of those classes among `present`, bool [num_leaves], that are it."""
  # Not a matrix of classes and nodes, which for ImageNet-21k would take half a gigabyte.
  leaf, place = np.nonzero((hierarchy.table >= 0) & present[:, None])
  node = hierarchy.table[leaf, place]
  order = np.argsort(node, kind='stable')
  return np.split(leaf[order], np.searchsorted(node[order], np.arange(1, len(hierarchy.nodes))))


def by_slice(dataset: Dataset, chosen: Mapping[str, np.ndarray]) -> Dataset:
  """The images of some slices, each labelled with its slice; those of several appear once for each ([EXP] App. A).

  Args:
    dataset: the whole.
    chosen: slice name -> indices into it.

  Returns:
    A data set whose classes are the slices, one slice after the other.
  """
  rows = np.concatenate(list(chosen.values()))
  labels = np.repeat(np.arange(len(chosen)), [len(index) for index in chosen.values()])
  return dataclasses.replace(
    dataset,
    name=f'{dataset.name} by slice',
    class_names=tuple(chosen),
    size=len(rows),
    read_image=lambda index: dataset.read_image(int(rows[index])),
    read_labels=lambda: labels,
    describe=lambda index: dataset.describe(int(rows[index])),
    edges=(),
    identify=lambda: '',
  )
