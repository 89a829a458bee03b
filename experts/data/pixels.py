"""Decodes people's own images as a viewer would show them: upright, on white, with the range of their samples.

Data sets of papers are decoded by `dataset.decode` instead, whose pixels are those that published models were measured on.
"""

import io
from collections.abc import Mapping

import cv2
import numpy as np

from experts.data import headers
from experts.data.dataset import UndecodableImage

try:
  import pillow_heif
except ImportError:
  pillow_heif = None

# Twice what the largest cameras take (200 megapixels would fit), and 800 MB as 8-bit RGB.
MAX_PIXELS = 2**28
# Of a file, or of a member of an archive when unpacked: an image of MAX_PIXELS without compression.
MAX_BYTES = 2**30

HEIF_SUFFIXES = ('.heic', '.heif', '.hif')
NEEDS_HEIF = "needs pillow-heif: pip install '.[heic]'"

# What OpenCV has to say of a bad image comes without its name; ours names it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Ranges = Mapping[
  str, tuple[float, float]
]  # NumPy's name of a type of samples -> what is black, what is white


def unreadable(where: str, reason: str) -> UndecodableImage:
  """The error for an image that cannot be read, whatever the reason."""
  return UndecodableImage(f'{where}: cannot be decoded: it {reason}')


def decode(data: bytes, where: str, ranges: Ranges) -> np.ndarray:
  """Decodes a compressed image of any depth and colour model.

  Orientation is applied, transparency becomes white, deep samples are scaled by the range of their data set. Of an
  animation it is the first frame, of several pages or pictures the first.

  Args:
    data: the file's bytes.
    where: the file's name, for the message.
    ranges: of all types of deep samples in the data set; see `samples.find`.

  Returns:
    uint8 [H, W, 3] RGB.

  Raises:
    UndecodableImage: the bytes are no complete image of a known format, or too large a one.
  """
  try:
    header = check(data)
    if header.form == 'HEIC':
      return _heif(data)
    if not (header.alpha or header.deep):
      return _turn(_imdecode(data, cv2.IMREAD_COLOR_RGB), header.turns, header.flip)
    image, alpha = _separate(data, header)
    name = image.dtype.name
    if name != 'uint8':
      known = (0, header.white) if header.white else ranges.get(name)
      if not known:
        raise ValueError(f'has {name} samples, but its suffix is of another format: correct it')
      image = scale(image, *known)
  except ValueError as error:
    raise unreadable(where, str(error)) from error
  if alpha is not None:
    # libtiff weighs 8-bit colours by itself.
    weighed = header.premultiplied or (header.form == 'TIFF' and not header.deep)
    image = _on_white(image, alpha, weighed and image.ndim == 3)
  image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
  return _turn(_orient(image, header.orientation), header.turns, header.flip)


def check(data: bytes) -> headers.Header:
  """The header of an image that is not too large to decode.

  Raises:
    ValueError: it is, or is none; the message is the reason.
  """
  header = headers.read(data)
  if header.width * header.height > MAX_PIXELS:
    raise ValueError(
      f'has {header.width:,} × {header.height:,} pixels, more than {MAX_PIXELS:,}, and is refused for its size'
    )
  return header


def deep_samples(data: bytes) -> np.ndarray | None:
  """The samples of an image as stored, [H, W] or [H, W, 3]; None if the file tells their range, or cannot be read."""
  try:
    header = check(data)
    image = _separate(data, header)[0] if header.deep and not header.white else None
  except ValueError:
    return None
  return None if image is None or image.dtype == np.uint8 else image


def scale(image: np.ndarray, black: float, white: float) -> np.ndarray:
  """Samples of any type as uint8, 0 for black and below, 255 for white and above."""
  factor = 255 / (white - black) if white > black else 0.0
  if image.dtype == np.uint16:
    # In a table, since a large image as floats would not fit beside others.
    table = np.clip((np.arange(2**16) - black) * factor, 0, 255)
    return np.rint(table).astype(np.uint8)[image]
  known = np.nan_to_num(image.astype(np.float64), nan=black, posinf=white, neginf=black)
  return np.rint(np.clip((known - black) * factor, 0, 255)).astype(np.uint8)


def _imdecode(data: bytes, flags: int) -> np.ndarray:
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error:
    image = None
  if image is None:
    raise ValueError(f'is cut off, garbled or of a kind that is not read ({len(data)} bytes)')
  return image


def _separate(data: bytes, header: headers.Header) -> tuple[np.ndarray, np.ndarray | None]:
  """The samples of an image as stored, grey or BGR, and its transparency as float32 [H, W] in [0, 1]."""
  if header.grey_alpha and not header.deep:
    return _grey_and_alpha(data)
  image = _imdecode(data, cv2.IMREAD_UNCHANGED)
  if header.clear >= 0 and image.ndim == 2:
    return image, (image != header.clear).astype(np.float32)
  if image.ndim == 2 or image.shape[-1] < 4:
    return image if image.ndim == 2 or image.shape[-1] == 3 else image[..., 0], None
  if not header.alpha:
    return np.ascontiguousarray(image[..., :3]), None
  opaque = header.white if image.dtype != np.uint8 else 0
  opaque = opaque or (np.iinfo(image.dtype).max if image.dtype.kind in 'iu' else 1)
  alpha = np.clip(image[..., 3].astype(np.float32) / opaque, 0, 1)
  return np.ascontiguousarray(image[..., :3]), None if alpha.min() == 1 else alpha


def _grey_and_alpha(data: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Those of a grey TIFF or JPEG 2000, whose transparency OpenCV loses."""
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data)) as image:
      grey, alpha = np.asarray(image.convert('LA')).transpose(2, 0, 1)
  except (OSError, ValueError, SyntaxError) as error:
    raise ValueError('is cut off, garbled or of a kind that is not read') from error
  return np.ascontiguousarray(grey), alpha.astype(np.float32) / 255


def _on_white(image: np.ndarray, alpha: np.ndarray, premultiplied: bool) -> np.ndarray:
  """uint8 [H, W(, 3)] as it looks on white paper."""
  alpha = alpha if image.ndim == 2 else alpha[..., None]
  weight = np.float32(1) if premultiplied else alpha
  return np.rint(np.clip(image * weight + 255 * (1 - alpha), 0, 255)).astype(np.uint8)


def _heif(data: bytes) -> np.ndarray:
  if pillow_heif is None:
    raise ValueError(f'is HEIC, which {NEEDS_HEIF}')
  try:
    image = np.asarray(pillow_heif.open_heif(io.BytesIO(data)))
  except (OSError, ValueError, RuntimeError, EOFError, SyntaxError) as error:
    raise ValueError(f'is cut off or garbled ({len(data)} bytes)') from error
  image = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
  if image.shape[-1] == 4:
    image = _on_white(image[..., :3], image[..., 3].astype(np.float32) / 255, False)
  return np.ascontiguousarray(image)


# EXIF's orientations: (quarters to turn against the clock, the axis to mirror along afterwards).
_ORIENTATIONS = {
  1: (0, -1),
  2: (0, 1),
  3: (2, -1),
  4: (0, 0),
  5: (3, 1),
  6: (3, -1),
  7: (1, 1),
  8: (1, -1),
}


def _orient(image: np.ndarray, orientation: int) -> np.ndarray:
  return _turn(image, *_ORIENTATIONS[orientation])


def _turn(image: np.ndarray, quarters: int, flip: int) -> np.ndarray:
  """Turns against the clock, then mirrors: along the rows (0), the columns (1) or not (-1)."""
  if not quarters and flip < 0:
    return image
  image = np.rot90(image, quarters)
  return np.ascontiguousarray(image if flip < 0 else np.flip(image, flip))
