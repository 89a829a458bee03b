"""How a task's images are split, and what is refused."""

import cv2
import ml_collections
import numpy as np
import pytest

from configs import common
from experts.phases import tasks


def _spec(**changes):
  return ml_collections.ConfigDict(common.task('images:task', **changes))


def _folder(root, counts):
  for name, number in counts.items():
    folder = root / 'task' / name
    folder.mkdir(parents=True)
    for i in range(number):
      cv2.imwrite(str(folder / f'{i}.png'), np.full((4, 4, 3), i, np.uint8))
  return str(root)


def test_parts_are_disjoint_and_keep_the_classes_in_proportion(tmp_path):
  data = _folder(tmp_path, {'a': 40, 'b': 20})
  task = tasks.load(
    't', _spec(test='', train_images=30, validation_images=6, test_images=12), data, 0
  )
  parts = [task.fit, task.validation, task.test_indices]
  assert [len(part) for part in parts] == [24, 6, 12]
  assert len(np.unique(np.concatenate(parts))) == 42
  for part in parts:
    assert (task.train.labels[part] == 0).sum() * 3 == len(part) * 2


def test_a_fifth_is_held_out_and_a_fifth_of_the_rest_chooses_unless_told(tmp_path):
  data = _folder(tmp_path, {'a': 50, 'b': 50})
  task = tasks.load('t', _spec(test='', train_images=0, validation_images=0), data, 0)
  assert [len(p) for p in (task.fit, task.validation, task.test_indices)] == [64, 16, 20]


def test_the_seed_decides_the_split(tmp_path):
  data = _folder(tmp_path, {'a': 30, 'b': 30})
  fit = lambda seed: tasks.load('t', _spec(test='', train_images=0), data, seed).fit.tolist()
  with pytest.raises(ValueError, match=r'config\.tasks\.t: 200 of 48 images'):
    fit(0)
  spec = _spec(test='', train_images=0, validation_images=8)
  first, again, other = (tasks.load('t', spec, data, seed).fit.tolist() for seed in (0, 0, 1))
  assert first == again != other


@pytest.mark.parametrize(
  ('counts', 'message'),
  [
    ({'a': 30}, 'one class only'),
    ({'a': 30, 'b': 0}, "no image of class 'b'"),
    ({'a': 30, 'b': 30}, '60 images, but the split needs 1012'),
  ],
)
def test_data_that_does_not_serve_is_refused(tmp_path, counts, message):
  data = _folder(tmp_path, counts)
  with pytest.raises(ValueError, match=message):
    tasks.load('t', _spec(test='', test_images=12), data, 0)


def test_every_task_that_is_not_there_is_named(tmp_path):
  config = common.get_config()
  config.data_dir = str(tmp_path)
  config.tasks = {'one': common.task('images:first'), 'two': common.task('images:second.tar')}
  with pytest.raises(FileNotFoundError, match=r"task 'one'.*first.*\n.*task 'two'.*second\.tar"):
    tasks.load_all(config)


def test_no_task_is_an_error():
  with pytest.raises(ValueError, match='tasks is empty'):
    tasks.load_all(common.get_config())
