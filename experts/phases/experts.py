"""Phase 2: train experts from the baseline, each on one node of the hierarchy (EXP §4)."""

import dataclasses
import functools
import glob
import os

import jax
import numpy as np
import pandas as pd
from absl import logging

from experts.data import slices
from experts.data.dataset import Dataset
from experts.data.hierarchy import Hierarchy
from experts.models import resnet, weights
from experts.phases import members, rounds, upstream
from experts.reporting import files, tables
from experts.selection import pool
from experts.training import evaluate, hosts, optim, population
from experts.training import mesh as meshes
from experts.training.board import Board

KINDS = ('full', 'adapter')


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves weights/<kind>.<node>.npz for every expert, adds them to pool.json, and slices.csv with what they learned.

  The baseline is the workdir's, or that of the pool in `config.pool`, whose models the new pool then lists where they are.
  """
  train, test, hierarchy = upstream.open_data(config)
  chosen = choose(config, train, hierarchy)
  if config.experts.controls:
    chosen |= {
      f'{pool.RANDOM_SLICE}{node}': _random_slice(config, node, len(train), len(index))
      for node, index in chosen.items()
    }
  logging.info(
    'experts on %s', ', '.join(f'{node} ({len(index)} images)' for node, index in chosen.items())
  )
  known, path = open_pool(
    config, workdir, [f'{k}:{n}' for k in config.experts.kinds for n in chosen]
  )
  model = members.make_model(config.model)
  baseline = weights.load(f'{workdir}/{path}')
  os.makedirs(f'{workdir}/weights', exist_ok=True)
  trainer = _Trainer(config, workdir, board, model, baseline, path, train, test, hierarchy, chosen)
  diverged = {}
  for kind in config.experts.kinds:
    kept, diverged[kind] = trainer.train(kind)
    known += kept
  if not hosts.first():
    return
  pool.write(f'{workdir}/pool.json', known, upstream.settings(config))
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


def choose(config: members.Config, train: Dataset, hierarchy: Hierarchy) -> dict[str, np.ndarray]:
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


def open_pool(
  config: members.Config, workdir: str, names: list[str]
) -> tuple[list[pool.Member], str]:
  """The models that the experts join, and the baseline's weights file; paths relative to the workdir.

  Raises:
    ValueError: the pool's network is not the config's, it has no baseline, or already an expert of such a name.
  """
  if not config.pool:
    # A run that was cut short, or that goes on, makes these experts again.
    known = [m for m in pool.read(f'{workdir}/pool.json') if m.kind not in KINDS]
    return known, 'weights/baseline.npz'
  source = os.path.abspath(os.path.expanduser(config.pool))
  if (theirs := pool.read_model(source)) != upstream.settings(config):
    raise ValueError(
      f'pool {source} has networks of {theirs}, the config one of {upstream.settings(config)}: set config.model and '
      'config.image to the former'
    )
  folder = os.path.relpath(os.path.dirname(source), workdir)

  def here(path):
    return path and os.path.normpath(os.path.join(folder, path))

  known = [
    dataclasses.replace(member, weights=here(member.weights), backbone=here(member.backbone))
    for member in pool.read(source)
  ]
  if twice := sorted({member.name for member in known} & set(names)):
    raise ValueError(f'pool {source} already has {", ".join(twice)}: name other nodes')
  baselines = [member.weights for member in known if member.kind == 'baseline']
  if len(baselines) != 1:
    raise ValueError(
      f'pool {source} has {len(baselines)} baselines; experts need one to start from'
    )
  return known, baselines[0]


@dataclasses.dataclass(frozen=True, eq=False)
class _Trainer:
  """Trains the experts of one kind at a time."""

  config: members.Config
  workdir: str
  board: Board
  model: resnet.ResNet
  baseline: dict
  baseline_path: str
  train_set: Dataset
  test_set: Dataset
  hierarchy: Hierarchy
  chosen: dict[str, np.ndarray]

  def train(self, kind: str) -> tuple[list[pool.Member], dict[str, int]]:
    """Leaves the weights of the kind's experts; returns what the pool says of them, and where others diverged."""
    config, section = self.config, self.config.experts[kind]
    # The same number of steps for every expert, whatever its slice's size: epochs are the whole data set's (EXP §4).
    steps = optim.steps(section.duration, section.batch_size, len(self.train_set))
    streams = [
      members.Stream(node, self.train_set, index, members.seed_of(config, 'expert', node))
      for node, index in self.chosen.items()
    ]
    if kind == 'full':
      trained, frozen = population.repeat(self.baseline, len(streams)), {}
    else:
      keys = [jax.random.key(members.seed_of(config, 'adapter', node)) for node in self.chosen]
      fresh = [jax.device_get(resnet.init_adapter(self.model, key)) for key in keys]
      trained, frozen = {'adapter': population.stack(fresh)}, self.baseline
    kept = []
    run = rounds.Run(
      f'experts/{kind}',
      section,
      streams,
      self.model,
      trained,
      frozen,
      members.multi_label(self.model, self.hierarchy.table, self.hierarchy.num_leaves),
      steps,
      f'{self.workdir}/experts/{kind}',
      members_at_once=1 if kind == 'full' else members.adapters_at_once(),
      evaluate=lambda mesh, streams, trained: self._evaluate(mesh, streams, trained, frozen),
      keep=lambda number, trained: kept.append(self._keep(kind, streams[number], trained)),
    )
    steps_of = zip(self.chosen, rounds.train(config, self.board, run), strict=True)
    return kept, {node: int(step) for node, step in steps_of if step >= 0}

  def _keep(self, kind: str, stream: members.Stream, trained: dict) -> pool.Member:
    path = f'weights/{kind}.{_file_name(stream.name)}.npz'
    weights.save(f'{self.workdir}/{path}', trained)
    return upstream.member(
      self.workdir,
      self.model,
      f'{kind}:{stream.name}',
      kind,
      path,
      self.config.upstream.data,
      self.train_set,
      stream.indices,
      stream.name,
      self.baseline_path if kind == 'adapter' else None,
      weights.content_hash(self.baseline),
    )

  def _evaluate(self, mesh, streams, trained, frozen) -> dict[str, np.ndarray]:
    """Accuracies among all classes: of all test images, and of those of each expert's slice; there the baseline's too."""
    predict = members.predict(self.model, self.hierarchy.num_leaves)
    everything = np.arange(len(self.test_set))
    count = members.evaluator(self.config, mesh, predict, frozen)
    counts = count(trained, self.test_set, everything)
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
    mesh = meshes.make(1, jax.device_count())
    trained = meshes.place(population.stack([self.baseline]), mesh, meshes.MEMBER)
    predict = members.predict(self.model, self.hierarchy.num_leaves)
    count = members.evaluator(self.config, mesh, predict, {})
    return count(trained, self.test_set, np.arange(len(self.test_set)))

  def _classes(self, node: str) -> np.ndarray:
    """Mask of the classes that are the node; all of them, for a random slice."""
    if node not in self.hierarchy.nodes:
      return np.ones(self.hierarchy.num_leaves, bool)
    return (self.hierarchy.table == self.hierarchy.index(node)).any(axis=1)


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
  rng = np.random.default_rng(members.seed_of(config, 'control', node))
  return np.sort(rng.choice(images, size, replace=False))


def _file_name(node: str) -> str:
  return ''.join(c if c.isalnum() or c in '-_.' else '_' for c in node)
