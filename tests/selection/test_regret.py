"""Regret as WHICH §3 defines it."""

import doctest

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


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_a_larger_budget_never_hurts(accuracy, data):
  order = data.draw(st.permutations(range(len(accuracy))))
  for measure in (regret.regret, regret.relative_regret):
    by_budget = [measure(np.array(accuracy), order[:b]) for b in range(1, len(order) + 1)]
    assert by_budget == sorted(by_budget, reverse=True)
    assert by_budget[-1] == 0
    assert all(0 <= value <= 1 for value in by_budget)


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
