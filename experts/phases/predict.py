"""Classifies a folder of images with a fine-tuned network that a transfer left."""

import json
import os

import jax
import numpy as np
import pandas as pd
from absl import logging

from experts.data import image_files
from experts.data.dataset import UndecodableImage
from experts.models import weights
from experts.phases import members
from experts.training import hosts
from experts.training.board import Board
from experts.training.progress import Progress

# Columns of the classes that come after the first.
_MORE = 2


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves predictions.csv: file, class, probability, and the next classes; an image that cannot be read has none."""
  del board
  if not hosts.first():
    return
  for name, what in (
    ('model', 'what a transfer left: runs/mine/transfer/mine'),
    ('images', 'a folder'),
  ):
    if not config[name]:
      raise ValueError(f'config.{name} is empty: name {what}')
  path = os.path.expanduser(config.model)
  path = f'{path}/model.npz' if os.path.isdir(path) else path
  params = weights.load(path)
  with open(f'{path.removesuffix(".npz")}.json', encoding='utf-8') as file:
    described = json.load(file)
  network, classes = described['network'], described['classes']
  images = image_files.open_unlabelled(config.images)
  transform = members.eval_transform(network['size'], network['resize'])
  rows = []
  with Progress(len(images), description='predict') as progress:
    batch = config.run.evaluation_batch
    for start in range(0, len(images), batch):
      where = range(start, min(start + batch, len(images)))
      pixels, unread = [], {}
      for index in where:
        try:
          pixels.append(transform(images.image(index)))
        except UndecodableImage as error:
          logging.warning('%s', error)
          unread[index] = True
      scores = iter(probabilities(network, params, np.array(pixels), batch) if pixels else [])
      rows += [_row(images.where(i), None if i in unread else next(scores), classes) for i in where]
      progress.update(where[-1] + 1, len(where), None)
  members.write_csv(pd.DataFrame(rows), f'{workdir}/predictions.csv')
  print(f'{len(rows)} images classified as one of {len(classes)}: {workdir}/predictions.csv')


def probabilities(
  network: members.Config, params: dict, pixels: np.ndarray, batch_size: int
) -> np.ndarray:
  """Softmax [N, C] of a fine-tuned network for uint8 images [N, S, S, 3], on this process's first device."""
  program = jax.jit(members.predict(members.make_model(network)))
  parts = []
  for start in range(0, len(pixels), batch_size):
    part = pixels[start : start + batch_size]
    # One shape, one program.
    filled = np.pad(part, ((0, batch_size - len(part)), (0, 0), (0, 0), (0, 0)))
    parts.append(np.asarray(jax.nn.softmax(program(params, filled)))[: len(part)])
  return np.concatenate(parts)


def _row(file: str, scores: np.ndarray | None, classes: list[str]) -> dict[str, object]:
  row = {'file': file}
  best = [] if scores is None else np.argsort(-scores, kind='stable')
  for rank in range(min(1 + _MORE, len(classes))):
    suffix = f'_{rank + 1}' if rank else ''
    known = scores is not None
    row[f'class{suffix}'] = classes[best[rank]] if known else None
    row[f'probability{suffix}'] = float(scores[best[rank]]) if known else None
  return row
