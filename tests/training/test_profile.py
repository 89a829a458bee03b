"""The steps that a user asks for are traced, into the folder where TensorBoard looks."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from experts.training import profile


@pytest.mark.parametrize('text', ['10', '10:', ':15', '15:10', '0:3', 'a:b', '1:2:3', '-1:3'])
def test_what_is_no_range_is_refused(text):
  with pytest.raises(ValueError, match='is no range of steps'):
    profile.parse(text)


def _run(steps, folder, last, fails_at=None):
  traced = jax.jit(lambda x: x @ x)
  with profile.parse(steps).trace(folder) as trace:
    for step in range(1, last + 1):
      trace.before(step)
      if step == fails_at:
        raise FloatingPointError
      with jax.profiler.StepTraceAnnotation('step', step_num=step):
        result = traced(jnp.ones((8, 8)))
      trace.after(step, result)


def _traced_steps(folder):
  (path,) = folder.glob('plugins/profile/*/*.trace.json.gz')
  with gzip.open(path) as file:
    events = json.load(file)['traceEvents']
  return {int(e['args']['step_num']) for e in events if e.get('name') == 'step'}


def test_exactly_the_steps_asked_for_are_traced(tmp_path):
  _run('3:5', str(tmp_path), 8)
  assert _traced_steps(tmp_path) == {3, 4, 5}


def test_a_run_that_ends_or_fails_inside_the_range_leaves_its_trace(tmp_path):
  _run('2:9', str(tmp_path / 'short'), 4)
  assert _traced_steps(tmp_path / 'short') == {2, 3, 4}
  with pytest.raises(FloatingPointError):
    _run('2:9', str(tmp_path / 'failed'), 6, fails_at=4)
  assert _traced_steps(tmp_path / 'failed') == {2, 3}


def test_a_process_without_a_board_traces_nothing(tmp_path):
  _run('1:2', None, 3)
  _run('', str(tmp_path), 3)
  assert not list(tmp_path.iterdir())
