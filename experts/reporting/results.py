"""Reads a study's CSVs, and refuses rows that would make its tables wrong: one line, which names the row's."""

import os
from collections.abc import Collection, Sequence

import pandas as pd

from experts.reporting import files, outcomes

VALIDATION, TEST = 'validation', 'test'
_SCORES = ('task', 'model', 'kind', 'strategy', 'score')
_TRIALS = ('task', 'model', 'split', 'accuracy')
_TASKS = (
  'task', 'data', 'version', 'drift', 'classes', 'fit', 'validation', 'test', 'metric', 'statistic',
)  # fmt: skip
_DIVERGED = -1.0
_RANDOM_SLICE = f'(full|adapter):{outcomes.RANDOM_SLICE}'
SETTINGS = ('lr', 'steps', 'weight_decay', 'mixup', 'trained')
# Tables with a column for each task have these as well, and a row of means.
_COLUMNS = ('task', 'upstream', 'method', 'source', 'mean')


def check_tasks(names: Collection[str]) -> None:
  """Refuses names of tasks that the report's tables could not tell from their other columns.

  Raises:
    ValueError: such a name; it is named.
  """
  for name in names:
    if name in _COLUMNS:
      raise ValueError(
        f'a task cannot be named {name!r}: a column of the report is; name it otherwise'
      )
    for end in (' low', ' high'):
      if name.endswith(end) and name.removesuffix(end) in names:
        raise ValueError(
          f'tasks cannot be named {name.removesuffix(end)!r} and {name!r}: the latter is the end of an interval of the '
          'former in the report; name one otherwise'
        )


def read_scores(path: str | os.PathLike) -> pd.DataFrame:
  """Reads scores.csv.

  Args:
    path: of the file: task, model, kind, strategy, score and others.

  Raises:
    FileNotFoundError: no such file.
    ValueError: missing columns or names, names of tasks that the tables cannot hold, or rows given twice.
  """
  scores = _read(path, _SCORES, 'select')
  for column in ('task', 'model', 'strategy'):
    if len(bad := scores[scores[column].isna()]):
      _Lines(path).refuse(bad.index[0], f'no {column}')
  _refuse_repeated(path, scores, ['task', 'model', 'strategy'])
  check_tasks(scores.task.unique())
  # Older files have the kinds of other experts for those on random slices.
  return scores.assign(kind=scores.kind.mask(scores.model.str.match(_RANDOM_SLICE), 'control'))


def read_trials(path: str | os.PathLike, scores: pd.DataFrame) -> pd.DataFrame:
  """Reads trials.csv, and checks that every model was chosen on validation alone.

  A selection (column `selection`; without it each model has one on each task) is a sweep, rows of the split 'validation',
  and its retrained models, rows of the split 'test', all with the settings that are the best on validation. A run that
  diverged has a row without an accuracy.

  Args:
    path: of the file: task, model, split, accuracy, and those that there are of lr, steps, weight_decay, mixup, seed,
      selection and config, a word for the protocol.
    scores: whose tasks and models are the known ones.

  Raises:
    FileNotFoundError: no such file.
    ValueError: missing columns, accuracies outside [0, 1], splits, tasks or models that are unknown, rows given twice,
      retrained models without a sweep, of several settings in one selection, of settings that are not the best on
      validation, or trials of several configs under one name.
  """
  trials = _read(path, _TRIALS, 'transfer')
  where = _Lines(path)
  if len(bad := trials[trials.accuracy.notna() & ~trials.accuracy.between(0, 1)]):
    where.refuse(bad.index[0], f'accuracy {bad.accuracy.iloc[0]} is not in [0, 1]')
  trials = trials.assign(accuracy=trials.accuracy.astype(float))
  _refuse_unknown(where, trials, 'split', [VALIDATION, TEST])
  _refuse_unknown(where, trials, 'task', scores.task.unique())
  _refuse_unknown(where, trials, 'model', [*scores.model.unique(), outcomes.COMPETITOR])
  key = ['task', 'model', 'split', 'selection', 'config', *SETTINGS, 'seed']
  if 'seed' in trials:
    _refuse_repeated(path, trials, [name for name in key if name in trials])
  if 'config' in trials:
    first = trials.groupby(['task', 'model']).config.transform('first')
    if len(bad := trials[trials.config != first]):
      row = bad.iloc[0]
      where.refuse(
        row.name,
        f'model {row.model!r} on task {row.task!r} has config {row.config!r}, and {first[row.name]!r} above: trials of '
        'different configs under one name; keep each config in a workdir of its own',
      )
  _check_choices(where, trials)
  return trials


def read_tasks(path: str | os.PathLike) -> pd.DataFrame:
  """Reads tasks.csv: what each task's images are, of which version, and how they are split.

  Args:
    path: of the file: task, data, version, drift (whether the version is outside the papers'), classes, images to fit,
      for validation and for the test, metric, statistic.

  Raises:
    FileNotFoundError: no such file.
    ValueError: missing columns, tasks given twice, or a drift that is neither true nor false nor empty.
  """
  table = _read(path, _TASKS, 'select')
  _refuse_repeated(path, table, ['task'])
  known = table.drift.isna() | table.drift.isin([True, False])
  if len(bad := table[~known]):
    _Lines(path).refuse(bad.index[0], f'drift {bad.drift.iloc[0]!r} is neither True nor False')
  return table


class _Lines:
  """Lines of a CSV, by the index of its rows."""

  def __init__(self, path: str | os.PathLike):
    self._name = os.path.basename(path)

  def line(self, index: int) -> int:
    # The header is line 1.
    return index + 2

  def refuse(self, index: int, reason: str) -> None:
    raise ValueError(f'{self._name} line {self.line(index)}: {reason}')


def _read(path: str | os.PathLike, columns: Sequence[str], phase: str) -> pd.DataFrame:
  if not os.path.exists(path):
    raise FileNotFoundError(f'no results at {path}: the phase {phase!r} writes them')
  table = files.read(path)
  if missing := [name for name in columns if name not in table]:
    raise ValueError(
      f'{os.path.basename(path)} lacks the columns {", ".join(missing)}; it has: {", ".join(table)}'
    )
  return table


def _refuse_unknown(where: _Lines, table: pd.DataFrame, column: str, known: Sequence[str]) -> None:
  if len(bad := table[~table[column].isin(known)]):
    names = ', '.join(map(str, known))
    where.refuse(bad.index[0], f'unknown {column} {bad[column].iloc[0]!r}; known: {names}')


def _refuse_repeated(path: str | os.PathLike, table: pd.DataFrame, key: Sequence[str]) -> None:
  if len(again := table[table.duplicated(key)]):
    row, where = again.iloc[0], _Lines(path)
    first = table.index[(table[key].astype(str) == row[key].astype(str)).all(axis=1)][0]
    named = ', '.join(f'{name} {row[name]}' for name in key)
    where.refuse(row.name, f'repeats line {where.line(first)} ({named})')


def _check_choices(where: _Lines, trials: pd.DataFrame) -> None:
  """Checks that the retrained models of each selection have the settings that are the best on validation."""
  names = [name for name in SETTINGS if name in trials]
  if not names:
    return
  key = ['task', 'model', 'selection']
  # Rows without a selection are one.
  selection = trials.selection.fillna(-1) if 'selection' in trials else -1
  setting = trials.groupby(names, dropna=False).ngroup()
  # What diverged is worse than anything.
  trials = trials.assign(
    selection=selection, setting=setting, accuracy=trials.accuracy.fillna(_DIVERGED)
  )
  sweeps, tested = (trials[trials.split == split] for split in (VALIDATION, TEST))
  groups = sweeps.groupby(key).accuracy
  best, line = groups.max().rename('best'), groups.idxmax().rename('best_index')
  own = sweeps.groupby([*key, 'setting']).accuracy.max().rename('own')
  tested = tested.join(best, on=key).join(line, on=key).join(own, on=[*key, 'setting'])
  tested['first_setting'] = tested.groupby(key).setting.transform('first')
  of_whom = lambda row: f'model {row.model!r} on task {row.task!r} was retrained'
  if len(bad := tested[tested.best.isna()]):
    where.refuse(
      bad.index[0],
      f'{of_whom(bad.iloc[0])}, but its sweep has no row of the split {VALIDATION!r}; settings must not be chosen on the '
      'test split',
    )
  if len(bad := tested[tested.setting != tested.first_setting]):
    row = bad.iloc[0]
    first = tested[(tested[key] == row[key]).all(axis=1)].iloc[0]
    where.refuse(
      row.name,
      f'{of_whom(row)} with {_show(row, names)}, but on line {where.line(first.name)} with {_show(first, names)}: trials of '
      'different configs under one name, or settings chosen on the test split',
    )
  # What was not in the sweep has no accuracy there.
  if len(bad := tested[~(tested.own >= tested.best)]):
    row = bad.iloc[0]
    best = trials.loc[row.best_index]
    where.refuse(
      row.name,
      f'{of_whom(row)} with {_show(row, names)}, but the best on validation is {_show(best, names)} (line '
      f'{where.line(best.name)}): settings must be chosen on validation',
    )


def _show(row: pd.Series, names: Sequence[str]) -> str:
  return ', '.join(f'{name} {row[name]}' for name in names if pd.notna(row[name]))
