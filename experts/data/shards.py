"""Writes images into shards of a TFDS data set, by several processes that may be stopped at any time."""

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter

from experts.data import archives, prepared
from experts.data.hierarchy import Hierarchy

SPLITS = ('train', 'validation')
# Every shard is an open file of each reader, and a process often may have no more than 1,024.
_MOST = 384
_LEAST_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Piece:
  """One of `parts` equal stretches of a source of one class."""

  label: int
  source: archives.Source
  part: int
  parts: int

  @property
  def size(self) -> int:
    return self.source.size // self.parts


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be written; the same in every process, and again after a restart.

  Attributes:
    name: of the data set.
    folder: where it is being built.
    tree: the classes and their ancestors.
    first: an image of every class, (source, member) names, which trains in any case.
    pieces: those of every shard.
    validation: the share of images that are held out.
    rest: a hash of all that the shards have in common.
  """

  name: str
  folder: pathlib.Path
  tree: Hierarchy
  first: tuple[tuple[str, str], ...]
  pieces: tuple[tuple[Piece, ...], ...]
  validation: float
  rest: str

  def file(self, split: str, number: int) -> pathlib.Path:
    """A shard, named as TFDS wants."""
    return self.folder / (
      f'{self.name}-{split}.array_record-{number:05d}-of-{len(self.pieces):05d}'
    )

  def record(self, number: int) -> dict[str, Any]:
    """What was written down when the shard was complete; empty before, or if it has other sources now."""
    path = self.folder / 'shards' / f'{number:05d}.json'
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get('key') == self._key(number) else {}

  def complete(self, number: int, record: Mapping[str, Any]) -> None:
    """Writes down that the shard is complete."""
    path = self.folder / 'shards' / f'{number:05d}.json'
    write_text(path, json.dumps({'key': self._key(number), **record}))

  def _key(self, number: int) -> str:
    pieces = [
      (p.label, self.first[p.label], p.source.key, p.part, p.parts) for p in self.pieces[number]
    ]
    return digest([self.rest, len(self.pieces), pieces])


def deal(
  sources: Sequence[Sequence[archives.Source]], number: int = 0
) -> tuple[tuple[Piece, ...], ...]:
  """Deals sources out to shards by a hash of their names, large ones in parts.

  Args:
    sources: those of every class.
    number: of shards; 0: as suits the size.

  Returns:
    The pieces of every shard, classes mixed.
  """
  total = sum(source.size for group in sources for source in group)
  number = number or min(max(math.ceil(total / _LEAST_BYTES), 1), _MOST)
  shards = [[] for _ in range(number)]
  for label, group in enumerate(sources):
    for source in group:
      parts = max(source.size * number // total, 1)
      for part in range(parts):
        place = hash64(f'{source.name}/{part}') % number
        shards[place].append(Piece(label, source, part, parts))
  return tuple(map(tuple, shards))


def features(tree: Hierarchy) -> tfds.features.FeaturesDict:
  """What an example holds."""
  names = list(tree.nodes)
  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'label': tfds.features.ClassLabel(names=names[: tree.num_leaves]),
      'labels': tfds.features.Sequence(tfds.features.ClassLabel(names=names)),
      'file_name': tfds.features.Text(),
    }
  )


def write_missing(plan: Plan, processes: int) -> None:
  """Writes the shards that are not there yet.

  Args:
    plan: what to write.
    processes: how many work.

  Raises:
    archives.Damaged: some tars are cut off or garbled. All other shards have been written.
    OSError: something cannot be read or written.
    concurrent.futures.BrokenExecutor: a process was killed.
  """
  sizes = [sum(piece.size for piece in pieces) for pieces in plan.pieces]
  # The largest first, so that none of them is left to one process at the end.
  missing = sorted(
    (n for n in range(len(sizes)) if not plan.record(n)), key=lambda n: sizes[n], reverse=True
  )
  if not missing:
    return
  processes = min(processes, len(missing))
  logging.info(
    '%s: %d of %d shards to write, by %d processes',
    plan.folder, len(missing), len(sizes), processes,
  )  # fmt: skip
  context = multiprocessing.get_context('spawn')
  read = context.Value('q', sum(sizes) - sum(sizes[n] for n in missing))
  damaged = []
  with (
    tqdm.tqdm(
      desc='writing', total=sum(sizes), initial=read.value, unit='B', unit_scale=True, mininterval=1
    ) as bar,
    concurrent.futures.ProcessPoolExecutor(processes, context, _start, (plan, read)) as pool,
  ):
    waiting = {pool.submit(_write_shard, number) for number in missing}
    while waiting:
      ended, waiting = concurrent.futures.wait(waiting, 1, concurrent.futures.FIRST_COMPLETED)
      bar.update(read.value - bar.n)
      for future in ended:
        error = future.exception()
        if isinstance(error, archives.Damaged):
          damaged += error.args
        elif error:
          pool.shutdown(wait=False, cancel_futures=True)
          raise error
  if damaged:
    raise archives.Damaged(*damaged)


def _start(plan: Plan, read) -> None:
  """Prepares a worker, which ends when the process that started it does, however that ends."""
  global _worker
  described = features(plan.tree)
  serializer = tfds.core.example_serializer.ExampleSerializer(described.get_serialized_info())

  def encode(example: Mapping[str, Any]) -> bytes:
    # The features of an example are a map, whose order is otherwise another in every process.
    proto = serializer.get_tf_example(described.encode_example(example))
    return proto.SerializeToString(deterministic=True)

  _worker = (plan, read, encode)
  signal.signal(signal.SIGINT, signal.SIG_DFL)

  def follow():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=follow, daemon=True).start()


def _write_shard(number: int) -> None:
  try:
    _write_files(number, *_worker)
  except RuntimeError as error:  # what the writer raises when the disk is full, say
    raise OSError(str(error)) from error


def _write_files(number: int, plan: Plan, progress, encode: Callable[[Mapping], bytes]) -> None:
  """Writes both splits' files of a shard, their labels, and last the record that it is complete."""
  labels = {split: [] for split in SPLITS}
  size = dict.fromkeys(SPLITS, 0)
  skipped = []
  begun = {split: f'{plan.file(split, number)}.writing' for split in SPLITS}
  # Images hardly compress, and to try takes longer than all the rest.
  writers = {
    split: ArrayRecordWriter(path, 'group_size:1,uncompressed') for split, path in begun.items()
  }
  for piece in plan.pieces[number]:
    left = piece.size

    def advance(by: int) -> int:
      with progress.get_lock():
        progress.value += by
      return by

    for member in piece.source.read(piece.part, piece.parts):
      left -= advance(min(len(member.data), left))
      name = f'{piece.source.name}/{member.name}'
      if fault := archives.fault(member):
        skipped.append(f'{name} {fault}')
        continue
      split = _split(plan, piece, member.name)
      record = encode(
        {
          'image': member.data,
          'label': piece.label,
          'labels': plan.tree.ancestors[piece.label],
          'file_name': name,
        }
      )
      writers[split].write(record)
      labels[split].append(piece.label)
      size[split] += len(record)
    advance(left)
  for split in SPLITS:
    writers[split].close()
    path = plan.file(split, number)
    os.replace(begun[split], path)
    np.save(prepared.labels_file(path), np.array(labels[split], np.int32))
  images = {split: len(labels[split]) for split in SPLITS}
  plan.complete(number, {'images': images, 'bytes': size, 'skipped': skipped})


def _split(plan: Plan, piece: Piece, member: str) -> str:
  # A class of few images must not lose all of them to validation.
  if tuple(plan.first[piece.label]) == (piece.source.name, member):
    return 'train'
  name = f'{plan.tree.nodes[piece.label]}/{os.path.basename(member)}'
  return 'validation' if hash64(name) < plan.validation * 2**64 else 'train'


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file at once or not at all."""
  begun = path.with_suffix('.writing')
  begun.write_text(text)
  os.replace(begun, path)


def hash64(text: str) -> int:
  """A number below 2^64, the same in every process and release."""
  data = text.encode('utf-8', 'surrogateescape')
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'little')


def digest(value: Any) -> str:
  """A hash of anything that JSON can write."""
  return f'{hash64(json.dumps(value)):016x}'
