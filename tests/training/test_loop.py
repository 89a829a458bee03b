"""The loop: exact resumption, SIGTERM, losses that are not finite."""

import dataclasses
import gc
import logging
import os
import pathlib
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from experts.training import board, cadence, checkpoints, lines, loop, population

STEPS, LOG_EVERY, SAVE_EVERY = 23, cadence.Cadence(5), cadence.Cadence(4)


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
    log_every=LOG_EVERY,
    frozen=None,
    about=types.MappingProxyType({}),
    **options,
  ):
    path = tmp_path / folder
    path.mkdir(exist_ok=True)
    pop = toy.make_population(objective, list(rates), names=['one', 'two'], steps=STEPS)
    quiet = board.Board(path / 'tensorboard', enabled=False)
    records = loop.Records(quiet, 'test', log_every, save_every)
    saved = None
    if keep:
      saved = checkpoints.Checkpoints(str(path / 'checkpoints'), 2)
      kept_lines = lines.Lines(str(path / 'm.csv'))
      records = dataclasses.replace(records, checkpoints=saved, **{'lines': kept_lines, **about})
    batches = batches or (lambda start: toy.stream([0, 1], start))
    try:
      return jax.device_get(
        loop.train(pop, mesh, trained, frozen or {}, batches, STEPS, records, **options)
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


def _of(state, member):
  return jax.tree.map(lambda leaf: leaf[member], (state.trained, state.optimizer))


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


def _losses(toy):
  """Of both members at each step, float [STEPS, 2]."""
  losses = []
  pop = toy.make_population(toy.linear_objective, [0.01, 0.02], steps=STEPS)
  mesh = toy.make_mesh(1, 2)
  state = population.create_state(
    pop, mesh, population.stack([toy.linear_params(0), toy.linear_params(1)])
  )
  step = population.make_step(pop, mesh)
  for batch in toy.stream([0, 1], stop=STEPS):
    state, loss, _ = step(state, {}, toy.put(mesh, batch))
    losses.append(np.asarray(loss))
  return np.array(losses)


def test_metric_lines_are_means_since_the_line_before(train, toy):
  losses = _losses(toy)
  train()
  frame = pd.read_csv(train.folder / 'run' / 'm.csv')
  assert set(frame.metric) == {'loss', 'accuracy', 'learning_rate'}
  for i, member in enumerate(('one', 'two')):
    rows = frame[(frame.member == member) & (frame.metric == 'loss')].set_index('step').value
    # The last stretch, of steps 21 to 23, is a short one.
    stretches = {5: (0, 5), 10: (5, 10), 15: (10, 15), 20: (15, 20), 23: (20, 23)}
    assert list(rows.index) == list(stretches)
    for at, (first, last) in stretches.items():
      np.testing.assert_allclose(rows[at], losses[first:last, i].mean(), rtol=1e-5)


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


def _poisoned(toy, step, member=1, source=None):
  """A member's labels lie outside the classes at `step` of those done: a loss of NaN."""

  def batches(start):
    stream = source(start) if source else toy.stream([0, 1], start)
    for done, batch in enumerate(stream, start):
      if done == step:
        batch['label'][member] = toy.CLASSES + 5
      yield batch

  return batches


def _after(toy, steps):
  """The two members after so many steps."""
  pop = toy.make_population(toy.linear_objective, [0.01, 0.02], steps=STEPS)
  trained = population.stack([toy.linear_params(0), toy.linear_params(1)])
  return toy.run(pop, toy.make_mesh(1, 2), trained, {}, toy.stream([0, 1], stop=steps))


def _rows(folder):
  frame = pd.read_csv(folder / 'm.csv')
  return frame.pivot_table('value', ['step', 'metric'], 'member', dropna=False, sort=False)


def test_a_member_that_diverges_stops_itself_and_nobody_else(train, toy, caplog):
  undisturbed = train('a', evaluate=_measure)
  with caplog.at_level(logging.WARNING):
    state = train('b', _poisoned(toy, 9), evaluate=_measure)
  said = [one.getMessage() for one in caplog.records if 'diverged' in one.getMessage()]
  assert len(said) == 1
  assert "test: member 'two' has diverged" in said[0]
  assert 'not finite at step 10;' in said[0]
  assert state.bad_step.tolist() == [-1, 10]
  # The other's parameters, momenta and lines are the bits that they would have been.
  _assert_equal(_of(state, 0), _of(undisturbed, 0))
  (a, b) = (_rows(train.folder / name) for name in 'ab')
  pd.testing.assert_series_equal(a.one, b.one)
  # Its own are those of the step before, and its lines say so from there on.
  _assert_equal(_of(state, 1), _of(_after(toy, 9), 1))
  assert np.isnan(b.two.loc[[10, 15, 20, 23], 'loss']).all()
  assert np.isfinite(b.two.loc[5, ['loss', 'accuracy', 'learning_rate']]).all()


@pytest.mark.parametrize('crash', [9, 11, 14, 22])
def test_it_is_stopped_after_a_restart_too(train, toy, crash):
  state = train('a', _poisoned(toy, 9))
  poisoned = _poisoned(toy, 9)

  def batches(start):
    for done, batch in enumerate(poisoned(start), start):
      if done == crash:
        raise Stopped
      yield batch

  with pytest.raises(Stopped):
    train('b', batches)
  # Data that would serve does not set it going again.
  resumed = train('b', _poisoned(toy, 9 if crash < 12 else -1))
  _assert_equal(resumed, state)
  assert (train.folder / 'a/m.csv').read_bytes() == (train.folder / 'b/m.csv').read_bytes()


def test_where_all_diverge_the_run_fails_and_keeps_the_last_good_checkpoint(train, toy):
  message = r"test: all 2 members have diverged: member 'two' .* not finite at step 6; lower its"
  both = _poisoned(toy, 5, 1, _poisoned(toy, 9, 0))
  with pytest.raises(loop.Diverged, match=message) as error:
    train(batches=both)
  assert error.value.steps.tolist() == [10, 6]
  assert _saved(train.folder / 'run') == {4, 8}


def test_parameters_spoilt_by_a_finite_loss_count_as_divergence(train, toy):
  def objective(params, batch):
    loss, metrics = toy.linear_objective(params, batch)
    # The root of 0 is 0, its slope is not finite.
    return loss + jnp.sqrt(0 * params['head']['bias'].sum()), metrics

  with pytest.raises(loop.Diverged, match=r"member 'one' .* at step 1;"):
    train(objective=objective, save_every=cadence.Cadence(1))
  assert not (train.folder / 'run/checkpoints').exists()


def test_a_rate_that_is_too_large_is_seen_without_checkpoints(train):
  state = train(rates=(0.01, 1e38), keep=False, evaluate=_measure)
  assert state.bad_step[0] == -1
  assert 0 < state.bad_step[1] < STEPS
  assert np.isfinite(state.trained['head']['kernel'][0]).all()


def _timed(toy, seconds, crash=None):
  """A clock that each batch of `seconds[step]` (of those done, else 1) moves on, and the batches."""
  now = [0.0]

  def batches(start):
    for done, batch in enumerate(toy.stream([0, 1], start), start):
      if done == crash:
        raise Stopped
      now[0] += seconds.get(done, 1)
      yield batch

  return types.MappingProxyType({'clock': lambda: now[0]}), batches


_BY_TIME = {'log_every': cadence.Cadence(seconds=4), 'save_every': cadence.Cadence(seconds=6)}


def test_lines_and_checkpoints_come_by_the_clock(train, toy):
  undisturbed = train('a')
  # A long wait for the tenth batch: no line is owed for it, and none is made up for.
  about, batches = _timed(toy, {9: 60})
  state = train('b', batches, about=about, **_BY_TIME)
  _assert_equal((state.trained, state.optimizer), (undisturbed.trained, undisturbed.optimizer))
  frame = pd.read_csv(train.folder / 'b/m.csv')
  # The batch of the fourth second is said to be due; all hear of it a step later.
  lines_at = [5, 9, 11, 15, 19, STEPS]
  assert frame.step.unique().tolist() == lines_at
  means = frame[(frame.member == 'two') & (frame.metric == 'loss')].value.tolist()
  losses = _losses(toy)[:, 1]
  stretches = zip([0, *lines_at], lines_at)
  np.testing.assert_allclose(means, [losses[a:b].mean() for a, b in stretches], rtol=1e-5)
  assert _saved(train.folder / 'b') == {17, STEPS}


@pytest.mark.parametrize('crash', [8, 9, 13, 20])
def test_a_run_by_the_clock_is_resumed_to_the_bit(train, toy, crash):
  about, batches = _timed(toy, {})
  undisturbed = train('a', batches, about=about, **_BY_TIME)
  about, batches = _timed(toy, {}, crash)
  with pytest.raises(Stopped):
    train('b', batches, about=about, **_BY_TIME)
  about, batches = _timed(toy, {3: 0, 12: 2})
  resumed = train('b', batches, about=about, **_BY_TIME)
  _assert_equal((resumed.trained, resumed.optimizer), (undisturbed.trained, undisturbed.optimizer))
  # Lines may be elsewhere; each holds the mean of what lies before it, and none is there twice.
  frame = pd.read_csv(train.folder / 'b/m.csv')
  rows = frame[(frame.member == 'two') & (frame.metric == 'loss')]
  assert rows.step.is_monotonic_increasing
  losses, before = _losses(toy)[:, 1], 0
  for at, value in zip(rows.step, rows.value):
    np.testing.assert_allclose(value, losses[before:at].mean(), rtol=1e-5)
    before = at
  assert before == STEPS


def _measured(train, **options):
  """How often a passing run was evaluated, and what it left."""
  seen = []
  state = train(evaluate=lambda trained: seen.append(1) or _measure(trained), **options)
  return len(seen), state


_PASSING = types.MappingProxyType({'passing': True, 'lines': None})


def test_a_short_passing_run_leaves_nothing(train):
  assert _measured(train, about=_PASSING, save_every=cadence.Cadence(100))[0] == 1
  assert not (train.folder / 'run/checkpoints').exists()


def test_one_of_many_short_rounds_keeps_its_end(train):
  about = types.MappingProxyType({**_PASSING, 'rounds': 5})
  assert _measured(train, about=about, save_every=cadence.Cadence(100))[0] == 1
  assert _saved(train.folder / 'run') == {STEPS}


def test_a_passing_run_that_is_over_is_measured_again(train):
  _, first = _measured(train, about=_PASSING)
  # Nobody has written down what it reached: it may have been killed right after.
  again, state = _measured(train, about=_PASSING, batches=lambda start: pytest.fail('again'))
  assert again == 1
  _assert_equal(state, first)


def test_no_first_state_is_made_beside_a_restored_one(train, toy, monkeypatch):
  with pytest.raises(Stopped):
    train(batches=_interrupted(toy, 10, _throw))
  kernel = (2, toy.SIZE * toy.SIZE * 3, toy.CLASSES)
  restore, there = ocp.Checkpointer.restore, []

  def watched(self, *args, **options):
    gc.collect()
    there.append(sum(array.shape == kernel for array in jax.live_arrays()))
    return restore(self, *args, **options)

  gc.collect()
  before = sum(array.shape == kernel for array in jax.live_arrays())
  monkeypatch.setattr(ocp.Checkpointer, 'restore', watched)
  train()
  assert there == [before]


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
  pop = toy.make_population(toy.linear_objective, [0.01], steps=STEPS)
  trained = population.stack([toy.linear_params(0)])
  with board.Board(tmp_path) as shown:
    records = loop.Records(shown, 'run', LOG_EVERY, SAVE_EVERY)
    loop.train(pop, mesh, trained, {}, lambda start: toy.stream([0], start), STEPS, records)
  everything = dict.fromkeys((event_accumulator.TENSORS, event_accumulator.SCALARS), 0)
  events = event_accumulator.EventAccumulator(str(tmp_path / 'run'), everything).Reload()

  def curve(tag):
    return {e.step: tensor_util.make_ndarray(e.tensor_proto).item() for e in events.Tensors(tag)}

  times = [curve(f'step_ms/p{p}') for p in (50, 90, 99)]
  # At each log line, the short stretch at the end included.
  assert list(times[0]) == [5, 10, 15, 20, 23]
  assert all(0 < times[0][at] <= times[1][at] <= times[2][at] for at in times[0])
  assert list(curve('compile_seconds')) == [1]
