"""Phase 3: score every model of the pool on every task, without training any (EXP §5)."""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import pandas as pd
from absl import logging

from experts.data import batches
from experts.models import adapters, resnet, weights
from experts.phases import members, tasks
from experts.reporting import statistics, tables
from experts.selection import knn, pool
from experts.training.board import Board
from experts.training.progress import Progress

# Adapter experts of one backbone are embedded together, that many at once.
_ADAPTERS_AT_ONCE = 8
COLUMNS = ('task', 'model', 'kind', 'strategy', 'score', 'low', 'high', 'ties', 'duplicates')


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves scores.csv, a row for each task and model."""
  path = pool_path(config, workdir)
  settings, candidates = pool.read_model(path), pool.read(path)
  model = members.make_model(settings)
  loaded = tasks.load_all(config)
  images = [_load_images(task, settings, config) for task in loaded]
  rows = []
  with Progress(len(candidates) * len(loaded), description='select') as progress:
    # Model outer, task inner: weights are read once, and memory does not grow with the pool.
    for group, params in _groups(candidates, os.path.dirname(path)):
      for task, (pixels, labels) in zip(loaded, images, strict=True):
        embeddings = embed(model, params, pixels, config.run.evaluation_batch)
        scores = _score(group, task, embeddings, labels)
        rows += scores
        progress.update(
          len(rows), len(group) * len(labels), {'knn': max(row['score'] for row in scores)}
        )
  scores = pd.DataFrame(rows, columns=COLUMNS).sort_values(
    ['task', 'score'], ascending=[True, False], kind='stable'
  )
  write_csv(scores, f'{workdir}/scores.csv')
  board.text('select', 0, {'scores': tables.to_markdown(scores)})
  for name, part in scores.groupby('task'):
    board.histograms('select', 0, {f'knn_accuracy/{name}': part.score.to_numpy()})


def pool_path(config: members.Config, workdir: str) -> str:
  """The pool that the config names, or the workdir's own."""
  return os.path.expanduser(config.pool) if config.pool else f'{workdir}/pool.json'


def write_csv(frame: pd.DataFrame, path: str) -> None:
  """Writes a table that appears under its name only when it is complete."""
  frame.to_csv(f'{path}.tmp', index=False, float_format='%.6g')
  os.replace(f'{path}.tmp', path)


def load_member(member: pool.Member, folder: str) -> dict:
  """Reads a model's parameter trees and checks that they are those the pool was made with."""
  own = weights.load(os.path.join(folder, member.weights))
  if weights.content_hash(own) != member.hash:
    raise ValueError(
      f'{member.weights}: not the weights that the pool lists for {member.name!r} (hashes differ); '
      'run the phase that makes them again'
    )
  if not member.backbone:
    return own
  return {**weights.load(os.path.join(folder, member.backbone)), **own}


def embed(model: resnet.ResNet, params: dict, pixels: np.ndarray, batch_size: int) -> np.ndarray:
  """Embeds images with every model of a group.

  Args:
    model: the backbone.
    params: 'backbone', and for a bank of E adapter experts 'bank'.
    pixels: uint8 [N, S, S, 3].
    batch_size: images of one pass.

  Returns:
    float32 [E, N, D]; E is 1 without a bank.
  """
  program = _program(model)
  batch_size = min(batch_size, len(pixels))
  parts = []
  for start in range(0, len(pixels), batch_size):
    batch = pixels[start : start + batch_size]
    # One shape, one program: the last batch is filled up and cut again.
    filled = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
    parts.append(np.asarray(program(params, filled))[:, : len(batch)])
  return np.concatenate(parts, axis=1)


@functools.cache
def _program(model: resnet.ResNet):
  @jax.jit
  def program(params, pixels):
    images = resnet.normalise(pixels)
    if 'bank' in params:
      return adapters.embed_bank(model, params['backbone'], params['bank'], images)
    return resnet.forward(model, {'backbone': params['backbone']}, images)[1][None]

  return program


def _groups(
  candidates: Sequence[pool.Member], folder: str
) -> Iterator[tuple[list[pool.Member], dict]]:
  """Models that are embedded in one pass: a whole network alone, adapters of one backbone together."""
  for (kind, backbone), group in itertools.groupby(candidates, lambda m: (m.kind, m.backbone)):
    group = list(group)
    if kind != 'adapter':
      for member in group:
        yield [member], {'backbone': load_member(member, folder)['backbone']}
      continue
    shared = jax.device_put(weights.load(os.path.join(folder, backbone))['backbone'])
    for start in range(0, len(group), _ADAPTERS_AT_ONCE):
      chunk = group[start : start + _ADAPTERS_AT_ONCE]
      bank = [load_member(member, folder)['adapter'] for member in chunk]
      yield chunk, {'backbone': shared, 'bank': jax.tree.map(lambda *x: np.stack(x), *bank)}


def _load_images(task: tasks.Task, settings: dict, config: members.Config):
  """Decodes a task's training images once, as the pool's models want them."""
  transform = members.eval_transform(settings['size'], settings['resize'])
  held = batches.in_memory(task.train, task.all, transform, config.image.undecodable)
  return np.stack([held.image(i) for i in range(len(held))]), held.labels


def _score(group, task, embeddings, labels) -> list[dict]:
  try:
    result = knn.leave_one_out(embeddings, labels)
  except ValueError as error:
    names = ', '.join(member.name for member in group)
    raise ValueError(f'task {task.name!r}, models {names}: {error}') from error
  rows = []
  for i, member in enumerate(group):
    low, high = statistics.wilson(int(result.correct[i].sum()), len(labels))
    rows.append(
      {
        'task': task.name,
        'model': member.name,
        'kind': member.kind,
        'strategy': 'knn',
        'score': float(result.accuracy[i]),
        'low': low,
        'high': high,
        'ties': float(result.ties[i]),
        'duplicates': int(result.duplicates[i]),
      }
    )
    logging.debug('%s', rows[-1])
  return rows
