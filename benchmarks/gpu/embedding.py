"""Part 1: a search, that is embedding a task's images with 240 experts and scoring them, weights read meanwhile.

    python -m benchmarks.gpu.embedding

Full experts, their files in the host's memory (just written, so the system holds them) and then on the disk (the system
is told to drop them), and adapters over one backbone. `idle` is the share of the time that the device would not need for
embedding alone, with weights and images on it already. PyTorch: the same network and images, weights on the device or
copied to it from arrays in the host's memory, without files or checks.
"""

import functools
import os
import shutil
import statistics
import tempfile
import time
from concurrent import futures

import jax
import numpy as np
from absl import app

from benchmarks.gpu import measure, peer
from experts.devices import make_mesh
from experts.models import ours, resnet, weights
from experts.selection import embed, knn, networks, pool
from launch.dry_run import flops

_PART = 'embedding'
_SECONDS_TO_WRITE = 25
_PAPER = 'under 2 h on a V100'
_ROUNDS = 5


class _Search:
  """A task and a pool of random networks."""

  def __init__(self, folder: str):
    self.folder, small = folder, measure.SMALL.value
    self.model, self.side = measure.network()
    self.experts, self.images, self.batch = (6, 20, 8) if small else (240, 1000, 250)
    params = measure.random_params(self.model, 10)
    self.params = {'backbone': params['backbone']}
    self.size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
    pixels = measure.random_images(self.images, self.side)
    self.task = embed.Images('task', self.images, lambda *_: pixels, 'random')
    self.pixels = pixels
    self.labels = np.random.default_rng(1).integers(self.images // 10, size=self.images)
    dtype = np.dtype(self.model.dtype).name
    self.settings = {**ours.fields(self.model), 'dtype': dtype, 'size': self.side, 'resize': 0}

  def write(self, number: int, kind: str) -> list[pool.Member]:
    """Writes members of a kind; fewer files than members if the disk is slow or small, then they share them."""
    if kind == 'adapter':
      weights.save(f'{self.folder}/base.npz', self.params)
    content = weights.content_hash(self.params)
    free = shutil.disk_usage(self.folder).free // (8 * self.size)
    deadline = time.monotonic() + _SECONDS_TO_WRITE
    threads = max(1, min(8, (os.cpu_count() or 1) // 2))
    with futures.ThreadPoolExecutor(threads) as writers:
      pending = [
        writers.submit(self._write, i, kind, content, deadline)
        for i in range(min(number, max(1, free)))
      ]
    written = [one.result() for one in pending]
    written = [one for one in written if one]
    return [written[i % len(written)] for i in range(number)]

  def _write(self, i, kind, base, deadline):
    if i and time.monotonic() > deadline:
      return None
    if kind == 'adapter':
      tree = {'adapter': measure.random_adapter(self.model, i)}
      shared = {'backbone': 'base.npz', 'trained_from': base}
    else:
      tree = jax.tree.map(lambda leaf: leaf * np.float32(1 + i / 1000), self.params)
      shared = {}
    weights.save(f'{self.folder}/{kind}{i}.npz', tree)
    return pool.Member(
      f'{kind}{i}', kind, '', None, 0, self.size, self.model.embedding_dim, f'{kind}{i}.npz',
      weights.content_hash(tree), **shared,
    )  # fmt: skip

  def run(self, members: list[pool.Member]) -> list[float]:
    """Embeds and scores with all members; seconds of each unit of them."""
    times, last = [], time.perf_counter()
    for part in embed.embed_pool(members, self.folder, [self.task], self.settings, self.batch):
      knn.leave_one_out(part.embeddings, self.labels)
      times.append(time.perf_counter() - last)
      last = time.perf_counter()
    return times

  def alone(self, members: list[pool.Member]) -> float:
    """Seconds of the device for one unit, with weights and images on it; medians."""
    unit, groups = networks.units(members, 1)[0]
    mesh = make_mesh(groups, jax.local_devices()[:1])
    _, params, _ = networks.load_unit(unit, self.folder, mesh, self.settings)
    images = list(networks.batches(mesh, self.pixels, self.batch))
    program = networks.make_program(ours.Network(self.model), mesh)
    run = lambda: [program(params, one) for one in images]
    run()
    return statistics.median(measure.clock(run) for _ in range(_ROUNDS))


def _drop(folder: str) -> None:
  """Asks the system to forget the files' content, so that it is read from the disk."""
  for name in os.listdir(folder):
    file = os.open(f'{folder}/{name}', os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def _operations(search: _Search) -> int:
  """Of one image."""
  images = jax.ShapeDtypeStruct((1, search.side, search.side, 3), np.float32)
  return flops.flops(
    jax.make_jaxpr(lambda *args: resnet.forward(search.model, *args))(search.params, images)
  )


def _write(search: _Search, kind: str) -> list[pool.Member]:
  started = time.perf_counter()
  members = search.write(search.experts, kind)
  files = {member.weights for member in members}
  size = sum(os.path.getsize(f'{search.folder}/{name}') for name in files)
  measure.record(
    _PART, f'{kind}: files', seconds=time.perf_counter() - started, files=len(files), gigabytes=size / 1e9
  )  # fmt: skip
  return members


def _measure(search: _Search, kind: str, members: list[pool.Member]) -> None:
  unit = len(networks.units(members, 1)[0][0])
  started = time.perf_counter()
  search.run(members[:unit])
  measure.record(
    _PART, f'{kind}: first unit, with compilation', seconds=time.perf_counter() - started
  )
  alone = search.alone(members) / unit
  operations = _operations(search) * search.images
  measure.record(
    _PART, f'{kind}: device alone', seconds_a_model=alone, images_per_s=search.images / alone,
    of_product=operations / alone / measure.ceiling('bfloat16 product'),
  )  # fmt: skip
  _whole(search, f'{kind}: weights in memory', members, alone, operations)
  if kind == 'full':
    _drop(search.folder)
    # Those that share a file would find it in memory.
    distinct = list({member.weights: member for member in members}.values())
    _whole(search, f'{kind}: weights on disk', distinct, alone, operations)


def _whole(search, form, members, alone, operations):
  started = time.perf_counter()
  times = search.run(members)
  total = time.perf_counter() - started
  experts = len(members)
  measure.record(
    _PART, form, experts=experts, images=search.images, seconds=total,
    seconds_for_240=total / experts * 240, unit_median_s=statistics.median(times),
    unit_worst_s=max(times), idle=1 - alone * experts / total,
    of_product=operations * experts / total / measure.ceiling('bfloat16 product'),
    limit_s=operations * experts / measure.ceiling('bfloat16 product'),
    copying_limit_s=sum(4 * (m.parameters if m.kind == 'full' else 0) for m in members) / measure.ceiling('to the device'),
    paper=_PAPER,
  )  # fmt: skip


def _against_torch(search: _Search, torch: peer.Peer, full: list[pool.Member]) -> None:
  forms = {'ours, weights on the device': lambda: search.alone(full)}
  forms |= {name: functools.partial(torch.seconds, name) for name in _requests(search)}
  for name, seconds in measure.in_turn(forms, _ROUNDS).items():
    measure.record(
      _PART, name, seconds_a_model=seconds, images_per_s=search.images / seconds,
      seconds_for_240=240 * seconds,
    )  # fmt: skip


def _requests(search):
  common = {
    'what': 'forward', 'number': search.images, 'batch': search.batch, 'side': search.side,
    'compiled': not measure.SMALL.value,
  }  # fmt: skip
  return {
    'torch, weights on the device': {**common, 'streamed': 0},
    'torch, weights in memory': {**common, 'streamed': 4},
  }


def main(_):
  with tempfile.TemporaryDirectory() as folder, peer.Peer() as torch:
    search = _Search(folder)
    for name, request in _requests(search).items():
      torch.ask(do='build', name=name, **request)
    members = {kind: _write(search, kind) for kind in ('full', 'adapter')}
    # Nothing is measured while PyTorch compiles.
    for name in _requests(search):
      with measure.guarded(_PART, name):
        measure.record(_PART, f'{name}: first run', seconds=torch.reply()['first'])
    for kind, part in members.items():
      with measure.guarded(_PART, kind):
        _measure(search, kind, part)
    with measure.guarded(_PART, 'torch'):
      _against_torch(search, torch, members['full'])


if __name__ == '__main__':
  app.run(main)
