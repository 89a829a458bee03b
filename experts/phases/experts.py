"""Phase 2: train experts from the baseline, each on one node of the hierarchy (EXP §4)."""

import dataclasses
import functools
import glob
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import logging

from experts.data.dataset import Dataset
from experts.data.hierarchy import Hierarchy
from experts.devices import make_mesh
from experts.models import ours, resnet, weights
from experts.models.network import Network
from experts.reporting import files, tables
from experts.runs import (
  evaluators,
  objectives,
  own_pool,
  rounds,
  upstream_data,
)
from experts.runs.description import Config, Run
from experts.runs.streams import Stream, seed_of
from experts.selection import pool
from experts.training import evaluate, hosts, population
from experts.training import mesh as meshes
from experts.training.board import Board

Tree = Any


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves weights/<kind>.<node>.npz for every expert, adds them to pool.json, and slices.csv with what they learned.

  The baseline is the workdir's, or that of the pool in `config.pool`, whose models the new pool then lists where they are.
  """
  train, test, hierarchy = upstream_data.open_data(config)
  chosen = upstream_data.choose(config, train, hierarchy)
  if config.experts.controls:
    chosen |= {
      f'{pool.RANDOM_SLICE}{node}': _random_slice(config, node, len(train), len(index))
      for node, index in chosen.items()
    }
  logging.info(
    'experts on %s', ', '.join(f'{node} ({len(index)} images)' for node, index in chosen.items())
  )
  known, path = own_pool.open_for_experts(
    config, workdir, [f'{k}:{n}' for k in config.experts.kinds for n in chosen]
  )
  network = ours.build(config.model)
  baseline = weights.load(f'{workdir}/{path}')
  os.makedirs(f'{workdir}/weights', exist_ok=True)
  trainer = _Trainer(
    config, workdir, board, network, baseline, path, train, test, hierarchy, chosen
  )
  diverged = {}
  for kind in config.experts.kinds:
    kept, diverged[kind] = trainer.train(kind)
    known += kept
  if not hosts.first():
    return
  pool.write(f'{workdir}/pool.json', known, own_pool.settings(config))
  learned = _learned(workdir, diverged, chosen)
  files.write(learned, f'{workdir}/slices.csv')
  board.text('experts', 0, {'slices': tables.to_markdown(learned)})
  means = learned.dropna(subset=['accuracy', 'baseline accuracy'])
  means = means.groupby('kind', sort=False)[['accuracy', 'baseline accuracy']].mean()
  for kind, mean in means.iterrows():
    logging.info(
      '%s experts on the test images of their slices: %.1f %%, the baseline on the same: %.1f %%',
      kind, 100 * mean['accuracy'], 100 * mean['baseline accuracy'],
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class _Trainer:
  """Trains the experts of one kind at a time."""

  config: Config
  workdir: str
  board: Board
  network: Network
  baseline: dict
  baseline_path: str
  train_set: Dataset
  test_set: Dataset
  hierarchy: Hierarchy
  chosen: dict[str, np.ndarray]

  def train(self, kind: str) -> tuple[list[pool.Member], dict[str, int]]:
    """Leaves the weights of the kind's experts; returns what the pool says of them, and where others diverged."""
    config = self.config
    streams = [
      Stream(node, self.train_set, index, seed_of(config, 'expert', node))
      for node, index in self.chosen.items()
    ]
    if kind == 'full':
      trained, frozen = population.repeat(self.baseline, len(streams)), {}
    else:
      keys = [jax.random.key(seed_of(config, 'adapter', node)) for node in self.chosen]
      fresh = [jax.device_get(resnet.init_adapter(self.network.resnet, key)) for key in keys]
      trained, frozen = {'adapter': population.stack(fresh)}, self.baseline
    scale = upstream_data.scale_of(self.train_set, self.test_set, self.hierarchy)
    run = describe(config, kind, self.network, scale, [*self.chosen], (trained, frozen))
    kept = []
    job = rounds.Job(
      streams,
      f'{self.workdir}/experts/{kind}',
      evaluate=lambda mesh, part, trained: self._evaluate(run, mesh, part, trained),
      keep=lambda number, trained: kept.append(self._keep(kind, streams[number], trained)),
    )
    steps_of = zip(self.chosen, rounds.train(config, self.board, run, job), strict=True)
    return kept, {node: int(step) for node, step in steps_of if step >= 0}

  def _keep(self, kind: str, stream: Stream, trained: dict) -> pool.Member:
    path = f'weights/{kind}.{_file_name(stream.name)}.npz'
    weights.save(f'{self.workdir}/{path}', trained)
    seen = own_pool.Seen(self.config.upstream.data, self.train_set, stream.indices)
    adapts = kind == 'adapter'
    return own_pool.describe(
      f'{kind}:{stream.name}',
      kind,
      path,
      trained,
      seen,
      self.baseline if adapts else None,
      slice=stream.name,
      backbone=self.baseline_path if adapts else None,
      trained_from=weights.content_hash(self.baseline),
    )

  def _evaluate(self, run, mesh, streams, trained) -> dict[str, np.ndarray]:
    """Accuracies among all classes: of all test images, and of those of each expert's slice; there the baseline's too."""
    count = evaluators.evaluator(self.config, mesh, run.predict, run.frozen)
    counts = count(trained, self.test_set, np.arange(len(self.test_set)))
    of_slice, of_baseline = [], []
    for number, stream in enumerate(streams):
      classes = self._classes(stream.name)
      of_slice.append(_share(counts, classes)[number])
      of_baseline.append(_share(self.before, classes)[0])
    return {
      'test_accuracy': counts.accuracy(),
      'slice_accuracy': np.array(of_slice),
      'baseline_slice_accuracy': np.array(of_baseline),
    }

  @functools.cached_property
  def before(self) -> evaluate.Counts:
    """What the baseline gets right of the test images."""
    mesh = make_mesh(1)
    trained = meshes.place(population.stack([self.baseline]), mesh, meshes.MEMBER)
    predict = objectives.predict(self.network, self.hierarchy.num_leaves)
    count = evaluators.evaluator(self.config, mesh, predict, {})
    return count(trained, self.test_set, np.arange(len(self.test_set)))

  def _classes(self, node: str) -> np.ndarray:
    """Mask of the classes that are the node; all of them, for a random slice."""
    if node not in self.hierarchy.nodes:
      return np.ones(self.hierarchy.num_leaves, bool)
    return (self.hierarchy.table == self.hierarchy.index(node)).any(axis=1)


def describe(
  config: Config,
  kind: str,
  network: Network,
  scale: upstream_data.Scale,
  names: Sequence[str],
  trees: tuple[Tree, Tree],
) -> Run:
  """How the experts of a kind train, from (those that train [P, …], those that do not), or their shapes."""
  return upstream_data.training(config, f'experts.{kind}', network, scale, names, *trees)


def _share(counts: evaluate.Counts, classes: np.ndarray) -> np.ndarray:
  """Accuracy on these classes; not a number where the test set has no image of them."""
  if not counts.seen[classes].any():
    return np.full(len(counts.correct), np.nan)
  return counts.accuracy(classes)


def _learned(
  workdir: str, diverged: dict[str, dict[str, int]], chosen: dict[str, np.ndarray]
) -> pd.DataFrame:
  """A row for each expert: its accuracy on the test images of its slice, and the baseline's.

  One that diverged has no accuracy, and the step at which it did.
  """
  rows = []
  for kind, lost in diverged.items():
    lines = [
      files.read(path)
      for path in glob.glob(f'{workdir}/experts/{kind}/**/metrics.csv', recursive=True)
    ]
    last = pd.concat(lines).drop_duplicates(['member', 'metric'], keep='last')
    value = last.set_index(['member', 'metric']).value
    rows += [
      {
        'kind': kind,
        'slice': node,
        'images': len(index),
        'accuracy': np.nan if node in lost else value[node, 'slice_accuracy'],
        # There is none of a round all of which diverged.
        'baseline accuracy': value.get((node, 'baseline_slice_accuracy'), np.nan),
        'diverged': lost.get(node),
      }
      for node, index in chosen.items()
    ]
  return pd.DataFrame(rows).astype({'diverged': 'Int64'})


def _random_slice(config, node, images, size) -> np.ndarray:
  rng = np.random.default_rng(seed_of(config, 'control', node))
  return np.sort(rng.choice(images, size, replace=False))


def _file_name(node: str) -> str:
  return ''.join(c if c.isalnum() or c in '-_.' else '_' for c in node)
