"""A transfer that is cut short goes on where it was, and what diverges in it is a row and no choice."""

import dataclasses
import os
import pathlib
import runpy
import signal

import jax
import numpy as np
import pandas as pd
import pytest

from experts.models import resnet, weights
from experts.runs import fine_tuning, own_pool, sweeps
from experts.selection import pool
from experts.training import board

_STEPS, _BATCH, _RATES = 6, 8, (0.5, 0.1)
_NAN_RATE = 1e38


class Stopped(Exception):
  """What a test throws out of the data, as a crash of the machine would end the run."""


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> pathlib.Path:
  """A folder with an untrained network's weights."""
  folder = tmp_path_factory.mktemp('pool')
  network = resnet.ResNet(14, 1 / 32, 'small')
  weights.save(
    str(folder / 'model.npz'), jax.device_get(resnet.init(network, jax.random.key(0), 6))
  )
  return folder


@pytest.fixture
def trainer(config_file, model, tmp_path):
  """(workdir, …) -> the trainer of a start in it, and the images that it has read."""

  def make(name='run', rates=_RATES, every='2 steps', at=-1, action=None, seed=0):
    config = runpy.run_path(str(config_file))['get_config']()
    config.model.width = 1 / 32
    config.run.update(checkpoint_every=every)
    config.transfer.update(
      batch_size=_BATCH,
      durations=(f'{_STEPS} steps',),
      learning_rates=rates,
      base_batch_size=_BATCH,
    )
    config.seed = seed
    (tmp_path / name).mkdir(exist_ok=True)
    task = fine_tuning.open_task(config, 'stripes')
    read = []

    def image(index):
      read.append(index)
      if len(read) == at:
        action()
      return task.train.image(index)

    # Not those that were looked at before, which need not be read again.
    seen = dataclasses.replace(task.train, read_image=image, memory=None)
    watched = dataclasses.replace(task, train=seen)
    one = pool.Member('net', 'baseline', 'none', None, 0, 0, 0, 'model.npz', '')
    trials = sweeps.Trials(str(tmp_path / name / 'trials.csv'))
    quiet = board.Board(tmp_path / 'tensorboard', enabled=False)
    settings = own_pool.settings(config)
    return fine_tuning.Trainer(config, quiet, settings, watched, one, str(model), trials), read

  make.folder = tmp_path
  return make


def _throw():
  raise Stopped


def _terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def _whole(trainer, name='whole', **options) -> bytes:
  """What an undisturbed run writes."""
  one, _ = trainer(name, **options)
  one.retrain(one.sweep(), '')
  assert not (trainer.folder / name / 'unfinished').exists()
  return (trainer.folder / name / 'trials.csv').read_bytes()


# Images are read in order, those of all steps before those of validation.
@pytest.mark.parametrize(('phase', 'action'), [('sweep', _throw), ('retrain', _terminate)])
def test_a_trial_that_was_cut_short_gives_the_row_of_one_that_was_not(trainer, phase, action):
  expected = _whole(trainer)
  in_step_5 = 4 * _BATCH + 2
  one, _ = trainer()
  if phase == 'retrain':
    points = one.sweep()
    one, _ = trainer(at=2 * in_step_5, action=action)
  else:
    one, _ = trainer(at=in_step_5, action=action)
  with pytest.raises((Stopped, SystemExit)) as stopped:
    one.sweep() if phase == 'sweep' else one.retrain(points, '')
  assert getattr(stopped.value, 'code', 0) == 0
  assert (trainer.folder / 'run/unfinished/stripes/net').is_dir()
  one, read = trainer()
  points = one.sweep()
  # The four steps before the checkpoint are not trained again.
  if phase == 'sweep':
    assert len(read) < _STEPS * _BATCH
  one.retrain(points, '')
  assert (trainer.folder / 'run/trials.csv').read_bytes() == expected
  assert [path.name for path in (trainer.folder / 'run').iterdir()] == ['trials.csv']


def test_what_another_config_left_is_not_gone_on_from(trainer):
  expected = _whole(trainer, seed=7)
  one, _ = trainer(at=4 * _BATCH + 2, action=_throw)
  with pytest.raises(Stopped):
    one.sweep()
  one, read = trainer(seed=7)
  points = one.sweep()
  assert len(read) >= _STEPS * _BATCH
  # It is gone, for nobody else would remove it.
  assert not (trainer.folder / 'run/unfinished').exists()
  one.retrain(points, '')
  assert (trainer.folder / 'run/trials.csv').read_bytes() == expected


def test_a_transfer_that_is_over_before_a_checkpoint_is_due_makes_no_folder(trainer):
  one, _ = trainer(every='10 minutes', at=_STEPS * _BATCH, action=_throw)
  with pytest.raises(Stopped):
    one.sweep()
  assert not list((trainer.folder / 'run').iterdir())


def test_a_trial_that_diverges_has_a_row_and_is_never_chosen(trainer):
  one, _ = trainer(rates=(0.5, _NAN_RATE, 0.1))
  chosen = one.sweep()
  assert [trial.lr in _RATES for trial in chosen] == [True]
  rows = pd.read_csv(trainer.folder / 'run/trials.csv').set_index('lr').accuracy
  assert np.isnan(rows[_NAN_RATE])
  assert rows[list(_RATES)].notna().all()
  # The others are as if it had not been there; a restart reads its row and chooses the same.
  beside, _ = trainer('alone')
  assert beside.sweep() == chosen
  alone = pd.read_csv(trainer.folder / 'alone/trials.csv').set_index('lr').accuracy
  np.testing.assert_array_equal(rows[list(_RATES)], alone[list(_RATES)])
  again, read = trainer(rates=(0.5, _NAN_RATE, 0.1))
  assert again.sweep() == chosen
  assert not read


def test_where_all_trials_diverge_there_is_nothing_to_retrain(trainer, caplog):
  one, _ = trainer(rates=(_NAN_RATE, 2 * _NAN_RATE))
  assert one.sweep() == []
  one.retrain([], '')
  rows = pd.read_csv(trainer.folder / 'run/trials.csv')
  assert len(rows) == 2
  assert rows.accuracy.isna().all()
  assert 'net on stripes: all trials of selection 0 diverged' in caplog.text
