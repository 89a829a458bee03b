"""Phase 1: train the baseline on all upstream data (EXP §4, §6.1)."""

import os

import jax
import numpy as np
from absl import logging

from experts.data import hierarchy as hierarchies
from experts.data import slices
from experts.data.dataset import Dataset
from experts.models import resnet, weights
from experts.reporting import files
from experts.runs import (
  candidates,
  evaluators,
  objectives,
  own_pool,
  rounds,
  upstream_data,
)
from experts.runs.description import Config
from experts.runs.streams import Stream, seed_of
from experts.selection import pool
from experts.training import optim, population
from experts.training.board import Board


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves weights/baseline.npz with the names of its labels, asked-for checkpoints, an untrained control, and pool.json."""
  train, test, hierarchy = upstream_data.open_data(config)
  model = resnet.from_settings(config.model)
  key = jax.random.key(seed_of(config, 'init'))
  params = jax.device_get(resnet.init(model, key, len(hierarchy.nodes)))
  params['head']['bias'] = _prior(train, hierarchy)
  start = _initial(config.upstream.init_from, params) if config.upstream.init_from else params
  section = config.upstream
  steps = optim.steps(section.duration, section.batch_size, len(train))
  logging.info(
    'upstream: %d images, %d classes, %d nodes; %d steps of %d',
    len(train), hierarchy.num_leaves, len(hierarchy.nodes), steps, section.batch_size,
  )  # fmt: skip

  everything = np.arange(len(train))

  def evaluate(mesh, _, trained):
    count = evaluators.evaluator(config, mesh, objectives.predict(model, hierarchy.num_leaves), {})
    return {'test_accuracy': count(trained, test, np.arange(len(test))).accuracy()}

  def snapshot(step, trained):
    os.makedirs(f'{workdir}/weights', exist_ok=True)
    weights.save(f'{workdir}/weights/baseline@{step}.npz', trained)

  def keep(_, trained):
    os.makedirs(f'{workdir}/weights', exist_ok=True)
    weights.save(f'{workdir}/weights/random.npz', params)
    weights.save(f'{workdir}/weights/baseline.npz', trained)
    labels = {'classes': train.class_names, 'edges': train.edges}
    files.write_json(labels, f'{workdir}/{candidates.labels_file("weights/baseline.npz")}')
    every = section.keep_every
    kinds = {'random': 'random', 'baseline': 'baseline'}
    if every:
      kinds |= {f'baseline@{step}': 'checkpoint' for step in range(every, steps, every)}
    pool.write(
      f'{workdir}/pool.json',
      [
        own_pool.describe(
          workdir, model, name, kind, f'weights/{name}.npz', section.data, train,
          everything[:0] if kind == 'random' else everything,
        )
        for name, kind in kinds.items()
      ],
      own_pool.settings(config),
    )  # fmt: skip

  run = rounds.Run(
    'upstream',
    section,
    [Stream('baseline', train, everything, seed_of(config, 'upstream'))],
    model,
    population.stack([start]),
    {},
    objectives.multi_label(model, hierarchy.table, hierarchy.num_leaves),
    steps,
    f'{workdir}/upstream',
    evaluate=evaluate,
    keep=keep,
    snapshot=snapshot,
    snapshot_every=section.keep_every,
  )
  rounds.train(config, board, run)


def _prior(train: Dataset, hierarchy: hierarchies.Hierarchy) -> np.ndarray:
  """Head biases at which the sigmoids start as the nodes' frequencies, float32 [nodes].

  From zero, hundreds of sigmoids spend the first part of training on learning that most labels are false, and their
  common gradient is large enough to spoil the backbone meanwhile.
  """
  frequency = np.clip(slices.counts(train.labels, hierarchy) / len(train), 1e-6, 0.999)
  return np.log(frequency / (1 - frequency)).astype(np.float32)


def _initial(path: str, fresh):
  """Backbone of another file, and its head too where it has the same classes."""
  path = os.path.expanduser(path)
  loaded = (
    weights.load_bit(path) if os.path.basename(path).startswith('BiT') else weights.load(path)
  )
  same = jax.tree.map(np.shape, loaded.get('head')) == jax.tree.map(np.shape, fresh['head'])
  logging.info('upstream: starts from %s, head %s', path, 'too' if same else 'left out')
  return {'backbone': loaded['backbone'], 'head': loaded['head'] if same else fresh['head']}
