"""The upstream data, how large it is, and the slices of it that experts train on."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from experts.data import hierarchy as hierarchies
from experts.data import slices, sources
from experts.data.dataset import Dataset
from experts.models.network import Network
from experts.runs import objectives
from experts.runs.description import Config, Run, same
from experts.training import optim

Tree = Any

# Levels of WordNet's noun hierarchy above its deepest synset: the length of a label's list of ancestors.
_ANCESTORS = 20


@dataclasses.dataclass(frozen=True)
class Scale:
  """How large upstream data is.

  Attributes:
    images: to train on.
    test_images: to test on.
    classes: labels.
    nodes: labels and their ancestors.
    table: int32 [classes, A], the nodes that are true of each label, padded with -1.
  """

  images: int
  test_images: int
  classes: int
  nodes: int
  table: np.ndarray


def scale(config: Config) -> Scale:
  """As the config says; where it does not, the data is looked at.

  Raises:
    FileNotFoundError: data that is not there and whose size the config does not say.
  """
  size = config.upstream.size
  if size.nodes:
    table = np.zeros((size.classes, _ANCESTORS), np.int32)
    return Scale(size.images, size.test_images, size.classes, size.nodes, table)
  return scale_of(*open_data(config))


def scale_of(train: Dataset, test: Dataset, hierarchy: hierarchies.Hierarchy) -> Scale:
  """The scale of data that is open."""
  return Scale(len(train), len(test), hierarchy.num_leaves, len(hierarchy.nodes), hierarchy.table)


def open_data(config: Config) -> tuple[Dataset, Dataset, hierarchies.Hierarchy]:
  """Opens the upstream training and test sets and the is-a hierarchy of their labels."""
  train = sources.open_dataset(config.upstream.data, config.upstream.train, config.data_dir)
  test = sources.open_dataset(config.upstream.data, config.upstream.test, config.data_dir)
  return train, test, hierarchies.from_edges(train.edges, train.class_names)


def choose(
  config: Config, train: Dataset, hierarchy: hierarchies.Hierarchy
) -> dict[str, np.ndarray]:
  """The slices of the config's experts: node -> indices into the training set."""
  return slices.largest(
    train.labels,
    hierarchy,
    config.experts.count,
    least=config.experts.min_images,
    most_share=config.experts.max_share,
    merge=config.experts.merge_equal,
    nodes=config.experts.nodes,
  )


def training(
  config: Config,
  field: str,
  network: Network,
  scale: Scale,
  names: Sequence[str],
  trained: Tree,
  frozen: Tree,
) -> Run:
  """How members train on upstream data, by the section that a field of the config names.

  As many steps for each as its epochs of the whole data set, whatever the size of its part of it (EXP §4).

  Args:
    config: the whole config.
    field: such as 'experts.full'.
    network: that they are.
    scale: of the data.
    names: one a member.
    trained: trees that train [P, …], or their shapes.
    frozen: those that do not.
  """
  section = operator.attrgetter(field)(config)
  return Run(
    name=field.replace('.', '/'),
    field=field,
    section=section,
    names=names,
    network=network,
    trained=trained,
    frozen=frozen,
    objective=objectives.multi_label(network, scale.table, scale.classes),
    predict=objectives.predict(network, scale.classes),
    steps=optim.steps(section.duration, section.batch_size, scale.images),
    settings=same(section, len(names)),
  )
