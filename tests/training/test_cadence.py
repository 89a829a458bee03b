"""How often: by steps that each process counts, by time that one of them tells."""

import pytest

from experts.training import cadence
from experts.training.cadence import Cadence


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('500 steps', Cadence(steps=500)),
    ('1 step', Cadence(steps=1)),
    ('10 seconds', Cadence(seconds=10)),
    ('1 minute', Cadence(seconds=60)),
    ('2.5 minutes', Cadence(seconds=150)),
    (' 2hours ', Cadence(seconds=7200)),
  ],
)
def test_steps_and_times_are_read(text, expected):
  assert cadence.parse(text) == expected


@pytest.mark.parametrize(
  'text', ['', '500', '0 steps', '0.0 minutes', '1.5 steps', '-3 minutes', '2 epochs', 'minutes']
)
def test_what_is_no_cadence_is_refused(text):
  with pytest.raises(ValueError, match=r"is not how often: .* such as '10 minutes'"):
    cadence.parse(text)


def test_steps_are_counted_and_no_clock_is_asked():
  turn = cadence.Turn(Cadence(steps=3), lambda: 0.0)
  assert not turn.call()
  # Wherever a run was resumed, the same steps.
  assert [step for step in range(1, 10) if turn.now(step, False)] == [3, 6, 9]


def test_a_time_is_called_once_and_counted_from_there():
  now = [100.0]
  turn = cadence.Turn(Cadence(seconds=10), lambda: now[0])
  called = []
  for now[0] in (100, 109, 110, 111, 125, 130, 134, 135):
    if turn.call():
      called.append(now[0])
  assert called == [110, 125, 135]
  assert turn.now(7, True)
  assert not turn.now(7, False)


def test_a_run_is_long_by_its_own_measure():
  assert Cadence(steps=10).over(10, 0)
  assert not Cadence(steps=10).over(9, 1e9)
  assert Cadence(seconds=60).over(0, 60)
  assert not Cadence(seconds=60).over(10**9, 59)
