"""Every image decoded once, and held; what is there twice."""

import collections
import dataclasses

import numpy as np
import pytest

from experts.data import batches, look
from experts.data.dataset import UndecodableImage, from_arrays
from experts.data.transforms import Resize, Transform

LARGE = 2**30


def _counted(images, bad=()):
  """A data set of images [N, H, W, 3] of any sizes, and how often each was decoded."""
  reads = collections.Counter()
  data = from_arrays(
    'data', np.zeros((len(images), 1, 1, 3), np.uint8), _labels(images), ('a', 'b')
  )

  def read(index):
    reads[index] += 1
    if index in bad:
      raise bad[index]
    return images[index]

  return dataclasses.replace(
    data, read_image=read, in_memory=False, describe=lambda i: f'file{i}.jpg'
  ), reads


def _labels(images):
  return np.arange(len(images)) % 2


def _images(number=9):
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, (20 + i, 30, 3), np.uint8) for i in range(number)]


def _held(data, room=LARGE):
  return dataclasses.replace(data, memory=look.Held(len(data), look.Room(room)))


@pytest.mark.parametrize(
  'transform',
  [
    Transform(8),
    Transform(8, flip=True),
    Transform(8, 12, 'random'),
    Transform(8, 12, 'central'),
  ],
)
def test_what_is_held_gives_the_same_batches_and_is_not_decoded_again(transform):
  data, reads = _counted(_images())
  held = _held(data)
  look.look(held, np.arange(9), {transform.first})
  assert set(reads.values()) == {1}
  assert len(reads) == 9

  def seen(dataset):
    member = batches.Member(dataset, np.array([7, 2, 5, 1]), seed=3)
    return [batch['image'] for batch in batches.train_batches([member], transform, 4, range(3))]

  with_memory = seen(held)
  assert sum(reads.values()) == 9
  np.testing.assert_array_equal(with_memory, seen(data))
  assert sum(reads.values()) > 9
  if not transform.random:
    ((one,), (other,)) = (
      batches.eval_batches(each, np.array([4, 0]), transform, 2) for each in (held, data)
    )
    np.testing.assert_array_equal(one['image'], other['image'])


def test_other_sides_and_images_are_decoded():
  data, reads = _counted(_images())
  held = _held(data)
  look.look(held, np.array([1, 3]), {Resize(8)})
  np.testing.assert_array_equal(held.resized(3, Resize(12)), data.resized(3, Resize(12)))
  np.testing.assert_array_equal(held.resized(2, Resize(8)), data.resized(2, Resize(8)))
  assert held.memory.missing(np.array([3, 2, 1]), Resize(8)).tolist() == [2]
  before = sum(reads.values())
  look.look(held, np.array([2]), {Resize(8)})
  np.testing.assert_array_equal(held.resized(2, Resize(8)), data.resized(2, Resize(8)))
  np.testing.assert_array_equal(held.resized(1, Resize(8)), data.resized(1, Resize(8)))
  assert sum(reads.values()) == before + 3


def test_what_does_not_fit_is_looked_at_and_not_held():
  data, _ = _counted(_images())
  # The nine at 8 pixels take 1,728 bytes; at 12, 3,888.
  held = _held(data, 1728 + 3887)
  seen = look.look(held, np.arange(9), {Resize(8), Resize(12)})
  assert len(seen.prints) == 9
  assert held.memory.holds(np.arange(9), Resize(8))
  assert not held.memory.holds(np.arange(9), Resize(12))
  assert held.memory.fits(np.arange(8), Resize(12))
  assert not held.memory.fits(np.arange(9), Resize(12))
  held.memory.clear()
  assert held.memory.fits(np.arange(9), Resize(12))
  np.testing.assert_array_equal(held.resized(1, Resize(8)), data.resized(1, Resize(8)))


def test_all_faults_are_found_also_of_files_that_cannot_be_read():
  bad = {
    1: UndecodableImage('file1.jpg: is empty'),
    4: PermissionError(13, 'Permission denied'),
    5: FileNotFoundError(2, 'No such file or directory'),
  }
  data, _ = _counted(_images(), bad)
  ticks = []
  seen = look.look(_held(data), np.arange(9), {Resize(8)}, lambda: ticks.append(1))
  assert seen.faults == {
    1: 'file1.jpg: is empty',
    4: 'file4.jpg: cannot be read (Permission denied)',
    5: 'file5.jpg: cannot be read (No such file or directory)',
  }
  assert sorted(seen.prints) == [0, 2, 3, 6, 7, 8]
  assert len(ticks) == 9


def test_copies_are_images_of_the_very_same_pixels():
  first = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
  nearly, other = first.copy(), first.copy()
  # Between the pixels that a first look compares.
  nearly[19, 24, 1] += 1
  other[4, 4, 0] += 1
  turned = first.reshape(60, 40, 3)
  data, reads = _counted([first, nearly, first.copy(), turned, other, nearly.copy()])
  seen = look.look(data, np.arange(6))
  # The first look is at a few pixels.
  assert look.copies(seen.prints[i] for i in range(6)).tolist() == [0, 0, 0, 1, 0, 0]
  assert set(reads.values()) == {1}
  prints = look.confirm({'all': (data, seen)})['all'].prints
  assert {index for index, number in reads.items() if number > 1} == {0, 1, 2, 4, 5}
  assert look.copies(prints[i] for i in range(6)).tolist() == [0, 1, 0, 2, 3, 1]
