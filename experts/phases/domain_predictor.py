"""Phase 3: train the expert prediction network, which tells from an image whose slice it is of (EXP App. A)."""

import os
from typing import Any

import numpy as np
from absl import logging

from experts.data import orders, slices
from experts.models import ours, weights
from experts.models.network import Network, head
from experts.reporting import files
from experts.runs import evaluators, objectives, own_pool, rounds, upstream_data
from experts.runs.description import Config, Run, same
from experts.runs.streams import Stream, seed_of
from experts.training import optim, population
from experts.training.board import Board

Tree = Any


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves weights/domain_predictor.npz, and domain_predictor.json, which says what its outputs stand for.

  Softmax over the experts' slices. An image of several slices appears once for each, and every slice is seen equally
  often. Starts from the baseline.
  """
  train, test, hierarchy = upstream_data.open_data(config)
  chosen = upstream_data.choose(config, train, hierarchy)
  by_slice = slices.by_slice(train, chosen)
  tested = slices.by_slice(
    test, {node: slices.indices(test.labels, hierarchy, node) for node in chosen}
  )
  network = ours.build(config.model)
  _, path = own_pool.open_for_experts(config, workdir, [])
  baseline = weights.load(f'{workdir}/{path}')
  start = {'backbone': baseline['backbone'], 'head': head(network.dimension, len(chosen))}
  training = describe(config, network, len(train), population.stack([start]))
  logging.info(
    'domain_predictor: %d slices, %d images with repetitions', len(chosen), len(by_slice)
  )

  def evaluate(mesh, _, trained):
    count = evaluators.evaluator(config, mesh, training.predict, {})
    return {'test_accuracy': count(trained, tested, np.arange(len(tested))).accuracy()}

  def keep(_, trained):
    os.makedirs(f'{workdir}/weights', exist_ok=True)
    file = 'weights/domain_predictor.npz'
    weights.save(f'{workdir}/{file}', trained)
    files.write_json(
      {'weights': file, 'hash': weights.content_hash(trained), 'nodes': list(chosen)},
      f'{workdir}/domain_predictor.json',
    )

  stream = Stream(
    'domain_predictor',
    by_slice,
    np.arange(len(by_slice)),
    seed_of(config, 'domain_predictor'),
    orders.balanced(by_slice.labels),
  )
  job = rounds.Job([stream], f'{workdir}/domain_predictor', evaluate=evaluate, keep=keep)
  rounds.train(config, board, training, job)


def describe(config: Config, network: Network, images: int, start: Tree) -> Run:
  """How the predictor trains on upstream data of so many images, from trees [1, …] or their shapes."""
  section = config.domain_predictor
  return Run(
    name='domain_predictor',
    field='domain_predictor',
    section=section,
    names=['domain_predictor'],
    network=network,
    trained=start,
    frozen={},
    objective=objectives.single_label(network),
    predict=objectives.predict(network),
    steps=optim.steps(section.duration, section.batch_size, images),
    settings=same(section, 1),
  )
