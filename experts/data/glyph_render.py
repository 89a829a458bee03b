"""Draws shapes onto 32x32 colour images, varied in size, place, angle, colour and background."""

import functools
import os
import unicodedata

import cv2
import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font

SIDE = 32
_INK = 40  # longer side in pixels of a shape before it is placed
_PIECE = 256
_EM = 48  # points at which a glyph is rendered


@functools.lru_cache(maxsize=32)
def _font(name: str) -> FT2Font:
  font = FT2Font(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', f'{name}.ttf'))
  font.set_size(_EM, 72)
  return font


@functools.lru_cache(maxsize=32)
def characters(font: str) -> frozenset[str]:
  """The characters that a font draws itself, so that none comes out as an empty box."""
  return frozenset(chr(code) for code in _font(font).get_charmap())


@functools.cache
def ink(font: str, character: str) -> np.ndarray:
  """The ink of a character, cropped: uint8 [h, w], 255 where drawn.

  Raises:
    ValueError: the font has no ink for the character.
  """
  if character not in characters(font):
    raise ValueError(f'font {font} has no {unicodedata.name(character, repr(character))}')
  drawn = _font(font)
  drawn.set_text(character)
  drawn.draw_glyphs_to_bitmap(antialiased=True)
  image = np.array(drawn.get_image(), np.uint8)
  rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
  if not rows.size:
    raise ValueError(f'font {font} draws {unicodedata.name(character, repr(character))} blank')
  return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def shape(mask: np.ndarray, relative_size: float) -> tuple[np.ndarray, float]:
  """Brings a mask to one working size.

  Args:
    mask: uint8 [h, w].
    relative_size: its longer side as a share of the height of a capital letter; half of the
      difference is kept, so that a small letter stays smaller than its capital.

  Returns:
    The mask with its longer side at the working size, and the size to draw it at (1: a capital).
  """
  scale = _INK / max(mask.shape)
  method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
  size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
  return cv2.resize(mask, size, interpolation=method), float(
    np.clip(0.5 + 0.5 * relative_size, 0.65, 1.2)
  )


def glyph(font: str, character: str) -> tuple[np.ndarray, float]:
  """The shape of a character (see `shape`)."""
  mask = ink(font, character)
  return shape(mask, max(mask.shape) / ink(font, 'H').shape[0])


def paste(
  shapes: list[tuple[np.ndarray, float]],
  rng: np.random.Generator,
  angles: np.ndarray | None = None,
  turn: float = 15.0,
) -> np.ndarray:
  """Draws every shape on an image of its own.

  Args:
    shapes: N masks and their sizes, as `shape` gives them.
    rng: draws the variation; equal states give equal images.
    angles: degrees, counter-clockwise, by which each shape is turned; None: upright.
    turn: degrees of random turn added, uniform in [-turn, turn].

  Returns:
    uint8 [N, 32, 32, 3] RGB.
  """
  angles = np.zeros(len(shapes)) if angles is None else angles
  images = np.empty((len(shapes), SIDE, SIDE, 3), np.uint8)
  # Piece by piece, so that the arrays in between stay in the cache.
  for first in range(0, len(shapes), _PIECE):
    piece = slice(first, first + _PIECE)
    images[piece] = _colour(_place(shapes[piece], rng, angles[piece], turn), rng)
  return images


def _place(
  shapes: list[tuple[np.ndarray, float]],
  rng: np.random.Generator,
  angles: np.ndarray,
  turn: float,
) -> np.ndarray:
  """Turns, sizes and moves the shapes: the share of ink of every pixel, float32 [N, 32, 32]."""
  number = len(shapes)
  angle = rng.uniform(-turn, turn, number) + angles
  size = rng.uniform(17, 23, number) * np.array([size for _, size in shapes])
  place = rng.uniform(-0.7, 0.7, (number, 2))
  alpha = np.empty((number, SIDE, SIDE), np.float32)
  radians = np.deg2rad(angle)
  for i, (mask, _) in enumerate(shapes):
    height, width = mask.shape
    scale = size[i] / _INK
    cos, sin = scale * np.cos(radians[i]), scale * np.sin(radians[i])
    # A place is a share of the room that the turned shape leaves. With less than this, raw pixels
    # begin to solve the tasks; with all of it, small networks no longer do.
    half = (abs(cos) * width + abs(sin) * height) / 2, (abs(sin) * width + abs(cos) * height) / 2
    x = SIDE / 2 + place[i, 0] * max(0.0, SIDE / 2 - half[0])
    y = SIDE / 2 + place[i, 1] * max(0.0, SIDE / 2 - half[1])
    matrix = np.array(
      [
        [cos, sin, x - 0.5 - (cos * (width - 1) + sin * (height - 1)) / 2],
        [-sin, cos, y - 0.5 + (sin * (width - 1) - cos * (height - 1)) / 2],
      ]
    )
    alpha[i] = cv2.warpAffine(mask, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
  return alpha / 255


def _colour(alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Blends ink and background of contrasting colours; float32 [N, 32, 32] -> uint8 RGB."""
  number = len(alpha)
  luma = np.array([0.299, 0.587, 0.114], np.float32)
  ground = rng.uniform(0, 255, (number, 3)).astype(np.float32)
  colour = rng.uniform(0, 255, (number, 3)).astype(np.float32)
  # Ink differs from the ground by at least 70 of 255 in brightness, lighter or darker.
  level = ground @ luma
  down, up = np.maximum(level - 70, 0), np.maximum(185 - level, 0)
  pick = rng.uniform(0, 1, number).astype(np.float32) * (down + up)
  target = np.where(pick < down, pick, level + 70 + (pick - down))
  own = colour @ luma
  lighter = 255 - (255 - colour) * ((255 - target) / np.maximum(255 - own, 1))[:, None]
  darker = colour * (target / np.maximum(own, 1))[:, None]
  colour = np.where((target > own)[:, None], lighter, darker).astype(np.float32)
  # A gradient and soft blotches: pixels then say little of the shape by themselves.
  steps = np.linspace(-1, 1, SIDE, dtype=np.float32)
  slope = rng.uniform(-24, 24, (number, 2, 3)).astype(np.float32)
  image = np.broadcast_to(ground[:, None, None], (number, SIDE, SIDE, 3)).copy()
  image += steps[None, :, None, None] * slope[:, 0, None, None]
  image += steps[None, None, :, None] * slope[:, 1, None, None]
  blotch = rng.uniform(-24, 24, (number, 5, 5)).astype(np.float32)
  for i in range(number):
    image[i] += cv2.resize(blotch[i], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)[..., None]
  image += alpha[..., None] * (colour[:, None, None] - image)
  noise = rng.standard_normal(image.shape, np.float32)
  image += noise * rng.uniform(0, 10, (number, 1, 1, 1)).astype(np.float32)
  return np.clip(image, 0, 255).round().astype(np.uint8)
