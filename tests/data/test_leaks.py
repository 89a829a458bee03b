"""That a test asks what was trained, and knows nothing of training; where it does, that it is said."""

import collections

import cv2
import ml_collections
import numpy as np
import pandas as pd
import pytest

from experts.data import check, draws, leaks, splits


def _open(folder, seed=0, **changes):
  fields = {'data': f'images:{folder}', 'train': 'train', 'validation': '', 'test': ''}
  fields |= dict.fromkeys(('train_images', 'validation_images', 'test_images'), 0)
  spec = ml_collections.ConfigDict({**fields, 'metric': 'accuracy', **changes})
  (task,) = check.open_tasks({'t': spec}, '', seed)
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
  assert check.warnings(task) == []
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
