"""What the command says of folders, and that it ends with 1 where a run would."""

import os

import cv2
import numpy as np
import pytest

from experts import entry
from experts.data import check, sources


def _draw(folder, number, seed=0):
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  for i in range(number):
    cv2.imwrite(str(folder / f'{i}.png'), rng.integers(0, 256, (6, 6, 3), np.uint8))


def _two(root, number=12):
  _draw(root / 'red', number, 1)
  _draw(root / 'blue', number, 2)


def _broken(root):
  _two(root, 15)
  (root / 'red/zero.jpg').write_bytes(b'')
  (root / 'blue/page.jpg').write_bytes(b'<html>')
  os.symlink('/nowhere/photo.jpg', root / 'red/link.jpg')


def _run(capsys, *arguments):
  code = 0
  try:
    check.main([str(each) for each in arguments])
  except (ValueError, OSError) as error:
    code = entry.report(error)
  return code, *capsys.readouterr()


def test_a_sound_folder_is_described(tmp_path, capsys):
  _two(tmp_path)
  (tmp_path / 'red/notes.txt').write_text('')
  for i in range(3):
    (tmp_path / f'blue/photo{i}').write_bytes(b'')
  code, out, err = _run(capsys, f'images:{tmp_path}')
  assert (code, err) == (0, '')
  assert out.splitlines() == [
    f'task mine: images:{tmp_path}',
    '  to fit: 16 images of train',
    '  to choose by: 4 images held out of train',
    '  to test: 4 images held out of train',
    '  2 classes, 10 images of each to learn from',
    '  not read: 3 no suffix, 1 not an image: .txt',
  ]


def test_splits_that_are_not_used_are_named_with_the_field_that_takes_one(tmp_path, capsys):
  for number, split in enumerate(('train', 'upright', 'turned')):
    for kind, name in enumerate(('red', 'blue')):
      _draw(tmp_path / split / name, 10 + number, 2 * number + kind)
  code, out, _ = _run(capsys, f'images:{tmp_path}')
  assert code == 0
  assert out.splitlines()[5:] == [
    '  splits that are not used: turned (24), upright (22); --config.tasks.mine.test=turned takes one'
  ]
  _, out, _ = _run(capsys, f'images:{tmp_path}', '--test=turned')
  assert out.splitlines()[5:] == [
    '  splits that are not used: upright (22); --config.tasks.mine.validation=upright takes one'
  ]
  _, out, _ = _run(capsys, f'images:{tmp_path}', '--test=turned', '--validation=upright')
  assert 'not used' not in out
  # A split that a task takes by itself, unless it is told otherwise, and one by another of its names.
  (tmp_path / 'turned').rename(tmp_path / 'dev')
  (tmp_path / 'upright').rename(tmp_path / 'test')
  assert 'not used' not in _run(capsys, f'images:{tmp_path}', '--validation=dev')[1]
  _, out, _ = _run(capsys, f'images:{tmp_path}', '--validation=train')
  assert '  splits that are not used: validation (24); ' in out


def test_rows_of_a_split_that_is_not_used_are_counted(tmp_path, capsys):
  _two(tmp_path / 'a')
  rows = [
    f'{name}/{i}.png,{name},{"holdout" if i > 8 else "train"}'
    for name in ('red', 'blue')
    for i in range(12)
  ]
  (tmp_path / 'a/labels.csv').write_text('\n'.join(['file,label,split', *rows]))
  _, out, _ = _run(capsys, f'images:{tmp_path}')
  assert (
    '  splits that are not used: holdout (6); --config.tasks.mine.test=holdout takes one' in out
  )


def test_all_bad_files_are_listed_with_their_paths_and_the_flag_that_skips_them(tmp_path, capsys):
  _broken(tmp_path)
  code, out, err = _run(capsys, f'images:{tmp_path}')
  assert (code, out) == (1, '')
  first, *files, last = err.splitlines()
  assert first == 'error: 3 images cannot be decoded:'
  assert sorted(line.split(':')[0].strip() for line in files) == sorted(
    str(tmp_path / name) for name in ('red/zero.jpg', 'blue/page.jpg', 'red/link.jpg')
  )
  assert (
    last == 'repair or remove them, or pass over such images with --config.image.undecodable=skip'
  )
  code, out, err = _run(capsys, f'images:{tmp_path}', '--undecodable=skip')
  assert (code, err) == (0, '')
  assert '  skipped: 3 images that cannot be decoded' in out.splitlines()
  assert f'{tmp_path}/red/link.jpg: ' in out
  numbers = [int(line.split()[-6 if 'held' in line else -4]) for line in out.splitlines()[1:4]]
  assert sum(numbers) == 30


@pytest.mark.parametrize(
  ('write', 'message'),
  [
    (lambda root: _draw(root / 'red', 9), 'one class only (red)'),
    (lambda root: [_draw(root / name, 1) for name in 'abc'], 'one image of each class (a, b, c)'),
    (lambda root: (_two(root), (root / 'green').mkdir()), "no image of class 'green'"),
    (lambda root: _draw(root / 'train', 9), 'train/ names a split, not a class'),
    (lambda root: None, 'no such folder'),
  ],
)
def test_it_ends_with_1_where_a_run_would(tmp_path, capsys, write, message):
  write(tmp_path / 'photos')
  code, out, err = _run(capsys, 'images:photos', f'--data_dir={tmp_path}')
  assert (code, out) == (1, '')
  assert err.startswith('error: ')
  assert message in err
  assert len(err.splitlines()) == 1


def test_names_with_control_characters_are_spelled_out(tmp_path, capsys):
  root = tmp_path / 'pho\ntos'
  _draw(root / 'red\nwarning: all is lost', 15, 1)
  _draw(root / 'blue\x1b[2J', 12, 2)
  # A joiner within a word, as Persian has it, is a letter's.
  _draw(root / 'می\u200cروم', 13, 3)
  (root / 'blue\x1b[2J' / 'a\rb.png').write_bytes(b'')
  (root / 'blue\x1b[2J' / 'c.te\nxt').write_bytes(b'')
  code, out, err = _run(capsys, f'images:{root}')
  assert (code, out) == (1, '')
  assert f'{tmp_path}/pho\\ntos/blue\\x1b[2J/a\\rb.png: ' in err
  assert set('\r\x1b') & set(err) == set()
  code, out, _ = _run(capsys, f'images:{root}', '--undecodable=skip')
  assert code == 0
  assert set('\r\x1b') & set(out) == set()
  first, *_, numbers, odd, skipped, fault = out.splitlines()
  assert first == f'task mine: images:{tmp_path}/pho\\ntos'
  assert '(red\\nwarning: all is lost) images of each' in numbers
  assert odd == '  not read: 1 not an image: .te\\nxt'
  assert (skipped.split(':')[0], len(fault.splitlines())) == ('  skipped', 1)
  names = sources.open_dataset(f'images:{root}', 'train').class_names
  assert names == ('blue\\x1b[2J', 'red\\nwarning: all is lost', 'می\u200cروم')


def test_copies_and_lone_classes_are_warned_of(tmp_path, capsys):
  _two(tmp_path / 'train')
  _draw(tmp_path / 'train/lone', 1, 3)
  _two(tmp_path / 'test', 4)
  code, out, _ = _run(capsys, f'images:{tmp_path}')
  assert code == 0
  first, second = [line for line in out.splitlines() if line.startswith('warning: ')]
  assert 'lone' in first
  assert '8 of 8 test images are copies of training images' in second


def test_prepared_sets_and_splits_by_name(capsys):
  code, out, _ = _run(capsys, 'glyphs:digits')
  assert code == 0
  assert '  to test: 797 images of test' in out.splitlines()
  assert _run(capsys, 'glyphs:digitz')[0] == 1
