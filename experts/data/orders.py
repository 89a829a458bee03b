"""Orders of a slice: which of its images comes at which position, each a function of the seed alone."""

import functools
import threading
from collections.abc import Callable

import numpy as np

# (slice size, seed) -> (position -> row of the slice).
Order = Callable[[int, int], Callable[[int], int]]

# Positions that threads may be working on at the same time: two steps of a large batch.
_AHEAD = 2**14


def generator(seed: int, number: int) -> np.random.Generator:
  """The chance of one position, or of one epoch, of a seed."""
  # Philox is a function of key and counter: no state is carried from one number to the next.
  return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))


def shuffled(size: int, seed: int) -> Callable[[int], int]:
  """Epoch after epoch, each a shuffle of its own without replacement."""

  # Two epochs are met at once where one ends, of a small slice many. Not Grain's index_shuffle, which stores nothing: in
  # version 0.2 it repeats an index for sizes such as 65,537, and takes milliseconds below 1,000.
  @functools.lru_cache(maxsize=2 + _AHEAD // size)
  def table(epoch: int) -> np.ndarray:
    rows = np.arange(size, dtype=np.uint32 if size < 2**32 else np.uint64)
    return generator(seed, epoch).permutation(rows)

  # The cache by itself lets threads that miss at the same time all make the table: seconds and gigabytes for 13 M images.
  making = threading.Lock()

  def row(position: int) -> int:
    epoch, place = divmod(position, size)
    with making:
      order = table(epoch)
    return int(order[place])

  return row


def balanced(labels: np.ndarray) -> Order:
  """Every class equally often, each class's images in epochs of their own ([EXP] App. A).

  Args:
    labels: int [n], the class of each row of the slice; every class up to the largest has a row.
  """
  by_class = np.argsort(labels, kind='stable')
  sizes = np.bincount(labels)
  starts = np.cumsum(sizes) - sizes

  def order(size: int, seed: int) -> Callable[[int], int]:
    if size != len(labels):
      raise ValueError(f'{len(labels)} labels do not balance {size} images')
    seeds = np.random.SeedSequence(seed).generate_state(len(sizes) + 1, np.uint64)
    class_of = shuffled(len(sizes), int(seeds[-1]))
    within = [shuffled(int(n), int(seed)) for n, seed in zip(sizes, seeds)]

    def row(position: int) -> int:
      label = class_of(position)
      return int(by_class[starts[label] + within[label](position // len(sizes))])

    return row

  return order


def weighted(labels: np.ndarray, weights: np.ndarray) -> Order:
  """Images drawn with replacement, each with a probability in proportion to its class's weight ([EXP] §6.6).

  Args:
    labels: int [n], the class of each row of the slice.
    weights: float [C], 0 or more; of some class that has a row, above 0.

  Raises:
    ValueError: negative or missing weights, or none for the classes that there are.
  """
  weights = np.asarray(weights, np.float64)
  if not (weights >= 0).all() or not (weights < np.inf).all():
    raise ValueError('weights must be 0 or more, and finite')
  by_class = np.argsort(labels, kind='stable')
  sizes = np.bincount(labels, minlength=len(weights))
  starts = np.cumsum(sizes) - sizes
  mass = np.cumsum(sizes * weights)
  if not mass[-1]:
    raise ValueError('no class that has an image has a weight above 0')

  def order(size: int, seed: int) -> Callable[[int], int]:
    if size != len(labels):
      raise ValueError(f'{len(labels)} labels do not weight {size} images')

    def row(position: int) -> int:
      which, where = generator(seed, position).random(2)
      # Of what rounds up to the whole mass, the last class with a share of it.
      label = np.searchsorted(mass, min(which * mass[-1], np.nextafter(mass[-1], 0)), side='right')
      place = min(int(where * sizes[label]), sizes[label] - 1)
      return int(by_class[starts[label] + place])

    return row

  return order
