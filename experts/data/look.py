"""Looks at every image once: what cannot be decoded, what is there twice, and the pixels that will be needed again."""

import collections
import dataclasses
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures

import cv2
import numpy as np

from experts.data import transforms
from experts.data.dataset import Dataset, UndecodableImage

# Of the memory that is free when a run begins, what images may take that are held.
SHARE = 0.25
# Images that are handed to the threads at a time, so that an interruption does not wait for all.
_AHEAD = 64


class Room:
  """How much memory images may still take, in bytes."""

  def __init__(self, size: int):
    self.left = size

  def take(self, size: int) -> bool:
    """Whether so much was left, and is now taken."""
    if size > self.left:
      return False
    self.left -= size
    return True


class Held:
  """Images of one data set in memory, resized to some sides; a `dataset.Memory`."""

  def __init__(self, size: int, room: Room):
    """Holds nothing.

    Args:
      size: images of the data set.
      room: what is left for all data sets together.
    """
    self._size, self._room = size, room
    # Side -> the place of each image in the array, -1 where it is in none, and the array.
    self._held: dict[int, tuple[np.ndarray, np.ndarray]] = {}

  def get(self, index: int, side: int) -> np.ndarray | None:
    rows, pixels = self._held.get(side, (None, None))
    return None if rows is None or rows[index] < 0 else pixels[rows[index]]

  def holds(self, indices: np.ndarray, side: int) -> bool:
    return not len(self.missing(indices, side))

  def missing(self, indices: np.ndarray, side: int) -> np.ndarray:
    """Those that are not held at a side."""
    indices = np.asarray(indices)
    return indices[self._held[side][0][indices] < 0] if side in self._held else indices

  def fits(self, indices: np.ndarray, side: int) -> bool:
    """Whether there is room for these at a side."""
    return 3 * side**2 * len(indices) <= self._room.left

  def reserve(self, indices: np.ndarray, side: int) -> np.ndarray | None:
    """Memory for these at a side beside those that are held: uint8 [N, side, side, 3]; none where it does not fit."""
    if not self._room.take(3 * side**2 * len(indices)):
      return None
    return np.empty((len(indices), side, side, 3), np.uint8)

  def add(self, indices: np.ndarray, side: int, pixels: np.ndarray) -> None:
    """Holds what was reserved, from now on."""
    rows, before = self._held.get(side, (np.full(self._size, -1, np.int64), pixels[:0]))
    rows[indices] = len(before) + np.arange(len(indices))
    self._held[side] = rows, np.concatenate([before, pixels]) if len(before) else pixels


@dataclasses.dataclass(frozen=True)
class Seen:
  """What was found.

  Attributes:
    faults: index -> why it cannot be decoded, a line that names the file.
    prints: index -> what images of the very same pixels share, and no others.
  """

  faults: Mapping[int, str]
  prints: Mapping[int, tuple]


def look(
  dataset: Dataset,
  indices: np.ndarray,
  sides: Iterable[int] = (),
  tick: Callable[[], None] = lambda: None,
) -> Seen:
  """Decodes images, each once, in threads.

  Args:
    dataset: whose `memory`, where it is `Held`, keeps them.
    indices: int [N], each once.
    sides: to which the images are resized and held; one that does not fit is left out. 0 is none.
    tick: called after each image.
  """
  indices = np.asarray(indices, np.int64)
  held = dataset.memory
  places = {}
  for side in sorted(set(sides) - {0}) if held else ():
    if (pixels := held.reserve(indices, side)) is not None:
      places[side] = pixels

  def one(row: int) -> tuple[str, tuple]:
    try:
      image = dataset.image(indices[row])
    except UndecodableImage as error:
      for pixels in places.values():
        pixels[row] = 0
      return str(error), ()
    for side, pixels in places.items():
      pixels[row] = transforms.resize(image, side)
    return '', _print(image)

  faults, prints = {}, {}
  with futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16), 'look') as pool:
    for start in range(0, len(indices), _AHEAD):
      rows = range(start, min(start + _AHEAD, len(indices)))
      for row, (fault, own) in zip(rows, pool.map(one, rows), strict=True):
        if fault:
          faults[int(indices[row])] = fault
        else:
          prints[int(indices[row])] = own
        tick()
  for side, pixels in places.items():
    held.add(indices, side, pixels)
  return Seen(faults, prints)


def copies(prints: Iterable[tuple]) -> np.ndarray:
  """int [N], the same number for images of the same pixels, counted from 0 in their order."""
  numbers = collections.defaultdict(lambda: len(numbers))
  return np.array([numbers[own] for own in prints], np.int64)


def free_memory() -> int:
  """Bytes that are free on the machine, or all that the container may take that this runs in, if that is less."""
  free = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  try:
    with open('/proc/meminfo', encoding='ascii') as file:
      free += [1024 * int(line.split()[1]) for line in file if line.startswith('MemAvailable:')]
  except OSError:  # not Linux
    pass
  for path in _LIMITS:
    try:
      with open(path, encoding='ascii') as file:
        free.append(int(file.read()))
    except (OSError, ValueError):  # no container, or one without a limit
      continue
  return min(free)


_LIMITS = ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes')


def _print(image: np.ndarray) -> tuple:
  # A cryptographic hash of a photo takes a third as long as decoding it. The sum alone could meet by chance, among
  # millions of images; not together with 3,072 of the samples.
  few = cv2.resize(image, (32, 32), interpolation=cv2.INTER_NEAREST)
  return image.shape, zlib.crc32(np.ascontiguousarray(image)), hashlib.sha256(few).digest()
