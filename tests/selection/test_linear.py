"""Logistic regression by SGD against scikit-learn's optimum and against float64 steps on the weights themselves."""

import numpy as np
import pytest
from sklearn import linear_model

from experts.selection import linear


def _clusters(models=1, number=120, dimension=16, classes=3, spread=0.1, seed=0):
  rng = np.random.default_rng(seed)
  labels = np.arange(number) % classes
  centres = rng.standard_normal((models, classes, dimension))
  noise = spread * rng.standard_normal((models, number, dimension))
  return centres[:, labels] + noise, labels


def _reference(fit, labels, validation, order, learning_rate):
  """SGD with momentum on weights and bias, one step after the other, in float64."""
  weights, bias = np.zeros((fit.shape[1], labels.max() + 1)), np.zeros(labels.max() + 1)
  moments = np.zeros_like(weights), np.zeros_like(bias)
  for batch in order:
    logits = fit[batch] @ weights + bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    residual = shares / shares.sum(axis=1, keepdims=True)
    residual[np.arange(len(batch)), labels[batch]] -= 1
    moments = (
      0.9 * moments[0] + fit[batch].T @ residual / len(batch),
      0.9 * moments[1] + residual.sum(axis=0) / len(batch),
    )
    weights, bias = weights - learning_rate * moments[0], bias - learning_rate * moments[1]
  return validation @ weights + bias


@pytest.mark.parametrize(('number', 'distinct'), [(60, 1), (700, 3)])
def test_equals_float64_sgd_on_the_weights(number, distinct):
  # Few steps on noise: the predictions still change with each step. 60 samples are one batch, whatever their order.
  rng = np.random.default_rng(1)
  embeddings, labels = (
    rng.standard_normal((2, number + 200, 24)) + 0.5,
    rng.integers(4, size=number + 200),
  )
  fit, validation = np.arange(number), np.arange(number, number + 200)
  rates = (0.1, 0.01)
  result = linear.linear_accuracy(
    embeddings, labels, fit, validation, learning_rates=rates, steps=7, runs=3, seed=4
  )
  order = linear.batch_order(number, steps=7, runs=3, seed=4)
  for model in range(2):
    x = embeddings[model]
    logits = np.array(
      [[_reference(x[fit], labels[fit], x[validation], o, r) for r in rates] for o in order]
    )
    first, second = np.sort(logits, axis=-1)[..., -1], np.sort(logits, axis=-1)[..., -2]
    # Logits of 0.2 round by 2e-8: a hundred of such errors would not change a count, however a machine rounds.
    assert (first - second).min() > 1e-5
    expected = (logits.argmax(axis=-1) == labels[validation]).sum(axis=-1)
    np.testing.assert_array_equal(result.by_run[model], expected)
    assert result.correct[model] == np.sort(np.max(expected, axis=1))[1]
    assert result.accuracy[model] == result.correct[model] / 200
  assert np.unique(result.by_run, axis=1).shape == (2, distinct, 2)


def test_agrees_with_scikit_learn_on_separable_data():
  embeddings, labels = _clusters(models=3, spread=0.2)
  fit, validation = np.arange(90), np.arange(90, 120)
  result = linear.linear_accuracy(embeddings, labels, fit, validation, steps=200, runs=1)
  for one, accuracy in zip(embeddings, result.accuracy, strict=True):
    peer = linear_model.LogisticRegression(max_iter=1000).fit(one[fit], labels[fit])
    assert accuracy == peer.score(one[validation], labels[validation]) == 1


def test_overlapping_classes_come_near_scikit_learn():
  embeddings, labels = _clusters(models=1, number=1200, dimension=6, spread=1.2, seed=3)
  fit, validation = np.arange(800), np.arange(800, 1200)
  result = linear.linear_accuracy(embeddings, labels, fit, validation, steps=300, runs=1)
  peer = linear_model.LogisticRegression(C=1e6, max_iter=1000).fit(embeddings[0, fit], labels[fit])
  expected = peer.score(embeddings[0, validation], labels[validation])
  assert 0.5 < expected < 0.97
  assert result.accuracy[0] == pytest.approx(expected, abs=0.02)


def test_a_models_score_does_not_depend_on_its_neighbours():
  embeddings, labels = _clusters(models=3, spread=1.5)
  split = np.arange(80), np.arange(80, 120)
  together = linear.linear_accuracy(embeddings, labels, *split, steps=20, runs=3)
  alone = linear.linear_accuracy(embeddings[1:2], labels, *split, steps=20, runs=3)
  np.testing.assert_array_equal(together.by_run[1], alone.by_run[0])


def test_validation_samples_are_not_learnt_from():
  rng = np.random.default_rng(0)
  # As many dimensions as samples: whatever is fitted is fitted perfectly.
  embeddings, labels = rng.standard_normal((1, 300, 300)), rng.integers(2, size=300)
  result = linear.linear_accuracy(
    embeddings, labels, np.arange(100), np.arange(100, 300), steps=200, runs=1
  )
  assert 0.38 < result.accuracy[0] < 0.62


def test_labels_that_only_validation_has_are_never_right():
  embeddings, labels = _clusters(number=40, classes=2)
  labels = np.where(np.arange(40) >= 36, 77, labels)
  result = linear.linear_accuracy(
    embeddings, labels, np.arange(30), np.arange(30, 40), steps=50, runs=1
  )
  assert result.correct[0] == 6


def test_order_passes_through_all_samples_before_it_repeats_one():
  order = linear.batch_order(number=700, steps=11, runs=2, seed=0)
  assert order.shape == (2, 11, 512)
  for run in order.reshape(2, -1):
    for start in range(0, len(run) - 700, 700):
      np.testing.assert_array_equal(np.sort(run[start : start + 700]), np.arange(700))
  assert (order[0] != order[1]).any()
  assert linear.batch_order(30, steps=4, runs=1, seed=0).shape == (1, 4, 30)


def _call(embeddings=None, labels=None, fit=range(4), validation=(4, 5), runs=1):
  embeddings = np.arange(6.0).reshape(1, 6, 1) if embeddings is None else embeddings
  labels = np.array([0, 1, 0, 1, 0, 1]) if labels is None else np.asarray(labels)
  linear.linear_accuracy(
    embeddings, labels, np.asarray(fit), np.asarray(validation), steps=1, runs=runs
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'embeddings': np.zeros((6, 1))}, r'must be \[models, samples, dimension\]'),
    ({'labels': [0, 1]}, r'labels \[samples\], not \(1, 6, 1\) and \(2,\)'),
    ({'fit': [0, 6]}, 'fit has indices outside 0 to 5'),
    ({'fit': [0, 1, 1]}, 'fit names a sample twice'),
    ({'validation': []}, 'validation must be a list'),
    ({'validation': [3, 4]}, '1 samples are in fit and in validation, such as 3'),
    ({'labels': [2, 2, 2, 2, 0, 1]}, 'all 4 samples to fit have label 2'),
    ({'runs': 2}, 'runs must be odd for a median, not 2'),
    ({'embeddings': np.full((1, 6, 1), np.nan)}, 'embeddings of model 0 are not finite'),
  ],
)
def test_unusable_input_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    _call(**change)
