"""Intervals against published values and against what an interval promises."""

import doctest

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experts.reporting import statistics


def test_docstring_examples():
  assert doctest.testmod(statistics).failed == 0


@pytest.mark.parametrize(
  ('correct', 'number', 'low', 'high'),
  # Newcombe 1998, Statistics in Medicine 17:857, table I, the Wilson score interval without continuity correction.
  [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ],
)
def test_wilson_equals_published_intervals(correct, number, low, high):
  assert statistics.wilson(correct, number) == pytest.approx((low, high), abs=5e-5)


@hypothesis.given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_accuracy_and_mirrors(number, data):
  correct = data.draw(st.integers(0, number))
  low, high = statistics.wilson(correct, number)
  assert 0 <= low <= correct / number <= high <= 1
  assert statistics.wilson(number - correct, number) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(('correct', 'number'), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_accuracy(correct, number):
  with pytest.raises(ValueError, match=f'{correct} right of {number} samples'):
    statistics.wilson(correct, number)


def _pairs(both: int, won: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
  counts = (both, won, lost, neither)
  return np.repeat([True, True, False, False], counts), np.repeat(
    [True, False, True, False], counts
  )


@pytest.mark.parametrize(
  ('won', 'lost', 'p'),
  # Twice the tail of fair coins: 2 * (1 + 6) / 2**6 and so on.
  [
    (5, 1, 14 / 64),
    (1, 5, 14 / 64),
    (0, 10, 2 / 1024),
    (2, 8, 2 * (1 + 10 + 45) / 1024),
    (1, 0, 1),
    (4, 4, 1),
    (0, 0, 1),
  ],
)
def test_mcnemar_equals_the_coins_tail(won, lost, p):
  assert statistics.mcnemar(*_pairs(7, won, lost, 3)) == pytest.approx(p, rel=1e-12)


def test_mcnemar_equals_a_published_table():
  # Approval ratings of Agresti 1990, Categorical Data Analysis, p. 350; this p-value: Fay 2010, exact2x2, for R.
  p = statistics.mcnemar(*_pairs(794, 150, 86, 570))
  assert p == pytest.approx(3.716e-5, rel=2e-4)


@hypothesis.given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_does_not_depend_on_agreement_or_order(won, lost, agreed):
  p = statistics.mcnemar(*_pairs(0, won, lost, 1))
  assert 0 < p <= 1
  assert statistics.mcnemar(*_pairs(agreed, lost, won, agreed)) == p


@pytest.mark.parametrize(
  ('first', 'second'),
  [([True], [True, False]), ([1, 0], [True, False]), ([[True]], [[True]]), ([0.5], [0.2])],
)
def test_mcnemar_refuses_what_is_no_pair_of_outcomes(first, second):
  with pytest.raises(ValueError, match='two bool lists of one length'):
    statistics.mcnemar(np.array(first), np.array(second))


def test_bootstrap_of_two_values_has_known_ends():
  # Of two values the resampled mean is 0, 0.5 or 1 with probabilities 1/4, 1/2, 1/4.
  assert statistics.bootstrap([0.0, 1.0], np.mean) == (0, 1)


def test_bootstrap_of_the_mean_nears_the_normal_interval():
  values = np.random.default_rng(0).normal(size=400)
  low, high = statistics.bootstrap(values, np.mean)
  error = 1.96 * values.std() / 20
  assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.01)


def test_bootstrap_is_the_same_each_time_and_its_seed_matters():
  values = np.random.default_rng(1).uniform(size=9)
  assert statistics.bootstrap(values, np.mean) == statistics.bootstrap(values, np.mean)
  assert statistics.bootstrap(values, np.mean, seed=1) != statistics.bootstrap(values, np.mean)


def test_bootstrap_of_the_median_stays_within_the_values():
  low, high = statistics.bootstrap([0.3, 0.1, 0.2])
  assert (low, high) == pytest.approx((0.1, 0.3))


def test_a_single_run_has_no_interval():
  assert np.isnan(statistics.bootstrap([0.7])).all()


@pytest.mark.parametrize('values', [[], [0.1, np.nan], [[0.1, 0.2]]])
def test_bootstrap_refuses_unusable_values(values):
  with pytest.raises(ValueError, match='bootstrap needs a list of finite values'):
    statistics.bootstrap(values)


def test_draws_of_selections_move_whole_selections():
  # Retrains of a selection agree, so that there are two values, not six: the mean is 0, 0.5 or 1 in 1/4, 1/2, 1/4.
  values, selections = [0, 1, 0, 1, 0, 1], ['a', 'b', 'a', 'b', 'a', 'b']
  draws = statistics.resample(values, np.mean, 20_000, clusters=selections)
  found, counts = np.unique(draws, return_counts=True)
  assert found.tolist() == [0, 0.5, 1]
  np.testing.assert_allclose(counts / 20_000, [0.25, 0.5, 0.25], atol=0.015)
  plain = statistics.resample(values, np.mean, 20_000)
  assert draws.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.03)
  assert plain.std() == pytest.approx(0.5 / np.sqrt(6), rel=0.03)


def test_draws_within_a_selection_come_from_it():
  values = [1, 2, 3, 10, 20, 30]
  lists = statistics.resample(values, lambda x, axis: x.sum(axis), 5000, clusters=[0] * 3 + [1] * 3)
  # Three of the small ones and three of the large ones, or six of either.
  assert set(np.unique(lists)) <= {*range(6, 19), *range(60, 181, 10), *(s + t for s in range(3, 10) for t in range(30, 91, 10))}  # fmt: skip
  assert lists.mean() == pytest.approx(66, rel=0.03)


def test_draws_are_the_same_for_any_number_of_values_at_a_time():
  values = np.random.default_rng(0).uniform(size=2000)
  draws = statistics.resample(values, np.mean, 3000)
  assert draws.shape == (3000,)
  assert draws.std() == pytest.approx(values.std() / np.sqrt(2000), rel=0.05)


def test_one_selection_has_no_interval():
  draws = statistics.resample([0.1, 0.2, 0.3], clusters=[0, 0, 0])
  assert np.isnan(statistics.interval(draws)).all()


def test_clusters_of_different_sizes_are_refused():
  with pytest.raises(ValueError, match='equally large: b has 1 values, a has 2'):
    statistics.resample([0.1, 0.2, 0.3], clusters=['a', 'a', 'b'])
  with pytest.raises(ValueError, match='3 values have 2 clusters'):
    statistics.resample([0.1, 0.2, 0.3], clusters=['a', 'b'])
