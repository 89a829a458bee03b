"""The number that a task's runs come to."""

import pandas as pd
import pytest

from experts.reporting import outcomes


def _trials(rows) -> pd.DataFrame:
  return pd.DataFrame(rows, columns=['task', 'model', 'split', 'accuracy'])


@pytest.mark.parametrize(
  ('group', 'expected'),
  [
    ('natural six', 'mean'), ('natural', 'median'), ('specialized', 'median'), ('structured', 'median'),
    ('other tasks', 'median'), (None, 'median'),
  ],
)  # fmt: skip
def test_only_the_natural_six_are_measured_by_the_mean(group, expected):
  assert outcomes.statistic(group) == expected


def test_medians_means_and_runs_of_the_test_rows_alone():
  runs = [0.1, 0.2, 0.9]
  rows = [(task, 'm', 'test', value) for task in ('six', 'vtab', 'own') for value in runs]
  rows += [('six', 'dat', 'test', 0.3), ('six', 'm', 'validation', 1.0)]
  table = outcomes.tested(_trials(rows), {'six': 'natural six', 'vtab': 'natural'})
  found = {(r.task, r.model): (round(r.accuracy, 9), r.runs) for r in table.itertuples()}
  assert found == {
    ('six', 'm'): (0.4, 3), ('vtab', 'm'): (0.2, 3), ('own', 'm'): (0.2, 3), ('six', 'dat'): (0.3, 1),
  }  # fmt: skip


def test_before_any_fine_tuning_there_are_none():
  assert outcomes.tested(_trials([]), {}).columns.tolist() == ['task', 'model', 'accuracy', 'runs']
  assert outcomes.tested(_trials([('a', 'm', 'validation', 0.5)]), {}).empty
