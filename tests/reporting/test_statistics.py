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
