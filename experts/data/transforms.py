"""What is done to an image before it enters a batch: crop, flip, resize; uint8 to uint8.

Resizing is bilinear without antialias, what BiT and its experts were trained with, if nothing else is said.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

CROPS = ('inception', 'random', 'central', 'none')
INTERPOLATIONS = {
  'nearest': cv2.INTER_NEAREST,
  'bilinear': cv2.INTER_LINEAR,
  'bicubic': cv2.INTER_CUBIC,
  'lanczos': cv2.INTER_LANCZOS4,
}


class Resize(NamedTuple):
  """How the whole image is resized before chance has a part in it.

  Attributes:
    side: of the result, pixels.
    shorter: 0: the image becomes a square; else its shorter side becomes as long as this, and the central square is kept.
    interpolation: of `INTERPOLATIONS`.
    antialias: whether a pixel of a smaller image is made of all that it covers, as Pillow and torchvision do it.
  """

  side: int
  shorter: int = 0
  interpolation: str = 'bilinear'
  antialias: bool = False

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [side, side, 3], possibly a view."""
    if not self.shorter:
      return self._to(image, self.side, self.side)
    height, width = image.shape[:2]
    # The longer side is cut off, not rounded, and half of an odd rest is rounded to the even: torchvision's way.
    long = lambda other: int(self.shorter * other / min(height, width))
    image = self._to(image, long(height), long(width))
    top, left = (round((length - self.side) / 2) for length in image.shape[:2])
    return image[top : top + self.side, left : left + self.side]

  def _to(self, image, height, width):
    if image.shape[:2] == (height, width):
      return image
    if not self.antialias:
      return cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[self.interpolation])
    from PIL import Image

    how = getattr(Image.Resampling, self.interpolation.upper())
    return np.asarray(Image.fromarray(image).resize((width, height), how))


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
    interpolation: of `INTERPOLATIONS`.
    antialias: see `Resize`.
    keep_aspect: with 'central', the shorter side becomes `resize`, instead of both.
  """

  size: int
  resize: int = 0
  crop: str = 'none'
  flip: bool = False
  interpolation: str = 'bilinear'
  antialias: bool = False
  keep_aspect: bool = False

  def __post_init__(self):
    if self.crop not in CROPS:
      raise ValueError(f'unknown crop {self.crop!r}; there are {", ".join(CROPS)}')
    if self.size < 1:
      raise ValueError(f'size must be at least 1 pixel, not {self.size}')
    if self.resize and self.crop in ('random', 'central') and self.resize < self.size:
      raise ValueError(f'resize {self.resize} is smaller than the crop of {self.size} pixels')
    if self.resize and self.crop == 'none' and self.resize != self.size:
      raise ValueError(f"resize {self.resize} with crop 'none' must be 0 or size, {self.size}")
    if self.keep_aspect and self.crop != 'central':
      raise ValueError(f'only a central crop keeps the aspect, not {self.crop!r}')
    if self.interpolation not in INTERPOLATIONS:
      raise ValueError(
        f'unknown interpolation {self.interpolation!r}; there are {", ".join(INTERPOLATIONS)}'
      )

  @property
  def random(self) -> bool:
    """Whether the result depends on chance."""
    return self.flip or self.crop in ('inception', 'random')

  @functools.cached_property
  def first(self) -> Resize | None:
    """What is done to the whole image first; None where nothing is."""
    if self.crop == 'inception' and not self.resize:
      return None
    if self.keep_aspect:
      return Resize(self.size, self.resize or self.size, self.interpolation, self.antialias)
    return Resize(self.resize or self.size, 0, self.interpolation, self.antialias)

  def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Transforms one image.

    Args:
      image: uint8 [H, W, 3].
      rng: source of chance; needed where `random`.

    Returns:
      uint8 [size, size, 3], possibly a view.
    """
    return self.rest(self.first(image) if self.first else image, rng)

  def rest(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Transforms an image to which what comes `first` was done."""
    if self.crop == 'inception':
      top, left, height, width = inception_window(*image.shape[:2], rng)
      whole = Resize(self.size, 0, self.interpolation, self.antialias)
      image = whole(image[top : top + height, left : left + width])
    elif self.crop == 'random':
      image = random_crop(image, self.size, rng)
    elif self.crop == 'central':
      image = central_crop(image, self.size)
    if self.flip and rng.random() < 0.5:
      # Not image[:, ::-1]: copying that view into a batch took 7 % of the whole input's time.
      image = cv2.flip(image, 1)
    return image


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


def inception_window(
  height: int,
  width: int,
  rng: np.random.Generator,
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """Draws a random part of the image ("Inception-style", [EXP §6.1]).

  As TensorFlow's `sample_distorted_bounding_box` draws it: an aspect ratio, then a height among those that keep the area
  in range.

  Args:
    height: of the image, pixels.
    width: of the image.
    rng: source of chance.
    area: smallest and largest part, as a share of the image.
    aspect: smallest and largest width / height.

  Returns:
    (top, left, height, width) of the part; the whole image where ten attempts find none.
  """
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
