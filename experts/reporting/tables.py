"""The report's tables, from scores.csv and trials.csv to Markdown and to the terminal."""

from collections.abc import Mapping, Sequence

import pandas as pd
import tabulate

from experts.reporting import outcomes

# What is missing.
NONE = '–'
# The form of tabulate.
MARKDOWN = 'pipe'
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

  Accuracies are those of `outcomes.tested`. Controls (`outcomes.CONTROLS`) are neither chosen nor the best by hindsight.

  Args:
    scores: task, model, kind, strategy, score, rank; a row for each task, strategy and model.
    trials: task, model, split, accuracy; rows whose split is `test` are the retrained models.
    strategy: which ranks choose.
    budget: how many of the best-ranked are tried; of these the best on validation is the chosen one.
    groups: the group of each task; a task without one is measured by the median of its runs.

  Returns:
    A row for each task, in the order of `scores`, and a last one of the means. A mean is missing where a task's value
    is. 'dat accuracy', of the competitor's own network for each task, is there if the trials name a model 'dat'.
    `retrains` counts the runs behind each accuracy of the row, as `3`, or `1 to 3` where they differ, and those of all of them
    that diverged, as `3, 2 of 12 diverged`.

  Raises:
    ValueError: no score of that strategy, or no candidate for a task.
  """
  known = scores.strategy.unique()
  scores = scores[scores.strategy == strategy]
  if scores.empty:
    raise ValueError(f"no scores of the strategy '{strategy}'; there are: {', '.join(known)}")
  tested = outcomes.tested(trials, groups or {}).set_index(['task', 'model'])
  accuracy = tested.accuracy
  rows = [
    _task_row(task, part, trials, tested, budget)
    for task, part in scores.groupby('task', sort=False)
  ]
  table = pd.DataFrame(rows)
  if outcomes.COMPETITOR in accuracy.index.get_level_values('model'):
    of_dat = [accuracy.get((task, outcomes.COMPETITOR), float('nan')) for task in table.task]
    table.insert(table.columns.get_loc('chosen accuracy') + 1, 'dat accuracy', of_dat)
  numbers = table.select_dtypes('number').columns
  return pd.concat(
    [table, pd.DataFrame([{'task': 'mean', **table[numbers].mean(skipna=False)}])],
    ignore_index=True,
  )


def choose(scores: pd.DataFrame, trials: pd.DataFrame, budget: int = 1) -> pd.Series:
  """The row of the model that a strategy chooses: of the first `budget` by rank, the best on validation.

  Models that can only be ranked cost no budget; where there are no others, or nothing was fine-tuned on the task, the first
  by rank is the choice. As long as one that the budget pays for was not fine-tuned, the choice is open, and it is that one's
  row. What diverged in its sweep is no choice: where all that the budget pays for did, it is the next by rank that was
  fine-tuned and did not, the baseline behind all where it has no rank. Where everything diverged it is the first of them,
  of which no network is kept.

  Args:
    scores: task, model, kind, rank; the rows of one task and one strategy, or of a part of the pool. Of those without a rank
      only the baseline's count.
    trials: task, model, split, accuracy; those of the split `validation` are the sweeps.
    budget: how many the strategy puts forward.

  Raises:
    ValueError: no model has a rank.
  """
  ranked = scores[scores['rank'].notna()].sort_values('rank', kind='stable')
  if ranked.empty:
    raise ValueError(f"task '{scores.task.iloc[0]}' has no model with a rank")
  trials = trials[trials.task == ranked.task.iloc[0]]
  tried = ranked[~ranked.kind.isin(outcomes.OPAQUE) | ranked.model.isin(trials.model)][:budget]
  if tried.empty or trials.empty:
    return ranked.iloc[0]
  # Not a number for a model all of whose trials diverged.
  best = trials[trials.split == 'validation'].groupby('model').accuracy.max()
  if len(still_open := tried[~tried.model.isin(best.index)]):
    return still_open.iloc[0]
  reached = tried.model.map(best).dropna()
  if len(reached):
    # Of equals the one of better rank.
    return tried.loc[reached.idxmax()]
  others = scores[scores['rank'].notna() | (scores.kind == 'baseline')]
  sound = others[others.model.map(best).notna()].sort_values('rank', kind='stable')
  return (sound if len(sound) else tried).iloc[0]


def ranking(scores: pd.DataFrame, strategy: str, top: int, controls: int = 0) -> pd.DataFrame:
  """The best-ranked models of each task, in the strategy's order.

  Args:
    scores: task, model, kind, strategy, score, rank, and, where known, low and high.
    strategy: whose ranks count.
    top: how many models of each task; the baseline is there besides.
    controls: how many controls of each task are there besides, the best of them.

  Returns:
    task, rank (missing for a control), model, kind, the score under the strategy's name, and where known its interval
    under the name with 'low' and 'high' behind.
  """
  title = _TITLES.get(strategy, strategy)
  rows = scores[scores.strategy == strategy].reindex(
    columns=['task', 'rank', 'model', 'kind', 'score', 'low', 'high']
  )
  parts = []
  for _, part in rows.groupby('task', sort=False):
    part = part.sort_values('rank', kind='stable')
    others = part[part.kind.isin(outcomes.CONTROLS)].sort_values('score', ascending=False)
    shown = part[(part['rank'] <= top) | ((part.kind == 'baseline') & part['rank'].notna())]
    parts += [shown, others[:controls]]
  table = pd.concat(parts, ignore_index=True) if parts else rows
  columns = {'score': title, 'low': f'{title} low', 'high': f'{title} high'}
  table = table[['task', 'rank', 'model', 'kind', *columns]].rename(columns=columns)
  return table.astype({'rank': 'Int64'}).dropna(axis=1, how='all')


def ranking_to_terminal(table: pd.DataFrame) -> str:
  """What `ranking` returns, for a terminal: intervals in one column, each task's name once."""
  ends = [name for name in table if name.endswith(' low')]
  shown = table.assign(task=table.task.where(~table.task.duplicated(), ''))
  for low in ends:
    high = f'{low.removesuffix(" low")} high'
    interval = [
      '' if pd.isna(a) else f'{100 * a:.1f} to {100 * b:.1f}'
      for a, b in zip(table[low], table[high], strict=True)
    ]
    shown = shown.drop(columns=[low, high]).assign(**{'95 % interval': interval})
  return to_terminal(shown)


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
  results: pd.DataFrame,
  budget: int,
) -> dict[str, str | float]:
  candidates = scores[~scores.kind.isin(outcomes.CONTROLS)]
  chosen = choose(scores, trials, budget)
  strategy = chosen.strategy
  tested = {model: results.accuracy.get((task, model), float('nan')) for model in scores.model}
  ranked = candidates.assign(tested=candidates.model.map(tested)).dropna(subset='tested')
  # Of equals the chosen one: it left nothing behind.
  ranked = ranked.assign(own=ranked.model == chosen.model)
  ranked = ranked.sort_values(['tested', 'own'], ascending=False, kind='stable')
  random, baseline = (_best_of_kind(scores, kind) for kind in ('random', 'baseline'))
  best = ranked.model.iloc[0] if len(ranked) else None
  shown = {(task, model) for model in (random, baseline, chosen.model, best)}
  return {
    'task': task,
    'random accuracy': tested.get(random, float('nan')),
    'baseline accuracy': tested.get(baseline, float('nan')),
    'chosen': chosen.model,
    f'chosen {_TITLES.get(strategy, strategy)}': float(chosen.score),
    'chosen accuracy': tested[chosen.model],
    'best by hindsight': best,
    'best accuracy': tested.get(best, float('nan')),
    'retrains': _retrains(results[results.index.isin(shown)]),
  }


def _retrains(results: pd.DataFrame) -> str:
  low, high = (results.runs.min(), results.runs.max()) if len(results) else (0, 0)
  number = f'{low}' if low == high else f'{low} to {high}'
  lost = results.diverged.sum()
  return f'{number}, {lost} of {results.runs.sum()} diverged' if lost else number


def _best_of_kind(scores: pd.DataFrame, kind: str) -> str | None:
  part = scores[scores.kind == kind]
  return (
    None if part.empty else part.sort_values('score', ascending=False, kind='stable').model.iloc[0]
  )


def to_markdown(table: pd.DataFrame) -> str:
  """Returns a GitHub table: shares in percent with one decimal, what is missing as a dash."""
  return _render(table, MARKDOWN)


def to_terminal(table: pd.DataFrame) -> str:
  """Returns the same table with ruled columns for a terminal."""
  return _render(table, 'simple')


def lay_out(cells: Mapping[str, Sequence[str]], align: Sequence[str], form: str) -> str:
  """Returns columns of text under their headings.

  Args:
    cells: heading -> its column.
    align: 'left' or 'right' for each column.
    form: of `tabulate`.
  """
  # In Markdown a bar would end the cell.
  shown = lambda text: text.replace('|', '\\|') if form == MARKDOWN else text
  columns = {shown(head): [shown(text) for text in texts] for head, texts in cells.items()}
  return tabulate.tabulate(
    columns, headers='keys', tablefmt=form, disable_numparse=True, colalign=align
  )


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
  return lay_out(columns, align, form)


def _cell(value: object, is_share: bool) -> str:
  if pd.isna(value):
    return NONE
  if is_share:
    return f'{100 * value:.1f}'
  if isinstance(value, float):
    return f'{value:.4g}'
  return str(value)
