"""A run of a phase: what is kept of members that diverge, and when that is the end of it."""

import runpy

import jax
import numpy as np
import pandas as pd
import pytest

from experts.data import dataset
from experts.models import ours, resnet
from experts.phases import experts
from experts.reporting import files
from experts.runs import objectives, rounds
from experts.runs.description import Run, Setting
from experts.runs.streams import Stream
from experts.training import board, loop, population

_NAMES = ('one', 'two', 'three')
_NAN_RATE = 1e38


@pytest.fixture
def train(config_file, tmp_path):
  """(learning rates) -> (what `rounds.train` returns, the members that were kept)."""
  config = runpy.run_path(str(config_file))['get_config']()
  section = config.experts.full
  section.update(batch_size=8, warmup='0 steps')
  network = ours.Network(resnet.ResNet(14, 1 / 32, 'small'))
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (24, 16, 16, 3), np.uint8)
  data = dataset.from_arrays('noise', images, np.arange(24) % 3, tuple('abc'))
  params = jax.device_get(resnet.init(network.resnet, jax.random.key(0), 3))

  def run(rates):
    kept = {}
    described = Run(
      name='experts/full',
      field='experts.full',
      section=section,
      names=_NAMES,
      network=network,
      trained=population.repeat(params, len(rates)),
      frozen={},
      objective=objectives.single_label(network),
      predict=objectives.predict(network),
      steps=6,
      settings=[Setting(rate, 0.0, 0.0) for rate in rates],
    )
    job = rounds.Job(
      [Stream(name, data, np.arange(24), i) for i, name in enumerate(_NAMES)],
      f'{tmp_path}/experts/full',
      evaluate=lambda mesh, streams, trained: {
        'slice_accuracy': np.full(len(streams), 0.5),
        'baseline_slice_accuracy': np.full(len(streams), 0.25),
      },
      keep=kept.__setitem__,
    )
    quiet = board.Board(tmp_path / 'tensorboard', enabled=False)
    return rounds.train(config, quiet, described, job), kept

  run.folder = tmp_path
  return run


def test_a_member_that_diverges_is_not_kept_and_is_named_in_the_table(train, caplog):
  diverged, kept = train([0.1, _NAN_RATE, 0.05])
  assert diverged[0] == diverged[2] == -1
  assert 1 <= diverged[1] <= 3
  assert sorted(kept) == [0, 2]
  assert f"experts/full: member 'two' has diverged: {'its loss or a parameter'}" in caplog.text
  # A restart after the end of the training knows it too.
  again, kept = train([0.1, _NAN_RATE, 0.05])
  np.testing.assert_array_equal(again, diverged)
  assert sorted(kept) == [0, 2]
  slices = {name: np.arange(3) for name in _NAMES}
  step = int(diverged[1])
  table = experts._learned(str(train.folder), {'full': {'two': step}}, slices)
  files.write(table, f'{train.folder}/slices.csv')
  table = pd.read_csv(f'{train.folder}/slices.csv').set_index('slice')
  assert table.accuracy.loc[['one', 'three']].tolist() == [0.5, 0.5]
  assert np.isnan(table.accuracy.two)
  assert table.diverged.fillna(0).tolist() == [0, step, 0]
  assert table['baseline accuracy'].tolist() == [0.25] * 3


def test_where_all_diverge_the_phase_fails(train):
  with pytest.raises(
    loop.Diverged, match=r"experts/full: .*member '\w+' .*lower its learning rate"
  ):
    train([_NAN_RATE] * 3)
