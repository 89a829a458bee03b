"""Folders and archives of images: classes, splits, decoding, faults."""

import io
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from experts.data import hierarchy, slices
from experts.data.sources import UndecodableImage, check_task, decode, open_dataset

SHARED = Path(__file__).resolve().parents[2].parent / 'shared'
RGB = np.zeros((24, 20, 3), np.uint8)
RGB[:12] = (250, 10, 90)
RGB[12:] = (20, 160, 240)
GREY = np.repeat(np.uint8([[40, 200]]), 8, axis=1).repeat(10, axis=0)
TILED = GREY[..., None].repeat(3, axis=-1)


def _encode(array: np.ndarray, mode: str | None, form: str, **options) -> bytes:
  image = Image.fromarray(array)
  buffer = io.BytesIO()
  (image.convert(mode) if mode else image).save(buffer, form, **options)
  return buffer.getvalue()


def _png(value: int) -> bytes:
  return cv2.imencode('.png', np.full((6, 5, 3), value, np.uint8))[1].tobytes()


def _make(root: Path, files: dict[str, bytes], kind: str) -> Path:
  """The same images as a folder, a plain tar or a compressed one."""
  if kind == 'folder':
    for name, data in files.items():
      (root / 'set' / name).parent.mkdir(parents=True, exist_ok=True)
      (root / 'set' / name).write_bytes(data)
    return root / 'set'
  path = root / f'set{kind}'
  with tarfile.open(path, 'w' if kind == '.tar' else 'w:gz') as tar:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return path


FORMATS = {
  'rgb': (_encode(RGB, 'RGB', 'PNG'), RGB, 0),
  'rgba': (_encode(RGB, 'RGBA', 'PNG'), RGB, 0),
  'cmyk jpeg': (_encode(RGB, 'CMYK', 'JPEG', quality=95), RGB, 12),
  'jpeg': (_encode(RGB, 'RGB', 'JPEG', quality=95), RGB, 12),
  'grey': (_encode(GREY, None, 'PNG'), TILED, 0),
  'grey and alpha': (_encode(GREY, 'LA', 'PNG'), TILED, 0),
  'grey jpeg': (_encode(GREY, None, 'JPEG', quality=95), TILED, 8),
  'webp': (_encode(RGB, 'RGB', 'WEBP', lossless=True), RGB, 0),
  'grey 16-bit png': (cv2.imencode('.png', GREY.astype(np.uint16) * 257)[1].tobytes(), TILED, 0),
  'grey 16-bit tiff': (cv2.imencode('.tiff', GREY.astype(np.uint16) * 257)[1].tobytes(), TILED, 0),
  'rgb 16-bit': (
    cv2.imencode('.png', RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
    RGB,
    0,
  ),
}


@pytest.mark.parametrize(('data', 'expected', 'within'), FORMATS.values(), ids=FORMATS.keys())
def test_every_colour_model_and_depth_becomes_8_bit_rgb(data, expected, within):
  image = decode(data, 'here')
  assert image.dtype == np.uint8
  assert image.shape == expected.shape
  # Away from the edge between the colours, where JPEG rings.
  rows = [2, -3]
  assert np.abs(image[rows].astype(int) - expected[rows].astype(int)).max() <= within


def test_orientation_tag_is_ignored():
  exif = Image.Exif()
  exif[0x0112] = 6  # turn by a quarter
  assert decode(_encode(RGB, 'RGB', 'JPEG', exif=exif), 'here').shape == (24, 20, 3)


@pytest.mark.parametrize(
  'data',
  [b'', b'not an image', _encode(RGB, 'RGB', 'PNG')[:60], _encode(RGB, 'RGB', 'JPEG')[:300]],
  ids=['empty', 'text', 'cut-png', 'cut-jpeg'],
)
def test_undecodable_image_is_named(data):
  with pytest.raises(UndecodableImage, match=r'folder/7\.jpg'):
    decode(data, 'folder/7.jpg')


@pytest.mark.parametrize('kind', ['folder', '.tar', '.tar.gz', '.tgz'])
def test_every_container_gives_the_same_data_set(tmp_path, kind):
  files = {f'train/{c}/{i}.png': _png(10 * n + i) for n, c in enumerate('ba') for i in range(2)}
  files |= {'test/b/9.PNG': _png(99), 'test/b/notes.txt': b'no image', 'readme.png': _png(0)}
  path = _make(tmp_path, files, kind)
  train = open_dataset(f'images:{path.name}', 'train', str(tmp_path))
  test = open_dataset(f'images:{path}', 'test')
  assert train.class_names == test.class_names == ('a', 'b')
  assert train.labels.tolist() == [0, 0, 1, 1]
  assert [int(train.image(i)[0, 0, 0]) for i in range(4)] == [10, 11, 0, 1]
  assert test.labels.tolist() == [1]
  assert test.image(0).shape == (6, 5, 3)
  assert test.where(0).endswith('test/b/9.PNG')


def test_same_innermost_folder_is_one_class_where_ancestors_nest(tmp_path):
  files = {
    'train/Veg/Mushroom/Brown/1.png': _png(1),
    'test/Veg/Brown/2.png': _png(2),
    'train/Fruit/Apple/3.png': _png(3),
    'train/Logo/Apple/4.png': _png(4),
  }
  path = _make(tmp_path, files, 'folder')
  train, test = (open_dataset(f'images:{path}', split) for split in ('train', 'test'))
  assert train.class_names == ('Brown', 'Fruit/Apple', 'Logo/Apple')
  assert test.labels.tolist() == [0]
  assert set(train.edges) == {
    ('Brown', 'Mushroom'),
    ('Brown', 'Veg'),
    ('Mushroom', 'Veg'),
    ('Fruit/Apple', 'Fruit'),
    ('Logo/Apple', 'Logo'),
  }


def test_group_named_as_its_class_stays_apart(tmp_path):
  path = _make(
    tmp_path, {'train/Pear/Pear/1.png': _png(1), 'train/Pear/Anjou/1.png': _png(1)}, 'folder'
  )
  data = open_dataset(f'images:{path}', 'train')
  tree = hierarchy.from_edges(data.edges, data.class_names)
  assert tree.nodes == ('Anjou', 'Pear', 'Pear/')
  assert tree.table.tolist() == [[0, 2], [1, 2]]


def test_unsafe_members_of_an_archive_are_ignored(tmp_path):
  secret = tmp_path / 'secret.png'
  secret.write_bytes(_png(7))
  path = tmp_path / 'evil.tar'
  with tarfile.open(path, 'w') as tar:
    for name, link in (
      ('train/a/1.png', None),
      ('train/b/1.png', None),
      ('train/../../b/2.png', None),
      ('/train/b/3.png', None),
      ('train/b/4.png', str(secret)),
    ):
      member = tarfile.TarInfo(name)
      if link:
        member.type, member.linkname = tarfile.SYMTYPE, link
        tar.addfile(member)
      else:
        member.size = len(_png(1))
        tar.addfile(member, io.BytesIO(_png(1)))
  assert [os.path.basename(open_dataset(f'images:{path}', 'train').where(i)) for i in (0, 1)] == [
    '1.png',
    '1.png',
  ]
  assert len(open_dataset(f'images:{path}', 'train')) == 2


def test_faults_of_the_source_are_one_clear_line(tmp_path):
  path = _make(tmp_path, {'train/a/1.png': _png(1), 'test/b/1.png': _png(1)}, 'folder')
  (tmp_path / 'broken.tar.gz').write_bytes(b'\x1f\x8bnonsense')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='nowhere'):
    open_dataset('images:nowhere', 'train', str(tmp_path))
  with pytest.raises(ValueError, match=r"no split 'valid'; it has test, train"):
    open_dataset(f'images:{path}', 'valid')
  with pytest.raises(ValueError, match=r'broken\.tar\.gz: not a readable tar'):
    open_dataset('images:broken.tar.gz', 'train', str(tmp_path))
  with pytest.raises(ValueError, match='no image laid out as split/class/file'):
    open_dataset('images:empty', 'train', str(tmp_path))
  with pytest.raises(ValueError, match=r'did you mean images:.*tfds:NAME'):
    open_dataset('image:x', 'train')


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
  path = _make(tmp_path, {'train/a/1.png': _png(1), 'elsewhere.png': _png(0)}, 'folder')
  other = tmp_path / 'other'
  other.mkdir()
  (other / '2.png').write_bytes(_png(2))
  (path / 'train' / 'b').symlink_to(other)
  (path / 'train' / 'a' / 'again').symlink_to(path / 'train')
  (path / 'test').symlink_to(path / 'train')
  data = open_dataset(f'images:{path}', 'train')
  assert data.class_names == ('a', 'b')
  assert [int(data.image(i)[0, 0, 0]) for i in range(2)] == [1, 2]
  assert open_dataset(f'images:{path}', 'test').labels.tolist() == [0, 1]


@pytest.mark.parametrize('kind', ['folder', '.tar', '.tgz'])
def test_hidden_files_and_folders_are_no_images(tmp_path, kind):
  names = ('train/a/1.png', 'train/b/1.png', 'train/b/._1.png', 'train/.cache/2.png', '.x/a/1.png')
  data = open_dataset(f'images:{_make(tmp_path, dict.fromkeys(names, _png(1)), kind)}', 'train')
  assert data.class_names == ('a', 'b')
  assert len(data) == 2


@pytest.mark.parametrize('kind', ['folder', '.tar.gz'])
def test_task_without_enough_data_is_refused(tmp_path, kind):
  files = {'train/a/1.png': _png(1), 'train/b/1.png': _png(1), 'test/c/1.png': _png(1)}
  data = open_dataset(f'images:{_make(tmp_path, files, kind)}', 'train')
  with pytest.raises(ValueError) as error:
    check_task(data, 1)
  assert str(error.value).endswith(
    " train: no image of class 'c' (its images are in test): add images to this split, or remove the class from all "
    'splits'
  )
  (tmp_path / 'two').mkdir()
  del files['test/c/1.png']
  data = open_dataset(f'images:{_make(tmp_path / "two", files, kind)}', 'train')
  check_task(data, 2)
  with pytest.raises(ValueError, match='2 images, but the split needs 1000'):
    check_task(data, 1000)
  (tmp_path / 'one').mkdir()
  data = open_dataset(
    f'images:{_make(tmp_path / "one", {"train/a/1.png": _png(1)}, kind)}', 'train'
  )
  with pytest.raises(ValueError, match=r'one class only \(a\)'):
    check_task(data, 1)


def test_folder_without_a_file_is_an_empty_class(tmp_path):
  path = _make(tmp_path, {'train/a/1.png': _png(1), 'train/b/1.png': _png(1)}, 'folder')
  (path / 'train' / 'c').mkdir()
  data = open_dataset(f'images:{path}', 'train')
  assert data.class_names == ('a', 'b', 'c')
  with pytest.raises(ValueError, match="no image of class 'c': add images, or remove the empty"):
    check_task(data, 1)


def test_a_table_whose_class_is_in_other_splits_alone_says_which(tmp_path):
  rows = ['a.png,x,train', 'b.png,y,train', 'c.png,z,test', 'd.png,z,holdout', 'e.png,7,test']
  files = {row.partition(',')[0]: _png(1) for row in rows}
  files['labels.csv'] = '\n'.join(['file,label,split', *rows]).encode()
  data = open_dataset(f'images:{_make(tmp_path, files, "folder")}', 'train')
  with pytest.raises(
    ValueError, match=r"'7' \(its images are in test\), 'z' .*in test and holdout"
  ):
    check_task(data, 1)


@pytest.mark.parametrize('kind', ['.tar', '.tgz'])
@pytest.mark.parametrize('damage', ['cut', 'garbled'])
def test_damaged_archive_is_named(tmp_path, kind, damage):
  files = {f'train/{c}/1.bmp': np.random.default_rng(0).bytes(9000) for c in 'ab'}
  path = _make(tmp_path, files, kind)
  content = bytearray(path.read_bytes())
  if damage == 'cut':
    del content[8000:]
  else:
    content[10:600] = bytes(590) if kind == '.tgz' else b'x' * 590
  path.write_bytes(content)
  with pytest.raises(ValueError, match=rf'set{kind}: (not a readable tar|holds no image)'):
    open_dataset(f'images:{path}', 'train')


def test_archive_that_changes_is_read_again(tmp_path):
  path = _make(tmp_path, {'train/a/1.png': _png(1)}, '.tar')
  assert open_dataset(f'images:{path}', 'train').class_names == ('a',)
  _make(tmp_path, {'train/b/1.png': _png(1), 'train/c/1.png': _png(1)}, '.tar')
  assert open_dataset(f'images:{path}', 'train').class_names == ('b', 'c')


@pytest.mark.skipif(not (SHARED / 'data').exists(), reason='needs ../shared/data/grocery64')
def test_grocery64_has_its_published_counts():
  train, test, val = (
    open_dataset('images:grocery64/grocery64.tar.gz', split, str(SHARED / 'data'))
    for split in ('train', 'test', 'val')
  )
  assert (len(train), len(test), len(val)) == (2640, 2485, 296)
  assert train.num_classes == test.num_classes == val.num_classes == 81
  ids = {'train': train, 'test': test, 'val': val}
  for split, data in ids.items():
    # The published lists give every file its class number: the same partition of the images.
    lines = (SHARED / 'data' / 'grocery64' / f'{split}.txt').read_text().splitlines()
    published = dict(line.split(', ')[:2] for line in lines)
    pairs = {(published[data.where(i).split(':')[-1]], data.label(i)) for i in range(len(data))}
    assert len(pairs) == len({p for p, _ in pairs}) == len({label for _, label in pairs})
  tree = hierarchy.from_edges(train.edges, train.class_names)
  tops = [name for name, above in zip(tree.nodes, tree.parents) if not above]
  assert sorted(tops) == ['Fruit', 'Packages', 'Vegetables']
  counts = dict(zip(tree.nodes, slices.counts(train.labels, tree)))
  assert counts['Fruit'] + counts['Packages'] + counts['Vegetables'] == 2640
  assert train.image(0).shape == (64, 64, 3)


def test_classes_without_a_split_are_one_split_named_train(tmp_path):
  for name in ('cat', 'dog'):
    (tmp_path / name).mkdir()
    for i in range(2):
      cv2.imwrite(str(tmp_path / name / f'{i}.png'), np.full((8, 8, 3), 100 * i, np.uint8))
  dataset = open_dataset(f'images:{tmp_path}', 'train')
  assert dataset.class_names == ('cat', 'dog')
  assert dataset.labels.tolist() == [0, 0, 1, 1]
  with pytest.raises(ValueError, match="no split 'test'; it has train"):
    open_dataset(f'images:{tmp_path}', 'test')


@pytest.mark.parametrize('layout', ['{split}/{name}', '{name}'])
@pytest.mark.parametrize('form', ['folder', 'tar'])
def test_images_are_told_from_others_without_reading_them(tmp_path, layout, form):
  root = tmp_path / 'images'
  for name in 'ab':
    folder = root / layout.format(split='train', name=name)
    folder.mkdir(parents=True)
    for i in range(3):
      (folder / f'{i}.png').write_bytes(b'no image at all')
  path = root
  if form == 'tar':
    path = tmp_path / 'images.tar'
    with tarfile.open(path, 'w') as tar:
      tar.add(root, '.')
  first = open_dataset(f'images:{path}', 'train').identify()
  assert first
  assert open_dataset(f'images:{path}', 'train').identify() == first
  changed = path if form == 'tar' else root / layout.format(split='train', name='a') / '1.png'
  os.utime(changed, ns=(1, 1))
  second = open_dataset(f'images:{path}', 'train').identify()
  assert second != first
  if form == 'folder':
    changed.unlink()
    assert open_dataset(f'images:{path}', 'train').identify() not in (first, second)
