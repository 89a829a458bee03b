"""Phase 3: train the expert prediction network, which tells from an image whose slice it is of (EXP App. A)."""

import os

import numpy as np
from absl import logging

from experts.data import batches, slices
from experts.models import resnet, weights
from experts.phases import experts, members, rounds, upstream
from experts.reporting import files
from experts.training import optim, population
from experts.training.board import Board


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves weights/domain_predictor.npz, and domain_predictor.json, which says what its outputs stand for.

  Softmax over the experts' slices. An image of several slices appears once for each, and every slice is seen equally
  often. Starts from the baseline.
  """
  train, test, hierarchy = upstream.open_data(config)
  chosen = experts.choose(config, train, hierarchy)
  by_slice = slices.by_slice(train, chosen)
  tested = slices.by_slice(
    test, {node: slices.indices(test.labels, hierarchy, node) for node in chosen}
  )
  model = members.make_model(config.model)
  _, path = experts.open_pool(config, workdir, [])
  baseline = weights.load(f'{workdir}/{path}')
  start = {'backbone': baseline['backbone'], 'head': resnet.init_head(model, len(chosen))}
  section = config.domain_predictor
  steps = optim.steps(section.duration, section.batch_size, len(train))
  logging.info(
    'domain_predictor: %d slices, %d images with repetitions', len(chosen), len(by_slice)
  )

  def evaluate(mesh, _, trained):
    count = members.evaluator(config, mesh, members.predict(model), {})
    return {'test_accuracy': count(trained, tested, np.arange(len(tested))).accuracy()}

  def keep(_, trained):
    os.makedirs(f'{workdir}/weights', exist_ok=True)
    file = 'weights/domain_predictor.npz'
    weights.save(f'{workdir}/{file}', trained)
    files.write_json(
      {'weights': file, 'hash': weights.content_hash(trained), 'nodes': list(chosen)},
      f'{workdir}/domain_predictor.json',
    )

  run = rounds.Run(
    'domain_predictor',
    section,
    [
      members.Stream(
        'domain_predictor',
        by_slice,
        np.arange(len(by_slice)),
        members.seed_of(config, 'domain_predictor'),
        batches.balanced(by_slice.labels),
      )
    ],
    model,
    population.stack([start]),
    {},
    members.single_label(model),
    steps,
    f'{workdir}/domain_predictor',
    evaluate=evaluate,
    keep=keep,
  )
  rounds.train(config, board, run)
