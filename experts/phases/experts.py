"""Phase 2: train experts from the baseline, each on one node of the hierarchy (EXP §4)."""

import jax
import numpy as np
from absl import logging

from experts.data import slices
from experts.data.dataset import Dataset
from experts.data.hierarchy import Hierarchy
from experts.models import resnet, weights
from experts.phases import members, upstream
from experts.selection import pool
from experts.training import hosts, optim, population
from experts.training.board import Board


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves weights/<kind>.<node>.npz for every expert, and adds them to pool.json."""
  train, test, hierarchy = upstream.open_data(config)
  chosen = choose(config, train, hierarchy)
  if config.experts.controls:
    chosen |= {
      f'random like {node}': _random_slice(config, node, len(train), len(index))
      for node, index in chosen.items()
    }
  logging.info(
    'experts on %s', ', '.join(f'{node} ({len(index)} images)' for node, index in chosen.items())
  )
  model = members.make_model(config.model)
  baseline = weights.load(f'{workdir}/weights/baseline.npz')
  experts = ('full', 'adapter')
  known = [m for m in pool.read(f'{workdir}/pool.json') if m.kind not in experts]
  for kind in config.experts.kinds:
    known += _train(config, workdir, board, kind, model, baseline, train, test, hierarchy, chosen)
  if hosts.first():
    settings = {**config.model.to_dict(), 'size': config.image.size, 'resize': config.image.resize}
    pool.write(f'{workdir}/pool.json', known, settings)


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


def _train(
  config, workdir, board, kind, model, baseline, train, test, hierarchy, chosen
) -> list[pool.Member]:
  section = config.experts[kind]
  # The same number of steps for every expert, whatever its slice's size: epochs are the whole data set's (EXP §4).
  steps = optim.steps(section.duration, section.batch_size, len(train))
  if kind == 'full':
    trainable, frozen = population.repeat(baseline, len(chosen)), {}
  else:
    keys = [jax.random.key(members.seed_of(config, 'adapter', node)) for node in chosen]
    fresh = [jax.device_get(resnet.init_adapter(model, key)) for key in keys]
    trainable, frozen = {'adapter': population.stack(fresh)}, baseline

  def evaluate(mesh, trained):
    measure = members.evaluator(config, mesh, members.predict(model, hierarchy.num_leaves), frozen)
    return {'test_accuracy': measure(trained, test, np.arange(len(test)))}

  streams = [
    members.Stream(node, train, index, members.seed_of(config, 'expert', node))
    for node, index in chosen.items()
  ]
  kept, trained_from = [], weights.content_hash(baseline)

  def keep(number, trained):
    node, indices = streams[number].name, streams[number].indices
    path = f'weights/{kind}.{_file_name(node)}.npz'
    weights.save(f'{workdir}/{path}', trained)
    shared = 'weights/baseline.npz' if kind == 'adapter' else None
    data = config.upstream.data
    kept.append(
      upstream.member(
        workdir,
        model,
        f'{kind}:{node}',
        kind,
        path,
        data,
        train,
        indices,
        node,
        shared,
        trained_from,
      )
    )

  members.train(
    config,
    section,
    board,
    f'experts/{kind}',
    streams,
    model,
    trainable,
    frozen,
    members.multi_label(model, hierarchy.table, hierarchy.num_leaves),
    steps,
    members_at_once=1 if kind == 'full' else members.adapters_at_once(),
    folder=f'{workdir}/experts/{kind}',
    evaluate=evaluate,
    keep=keep,
  )
  return kept


def _random_slice(config, node, images, size) -> np.ndarray:
  rng = np.random.default_rng(members.seed_of(config, 'control', node))
  return np.sort(rng.choice(images, size, replace=False))


def _file_name(node: str) -> str:
  return ''.join(c if c.isalnum() or c in '-_.' else '_' for c in node)
