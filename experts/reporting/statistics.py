"""Intervals for accuracies: of one model on N samples, and of several runs."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95


def wilson(correct: int, number: int) -> tuple[float, float]:
  """Returns Wilson's 95 % interval of an accuracy.

  Args:
    correct: samples that were right.
    number: samples in all.

  Returns:
    Lower and upper end, in [0, 1].

  Raises:
    ValueError: no samples, or more right than there are.

  Example:
    >>> [round(end, 3) for end in wilson(50, 100)]
    [0.404, 0.596]
  """
  if not 0 <= correct <= number or not number:
    raise ValueError(f'{correct} right of {number} samples is no accuracy')
  interval = stats.binomtest(correct, number).proportion_ci(_CONFIDENCE, method='wilson')
  return float(interval.low), float(interval.high)


def bootstrap(
  values: Sequence[float] | np.ndarray,
  statistic: Callable[..., np.ndarray] = np.median,
  resamples: int = 10_000,
  seed: int = 0,
) -> tuple[float, float]:
  """Returns the percentile bootstrap's 95 % interval of a statistic (protocol of [EXP] App. E).

  Args:
    values: `[N]`, one a run.
    statistic: takes an array and `axis`, such as `np.median` or `np.mean`.
    resamples: number of resamples.
    seed: of the resampling; the same seed gives the same interval.

  Returns:
    Lower and upper end; both NaN for a single value, of which no spread can be known.

  Raises:
    ValueError: no values, or values that are not finite.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size or not np.isfinite(values).all():
    raise ValueError(f'bootstrap needs a list of finite values, not {values.tolist()}')
  if values.size == 1:
    return float('nan'), float('nan')
  interval = stats.bootstrap(
    (values,),
    statistic,
    n_resamples=resamples,
    # Bounds the memory for many values.
    batch=1000,
    confidence_level=_CONFIDENCE,
    method='percentile',
    rng=np.random.default_rng(seed),
  ).confidence_interval
  return float(interval.low), float(interval.high)
