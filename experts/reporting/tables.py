"""The report's tables, from scores.csv and trials.csv to Markdown and to the terminal."""

from collections.abc import Mapping

import pandas as pd
import tabulate

from experts.reporting import outcomes

_NONE = '–'
# Columns that hold shares in [0, 1]; shown in percent.
_SHARES = ('accuracy', 'score', 'low', 'high', 'ties', 'kNN', 'linear', 'margin')
_TITLES = {'knn': 'kNN', 'knn_holdout': 'hold-out kNN', 'hybrid': 'kNN'}


def report_table(
  scores: pd.DataFrame,
  trials: pd.DataFrame,
  strategy: str = 'knn',
  budget: int = 1,
  groups: Mapping[str, str] | None = None,
) -> pd.DataFrame:
  """Compares, for each task, what was chosen with what there was to choose from.

  Accuracies are those of `outcomes.tested`. A randomly initialised network is a control: it is
  neither chosen nor the best by hindsight.

  Args:
    scores: task, model, kind, strategy, score, rank; a row for each task, strategy and model.
    trials: task, model, split, accuracy; rows whose split is `test` are the retrained models.
    strategy: which ranks choose.
    budget: how many of the best-ranked are tried; of these the best on validation is the chosen one.
    groups: the group of each task; a task without one is measured by the median of its runs.

  Returns:
    A row for each task, in the order of `scores`, and a last one of the means. A mean is missing where a task's value
    is. 'dat accuracy', of the competitor's own network for each task, is there if the trials name a model 'dat'.
    `retrains` counts the test accuracies behind each accuracy of the row, as `3`, or `1 to 3` where they differ.

  Raises:
    ValueError: no score of that strategy, or no candidate for a task.
  """
  known = scores.strategy.unique()
  scores = scores[scores.strategy == strategy]
  if scores.empty:
    raise ValueError(f"no scores of the strategy '{strategy}'; there are: {', '.join(known)}")
  tested = outcomes.tested(trials, groups or {}).set_index(['task', 'model'])
  accuracy, counts = tested.accuracy, tested.runs
  rows = [
    _task_row(task, part, trials, accuracy, counts, budget)
    for task, part in scores.groupby('task', sort=False)
  ]
  table = pd.DataFrame(rows)
  if 'dat' in accuracy.index.get_level_values('model'):
    of_dat = [accuracy.get((task, 'dat'), float('nan')) for task in table.task]
    table.insert(table.columns.get_loc('chosen accuracy') + 1, 'dat accuracy', of_dat)
  numbers = table.select_dtypes('number').columns
  return pd.concat(
    [table, pd.DataFrame([{'task': 'mean', **table[numbers].mean(skipna=False)}])],
    ignore_index=True,
  )


def choose(scores: pd.DataFrame, trials: pd.DataFrame, budget: int = 1) -> pd.Series:
  """The row of the model that a strategy chooses: of the first `budget` by rank, the best on validation.

  Args:
    scores: task, model, rank; the rows of one task and one strategy.
    trials: task, model, split, accuracy; those of the split `validation` are the sweeps.
    budget: how many the strategy puts forward.

  Raises:
    ValueError: no model has a rank.
  """
  tried = scores[scores['rank'] <= budget].sort_values('rank')
  if tried.empty:
    raise ValueError(f"task '{scores.task.iloc[0]}' has no model with a rank")
  sweeps = trials[(trials.task == scores.task.iloc[0]) & (trials.split == 'validation')]
  best = tried.model.map(sweeps.groupby('model').accuracy.max()).fillna(-1)
  # Of equals the one of better rank.
  return tried.loc[best.idxmax()]


def cost_table(costs: pd.DataFrame) -> pd.DataFrame:
  """What each way to a network for a task took, and how many times that of selection ([EXP] §6.6).

  Args:
    costs: task, method, images, seconds; `selection` is one of the methods.

  Returns:
    A row for each method: images and seconds a task, means over the tasks, and their ratios to selection's.
  """
  means = costs.groupby('method', sort=False)[['images', 'seconds']].agg(
    lambda values: values.mean(skipna=False)
  )
  base = means.loc['selection']
  return pd.DataFrame(
    {
      'method': means.index,
      'images a task': means.images.round().astype(int).to_numpy(),
      'seconds a task': means.seconds.to_numpy(),
      'images, times selection': (means.images / base.images).to_numpy(),
      'seconds, times selection': (means.seconds / base.seconds).to_numpy(),
    }
  )


def _task_row(
  task: str,
  scores: pd.DataFrame,
  trials: pd.DataFrame,
  accuracy: pd.Series,
  counts: pd.Series,
  budget: int,
) -> dict[str, str | float]:
  candidates = scores[scores.kind != 'random']
  chosen = choose(scores, trials, budget)
  strategy = chosen.strategy
  tested = {model: accuracy.get((task, model), float('nan')) for model in scores.model}
  ranked = candidates.assign(tested=candidates.model.map(tested)).dropna(subset='tested')
  # Of equals the chosen one: it left nothing behind.
  ranked = ranked.assign(own=ranked.model == chosen.model)
  ranked = ranked.sort_values(['tested', 'own'], ascending=False, kind='stable')
  random, baseline = (_best_of_kind(scores, kind) for kind in ('random', 'baseline'))
  best = ranked.model.iloc[0] if len(ranked) else None
  shown = [model for model in (random, baseline, chosen.model, best) if (task, model) in counts]
  retrains = [counts[task, model] for model in shown] or [0]
  low, high = min(retrains), max(retrains)
  return {
    'task': task,
    'random accuracy': tested.get(random, float('nan')),
    'baseline accuracy': tested.get(baseline, float('nan')),
    'chosen': chosen.model,
    f'chosen {_TITLES.get(strategy, strategy)}': float(chosen.score),
    'chosen accuracy': tested[chosen.model],
    'best by hindsight': best,
    'best accuracy': tested.get(best, float('nan')),
    'retrains': f'{low}' if low == high else f'{low} to {high}',
  }


def _best_of_kind(scores: pd.DataFrame, kind: str) -> str | None:
  part = scores[scores.kind == kind]
  return (
    None if part.empty else part.sort_values('score', ascending=False, kind='stable').model.iloc[0]
  )


def to_markdown(table: pd.DataFrame) -> str:
  """Returns a GitHub table: shares in percent with one decimal, what is missing as a dash."""
  return _render(table, 'pipe')


def to_terminal(table: pd.DataFrame) -> str:
  """Returns the same table with ruled columns for a terminal."""
  return _render(table, 'simple')


def _render(table: pd.DataFrame, form: str) -> str:
  columns = {}
  for name in table.columns:
    is_share = name.rsplit(' ', 1)[-1] in _SHARES
    title = f'{name.removesuffix(" accuracy")} %' if is_share else name
    columns[title] = [_cell(value, is_share) for value in table[name]]
  align = [
    'right' if pd.api.types.is_numeric_dtype(table[name]) or name == 'retrains' else 'left'
    for name in table.columns
  ]
  return tabulate.tabulate(
    columns, headers='keys', tablefmt=form, disable_numparse=True, colalign=align
  )


def _cell(value: object, is_share: bool) -> str:
  if pd.isna(value):
    return _NONE
  if is_share:
    return f'{100 * value:.1f}'
  if isinstance(value, float):
    return f'{value:.4g}'
  # A bar would end the cell.
  return str(value).replace('|', '\\|')
