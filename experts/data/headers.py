"""What the first bytes of an image say of it, without decoding a pixel."""

import dataclasses
import io
import re
import struct
import warnings

from PIL import Image, TiffImagePlugin

Image.init()
# The caller bounds the size, and names the file.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings('ignore', module='PIL')

_FORMS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'JPEG2000', 'PPM', 'TIFF', 'AVIF', 'HEIF')
_PNG = b'\x89PNG\r\n\x1a\n'
_JP2 = b'\0\0\0\x0cjP  \r\n\x87\n'
_PNM = re.compile(rb'P[2356]' + rb'(?:\s|#[^\n]*\n)+(\d+)' * 3)
_SEGMENT = re.compile(rb'\xff([\xc0-\xcf\xd9-\xfe])')
_FRAMES = bytes({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')


@dataclasses.dataclass(frozen=True)
class Header:
  """What is known of an image before it is decoded.

  Attributes:
    form: Pillow's name of the format.
    width: in pixels, as stored.
    height: in pixels, as stored.
    transparent: whether it may be.
    premultiplied: whether colours are stored weighed by their transparency.
  """

  form: str
  width: int
  height: int
  transparent: bool = False
  premultiplied: bool = False


def read(data: bytes) -> Header:
  """Reads the header of an image, and of a PNG whether all its parts are there.

  Raises:
    ValueError: no image of a known format, or it is cut off or garbled; the message says which, in a few words.
  """
  if not data:
    raise ValueError('is empty')
  try:
    if data[:4] in _TIFF:
      return _tiff(data)
    return _jpeg(data) if data.startswith(b'\xff\xd8\xff') else _any(data)
  except Exception as error:  # of a damaged file anything
    raise ValueError(_why_not(data)) from error


def white(data: bytes) -> int:
  """The largest value that a sample may have, at least 255; 0 where that depends on the data set.

  Args:
    data: the whole of a TIFF; of other files, the first 512 bytes are enough.
  """
  if data.startswith(_PNG):
    return 0 if data[24:25] == b'\x10' else 255
  if data.startswith(_JP2):
    # OpenCV scales 9 to 15 bits by what the header tells. The last bit is the sign's, and 15 are 16 bits.
    at = data.find(b'ihdr') + 14
    return 0 if data[at : at + 1] in (b'\x0f', b'\x8f') else 255
  if data[:4] in _TIFF:
    try:
      tags = _directory(data)
      return 0 if max(tags.get(258, (1,))) > 8 or tags.get(339, (1,))[0] in (2, 3) else 255
    except Exception:  # of a damaged file anything
      return 255
  if data.startswith((b'PF', b'Pf')):
    return 0  # floats
  found = _PNM.match(data)
  most = int(found[3]) if found else 255
  return max(most, 255) if most < 2**16 - 1 else 0


def _why_not(data: bytes) -> str:
  if any(Image.OPEN[form][1](data[:16]) for form in _forms()):
    return 'is cut off or garbled'
  if data[:512].lstrip().lower().startswith((b'<!doctype', b'<html', b'<?xml', b'<head')):
    return 'is a web page or other text, no image'
  return 'is no image of a known format'


def _any(data: bytes) -> Header:
  # OpenCV takes half a minute to find that a chunk of a PNG is longer than the file.
  if data.startswith(_PNG) and not _is_whole(data):
    raise ValueError('a part is cut off')
  with open_image(data) as image:
    # A BMP's fourth channel is left over far more often than it means transparency.
    transparent = image.has_transparency_data and image.format != 'BMP'
    return Header(image.format, *image.size, transparent)


def _is_whole(png: bytes) -> bool:
  at, kind = len(_PNG), b''
  while at < len(png) and kind != b'IEND':
    kind = png[at + 4 : at + 8]
    at += 12 + int.from_bytes(png[at : at + 4], 'big')
  return kind == b'IEND'


def open_image(data: bytes) -> Image.Image:
  """Pillow's image of a format that is read, not yet decoded; raises anything."""
  return Image.open(io.BytesIO(data), formats=_forms())


def _forms() -> tuple[str, ...]:
  return _FORMS if 'HEIF' in Image.OPEN else _FORMS[:-1]


def _jpeg(data: bytes) -> Header:
  """By hand, since Pillow takes as long as OpenCV for all of a small one, and refuses what libjpeg passes over."""
  found = _SEGMENT.search(data, 2)
  while found[1] not in _FRAMES:
    if found[1] in b'\xd9\xda':
      raise ValueError('no frame before the scan')
    length = int.from_bytes(data[found.end() : found.end() + 2], 'big')
    found = _SEGMENT.search(data, found.end() + length)
  height, width = struct.unpack_from('>HH', data, found.end() + 3)
  return Header('JPEG', width, height)


def _tiff(data: bytes) -> Header:
  tags = _directory(data)
  width, height = int(tags[256]), int(tags[257])
  if min(width, height) < 1:
    raise ValueError('no size')
  extra = tags.get(338, (0,))[0] if tags.get(262, 0) in (0, 1, 2, 3) else 0
  return Header('TIFF', width, height, extra in (1, 2), extra == 1)


def _directory(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
  """A TIFF's first one. `Image.open` knows none with floats or signed samples of three channels."""
  tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if b'+' in data[:4] else 8])
  file = io.BytesIO(data)
  file.seek(tags.next)
  tags.load(file)
  return tags
