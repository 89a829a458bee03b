"""Regret as WHICH §3 defines it."""

import doctest
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experts.selection import regret

_ACCURACY = np.array([0.5, 0.9, 0.8])


def test_docstring_examples():
  assert doctest.testmod(regret).failed == 0


@pytest.mark.parametrize(
  ('chosen', 'lost', 'relative'),
  [(1, 0, 0), (2, 0.1, 0.5), (0, 0.4, 0.8), ([0, 2], 0.1, 0.5), ([2, 1], 0, 0)],
)
def test_literal_values(chosen, lost, relative):
  assert regret.regret(_ACCURACY, chosen) == pytest.approx(lost)
  assert regret.relative_regret(_ACCURACY, chosen) == pytest.approx(relative)


def test_perfect_choice_has_no_relative_regret():
  assert regret.relative_regret(np.array([1.0, 0.2]), 0) == 0


def test_log_odds_regret_counts_odds_of_an_error():
  # Odds 1, 9, 4.
  assert regret.log_odds_regret(_ACCURACY, 0) == pytest.approx(np.log(9))
  assert regret.log_odds_regret(_ACCURACY, [0, 2]) == pytest.approx(np.log(9 / 4))
  assert regret.log_odds_regret(_ACCURACY, 1) == 0


def test_log_odds_are_clipped_where_they_would_be_infinite():
  np.testing.assert_allclose(regret.log_odds([0, 0.5, 1]), [-np.log(9999), 0, np.log(9999)])
  assert regret.log_odds_regret(np.array([1.0, 0.99995]), 1) == 0


@pytest.mark.parametrize(
  ('first', 'second', 'expected'),
  [(0.9, 0.8, 0.5), (0.8, 0.9, -0.5), (0.3, 0.3, 0), (1, 1, 0), (1, 0.2, 1), (0, 1, -1)],
)
def test_delta_is_a_share_of_the_worse_strategys_error(first, second, expected):
  assert regret.delta(first, second) == pytest.approx(expected)


@hypothesis.given(st.floats(0, 1), st.floats(0, 1))
def test_delta_is_antisymmetric_and_bounded(first, second):
  value = regret.delta(first, second)
  assert value == -regret.delta(second, first)
  assert -1 <= value <= 1
  if first >= second:
    assert value == regret.relative_regret(np.array([first, second]), 1)


def test_reached_stops_at_a_model_that_was_not_fine_tuned():
  reached = regret.reached_by_budget([0.5, np.nan, 0.9, 0.8], [1, 3, np.nan, 2])
  np.testing.assert_array_equal(reached, [0.5, 0.8, np.nan])


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_reached_is_what_regret_counts(accuracy, data):
  ranks = np.array(data.draw(st.permutations(range(1, len(accuracy) + 1))))
  accuracy = np.array(accuracy)
  for budget, reached in enumerate(regret.reached_by_budget(accuracy, ranks), 1):
    lost = regret.regret(accuracy, np.flatnonzero(ranks <= budget))
    assert accuracy.max() - reached == lost


def test_correlations_by_hand():
  # Of 6 pairs, 5 concordant and 1 not: tau = 4/6; rank differences 0, 0, 1, -1: rho = 1 - 6 * 2 / 60.
  found = regret.correlate(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.4, 0.3]))
  assert found.kendall == pytest.approx(4 / 6)
  assert found.spearman == pytest.approx(0.8)
  assert found.pearson == pytest.approx(0.8)
  assert found.models == 4


def test_correlations_leave_out_what_one_side_lacks():
  nan = np.nan
  found = regret.correlate(np.array([1, 2, nan, 5, -np.inf]), np.array([0.3, 0.2, 0.9, nan, 0.1]))
  assert (found.kendall, found.models) == (-1, 2)


@pytest.mark.parametrize('scores', [[0.5, 0.5, 0.5], [np.nan, np.nan, 1.0]])
@pytest.mark.filterwarnings('error')
def test_nothing_to_correlate_is_not_a_number(scores):
  found = regret.correlate(np.array(scores), np.array([0.1, 0.2, 0.3]))
  assert np.isnan([found.kendall, found.spearman, found.pearson]).all()


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_a_larger_budget_never_hurts(accuracy, data):
  order = data.draw(st.permutations(range(len(accuracy))))
  for measure in (regret.regret, regret.relative_regret, regret.log_odds_regret):
    by_budget = [measure(np.array(accuracy), order[:b]) for b in range(1, len(order) + 1)]
    # Each is a quotient of differences, whose rounding near an accuracy of 1 may go up.
    for earlier, later in itertools.pairwise(by_budget):
      assert later <= earlier * (1 + 1e-9) + 1e-12
    assert by_budget[-1] == 0
    assert all(value >= 0 for value in by_budget)
    if measure is not regret.log_odds_regret:
      assert by_budget[0] <= 1


@pytest.mark.parametrize(
  ('accuracy', 'chosen', 'message'),
  [
    ([50.0, 90.0], 0, r'must be \[M\] in \[0, 1\], not \[50.0, 90.0\]'),
    ([0.5, np.nan], 0, r'in \[0, 1\]'),
    ([[0.5, 0.9]], 0, r'must be \[M\]'),
    ([0.5, 0.9], [], 'no model was chosen'),
    ([0.5, 0.9], [0, 2], r'\[2\] not in the pool of models 0 to 1'),
    ([0.5, 0.9], -1, r'\[-1\] not in the pool'),
  ],
)
def test_unusable_input_is_refused(accuracy, chosen, message):
  with pytest.raises(ValueError, match=message):
    regret.regret(np.array(accuracy), chosen)
