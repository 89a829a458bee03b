"""What one number a model's runs on a task come to: the only place that says so."""

from collections.abc import Mapping

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


def tested(trials: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
  """Returns each model's test accuracy on each task, the statistic of the task's group over its retrained models.

  Args:
    trials: task, model, split, accuracy (NaN of a run that diverged); rows of the split 'test' count.
    groups: the group of each task; a task without one is measured by the median.

  Returns:
    task, model, accuracy, runs: a row for each task and model that was tested; runs that diverged do not count.
  """
  trials = trials[trials.accuracy.notna()]
  runs = trials[trials.split == 'test'].groupby(['task', 'model'], sort=False).accuracy
  table = runs.agg(['mean', 'median', 'count']).reset_index().rename(columns={'count': 'runs'})
  accuracy = [row[statistic(groups.get(row['task']))] for row in table.to_dict('records')]
  return table.assign(accuracy=accuracy)[['task', 'model', 'accuracy', 'runs']]
