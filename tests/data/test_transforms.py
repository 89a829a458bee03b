"""Crops, flips and resizing."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.data import transforms
from experts.data.transforms import Transform


def _image(height: int, width: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _bilinear(image: np.ndarray, size: int) -> np.ndarray:
  """Half-pixel centres, no antialias, in float64 (what tf.image.resize of TF2 computes)."""

  def axis(values: np.ndarray) -> np.ndarray:
    length = values.shape[0]
    at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, length - 1)
    share = (at - low).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - share) + values[high] * share

  rows = axis(image.astype(np.float64))
  return axis(rows.swapaxes(0, 1)).swapaxes(0, 1)


@pytest.mark.parametrize('shape', [(40, 60), (7, 5), (224, 100), (31, 32)])
def test_resize_is_bilinear_without_antialias(shape):
  image = _image(*shape)
  assert np.abs(transforms.Resize(32)(image) - _bilinear(image, 32)).max() <= 1.0


def test_central_crop_takes_the_middle():
  image = _image(10, 9)
  np.testing.assert_array_equal(transforms.central_crop(image, 4), image[3:7, 2:6])
  both = Transform(4, 6, 'central')(image)
  resized = cv2.resize(image, (6, 6), interpolation=cv2.INTER_LINEAR)
  np.testing.assert_array_equal(both, resized[1:5, 1:5])


def test_random_crop_reaches_every_place_equally():
  image = np.arange(6 * 6).reshape(6, 6, 1).astype(np.uint8)
  rng = np.random.default_rng(1)
  corner = np.array([transforms.random_crop(image, 4, rng)[0, 0, 0] for _ in range(4500)])
  places, counts = np.unique(corner, return_counts=True)
  assert places.tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14]
  assert np.abs(counts - 500).max() < 100  # 4.7 standard deviations


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**6))
def test_inception_window_lies_within_the_image_and_its_limits(height, width, seed):
  rng = np.random.default_rng(seed)
  top, left, rows, columns = transforms.inception_window(height, width, rng)
  assert 0 <= top <= top + rows <= height
  assert 0 <= left <= left + columns <= width
  assert rows >= 1
  assert columns >= 1
  if (rows, columns) != (height, width):
    assert rows * columns >= 0.08 * height * width
    # A pixel of rounding at the sides.
    assert (columns - 1) / (rows + 1) <= 4 / 3
    assert (columns + 1) / max(rows - 1, 0.5) >= 3 / 4


def test_inception_window_spreads_over_areas_and_places():
  rng = np.random.default_rng(0)
  windows = np.array([transforms.inception_window(100, 120, rng) for _ in range(2000)])
  area = windows[:, 2] * windows[:, 3] / 12000
  assert area.min() < 0.09
  assert area.max() > 0.85
  ratio = windows[:, 3] / windows[:, 2]
  assert ratio.min() < 0.77
  assert ratio.max() > 1.3
  middle = windows[:, 0] + windows[:, 2] / 2, windows[:, 1] + windows[:, 3] / 2
  assert abs(middle[0].mean() - 50) < 1
  assert abs(middle[1].mean() - 60) < 1
  assert windows[:, 0].max() > 60


def test_image_too_narrow_for_the_aspect_is_taken_whole():
  rng = np.random.default_rng(0)
  assert transforms.inception_window(1000, 3, rng) == (0, 0, 1000, 3)


def test_flip_mirrors_half_of_the_images():
  image, transform = _image(8, 8), Transform(8, flip=True)
  rng = np.random.default_rng(0)
  flipped = 0
  for _ in range(400):
    result = transform(image, rng)
    mirrored = np.array_equal(result, image[:, ::-1])
    assert mirrored or np.array_equal(result, image)
    flipped += mirrored
  assert 150 < flipped < 250


@pytest.mark.parametrize(
  ('transform', 'random'),
  [
    (Transform(16), False),
    (Transform(16, 20, 'central'), False),
    (Transform(16, 20, 'random'), True),
    (Transform(16, crop='inception'), True),
    (Transform(16, 40, 'inception'), True),
    (Transform(16, flip=True), True),
  ],
)
def test_result_has_the_size_and_depends_on_the_generator_alone(transform, random):
  image = _image(33, 47)
  results = [transform(image, np.random.default_rng(seed)) for seed in (3, 3, 4, 5, 6, 7)]
  assert all(result.shape == (16, 16, 3) and result.dtype == np.uint8 for result in results)
  np.testing.assert_array_equal(results[0], results[1])
  assert any(not np.array_equal(results[0], other) for other in results[2:]) == random
  assert transform.random == random


def test_senseless_transforms_are_refused():
  with pytest.raises(ValueError, match=r"unknown crop 'centre'; there are inception, random"):
    Transform(8, crop='centre')
  with pytest.raises(ValueError, match='resize 4 is smaller than the crop of 8'):
    Transform(8, 4, 'random')
  with pytest.raises(ValueError, match="crop 'none' must be 0 or size, 8"):
    Transform(8, 16)
  with pytest.raises(ValueError, match='at least 1 pixel'):
    Transform(0)
