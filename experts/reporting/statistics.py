"""Intervals for accuracies, of one model on N samples and of several runs, and a test of two models on the same samples."""

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


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
  """Returns the p-value of McNemar's exact test that two models are right equally often.

  Only samples that one of them gets right and the other wrong say anything: were both equally good, each would be won by
  either with probability 1/2.

  Args:
    first: bool `[N]`, the samples that one model gets right.
    second: bool `[N]`, those that the other does.

  Returns:
    The two-sided p-value in (0, 1]; 1 if the models are right on the same samples.

  Raises:
    ValueError: not two bool lists of one length.

  Example:
    >>> mcnemar(np.array([True] * 6 + [False]), np.array([False] * 6 + [False]))
    0.03125
  """
  first, second = np.asarray(first), np.asarray(second)
  if (
    first.ndim != 1
    or first.shape != second.shape
    or {first.dtype, second.dtype} != {np.dtype(bool)}
  ):
    raise ValueError(
      'the test needs two bool lists of one length, not '
      f'{first.dtype} {first.shape} and {second.dtype} {second.shape}'
    )
  won, lost = int((first & ~second).sum()), int((~first & second).sum())
  return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


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
  return interval(resample(values, statistic, resamples, seed))


def resample(
  values: Sequence[float] | np.ndarray,
  statistic: Callable[..., np.ndarray] = np.median,
  resamples: int = 10_000,
  seed: int | Sequence[int] = 0,
  clusters: Sequence | np.ndarray | None = None,
) -> np.ndarray:
  """Draws the statistic's bootstrap distribution.

  The interval of a mean over tasks is that of the mean of their draws: each task's runs are resampled, the tasks are fixed.

  Args:
    values: `[N]`, one a run.
    statistic: takes an array and `axis`, such as `np.median` or `np.mean`.
    resamples: number of resamples R.
    seed: of the resampling.
    clusters: `[N]`, the hyper-parameter selection that each run was retrained from. Then selections are resampled, and
      within each of them its retrains, which have more in common than runs of different selections.

  Returns:
    float64 `[R]`; all NaN for a single run, or a single cluster, of which no spread can be known.

  Raises:
    ValueError: no values, values that are not finite, or clusters of different sizes.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size or not np.isfinite(values).all():
    raise ValueError(f'bootstrap needs a list of finite values, not {values.tolist()}')
  nested = values[None] if clusters is None else _by_cluster(values, np.asarray(clusters))
  groups, size = nested.shape
  if (values.size if clusters is None else groups) == 1:
    return np.full(resamples, np.nan)
  rng = np.random.default_rng(seed)
  draws = []
  # Bounds the memory for many values.
  for part in np.array_split(np.arange(resamples), -(-resamples * values.size // 2**20)):
    index = rng.integers(0, size, (len(part), groups, size))
    if clusters is not None:
      index += size * rng.integers(0, groups, (len(part), groups, 1))
    draws.append(statistic(nested.ravel()[index.reshape(len(part), -1)], axis=-1))
  return np.concatenate(draws)


def interval(draws: np.ndarray) -> tuple[float, float]:
  """Returns the 95 % percentile interval of a bootstrap distribution `[R]`; NaN where a draw is."""
  tail = (1 - _CONFIDENCE) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return float(low), float(high)


def _by_cluster(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
  """The values as [clusters, values of each]."""
  if clusters.shape != values.shape:
    raise ValueError(f'{values.size} values have {clusters.size} clusters; name one for each')
  names, sizes = np.unique(clusters, return_counts=True)
  if len(set(sizes.tolist())) > 1:
    shortest, longest = names[sizes.argmin()], names[sizes.argmax()]
    raise ValueError(
      f'clusters must be equally large: {shortest} has {sizes.min()} values, {longest} has {sizes.max()}'
    )
  return values[np.argsort(clusters, kind='stable')].reshape(len(names), -1)
