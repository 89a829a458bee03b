"""What folders of images mean: splits, classes, groups, or nothing; what is passed over is counted and named."""

import os
import pathlib
import re
import tarfile
import tempfile
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experts.data.sources import UndecodableImage, open_dataset

PNG = cv2.imencode('.png', np.full((6, 5, 3), 9, np.uint8))[1].tobytes()


def _write(root: pathlib.Path, names: str) -> pathlib.Path:
  """A file for each name, where `a/3` stands for three images; a name that ends in / is an empty folder."""
  for name in names.split():
    folder, _, last = name.rpartition('/')
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    if last.isdigit():
      for i in range(int(last)):
        (path / f'{i}.png').write_bytes(PNG)
    elif last:
      (path / last).write_bytes(PNG)
  return root


def _pack(root: pathlib.Path, kind: str) -> pathlib.Path:
  """The same folder as an archive."""
  if kind == 'folder':
    return root
  path = root.with_suffix(kind)
  if kind == '.zip':
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
      for file in sorted(root.rglob('*')):
        archive.write(file, file.relative_to(root))
  else:
    with tarfile.open(path, 'w' if kind == '.tar' else 'w:gz') as archive:
      archive.add(root, '.')
  return path


CASES = {
  # files; splits; classes; left out; what the notes say
  'classes': ('red/2 blue/3', {'train': 5}, ('blue', 'red'), {}, ''),
  'splits of any case and name': (
    'Training/a/2 VALID/a/1 Testing/b/1',
    {'train': 2, 'validation': 1, 'test': 1},
    ('a', 'b'),
    {},
    "Testing/ is taken as the split 'test'",
  ),
  'dev': ('train/a/1 dev/a/1', {'train': 1, 'validation': 1}, ('a',), {}, 'dev/ is taken'),
  'other folders beside splits are splits': (
    'train/a/2 upright/a/1 turned/b/1',
    {'train': 2, 'turned': 1, 'upright': 1},
    ('a', 'b'),
    {},
    '',
  ),
  'wrapped': (
    'flowers/photos/rose/2 flowers/photos/lily/1',
    {'train': 3},
    ('lily', 'rose'),
    {},
    'flowers/photos/ is entered',
  ),
  'wrapped splits': (
    'set/train/a/2 set/test/b/1',
    {'train': 2, 'test': 1},
    ('a', 'b'),
    {},
    'set/ is entered',
  ),
  'a wrapper called like a split': (
    'test/train/a/2 test/test/b/1',
    {'train': 2, 'test': 1},
    ('a', 'b'),
    {},
    'test/ is entered',
  ),
  'splits twice over': (
    'train/train/a/2 test/test/a/1',
    {'train': 2, 'test': 1},
    ('a',),
    {},
    '',
  ),
  'a sole class is no wrapper': ('red/2', {'train': 2}, ('red',), {}, ''),
  'a sole split is no wrapper': ('train/a/1 train/b/1', {'train': 2}, ('a', 'b'), {}, ''),
  'a folder in a class': (
    'red/2 blue/2 red/more/3',
    {'train': 4},
    ('blue', 'red'),
    {'in a folder below a class': 3},
    'red/more/: 3 images in a folder below a class are left out',
  ),
  'a folder in a class of a split': (
    'train/red/2 train/blue/2 test/red/1 test/red/old/older/3',
    {'train': 4, 'test': 1},
    ('blue', 'red'),
    {'in a folder below a class': 3},
    'test/red/old/older/: 3 images',
  ),
  'a class in one split is a class in all': (
    'train/red/1 train/blue/1 test/red/x/2 test/blue/1',
    {'train': 2, 'test': 1},
    ('blue', 'red'),
    {'in a folder below a class': 2},
    'test/red/x/: 2 images',
  ),
  'groups of classes': (
    'fruit/apple/2 fruit/pear/1 vegetable/leek/1',
    {'train': 4},
    ('apple', 'leek', 'pear'),
    {},
    '',
  ),
  'folders of the same classes are splits': (
    'photo/cat/2 photo/dog/1 sketch/cat/1 sketch/dog/1',
    {'photo': 3, 'sketch': 2},
    ('cat', 'dog'),
    {},
    '',
  ),
  'images beside the classes': (
    'x.png red/2 blue/2',
    {'train': 4},
    ('blue', 'red'),
    {'in no class folder': 1},
    './: 1 images in no class folder',
  ),
  'unlabelled test images': (
    'cat/2 dog/2 test/3',
    {'train': 4},
    ('cat', 'dog'),
    {'in no class folder': 3},
    'test/: 3 images in no class folder',
  ),
  'unlabelled test images beside training ones': (
    'train/cat/2 train/dog/2 test/3',
    {'train': 4},
    ('cat', 'dog'),
    {'in no class folder': 3},
    'test/: 3 images in no class folder',
  ),
  'other folders beside splits': (
    'train/a/1 train/b/1 docs/2 code/src/ code/src/main.py',
    {'train': 2},
    ('a', 'b'),
    {'in no class folder': 2, 'not an image: .py': 1},
    'docs/: 2 images',
  ),
  'left behind by systems': (
    'red/2 blue/2 red/@eaDir/img0.jpg/thumb.jpg __MACOSX/._red __MACOSX/red/._0.png .thumbnails/1.png'
    ' red/Thumbs.db .DS_Store blue/desktop.ini $RECYCLE.BIN/x/3.png .git/objects/ab red/.hidden.png',
    {'train': 4},
    ('blue', 'red'),
    {'system files': 10},
    '',
  ),
  'what is no image': (
    'red/2 blue/2 red/photo red/notes.txt blue/a.CR2 blue/b.JPG.txt',
    {'train': 4},
    ('blue', 'red'),
    {'not an image: .txt': 2, 'no suffix': 1, '.CR2 (not read)': 1},
    '',
  ),
  'an empty class': ('red/2 blue/2 green/', {'train': 4}, ('blue', 'green', 'red'), {}, ''),
}


@pytest.mark.parametrize('kind', ['folder', '.tar', '.tgz', '.zip'])
@pytest.mark.parametrize('case', CASES)
def test_folders_mean_splits_classes_or_nothing(tmp_path, kind, case):
  names, splits, classes, left_out, note = CASES[case]
  path = _pack(_write(tmp_path / 'set', names), kind)
  for split, number in splits.items():
    data = open_dataset(f'images:{path}', split)
    assert (len(data), data.class_names) == (number, classes)
    assert data.intake.splits == splits
    assert data.intake.left_out == left_out
    assert note in '\n'.join(data.intake.notes)
    assert bool(data.intake.notes) == bool(note) or case == 'splits of any case and name'


REFUSED = {
  'Kaggle': (
    'train/cat.0.jpg train/dog.0.jpg test1/0.jpg',
    'train/ names a split, not a class.*make train/CLASS/FILE, or put a table labels.csv.*"train/cat.0.jpg,cat"',
  ),
  'a class called train': ('train/2 car/2 plane/2', 'train/ names a split, not a class'),
  'flat': ('1.jpg 2.jpg', 'lie in no class folder.*CLASS/FILE.*labels.csv.*"1.jpg,cat"'),
  'two of one split': ('val/a/1 valid/a/1 train/a/1', "val/ and valid/ both mean the split 'validation'"),
  'nothing': ('a/notes.txt a/b.heic', r'holds no image laid out.*\(1 .heic \(needs pillow-heif\), 1 not an image: .txt\)'),
  'no such split': ('test/x/1 red/2', r"no split 'train'; it has test; red/: 2 images in no class folder"),
}  # fmt: skip


@pytest.mark.parametrize('kind', ['folder', '.zip'])
@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_understood_is_one_line(tmp_path, kind, case, monkeypatch):
  monkeypatch.setattr('experts.data.pixels.pillow_heif', None)
  names, message = REFUSED[case]
  with pytest.raises(ValueError, match=message) as caught:
    open_dataset(f'images:{_pack(_write(tmp_path / "set", names), kind)}', 'train')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('asked', ['val', 'valid', 'Validation', 'dev', 'validation'])
def test_a_split_is_found_by_all_its_names(tmp_path, asked):
  root = _write(tmp_path, 'train/a/2 val/a/1')
  assert len(open_dataset(f'images:{root}', asked)) == 1


def test_groups_become_the_hierarchy_with_and_without_splits(tmp_path):
  names = 'fruit/apple/gala/2 fruit/pear/1 vegetable/leek/1'
  plain = open_dataset(f'images:{_write(tmp_path / "a", names)}', 'train')
  split = ' '.join(f'train/{name}' for name in names.split())
  below = open_dataset(f'images:{_write(tmp_path / "b", split)}', 'train')
  expected = {('gala', 'apple'), ('apple', 'fruit'), ('pear', 'fruit'), ('leek', 'vegetable')}
  assert set(plain.edges) == set(below.edges) == expected
  assert plain.class_names == below.class_names == ('gala', 'leek', 'pear')


@pytest.mark.parametrize('kind', ['folder', '.tar', '.zip'])
def test_names_that_are_no_utf_8_are_read_and_written_escaped(tmp_path, kind):
  root = _write(tmp_path / 'set', 'red/2 blue/2')
  os.rename(os.fsencode(root / 'red'), os.fsencode(root) + b'/caf\xe9')
  os.rename(os.fsencode(root) + b'/caf\xe9/0.png', os.fsencode(root) + b'/caf\xe9/\xff.png')
  if kind == '.zip':
    # Written on another system: names in its old code page, and not marked as UTF-8.
    with zipfile.ZipFile(root.with_suffix(kind), 'w') as archive:
      for name in ('blue/0.png', 'blue/1.png', 'café/0.png', 'café/1.png'):
        archive.writestr(zipfile.ZipInfo(name.replace('é', 'e')), PNG)
    data = (tmp_path / 'set.zip').read_bytes().replace(b'cafe', b'caf\x82')
    (tmp_path / 'set.zip').write_bytes(data)
  path = root.with_suffix(kind) if kind == '.zip' else _pack(root, kind)
  data = open_dataset(f'images:{path}', 'train')
  assert data.class_names == ('blue', 'café' if kind == '.zip' else r'caf\xe9')
  assert data.labels.tolist() == [0, 0, 1, 1]
  for index in range(4):
    assert data.image(index).shape == (6, 5, 3)
    data.where(index).encode('utf-8')
  if kind != '.zip':
    assert data.where(3).endswith(r'caf\xe9/\xff.png')
  assert len(data.identify()) == 64


@pytest.mark.parametrize(
  ('first', 'second'),
  [(b'caf\xe9', rb'caf\xe9'), ('café'.encode(), 'cafe\u0301'.encode())],
  ids=['escaped', 'composed'],
)
def test_classes_that_are_written_alike_are_refused_by_name(tmp_path, first, second):
  for name in (first, second):
    folder = os.fsencode(tmp_path) + b'/' + name
    os.mkdir(folder)
    pathlib.Path(os.fsdecode(folder), '1.png').write_bytes(PNG)
  with pytest.raises(ValueError, match='two classes are both written') as caught:
    open_dataset(f'images:{tmp_path}', 'train')
  assert '\n' not in str(caught.value)
  str(caught.value).encode('utf-8')


def test_names_that_differ_in_case_are_two_classes(tmp_path):
  data = open_dataset(f'images:{_write(tmp_path, "Apple/1 apple/1")}', 'train')
  assert data.class_names == ('Apple', 'apple')


def test_what_is_no_file_is_never_opened(tmp_path):
  root = _write(tmp_path / 'set', 'a/1 b/1')
  os.mkfifo(root / 'a' / 'pipe.jpg')
  os.mkfifo(tmp_path / 'pipe')
  (root / 'b' / 'to_pipe.png').symlink_to(tmp_path / 'pipe')
  (root / 'b' / 'dangling.png').symlink_to('/nowhere/x.png')
  data = open_dataset(f'images:{root}', 'train')
  assert data.intake.left_out == {'pipes, sockets or devices': 2}
  with pytest.raises(
    UndecodableImage, match=r'a link to /nowhere/x\.png, where nothing is'
  ) as caught:
    data.image(2)
  assert str(caught.value).startswith(str(root / 'b' / 'dangling.png'))
  assert len(data.identify()) == 64


def test_a_file_that_vanished_or_became_a_pipe_is_named(tmp_path):
  root = _write(tmp_path / 'set', 'a/2 b/1')
  data = open_dataset(f'images:{root}', 'train')
  (root / 'a' / '0.png').unlink()
  (root / 'a' / '1.png').unlink()
  os.mkfifo(root / 'a' / '1.png')
  with pytest.raises(UndecodableImage, match=f'{re.escape(str(root))}/a/0.png: .* is not there'):
    data.image(0)
  with pytest.raises(UndecodableImage, match=r'a/1\.png: .* is no file'):
    data.image(1)
  assert data.image(2).shape == (6, 5, 3)


@pytest.fixture
def folder_of_all(tmp_path):
  """A folder as a user sees it who is not root, for whom nothing is closed."""
  if os.geteuid():
    yield tmp_path
    return
  # pytest's own is closed to the others.
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o777)
    os.seteuid(65534)
    try:
      yield pathlib.Path(folder)
    finally:
      os.seteuid(0)


def test_what_may_not_be_read_is_named(folder_of_all):
  root = _write(folder_of_all / 'set', 'a/1 b/1 c/1')
  (root / 'a' / '0.png').chmod(0)
  (root / 'c').chmod(0)
  try:
    data = open_dataset(f'images:{root}', 'train')
    assert f'{root}/c: cannot be opened (Permission denied)' in data.intake.notes[0]
    with pytest.raises(UndecodableImage, match=r'a/0\.png: .*permission denied'):
      data.image(0)
  finally:
    (root / 'c').chmod(0o700)


def test_links_in_circles_end(tmp_path):
  root = _write(tmp_path / 'set', 'a/1 b/1')
  (root / 'a' / 'up').symlink_to(tmp_path)
  (root / 'a' / 'b').symlink_to(root / 'b')
  (root / 'b' / 'a').symlink_to(root / 'a')
  (root / 'b' / 'itself.png').symlink_to(root / 'b' / 'itself.png')
  data = open_dataset(f'images:{root}', 'train')
  assert (len(data), data.class_names) == (3, ('a', 'b'))
  assert data.intake.left_out['in a folder below a class'] == 3
  with pytest.raises(UndecodableImage, match=r'itself\.png: .*Too many levels of symbolic links'):
    data.image(2)


_FOLDERS = ('train', 'Test', 'val', 'red', 'blue', '@eaDir', '.git', 'a', 'b')
_FILES = ('1.png', '2.jpg', 'x.HEIC', 'photo', 'notes.txt', 'Thumbs.db', '._1.png')


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(
  st.sets(
    st.tuples(st.lists(st.sampled_from(_FOLDERS), max_size=4), st.sampled_from(_FILES)).map(
      lambda each: '/'.join((*each[0], each[1]))
    ),
    max_size=20,
  ),
  st.sampled_from(['folder', '.zip', '.tgz']),
)
def test_every_file_is_in_a_split_or_counted(names, kind):
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder, 'set')
    root.mkdir()
    path = _pack(_write(root, ' '.join(names)), kind)
    try:
      intake = open_dataset(f'images:{path}', 'train').intake
    except ValueError as error:
      assert '\n' not in str(error)  # noqa: PT017
      return
    assert sum(intake.splits.values()) + sum(intake.left_out.values()) == len(names)
    for split, number in intake.splits.items():
      data = open_dataset(f'images:{path}', split)
      assert (len(data), data.intake) == (number, intake)
      assert data.num_classes == len(set(data.class_names)) > data.labels.max()
