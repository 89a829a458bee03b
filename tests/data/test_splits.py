"""Which images train, validate and test, of folders as people have them."""

import collections

import cv2
import ml_collections
import numpy as np
import pytest

from experts.data import check, opening, splits


def _spec(folder, **changes):
  fields = {'data': f'images:{folder}', 'train': 'train', 'validation': '', 'test': ''}
  fields |= dict.fromkeys(('train_images', 'validation_images', 'test_images'), 0)
  return ml_collections.ConfigDict({**fields, 'metric': 'accuracy', **changes})


def _fill(folder, counts, seed=0):
  """counts: 'split/class' or 'class' -> images, each its own."""
  rng = np.random.default_rng(seed)
  for name, number in counts.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(number):
      cv2.imwrite(str(folder / name / f'{i}.png'), rng.integers(0, 256, (6, 6, 3), np.uint8))
  return folder


def _open(folder, seed=0, undecodable='raise', **changes):
  (task,) = opening.open_tasks({'t': _spec(folder, **changes)}, '', seed, undecodable)
  return task


def _names(task, part):
  dataset, indices = task.part(part)
  return sorted(dataset.where(i).rpartition('data/')[2] for i in indices)


@pytest.fixture
def three(tmp_path):
  counts = {
    f'{split}/{name}': n for split, n in (('train', 10), ('val', 4), ('test', 3)) for name in 'ab'
  }
  return _fill(tmp_path / 'data', counts)


def test_splits_of_a_folder_are_used_as_they_are_called(three):
  task = _open(three)
  parts = {part: _names(task, part) for part in splits.PARTS}
  assert {name.split('/')[0] for name in parts['fit']} == {'train'}
  assert {name.split('/')[0] for name in parts['validation']} == {'val'}
  assert {name.split('/')[0] for name in parts['test']} == {'test'}
  assert [len(parts[part]) for part in splits.PARTS] == [20, 8, 6]
  assert task.origin == {'fit': 'train', 'validation': 'validation', 'test': 'test'}
  # The retraining uses both.
  assert collections.Counter(task.labels.tolist()) == {0: 14, 1: 14}
  assert task.train.image(task.validation[0]).shape == (6, 6, 3)


def test_a_split_may_be_held_out_though_there_is_one(three):
  task = _open(three, validation='train', test='train')
  assert {name.split('/')[0] for part in splits.PARTS for name in _names(task, part)} == {'train'}
  assert [len(task.part(part)[1]) for part in splits.PARTS] == [13, 3, 4]
  assert task.origin['test'] == 'held out of train'
  assert not {*_names(task, 'fit'), *_names(task, 'validation')} & {*_names(task, 'test')}


def test_parts_of_the_splits_may_be_used(three):
  task = _open(three, train_images=12, validation_images=4, test_images=2)
  assert [len(task.part(part)[1]) for part in splits.PARTS] == [8, 4, 2]
  assert {name.split('/')[0] for name in _names(task, 'validation')} == {'val'}


def test_what_chooses_cannot_test(three):
  task = _open(three, test='validation')
  assert task.origin['validation'] == 'held out of train'
  assert {name.split('/')[0] for name in _names(task, 'test')} == {'val'}
  with pytest.raises(ValueError, match=r"t: validation and test are both 'validation'"):
    _open(three, validation='validation', test='validation')


def test_classes_of_one_image_train_and_the_others_keep_their_proportions(tmp_path):
  task = _open(_fill(tmp_path / 'data', {'a': 40, 'b': 20, 'lone': 1, 'sole': 1}))
  assert splits.one_image_classes(task) == ['lone', 'sole']
  # A fifth of 62 is held out, and a fifth of the rest.
  counts = {
    part: np.bincount(task.train.labels[task.part(part)[1]], minlength=4).tolist()
    for part in splits.PARTS
  }
  assert counts == {'fit': [25, 13, 1, 1], 'validation': [7, 3, 0, 0], 'test': [8, 4, 0, 0]}
  (warning,) = check.warnings(task)
  assert 'task t: classes with a single image' in warning
  assert warning.endswith(': 2 (lone, sole)')


def test_one_image_of_every_class_is_refused_by_name(tmp_path):
  with pytest.raises(ValueError, match=r'one image of each class \(a, b, c\)'):
    _open(_fill(tmp_path / 'data', {'a': 1, 'b': 1, 'c': 1}))


def _copy(folder, source, *targets):
  for target in targets:
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    (folder / target).write_bytes((folder / source).read_bytes())


@pytest.mark.parametrize('seed', range(4))
def test_copies_stay_on_one_side_of_what_is_drawn(tmp_path, seed):
  folder = _fill(tmp_path / 'data', {'a': 20, 'b': 20})
  for i in range(12):
    _copy(folder, f'a/{i}.png', f'a/copy{i}.png')
    # Other bytes, the same pixels.
    cv2.imwrite(str(folder / f'b/copy{i}.bmp'), cv2.imread(str(folder / f'b/{i}.png')))
  task = _open(folder, seed)
  place = collections.defaultdict(set)
  for part in splits.PARTS:
    for name in _names(task, part):
      place[name.replace('copy', '').split('.')[0]].add(part)
  assert len(place) == 40
  assert all(len(parts) == 1 for parts in place.values())
  number = [len(task.part(part)[1]) for part in splits.PARTS]
  assert sum(number) == 64
  # About 41, 11 and 12.
  assert min(number[1:]) >= 7
  assert number[0] >= 34
  assert (task.copies.test, task.copies.validation, task.copies.classes) == (0, 0, 0)


def test_without_copies_the_draw_is_that_of_the_labels_alone(tmp_path):
  folder = _fill(tmp_path / 'data', {'a': 30, 'b': 30})
  task = splits.load('t', _spec(folder), '', 0)
  settled = _open(folder)
  for part in splits.PARTS:
    assert task.part(part)[1].tolist() == settled.part(part)[1].tolist()


def test_copies_across_given_splits_and_classes_are_counted_and_named(three):
  _copy(three, 'train/a/0.png', 'test/a/0.png', 'val/a/0.png')
  _copy(three, 'train/a/1.png', 'train/b/1.png')
  task = _open(three)
  assert (task.copies.test, task.copies.validation, task.copies.classes) == (1, 1, 2)
  lines = check.warnings(task)
  assert len(lines) == 3
  assert '1 of 6 test images are copies of training images' in lines[0]
  assert f'{three}/test/a/0.png is {three}/train/a/0.png' in lines[0]
  assert '1 of 8 images to choose by are copies of images to fit' in lines[1]
  assert '2 images are copies of an image of another class' in lines[2]
  assert f'{three}/train/b/1.png is {three}/train/a/1.png' in lines[2]


def test_groups_stay_on_one_side(tmp_path):
  folder = _fill(tmp_path / 'data', {'images': 60})
  rows = ''.join(f'images/{i}.png,{"ab"[i % 2]},person{i // 6}\n' for i in range(60))
  (folder / 'labels.csv').write_text(f'file,label,group\n{rows}')
  # A copy ties two persons to each other.
  _copy(folder, 'images/0.png', 'images/59.png')
  task = _open(folder)
  sides = collections.defaultdict(set)
  for part in splits.PARTS:
    for name in _names(task, part):
      sides[int(name.split('/')[1].split('.')[0]) // 6].add(part)
  assert len(sides) == 10
  assert all(len(each) == 1 for each in sides.values())
  assert sides[0] == sides[9]


def test_skipped_images_take_no_index_with_them(three):
  for bad in ('train/a/3.png', 'val/b/1.png', 'test/a/2.png'):
    (three / bad).write_bytes(b'')
  task = _open(three, undecodable='skip')
  whole = {part: _names(splits.load('t', _spec(three), '', 0), part) for part in splits.PARTS}
  for part, bad in (
    ('fit', 'train/a/3.png'),
    ('validation', 'val/b/1.png'),
    ('test', 'test/a/2.png'),
  ):
    assert _names(task, part) == [name for name in whole[part] if name != bad]
  assert len(task.skipped) == 3
  assert [len(task.part(part)[1]) for part in splits.PARTS] == [19, 7, 5]
  for part in splits.PARTS:
    dataset, indices = task.part(part)
    assert all(dataset.image(i).shape == (6, 6, 3) for i in indices)


def test_a_class_of_which_nothing_is_left_is_named(three):
  for i in range(10):
    (three / f'train/a/{i}.png').write_bytes(b'')
  for i in range(4):
    (three / f'val/a/{i}.png').write_bytes(b'')
  with pytest.raises(ValueError, match=r"task 't': no image of class 'a' can be decoded"):
    _open(three, undecodable='skip')
  for i in range(3):
    for name in 'ab':
      (three / f'test/{name}/{i}.png').write_bytes(b'')
  for i in range(10):
    cv2.imwrite(str(three / f'train/a/{i}.png'), np.full((6, 6, 3), i, np.uint8))
  with pytest.raises(ValueError, match=r"task 't': no image of test can be decoded"):
    _open(three, undecodable='skip')
