"""What of a network a fine-tune trains, and with what; the sweep chooses among them."""

import runpy

import jax
import numpy as np
import pandas as pd
import pytest

from experts.models import resnet, weights
from experts.reporting import results
from experts.runs import fine_tuning, own_pool, sweeps
from experts.selection import pool
from experts.training import board


@pytest.fixture
def trainer(config_file, tmp_path):
  """(fields of config.transfer) -> the trainer of an untrained network, and its trees."""
  network = resnet.ResNet(14, 1 / 32, 'small')
  first = jax.device_get(resnet.init(network, jax.random.key(0), 6))
  weights.save(str(tmp_path / 'model.npz'), first)

  def make(**fields):
    config = runpy.run_path(str(config_file))['get_config']()
    config.model.width = 1 / 32
    config.transfer.update(
      {'batch_size': 8, 'base_batch_size': 8, 'durations': ('4 steps',), **fields}
    )
    task = fine_tuning.open_task(config, 'stripes')
    one = pool.Member('net', 'baseline', 'none', None, 0, 0, 0, 'model.npz', '')
    trials = sweeps.Trials(str(tmp_path / 'trials.csv'))
    quiet = board.Board(tmp_path / 'tensorboard', enabled=False)
    settings = own_pool.settings(config)
    return fine_tuning.Trainer(config, quiet, settings, task, one, str(tmp_path), trials), first

  make.folder = tmp_path
  return make


@pytest.mark.parametrize(
  ('part', 'optimizer', 'moves'),
  [
    ('head', 'sgd', ()),
    ('last:1', 'adamw', ('block4', 'norm')),
    ('all', 'adamw', ('root', 'block1', 'block2', 'block3', 'block4', 'norm')),
  ],
)
def test_what_is_trained_moves_and_the_rest_stays(trainer, part, optimizer, moves):
  one, first = trainer(
    trained=(part,), optimizer=optimizer, learning_rates=(0.01,), layer_decay=0.8
  )
  one.retrain(one.sweep(), str(trainer.folder / 'kept'))
  tuned = weights.load(str(trainer.folder / 'kept' / 'model.npz'))
  assert tuned['head']['kernel'].any()
  moved = {
    name
    for name, tree in first['backbone'].items()
    if any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), tree, tuned['backbone'][name])))
  }  # fmt: skip
  assert moved == set(moves)
  table = sweeps.Trials(str(trainer.folder / 'trials.csv')).frame()
  assert table.trained.tolist() == [part] * 3
  assert np.isfinite(table.accuracy).all()


def test_what_is_trained_is_an_axis_of_the_sweep_and_chosen_on_validation(trainer):
  one, _ = trainer(trained=('all', 'head'), learning_rates=(0.5, 0.1))
  (chosen,) = one.sweep()
  rows = sweeps.Trials(str(trainer.folder / 'trials.csv')).frame()
  assert {(row.trained, row.lr) for row in rows.itertuples()} == {
    (part, rate) for part in ('all', 'head') for rate in (0.5, 0.1)
  }
  best = rows[rows.accuracy == rows.accuracy.max()]
  # Of equals the smaller rate, then the head alone.
  gentle = min(best.itertuples(), key=lambda row: (row.lr, row.trained != 'head'))
  assert (chosen.lr, chosen.trained) == (gentle.lr, gentle.trained)


def test_a_report_reads_what_a_sweep_over_parts_writes(trainer):
  one, _ = trainer(trained=('all', 'head'), learning_rates=(0.5,))
  one.retrain(one.sweep(), '')
  scores = pd.DataFrame({'task': ['stripes'], 'model': ['net']})
  trials = results.read_trials(str(trainer.folder / 'trials.csv'), scores)
  assert sorted(trials[trials.split == 'validation'].trained) == ['all', 'head']


def test_what_no_model_can_be_trained_with_is_said_before(trainer, config_file):
  config = runpy.run_path(str(config_file))['get_config']()
  one = pool.Member('net', 'baseline', 'none', None, 0, 0, 0, 'model.npz', '')
  trainer(trained=('last:4',))
  config.transfer.trained = ('all', 'last:5')
  with pytest.raises(ValueError, match=r"'last:5' of the model 'net', which has 4 blocks"):
    fine_tuning.check(config, own_pool.settings(config), one, str(trainer.folder))


def test_draws_without_a_choice_of_parts_are_those_of_before(config_file):
  config = runpy.run_path(str(config_file))['get_config']()
  config.transfer.update(
    draws=5, learning_rates=(1e-4, 1e-1), weight_decays=(1e-6, 1e-2), mixups=(0.0, 0.1)
  )
  before = sweeps.points(config, 0)
  assert {point.trained for point in before} == {'all'}
  config.transfer.trained = ('all', 'head')
  after = sweeps.points(config, 0)
  assert {point.trained for point in after} == {'all', 'head'}
  assert before[0][:4] == after[0][:4]
