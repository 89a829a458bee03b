"""How much accuracy a selection leaves behind ([WHICH] §3), and how well scores order models."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

# Log-odds of accuracies nearer to 0 or 1 than this are those of this.
_CLIP = 1e-4


def regret(test_accuracy: np.ndarray, chosen: int | Sequence[int]) -> float:
  """Returns max over the pool of t, minus s: the best accuracy among the chosen models.

  Args:
    test_accuracy: `[M]`, fine-tuned test accuracy t of each model of the pool, in [0, 1].
    chosen: index of the chosen model, or the indices of all that the budget pays for.

  Returns:
    Accuracy lost, 0 if the best model was among the chosen.

  Raises:
    ValueError: accuracies outside [0, 1], or `chosen` empty or not in the pool.

  Example:
    >>> round(regret(np.array([0.5, 0.9, 0.8]), 2), 6)
    0.1
    >>> regret(np.array([0.5, 0.9, 0.8]), [0, 1])
    0.0
  """
  best, reached = _best_and_reached(test_accuracy, chosen)
  return best - reached


def relative_regret(test_accuracy: np.ndarray, chosen: int | Sequence[int]) -> float:
  """Returns the regret as a share of the chosen models' error: Δ = (best - s) / (1 - s).

  Args:
    test_accuracy: `[M]`, fine-tuned test accuracy of each model of the pool, in [0, 1].
    chosen: index of the chosen model, or the indices of all that the budget pays for.

  Returns:
    Relative regret in [0, 1]; 0 where the chosen models make no error.

  Raises:
    ValueError: accuracies outside [0, 1], or `chosen` empty or not in the pool.

  Example:
    >>> round(relative_regret(np.array([0.5, 0.9, 0.8]), 2), 6)
    0.5
  """
  return float(delta(*_best_and_reached(test_accuracy, chosen)))


def log_odds_regret(test_accuracy: np.ndarray, chosen: int | Sequence[int]) -> float:
  """Returns the regret in log-odds of accuracy: logit(best) - logit(s).

  From 98 % to 99 % is as far as from 50 % to 67 %: either halves the odds of an error.

  Args:
    test_accuracy: `[M]`, fine-tuned test accuracy of each model of the pool, in [0, 1].
    chosen: index of the chosen model, or the indices of all that the budget pays for.

  Returns:
    Log-odds lost, at least 0, in nats; accuracies count as at least 0.0001 and at most 0.9999.

  Raises:
    ValueError: accuracies outside [0, 1], or `chosen` empty or not in the pool.

  Example:
    >>> round(log_odds_regret(np.array([0.5, 0.8]), 0), 4)
    1.3863
  """
  best, reached = log_odds(np.array(_best_and_reached(test_accuracy, chosen)))
  return float(best - reached)


def delta(first: np.ndarray | float, second: np.ndarray | float) -> np.ndarray:
  """Compares two strategies by what they reach: Δ = (s1 - s2) / (1 - min(s1, s2)).

  Args:
    first: s1, best test accuracy among the models that the first strategy chose; any shape.
    second: s2, that of the second.

  Returns:
    Share of the worse strategy's error that the better one avoids: in [-1, 1], positive if the first is better, 0 where
    both are equal.

  Example:
    >>> delta([0.9, 0.8, 1.0], [0.8, 0.9, 1.0]).round(6)
    array([ 0.5, -0.5,  0. ])
  """
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  error = 1 - np.minimum(first, second)
  # Equal strategies may both be perfect.
  return (first - second) / np.where(error > 0, error, 1)


def log_odds(accuracy: np.ndarray) -> np.ndarray:
  """log(a / (1 - a)) of accuracies in [0, 1], clipped to [0.0001, 0.9999] first."""
  clipped = np.clip(np.asarray(accuracy, np.float64), _CLIP, 1 - _CLIP)
  return np.log(clipped / (1 - clipped))


def reached_by_budget(test_accuracy: np.ndarray, ranks: np.ndarray) -> np.ndarray:
  """Returns s for every budget: the best test accuracy among the models of ranks 1 to B.

  Args:
    test_accuracy: `[M]`, NaN for a model that was not fine-tuned.
    ranks: `[M]`, 1 for a strategy's first choice, NaN for models that it does not rank.

  Returns:
    float64 `[K]` for budgets 1 to K, the number of ranked models; NaN from the first model on that was not fine-tuned.

  Example:
    >>> reached_by_budget(np.array([0.5, 0.9, 0.8]), np.array([1, 3, 2]))
    array([0.5, 0.8, 0.9])
  """
  order = np.argsort(ranks, kind='stable')[: np.count_nonzero(~np.isnan(ranks))]
  return np.maximum.accumulate(np.asarray(test_accuracy, np.float64)[order])


@dataclasses.dataclass(frozen=True)
class Correlations:
  """How well scores order models: Kendall's tau-b, Spearman's rho and Pearson's r over `models` pairs."""

  kendall: float
  spearman: float
  pearson: float
  models: int


def correlate(scores: np.ndarray, test_accuracy: np.ndarray) -> Correlations:
  """Correlates a strategy's scores with the fine-tuned accuracies.

  Args:
    scores: `[M]`; NaN for models without one.
    test_accuracy: `[M]`; NaN for models that were not fine-tuned.

  Returns:
    Correlations over the models that have both; NaN if they are fewer than two, or all equal in one of the two.

  Example:
    >>> correlate(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.4, 0.9])).kendall
    1.0
  """
  both = np.isfinite(scores) & np.isfinite(test_accuracy)
  x, y = np.asarray(scores)[both], np.asarray(test_accuracy)[both]
  if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
    return Correlations(float('nan'), float('nan'), float('nan'), len(x))
  tests = stats.kendalltau, stats.spearmanr, stats.pearsonr
  return Correlations(*(float(test(x, y).statistic) for test in tests), len(x))


def _best_and_reached(
  test_accuracy: np.ndarray, chosen: int | Sequence[int]
) -> tuple[float, float]:
  accuracy = np.asarray(test_accuracy, np.float64)
  if accuracy.ndim != 1 or not ((accuracy >= 0) & (accuracy <= 1)).all():
    raise ValueError(f'test accuracies must be [M] in [0, 1], not {accuracy.tolist()}')
  indices = np.atleast_1d(np.asarray(chosen))
  if indices.size == 0:
    raise ValueError('no model was chosen; name at least one')
  outside = [i for i in indices.tolist() if i not in range(len(accuracy))]
  if outside:
    raise ValueError(f'chosen {outside} not in the pool of models 0 to {len(accuracy) - 1}')
  return float(accuracy.max()), float(accuracy[indices].max())
