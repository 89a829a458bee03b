"""Phase 6: every table and figure that the results hold the data for, as one page."""

import os
from collections.abc import Mapping

import pandas as pd

from experts.data import vtab
from experts.reporting import (
  contents,
  files,
  intake,
  outcomes,
  page,
  picks,
  results,
  study,
  summary,
  tables,
)
from experts.runs import candidates
from experts.runs.description import Config
from experts.runs.tasks import group
from experts.selection import evaluation, pool, strategies
from experts.training import hosts
from experts.training.board import Board


def run(config: Config, workdir: str, board: Board) -> None:
  """Leaves report/index.html, which needs no other file, the same as Markdown and CSVs, and prints the overview.

  Of the workdir's results, or of those in the folder `config.results`, which may come from elsewhere.
  """
  if not hosts.first():
    return
  source = os.path.expanduser(config.results) or workdir
  found = read(config, source, workdir)
  path = page.write(found, f'{workdir}/report')
  table = tables.report_table(
    found.tables.scores, found.trials, found.strategy, found.budget, found.groups
  )
  board.text('report', 0, {'table': tables.to_markdown(table)})
  print(tables.to_terminal(table))
  for line in intake.cautions(found.tasks):
    print(f'\n{line}')
  print(f'\nreport: {path}\ncurves: tensorboard --logdir {workdir}/tensorboard')


def read(config: Config, source: str, workdir: str) -> contents.Results:
  """Reads scores.csv and what else there is of trials.csv, tasks.csv, costs.csv, slices.csv and the pool.

  Raises:
    FileNotFoundError: no scores.csv.
    ValueError: rows that would make the tables wrong; names the line.
  """
  scores = results.read_scores(f'{source}/scores.csv')
  trials = pd.DataFrame(columns=['task', 'model', 'lr', 'steps', 'seed', 'split', 'accuracy'])
  if os.path.exists(f'{source}/trials.csv'):
    trials = results.read_trials(f'{source}/trials.csv', scores)
  tasks = None
  if os.path.exists(f'{source}/tasks.csv'):
    tasks = results.read_tasks(f'{source}/tasks.csv')
  groups = _groups(config, scores, tasks)
  tested = outcomes.tested(trials[trials.model != outcomes.COMPETITOR], groups)
  joined = evaluation.join(scores, tested if len(tested) else None)
  regrets = evaluation.regrets(joined)
  strategy = strategies.named(config.strategy)[0]
  return contents.Results(
    tables=study.Tables(
      scores=joined,
      members=_models(config, source, workdir, scores),
      picks=picks.picks(joined, strategy, trials, config.select.budget),
      regrets=regrets,
      by_budget=evaluation.by_budget(regrets),
      deltas=evaluation.deltas(regrets, [1, 2]),
      correlations=evaluation.correlations(joined),
    ),
    trials=trials,
    groups=groups,
    costs=_csv(f'{source}/costs.csv'),
    slices=_csv(f'{os.path.dirname(candidates.pool_path(config, source))}/slices.csv'),
    paper=_csv(os.path.expanduser(config.paper)) if config.paper else None,
    strategy=strategy,
    budget=config.select.budget,
    cluster=config.report.cluster,
    tasks=tasks,
  )


def _models(config: Config, source: str, workdir: str, scores: pd.DataFrame) -> pd.DataFrame:
  """What is known of the models: the pool's entries, or, of results from elsewhere, their names and kinds."""
  path = candidates.pool_path(config, source)
  if os.path.exists(path):
    return evaluation.describe(pool.read(path))
  if source == workdir:
    raise FileNotFoundError(f'{path} is missing: the models of scores.csv cannot be described')
  named = scores[['model', 'kind']].drop_duplicates('model')
  unknown = dict.fromkeys(('slice', 'images', 'parameters', 'dimension'))
  return named.assign(upstream='', **unknown).reset_index(drop=True)


def _groups(config: Config, scores: pd.DataFrame, tasks: pd.DataFrame | None) -> Mapping[str, str]:
  """Task -> group; a task of any name may have the data of a published one."""
  groups = {name: task.group for name, task in vtab.TASKS.items()}
  groups |= dict.fromkeys(set(scores.task) - set(groups), summary.OTHER)
  specs = {name: task.data for name, task in config.tasks.items()}
  # Results from elsewhere say themselves what their tasks were.
  specs |= {} if tasks is None else dict(zip(tasks.task, tasks.data.fillna(''), strict=True))
  for name, spec in specs.items():
    if (found := group(spec)) != summary.OTHER:
      groups[name] = found
  return groups


def _csv(path: str) -> pd.DataFrame | None:
  return files.read(path) if os.path.exists(path) else None
