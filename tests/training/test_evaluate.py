"""Every example counts exactly once, on any number of devices."""

import numpy as np
import pytest

from experts.training import evaluate

CLASSES, BATCH = 5, 16


def _predict(params, images):
  return (
    images.reshape(len(images), -1) / 255.0 @ params['head']['kernel'] + params['shift']['bias']
  )


def _batches(images, labels, rng):
  """Batches of 16; the last is padded with rows whose labels would be right, were they counted."""
  for first in range(0, len(images), BATCH):
    number = min(BATCH, len(images) - first)
    fill = rng.integers(0, number, BATCH - number)
    rows = first + np.concatenate([np.arange(number), fill])
    mask = np.arange(BATCH) < number
    yield {'image': images[rows], 'label': labels[rows], 'mask': mask}


@pytest.mark.parametrize('mesh', [(1, 8), (2, 4), (1, 1)])
@pytest.mark.parametrize('number', [1, 16, 37])
def test_accuracy_is_of_every_example_once(toy, mesh, number):
  rng = np.random.default_rng(number)
  images = rng.integers(0, 256, (number, 4, 4, 3)).astype(np.uint8)
  labels = rng.integers(0, CLASSES, number).astype(np.int32)
  kernels = rng.normal(size=(2, 48, CLASSES)).astype(np.float32)
  bias = rng.normal(size=CLASSES).astype(np.float32)

  run = evaluate.make_evaluate(_predict, toy.make_mesh(*mesh), CLASSES)
  counts = run(
    {'head': {'kernel': kernels}}, {'shift': {'bias': bias}}, _batches(images, labels, rng)
  )

  scores = (
    np.einsum('nd,pdc->pnc', images.reshape(number, -1) / 255.0, kernels.astype(float)) + bias
  )
  right = scores.argmax(-1) == labels
  np.testing.assert_array_equal(counts.seen, np.bincount(labels, minlength=CLASSES))
  for member in range(2):
    expected = np.bincount(labels[right[member]], minlength=CLASSES)
    np.testing.assert_array_equal(counts.correct[member], expected)
  np.testing.assert_allclose(counts.accuracy(), right.mean(-1), rtol=1e-12)
  some = [labels[0]]
  np.testing.assert_allclose(counts.accuracy(some), right[:, labels == labels[0]].mean(-1))


def test_an_undecodable_image_in_the_middle_counts_nothing(toy):
  images = np.zeros((8, 4, 4, 3), np.uint8)
  labels = np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int32)
  mask = np.array([1, 0, 1, 1, 0, 1, 1, 0], bool)
  kernel = np.zeros((1, 48, CLASSES), np.float32)
  run = evaluate.make_evaluate(_predict, toy.make_mesh(1, 8), CLASSES)
  batch = {'image': images, 'label': labels, 'mask': mask}
  bias = np.array([1, 0, 0, 0, 0], np.float32)
  counts = run({'head': {'kernel': kernel}}, {'shift': {'bias': bias}}, [batch])
  np.testing.assert_allclose(counts.accuracy(), [4 / 5])


@pytest.mark.parametrize('batches', [[], [False]])
def test_no_example_is_an_error(toy, batches):
  run = evaluate.make_evaluate(_predict, toy.make_mesh(1, 8), CLASSES)
  batches = [
    {
      'image': np.zeros((8, 4, 4, 3), np.uint8),
      'label': np.zeros(8, np.int32),
      'mask': np.full(8, value),
    }
    for value in batches
  ]
  trained = {'head': {'kernel': np.zeros((1, 48, CLASSES), np.float32)}}
  with pytest.raises(ValueError, match='no example to evaluate'):
    run(trained, {'shift': {'bias': np.zeros(CLASSES, np.float32)}}, batches).accuracy()


def test_classes_weigh_alike_in_the_mean_per_class():
  counts = evaluate.Counts(np.array([[10, 1, 0, 0], [5, 0, 0, 3]]), np.array([10, 2, 0, 4]))
  # The third class has no example.
  np.testing.assert_allclose(counts.mean_per_class(), [(1 + 0.5 + 0) / 3, (0.5 + 0 + 0.75) / 3])
  np.testing.assert_allclose(counts.accuracy(), [11 / 16, 8 / 16])
