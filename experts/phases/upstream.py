"""Phase 1: train the baseline on all upstream data (EXP §4, §6.1)."""

import os
from typing import Any

import jax
import numpy as np
from absl import logging

from experts.data import hierarchy as hierarchies
from experts.data import slices
from experts.data.dataset import Dataset
from experts.models import ours, resnet, weights
from experts.models.network import Network
from experts.reporting import files
from experts.runs import (
  candidates,
  evaluators,
  own_pool,
  rounds,
  upstream_data,
)
from experts.runs.description import Config, Run
from experts.runs.streams import Stream, seed_of
from experts.selection import pool
from experts.training import population
from experts.training.board import Board

Tree = Any


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves weights/baseline.npz with the names of its labels, asked-for checkpoints, an untrained control, and pool.json."""
  train, test, hierarchy = upstream_data.open_data(config)
  network = ours.build(config.model)
  key = jax.random.key(seed_of(config, 'init'))
  params = jax.device_get(resnet.init(network.resnet, key, len(hierarchy.nodes)))
  params['head']['bias'] = _prior(train, hierarchy)
  start = _initial(config.upstream.init_from, params) if config.upstream.init_from else params
  scale = upstream_data.scale_of(train, test, hierarchy)
  training = describe(config, network, scale, population.stack([start]))
  logging.info(
    'upstream: %d images, %d classes, %d nodes; %d steps of %d',
    scale.images, scale.classes, scale.nodes, training.steps, config.upstream.batch_size,
  )  # fmt: skip

  everything = np.arange(len(train))

  def evaluate(mesh, _, trained):
    count = evaluators.evaluator(config, mesh, training.predict, {})
    return {'test_accuracy': count(trained, test, np.arange(len(test))).accuracy()}

  def keep_as(name, trained):
    os.makedirs(f'{workdir}/weights', exist_ok=True)
    weights.save(f'{workdir}/weights/{name}.npz', trained)

  def keep(_, trained):
    keep_as('random', params)
    keep_as('baseline', trained)
    labels = {'classes': train.class_names, 'edges': train.edges}
    files.write_json(labels, f'{workdir}/{candidates.labels_file("weights/baseline.npz")}')
    _write_pool(config, workdir, train, training.steps, {'random': params, 'baseline': trained})

  job = rounds.Job(
    [Stream('baseline', train, everything, seed_of(config, 'upstream'))],
    f'{workdir}/upstream',
    evaluate=evaluate,
    keep=keep,
    snapshot=lambda step, trained: keep_as(f'baseline@{step}', trained),
    snapshot_every=config.upstream.keep_every,
  )
  rounds.train(config, board, training, job)


def describe(config: Config, network: Network, scale: upstream_data.Scale, start: Tree) -> Run:
  """How the baseline trains, from trees [1, …] or their shapes."""
  return upstream_data.training(config, 'upstream', network, scale, ['baseline'], start, {})


def _write_pool(config, workdir, train, steps, trees) -> None:
  """The pool of a workdir without experts: the untrained control, the baseline, and its checkpoints."""
  seen = own_pool.Seen(config.upstream.data, train, np.arange(len(train)))
  unseen = seen._replace(indices=np.arange(0))
  kinds = {'random': ('random', unseen), 'baseline': ('baseline', seen)}
  if every := config.upstream.keep_every:
    kinds |= {f'baseline@{step}': ('checkpoint', seen) for step in range(every, steps, every)}
  listed = []
  for name, (kind, data) in kinds.items():
    path = f'weights/{name}.npz'
    own = trees[name] if name in trees else weights.load(f'{workdir}/{path}')
    listed.append(own_pool.describe(name, kind, path, own, data))
  pool.write(f'{workdir}/pool.json', listed, own_pool.settings(config))


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
