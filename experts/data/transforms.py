"""What is done to an image before it enters a batch: crop, flip, resize; uint8 to uint8.

Resizing is bilinear without antialias, what BiT and its experts were trained with.
"""

import dataclasses
import math

import cv2
import numpy as np

CROPS = ('inception', 'random', 'central', 'none')


@dataclasses.dataclass(frozen=True)
class Transform:
  """Turns an image of any size into one of `size` x `size` pixels.

  Attributes:
    size: side of the result, pixels.
    resize: side to which the whole image is resized first; 0: not at all with 'inception',
      to `size` with the others.
    crop: 'inception' (a random part, resized), 'random' or 'central' (a window of `size`),
      'none' (the whole image, resized to `size`).
    flip: mirror every second image, at random.
  """

  size: int
  resize: int = 0
  crop: str = 'none'
  flip: bool = False

  def __post_init__(self):
    if self.crop not in CROPS:
      raise ValueError(f'unknown crop {self.crop!r}; there are {", ".join(CROPS)}')
    if self.size < 1:
      raise ValueError(f'size must be at least 1 pixel, not {self.size}')
    if self.resize and self.crop in ('random', 'central') and self.resize < self.size:
      raise ValueError(f'resize {self.resize} is smaller than the crop of {self.size} pixels')
    if self.resize and self.crop == 'none' and self.resize != self.size:
      raise ValueError(f"resize {self.resize} with crop 'none' must be 0 or size, {self.size}")

  @property
  def random(self) -> bool:
    """Whether the result depends on chance."""
    return self.flip or self.crop in ('inception', 'random')

  @property
  def side(self) -> int:
    """The side to which the whole image is resized first, pixels; 0 where it is not."""
    return 0 if self.crop == 'inception' and not self.resize else self.resize or self.size

  def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Transforms one image.

    Args:
      image: uint8 [H, W, 3]; where there is a `side`, one that is resized to it gives the same.
      rng: source of chance; needed where `random`.

    Returns:
      uint8 [size, size, 3], possibly a view.
    """
    if self.side:
      image = resize(image, self.side)
    if self.crop == 'inception':
      image = inception_crop(image, self.size, rng)
    elif self.crop == 'random':
      image = random_crop(image, self.size, rng)
    elif self.crop == 'central':
      image = central_crop(image, self.size)
    if self.flip and rng.random() < 0.5:
      # Not image[:, ::-1]: copying that view into a batch took 7 % of the whole input's time.
      image = cv2.flip(image, 1)
    return image


def resize(image: np.ndarray, size: int) -> np.ndarray:
  """Resizes the whole image to size x size, bilinear, without antialias."""
  if image.shape[:2] == (size, size):
    return image
  return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def central_crop(image: np.ndarray, size: int) -> np.ndarray:
  """The central size x size window of an image at least that large."""
  top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
  return image[top : top + size, left : left + size]


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
  """A size x size window, every place equally likely, of an image at least that large."""
  draw = rng.random(2)
  top = int(draw[0] * (image.shape[0] - size + 1))
  left = int(draw[1] * (image.shape[1] - size + 1))
  return image[top : top + size, left : left + size]


def inception_crop(
  image: np.ndarray,
  size: int,
  rng: np.random.Generator,
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
  """A random part of the image, resized ("Inception-style", [EXP §6.1]).

  The part is drawn as TensorFlow's `sample_distorted_bounding_box` draws it: an aspect ratio, then
  a height among those that keep the area in range.

  Args:
    image: uint8 [H, W, 3].
    size: side of the result, pixels.
    rng: source of chance.
    area: smallest and largest part, as a share of the image.
    aspect: smallest and largest width / height.

  Returns:
    uint8 [size, size, 3].
  """
  top, left, height, width = inception_window(image.shape[0], image.shape[1], rng, area, aspect)
  return resize(image[top : top + height, left : left + width], size)


def inception_window(
  height: int,
  width: int,
  rng: np.random.Generator,
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """(top, left, height, width) of the part; the whole image where ten attempts find none."""
  whole = height * width
  for _ in range(10):
    draw = rng.random(4).tolist()
    ratio = aspect[0] + draw[0] * (aspect[1] - aspect[0])
    low = round(math.sqrt(area[0] * whole / ratio))
    high = min(round(math.sqrt(area[1] * whole / ratio)), height, int((width + 0.5) / ratio))
    low = max(1, min(low, high))
    part_height = low + int(draw[1] * (high - low + 1))
    part_width = min(max(1, round(part_height * ratio)), width)
    if area[0] * whole <= part_height * part_width <= area[1] * whole:
      top = int(draw[2] * (height - part_height + 1))
      left = int(draw[3] * (width - part_width + 1))
      return top, left, part_height, part_width
  return 0, 0, height, width
