"""Metric lines: readable by pandas, whole after a crash."""

import numpy as np
import pandas as pd
import pytest

from experts.training import lines as lines_lib

MEMBERS = ['baseline', 'letter, "small"']


def _write(path, steps):
  lines = lines_lib.Lines(str(path))
  lines.start(0)
  for step in steps:
    lines.append(step, MEMBERS, _metrics(step))
  return lines


def _metrics(step):
  return {'loss': np.float32([1 / step, 2 / step]), 'accuracy': np.float32([0.5, 1 / 3])}


def test_pandas_reads_what_was_written(tmp_path):
  path = tmp_path / 'metrics.csv'
  _write(path, [10, 20])
  frame = pd.read_csv(path)
  assert list(frame.columns) == ['step', 'member', 'metric', 'value']
  assert list(frame.step) == [10] * 4 + [20] * 4
  assert set(frame.member) == set(MEMBERS)
  row = frame[(frame.step == 20) & (frame.member == MEMBERS[1])].set_index('metric').value
  assert np.float32(row['loss']) == np.float32(0.1)
  assert np.float32(row['accuracy']) == np.float32(1 / 3)  # every bit of a float32 is kept


def test_a_new_run_has_a_header_and_no_row(tmp_path):
  path = tmp_path / 'metrics.csv'
  _write(path, [])
  assert path.read_text() == 'step,member,metric,value\n'


@pytest.mark.parametrize('restart', [20, 25])
def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path, restart):
  undisturbed, resumed = tmp_path / 'a.csv', tmp_path / 'b.csv'
  _write(undisturbed, [10, 20, 30, 40])
  _write(resumed, [10, 20, 30])
  lines = lines_lib.Lines(str(resumed))
  lines.start(restart)
  for step in (30, 40):
    lines.append(step, MEMBERS, _metrics(step))
  assert resumed.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize('cut', [1, 3, 7, 12, 20])
def test_half_a_line_at_the_end_is_dropped(tmp_path, cut):
  path = tmp_path / 'metrics.csv'
  _write(path, [10])
  whole = path.read_bytes()
  _write(path, [10, 20])
  full = path.read_bytes()
  # Cut within the last line: sometimes within its value, which then still looks like a number.
  path.write_bytes(full[:-cut])
  lines_lib.Lines(str(path)).start(20)
  kept = path.read_bytes()
  assert kept.startswith(whole)
  assert full.startswith(kept)
  assert kept.endswith(b'\n')
  assert kept.count(b'\n') == full.count(b'\n') - 1


def test_half_a_header_is_replaced(tmp_path):
  path = tmp_path / 'metrics.csv'
  path.write_text('step,mem')
  lines_lib.Lines(str(path)).start(0)
  assert path.read_text() == 'step,member,metric,value\n'
