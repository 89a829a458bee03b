"""scores.csv: each strategy's ranks from its scores, and what to say where it has none."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from absl import logging

from experts.data import splits
from experts.reporting import statistics
from experts.runs import scoring
from experts.runs.candidates import Candidates
from experts.runs.description import Config
from experts.selection import pool, strategies
from experts.training import hosts

COLUMNS = (
  'task', 'model', 'kind', 'strategy', 'score', 'low', 'high', 'ties', 'duplicates', 'images', 'p_value', 'rank',
  'parameters', 'gflops',
)  # fmt: skip
_KNN = ('knn', 'knn_holdout')


def possible(chosen: Candidates, names: Sequence[str], workdir: str) -> list[str]:
  """Those strategies for which there is what they need; what the others lack is a warning each.

  Raises:
    ValueError: the first, which chooses, lacks something.
  """
  offers = chosen.offers(workdir)
  strategies.check(names[:1], offers)
  able = [names[0]]
  for name in names[1:]:
    try:
      strategies.check([name], offers)
      able.append(name)
    except ValueError as error:
      if hosts.first():
        logging.warning('select: %s; it has no scores', error)
  return able


def check_chooser(
  config: Config,
  chosen: Candidates,
  loaded: Sequence[splits.Task],
  name: str,
  known: Sequence[scoring.Row],
) -> None:
  """Refuses a strategy that is to choose and surely cannot, before anything is embedded.

  Args:
    config: the whole config.
    chosen: the pool's models.
    loaded: the tasks.
    name: of the strategy.
    known: rows that need no embedding.

  Raises:
    ValueError: it can rank no model on some task; names the task, and why.
  """
  rows = {(row['task'], row['model']): row for row in known if row['strategy'] == name}
  if name == 'hybrid':
    rows = {(r['task'], r['model']): r for r in known if r['strategy'] == 'task_agnostic'}
  for task in loaded:
    if rows:
      of_task = [rows[task.name, member.name] for member in chosen.competing]
      reasons = [
        row.get('why', 'it knows none of them') if np.isnan(row['score']) else '' for row in of_task
      ]
    else:
      reasons = [scoring.undefined(config, name, task, member) for member in chosen.competing]
    if all(reasons):
      raise ValueError(_cannot_choose(name, [task.name], reasons[0]))


def ranked(
  rows: Sequence[scoring.Row],
  candidates: Sequence[pool.Member],
  names_of_tasks: Sequence[str],
  names: Sequence[str],
) -> pd.DataFrame:
  """Ranks the models by each strategy on each task.

  Args:
    rows: task, model, strategy, score, and what else is known.
    candidates: the models.
    names_of_tasks: in the order to keep.
    names: the strategies, in the order to keep; what else the rows have comes behind.

  Returns:
    `COLUMNS`: a row for each task, strategy and model, best first; p_value is McNemar's test against the baseline.
  """
  by_key = {(row['task'], row['strategy'], row['model']): row for row in rows}
  found = {strategy for _, strategy, _ in by_key}
  ordered = [*names, *sorted(found - set(names))]
  tables = []
  for task in names_of_tasks:
    ranks = {}
    # A hybrid's ranks are made of those of others; its scores are kNN's.
    for name in sorted(ordered, key=lambda name: name == 'hybrid'):
      nothing = {'score': float('nan')}
      own = 'knn' if name == 'hybrid' else name
      part = [by_key.get((task, own, member.name), nothing) for member in candidates]
      ranks[name] = _ranks(name, part, candidates, ranks)
      if np.isnan(ranks[name]).all():
        part = [nothing] * len(candidates)
      frame = pd.DataFrame(part, columns=COLUMNS)
      tables.append(
        frame.assign(
          task=task,
          model=[m.name for m in candidates],
          kind=[m.role for m in candidates],
          # 0 where it is not known.
          parameters=[m.parameters or None for m in candidates],
          gflops=[m.gflops for m in candidates],
          strategy=name,
          p_value=_p_values(part, candidates) if name in _KNN else np.nan,
          rank=ranks[name],
        )
      )
  scores = pd.concat(tables, ignore_index=True)
  place = {name: i for i, name in enumerate(ordered)}
  scores = scores.assign(
    task_=pd.Categorical(scores.task, names_of_tasks), place=scores.strategy.map(place)
  ).sort_values(['task_', 'place', 'rank'], kind='stable')
  return scores[list(COLUMNS)].astype(
    {
      'rank': 'Int64',
      'duplicates': 'Int64',
      'images': 'Int64',
      'parameters': 'Int64',
      'gflops': float,
    }
  )


def warn(rows: Sequence[scoring.Row]) -> None:
  """One warning for each strategy that has no score of some models, whatever their number."""
  lacking = {}
  for row in rows:
    if 'why' in row:
      lacking.setdefault(row['strategy'], []).append(row)
  for name, some in lacking.items():
    every = sum(row['strategy'] == name for row in rows)
    logging.warning(
      'select: %s has no score in %d of %d cases (a model and a task); the first: %s',
      name, len(some), every, some[0]['why'],
    )  # fmt: skip


def leave_out(rows: Sequence[scoring.Row]) -> None:
  """Takes every score from the models whose embeddings of a task tell nothing, and warns of each model once.

  No strategy chooses them, whatever it looks at.
  """
  unfit = {(row['task'], row['model']): row['unfit'] for row in rows if 'unfit' in row}
  first = {}
  for (_, model), reason in unfit.items():
    first.setdefault(model, []).append(reason)
  for reasons in first.values():
    more = f' (and on {len(reasons) - 1} more tasks)' if len(reasons) > 1 else ''
    logging.warning('select: %s%s; it has no scores there', reasons[0], more)
  for row in rows:
    if reason := unfit.get((row['task'], row['model'])):
      row |= {'score': float('nan'), 'why': reason}


def undecided(scores: pd.DataFrame, name: str, rows: Sequence[scoring.Row]) -> str:
  """What to say of the tasks on which the strategy that chooses ranks no model; empty if it does on all."""
  of_task = scores[scores.strategy == name].groupby('task', sort=False)['rank'].count()
  lost = of_task.index[of_task == 0].tolist()
  if not lost:
    return ''
  reasons = [
    r['why'] for r in rows if r['strategy'] == name and r['task'] == lost[0] and 'why' in r
  ]
  if all('unfit' in r for r in rows if r['strategy'] == name and r['task'] == lost[0]):
    # Another strategy would find no more.
    return (
      f'task {lost[0]!r}: no model of the pool tells its images apart; of the first: {reasons[0]}'
    )
  return f'{_cannot_choose(name, lost, *reasons[:1])}; scores.csv has what the others found'


def _cannot_choose(name: str, tasks: Sequence[str], reason: str = '') -> str:
  named = ', '.join(map(repr, tasks))
  return (
    f'the strategy {name} can score no model of the pool on {"task" if len(tasks) == 1 else "tasks"} {named}'
    f'{f" ({reason})" if reason else ""}, and it is to choose: name another first in config.strategy'
  )


def _ranks(name, part, candidates, ranks) -> np.ndarray:
  if name == 'hybrid':
    nothing = np.full(len(candidates), np.nan)
    agnostic = ranks.get('task_agnostic', nothing)
    if np.isnan(agnostic).all():
      return nothing
    trainable = np.array([member.trainable for member in candidates])
    return strategies.hybrid(agnostic, ranks.get('knn', nothing), trainable)
  values = np.array([row['score'] for row in part], float)
  # A model that saw more images than another came further in a search by halving.
  seen = np.array([row.get('images', 0) for row in part], float) if name == 'knn' else 0
  ties = 'parameters' if name == 'task_agnostic' else 'order'
  return strategies.rank(candidates, values + seen, ties)


def _p_values(part: list[scoring.Row], candidates: Sequence[pool.Member]) -> list[float]:
  """McNemar's test of each model against the baseline, on the images that both were scored on."""
  values = np.array([row['score'] for row in part], float)
  baselines = [
    i for i, m in enumerate(candidates) if m.kind == 'baseline' and part[i].get('correct')
  ]
  if not baselines:
    return [float('nan')] * len(part)
  best = max(baselines, key=lambda i: values[i])
  right = scoring.correct(part[best])
  return [
    statistics.mcnemar(scoring.correct(row), right)
    if i != best and row.get('correct') and row['images'] == part[best]['images']
    else float('nan')
    for i, row in enumerate(part)
  ]
