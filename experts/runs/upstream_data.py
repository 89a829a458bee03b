"""The upstream data, and the slices of it that experts train on."""

import numpy as np

from experts.data import hierarchy as hierarchies
from experts.data import slices, sources
from experts.data.dataset import Dataset
from experts.runs.description import Config


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
