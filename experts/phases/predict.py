"""Classifies images with a fine-tuned network that a transfer left."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from experts.data import image_files
from experts.data.dataset import Dataset, UndecodableImage
from experts.models import tuned
from experts.runs import evaluators, views
from experts.runs.description import Config
from experts.training import hosts
from experts.training.board import Board
from experts.training.progress import Progress

# Columns of the classes that come after the first.
_MORE = 2
# Where the rows are until there is one for each image.
_UNFINISHED = 'predictions-unfinished.csv'


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves predictions.csv: file, class, probability, and the next classes; an image that cannot be read has none.

  A run that is interrupted leaves its rows in predictions-unfinished.csv, and goes on behind them.
  """
  del board
  if not hosts.first():
    return
  for name, what in (
    ('model', tuned.EXAMPLE),
    ('images', 'an image, a folder or an archive'),
  ):
    if not config[name]:
      raise ValueError(f'config.{name} is empty: name {what}')
  model = tuned.read(config.model, 'config.model')
  images = _open_images(config.images, model.described)
  left_out = images.intake.left_out_in_words
  left_out = left_out and f'; left out: {left_out}'
  for note in images.intake.notes:
    logging.info('predict: %s', note)
  logging.info('predict: %d images%s', len(images), left_out)
  path = f'{workdir}/predictions.csv'
  with _Rows(f'{workdir}/{_UNFINISHED}', _columns(model.classes)) as rows:
    start = rows.resume([images.where(index) for index in range(len(images))])
    if start:
      logging.info('predict: goes on behind %d images', start)
    with Progress(len(images), description='predict', start=start) as progress:
      for done, number in _classify(config, model, images, start, rows):
        progress.update(done, number, None)
    unread = rows.unread
  os.replace(f'{workdir}/{_UNFINISHED}', path)
  apart = f'; {unread} cannot be read' if unread else ''
  print(
    f'{len(images) - unread} of {len(images)} images classified as one of {len(model.classes)}{apart}{left_out}: '
    f'{path}'
  )


def _open_images(path: str, described: Mapping[str, Any]) -> Dataset:
  """The images, decoded as those were that the network was fine-tuned on."""
  # A model.json without ranges is of published pixels.
  ranges = described.get('ranges')
  return image_files.open_unlabelled(path, ranges, published=ranges is None)


def _classify(config, model, images, start, rows) -> Iterator[tuple[int, int]]:
  """Writes the rows batch by batch; yields how many are done, and the images of the last batch."""
  transform = views.eval_transform(model.view)
  batch = config.run.evaluation_batch
  for first in range(start, len(images), batch):
    where = range(first, min(first + batch, len(images)))
    pixels, unread = [], {}
    for index in where:
      try:
        pixels.append(transform(images.image(index)))
      except UndecodableImage as error:
        logging.warning('%s', error)
        unread[index] = True
    scores = iter(
      evaluators.probabilities(model.network, model.params, np.array(pixels), batch)
      if pixels
      else []
    )
    rows.add(
      [_row(images.where(i), None if i in unread else next(scores), model.classes) for i in where]
    )
    yield where[-1] + 1, len(where)


class _Rows:
  """A table that grows on disk row by row; what was written is there after a kill."""

  def __init__(self, path: str, columns: Sequence[str]):
    self._path = path
    self._columns = list(columns)
    self._file = None
    self.unread = 0

  def __enter__(self) -> '_Rows':
    return self

  def __exit__(self, *_) -> None:
    if self._file:
      self._file.close()

  def resume(self, names: Sequence[str]) -> int:
    """Keeps the rows that an interrupted run left of these images; returns how many there are."""
    kept = self._kept(names)
    self.unread = sum(not row[1] for row in kept)
    # Written anew, since the last row may be torn.
    with open(f'{self._path}.tmp', 'w', encoding='utf-8', newline='') as file:
      csv.writer(file, lineterminator='\n').writerows([self._columns, *kept])
    os.replace(f'{self._path}.tmp', self._path)
    self._file = open(self._path, 'a', encoding='utf-8', newline='')  # noqa: SIM115
    return len(kept)

  def add(self, rows: Sequence[Sequence[str]]) -> None:
    self.unread += sum(not row[1] for row in rows)
    file = self._file
    csv.writer(file, lineterminator='\n').writerows(rows)
    file.flush()

  def _kept(self, names) -> list[list[str]]:
    try:
      with open(self._path, encoding='utf-8', newline='') as file:
        text = file.read()
    except (FileNotFoundError, UnicodeDecodeError):
      return []
    whole, _, _ = text.rpartition('\n')
    header, *rows = [*csv.reader(whole.splitlines(keepends=True))] or [[]]
    if header != self._columns:
      return []
    kept = []
    for name, row in zip(names, rows):
      if len(row) != len(self._columns) or row[0] != name:
        break
      kept.append(row)
    return kept


def _columns(classes: Sequence[str]) -> list[str]:
  ranks = range(1, min(_MORE, len(classes) - 1) + 1)
  more = [f'{name}_{rank + 1}' for rank in ranks for name in ('class', 'probability')]
  return ['file', 'class', 'probability', *more]


def _row(file: str, scores: np.ndarray | None, classes: Sequence[str]) -> list[str]:
  columns = len(_columns(classes))
  if scores is None:
    return [file, *[''] * (columns - 1)]
  best = np.argsort(-scores, kind='stable')[: (columns - 1) // 2]
  named = [(classes[label], f'{scores[label]:.6g}') for label in best]
  return [file, *(value for pair in named for value in pair)]
