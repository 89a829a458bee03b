"""Domain prediction and label matching against sums worked out by hand."""

import doctest
import math

import numpy as np
import pytest

from experts.selection import matching


def test_docstring_examples():
  assert doctest.testmod(matching).failed == 0


def test_epn_is_a_mean_of_logarithms_not_the_logarithm_of_a_mean():
  # One image that rules expert 0 out weighs more than the mean probability would let it.
  q = np.array([[0.9, 0.1], [0.9, 0.1], [1e-6, 1 - 1e-6]])
  scores = matching.epn(np.log(q))
  expected = [
    (2 * math.log(0.9) + math.log(1e-6)) / 3,
    (2 * math.log(0.1) + math.log(1 - 1e-6)) / 3,
  ]
  np.testing.assert_allclose(scores, expected, rtol=1e-12)
  assert scores.argmax() == 1
  assert q.mean(axis=0).argmax() == 0


def test_epn_sums_in_float64():
  values = np.full((100_000, 2), -0.1, np.float32)
  values[:, 1] -= np.float32(1e-6)
  scores = matching.epn(values)
  np.testing.assert_allclose(scores, values[0].astype(np.float64), rtol=1e-12)


def test_an_impossible_expert_comes_last():
  assert matching.epn(np.array([[-1.0, -np.inf], [-2.0, -1.0]])).tolist() == [-1.5, -np.inf]


def test_label_matching_by_hand():
  target = np.array([[0.8, 0.1], [0.6, 0.3]])  # Q = (0.7, 0.2)
  priors = np.array([[0.7, 0.2], [0.5, 0.5], [1.0, 0.0]])
  half = 0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3)
  half += 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
  expected = [0, -half, -(math.log(1 / 0.7) + math.log(1 / 0.8))]
  np.testing.assert_allclose(matching.label_matching(target, priors), expected, atol=1e-15)


def test_divergence_is_from_slice_to_task():
  target, priors = np.array([[0.9]]), np.array([[0.5]])
  forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
  backward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
  assert matching.label_matching(target, priors)[0] == pytest.approx(-forward)
  assert forward != pytest.approx(backward)


def test_equals_a_float64_loop_over_many_labels():
  rng = np.random.default_rng(0)
  target = rng.beta(0.05, 5, (20, 300)).astype(np.float32)
  priors = rng.beta(0.05, 5, (4, 300)) * (rng.random((4, 300)) < 0.3)
  q = target.astype(np.float64).mean(axis=0)
  for score, prior in zip(matching.label_matching(target, priors), priors, strict=True):
    total = 0.0
    for p, each in zip(prior, q, strict=True):
      each = min(max(each, 1e-6), 1 - 1e-6)
      total += p * math.log(p / each) if p else 0
      total += (1 - p) * math.log((1 - p) / (1 - each)) if p < 1 else 0
    assert score == pytest.approx(-total, rel=1e-12)


def test_saturated_sigmoids_are_clamped():
  target = np.array([[0.0, 1.0]], np.float32)
  scores = matching.label_matching(target, np.array([[0.0, 1.0], [1.0, 1.0]]))
  np.testing.assert_allclose(scores, [2 * math.log(1 - 1e-6), math.log(1e-6) + math.log(1 - 1e-6)])


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ([0.1, 0.2], r'must be \[images, experts\], not \(2,\)'),
    (np.zeros((0, 3)), r'not \(0, 3\)'),
    ([[0.5, 0.5]], 'must be at most 0 and not NaN; pass a log-softmax'),
    ([[np.nan, -1.0]], 'not NaN'),
  ],
)
def test_unusable_log_probabilities_are_refused(values, message):
  with pytest.raises(ValueError, match=message):
    matching.epn(np.asarray(values))


@pytest.mark.parametrize(
  ('target', 'priors', 'message'),
  [
    ([[0.5, 0.5]], [[0.5]], r'do not fit: \(1, 2\), \(1, 1\)'),
    (np.zeros((0, 2)), [[0.5, 0.5]], 'do not fit'),
    ([[3.0]], [[0.5]], 'target must be probabilities in'),
    ([[0.5]], [[-0.1]], 'priors must be probabilities in'),
    ([[np.nan]], [[0.1]], 'target must be probabilities in'),
  ],
)
def test_unusable_labels_are_refused(target, priors, message):
  with pytest.raises(ValueError, match=message):
    matching.label_matching(np.asarray(target), np.asarray(priors))
