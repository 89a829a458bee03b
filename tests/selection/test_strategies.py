"""Ranks, ties and what each strategy needs."""

import dataclasses
import doctest

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experts.selection import pool, strategies

_BASELINE = pool.Member('baseline', 'baseline', 'jft', None, 1000, 10, 8, 'b.npz', 'b')
_NAN = float('nan')


def _members(*changes) -> list[pool.Member]:
  return [dataclasses.replace(_BASELINE, name=f'm{i}', **each) for i, each in enumerate(changes)]


def _ranks(values):
  return np.array([_NAN if value is None else value for value in values], float)


def test_docstring_examples():
  assert doctest.testmod(strategies).failed == 0


def test_rank_leaves_out_controls_and_models_without_a_score():
  members = _members({}, {'kind': 'random'}, {'kind': 'full'}, {'kind': 'bit'})
  ranks = strategies.rank(members, np.array([0.5, 0.9, _NAN, 0.7]))
  np.testing.assert_array_equal(ranks, _ranks([2, None, None, 1]))


def test_ties_fall_to_the_pools_order_or_to_the_larger_model():
  members = _members({'parameters': 5}, {'parameters': 9}, {'parameters': 9}, {'parameters': 1})
  scores = np.array([0.5, 0.5, 0.5, 0.6])
  assert strategies.rank(members, scores).tolist() == [2, 3, 4, 1]
  assert strategies.rank(members, scores, ties='parameters').tolist() == [4, 2, 3, 1]


def test_infinite_scores_are_ranked():
  ranks = strategies.rank(_members({}, {}, {}), np.array([-np.inf, -5.0, 2.0]))
  assert ranks.tolist() == [3, 2, 1]


def test_scores_of_another_pool_are_refused():
  with pytest.raises(ValueError, match=r'2 models need as many scores, not \(3,\)'):
    strategies.rank(_members({}, {}), np.zeros(3))


@pytest.mark.parametrize(
  ('agnostic', 'aware', 'expected'),
  [
    # B = 2: the agnostic first choice 2, then the aware first choice 0.
    ([2, 3, 1], [1, 2, 3], [2, 3, 1]),
    # On a coincidence the aware list goes on.
    ([1, 2, 3], [1, 2, 3], [1, 2, 3]),
    ([3, 1, 2], [2, 1, 3], [2, 1, 3]),
    # What the proxy could not score is never chosen, but for the first.
    ([1, 2, 3], [None, 1, None], [1, 2, None]),
  ],
)
def test_hybrid_by_hand(agnostic, aware, expected):
  ranks = strategies.hybrid(_ranks(agnostic), _ranks(aware), np.full(len(aware), True))
  np.testing.assert_array_equal(ranks, _ranks(expected))


@pytest.mark.parametrize(
  ('trainable', 'expected'),
  [
    # Both lists begin with model 3, which cannot be fine-tuned: the task-agnostic pick among those that can is 1.
    ([True, True, True, False], [3, 2, 4, 1]),
    # Two that cannot; the first of them that can is 2.
    ([True, False, True, False], [4, 2, 3, 1]),
    ([True, True, True, True], [2, 4, 3, 1]),
    # Nothing can be fine-tuned: the first choice, then the task-aware list.
    ([False, False, False, False], [2, 4, 3, 1]),
  ],
)
def test_hybrid_keeps_its_agnostic_pick_where_the_first_can_only_be_ranked(trainable, expected):
  agnostic, aware = np.array([4.0, 2, 3, 1]), np.array([2.0, 4, 3, 1])
  ranks = strategies.hybrid(agnostic, aware, np.array(trainable))
  np.testing.assert_array_equal(ranks, expected)


@hypothesis.given(st.integers(1, 7), st.data())
def test_hybrid_is_the_union_that_the_paper_defines(number, data):
  agnostic = np.array(data.draw(st.permutations(range(1, number + 1))), float)
  aware = np.array(data.draw(st.permutations(range(1, number + 1))), float)
  ranks = strategies.hybrid(agnostic, aware, np.full(number, True))
  assert sorted(ranks) == list(range(1, number + 1))
  first = int(agnostic.argmin())
  for budget in range(1, number + 1):
    chosen = set(np.flatnonzero(ranks <= budget))
    top = set(np.flatnonzero(aware <= budget - 1))
    assert len(chosen) == budget
    assert chosen >= {first} | top


def test_hybrid_needs_an_agnostic_choice():
  with pytest.raises(ValueError, match='ranks no model'):
    strategies.hybrid(_ranks([None, None]), _ranks([1, 2]), np.full(2, True))


def test_random_differs_by_task_and_seed_and_is_uniform():
  members = _members(*[{}] * 20)
  draws = [strategies.random(members, task, seed) for task in ('a', 'b') for seed in (0, 1)]
  assert len({draw.tobytes() for draw in draws}) == 4
  np.testing.assert_array_equal(draws[0], strategies.random(members, 'a', 0))
  firsts = [
    int(strategies.rank(members, strategies.random(members, 'a', seed)).argmin())
    for seed in range(2000)
  ]
  # 100 expected in each place; five standard deviations are 49.
  assert abs(np.bincount(firsts, minlength=20) - 100).max() < 49


def test_task_agnostic_takes_the_best_imagenet_accuracy_where_one_is_known():
  members = _members(
    {'imagenet_accuracy': 0.75, 'images': 1}, {'images': 10**9}, {'imagenet_accuracy': 0.8}
  )
  ranks = strategies.rank(members, strategies.task_agnostic(members), ties='parameters')
  np.testing.assert_array_equal(ranks, _ranks([2, None, 1]))


def test_task_agnostic_takes_the_largest_upstream_else_the_larger_model():
  members = _members(
    {'images': 500, 'parameters': 99},
    {'images': 1000, 'parameters': 10},
    {'images': 1000, 'parameters': 20},
    {'images': 0, 'parameters': 500},
  )
  ranks = strategies.rank(members, strategies.task_agnostic(members), ties='parameters')
  np.testing.assert_array_equal(ranks, _ranks([3, 2, 1, None]))


def test_task_agnostic_without_metadata_says_so():
  with pytest.raises(ValueError, match="needs 'imagenet_accuracy' or 'images'"):
    strategies.task_agnostic(_members({'images': 0}, {'images': 0}))


def test_agnostic_oracle_is_the_best_mean_not_the_most_wins():
  accuracy = np.array([[0.8, 0.7, 0.9], [0.8, 0.7, 0.9], [0.8, 0.7, 0.1], [0.5, 0.6, _NAN]])
  np.testing.assert_allclose(strategies.oracle_agnostic(accuracy[:3]), [0.8, 0.7, 1.9 / 3])
  scores = strategies.oracle_agnostic(accuracy)
  np.testing.assert_allclose(scores, [0.725, 0.675, _NAN])


def test_every_need_is_explained():
  assert {need for needs in strategies.NAMES.values() for need in needs} <= set(strategies.NEEDS)


@pytest.mark.parametrize(
  ('name', 'available', 'message'),
  [
    ('epn', [], "strategy 'epn' needs a domain predictor; the phase 'domain_predictor' trains one"),
    ('leep', ['labels'], "strategy 'leep' needs models that give class probabilities"),
    ('kl', [], 'class probabilities of their upstream data, and for each expert'),
    ('oracle', ['embeddings', 'labels'], 'needs test accuracies of fine-tuned models: trials.csv'),
    ('knnn', ['embeddings'], "no strategy 'knnn'; there are: random, epn, kl, knn"),
  ],
)
def test_what_is_lacking_is_named_in_one_line(name, available, message):
  with pytest.raises(ValueError, match=message) as error:
    strategies.check(['random', name], available)
  assert '\n' not in str(error.value)


def test_nothing_is_said_where_nothing_lacks():
  strategies.check(['knn', 'task_agnostic', 'hybrid'], ['embeddings', 'labels', 'metadata'])
