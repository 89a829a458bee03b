"""What the first bytes of an image say of it, without decoding a pixel."""

import dataclasses
import re
import struct
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Header:
  """What is known of an image before it is decoded.

  Attributes:
    form: the format's name.
    width: in pixels, as stored.
    height: in pixels, as stored.
    deep: whether a sample has more than 8 bits, or is signed or a float.
    alpha: whether it has transparency.
    grey_alpha: whether its only other samples are grey.
    white: the largest value that a deep sample may have, where the header tells it; else 0.
    premultiplied: whether colours are stored weighed by their transparency.
    clear: the grey value that is transparent, as decoded; -1 where there is none.
    orientation: the EXIF value, 1 to 8.
    turns: quarters to turn it against the clock, and then
    flip: the axis to mirror it along, 0 (rows) or 1 (columns); -1 for none.
  """

  form: str
  width: int
  height: int
  deep: bool = False
  alpha: bool = False
  grey_alpha: bool = False
  white: int = 0
  premultiplied: bool = False
  clear: int = -1
  orientation: int = 1
  turns: int = 0
  flip: int = -1


def read(data: bytes) -> Header:
  """Reads the header of an image.

  Args:
    data: the whole file; of a PNG, its first 64 bytes tell size and depth.

  Raises:
    ValueError: no image of a known format, or its header is cut off or garbled; the message says which, in a few words.
  """
  if not data:
    raise ValueError('is empty')
  for magic, parse in _FORMATS:
    if magic.match(data):
      try:
        return parse(data)
      except (LookupError, struct.error, ValueError) as error:
        raise ValueError('is cut off or garbled') from error
  if data[:512].lstrip().lower().startswith((b'<!doctype', b'<html', b'<?xml', b'<head')):
    raise ValueError('is a web page or other text, no image')
  raise ValueError('is no image of a known format')


def _jpeg(data: bytes) -> Header:
  at = 2
  while True:
    at = data.index(b'\xff', at)  # libjpeg passes over what is between the segments, too
    marker = data[at + 1]
    if marker in (0xFF, 0x00):
      at += 1
    elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
      at += 2
    elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      height, width = struct.unpack_from('>HH', data, at + 5)
      return Header('JPEG', width, height)
    elif marker in (0xD9, 0xDA):
      raise ValueError('no frame before the scan')
    else:
      at += 2 + struct.unpack_from('>H', data, at + 2)[0]


def _png(data: bytes) -> Header:
  width, height, bits, colour = struct.unpack_from('>IIBB', data, 16)
  key, exif, at = b'', b'', 8
  while at + 8 <= len(data):
    length, kind = struct.unpack_from('>I4s', data, at)
    if kind == b'tRNS':
      key = data[at + 8 : at + 8 + length]
    elif kind == b'eXIf':
      exif = data[at + 8 : at + 8 + length]
    elif kind == b'IEND':
      break
    at += 12 + length
  clear = -1
  if colour == 0 and len(key) == 2:
    clear = int.from_bytes(key, 'big') * (1 if bits == 16 else 255 // (2**bits - 1))
  return Header(
    'PNG',
    width,
    height,
    deep=bits == 16,
    alpha=colour in (4, 6) or bool(key),
    clear=clear,
    orientation=orientation(exif),
  )


def _gif(data: bytes) -> Header:
  return Header('GIF', *struct.unpack_from('<HH', data, 6), alpha=True)


def _bmp(data: bytes) -> Header:
  # Its fourth channel is left over far more often than it means transparency.
  form = '<HH' if struct.unpack_from('<I', data, 14)[0] == 12 else '<ii'
  width, height = struct.unpack_from(form, data, 18)
  return Header('BMP', abs(width), abs(height))


def _webp(data: bytes) -> Header:
  kind = data[12:16]
  if kind == b'VP8L':
    (packed,) = struct.unpack_from('<I', data, 21)
    width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    return Header('WebP', width, height, alpha=bool(packed >> 28 & 1))
  if kind == b'VP8 ':
    width, height = struct.unpack_from('<HH', data, 26)
    return Header('WebP', width & 0x3FFF, height & 0x3FFF)
  if kind != b'VP8X':
    raise ValueError(f'{kind!r}')
  width, height = (1 + int.from_bytes(data[at : at + 3], 'little') for at in (24, 27))
  exif, at = b'', 12
  while at + 8 <= len(data):
    kind, length = struct.unpack_from('<4sI', data, at)
    if kind == b'EXIF':
      exif = data[at + 8 : at + 8 + length].removeprefix(b'Exif\0\0')
    at += 8 + length + length % 2
  return Header('WebP', width, height, alpha=bool(data[20] & 0x10), orientation=orientation(exif))


_NUMBER = rb'(?:\s|#[^\n]*\n)+(\d+)'


def _pnm(data: bytes) -> Header:
  bitmap = data[1:2] in b'14'
  found = re.match(rb'P[1-6]' + _NUMBER * (2 if bitmap else 3), data)
  if not found:
    raise ValueError('no size')
  width, height, *most = map(int, found.groups())
  deep = bool(most) and most[0] > 255
  return Header('PNM', width, height, deep=deep, white=_told(most[0]) if deep else 0)


def _told(white: int) -> int:
  """The largest value, if it was chosen: a file of 16 bits may hold fewer."""
  return white if white < 2**16 - 1 else 0


def _jp2(data: bytes) -> Header:
  at = data.index(b'ihdr') + 4
  height, width, channels, bits = struct.unpack_from('>IIHB', data, at)
  return Header(
    'JPEG 2000',
    width,
    height,
    deep=bits & 0x7F > 7,
    white=_told(2 ** ((bits & 0x7F) + 1) - 1),
    alpha=channels in (2, 4),
    grey_alpha=channels == 2,
  )


def _isobmff(data: bytes) -> Header:
  """AVIF and HEIF, whose properties lie in a box 'meta' before the pixels."""
  brands = data[8 : int.from_bytes(data[:4], 'big')]
  at, meta = 0, b''
  while at + 8 <= len(data) and not meta:
    size, kind = struct.unpack_from('>I4s', data, at)
    meta = data[at : at + size] if kind == b'meta' else b''
    at += max(size, 8)
  sizes = [struct.unpack('>II', size) for size in re.findall(rb'ispe\0{4}(.{8})', meta, re.DOTALL)]
  width, height = max(sizes, key=lambda size: size[0] * size[1])  # of the whole, not a tile
  if b'avif' not in brands and b'avis' not in brands:
    return Header('HEIC', width, height)  # libheif turns it by itself
  turn, mirror = (re.search(kind + rb'(.)', meta, re.DOTALL) for kind in (b'irot', b'imir'))
  codec = re.search(rb'av1C..(.)', meta, re.DOTALL)
  return Header(
    'AVIF',
    width,
    height,
    alpha=b'auxiliary:alpha' in meta,
    white={0x40: 1023, 0x60: 4095}.get(codec[1][0] & 0x60, 0) if codec else 0,
    turns=turn[1][0] & 3 if turn else 0,
    flip=mirror[1][0] & 1 if mirror else -1,
  )


def _tiff(data: bytes) -> Header:
  tags = _directory(data)
  bits, form = tags.get(258, (1,)), tags.get(339, (1,))
  extra = tags.get(338, ())
  alpha = tags.get(262, (0,))[0] in (0, 1, 2, 3) and bool(extra) and extra[0] in (1, 2)
  return Header(
    'TIFF',
    tags[256][0],
    tags[257][0],
    deep=max(bits) > 8 or form[0] in (2, 3),
    alpha=alpha,
    grey_alpha=alpha and tags.get(277, (1,))[0] == 2,
    premultiplied=bool(extra) and extra[0] == 1,
  )


_TYPES = {1: 'B', 3: 'H', 4: 'I', 6: 'b', 8: 'h', 9: 'i', 13: 'I', 16: 'Q'}


def _directory(data: bytes) -> dict[int, tuple[int, ...]]:
  """The whole numbers in a TIFF's first directory, by tag; at most 64 of each."""
  order = '<' if data[:2] == b'II' else '>'
  (version,) = struct.unpack_from(order + 'H', data, 2)
  # Of BigTIFF and of TIFF: where an offset to the directory is, an offset, a count, the head of an entry.
  start, offset, count, head = (8, 'Q', 'Q', 'HHQ') if version == 43 else (4, 'I', 'H', 'HHI')
  room = struct.calcsize(offset)  # for the value of an entry
  (at,) = struct.unpack_from(order + offset, data, start)
  (entries,) = struct.unpack_from(order + count, data, at)
  at += struct.calcsize(order + count)
  size = struct.calcsize(order + head) + room
  tags = {}
  for entry in range(at, at + min(entries, 4096) * size, size):
    tag, kind, number = struct.unpack_from(order + head, data, entry)
    if kind not in _TYPES:
      continue
    form = f'{order}{min(number, 64)}{_TYPES[kind]}'
    where = entry + size - room
    if struct.calcsize(f'{order}{_TYPES[kind]}') * number > room:
      (where,) = struct.unpack_from(order + offset, data, where)
    tags[tag] = struct.unpack_from(form, data, where)
  return tags


def orientation(exif: bytes) -> int:
  """The orientation that EXIF data (a TIFF) tells, 1 to 8; 1 where it tells none."""
  try:
    value = _directory(exif).get(274, (1,))[0]
  except (LookupError, struct.error):
    return 1
  return value if 1 <= value <= 8 else 1


_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Header]], ...] = tuple(
  (re.compile(magic, re.DOTALL), parse)
  for magic, parse in (
    (rb'\xff\xd8\xff', _jpeg),
    (rb'\x89PNG\r\n\x1a\n.{4}IHDR', _png),
    (rb'GIF8[79]a', _gif),
    (rb'BM.{8}', _bmp),
    (rb'RIFF.{4}WEBP', _webp),
    (rb'II[*+]\0|MM\0[*+]', _tiff),
    (rb'P[1-6][\s#]', _pnm),
    (rb'\0\0\0\x0cjP  \r\n\x87\n', _jp2),
    (rb'.{4}ftyp', _isobmff),
  )
)
