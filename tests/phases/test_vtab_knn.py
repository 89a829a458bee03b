"""configs/vtab_knn.py end to end on mocked TFDS data, with the pool of the chain."""

import pandas as pd
import pytest
import tensorflow_datasets as tfds

from configs import vtab_knn
from experts import app


def _config(workdir, tasks):
  config = vtab_knn.get_config(tasks)
  config.pool = str(workdir / 'pool.json')
  for task in config.tasks.values():
    # Mocked splits hold a few images each.
    task.update(train_images=0, validation_images=8)
  config.run.update(tensorboard=False, evaluation_batch=16)
  config.trials = '3x2'
  config.transfer.update(
    batch_size=16, durations=('3 steps',), learning_rates=(0.1, 0.01), warmups=('8 %',)
  )
  return config


def test_selects_transfers_and_reports(chain, tmp_path):
  config = _config(chain[0], 'svhn,patch_camelyon')
  with tfds.testing.mock_data(num_examples=20):
    app.run(config, str(tmp_path))
  scores = pd.read_csv(tmp_path / 'scores.csv')
  assert sorted(scores.task.unique()) == ['patch_camelyon', 'svhn']
  assert len(scores) == 12
  trials = pd.read_csv(tmp_path / 'trials.csv')
  # The chosen model and the baseline, which may be the same.
  assert trials.groupby('task').model.nunique().isin([1, 2]).all()
  # Three selections of two learning rates; each one's best is retrained twice.
  for (_, _, selection), part in trials.groupby(['task', 'model', 'selection']):
    sweep, test = part[part.split == 'validation'], part[part.split == 'test']
    best = sweep[sweep.accuracy == sweep.accuracy.max()].lr
    assert set(test.lr) == {best.min()}
    # A seed of its own for every trial, but for the learning rates of a sweep, which see the same images.
    assert sweep.seed.tolist() == [selection, selection]
    assert test.seed.tolist() == [2 * selection, 2 * selection + 1]
  assert set(trials.selection) == {0, 1, 2}
  assert 'svhn' in (tmp_path / 'report' / 'report.md').read_text()


def test_a_version_that_is_not_the_papers_is_allowed_by_name_and_recorded(chain, tmp_path):
  with tfds.testing.mock_data(num_examples=40):
    with pytest.raises(FileNotFoundError, match=r'vtab:oxford_iiit_pet@4\.0\.0'):
      app.run(_config(chain[0], 'oxford_iiit_pet'), str(tmp_path / 'refused'))
    app.run(_config(chain[0], 'oxford_iiit_pet@4.0.0'), str(tmp_path / 'allowed'))
  row = pd.read_csv(tmp_path / 'allowed' / 'tasks.csv').iloc[0]
  assert row[['task', 'data', 'version', 'drift', 'metric', 'statistic']].tolist() == [
    'oxford_iiit_pet', 'vtab:oxford_iiit_pet@4.0.0', 'oxford_iiit_pet/4.0.0', True, 'accuracy', 'median',
  ]  # fmt: skip
  report = (tmp_path / 'allowed' / 'report' / 'report.md').read_text()
  assert 'not the papers’ version' in report


def test_a_task_that_is_not_prepared_is_named_with_what_prepares_it(chain, tmp_path):
  config = _config(chain[0], 'caltech101,dtd')
  config.data_dir = str(tmp_path / 'nothing')
  with pytest.raises(FileNotFoundError) as raised:
    app.run(config, str(tmp_path / 'work'))
  for name in ('caltech101', 'dtd'):
    assert f"task '{name}'" in str(raised.value)
    assert f"tfds.builder('{name}" in str(raised.value)
  assert 'GiB' in str(raised.value)


def test_all_nineteen_tasks_unless_named():
  assert len(vtab_knn.get_config().tasks) == 19
