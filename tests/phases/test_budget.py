"""What is fine-tuned of a pool that holds anything: the best-ranked that can be, as many as the budget."""

import json
import pathlib

import cv2
import jax
import numpy as np
import pandas as pd
import pytest
from absl import logging

from configs import common
from experts import app
from experts.data import splits
from experts.models import opaque, resnet, weights
from experts.reporting import files
from experts.selection import pool

_NETWORK = {'depth': 14, 'width': 0.0625, 'root': 'small', 'dtype': 'float32'}
_TASK = '2024'


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """Two classes of stripes, and a pool of untrained networks in every role, with a table that tells the classes apart."""
  root = tmp_path_factory.mktemp('budget')
  rng = np.random.default_rng(0)
  for split, number in (('train', 12), ('test', 6)):
    for name in ('along', 'across'):
      place = root / 'stripes' / split / name
      place.mkdir(parents=True)
      for i in range(number):
        image = rng.integers(90, 165, (16, 16, 3)).astype(np.uint8)
        image[::4] //= 3
        image = image if name == 'along' else image.transpose(1, 0, 2)
        cv2.imwrite(str(place / f'{i}.png'), image)
  model = resnet.ResNet(**{**_NETWORK, 'dtype': np.float32})
  initial = jax.device_get(jax.jit(lambda key: resnet.init(model, key, 3))(jax.random.key(0)))
  members = []
  for seed, (name, kind, node) in enumerate(
    (
      ('random', 'random', None),
      ('nan', 'baseline', None),
      ('nan@4', 'checkpoint', None),
      ('1e5', 'full', 'a'),
      ('007', 'full', 'b'),
      ('full:random like a', 'full', 'random like a'),
    )
  ):
    params = jax.tree.map(
      lambda leaf: leaf + rng.normal(0, 0.02, leaf.shape).astype(leaf.dtype), initial
    )
    weights.save(str(root / f'{seed}.npz'), params)
    members.append(
      pool.Member(
        name=name, kind=kind, upstream='here', slice=node, images=10, parameters=9, dimension=model.embedding_dim,
        weights=f'{seed}.npz', hash=weights.content_hash(params),
      )
    )  # fmt: skip
  config = _config(root, ())
  labels = splits.load(_TASK, config.tasks[_TASK], config.data_dir, config.seed).labels
  np.savez(root / 'table.npz', **{_TASK: np.eye(2)[labels] + rng.normal(0, 0.01, (24, 2))})
  members.append(
    pool.Member(
      name='table', kind='embeddings', upstream='', slice=None, images=0, parameters=1, dimension=2, weights='table.npz',
      hash=opaque.content_hash(str(root / 'table.npz')),
    )
  )  # fmt: skip
  pool.write(root / 'pool.json', members, {**_NETWORK, 'size': 16, 'resize': 16})
  return root


def _config(root, phases):
  config = common.get_config()
  config.phases = phases
  config.pool, config.data_dir = str(root / 'pool.json'), str(root)
  config.image.update(size=16, resize=16)
  config.run.update(tensorboard=False, embedding_cache=str(root / 'cache'), evaluation_batch=16)
  config.tasks = {_TASK: common.task('images:stripes', train_images=0, validation_images=8)}
  config.transfer.update(batch_size=8, durations=('2 steps',), learning_rates=(0.1,))
  config.transfer.warmups = ('10 %',)
  config.trials = '1x1'
  return config


@pytest.fixture(scope='module')
def run(folder):
  """A whole run with a budget of two: its workdir, and what it warned of before anything was fine-tuned."""
  config = _config(folder, ('select', 'transfer', 'report'))
  config.select.budget = 2
  said = []
  handler = logging.PythonHandler()
  trials = folder / 'run/trials.csv'
  handler.emit = lambda record: None if trials.exists() else said.append(record.getMessage())
  logging.get_absl_logger().addHandler(handler)
  app.run(config, str(folder / 'run'))
  logging.get_absl_logger().removeHandler(handler)
  return folder / 'run', said


def test_controls_are_scored_and_marked_and_have_no_rank(run):
  scores = files.read(run[0] / 'scores.csv').set_index('model')
  kinds = {'random': 'random', 'nan@4': 'checkpoint', 'full:random like a': 'control'}
  assert scores.kind[list(kinds)].to_dict() == kinds
  assert scores.score.notna().all()
  assert scores['rank'].isna()[list(kinds)].all()
  assert sorted(scores['rank'].dropna()) == [1, 2, 3, 4]
  assert scores['rank']['table'] == 1


def test_the_best_ranked_that_can_be_are_fine_tuned_and_that_is_said_first(run):
  workdir, said = run
  scores = files.read(workdir / 'scores.csv')
  by_rank = scores.dropna(subset='rank').sort_values('rank').model.tolist()
  (line,) = [each for each in said if 'can only be ranked' in each]
  assert line == (
    f'transfer: 2024: table (embeddings), ranked first, can only be ranked; {by_rank[1]}, ranked 2nd, and {by_rank[2]}, '
    'ranked 3rd, are fine-tuned'
  )
  trials = files.read(workdir / 'trials.csv')
  assert set(trials.model) == {*by_rank[1:3], 'nan'}
  assert set(trials.task) == {'2024'}


def test_the_budget_holds_in_every_table(run):
  workdir, _ = run
  trials = files.read(workdir / 'trials.csv')
  scores = files.read(workdir / 'scores.csv')
  tried = scores.dropna(subset='rank').sort_values('rank').model[1:3]
  sweeps = trials[trials.split == 'validation'].groupby('model').accuracy.max()
  chosen = max(tried, key=lambda model: sweeps[model])
  reached = trials[(trials.split == 'test') & (trials.model == chosen)].accuracy.item()
  read = lambda name: files.read(workdir / 'report' / f'{name}.csv')
  overview = read('table').iloc[0]
  assert overview.chosen == chosen
  assert overview['chosen accuracy'] == pytest.approx(reached)
  first = read('exp_table_1').set_index('method')
  assert first['other tasks']['All Models (kNN)'] == pytest.approx(reached)
  # The baseline's name is 'nan'.
  picks = pd.read_csv(workdir / 'report/exp_table_4.csv', dtype=str, keep_default_na=False)
  assert picks['all'].item() == chosen
  described = (workdir / 'transfer/2024/model.json').read_text()
  assert f'"model": "{chosen}"' in described
  # All of them, the table first; the controls without a rank.
  ranking = read('ranking')
  assert ranking.model[0] == 'table'
  assert set(ranking.model[ranking['rank'].isna()]) == {'random', 'nan@4', 'full:random like a'}


def test_what_is_kept_is_what_the_report_calls_chosen_where_the_first_diverged(folder, run):
  scores, trials = (files.read(run[0] / name) for name in ('scores.csv', 'trials.csv'))
  _, first, second, _ = scores.dropna(subset='rank').sort_values('rank').model
  workdir = folder / 'lost'
  config = _config(folder, ('select',))
  config.select.kinds = ('baseline', 'full')
  config.transfer.models = 'all'
  app.run(config, str(workdir))
  # The sweep of the best-ranked, which is not run again, came to nothing.
  sweep = trials[(trials.model == first) & (trials.split == 'validation')]
  files.write(sweep.assign(accuracy=np.nan), str(workdir / 'trials.csv'))
  config.phases = ('transfer', 'report')
  app.run(config, str(workdir))
  trials = files.read(workdir / 'trials.csv')
  assert first not in set(trials[trials.split == 'test'].model)
  assert json.loads((workdir / 'transfer/2024/model.json').read_text())['model'] == second
  assert files.read(workdir / 'report/table.csv').chosen[0] == second
  picked = pd.read_csv(workdir / 'report/exp_table_4.csv', dtype=str, keep_default_na=False)
  assert picked['all'].item() == second


def test_filters_hold_in_every_phase_and_controls_are_rows_of_their_own(folder):
  config = _config(folder, ('select', 'transfer', 'report'))
  config.select.kinds = ('full', 'checkpoint')
  config.transfer.models = 'all'
  app.run(config, str(folder / 'filtered'))
  own = {'1e5', '007', 'nan@4', 'full:random like a'}
  trials = files.read(folder / 'filtered/trials.csv')
  assert set(trials.model) == own
  report = folder / 'filtered/report'
  methods = files.read(report / 'exp_table_1.csv').method.tolist()
  assert [n for n in methods if n.startswith('Control:') and n.endswith('(kNN)')] == [
    'Control: full experts on random slices (kNN)',
    'Control: checkpoints (kNN)',
  ]
  overview = files.read(report / 'table.csv').iloc[0]
  assert {overview.chosen, overview['best by hindsight']} <= {'1e5', '007'}
  # A trial that diverged has a row without an accuracy; of a retrained model that is nothing right.
  lost = trials[trials.split == 'validation'].assign(accuracy=np.nan, lr=7.0)
  runs = trials[trials.split == 'test'].assign(accuracy=np.nan, seed=99)
  pd.concat([trials, lost, runs]).to_csv(folder / 'filtered/trials.csv', index=False)
  config = _config(folder, ('report',))
  config.results = str(folder / 'filtered')
  app.run(config, str(folder / 'diverged'))
  again = files.read(folder / 'diverged/report/table.csv').iloc[0]
  assert again.chosen == overview.chosen
  assert again['chosen accuracy'] == pytest.approx(overview['chosen accuracy'] / 2)
  assert again['best accuracy'] == pytest.approx(overview['best accuracy'] / 2)
  shown = {again.chosen, again['best by hindsight']}
  assert again.retrains == f'2, {len(shown)} of {2 * len(shown)} diverged'
  text = (folder / 'diverged/report/report.md').read_text()
  assert '8 of 16 fine-tunes diverged' in text
  assert 'nothing right: here Full (kNN) 1 of 2, here All Experts (kNN) 1 of 2, ' in text


def test_a_pool_of_controls_alone_is_refused(folder):
  config = _config(folder, ('select',))
  config.select.kinds = ('random', 'checkpoint')
  with pytest.raises(ValueError, match=r'the 2 models that pass config.select are controls \(chec'):
    app.run(config, str(folder / 'controls'))
