"""Batches of images, each a function of (member, step) alone.

Every example has a position: step x batch size + its row in the whole batch. Its place in the
shuffled slice and its augmentation are functions of the member's seed and that position, so any step
can be made by itself: resuming costs nothing, and neither the number of hosts nor the other members
change what a member sees.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from experts.data.dataset import MEND, Dataset, UndecodableImage, from_arrays
from experts.data.orders import Order, generator, shuffled
from experts.data.transforms import Transform

POLICIES = ('raise', 'skip')
# Rows made by one call of a worker: enough to hide Grain's cost, and even, for mixup's pairs.
_CHUNK = 32


class Member(NamedTuple):
  """What one member of the population is trained on."""

  dataset: Dataset
  indices: np.ndarray  # int [n], the images of its slice
  seed: int
  order: Order = shuffled  # of the slice's images
  mixup: float = 0.0  # the alpha of Beta(alpha, alpha); 0: no mixup


def train_batches(
  members: Sequence[Member],
  transform: Transform,
  batch_size: int,
  steps: range,
  *,
  shard: tuple[int, int] = (0, 1),
  undecodable: str = 'raise',
  threads: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """The training batches of a population, from any step on.

  Args:
    members: the data of each member. What those of the same data, indices, seed, order and mixup see is made once.
    transform: applied to every image.
    batch_size: examples of one member in one step, over all hosts.
    steps: those to make, one after another.
    shard: (index, number) of this host: it makes one contiguous block of every batch.
    undecodable: 'raise', or 'skip': the next image of the slice stands in, and it is logged.
    threads: images decoded at a time; 0: as suits the data and the machine.

  Returns:
    Iterator over one dict a step: 'image' uint8 [P, B, S, S, 3] and 'label' int32 [P, B], where B is
    this host's part of the batch; if any member has mixup, which mixes examples 2k and 2k+1, also
    'partner' int32 [P, B] and 'weight' float32 [P, B], the target being weight * label +
    (1 - weight) * partner.

  Raises:
    ValueError: a batch that the hosts cannot share, an empty slice, an unknown policy.
    UndecodableImage: while iterating, under 'raise', or when a slice has no decodable image.
  """
  block = _block(batch_size, shard)
  faults = _Faults(undecodable)
  members = [Member(*member) for member in members]
  mixes = _mixes(members, len(block))
  makers, which = _makers(members, transform, faults)
  rows = [(maker, row) for maker in makers for row in block]

  def make(rows: Sequence[tuple['_Maker', int]], step: int) -> dict[str, np.ndarray]:
    places = [(maker, step * batch_size + row) for maker, row in rows]
    return _examples(places, transform.size, mixes)

  threads = threads or _threads([(one.dataset, one.indices) for one in members], transform)
  stream = _stream(make, rows, (len(makers), len(block)), steps, threads)
  if len(makers) < len(members):
    stream = ({key: value[which] for key, value in batch.items()} for batch in stream)
  return stream


def eval_batches(
  dataset: Dataset,
  indices: np.ndarray,
  transform: Transform,
  batch_size: int,
  *,
  shard: tuple[int, int] = (0, 1),
  undecodable: str = 'raise',
  threads: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """Every example exactly once, over all hosts together.

  Args:
    dataset: the images.
    indices: int [N], those to evaluate, in this order.
    transform: applied to every image; not a random one.
    batch_size: examples in one batch, over all hosts.
    shard: (index, number) of this host; every host makes the same number of batches.
    undecodable: 'raise', or 'skip': masked out and logged.
    threads: images decoded at a time; 0: as suits the data and the machine.

  Returns:
    Iterator over dicts: 'image' uint8 [B, S, S, 3], 'label' int32 [B] and 'mask' bool [B], False
    for the padding of the last batch; B is this host's part of the batch.

  Raises:
    ValueError: a batch that the hosts cannot share, no example, a random transform.
    UndecodableImage: while iterating, under 'raise'.
  """
  block = _block(batch_size, shard)
  reader = _Reader(dataset, transform, _Faults(undecodable))
  indices = _checked(dataset, indices)
  labels = dataset.labels
  if transform.random:
    raise ValueError(f'evaluation needs a transform without chance, not {transform}')

  def make(rows: Sequence[int], step: int) -> dict[str, np.ndarray]:
    image = np.zeros((len(rows), transform.size, transform.size, 3), np.uint8)
    label, mask = np.zeros(len(rows), np.int32), np.zeros(len(rows), bool)
    for i, row in enumerate(rows):
      position = step * batch_size + row
      if position < len(indices):
        index = int(indices[position])
        if reader.fill(image[i], index):
          label[i], mask[i] = labels[index], True
    return {'image': image, 'label': label, 'mask': mask}

  steps = range(-(-len(indices) // batch_size))
  threads = threads or _threads([(dataset, indices)], transform)
  return _stream(make, list(block), (len(block),), steps, threads)


def in_memory(
  dataset: Dataset, indices: np.ndarray, transform: Transform, undecodable: str = 'raise'
) -> Dataset:
  """Decodes and transforms images once, for a small task that is read many times.

  Args:
    dataset: the images.
    indices: int [N], those to keep, in this order.
    transform: not a random one.
    undecodable: 'raise', or 'skip': left out.

  Returns:
    A data set of the (decodable) images, [S, S, 3] each.
  """
  size = min(len(indices), 256)
  parts = list(eval_batches(dataset, indices, transform, size, undecodable=undecodable))
  images, labels = (
    np.concatenate([part[key][part['mask']] for part in parts]) for key in ('image', 'label')
  )
  return from_arrays(dataset.name, images, labels, dataset.class_names, dataset.edges)


class _Faults:
  """Undecodable images: raised, or logged once each."""

  def __init__(self, policy: str):
    if policy not in POLICIES:
      raise ValueError(f'unknown policy {policy!r} for undecodable images; use raise or skip')
    self._policy = policy
    self._lock = threading.Lock()
    self._where: set[str] = set()

  def meet(self, error: UndecodableImage, where: str) -> None:
    if self._policy == 'raise':
      raise UndecodableImage(f'{error}: {MEND}')
    with self._lock:
      if where not in self._where:
        self._where.add(where)
        logging.warning('skipped (%d so far): %s', len(self._where), where)


class _Reader(NamedTuple):
  """Reads and transforms images of a data set."""

  dataset: Dataset
  transform: Transform
  faults: _Faults

  def fill(self, out: np.ndarray, index: int, rng: np.random.Generator | None = None) -> bool:
    """Writes an image to `out`; returns whether it can be decoded."""
    first = self.transform.first
    try:
      image = self.dataset.resized(index, first) if first else self.dataset.image(index)
      out[...] = self.transform.rest(image, rng)
    except UndecodableImage as error:
      self.faults.meet(error, self.dataset.where(index))
      return False
    return True


class _Maker:
  """Makes the examples of one member, each from its position alone."""

  def __init__(self, member: Member, transform: Transform, faults: _Faults):
    dataset, indices, seed, order, self._mixup = member
    self._reader = _Reader(dataset, transform, faults)
    self._indices = _checked(dataset, indices)
    # Read here, once: from Python 3.12 on threads that meet it unread would each read all labels.
    self._labels = dataset.labels
    # Three independent streams: the order, the augmentation, the mixing.
    state = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    self._row = order(len(self._indices), int(state[0]))
    self._augment, self._mix = state[1], state[2]

  def fill(self, out: np.ndarray, position: int) -> int:
    """Writes the image of a position to `out`; returns its label."""
    row = self._row(position)
    rng = generator(self._augment, position) if self._reader.transform.random else None
    for attempt in range(len(self._indices)):
      index = int(self._indices[(row + attempt) % len(self._indices)])
      if self._reader.fill(out, index, rng):
        return int(self._labels[index])
    name = self._reader.dataset.name
    raise UndecodableImage(
      f'{name}: none of the {len(self._indices)} images of the slice can be decoded'
    )

  def weight(self, position: int) -> float:
    if not self._mixup:
      return 1.0
    return generator(self._mix, position).beta(self._mixup, self._mixup)


def _mixes(members: Sequence[Member], examples: int) -> bool:
  """Whether any member has mixup, which takes the `examples` of a host in pairs."""
  if not members:
    raise ValueError('a population needs at least one member')
  if (least := min(member.mixup for member in members)) < 0:
    raise ValueError(f'mixup must be 0 or more, not {least}')
  mixes = any(member.mixup for member in members)
  if mixes and examples % 2:
    raise ValueError(f'mixup needs an even number of examples on each host, not {examples}')
  return mixes


def _makers(
  members: Sequence[Member], transform: Transform, faults: _Faults
) -> tuple[list[_Maker], list[int]]:
  """Makers of all that differs in what members see, and the place in them of each member's."""
  # A sweep's members differ in their learning rates and see the same images.
  makers: dict[tuple, _Maker] = {}
  which = []
  for member in members:
    key = (id(member.dataset), id(member.indices), *member[2:])
    if key not in makers:
      makers[key] = _Maker(member, transform, faults)
    which.append(list(makers).index(key))
  return list(makers.values()), which


def _examples(
  places: Sequence[tuple[_Maker, int]], size: int, mixes: bool
) -> dict[str, np.ndarray]:
  """The examples of makers at positions, `size` pixels wide; mixed, if any member's are."""
  image = np.empty((len(places), size, size, 3), np.uint8)
  label = np.empty(len(places), np.int32)
  for i, (maker, position) in enumerate(places):
    label[i] = maker.fill(image[i], position)
  if not mixes:
    return {'image': image, 'label': label}
  weight = np.array([maker.weight(position) for maker, position in places], np.float32)
  return _mix(image, label, weight)


def _mix(image: np.ndarray, label: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
  """Mixes rows 2k and 2k+1, each by its own weight."""
  other = np.arange(len(label)) ^ 1
  share = weight[:, None, None, None]
  mixed = share * image + (1 - share) * image[other]
  return {
    'image': np.rint(mixed).astype(np.uint8),
    'label': label,
    'partner': label[other],
    'weight': weight,
  }


def _block(batch_size: int, shard: tuple[int, int]) -> range:
  """The rows of every batch that this host makes."""
  index, number = shard
  if not 0 <= index < number:
    raise ValueError(f'shard {index} of {number} does not exist')
  if batch_size < 1 or batch_size % number:
    raise ValueError(f'a batch of {batch_size} cannot be shared equally by {number} hosts')
  part = batch_size // number
  return range(index * part, (index + 1) * part)


def _checked(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
  indices = np.asarray(indices)
  if not indices.size:
    raise ValueError(f'{dataset.name}: the slice holds no image')
  if indices.min() < 0 or indices.max() >= len(dataset):
    raise ValueError(
      f'{dataset.name}: index {indices.min() if indices.min() < 0 else indices.max()} is outside'
      f' its {len(dataset)} images'
    )
  return indices


def _threads(parts: Sequence[tuple[Dataset, np.ndarray]], transform: Transform) -> int:
  # Decoding leaves the interpreter to other threads; copying arrays does not, and many would fight.
  cheap = all(
    dataset.in_memory or (dataset.memory and dataset.memory.holds(indices, transform.first))
    for dataset, indices in parts
  )
  return 1 if cheap else min(os.cpu_count() or 1, 16)


def _stream(
  make: Callable[[Sequence, int], dict[str, np.ndarray]],
  rows: Sequence,
  shape: tuple[int, ...],
  steps: range,
  threads: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Makes chunks of rows in threads, ahead of time, and joins those of one step."""
  import grain  # Here, so that what makes no batches does without.

  chunks = [rows[first : first + _CHUNK] for first in range(0, len(rows), _CHUNK)]

  def chunk(number: int) -> dict[str, np.ndarray]:
    step, part = divmod(number, len(chunks))
    return make(chunks[part], step)

  def join(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {
      key: np.concatenate([part[key] for part in parts]).reshape(shape + first.shape[1:])
      for key, first in parts[0].items()
    }

  dataset = grain.MapDataset.range(steps.start * len(chunks), steps.stop * len(chunks)).map(chunk)
  # Two steps ahead: one being copied to the device, one being made.
  ahead = max(2 * len(chunks), threads)
  stream = dataset.to_iter_dataset(grain.ReadOptions(threads, ahead))
  return iter(stream.batch(len(chunks), batch_fn=join))
