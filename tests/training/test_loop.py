"""The loop: exact resumption, SIGTERM, losses that are not finite."""

import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from experts.training import board, checkpoints, lines, loop, population

STEPS, LOG_EVERY, SAVE_EVERY = 23, 5, 4


class Stopped(Exception):
  """What a test throws out of the batches, as a crash of the machine would end the run."""


@pytest.fixture
def train(toy, tmp_path):
  """A function that trains two members in a folder: (folder, …) -> state on the host."""
  # An accelerator may be alone.
  mesh = toy.make_mesh(1, min(2, jax.device_count()))
  trained = population.stack([toy.linear_params(0), toy.linear_params(1)])

  def run(
    folder='run',
    batches=None,
    rates=(0.01, 0.02),
    objective=toy.linear_objective,
    keep=True,
    save_every=SAVE_EVERY,
    frozen=None,
    **options,
  ):
    path = tmp_path / folder
    path.mkdir(exist_ok=True)
    pop = toy.make_population(
      objective, list(rates), names=['one', 'two'], log_every=LOG_EVERY, steps=STEPS
    )
    quiet = board.Board(path / 'tensorboard', enabled=False)
    records = loop.Records(quiet, 'test')
    saved = None
    if keep:
      saved = checkpoints.Checkpoints(str(path / 'checkpoints'), 2)
      records = loop.Records(quiet, 'test', lines.Lines(str(path / 'm.csv')), saved, save_every)
    state = population.create_state(pop, mesh, trained)
    batches = batches or (lambda start: toy.stream([0, 1], start))
    try:
      return jax.device_get(
        loop.train(pop, mesh, state, frozen or {}, batches, STEPS, records, **options)
      )
    finally:
      if saved:
        saved.close()

  run.folder = tmp_path
  return run


def _saved(folder: pathlib.Path) -> set[int]:
  return {int(path.name) for path in (folder / 'checkpoints').iterdir() if path.name.isdigit()}


def _interrupted(toy, step, action):
  """Batches of which the one of `step` (of those done, from 0) is preceded by `action`, once."""
  waiting = [action]

  def batches(start):
    for done, batch in enumerate(toy.stream([0, 1], start), start):
      if done >= step and waiting:
        waiting.pop()()
      yield batch

  return batches


def _throw():
  raise Stopped


def _terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def _measure(trained):
  return {'test_accuracy': np.float32([0.25, 0.5])}


# A crash before the first checkpoint, between log lines, on one, on a checkpoint and on the last step.
@pytest.mark.parametrize('crash', [2, 7, 10, 12, 22])
def test_an_interrupted_run_ends_as_an_undisturbed_one(train, toy, crash):
  undisturbed = train('a', evaluate=_measure)
  with pytest.raises(Stopped):
    train('b', _interrupted(toy, crash, _throw), evaluate=_measure)
  resumed = train('b', evaluate=_measure)
  _assert_equal(resumed, undisturbed)
  a, b = ((train.folder / name / 'm.csv').read_bytes() for name in 'ab')
  assert a == b
  assert _saved(train.folder / 'a') == _saved(train.folder / 'b') == {20, STEPS}


def test_a_resumed_run_asks_for_the_batches_it_lacks(train, toy):
  asked = []

  def batches(start):
    asked.append(start)
    return _interrupted(toy, 14, _throw)(start) if len(asked) == 1 else toy.stream([0, 1], start)

  with pytest.raises(Stopped):
    train(batches=batches)
  train(batches=batches)
  assert asked == [0, 12]


def test_a_finished_run_is_not_run_again(train):
  first = train(evaluate=_measure)
  written = (train.folder / 'run' / 'm.csv').read_bytes()
  # The phase was cut short after its training: nothing is trained, measured or written twice.
  again = train(
    batches=lambda start: pytest.fail('trained again'),
    evaluate=lambda trained: pytest.fail('evaluated again'),
  )
  _assert_equal(again, first)
  assert (train.folder / 'run' / 'm.csv').read_bytes() == written


def test_metric_lines_are_means_since_the_line_before(train, toy):
  losses = []
  pop = toy.make_population(toy.linear_objective, [0.01, 0.02], log_every=LOG_EVERY, steps=STEPS)
  mesh = toy.make_mesh(1, 2)
  state = population.create_state(
    pop, mesh, population.stack([toy.linear_params(0), toy.linear_params(1)])
  )
  step = population.make_step(pop, mesh)
  for batch in toy.stream([0, 1], stop=STEPS):
    state, loss, _ = step(state, {}, toy.put(mesh, batch))
    losses.append(np.asarray(loss))
  train()
  frame = pd.read_csv(train.folder / 'run' / 'm.csv')
  assert set(frame.metric) == {'loss', 'accuracy', 'learning_rate'}
  for i, member in enumerate(('one', 'two')):
    rows = frame[(frame.member == member) & (frame.metric == 'loss')].set_index('step').value
    # The last stretch, of steps 21 to 23, is a short one.
    stretches = {5: (0, 5), 10: (5, 10), 15: (10, 15), 20: (15, 20), 23: (20, 23)}
    assert list(rows.index) == list(stretches)
    for at, (first, last) in stretches.items():
      np.testing.assert_allclose(rows[at], np.mean([x[i] for x in losses[first:last]]), rtol=1e-5)


def test_sigterm_saves_at_the_next_step_and_exits_with_0(train, toy):
  undisturbed = train('a')
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as stopped:
    train('b', _interrupted(toy, 5, _terminate))
  assert stopped.value.code == 0
  # Sent while the sixth batch was made: the step that takes it carries the word, and the next is on its way already.
  assert 7 in _saved(train.folder / 'b')
  assert signal.getsignal(signal.SIGTERM) is before
  _assert_equal(train('b'), undisturbed)
  assert (train.folder / 'a/m.csv').read_bytes() == (train.folder / 'b/m.csv').read_bytes()


def test_sigterm_during_the_last_step_is_not_lost(train, toy):
  with pytest.raises(SystemExit) as stopped:
    train('b', _interrupted(toy, STEPS - 1, _terminate), evaluate=_measure)
  assert stopped.value.code == 0
  assert STEPS in _saved(train.folder / 'b')
  assert 'test_accuracy' in (train.folder / 'b/m.csv').read_text()


def test_sigterm_without_checkpoints_stops_too(train, toy):
  with pytest.raises(SystemExit) as stopped:
    train('b', _interrupted(toy, 6, _terminate), keep=False)
  assert stopped.value.code == 0


def _poisoned(toy, step):
  """The second member's labels lie outside the classes at `step` of those done: a loss of NaN."""

  def batches(start):
    for done, batch in enumerate(toy.stream([0, 1], start), start):
      if done == step:
        batch['label'][1] = toy.CLASSES + 5
      yield batch

  return batches


def test_a_nan_loss_names_member_and_step_and_keeps_the_last_good_checkpoint(train, toy):
  with pytest.raises(FloatingPointError, match=r"test: .*loss of member 'two' .* at step 10;"):
    train(batches=_poisoned(toy, 9))
  assert _saved(train.folder / 'run') == {4, 8}
  frame = pd.read_csv(train.folder / 'run' / 'm.csv')
  assert np.isfinite(frame.value).all()
  # From there, with data that serves, it goes on and ends as if nothing had been.
  _assert_equal(train('run'), train('other'))


def test_parameters_spoilt_by_a_finite_loss_are_not_saved(train, toy):
  def objective(params, batch):
    loss, metrics = toy.linear_objective(params, batch)
    # The root of 0 is 0, its slope is not finite.
    return loss + jnp.sqrt(0 * params['head']['bias'].sum()), metrics

  with pytest.raises(FloatingPointError, match=r"parameters of member 'one' are .* at step 1;"):
    train(objective=objective, save_every=1)
  assert not _saved(train.folder / 'run')


def test_a_sweep_takes_divergence_as_a_result(train):
  seen = {}

  def evaluate(trained):
    seen.update(jax.device_get(trained['head']))
    return _measure(trained)

  state = train(rates=(0.01, 1e38), keep=False, may_diverge=True, evaluate=evaluate)
  assert state.bad_step[0] == -1
  assert 0 < state.bad_step[1] < STEPS
  assert np.isfinite(seen['kernel'][0]).all()
  assert np.isnan(seen['kernel'][1]).any()


def test_data_that_ends_early_is_an_error(train, toy):
  with pytest.raises(ValueError, match='test: the data ended at step 9 of 23'):
    train(batches=lambda start: toy.stream([0, 1], start, 9))


@pytest.mark.skipif(jax.default_backend() == 'cpu', reason='a CPU shares its memory with the host')
def test_nothing_is_copied_to_the_device_inside_a_step(train):
  # Parameters left on the host would be copied anew at every step.
  with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed host-to-device transfer'):
    train(frozen={'backbone': np.zeros(3, np.float32)})


def test_percentiles_of_the_step_time_reach_the_board(toy, tmp_path):
  mesh = toy.make_mesh(1, 1)
  pop = toy.make_population(toy.linear_objective, [0.01], log_every=LOG_EVERY, steps=STEPS)
  state = population.create_state(pop, mesh, population.stack([toy.linear_params(0)]))
  with board.Board(tmp_path) as shown:
    records = loop.Records(shown, 'run')
    loop.train(pop, mesh, state, {}, lambda start: toy.stream([0], start), STEPS, records)
  everything = dict.fromkeys((event_accumulator.TENSORS, event_accumulator.SCALARS), 0)
  events = event_accumulator.EventAccumulator(str(tmp_path / 'run'), everything).Reload()

  def curve(tag):
    return {e.step: tensor_util.make_ndarray(e.tensor_proto).item() for e in events.Tensors(tag)}

  times = [curve(f'step_ms/p{p}') for p in (50, 90, 99)]
  # At each log line, the short stretch at the end included.
  assert list(times[0]) == [5, 10, 15, 20, 23]
  assert all(0 < times[0][at] <= times[1][at] <= times[2][at] for at in times[0])
  assert list(curve('compile_seconds')) == [1]
