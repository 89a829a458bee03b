"""How good strategies are: scores.csv against trials.csv, of this project or of another ([WHICH] §3).

joined = join(files.read('scores.csv'), files.read('trials.csv'))  # experts.reporting.files
table = regrets(joined)
by_budget(table), deltas(table, [1, 2]), correlations(joined)
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from experts.models import kinds
from experts.selection import pool, regret

_SCORES = ('task', 'model', 'strategy', 'score')
_TRIALS = ('task', 'model', 'accuracy')
_TEST = 'test'
_REGRETS = (
  'task', 'strategy', 'budget', 'chosen', 's', 'best', 'best_model', 'regret', 'relative_regret', 'log_odds_regret', 'tested',
  'models',
)  # fmt: skip


def join(scores: pd.DataFrame, trials: pd.DataFrame | None) -> pd.DataFrame:
  """Puts the fine-tuned test accuracy beside each score, and adds the oracles.

  Args:
    scores: task, model, strategy, score. With `kind`, those of `pool.CONTROLS` are controls, which no strategy chooses.
      With `rank`, that is the strategies' order; without, the score is, the higher the better, ties in the rows' order.
    trials: task, model, accuracy in [0, 1]; several rows of a model are runs, whose median counts; where another statistic
      does, hand over one row of each model. NaN is a run that diverged: it got nothing right, 0.0. With `split`, only rows
      of the split 'test' count, but for models of which all rows diverged. With `seed`, no run may be listed twice. None:
      nothing was fine-tuned yet.

  Returns:
    `scores` with kind, rank, accuracy (NaN for models that were not fine-tuned) and, for each task with trials, rows of the
    strategies 'oracle' and 'oracle_agnostic', unless there are some.

  Raises:
    ValueError: missing columns, rows given twice, ranks that are not 1, 2, …, accuracies outside [0, 1], or trials of tasks
      or models without scores.
  """
  _check_columns('scores', scores, _SCORES)
  joined = scores.assign(kind=scores.get('kind', ''))
  twice = joined[joined.duplicated(['task', 'model', 'strategy'])]
  if len(twice):
    row = twice.iloc[0]
    raise ValueError(
      f'scores have several rows of task {row.task!r}, model {row.model!r}, strategy {row.strategy!r}'
    )
  if 'rank' not in joined:
    joined['rank'] = _ranks(joined)
  for (task, strategy), part in joined.groupby(['task', 'strategy'], sort=False):
    ranks = part['rank'].dropna().sort_values().to_numpy()
    if not np.array_equal(ranks, np.arange(1, len(ranks) + 1)):
      raise ValueError(f'ranks of task {task!r}, strategy {strategy!r} are not 1 to {len(ranks)}')
  # A file may rank controls; no strategy chooses them.
  joined['rank'] = joined['rank'].where(~joined.kind.isin(pool.CONTROLS))
  joined['rank'] = joined.groupby(['task', 'strategy'])['rank'].rank()
  if trials is None:
    return joined.assign(accuracy=np.nan)
  accuracy = _tested(trials, joined)
  joined = joined.join(accuracy, on=['task', 'model'])
  return pd.concat([joined, *_oracles(joined)], ignore_index=True)


def regrets(joined: pd.DataFrame) -> pd.DataFrame:
  """What each strategy leaves behind on each task under each budget.

  The best model is the best of those that were fine-tuned, controls left out; where `tested` is less than `models`, a better
  one may exist. Models that can only be ranked cost no budget.

  Args:
    joined: what `join` returns.

  Returns:
    task, strategy, budget, chosen (the model that this budget adds to those of the smaller ones; empty if no model is left),
    s (best test accuracy among the models chosen; NaN if one was not fine-tuned), best, best_model, regret,
    relative_regret, log_odds_regret, tested, models. Tasks without trials have no rows.
  """
  opaque = joined.kind.isin(kinds.OPAQUE) & joined.accuracy.isna()
  candidates = joined[~joined.kind.isin(pool.CONTROLS) & ~opaque]
  tables = []
  for task, part in candidates.groupby('task', sort=False):
    accuracy = part.groupby('model', sort=False).accuracy.first()
    if accuracy.isna().all():
      continue
    best = accuracy.max()
    for strategy, rows in part.groupby('strategy', sort=False):
      ranked = rows.dropna(subset='rank').sort_values('rank')
      if ranked.empty:
        continue
      left = len(accuracy) - len(ranked)
      reached = regret.reached_by_budget(ranked.accuracy.to_numpy(), ranked['rank'].to_numpy())
      reached = np.pad(reached, (0, left), mode='edge')
      table = {
        'task': task,
        'strategy': strategy,
        'budget': np.arange(1, len(accuracy) + 1),
        'chosen': [*ranked.model, *[''] * left],
        's': reached,
        'best': best,
        'best_model': accuracy.idxmax(),
        'regret': best - reached,
        'relative_regret': regret.delta(best, reached),
        'log_odds_regret': regret.log_odds(best) - regret.log_odds(reached),
        'tested': accuracy.count(),
        'models': len(accuracy),
      }
      tables.append(pd.DataFrame(table))
  return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=_REGRETS)


def by_budget(table: pd.DataFrame) -> pd.DataFrame:
  """Means over the tasks for each strategy and budget, of all strategies over the same tasks.

  Those are the tasks on which every strategy's s is known, strategies left out of which none is known under that budget. A
  budget without such a task has no rows.

  Args:
    table: what `regrets` returns.

  Returns:
    strategy, budget, zero_regret (share of tasks whose best model is among the chosen), regret, relative_regret,
    log_odds_regret, tasks (how many).
  """
  known = table.dropna(subset='s').assign(zero_regret=lambda t: (t.regret == 0).astype(float))
  strategies = known.groupby('budget').strategy.transform('nunique')
  known = known[known.groupby(['budget', 'task']).strategy.transform('nunique') == strategies]
  groups = known.groupby(['strategy', 'budget'], sort=False)
  columns = ['zero_regret', 'regret', 'relative_regret', 'log_odds_regret']
  return groups[columns].mean().assign(tasks=groups.size()).reset_index()


def deltas(table: pd.DataFrame, budgets: Sequence[int]) -> pd.DataFrame:
  """Compares every two strategies on each task.

  Args:
    table: what `regrets` returns.
    budgets: those to compare under.

  Returns:
    task, budget, first, second, delta: Δ(first, second), positive where the first strategy reaches more.
  """
  part = table[table.budget.isin(budgets)]
  reached = part.pivot(index=['task', 'budget'], columns='strategy', values='s')
  # A pivot sorts; the tasks keep their order.
  reached = reached.reindex(pd.MultiIndex.from_product([table.task.unique(), budgets]))
  reached.index.names = 'task', 'budget'
  order = table.strategy.unique()
  pairs = []
  for first, second in itertools.combinations(order, 2):
    delta = pd.Series(regret.delta(reached[first], reached[second]), reached.index, name='delta')
    pairs.append(delta.dropna().reset_index().assign(first=first, second=second))
  columns = ['task', 'budget', 'first', 'second', 'delta']
  return pd.concat(pairs, ignore_index=True)[columns] if pairs else pd.DataFrame(columns=columns)


def correlations(joined: pd.DataFrame) -> pd.DataFrame:
  """How well each strategy's scores order the models of each task; controls left out.

  Args:
    joined: what `join` returns.

  Returns:
    task, strategy, kendall, spearman, pearson, models (those with both a score and a test accuracy).
  """
  candidates = joined[~joined.kind.isin(pool.CONTROLS)]
  rows = []
  for (task, strategy), part in candidates.groupby(['task', 'strategy'], sort=False):
    found = regret.correlate(part.score.to_numpy(float), part.accuracy.to_numpy(float))
    rows.append({'task': task, 'strategy': strategy, **dataclasses.asdict(found)})
  return pd.DataFrame(rows)


def describe(members: Sequence[pool.Member]) -> pd.DataFrame:
  """The pool as a table, for figures: model, kind, upstream, slice, images, parameters, dimension."""
  fields = ('upstream', 'slice', 'images', 'parameters', 'dimension')
  return pd.DataFrame(
    [
      {'model': m.name, 'kind': m.role} | {name: getattr(m, name) for name in fields}
      for m in members
    ]
  )


def _ranks(scores: pd.DataFrame) -> pd.Series:
  candidates = scores[~scores.kind.isin(pool.CONTROLS)]
  return candidates.groupby(['task', 'strategy']).score.rank(method='first', ascending=False)


def _check_columns(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
  missing = [column for column in columns if column not in frame]
  if missing:
    raise ValueError(
      f'{name} lack the columns {", ".join(missing)}; they have: {", ".join(map(str, frame.columns))}'
    )


def _tested(trials: pd.DataFrame, scores: pd.DataFrame) -> pd.Series:
  """Median test accuracy by task and model."""
  _check_columns('trials', trials, _TRIALS)
  model = ['task', 'model']
  lost = trials[trials.groupby(model).accuracy.transform('count') == 0]
  if 'split' in trials:
    splits = trials.split.unique()
    trials = trials[trials.split == _TEST]
    if trials.empty and lost.empty:
      raise ValueError(
        f"trials have no row of the split '{_TEST}', only of: {', '.join(map(str, splits))}"
      )
  outside = trials[trials.accuracy.notna() & ~trials.accuracy.between(0, 1)]
  if len(outside):
    row = outside.iloc[0]
    raise ValueError(
      f'trials: accuracy {row.accuracy} of task {row.task!r}, model {row.model!r} is not in [0, 1]; '
      'divide percentages by 100'
    )
  for task, part in trials.groupby('task', sort=False):
    known = scores.model[scores.task == task]
    if known.empty:
      raise ValueError(
        f'trials have the task {task!r}, scores have not; theirs: {", ".join(scores.task.unique())}'
      )
    unknown = [model for model in part.model.unique() if model not in set(known)]
    if unknown:
      raise ValueError(f'trials of task {task!r} name models without scores: {", ".join(unknown)}')
  run = [c for c in ('task', 'model', 'lr', 'steps', 'seed') if c in trials]
  if 'seed' in run and trials.duplicated(run).any():
    row = trials[trials.duplicated(run)].iloc[0]
    raise ValueError(
      f'trials list a run of task {row.task!r}, model {row.model!r} twice (seed {row.seed})'
    )
  # A model may have diverged before there was anything to test.
  runs = pd.concat([trials, lost]) if len(lost) else trials
  return runs.assign(accuracy=runs.accuracy.fillna(0.0)).groupby(model).accuracy.median()


def _oracles(joined: pd.DataFrame) -> list[pd.DataFrame]:
  models = joined.drop_duplicates(['task', 'model'])[['task', 'model', 'kind', 'accuracy']]
  with_trials = models.groupby('task').accuracy.transform('count') > 0
  models = models[with_trials]
  means = models.groupby('model').accuracy.agg(lambda each: each.mean(skipna=False))
  # Of a model that some task lacks, the mean is one of other tasks.
  means[models.groupby('model').size() < models.task.nunique()] = np.nan
  added = []
  for strategy, score in (
    ('oracle', models.accuracy),
    ('oracle_agnostic', models.model.map(means)),
  ):
    if not (joined.strategy == strategy).any():
      rows = models.assign(strategy=strategy, score=score)
      added.append(rows.assign(rank=_ranks(rows)))
  return added
