"""That a test asks what was trained, and knows nothing of training; where it does, that it is said."""

import collections

import cv2
import ml_collections
import numpy as np
import pandas as pd
import pytest

from experts.data import check, draws, leaks, opening, splits


def _open(folder, seed=0, **changes):
  fields = {'data': f'images:{folder}', 'train': 'train', 'validation': '', 'test': ''}
  fields |= dict.fromkeys(('train_images', 'validation_images', 'test_images'), 0)
  spec = ml_collections.ConfigDict({**fields, 'metric': 'accuracy', **changes})
  (task,) = opening.open_tasks({'t': spec}, '', seed)
  return task


def _table(folder, rows):
  """rows: (class, group) or (class, group, split) of images, each its own."""
  rng = np.random.default_rng(0)
  folder.mkdir()
  for i in range(len(rows)):
    cv2.imwrite(str(folder / f'{i}.png'), rng.integers(0, 256, (6, 6, 3), np.uint8))
  frame = pd.DataFrame(rows, columns=['label', 'group', 'split'][: len(rows[0])])
  frame.insert(0, 'file', [f'{i}.png' for i in range(len(rows))])
  frame.to_csv(folder / 'labels.csv', index=False)
  return folder


def _groups(task, part):
  dataset, indices = task.part(part)
  return {dataset.groups[i] for i in indices}


def _classes(task, *parts):
  return {
    task.train.class_names[label]
    for part in parts
    for label in task.part(part)[0].labels[task.part(part)[1]].tolist()
  }


def _no_group_in_two_parts(task):
  count = collections.Counter(group for part in splits.PARTS for group in _groups(task, part))
  return set(count.values()) == {1}


@pytest.mark.parametrize('seed', range(12))
def test_a_class_that_only_some_groups_hold_is_trained_wherever_they_fall(tmp_path, seed):
  # By its first image each person counts as of class 'common'.
  rows = [
    (name, f'person{p}')
    for p in range(20)
    for name in ('common', 'common', f'rare{p % 5}' if p < 10 else 'other')
  ]
  task = _open(_table(tmp_path / 'data', rows), seed)
  assert _no_group_in_two_parts(task)
  assert _classes(task, 'validation', 'test') <= _classes(task, 'fit')
  assert leaks.untrained_classes(task) == []
  assert [line for line in check.warnings(task) if 'classes' in line] == []
  sizes = [len(task.part(part)[1]) for part in splits.PARTS]
  assert sizes == [39, 9, 12]


@pytest.mark.parametrize('seed', range(12))
def test_more_classes_than_are_held_out_are_all_trained_and_no_part_changes_its_size(
  tmp_path, seed
):
  rows = [(f'class{i % 24:02}', '') for i in range(48)]
  task = _open(_table(tmp_path / 'data', rows), seed, train_images=30, validation_images=5)
  assert [len(task.part(part)[1]) for part in splits.PARTS] == [25, 5, 9]
  assert len(np.unique(np.concatenate([task.all, task.test_indices]))) == 39
  assert len(_classes(task, 'fit')) == 24


def test_a_class_that_cannot_be_trained_is_named(tmp_path):
  # Five images train ten classes.
  rows = [(f'class{i % 10}', '') for i in range(60)]
  task = _open(_table(tmp_path / 'data', rows), train_images=5, validation_images=1, test_images=50)
  trained = {task.train.class_names[label] for label in task.labels.tolist()}
  assert len(trained) == 5
  lost = sorted({f'class{i}' for i in range(10)} - trained)
  assert leaks.untrained_classes(task) == lost
  (warning,) = check.warnings(task)
  assert warning.startswith(
    f'task t: classes that are tested, and of which no image trains: 5 ({", ".join(lost)}): '
  )


def test_units_of_the_same_size_are_exchanged_and_what_stays_stays():
  labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
  unit = [0, 0, 1, 1, 2, 2, 3, 3].__getitem__
  train, rest = draws.cover(labels, np.arange(6), np.array([6, 7]), unit, frozenset({0}), 0)
  assert (train.tolist(), rest.tolist()) == ([0, 1, 4, 5, 6, 7], [2, 3])
  # Nothing may leave: the part that trains would take all.
  train, rest = draws.cover(labels, np.arange(6), np.array([6, 7]), unit, frozenset({0, 1}), 0)
  assert (train.tolist(), rest.tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7])


@pytest.mark.parametrize('seed', range(8))
def test_a_drawn_test_has_no_group_of_the_validation_split(tmp_path, seed):
  # Persons 0 to 5 train and validate, 6 to 19 train.
  rows = [('ab'[i % 2], f'person{i // 4}', 'train') for i in range(80)]
  rows += [('ab'[i % 2], f'person{i // 4}', 'validation') for i in range(24)]
  task = _open(_table(tmp_path / 'data', rows), seed)
  assert not _groups(task, 'test') & (_groups(task, 'fit') | _groups(task, 'validation'))
  assert [len(task.part(part)[1]) for part in splits.PARTS] == [64, 24, 16]
  assert [line for line in check.warnings(task) if 'test images' in line] == []
  # Of fewer images to train on, those that may not be tested are left over.
  task = _open(tmp_path / 'data', seed, train_images=24, validation_images=12, test_images=8)
  assert not _groups(task, 'test') & (_groups(task, 'fit') | _groups(task, 'validation'))
  assert [len(task.part(part)[1]) for part in splits.PARTS] == [12, 12, 8]


def test_groups_that_leave_none_to_test_are_refused_in_a_line(tmp_path):
  rows = [('ab'[i % 2], f'person{i // 10}', split) for i in range(40) for split in ('train', 'val')]
  message = r'config\.tasks\.t: no group is left to test: .* add groups, or a split for it$'
  with pytest.raises(ValueError, match=message):
    _open(_table(tmp_path / 'data', rows))
  message = message.replace('test', 'choose by')
  one = [('ab'[i % 2], *(('one', 'train'), ('two', 'test'))[i % 4 // 2]) for i in range(40)]
  with pytest.raises(ValueError, match=message):
    _open(_table(tmp_path / 'one', one))


@pytest.mark.parametrize('seed', range(8))
def test_a_drawn_test_has_no_copy_of_the_validation_split(tmp_path, seed):
  rows = [('ab'[i % 2], '', 'train') for i in range(50)]
  rows += [('ab'[i % 2], '', 'validation') for i in range(20)]
  folder = _table(tmp_path / 'data', rows)
  for i in range(20):
    (folder / f'{50 + i}.png').write_bytes((folder / f'{i}.png').read_bytes())
  task = _open(folder, seed)
  assert [len(task.part(part)[1]) for part in splits.PARTS] == [40, 20, 10]
  assert task.copies.test == 0
  # All that is given is a copy of what trains.
  assert task.copies.validation == 20


def test_groups_that_the_given_splits_part_are_counted_and_named(tmp_path):
  rows = [('ab'[i % 2], f'person{i % 7}', 'train') for i in range(28)]
  rows += [('ab'[i % 2], f'person{5 + i % 4}', 'validation') for i in range(8)]
  rows += [('ab'[i % 2], ('', 'person3', 'person7', 'person9')[i // 2], 'test') for i in range(8)]
  task = _open(_table(tmp_path / 'data', rows))
  assert leaks.parted_groups(task) == leaks.Parted(
    4, 4, {'test': 'person3', 'validation': 'person5'}
  )
  lines = check.warnings(task)
  assert lines[0].startswith(
    "task t: 4 of 8 test images belong to groups that train, such as 'person3': "
  )
  assert lines[1] == "task t: 4 of 8 images to choose by belong to groups to fit, such as 'person5'"


def test_a_split_without_groups_takes_none_from_the_others(tmp_path):
  rows = [('ab'[i % 2], f'person{i // 4}', 'train') for i in range(40)]
  rows += [('ab'[i % 2], '', 'validation') for i in range(8)]
  folder = _table(tmp_path / 'data', rows)
  # A copy makes the draw anew, which keeps the groups together.
  (folder / '39.png').write_bytes((folder / '0.png').read_bytes())
  for seed in range(8):
    task = _open(folder, seed)
    assert not _groups(task, 'test') & _groups(task, 'fit')
    assert task.copies.test == 0


def test_leave_one_out_is_warned_of_where_groups_have_several_images(tmp_path):
  rows = [('ab'[i % 2], f'person{i // 4}' if i < 40 else '') for i in range(60)]
  task = _open(_table(tmp_path / 'data', rows))
  of_groups = sum(bool(task.train.groups[i]) for i in task.all)
  assert 20 <= of_groups <= 40
  assert check.warnings(task) == [
    f"task t: {of_groups} of 48 training images are of groups of several, each other's nearest neighbours: leave-one-out "
    '(knn) does not keep groups apart; knn_holdout and linear do'
  ]
  # Where the given splits part them, a hold-out does not either.
  rows = [('ab'[i % 2], f'person{i // 4}', ('train', 'val')[i % 4 // 2]) for i in range(40)]
  rows += [('ab'[i % 2], '', 'test') for i in range(4)]
  last = check.warnings(_open(_table(tmp_path / 'parted', rows)))[-1]
  assert last.endswith(
    "40 of 40 training images are of groups of several, each other's nearest neighbours: leave-one-out "
    '(knn) does not keep groups apart'
  )
  # Of each group one image: nothing to keep apart.
  rows = [('ab'[i % 2], f'person{i}') for i in range(40)]
  assert check.warnings(_open(_table(tmp_path / 'alone', rows))) == []
