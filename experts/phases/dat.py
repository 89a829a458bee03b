"""Domain-adaptive transfer, the competitor: train upstream again for every task, on images like the task's (EXP §6.6)."""

import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from experts.data import batches, orders, splits
from experts.data.dataset import Dataset
from experts.models import ours, weights
from experts.models.network import Network
from experts.runs import (
  candidates,
  costs,
  fine_tuning,
  objectives,
  own_pool,
  rounds,
  sweeps,
  tasks,
  upstream_data,
  views,
)
from experts.runs.description import Config, Run
from experts.runs.streams import Stream, seed_of
from experts.selection import pool
from experts.training import hosts, population
from experts.training.board import Board

Tree = Any


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves weights/dat.TASK.npz, the trials of each as model 'dat' in trials.csv, and its price in costs.csv."""
  path = candidates.pool_path(config, workdir)
  settings, folder = pool.read_model(path), os.path.dirname(path)
  known = _baseline(path)
  config = tasks.sized(config, known, settings)
  network = ours.build(settings)
  train, test, hierarchy = upstream_data.open_data(config)
  loaded = tasks.load_all(config, tasks.sizes_of(config, [known], settings, selects=True))
  baseline = ours.load(known, folder)
  if (nodes := len(baseline['head']['bias'])) != len(hierarchy.nodes):
    raise ValueError(
      f'pool {path}: the baseline knows {nodes} nodes, {train.name} has {len(hierarchy.nodes)}; '
      'domain-adaptive transfer needs the upstream data that it was trained on'
    )
  scale = upstream_data.scale_of(train, test, hierarchy)
  began = time.monotonic()
  resumed = os.path.exists(f'{workdir}/dat/metrics.csv')
  streams = [
    Stream(
      task.name,
      train,
      np.arange(len(train)),
      seed_of(config, 'dat', task.name),
      orders.weighted(train.labels, _weights(config, network, baseline, task, train)),
    )
    for task in loaded
  ]

  def keep(number, trained):
    os.makedirs(f'{workdir}/weights', exist_ok=True)
    weights.save(f'{workdir}/{_path(loaded[number].name)}', trained)

  names = [task.name for task in loaded]
  training = describe(config, network, scale, names, population.repeat(baseline, len(names)))
  diverged = rounds.train(config, board, training, rounds.Job(streams, f'{workdir}/dat', keep=keep))
  hosts.wait('the weights of dat are there')
  # All tasks trained together. What was done before an interruption is not in this time.
  seconds = np.nan if resumed else (time.monotonic() - began) / len(loaded)
  if hosts.first():
    seen = training.steps * config.dat.batch_size
    rows = [{'task': t.name, 'images': seen + len(t.all), 'seconds': seconds} for t in loaded]
    costs.write(workdir, 'dat', rows)
  table = sweeps.Trials(f'{workdir}/trials.csv')
  for stream, step in zip(streams, diverged, strict=True):
    if step >= 0:
      logging.warning('dat: its network for %s diverged; there is nothing to transfer', stream.name)
      continue
    logging.info('dat: transfer to %s', stream.name)
    _fine_tune(config, workdir, board, known, settings, stream, table)


def _fine_tune(config, workdir, board, baseline: pool.Member, settings, stream, table) -> None:
  """Transfers the network of a task, which sees images of the baseline's size."""
  described = own_pool.describe(
    pool.COMPETITOR,
    'full',
    _path(stream.name),
    weights.load(f'{workdir}/{_path(stream.name)}'),
    own_pool.Seen(config.upstream.data, stream.dataset, stream.indices),
  )
  sized = tasks.sized(config, baseline, settings, stream.name)
  task = fine_tuning.open_task(sized, stream.name)
  trainer = fine_tuning.Trainer(sized, board, settings, task, described, workdir, table)
  trainer.retrain(trainer.sweep(), '')
  tasks.let_go(config, stream.name)


def describe(
  config: Config,
  network: Network,
  scale: upstream_data.Scale,
  names: Sequence[str],
  start: Tree,
) -> Run:
  """How the networks for these tasks train, from the baseline's trees [P, …] or their shapes."""
  return upstream_data.training(config, 'dat', network, scale, names, start, {})


def _path(task: str) -> str:
  return f'weights/dat.{task}.npz'


def _baseline(path: str) -> pool.Member:
  found = [member for member in pool.read(path) if member.kind == 'baseline']
  if len(found) != 1:
    raise ValueError(f'pool {path} has {len(found)} baselines; domain-adaptive transfer needs one')
  return found[0]


def _weights(
  config: Config, network: Network, baseline: dict, task: splits.Task, train: Dataset
) -> np.ndarray:
  """P_target(y) / P_upstream(y) of every class: the mean of the baseline's predictions over the class's share."""
  transform = views.eval_transform(views.of_config(config.image))
  predict = jax.jit(objectives.predict(network, train.num_classes))
  batch = min(config.run.evaluation_batch, len(task.all))
  total = np.zeros(train.num_classes)
  for part in batches.eval_batches(
    task.train, task.all, transform, batch, undecodable=config.image.undecodable
  ):
    total += jax.nn.sigmoid(predict(baseline, part['image']))[part['mask']].sum(axis=0)
  images = np.bincount(train.labels, minlength=train.num_classes)
  ratio = total / len(task.all) / np.maximum(images / len(train), 1 / len(train))
  # Drawn by on all processes: they must not differ in the last digit either.
  ratio = np.array(hosts.from_first(ratio.tolist()))
  most = np.argsort(-ratio * (images > 0))[:5]
  logging.info(
    'dat: for %s most of %s',
    task.name,
    ', '.join(f'{train.class_names[y]} (×{ratio[y]:.3g})' for y in most),
  )
  return ratio
