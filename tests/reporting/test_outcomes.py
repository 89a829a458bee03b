"""The number that a task's runs come to."""

import doctest

import numpy as np
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
  columns = ['task', 'model', 'accuracy', 'runs', 'diverged']
  assert outcomes.tested(_trials([]), {}).columns.tolist() == columns
  assert outcomes.tested(_trials([('a', 'm', 'validation', 0.5)]), {}).empty


def test_what_diverged_counts_as_nothing_right():
  rows = [(task, 'm', 'test', value) for task in ('six', 'vtab') for value in (0.9, np.nan, np.nan)]
  rows += [('vtab', 'sound', 'test', 0.1), ('vtab', 'swept', 'validation', 0.5)]
  # Its sweep is all that there is of a model none of whose trials went well.
  rows += [('vtab', 'lost', 'validation', np.nan)] * 2
  table = outcomes.tested(_trials(rows), {'six': 'natural six', 'vtab': 'natural'})
  found = {
    (r.task, r.model): (round(r.accuracy, 9), r.runs, r.diverged) for r in table.itertuples()
  }
  assert found == {
    ('six', 'm'): (0.3, 3, 2), ('vtab', 'm'): (0.0, 3, 2), ('vtab', 'sound'): (0.1, 1, 0), ('vtab', 'lost'): (0.0, 1, 1),
  }  # fmt: skip


def test_a_selection_whose_sweep_diverged_counts_with_as_many_runs_as_the_others():
  rows = [('t', 'm', split, accuracy, 0) for split, accuracy in (
    ('validation', np.nan), ('validation', 0.6), ('test', 0.7), ('test', 0.8), ('test', np.nan),
  )]  # fmt: skip
  rows += [('t', 'm', 'validation', np.nan, 1)] * 2
  trials = pd.DataFrame(rows, columns=['task', 'model', 'split', 'accuracy', 'selection'])
  found = outcomes.runs(trials)
  assert found.accuracy.tolist() == [0.7, 0.8, 0, 0, 0, 0]
  assert found.diverged.tolist() == [False, False, True, True, True, True]
  assert found.selection.tolist() == [0, 0, 0, 1, 1, 1]
  assert set(found.split) == {'test'}


def test_docstring_examples():
  assert doctest.testmod(outcomes).failed == 0


@pytest.mark.parametrize(
  ('accuracies', 'number'),
  [
    ([0.3], 0),
    ([0.9, 0.5, 0.7, 0.6], 3),
    # Of five with two that diverged the median is the least of the others.
    ([0.9, np.nan, 0.8, np.nan, 0.7], 4),
    ([np.nan, 0.9, 0.8, 0.7, 0.6], 3),
    ([np.nan, np.nan], None),
  ],
)
def test_the_kept_run_is_that_of_the_median(accuracies, number):
  assert outcomes.middle(accuracies) == number
