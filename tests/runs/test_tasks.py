"""How a task's images are split, and what is refused."""

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

import cv2
import ml_collections
import numpy as np
import pandas as pd
import pytest

from configs import common
from experts.data import splits
from experts.data.dataset import UndecodableImage
from experts.runs import tasks

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _spec(**changes):
  return ml_collections.ConfigDict(common.task('images:task', **changes))


def _folder(root, counts):
  for k, (name, number) in enumerate(counts.items()):
    folder = root / 'task' / name
    folder.mkdir(parents=True)
    for i in range(number):
      cv2.imwrite(str(folder / f'{i}.png'), np.full((4, 4, 3), 60 * k + i, np.uint8))
  return str(root)


def test_parts_are_disjoint_and_keep_the_classes_in_proportion(tmp_path):
  data = _folder(tmp_path, {'a': 40, 'b': 20})
  task = splits.load(
    't', _spec(test='', train_images=30, validation_images=6, test_images=12), data, 0
  )
  parts = [task.fit, task.validation, task.test_indices]
  assert [len(part) for part in parts] == [24, 6, 12]
  assert len(np.unique(np.concatenate(parts))) == 42
  for part in parts:
    assert (task.train.labels[part] == 0).sum() * 3 == len(part) * 2


def test_a_split_that_is_not_used_is_in_the_notes(tmp_path):
  data = _folder(tmp_path, {f'{split}/{name}': 5 for split in ('train', 'dusk') for name in 'ab'})
  task = splits.load('t', _spec(test='', train_images=0, validation_images=0), data, 0)
  assert tasks.describe(task, 'images:task')['notes'] == (
    'splits that are not used: dusk (10); --config.tasks.t.test=dusk takes one'
  )


def test_a_fifth_is_held_out_and_a_fifth_of_the_rest_chooses_unless_told(tmp_path):
  data = _folder(tmp_path, {'a': 50, 'b': 50})
  task = splits.load('t', _spec(test='', train_images=0, validation_images=0), data, 0)
  assert [len(p) for p in (task.fit, task.validation, task.test_indices)] == [64, 16, 20]


def test_the_seed_decides_the_split(tmp_path):
  data = _folder(tmp_path, {'a': 30, 'b': 30})
  fit = lambda seed: splits.load('t', _spec(test='', train_images=0), data, seed).fit.tolist()
  with pytest.raises(ValueError, match=r'config\.tasks\.t: 200 of 48 images'):
    fit(0)
  spec = _spec(test='', train_images=0, validation_images=8)
  first, again, other = (splits.load('t', spec, data, seed).fit.tolist() for seed in (0, 0, 1))
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
    splits.load('t', _spec(test='', test_images=12), data, 0)


def test_every_task_that_is_not_there_is_named(tmp_path):
  config = common.get_config()
  config.data_dir = str(tmp_path)
  config.tasks = {'one': common.task('images:first'), 'two': common.task('images:second.tar')}
  with pytest.raises(FileNotFoundError, match=r"task 'one'.*first.*\n.*task 'two'.*second\.tar"):
    tasks.load_all(config)


def _config(folder, **fields):
  config = common.get_config()
  config.tasks = {
    'photos': common.task(
      f'images:{folder}', test='', train_images=0, validation_images=0, **fields
    )
  }
  return config


def test_tasks_are_looked_at_once_a_run_and_described_before_anything_is_computed(tmp_path):
  _folder(tmp_path, {'a': 10, 'b': 9, 'lone': 1})
  (tmp_path / 'task/a/0.png').write_bytes(b'')
  config = _config(tmp_path / 'task')
  with pytest.raises(UndecodableImage, match=f'{tmp_path}/task/a/0.png: .*undecodable=skip'):
    tasks.load_all(config)
  config.image.undecodable = 'skip'
  loaded = tasks.load_all(config)
  assert tasks.load_all(config) is loaded
  # What a phase changes of its own copy of the config makes no other task.
  config.image.size = 20
  assert tasks.find(config, 'photos') is loaded[0]
  tasks.write(config, str(tmp_path), loaded)
  (row,) = pd.read_csv(tmp_path / 'tasks.csv').to_dict('records')
  assert {name: row[name] for name in ('fit', 'validation', 'test', 'skipped', 'least', 'most')} == {
    'fit': 13, 'validation': 3, 'test': 3, 'skipped': 1, 'least': 1, 'most': 8,
  }  # fmt: skip
  assert (row['validation_from'], row['test_from']) == ('held out of train',) * 2
  assert (row['one_image_classes'], row['class_copies'], row['test_copies']) == (1, 0, 0)
  tasks.forget()
  assert tasks.load_all(config) is not loaded


_OF_TWO = """
import os, sys
import jax
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
os.environ['HOME'] = sys.argv[1] + '/' + os.environ['JAX_PROCESS_ID']
from configs import common
from experts.runs import tasks
from experts.training import hosts
hosts.start(100)
config = common.get_config()
config.image.undecodable = sys.argv[2]
config.tasks = {'t': common.task('images:~/task', test='', train_images=0, validation_images=0)}
try:
  (task,) = tasks.load_all(config)
except ValueError as error:
  sys.exit(str(error))
print(sorted(task.train.where(i).rpartition('/task/')[2] for i in task.all), len(task.test_indices))
"""


@pytest.mark.parametrize('undecodable', ['raise', 'skip', 'more'])
def test_hosts_of_which_one_has_a_bad_file_or_more_files_do_the_same(tmp_path, undecodable):
  more = undecodable == 'more'
  for process in ('0', '1'):
    _folder(tmp_path / process, {'a': 10, 'b': 11 if more and process == '1' else 10})
  if not more:
    (tmp_path / '1/task/b/4.png').write_bytes(b'')
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, '-c', _OF_TWO, str(tmp_path), 'raise' if more else undecodable],
      cwd=ROOT,
      env={
        **os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
        'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': process, 'PYTHONPATH': str(ROOT),
      },
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    for process in ('0', '1')
  ]  # fmt: skip
  (first, errors), (second, _) = (each.communicate() for each in started)
  if more:
    assert [each.returncode for each in started] == [1, 1]
    assert "task 't': process 1 reads other images than process 0" in errors
  elif undecodable == 'raise':
    assert [each.returncode for each in started] == [1, 1]
    assert f'{tmp_path}/1/task/b/4.png' in errors
    assert '(process 1)' in errors
  else:
    assert [each.returncode for each in started] == [0, 0], errors
    assert first.splitlines()[-1] == second.splitlines()[-1]
    assert 'b/4.png' not in first


def test_no_task_is_an_error():
  with pytest.raises(ValueError, match='tasks is empty'):
    tasks.load_all(common.get_config())


@pytest.mark.parametrize('seed', range(8))
def test_of_the_images_that_selection_draws_four_fifths_fit_and_a_fifth_scores(tmp_path, seed):
  rng = np.random.default_rng(0)
  (tmp_path / 'task').mkdir()
  for i in range(100):
    pixels = rng.integers(0, 256, (6, 6, 3), np.uint8)
    cv2.imwrite(str(tmp_path / f'task/{i}.png'), pixels)
    if i == 70:
      # Of another group, and of the same pixels.
      cv2.imwrite(str(tmp_path / 'task/60.png'), pixels)
  # Half of the images validate, as published.
  rows = [
    {
      'file': f'{i}.png',
      'label': 'abcb'[i % 4],
      'group': f'person{i // 4}',
      'split': ('train', 'validation')[i // 50],
    }
    for i in range(100)
  ]
  pd.DataFrame(rows).to_csv(tmp_path / 'task/labels.csv', index=False)
  config = _config(tmp_path / 'task')
  config.seed = seed
  (task,) = tasks.load_all(config)
  drawn = np.sort(np.random.default_rng(seed).choice(len(task.all), 60, replace=False))
  taken, places = tasks.take(task, drawn, seed)
  assert sorted(places.tolist()) == drawn.tolist()
  assert taken.all.tolist() == task.all[places].tolist()
  # About 12: of a group, up to four are drawn.
  assert 5 <= len(taken.validation) <= 19
  assert len(taken.fit) == 60 - len(taken.validation)
  of = lambda indices: {task.train.groups[i] for i in indices}
  assert not of(taken.fit) & of(taken.validation)
  copies = {'person15', 'person17'}
  assert not copies & of(taken.fit) or not copies & of(taken.validation)
  assert set(task.train.labels[taken.fit].tolist()) == {0, 1, 2}
  assert tasks.take(task, drawn, seed)[0].fit.tolist() == taken.fit.tolist()
  # Without groups or copies the numbers are exact.
  alone = dataclasses.replace(task, units=None)
  taken, _ = tasks.take(alone, drawn, seed)
  assert (len(taken.fit), len(taken.validation)) == (48, 12)
  assert len(tasks.take(alone, drawn[:4], seed)[0].validation) == 0
