"""Phase 1: train the baseline on all upstream data (EXP §4, §6.1)."""

import os

import jax
import numpy as np
from absl import logging

from experts.data import hierarchy as hierarchies
from experts.data import slices, sources
from experts.data.dataset import Dataset
from experts.models import resnet, weights
from experts.phases import candidates, members, rounds
from experts.reporting import files
from experts.selection import pool
from experts.training import optim, population
from experts.training.board import Board


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves weights/baseline.npz with the names of its labels, asked-for checkpoints, an untrained control, and pool.json."""
  train, test, hierarchy = open_data(config)
  model = members.make_model(config.model)
  key = jax.random.key(members.seed_of(config, 'init'))
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
    count = members.evaluator(config, mesh, members.predict(model, hierarchy.num_leaves), {})
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
        member(
          workdir, model, name, kind, f'weights/{name}.npz', section.data, train,
          everything[:0] if kind == 'random' else everything,
        )
        for name, kind in kinds.items()
      ],
      settings(config),
    )  # fmt: skip

  run = rounds.Run(
    'upstream',
    section,
    [members.Stream('baseline', train, everything, members.seed_of(config, 'upstream'))],
    model,
    population.stack([start]),
    {},
    members.multi_label(model, hierarchy.table, hierarchy.num_leaves),
    steps,
    f'{workdir}/upstream',
    evaluate=evaluate,
    keep=keep,
    snapshot=snapshot,
    snapshot_every=section.keep_every,
  )
  rounds.train(config, board, run)


def settings(config: members.Config) -> dict[str, object]:
  """What the pool says of all its networks."""
  return {**config.model.to_dict(), 'size': config.image.size, 'resize': config.image.resize}


def open_data(config: members.Config) -> tuple[Dataset, Dataset, hierarchies.Hierarchy]:
  """Opens the upstream training and test sets and the is-a hierarchy of their labels."""
  train = sources.open_dataset(config.upstream.data, config.upstream.train, config.data_dir)
  test = sources.open_dataset(config.upstream.data, config.upstream.test, config.data_dir)
  return train, test, hierarchies.from_edges(train.edges, train.class_names)


def member(
  workdir: str,
  model: resnet.ResNet,
  name: str,
  kind: str,
  path: str,
  upstream: str,
  train: Dataset,
  indices: np.ndarray,
  node: str | None = None,
  backbone: str | None = None,
  trained_from: str | None = None,
) -> pool.Member:
  """Describes a network whose weights lie in `path`, relative to the workdir, trained on these images."""
  number = np.bincount(train.labels[indices], minlength=train.num_classes)
  params = weights.load(f'{workdir}/{path}')
  trees = (
    {'backbone': {}, **params}
    if not backbone
    else {**weights.load(f'{workdir}/{backbone}'), **params}
  )
  counted = {k: v for k, v in trees.items() if k != 'head'}
  return pool.Member(
    name=name,
    kind=kind,
    upstream=upstream,
    slice=node,
    images=len(indices),
    parameters=sum(leaf.size for leaf in jax.tree.leaves(counted)),
    dimension=model.embedding_dim,
    weights=path,
    backbone=backbone,
    trained_from=trained_from,
    definition=train.definitions.get(node),
    labels={train.class_names[label]: int(number[label]) for label in np.flatnonzero(number)},
    hash=weights.content_hash(params),
  )


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
