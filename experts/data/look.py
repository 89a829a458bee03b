"""Looks at every image once: what cannot be decoded, what is there twice, and the pixels that will be needed again."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures

import cv2
import numpy as np

from experts.data.dataset import MEND, Dataset, UndecodableImage
from experts.data.transforms import Resize

# Of the memory that is free when a run begins, what images may take that are held.
SHARE = 0.25
# Of so many undecodable images each has a line.
_LISTED = 1000
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

  def give(self, size: int) -> None:
    """Takes less again."""
    self.left += size


class Held:
  """Images of one data set in memory, resized in some ways; a `dataset.Memory`."""

  def __init__(self, size: int, room: Room):
    """Holds nothing.

    Args:
      size: images of the data set.
      room: what is left for all data sets together.
    """
    self._size, self._room = size, room
    # How -> the place of each image in the array, -1 where it is in none, and the array.
    self._held: dict[Resize, tuple[np.ndarray, np.ndarray]] = {}

  def get(self, index: int, size: Resize) -> np.ndarray | None:
    rows, pixels = self._held.get(size, (None, None))
    return None if rows is None or rows[index] < 0 else pixels[rows[index]]

  def holds(self, indices: np.ndarray, size: Resize | None) -> bool:
    return not len(self.missing(indices, size))

  def missing(self, indices: np.ndarray, size: Resize) -> np.ndarray:
    """Those that are not held at a size."""
    indices = np.asarray(indices)
    return indices[self._held[size][0][indices] < 0] if size in self._held else indices

  def fits(self, indices: np.ndarray, size: Resize) -> bool:
    """Whether there is room for these at a size."""
    return 3 * size.side**2 * len(indices) <= self._room.left

  def reserve(self, indices: np.ndarray, size: Resize) -> np.ndarray | None:
    """Memory for these at a size beside those that are held: uint8 [N, side, side, 3]; none where it does not fit."""
    if not self._room.take(3 * size.side**2 * len(indices)):
      return None
    return np.empty((len(indices), size.side, size.side, 3), np.uint8)

  def add(self, indices: np.ndarray, size: Resize, pixels: np.ndarray) -> None:
    """Holds what was reserved, from now on."""
    rows, before = self._held.get(size, (np.full(self._size, -1, np.int64), pixels[:0]))
    rows[indices] = len(before) + np.arange(len(indices))
    self._held[size] = rows, np.concatenate([before, pixels]) if len(before) else pixels

  def clear(self) -> None:
    """Holds nothing any more."""
    self._room.give(sum(pixels.nbytes for _, pixels in self._held.values()))
    self._held = {}


@dataclasses.dataclass(frozen=True)
class Seen:
  """What was found.

  Attributes:
    faults: index -> why it cannot be decoded, a line that names the file.
    prints: index -> what images of the same pixels share; after `confirm`, and no others.
  """

  faults: Mapping[int, str]
  prints: Mapping[int, tuple]


def look(
  dataset: Dataset,
  indices: np.ndarray,
  sizes: Iterable[Resize | None] = (),
  tick: Callable[[], None] = lambda: None,
) -> Seen:
  """Decodes images, each once, in threads.

  Args:
    dataset: whose `memory`, where it is `Held`, keeps them.
    indices: int [N], each once.
    sizes: at which the images are held; one that does not fit is left out, None is none.
    tick: called after each image.
  """
  indices = np.asarray(indices, np.int64)
  held = dataset.memory
  places = {}
  for size in sorted(set(sizes) - {None}) if held else ():
    if (pixels := held.reserve(indices, size)) is not None:
      places[size] = pixels

  def one(row: int) -> tuple[str, tuple]:
    try:
      image = dataset.image(indices[row])
    except UndecodableImage as error:
      for pixels in places.values():
        pixels[row] = 0
      return str(error), ()
    for size, pixels in places.items():
      pixels[row] = size(image)
    return '', _print(image)

  faults, prints = {}, {}
  with _threads() as pool:
    for start in range(0, len(indices), _AHEAD):
      rows = range(start, min(start + _AHEAD, len(indices)))
      for row, (fault, own) in zip(rows, pool.map(one, rows), strict=True):
        if fault:
          faults[int(indices[row])] = fault
        else:
          prints[int(indices[row])] = own
        tick()
  for size, pixels in places.items():
    held.add(indices, size, pixels)
  return Seen(faults, prints)


def confirm(parts: Mapping[str, tuple[Dataset, Seen]]) -> dict[str, Seen]:
  """Tells apart what only looks like copies, by decoding just these again.

  Args:
    parts: name -> data set and what was seen of it.
  """
  counts = collections.Counter(own for _, seen in parts.values() for own in seen.prints.values())
  doubtful = [
    (part, index)
    for part, (_, seen) in parts.items()
    for index, own in seen.prints.items()
    if counts[own] > 1
  ]

  def whole(place: tuple[str, int]) -> tuple:
    part, index = place
    try:
      return (hashlib.sha256(np.ascontiguousarray(parts[part][0].image(index))).digest(),)
    except UndecodableImage:  # it has gone since
      return place

  with _threads() as pool:
    sure = dict(zip(doubtful, pool.map(whole, doubtful), strict=True))
  return {
    part: dataclasses.replace(
      seen,
      prints={index: own + sure.get((part, index), ()) for index, own in seen.prints.items()},
    )
    for part, (_, seen) in parts.items()
  }


def copies(prints: Iterable[tuple]) -> np.ndarray:
  """int [N], the same number for images of the same pixels, counted from 0 in their order."""
  numbers = collections.defaultdict(lambda: len(numbers))
  return np.array([numbers[own] for own in prints], np.int64)


def hold(dataset: Dataset, indices: np.ndarray, size: Resize | None) -> None:
  """Decodes what is not yet held in memory at a size, if there is room for it.

  Raises:
    UndecodableImage: names all of them.
  """
  held = dataset.memory
  if not held or not size:
    return
  missing = held.missing(indices, size)
  if not len(missing) or not held.fits(missing, size):
    return
  if faults := look(dataset, missing, [size]).faults:
    raise UndecodableImage(listed(list(faults.values())))


def listed(faults: Sequence[str]) -> str:
  """The message that names every image that cannot be decoded, and what to do."""
  if len(faults) == 1:
    return f'{faults[0]}: {MEND}'
  mend = MEND.replace('remove it', 'remove them')
  return '\n'.join([f'{len(faults)} images cannot be decoded:', *lines(faults), mend])


def lines(faults: Sequence[str]) -> list[str]:
  """A line each, for the first of many."""
  more = [f'  and {len(faults) - _LISTED} more'] if len(faults) > _LISTED else []
  return [f'    {fault}' for fault in faults[:_LISTED]] + more


def _print(image: np.ndarray) -> tuple:
  # Of a few pixels: a sum over all of a photo takes up to a third as long as decoding it.
  few = cv2.resize(image, (32, 32), interpolation=cv2.INTER_NEAREST)
  return image.shape, hashlib.sha256(few).digest()


def _threads() -> futures.ThreadPoolExecutor:
  return futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16), 'look')
