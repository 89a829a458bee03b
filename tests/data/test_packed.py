"""Zip and tar archives: what is refused, what is damaged, and that nothing swells beyond its bounds."""

import io
import struct
import tarfile
import tracemalloc
import warnings
import zipfile

import cv2
import numpy as np
import pytest

from experts.data import image_files, packed, pixels
from experts.data.sources import UndecodableImage, open_dataset


def _png(value: int = 9) -> bytes:
  return cv2.imencode('.png', np.full((6, 5, 3), value, np.uint8))[1].tobytes()


def _zip(path, members, compression=zipfile.ZIP_DEFLATED):
  with warnings.catch_warnings(), zipfile.ZipFile(path, 'w', compression) as archive:
    warnings.simplefilter('ignore')  # of names that are there twice
    for name, data in members:
      archive.writestr(name, data)
  return path


TWO = (('a/1.png', _png(1)), ('b/1.png', _png(2)))


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_that_leave_it_are_refused_and_counted(tmp_path, compression):
  link = zipfile.ZipInfo('b/link.png')
  link.external_attr = 0o120777 << 16
  evil = (
    ('../b/2.png', _png()),
    ('/b/3.png', _png()),
    ('a/../../4.png', _png()),
    (link, b'/etc/x'),
  )
  data = open_dataset(f'images:{_zip(tmp_path / "set.zip", (*TWO, *evil), compression)}', 'train')
  assert [int(data.image(i)[0, 0, 0]) for i in range(2)] == [1, 2]
  assert data.intake.left_out == {'links, devices or paths that leave the archive': 4}
  assert "the first '../b/2.png'" in data.intake.notes[0]
  assert data.where(0) == f'{tmp_path}/set.zip:a/1.png'


def test_the_last_of_several_members_of_one_name_counts(tmp_path):
  members = (*TWO, ('a/1.png', _png(7)))
  _zip(tmp_path / 'set.zip', members)
  with tarfile.open(tmp_path / 'set.tar', 'w') as tar:
    for name, content in members:
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  for kind in ('zip', 'tar'):
    data = open_dataset(f'images:{tmp_path}/set.{kind}', 'train')
    assert [int(data.image(i)[0, 0, 0]) for i in range(len(data))] == [7, 2]
    assert data.intake.left_out == {'replaced by a later file of the same name': 1}


def test_separators_of_windows_within_a_zip(tmp_path):
  path = _zip(tmp_path / 'set.zip', [('a/1.png', _png(1)), ('b/1.png', _png(2))])
  path.write_bytes(path.read_bytes().replace(b'a/1.png', b'a\\1.png').replace(b'b/1.', b'b\\1.'))
  assert open_dataset(f'images:{path}', 'train').class_names == ('a', 'b')


def test_encrypted_and_unknown_kinds_are_one_line(tmp_path):
  path = _zip(tmp_path / 'locked.zip', TWO)
  content = bytearray(path.read_bytes())
  at = content.index(b'PK\1\2')
  content[at + 8] |= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"locked\.zip: 'a/1\.png' is encrypted: unpack it and give"):
    open_dataset(f'images:{path}', 'train')
  path = _zip(tmp_path / 'other.zip', TWO, zipfile.ZIP_BZIP2)
  with pytest.raises(ValueError, match=r"'a/1\.png' is compressed by method 12, which is not read"):
    open_dataset(f'images:{path}', 'train')
  for start, message in (
    (b'Rar!\x1a\7\0', 'a RAR archive is not read: unpack it and give the folder'),
    (b"7z\xbc\xaf'\x1c\0", 'a 7z archive is not read'),
    (b'PK\3\4nonsense', 'not a readable zip archive'),
    (b'anything', 'not a readable tar or zip archive'),
  ):
    (tmp_path / 'x.zip').write_bytes(start + bytes(600))
    with pytest.raises(ValueError, match=message) as caught:
      open_dataset(f'images:{tmp_path}/x.zip', 'train')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path, compression):
  noise = cv2.imencode('.bmp', np.random.default_rng(0).integers(0, 99, (9, 9, 3)))[1].tobytes()
  path = _zip(tmp_path / 'set.zip', (('a/1.bmp', noise), *TWO), compression)
  content = bytearray(path.read_bytes())
  content[60] ^= 255
  path.write_bytes(content)
  data = open_dataset(f'images:{path}', 'train')
  with pytest.raises(UndecodableImage, match=r'set\.zip:a/1\.bmp: .* is damaged in the archive'):
    data.image(0)
  assert data.image(1).shape == (6, 5, 3)


def test_bombs_are_refused_in_bounded_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(pixels, 'MAX_BYTES', 2**20)
  zeros = bytes(2**25)
  path = _zip(tmp_path / 'bomb.zip', (*TWO, ('b/honest.png', zeros), ('b/lies.png', zeros)))
  # The last tells less than it holds, in both of its headers.
  content = path.read_bytes()
  first, _, last = content.rpartition(struct.pack('<I', len(zeros)))
  start, _, middle = first.rpartition(struct.pack('<I', len(zeros)))
  before, _, between = start.rpartition(struct.pack('<I', len(zeros)))
  small = struct.pack('<I', 1000)
  honest = struct.pack('<I', len(zeros))
  path.write_bytes(before + small + between + honest + middle + small + last)
  with tarfile.open(tmp_path / 'bomb.tgz', 'w:gz') as tar:
    for name, data in (*TWO, ('b/honest.png', zeros)):
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  (tmp_path / 'folder' / 'a').mkdir(parents=True)
  (tmp_path / 'folder' / 'a' / 'honest.png').write_bytes(zeros)
  del zeros, content, first, last, start, middle, before, between
  tracemalloc.start()
  try:
    data = open_dataset(f'images:{path}', 'train')
    with pytest.raises(
      UndecodableImage, match=r'honest\.png: .* 33,554,432 bytes, more than 1,048,576'
    ):
      data.image(2)
    with pytest.raises(UndecodableImage, match=r'lies\.png: .* is damaged in the archive'):
      data.image(3)
    for other in ('bomb.tgz', 'folder'):
      data = open_dataset(f'images:{tmp_path / other}', 'train')
      with pytest.raises(UndecodableImage, match='33,554,432 bytes, more than'):
        data.image(len(data) - 1)
    assert tracemalloc.get_traced_memory()[1] < 2**23
  finally:
    tracemalloc.stop()


def test_a_compressed_tar_of_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(packed, 'MAX_HELD', 100)
  with tarfile.open(tmp_path / 'set.tgz', 'w:gz') as tar:
    for name, data in TWO:
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  with pytest.raises(
    ValueError, match=r'set\.tgz: holds more than 100 bytes when unpacked.*unpack it'
  ):
    open_dataset(f'images:{tmp_path}/set.tgz', 'train')


def test_a_tar_that_tells_more_than_it_holds_allocates_nothing(tmp_path):
  member = tarfile.TarInfo('a/1.png')
  member.size = 10**15
  header = member.tobuf(tarfile.GNU_FORMAT)
  other = tarfile.TarInfo('b/1.png')
  other.size = len(_png())
  path = tmp_path / 'set.tar'
  path.write_bytes(other.tobuf() + _png() + bytes(512 - len(_png())) + header + bytes(1024))
  try:
    data = open_dataset(f'images:{path}', 'train')
  except ValueError as error:
    assert 'set.tar: not a readable tar' in str(error)  # noqa: PT017
  else:
    with pytest.raises(UndecodableImage, match=r'a/1\.png: .*1,000,000,000,000,000 bytes'):
      data.image(0)


def test_images_without_labels_are_a_file_a_folder_or_an_archive(tmp_path):
  path = _zip(tmp_path / 'set.zip', (*TWO, ('c.png', _png(3)), ('x/notes.txt', b'')))
  with zipfile.ZipFile(path) as archive:
    archive.extractall(tmp_path / 'set')
  for source in (path, tmp_path / 'set'):
    data = image_files.open_unlabelled(source)
    assert [data.where(i) for i in range(3)] == ['a/1.png', 'b/1.png', 'c.png']
    assert [int(data.image(i)[0, 0, 0]) for i in range(3)] == [1, 2, 3]
    assert data.intake.left_out == {'not an image: .txt': 1}
  (tmp_path / 'photo').write_bytes(_png(4))
  data = image_files.open_unlabelled(tmp_path / 'photo')
  assert (len(data), int(data.image(0)[0, 0, 0]), data.where(0)) == (1, 4, 'photo')
  with pytest.raises(FileNotFoundError, match='nowhere: no such'):
    image_files.open_unlabelled(tmp_path / 'nowhere')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='holds no image'):
    image_files.open_unlabelled(tmp_path / 'empty')
