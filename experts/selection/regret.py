"""How much accuracy a selection leaves behind ([WHICH] §3)."""

from collections.abc import Sequence

import numpy as np


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
  best, reached = _best_and_reached(test_accuracy, chosen)
  # Δ divides by 1 - min(s1, s2), and the oracle's s1 is never the smaller.
  return (best - reached) / (1 - reached) if reached < 1 else 0.0


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
