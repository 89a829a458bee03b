"""People's own images look as in a viewer: upright, on white, with the range of their samples; papers' stay as they are."""

import io
import re
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from experts.data import dataset, headers, image_files, natural6, pixels
from experts.data.sources import UndecodableImage, open_dataset

# 3 × 2 tiles of colours, high enough to tell every turn and mirror image from the others.
TILES = np.uint8(
  [[[250, 10, 90], [20, 160, 240]], [[0, 200, 30], [90, 90, 90]], [[255, 255, 0], [10, 20, 200]]]
)
RGB = TILES.repeat(16, axis=0).repeat(16, axis=1)


def _encode(image: Image.Image, form: str, **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, form, **options)
  return buffer.getvalue()


def _viewed(data: bytes) -> np.ndarray:
  """What Pillow shows of an image, upright and on white paper."""
  image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGBA')
  paper = Image.new('RGBA', image.size, (255, 255, 255, 255))
  paper.alpha_composite(image)
  return np.asarray(paper.convert('RGB')).astype(int)


OPTIONS = {
  'JPEG': {'quality': 98, 'subsampling': 0},
  'PNG': {},
  'WEBP': {'lossless': True, 'exact': True},
  'TIFF': {},
  'AVIF': {'quality': 98},
  'GIF': {},
  'BMP': {},
  'PPM': {},
  'JPEG2000': {},
}
_ALPHA = ('PNG', 'WEBP', 'TIFF', 'AVIF', 'GIF', 'JPEG2000')


_MODES = {
  'JPEG': ('RGB', 'L', 'CMYK'),
  'PNG': ('RGB', 'RGBA', 'L', 'LA', 'P'),
  'WEBP': ('RGB', 'RGBA', 'L', 'LA', 'P'),
  'TIFF': ('RGB', 'RGBA', 'L', 'LA', 'P', 'CMYK'),
  'AVIF': ('RGB', 'RGBA', 'L', 'LA', 'P'),
}


@pytest.mark.parametrize(
  ('form', 'mode'), [(form, mode) for form, modes in _MODES.items() for mode in modes]
)
def test_orientation_is_applied_in_every_format(form, mode):
  image = Image.fromarray(RGB)
  if mode in ('RGBA', 'LA'):
    image.putalpha(Image.fromarray(np.linspace(0, 255, RGB.size // 3).reshape(48, 32).astype('u1')))
  for value in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = value
    data = _encode(image.convert(mode), form, exif=exif, **OPTIONS[form])
    seen, expected = pixels.decode(data, 'x', {}), _viewed(data)
    assert seen.shape == expected.shape == ((48, 32, 3) if value < 5 else (32, 48, 3))
    # Lossy codecs and the arithmetic of CMYK differ by less than the tiles do.
    assert np.abs(seen - expected).mean() < 2.5


def test_orientation_in_either_byte_order_and_past_the_pixels():
  # A PNG may carry its EXIF data anywhere.
  plain = _encode(Image.fromarray(RGB), 'PNG')
  for order, mark in (('<', b'II'), ('>', b'MM')):
    exif = mark + struct.pack(f'{order}HIHHHIHHI', 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    chunk = _chunk(b'eXIf', exif)
    rgba = _encode(Image.fromarray(RGB).convert('RGBA'), 'PNG')
    for data in (plain, rgba):
      turned = pixels.decode(data[:-12] + chunk + data[-12:], 'x', {})
      np.testing.assert_array_equal(turned, np.rot90(RGB, -1))


@pytest.mark.parametrize('form', _ALPHA)
def test_transparency_becomes_white(form):
  alpha = np.zeros((48, 32), np.uint8)
  alpha[:, 16:] = 255
  image = Image.fromarray(np.dstack([RGB, alpha]))
  seen = pixels.decode(_encode(image, form, **OPTIONS[form]), 'x', {}).astype(int)
  assert np.abs(seen[:, :14] - 255).max() <= 3
  # Lossy ones ring at the edges of the tiles.
  assert np.abs(seen[:, 18:] - RGB[:, 18:].astype(int)).mean() <= 3


TRANSPARENT = {
  'half': (Image.fromarray(np.uint8([[[0, 100, 200, 128]]])), {}, (127, 177, 227)),
  'grey and alpha': (Image.fromarray(np.uint8([[[10, 51]]]), 'LA'), {}, (206, 206, 206)),
  'a colour': (Image.fromarray(np.uint8([[[9, 8, 7]]])), {'transparency': (9, 8, 7)}, (255,) * 3),
  'another colour': (Image.fromarray(np.uint8([[[9, 8, 6]]])), {'transparency': (9, 8, 7)}, (9, 8, 6)),
  'a grey': (Image.fromarray(np.uint8([[9]])), {'transparency': 9}, (255,) * 3),
  'another grey': (Image.fromarray(np.uint8([[9]])), {'transparency': 8}, (9, 9, 9)),
  'one bit': (Image.fromarray(np.uint8([[0]])).convert('1'), {'transparency': 0}, (255,) * 3),
}  # fmt: skip


@pytest.mark.parametrize('case', TRANSPARENT)
def test_every_kind_of_transparency_of_a_png(case):
  image, options, expected = TRANSPARENT[case]
  seen = pixels.decode(_encode(image, 'PNG', **options), 'x', {})
  assert np.abs(seen[0, 0].astype(int) - expected).max() <= 1


def test_a_palette_with_transparency():
  image = Image.fromarray(np.uint8([[0, 1]]), 'P')
  image.putpalette([10, 20, 30, 40, 50, 60])
  seen = pixels.decode(_encode(image, 'PNG', transparency=bytes([0, 255])), 'x', {})
  np.testing.assert_array_equal(seen, [[[255, 255, 255], [40, 50, 60]]])


def test_papers_pixels_stay_as_they_were():
  exif = Image.Exif()
  exif[0x0112] = 6
  turned = _encode(Image.fromarray(RGB), 'PNG', exif=exif)
  np.testing.assert_array_equal(dataset.decode(turned, 'x'), RGB)
  clear = _encode(Image.fromarray(np.uint8([[[0, 100, 200, 0]]])), 'PNG')
  np.testing.assert_array_equal(dataset.decode(clear, 'x'), [[[0, 100, 200]]])
  deep = cv2.imencode('.png', np.uint16([[300]]))[1].tobytes()
  np.testing.assert_array_equal(dataset.decode(deep, 'x'), [[[1, 1, 1]]])


def test_natural6_folders_are_papers(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  folder = tmp_path / 'natural6' / 'pets' / 'test' / 'cat'
  folder.mkdir(parents=True)
  (folder / '1.png').write_bytes(_encode(Image.fromarray(RGB), 'PNG', exif=exif))
  np.testing.assert_array_equal(natural6.open_task('pets', 'test', str(tmp_path)).image(0), RGB)
  own = open_dataset(f'images:{tmp_path}/natural6/pets', 'test')
  np.testing.assert_array_equal(own.image(0), np.rot90(RGB, -1))
  assert own.identify() != natural6.open_task('pets', 'test', str(tmp_path)).identify()


def test_plain_jpegs_and_pngs_are_what_opencv_makes_of_them():
  noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
  for suffix in ('.jpg', '.png', '.bmp', '.ppm', '.webp', '.jp2'):
    data = cv2.imencode(suffix, noise)[1].tobytes()
    np.testing.assert_array_equal(pixels.decode(data, 'x', {}), dataset.decode(data, 'x'))


def _deep(root, name, array):
  (root / name).parent.mkdir(parents=True, exist_ok=True)
  (root / name).write_bytes(cv2.imencode(f'.{name.rpartition(".")[2]}', array)[1].tobytes())


@pytest.mark.parametrize('suffix', ['png', 'tif', 'tiff', 'pgm'])
@pytest.mark.parametrize(
  ('largest', 'white'),
  [
    (200, 255),
    (519, 1023),
    (1023, 1023),
    (1024, 4095),
    (4095, 4095),
    (9000, 16383),
    (16384, 65535),
  ],
)
def test_samples_of_fewer_bits_in_16_are_scaled_by_their_range(tmp_path, suffix, largest, white):
  _deep(tmp_path, f'train/a/1.{suffix}', np.full((4, 5), largest // 4, np.uint16))
  _deep(tmp_path, f'train/b/1.{suffix}', np.full((4, 5), largest // 2, np.uint16))
  _deep(tmp_path, f'test/b/1.{suffix}', np.full((4, 5), largest, np.uint16))
  # One range for both splits, set by the brightest of all, so that half as bright stays half as bright.
  train, test = (open_dataset(f'images:{tmp_path}', split) for split in ('train', 'test'))
  seen = [int(image[0, 0, 0]) for image in (train.image(0), train.image(1), test.image(0))]
  for value, expected in zip(seen, (largest // 4, largest // 2, largest)):
    assert value == round(expected * 255 / white)
  assert train.ranges == test.ranges == {'uint16': (0, white)}
  note = f'uint16 samples are scaled alike in all images: 0 becomes 0, {white:,} becomes 255'
  assert train.intake.notes == test.intake.notes == (note,)


def test_floats_and_signed_samples_are_scaled_by_their_range(tmp_path):
  for name, values, expected, known in (
    ('float32', (0.25, 0.5, 0.75), (64, 128, 191), (0, 1)),
    ('float64', (290.0, 300.0, 310.0), (0, 128, 255), (290, 310)),
    ('int16', (-1000, 0, 3000), (0, 64, 255), (-1000, 3000)),
    ('uint32', (10**6, 10**6, 2 * 10**6), (0, 0, 255), (10**6, 2 * 10**6)),
  ):
    root = tmp_path / name
    for i, value in enumerate(values):
      _deep(root, f'{"ab"[i % 2]}/{i}.tif', np.full((4, 5, 3), value, name))
    data = open_dataset(f'images:{root}', 'train')
    assert data.ranges == {name: known}
    order = sorted(range(3), key=lambda i: data.where(i).rpartition('/')[2])
    assert [int(data.image(i)[0, 0, 0]) for i in order] == list(expected)


def test_floats_that_are_no_numbers_do_not_set_the_range(tmp_path):
  _deep(tmp_path, 'a/1.tif', np.float32([[np.nan, 0.5, np.inf, -np.inf]]))
  _deep(tmp_path, 'b/1.tif', np.float32([[0, 1, 1, 1]]))
  data = open_dataset(f'images:{tmp_path}', 'train')
  assert data.image(0)[0, :, 0].tolist() == [0, 128, 255, 0]


def test_deep_samples_with_transparency_and_beside_8_bit_images(tmp_path):
  _deep(tmp_path, 'a/1.png', np.uint16([[[1000, 2000, 4000, 65535], [1000, 2000, 4000, 0]]]))
  _deep(tmp_path, 'b/1.png', np.uint8([[[1, 2, 4], [1, 2, 4]]]))
  data = open_dataset(f'images:{tmp_path}', 'train')
  # OpenCV's channels are blue, green, red. Transparency is of 65,535 whatever the range of the colours.
  assert data.image(0).tolist() == [[[249, 125, 62], [255, 255, 255]]]
  assert data.image(1).tolist() == [[[4, 2, 1], [4, 2, 1]]]


def _chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def _deep_tiff(samples: list[int], extra: int) -> bytes:
  """One pixel of 16-bit red, green, blue and transparency; `extra`: 1 if colours are weighed by it, 2 if not."""
  entries = (
    (256, 1),
    (257, 1),
    (259, 1),
    (262, 2),
    (273, 8),
    (277, 4),
    (278, 1),
    (279, 8),
    (338, extra),
  )
  entries = [struct.pack('<HHIHH', tag, 3, 1, value, 0) for tag, value in entries]
  entries.insert(2, struct.pack('<HHII', 258, 3, 4, 16))
  directory = struct.pack('<H', len(entries)) + b''.join(entries) + bytes(4)
  return struct.pack('<2sHI4H4H', b'II', 42, 24, *samples, *[16] * 4) + directory


def test_deep_colours_weighed_by_their_transparency():
  ranges = {'uint16': (0, 65535)}
  half = 32768
  seen = [
    pixels.decode(_deep_tiff([half, 0, half // 2, half], extra), 'x', ranges) for extra in (1, 2)
  ]
  # Half white paper, and the colours as they are, or half of them.
  assert np.abs(seen[0].astype(int) - [[[255, 127, 191]]]).max() <= 1
  assert np.abs(seen[1].astype(int) - [[[191, 127, 159]]]).max() <= 1


@pytest.mark.parametrize('transparent', [True, False])
def test_a_deep_png_is_turned_as_well(transparent):
  exif = struct.pack('>2sHIHHHIHHI', b'MM', 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
  image = np.uint16(RGB[..., ::-1]) * 257
  if transparent:
    image = np.dstack([image, np.full(image.shape[:2], 65535, np.uint16)])
  data = cv2.imencode('.png', image)[1].tobytes()
  turned = pixels.decode(data[:33] + _chunk(b'eXIf', exif) + data[33:], 'x', {'uint16': (0, 65535)})
  np.testing.assert_array_equal(turned, np.rot90(RGB, -1))


def test_transparency_that_is_not_read_is_refused():
  data = cv2.imencode('.png', np.uint16([[300, 4000]]))[1].tobytes()
  data = data[:33] + _chunk(b'tRNS', struct.pack('>H', 300)) + data[33:]
  with pytest.raises(
    UndecodableImage, match='has transparency with grey samples of more than 8 bits'
  ):
    pixels.decode(data, 'x', {'uint16': (0, 4095)})


def test_what_libjpeg_passes_over_is_passed_over():
  data = _encode(Image.fromarray(RGB), 'JPEG')
  at = data.index(b'\xff\xdb')
  junk = data[:at] + b'junk\xff\xff' + data[at:]
  np.testing.assert_array_equal(pixels.decode(junk, 'x', {}), pixels.decode(data, 'x', {}))


def test_which_jpeg_2000_is_scaled_by_its_data_set(tmp_path):
  values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
  for name, image in (('a/1.jp2', values), ('b/1.jp2', values // 2)):
    _deep(tmp_path, name, image)
  data = open_dataset(f'images:{tmp_path}', 'train')
  assert data.ranges == {'uint16': (0, 4095)}
  assert data.image(0)[..., 0].ravel().tolist() == np.rint(values.ravel() / 4095 * 255).tolist()


def test_a_range_that_the_header_tells_is_taken_from_it():
  data = b'P5\n# of a microscope\n3 1\n4095\n' + np.array([0, 1000, 4095], '>u2').tobytes()
  assert pixels.decode(data, 'x', {})[0, :, 0].tolist() == [0, 62, 255]


def test_a_portable_image_of_floats_is_scaled_by_its_data_set(tmp_path):
  for name, values in (('a/1.pnm', [0, 0.25, 1]), ('b/1.pnm', [0.5, 0, 0])):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b'Pf\n3 1\n-1.0\n' + np.array(values, '<f4').tobytes())
  data = open_dataset(f'images:{tmp_path}', 'train')
  assert data.image(0)[0, :, 0].tolist() == [0, 64, 255]


def test_the_range_belongs_to_what_tells_images_from_others(tmp_path):
  _deep(tmp_path, 'train/a/1.png', np.full((4, 5), 500, np.uint16))
  _deep(tmp_path, 'train/b/1.png', np.full((4, 5), 500, np.uint16))
  before = open_dataset(f'images:{tmp_path}', 'train')
  _deep(tmp_path, 'test/b/1.png', np.full((4, 5), 2000, np.uint16))
  after = open_dataset(f'images:{tmp_path}', 'train')
  assert before.image(0).max() == 125
  assert after.image(0).max() == 31
  assert before.identify() != after.identify()


def test_a_deep_image_behind_another_formats_suffix_is_named(tmp_path):
  _deep(tmp_path, 'a/1.png', np.full((4, 5), 500, np.uint16))
  (tmp_path / 'a' / '1.png').rename(tmp_path / 'a' / '1.jpg')
  data = open_dataset(f'images:{tmp_path}', 'train')
  with pytest.raises(UndecodableImage, match=r'a/1\.jpg: .*uint16 samples, but its suffix'):
    data.image(0)


def _huge(side: int) -> bytes:
  """A whole PNG of a few bytes, whose pixels are many."""

  packed, row = zlib.compressobj(9), bytes(side // 8 + 1)
  data = b''.join(packed.compress(row) for _ in range(side)) + packed.flush()
  head = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', head) + _chunk(b'IDAT', data) + _chunk(b'IEND', b'')


def test_a_huge_image_is_refused_for_its_size_before_it_is_decoded():
  data = _huge(20_000)
  tracemalloc.start()
  try:
    with pytest.raises(
      UndecodableImage, match=r'map\.png: .*20,000 × 20,000 pixels.*for its size'
    ) as caught:
      pixels.decode(data, 'map.png', {})
    assert tracemalloc.get_traced_memory()[1] < 2**20
  finally:
    tracemalloc.stop()
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('form', OPTIONS)
def test_the_size_is_read_from_the_header_of_every_format(form):
  data = _encode(Image.fromarray(RGB), form, **OPTIONS[form])
  header = headers.read(data)
  assert (header.width, header.height) == (32, 48)
  limit, pixels.MAX_PIXELS = pixels.MAX_PIXELS, 32 * 48 - 1
  try:
    with pytest.raises(UndecodableImage, match='32 × 48 pixels, more than 1,535'):
      pixels.decode(data, 'x', {})
  finally:
    pixels.MAX_PIXELS = limit


@pytest.mark.parametrize(
  ('form', 'channels'), [*((form, 3) for form in OPTIONS), *((form, 4) for form in _ALPHA)]
)
def test_an_image_that_is_cut_anywhere_is_refused(form, channels):
  noise = np.random.default_rng(0).integers(0, 256, (24, 20, channels)).astype(np.uint8)
  whole = _encode(Image.fromarray(noise), form, **OPTIONS[form])
  assert pixels.decode(whole, 'x', {}).shape == (24, 20, 3)
  for end in sorted({*range(0, len(whole) - 16, max(1, len(whole) // 40))}):
    with pytest.raises(UndecodableImage, match='x: cannot be decoded: it is'):
      pixels.decode(whole[:end], 'x', {})


def test_a_tiff_whose_rows_are_missing_is_refused():
  data = _encode(Image.fromarray(RGB).convert('RGBA'), 'TIFF')
  height = struct.pack('<HHII', 257, 4, 1, 48)
  assert height in data
  with pytest.raises(UndecodableImage, match='is cut off'):
    pixels.decode(data.replace(height, struct.pack('<HHII', 257, 4, 1, 96)), 'x', {})


@pytest.mark.parametrize('exif', [b'', b'II', b'no EXIF data', b'MM\0*\xff\xff\xff\xff'])
@pytest.mark.parametrize('depth', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [3, 4])
def test_garbled_exif_data_turn_nothing(exif, depth, channels):
  image = np.full((2, 3, channels), np.iinfo(depth).max, depth)
  data = cv2.imencode('.png', image)[1].tobytes()
  data = data[:33] + _chunk(b'eXIf', exif) + data[33:]
  assert pixels.decode(data, 'x', {'uint16': (0, 65535)}).tolist() == [[[255] * 3] * 3] * 2


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', 'it is empty'),
    (b'<html><body>404', 'it is a web page or other text'),
    (b'  <!DOCTYPE html>', 'it is a web page or other text'),
    (b'\0' * 100, 'it is no image of a known format'),
    (b'\xff\xd8\xff\xe0', 'it is cut off or garbled'),
    (b'II+\0\x08\0\0\0' + b'\xff' * 8, 'it is cut off or garbled'),
    (b'\0\0\0\x18ftypavif' + bytes(200), 'it is cut off or garbled'),
    # Without the library, nothing more is known.
    (b'\0\0\0\x18ftypheic' + bytes(200), 'it is (cut off or garbled|HEIC, which needs)'),
  ],
)
def test_what_is_no_image_is_told_why(data, reason):
  with pytest.raises(UndecodableImage, match=f'^there: cannot be decoded: {reason}'):
    pixels.decode(data, 'there', {})


def test_the_first_frame_of_an_animation_and_the_first_picture_of_several():
  frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (40, 200)]
  for form in ('GIF', 'WEBP', 'PNG', 'TIFF', 'MPO'):
    options = {'lossless': True} if form == 'WEBP' else {}
    data = _encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert np.abs(pixels.decode(data, 'x', {}).astype(int) - 40).max() <= 3, form


def test_heic_without_the_library_is_counted_and_named(tmp_path, monkeypatch):
  monkeypatch.setattr(pixels, 'pillow_heif', None)
  for name in ('a/1.HEIC', 'a/2.png', 'b/3.heic', 'b/4.png'):
    _deep(
      tmp_path, name.replace('HEIC', 'png').replace('heic', 'png'), np.zeros((2, 2, 3), np.uint8)
    )
    (tmp_path / name.replace('HEIC', 'png').replace('heic', 'png')).rename(tmp_path / name)
  data = open_dataset(f'images:{tmp_path}', 'train')
  assert len(data) == 2
  assert data.intake.left_out == {'.HEIC (needs pillow-heif)': 1, '.heic (needs pillow-heif)': 1}
  meta = struct.pack('>I4sI', 32, b'meta', 0) + struct.pack('>I4sIII', 20, b'ispe', 0, 8, 9)
  heic = struct.pack('>I4s4sI', 16, b'ftyp', b'heic', 0) + meta
  with pytest.raises(UndecodableImage, match=re.escape("needs pillow-heif: pip install '.[heic]'")):
    pixels.decode(heic, 'IMG_1.jpg', {})
  avif = _encode(Image.fromarray(RGB), 'AVIF')
  # Its first brand may be one of both formats.
  assert pixels.decode(avif.replace(b'ftypavif', b'ftypmif1'), 'x', {}).shape == RGB.shape


def test_heic_is_read_upright_and_on_white_where_the_library_is(tmp_path):
  heif = pytest.importorskip('pillow_heif', reason="needs pillow-heif: pip install '.[heic]'")
  alpha = np.full((48, 32), 255, np.uint8)
  alpha[:16] = 0
  for value in (1, 6):
    exif = Image.Exif()
    exif[0x0112] = value
    image = Image.fromarray(np.dstack([RGB, alpha]))
    buffer = io.BytesIO()
    heif.from_pillow(image).save(buffer, quality=-1, exif=exif.tobytes())
    for name in ('a/1.HEIC', 'b/1.heif'):
      (tmp_path / name).parent.mkdir(exist_ok=True)
      (tmp_path / name).write_bytes(buffer.getvalue())
    data = open_dataset(f'images:{tmp_path}', 'train')
    seen = data.image(0).astype(int)
    seen = np.rot90(seen, 1 if value == 6 else 0)
    assert np.abs(seen[:16] - 255).max() <= 3
    assert np.abs(seen[18:] - RGB[18:].astype(int)).mean() <= 6
    assert (
      image_files.open_unlabelled(tmp_path / 'a' / '1.HEIC').image(0).shape == data.image(0).shape
    )


@pytest.mark.parametrize('kind', [b'IDAT', b'eXIf', b'tEXt'])
def test_a_part_that_claims_to_be_longer_than_the_file_costs_nothing(kind):
  # OpenCV allocates what it claims: 4 GB, for half a minute.
  whole = _encode(Image.fromarray(RGB), 'PNG')
  data = whole[:33] + struct.pack('>I', 2**32 - 1) + kind + whole[41:]
  tracemalloc.start()
  try:
    with pytest.raises(UndecodableImage, match='is cut off or garbled'):
      pixels.decode(data, 'x', {})
    assert tracemalloc.get_traced_memory()[1] < 2**20
  finally:
    tracemalloc.stop()


_WHOLE = [
  _encode(Image.fromarray(RGB).convert(mode), form, **OPTIONS[form])
  for form, mode in (
    ('JPEG', 'RGB'), ('PNG', 'RGBA'), ('PNG', 'P'), ('WEBP', 'RGBA'), ('TIFF', 'RGBA'), ('TIFF', 'LA'),
    ('TIFF', 'F'), ('AVIF', 'RGBA'), ('GIF', 'P'), ('BMP', 'RGB'), ('PPM', 'RGB'), ('JPEG2000', 'LA'),
  )
]  # fmt: skip


@settings(
  deadline=None,
  max_examples=300,
  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
  st.sampled_from(_WHOLE),
  st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)), max_size=6),
)
def test_any_bytes_are_an_image_or_refused(monkeypatch, whole, changes):
  monkeypatch.setattr(pixels, 'MAX_PIXELS', 2**16)
  data = bytearray(whole)
  for place, inserted, deleted in changes:
    at = int(place**3 * len(data))  # mostly in the header
    data[at : at + deleted] = inserted
  try:
    image = pixels.decode(bytes(data), 'x', {'float32': (0, 1)})
  except UndecodableImage as error:
    assert '\n' not in str(error)  # noqa: PT017
  else:
    assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
    assert image.shape[0] * image.shape[1] <= 2**16
