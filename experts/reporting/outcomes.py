"""What one number a model's runs on a task come to: the only place that says so."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

NATURAL_SIX = 'natural six'
# Kinds that are there to be compared with, and are never chosen: untrained networks, the baseline before its training ended,
# and experts on random slices.
CONTROLS = ('random', 'checkpoint', 'control')
# Kinds that can be ranked, but not fine-tuned here.
OPAQUE = ('saved_model', 'callable', 'embeddings')
# The slice of an expert on as many random images as that behind this has ([EXP] App. G).
RANDOM_SLICE = 'random like '
# Domain-adaptive transfer, the competitor, which trains a network for each task: among the models, where no pool has it.
COMPETITOR = 'dat'


def statistic(group: str | None) -> str:
  """Returns 'mean' for tasks of the natural six ([EXP] App. F.1), 'median' for all others ([EXP] App. E.2).

  Args:
    group: of the task; None if it belongs to none.
  """
  return 'mean' if group == NATURAL_SIX else 'median'


def runs(trials: pd.DataFrame) -> pd.DataFrame:
  """Returns what a statistic is over: the retrained models, of which one that diverged got nothing right.

  Were it left out, the others would be the sound ones of several rather than all that were trained ([EXP] App. E.2). A
  selection whose whole sweep diverged could not be retrained: it counts as retrained as often as the model's others, or once.

  Args:
    trials: task, model, split, accuracy (NaN of a run that diverged), and `selection`, if they have several.

  Returns:
    The rows of the split 'test' and those of such selections: `trials`' columns, accuracy 0.0 of what diverged, and
    `diverged`.
  """
  key = ['task', 'model', 'selection']
  selection = trials.selection.fillna(-1) if 'selection' in trials else -1
  trials = trials.assign(
    selection=selection,
    diverged=trials.accuracy.isna(),
    accuracy=trials.accuracy.astype(float).fillna(0.0),
  )
  tested, swept = (trials[trials.split == split] for split in ('test', 'validation'))
  lost = swept[swept.groupby(key).diverged.transform('all').astype(bool)].drop_duplicates(key)
  lost = lost[~lost.set_index(key).index.isin(tested.set_index(key).index)]
  if lost.empty:
    return tested
  retrains = tested.groupby(key).size().groupby(level=['task', 'model']).max().rename('retrains')
  number = lost.join(retrains, on=['task', 'model']).retrains.fillna(1).astype(int)
  lost = lost.iloc[np.repeat(np.arange(len(lost)), number)].assign(split='test')
  return pd.concat([tested, lost], ignore_index=True)


def middle(accuracies: Sequence[float]) -> int | None:
  """Returns the run whose network stands for all: that of the median, what diverged counted as nothing right.

  Where that one diverged, it is the least of the others; None if all did.

  Example:
    >>> middle([0.9, 0.5, 0.7]), middle([float('nan'), float('nan'), 0.9, 0.7]), middle([float('nan')])
    (2, 3, None)
  """
  found = np.asarray(accuracies, float)
  order, diverged = np.argsort(np.nan_to_num(found, nan=-1), kind='stable'), np.isnan(found).sum()
  return None if diverged == len(found) else int(order[max((len(found) - 1) // 2, diverged)])


def tested(trials: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
  """Returns each model's test accuracy on each task, the statistic of the task's group over its `runs`.

  Args:
    trials: as for `runs`.
    groups: the group of each task; a task without one is measured by the median.

  Returns:
    task, model, accuracy, runs, diverged (how many of the runs): a row for each task and model that was tested.
  """
  by_model = runs(trials).groupby(['task', 'model'], sort=False)
  table = by_model.accuracy.agg(['mean', 'median', 'count']).rename(columns={'count': 'runs'})
  table = table.assign(diverged=by_model.diverged.sum().astype(int)).reset_index()
  accuracy = [row[statistic(groups.get(row['task']))] for row in table.to_dict('records')]
  return table.assign(accuracy=accuracy)[['task', 'model', 'accuracy', 'runs', 'diverged']]
