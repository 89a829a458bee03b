"""The results by method, task and group of tasks, in the form of [EXP]'s tables."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from experts.reporting import canvas, outcomes, results, statistics, tables

# VTAB's groups, and how many tasks each has.
GROUPS = {'natural': 7, 'specialized': 4, 'structured': 8}
ALL = 'all'
NATURAL_SIX = outcomes.NATURAL_SIX
OTHER = 'other tasks'
# As all tables and figures have them.
ORDER = (*GROUPS, ALL, NATURAL_SIX, OTHER)

_BY_RUN = '--config.report.cluster=False'

STRATEGIES = {'epn': 'EPN', 'kl': 'KL', 'knn': 'kNN'}
_TITLES = {name: text for name, (text, *_) in canvas.STRATEGIES.items()} | STRATEGIES
BASELINE = 'Baseline'
CONTROL = 'Control:'
# By kind, and the beginning of a model's name, which says what an expert on a random slice was trained as.
_CONTROLS = {
  ('control', 'full:'): 'full experts on random slices',
  ('control', 'adapter:'): 'adapters on random slices',
  ('control', ''): 'random slices',
  ('checkpoint', ''): 'checkpoints',
}
_POOLS = {
  'Adapters': ('baseline', 'adapter'),
  'Full': ('baseline', 'full'),
  'All Experts': ('baseline', 'adapter', 'full'),
}
# Of a task's or a group's result, in `summarise`'s table.
_NUMBERS = ('value', 'low', 'high', 'runs', 'diverged', 'tasks')


class _Result(NamedTuple):
  """What a model's runs on a task come to: value, the bootstrap's draws of it `[R]`, runs, and how many of these diverged."""

  value: float
  draws: np.ndarray
  runs: int
  diverged: int


def methods(
  scores: pd.DataFrame,
  members: pd.DataFrame,
  trials: pd.DataFrame | None = None,
  budget: int = 1,
) -> pd.DataFrame:
  """Returns which model each method takes for each task.

  A method is the baseline, or a strategy's choice in a part of the pool (`tables.choose`): 'Full (kNN)', 'Adapters (EPN)',
  'All Experts (kNN)' and, where the pool has other kinds of models, 'All Models (kNN)'; the baseline belongs to each. Of a
  pool with several upstream data sets there are the methods within each, and those over all experts. Controls that were
  fine-tuned have methods of their own, the best of them by the strategy's score; full and adapter experts on random slices
  are apart ([EXP] App. G).

  Args:
    scores: task, model, kind, strategy, score, rank.
    members: model, upstream.
    trials: task, model, split, accuracy; None before any fine-tuning.
    budget: how many of a strategy's first are tried; the best of them on validation is its choice.

  Returns:
    upstream, method, pool, strategy, task, model: the baseline first, then by strategy; controls last.
  """
  if trials is None:
    trials = pd.DataFrame(columns=['task', 'model', 'split', 'accuracy'])
  found = []
  for upstream, part, pools in _scopes(scores, members):
    if 'Full' in pools:
      own = part[part.kind == 'baseline'].drop_duplicates('task')
      found.append(own.assign(method=BASELINE, pool=BASELINE, strategy=''))
    found += [each.assign(upstream=upstream) for each in _choices(part, pools, trials, budget)]
  found += _controls(scores, trials)
  columns = ['upstream', 'method', 'pool', 'strategy', 'task', 'model']
  if not found:
    return pd.DataFrame([], columns=columns)
  return pd.concat(found).reindex(columns=columns).reset_index(drop=True)


def _scopes(
  scores: pd.DataFrame, members: pd.DataFrame
) -> list[tuple[str, pd.DataFrame, Mapping[str, Sequence[str]]]]:
  """Returns what methods choose within: upstream data, scores of the models of it, and the kinds of each pool of these.

  The experts of each upstream data set are a part, those of several together another, and so are all models, where some
  are no experts.
  """
  # A baseline without a rank is what is left where all others diverged.
  ranked = scores[scores['rank'].notna() | (scores.kind == 'baseline')]
  ranked = ranked.merge(members[['model', 'upstream']], on='model', how='left')
  ranked['upstream'] = ranked.upstream.fillna('')
  experts = ranked[ranked.kind.isin(_POOLS['All Experts'])]
  parts = [(name, part, _POOLS) for name, part in experts.groupby('upstream', sort=False)]
  if len(parts) > 1:
    joint = {'All Experts': _POOLS['All Experts']}
    parts.append(('+'.join(name for name, *_ in parts), experts, joint))
  if len(experts) < len(ranked):
    everything = {'All Models': tuple(ranked.kind.unique())}
    parts.append(('+'.join(filter(None, ranked.upstream.unique())), ranked, everything))
  return parts


def _choices(
  part: pd.DataFrame, pools: Mapping[str, Sequence[str]], trials: pd.DataFrame, budget: int
) -> list[pd.DataFrame]:
  """Returns what each strategy chooses for each task in each pool that `part` has models of."""
  of_task, nothing = dict(list(trials.groupby('task'))), trials[:0]
  found = []
  for strategy in sorted(part.strategy.unique(), key=_place):
    for pool, kinds in pools.items():
      if not pool.startswith('All') and kinds[-1] not in set(part.kind):
        continue
      rows = part[(part.strategy == strategy) & part.kind.isin(kinds)]
      first = [
        tables.choose(each, of_task.get(task, nothing), budget)
        for task, each in rows.groupby('task', sort=False)
        if each['rank'].notna().any()
      ]
      if first:
        method = f'{pool} ({_TITLES.get(strategy, strategy)})'
        found.append(pd.DataFrame(first).assign(method=method, pool=pool))
  return found


def _controls(scores: pd.DataFrame, trials: pd.DataFrame) -> list[pd.DataFrame]:
  """Of the random slices and of the checkpoints of the baseline that were fine-tuned, the best by each strategy's score."""
  tried = scores[scores.kind.isin([kind for kind, _ in _CONTROLS])]
  if tried.empty:
    return []
  tried = tried.merge(trials[['task', 'model']].drop_duplicates(), on=['task', 'model'])
  tried = tried[tried.score.notna()].sort_values('score', ascending=False, kind='stable')
  begins = lambda row: next(
    title
    for (kind, start), title in _CONTROLS.items()
    if row.kind == kind and row.model.startswith(start)
  )
  titles = pd.Series([begins(row) for row in tried.itertuples()], tried.index, dtype=object)
  found = []
  for strategy in sorted(tried.strategy.unique(), key=_place):
    for title in _CONTROLS.values():
      best = tried[(tried.strategy == strategy) & (titles == title)].drop_duplicates('task')
      method = f'{CONTROL} {title} ({_TITLES.get(strategy, strategy)})'
      found.append(best.assign(upstream='', method=method, pool=CONTROL))
  return found


def summarise(
  chosen: pd.DataFrame,
  trials: pd.DataFrame,
  groups: Mapping[str, str],
  *,
  resamples: int = 10_000,
  seed: int = 0,
  cluster: bool = False,
) -> pd.DataFrame:
  """Returns each method's test accuracy by task, by group of tasks, and over VTAB's tasks, with 95 % intervals.

  A task's result is that of `outcomes.statistic` over its runs; a group's is the mean over its tasks, and that of
  'all' the mean over the tasks of VTAB's groups, not of the groups. Intervals are the bootstrap's: runs are resampled
  within each task, the tasks are fixed ([EXP] App. E).

  Args:
    chosen: upstream, method, task, model.
    trials: task, model, split, accuracy (NaN of a run that diverged, which counts as `outcomes.runs` says).
    groups: the group of each task; a task without one belongs to 'other tasks'.
    resamples: of the bootstrap.
    seed: of the bootstrap.
    cluster: resample the column `selection` of the trials, then the retrains within each selection.

  Returns:
    upstream, method, level ('task', 'group'), name (of the task or group), value, low, high, runs (of all its tasks),
    diverged (of these runs), tasks. The value is NaN where a task of the group has no runs, low and high also where a task
    has only one.

  Raises:
    ValueError: `cluster` with runs of unknown `selection`, or with selections of different sizes.
  """
  by_model = _resampled(chosen, trials, groups, resamples, seed, cluster)
  rows = []
  for (upstream, method), part in chosen.groupby(['upstream', 'method'], sort=False):
    pairs = zip(part.task, part.model, strict=True)
    found = {task: by_model[task, model] for task, model in pairs}
    parts = {('task', task): [task] for task in found}
    parts |= {('group', name): names for name, names in _by_group(found, groups).items()}
    for key, names in parts.items():
      rows.append((upstream, method, *key, *_mean([found[task] for task in names])))
  return pd.DataFrame(rows, columns=['upstream', 'method', 'level', 'name', *_NUMBERS])


def _resampled(
  chosen: pd.DataFrame,
  trials: pd.DataFrame,
  groups: Mapping[str, str],
  resamples: int,
  seed: int,
  cluster: bool,
) -> dict[tuple[str, str], _Result]:
  """Returns the result of each task and model that is chosen somewhere; the arguments are those of `summarise`."""
  tested = trials[trials.split == 'test']
  if cluster and len(tested) and ('selection' not in tested or tested.selection.isna().any()):
    raise ValueError(
      "resampling by selection needs trials whose column 'selection' is filled; without it resample runs: "
      f'{_BY_RUN}'
    )
  runs = dict(list(outcomes.runs(trials).groupby(['task', 'model'])))
  found = {}
  for task, model in dict.fromkeys(zip(chosen.task, chosen.model, strict=True)):
    part = runs.get((task, model))
    if part is None:
      found[task, model] = _Result(float('nan'), np.full(resamples, np.nan), 0, 0)
      continue
    values = part.accuracy.to_numpy()
    statistic = getattr(np, outcomes.statistic(groups.get(task)))
    # A task's draws do not depend on what else is in the table.
    of_task = [seed, zlib.crc32(task.encode())]
    clusters = part.selection if cluster else None
    try:
      draws = statistics.resample(values, statistic, resamples, of_task, clusters)
    except ValueError as error:
      raise ValueError(f'model {model!r} on task {task!r}: {error} (or {_BY_RUN})') from error
    diverged = int(part.diverged.sum())
    found[task, model] = _Result(float(statistic(values)), draws, len(values), diverged)
  return found


def _mean(found: Sequence[_Result]) -> tuple[float, float, float, int, int, int]:
  """Returns the `_NUMBERS` of tasks together: means of the values and of the draws, sums of the runs."""
  values, draws, runs, diverged = zip(*found, strict=True)
  low, high = statistics.interval(functools.reduce(np.add, draws) / len(found))
  return np.mean(values), low, high, sum(runs), sum(diverged), len(found)


def group_means(per_task: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
  """Returns the means over each group's tasks and over VTAB's tasks of a table like [EXP] Table 6.

  Args:
    per_task: upstream, method, and a column for each task.
    groups: the group of each task.

  Returns:
    upstream, method, and a column for each group, then 'all'; NaN where a task's figure is missing.

  Raises:
    ValueError: a column that is no task of `groups`.
  """
  names = [name for name in per_task if name not in ('upstream', 'method')]
  if unknown := [name for name in names if name not in groups]:
    raise ValueError(f'columns that are no task with a group: {", ".join(unknown)}')
  means = per_task[['upstream', 'method']].copy()
  for name, tasks in _by_group(names, groups).items():
    means[name] = per_task[tasks].mean(axis=1, skipna=False)
  return means


def wide(summary: pd.DataFrame, level: str, intervals: bool = False) -> pd.DataFrame:
  """Returns a row for each method and a column for each task or group, and 'NAME low', 'NAME high' behind, if asked for."""
  part = summary[summary.level == level]
  keys, names = ['upstream', 'method'], list(part.name.unique())
  if level == 'group':
    names.sort(key=ORDER.index)
  table = part[keys].drop_duplicates().reset_index(drop=True)
  for name in names:
    found = part[part.name == name].rename(
      columns={'value': name, 'low': f'{name} low', 'high': f'{name} high'}
    )
    shown = [name, f'{name} low', f'{name} high'] if intervals else [name]
    table = table.merge(found[keys + shown], on=keys, how='left')
  return table


def settings(trials: pd.DataFrame) -> pd.DataFrame:
  """Returns, for each task and model, the settings that validation chose for most of the retrained models.

  Args:
    trials: task, model, split, accuracy, and those of `results.SETTINGS` that were set.

  Returns:
    task, model, the settings, validation (their best accuracy in a sweep), retrains (as '12 of 30' those with them).
  """
  hyper = [name for name in results.SETTINGS if name in trials]
  pair, key = ['task', 'model'], ['task', 'model', *hyper]
  tested = trials[trials.split == 'test']
  found = tested.groupby(key, sort=False, dropna=False).size().rename('count').reset_index()
  # Of equally frequent ones the first.
  found = found.sort_values('count', ascending=False, kind='stable').drop_duplicates(pair)
  sweeps = trials[trials.split == 'validation'].groupby(key, dropna=False).accuracy.max()
  found = found.join(sweeps.rename('validation'), on=key)
  runs = tested.groupby(pair, sort=False).size().rename('runs').reset_index()
  table = runs.merge(found, on=pair)
  table['retrains'] = table['count'].astype(str) + ' of ' + table.runs.astype(str)
  return table[[*key, 'validation', 'retrains']]


def _by_group(
  tasks: Sequence[str] | Mapping[str, object], groups: Mapping[str, str]
) -> dict[str, list[str]]:
  found = {}
  for task in tasks:
    name = groups.get(task, OTHER)
    found.setdefault(name, []).append(task)
    if name in GROUPS:
      found.setdefault(ALL, []).append(task)
  if unknown := set(found) - set(ORDER):
    raise ValueError(
      f'unknown groups of tasks: {", ".join(sorted(unknown))}; there are: {", ".join(ORDER)}'
    )
  return {name: found[name] for name in ORDER if name in found}


def _place(strategy: str) -> tuple[int, str]:
  order = list(STRATEGIES)
  return (order.index(strategy) if strategy in order else len(order)), strategy
