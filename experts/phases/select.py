"""Phase 4: score every model of the pool on every task, without training any (EXP §5)."""

import functools
import itertools
import os
import time
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd
from absl import logging
from jax.sharding import PartitionSpec as P

from experts.data import batches
from experts.models import adapters, resnet, weights
from experts.phases import members, tasks
from experts.reporting import statistics, tables
from experts.selection import knn, pool
from experts.training import hosts, population
from experts.training import mesh as meshes
from experts.training.board import Board
from experts.training.mesh import MEMBER
from experts.training.progress import Progress

COLUMNS = ('task', 'model', 'kind', 'strategy', 'score', 'low', 'high', 'ties', 'duplicates')


def run(config: members.Config, workdir: str, board: Board) -> None:
  """Leaves scores.csv, a row for each task and model.

  Models are shared out over processes and devices, each of which embeds all images with its own: only the models that a
  host embeds are read there, and nothing crosses the network but the scores.
  """
  path = pool_path(config, workdir)
  settings, candidates = pool.read_model(path), pool.read(path)
  model = members.make_model(settings)
  loaded = tasks.load_all(config)
  mine = units(candidates, jax.local_device_count())[jax.process_index() :: jax.process_count()]
  images = [_load_images(task, settings, config) for task in loaded] if mine else []
  rows, seconds = [], dict.fromkeys(config.tasks, 0.0)
  total = sum(len(group) for group, _ in mine) * len(loaded)
  with Progress(total, description='select') as progress:
    # Model outer, task inner: weights are read once, and memory does not grow with the pool.
    for group, devices in mine:
      mesh = meshes.make(devices, jax.local_device_count() // devices, jax.local_devices())
      params = _load_group(group, os.path.dirname(path), mesh)
      for task, (pixels, labels) in zip(loaded, images, strict=True):
        began = time.monotonic()
        embeddings = embed(model, mesh, params, pixels, config.run.evaluation_batch)
        scores = _score(group, task, embeddings, labels)
        rows += scores
        seconds[task.name] += time.monotonic() - began
        progress.update(
          len(rows), len(group) * len(labels), {'knn': max(row['score'] for row in scores)}
        )
  # Hosts work side by side.
  seconds = {name: max(one[name] for one in hosts.gather(seconds)) for name in seconds}
  order = {member.name: place for place, member in enumerate(candidates)}
  rows = sorted(itertools.chain(*hosts.gather(rows)), key=lambda row: order[row['model']])
  if not hosts.first():
    return
  scores = pd.DataFrame(rows, columns=COLUMNS).sort_values(
    ['task', 'score'], ascending=[True, False], kind='stable'
  )
  members.write_csv(scores, f'{workdir}/scores.csv')
  members.write_costs(
    workdir,
    'selection',
    [
      {'task': t.name, 'images': len(candidates) * len(t.all), 'seconds': seconds[t.name]}
      for t in loaded
    ],
  )
  board.text('select', 0, {'scores': tables.to_markdown(scores)})
  for name, part in scores.groupby('task'):
    board.histograms('select', 0, {f'knn_accuracy/{name}': part.score.to_numpy()})


def pool_path(config: members.Config, workdir: str) -> str:
  """The pool that the config names, or the workdir's own, which experts make of it."""
  own = not config.pool or 'experts' in config.phases
  return f'{workdir}/pool.json' if own else os.path.expanduser(config.pool)


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


def embed(
  model: resnet.ResNet, mesh: jax.sharding.Mesh, params: dict, pixels: np.ndarray, batch_size: int
) -> np.ndarray:
  """Embeds images with every model of a group.

  Args:
    model: the backbone.
    mesh: of this process's devices; the models along 'population', the images along 'data'.
    params: on the mesh; 'backbone' with a leading axis of E models, or one 'backbone' and a 'bank' of E adapters.
    pixels: uint8 [N, S, S, 3].
    batch_size: most images of one pass.

  Returns:
    float32 [E, N, D].
  """
  program = make_program(model, mesh)
  shards = mesh.shape['data']
  batch_size = -(-min(batch_size, len(pixels)) // shards) * shards
  parts = []
  for start in range(0, len(pixels), batch_size):
    batch = pixels[start : start + batch_size]
    # One shape, one program: the last batch is filled up and cut again.
    filled = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
    parts.append(np.asarray(program(params, filled))[:, : len(batch)])
  return np.concatenate(parts, axis=1)


@functools.cache
def make_program(model: resnet.ResNet, mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
  """The embedding of one batch: (params, uint8 images [B, S, S, 3]) -> [E, B, D]; see `embed`."""
  unroll = mesh.devices.flat[0].platform == 'cpu'

  def of_bank(params, images):
    return adapters.embed_bank(model, params['backbone'], params['bank'], images)

  def of_models(params, images):
    def one(_, backbone):
      return (), resnet.forward(model, {'backbone': backbone}, images)[1]

    return population.each_member(one, (), params['backbone'], 1, unroll)[1]

  def program(params, pixels):
    bank = 'bank' in params
    return jax.shard_map(
      lambda params, pixels: (of_bank if bank else of_models)(params, resnet.normalise(pixels)),
      mesh=mesh,
      in_specs=(placement(bank), P('data')),
      out_specs=P('population', 'data'),
    )(params, pixels)

  return jax.jit(program)


def placement(bank: bool) -> dict[str, P]:
  """Where a group's parameters lie on the mesh: models and adapters are spread, a shared backbone is everywhere."""
  return {'backbone': P(), 'bank': MEMBER} if bank else {'backbone': MEMBER}


def units(candidates: Sequence[pool.Member], devices: int) -> list[tuple[list[pool.Member], int]]:
  """Models that are embedded in one pass, and over how many groups of a process's devices."""
  found = []
  for (bank, _), group in itertools.groupby(
    candidates, lambda m: (m.kind == 'adapter', m.backbone)
  ):
    group = list(group)
    while group:
      groups = max(n for n in range(1, min(devices, len(group)) + 1) if devices % n == 0)
      each = min(members.ADAPTERS_AT_ONCE, len(group) // groups) if bank else 1
      found.append((group[: groups * each], groups))
      group = group[groups * each :]
  return found


def _load_group(group: Sequence[pool.Member], folder: str, mesh: jax.sharding.Mesh) -> dict:
  bank = group[0].kind == 'adapter'
  if bank:
    backbone = weights.load(os.path.join(folder, group[0].backbone))['backbone']
    own = [load_member(member, folder)['adapter'] for member in group]
    params = {'backbone': backbone, 'bank': population.stack(own)}
  else:
    own = [load_member(member, folder)['backbone'] for member in group]
    params = {'backbone': population.stack(own)}
  return {name: meshes.place(params[name], mesh, spec) for name, spec in placement(bank).items()}


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
