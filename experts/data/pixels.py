"""Decodes people's own images as a viewer would show them: upright, on white, with the range of their samples.

Data sets of papers are decoded by `dataset.decode` instead, whose pixels are those that published models were measured on.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from experts.data import headers
from experts.data.dataset import UndecodableImage

try:
  import pillow_heif

  pillow_heif.register_heif_opener()
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

_DAMAGED = 'is cut off, garbled or of a kind that is not read ({} bytes)'

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
    white = headers.white(data)
    if header.form in ('AVIF', 'HEIF') or (header.transparent and white == 255):
      return _by_pillow(data)
    if white == 255:
      return _imdecode(data, cv2.IMREAD_COLOR_RGB)
    return _deep(data, header, white, ranges)
  except ValueError as error:
    raise unreadable(where, str(error)) from error


def check(data: bytes) -> headers.Header:
  """The header of an image that is not too large to decode.

  Raises:
    ValueError: it is, or is none; the message is the reason.
  """
  if pillow_heif is None and _is_heic(data):
    raise ValueError(f'is HEIC, which {NEEDS_HEIF}')
  header = headers.read(data)
  if header.width * header.height > MAX_PIXELS:
    raise ValueError(
      f'has {header.width:,} × {header.height:,} pixels, more than {MAX_PIXELS:,}, and is refused for its size'
    )
  return header


def _is_heic(data: bytes) -> bool:
  brands = data[8 : int.from_bytes(data[:4], 'big')]
  return data[4:8] == b'ftyp' and b'avif' not in brands and b'avis' not in brands


def deep_samples(data: bytes) -> np.ndarray | None:
  """The samples of an image as stored, [H, W] or [H, W, 3]; None if the file tells their range, or cannot be read."""
  try:
    image = None if headers.white(data) else _colours(_as_stored(data, check(data)))
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
    raise ValueError(_DAMAGED.format(len(data)))
  return image


def _as_stored(data: bytes, header: headers.Header) -> np.ndarray:
  """Deep samples, [H, W] grey, or [H, W, 3 or 4] BGR and transparency; turned upright but for a transparent PNG."""
  # OpenCV turns a TIFF either way, and a PNG where it need not keep all samples.
  keep = header.transparent or header.form == 'TIFF'
  return _imdecode(
    data, cv2.IMREAD_UNCHANGED if keep else cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
  )


def _colours(image: np.ndarray) -> np.ndarray:
  """Those [H, W] or [H, W, 3] of an image as stored, without its transparency or other channels."""
  if image.ndim == 3 and image.shape[-1] < 3:
    return image[..., 0]
  return image if image.ndim == 2 else np.ascontiguousarray(image[..., :3])


def _deep(data: bytes, header: headers.Header, white: int, ranges: Ranges) -> np.ndarray:
  image = _as_stored(data, header)
  colours, name = _colours(image), image.dtype.name
  if name != 'uint8':
    known = (0, white) if white else ranges.get(name)
    if not known:
      raise ValueError(f'has {name} samples, but its suffix is of another format: correct it')
    colours = scale(colours, *known)
  colours = cv2.cvtColor(colours, cv2.COLOR_GRAY2RGB if colours.ndim == 2 else cv2.COLOR_BGR2RGB)
  if not header.transparent:
    return colours
  if image.shape[2:] != (4,):
    raise ValueError('has transparency with grey samples of more than 8 bits, which is not read')
  opaque = np.iinfo(name).max if image.dtype.kind in 'iu' else 1
  alpha = np.clip(image[..., 3:].astype(np.float32) / opaque, 0, 1)
  colours = colours * (np.float32(1) if header.premultiplied else alpha) + 255 * (1 - alpha)
  colours = np.rint(np.clip(colours, 0, 255)).astype(np.uint8)
  if header.form != 'PNG':
    return colours
  with headers.open_image(data) as stored:
    return np.array(_upright(Image.fromarray(colours), stored))


def _by_pillow(data: bytes) -> np.ndarray:
  """8-bit samples upright and on white paper."""
  try:
    with headers.open_image(data) as stored:
      told = sum((right - left) * (low - top) for _, (left, top, right, low), *_ in stored.tile)
      # Pillow leaves black what no strip or tile tells.
      if stored.format == 'TIFF' and told < stored.width * stored.height:
        raise ValueError('a part is missing')
      return np.array(_upright(_on_white(stored), stored))
  except Exception as error:  # of a damaged file anything
    raise ValueError(_DAMAGED.format(len(data))) from error


def _on_white(image: Image.Image) -> Image.Image:
  image = image.convert('RGBA')
  paper = Image.new('RGB', image.size, 'white')
  paper.paste(image, mask=image)
  return paper


def _upright(image: Image.Image, stored: Image.Image) -> Image.Image:
  """An image turned as a file's EXIF data tell; where they are garbled, not at all, as OpenCV does it."""
  try:
    value = stored.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # of a damaged file anything
    return image
  image.getexif()[ExifTags.Base.Orientation] = value
  ImageOps.exif_transpose(image, in_place=True)
  return image
