"""Log lines, rates and time left, with a clock that the test turns."""

import io
import sys

import pytest

from experts.training import progress as progress_lib


class _Clock:
  now = 0.0

  def __call__(self) -> float:
    return self.now


def test_line_names_run_step_metrics_rate_and_time_left(caplog):
  caplog.set_level('INFO', logger='absl')
  clock = _Clock()
  progress = progress_lib.Progress(900, description='experts/full', clock=clock)
  progress.update(100, 12800, {'loss': 2})
  clock.now = 25
  progress.update(200, 12800, {'loss': 1.2341})
  assert caplog.messages == [
    'experts/full step 100/900 loss 2',
    'experts/full step 200/900 loss 1.234, 512 img/s, 2:55 left',
  ]
  assert progress.rates() == {'steps_per_second': 4, 'images_per_second': 512}


def test_update_without_metrics_counts_but_logs_nothing(caplog):
  caplog.set_level('INFO', logger='absl')
  clock = _Clock()
  progress = progress_lib.Progress(10, description='run', clock=clock)
  for step in range(1, 4):
    clock.now = step
    progress.update(step, 8)
  assert caplog.messages == []
  assert progress.rates() == {'steps_per_second': 1, 'images_per_second': 8}


def test_rate_forgets_what_is_older_than_the_window():
  clock = _Clock()
  progress = progress_lib.Progress(1000, clock=clock)
  for second in range(100):
    clock.now = second
    progress.update(second, 1 if second < 50 else 4)
  assert progress.rates() == {'steps_per_second': 1, 'images_per_second': 4}


def test_rate_survives_updates_rarer_than_the_window():
  clock = _Clock()
  progress = progress_lib.Progress(1000, clock=clock)
  for step in range(3):
    clock.now = 600 * step
    progress.update(step, 60)
  assert progress.rates()['images_per_second'] == pytest.approx(0.1)


def test_resumed_run_does_not_count_the_steps_of_its_predecessor():
  clock = _Clock()
  progress = progress_lib.Progress(100, start=50, clock=clock)
  progress.update(51, 8)
  clock.now = 2
  progress.update(53, 16)
  assert progress.rates() == {'steps_per_second': 1, 'images_per_second': 8}


def test_terminal_gets_a_bar(monkeypatch, caplog):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  caplog.set_level('INFO', logger='absl')
  terminal, clock = Terminal(), _Clock()
  monkeypatch.setattr(sys, 'stderr', terminal)
  with progress_lib.Progress(4, description='upstream', clock=clock) as progress:
    progress.update(1, 8, {'loss': 3})
    clock.now = 2
    progress.update(4, 24, {'loss': 1.5})
  last = terminal.getvalue().rstrip('\n').rsplit('\r', 1)[-1]
  assert last.startswith('upstream 100%|')
  assert '4/4, loss 1.5, 12 img/s, 0:00 left' in last
  assert caplog.messages == []


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0, '0:00'), (59.6, '1:00'), (3599, '59:59'), (3600, '1:00:00'), (90061, '25:01:01')],
)
def test_duration(seconds, text):
  assert progress_lib.duration(seconds) == text
