"""Times the statistics and the whole report on simulated results of the papers' size.

    python -m benchmarks.report [--out=FOLDER]

bootstrap: 13 methods on 19 tasks of 30 runs each, 10,000 resamples of every task, the intervals of tasks and groups, in both
forms. report: 50 models on 19 VTAB tasks and on the natural six, each with 10 sweeps of 4 settings and 3 retrains of each choice,
ranked by 8 strategies, from the CSVs to the page. Peak memory is the process's.
"""

import argparse
import pathlib
import resource
import tempfile
import time

import numpy as np
import pandas as pd
import tabulate

from experts.data import natural6, vtab
from experts.reporting import contents, files, outcomes, page, picks, results, study, summary
from experts.selection import evaluation

_METHODS = 13


def simulate(
  folder: pathlib.Path, groups: dict[str, str], experts: int, seed: int = 0
) -> pd.DataFrame:
  """Writes scores.csv, trials.csv, costs.csv and slices.csv of models that do not exist; returns the pool's description."""
  rng = np.random.default_rng(seed)
  nodes = [f'node {i}' for i in range(experts)]
  images = {node: int(10 ** rng.uniform(3, 6)) for node in nodes}
  pool = [('random', 'random', None, 0), ('baseline', 'baseline', None, 10**7)]
  pool += [(f'baseline@{step}', 'checkpoint', None, 10**7) for step in (100, 300, 1000)]
  for kind in ('full', 'adapter'):
    pool += [(f'{kind}:{node}', kind, node, images[node]) for node in nodes]
    like = nodes[0]
    pool.append((f'{kind}:random like {like}', kind, f'random like {like}', images[like]))
  pool.append(('callable', 'callable', None, 10**6))
  members = pd.DataFrame(pool, columns=['model', 'kind', 'slice', 'images'])
  members = members.assign(upstream='simulated', parameters=23_500_352, dimension=2048)
  members.loc[members.kind == 'callable', 'dimension'] = 1280
  scores, trials = [], []
  for task in groups:
    level, spread = rng.uniform(0.3, 0.9), rng.uniform(0.01, 0.06)
    truth = np.clip(level + spread * rng.normal(size=len(members)), 0.05, 0.98)
    truth[members.kind == 'random'] = level / 2
    for strategy, noise in _STRATEGIES.items():
      scores.append(_ranked(task, members, strategy, truth + noise * rng.normal(size=len(members))))
    trials += [
      _trials(rng, task, model, accuracy)
      for model, accuracy in zip(members.model, truth, strict=True)
    ]
    if groups[task] == summary.NATURAL_SIX:
      trials.append(_trials(rng, task, outcomes.COMPETITOR, level + spread))
  pd.concat(scores).to_csv(folder / 'scores.csv', index=False, float_format='%.6g')
  pd.concat(trials).to_csv(folder / 'trials.csv', index=False, float_format='%.6g')
  costs = [(task, 'selection', 50_000, 60.0) for task in groups]
  costs += [(t, 'dat', 26_000_000, 40_000.0) for t in groups if groups[t] == summary.NATURAL_SIX]
  columns = ['task', 'method', 'images', 'seconds']
  pd.DataFrame(costs, columns=columns).to_csv(folder / 'costs.csv', index=False)
  learned = members[members.slice.notna()][['kind', 'slice', 'images']]
  learned = learned.assign(accuracy=rng.uniform(0.5, 0.6, len(learned)))
  learned['baseline accuracy'] = learned.accuracy - rng.normal(0.02, 0.01, len(learned))
  learned.to_csv(folder / 'slices.csv', index=False, float_format='%.6g')
  return members


_STRATEGIES = {
  'knn': 0.02, 'knn_holdout': 0.03, 'linear': 0.02, 'epn': 0.05, 'kl': 0.06, 'task_agnostic': 0.1, 'hybrid': 0.02,
  'logme': 0.03,
}  # fmt: skip


def load(folder: pathlib.Path, members: pd.DataFrame, groups: dict[str, str]) -> contents.Results:
  """Reads what `simulate` wrote, as the phase 'report' does."""
  scores = results.read_scores(folder / 'scores.csv')
  trials = results.read_trials(folder / 'trials.csv', scores)
  pooled = trials[trials.model != outcomes.COMPETITOR]
  joined = evaluation.join(scores, outcomes.tested(pooled, groups))
  regrets = evaluation.regrets(joined)
  return contents.Results(
    tables=study.Tables(
      scores=joined,
      members=members,
      picks=picks.picks(joined),
      regrets=regrets,
      by_budget=evaluation.by_budget(regrets),
      deltas=evaluation.deltas(regrets, [1, 2]),
      correlations=evaluation.correlations(joined),
    ),
    trials=trials,
    groups=groups,
    costs=files.read(folder / 'costs.csv'),
    slices=files.read(folder / 'slices.csv'),
  )


def task_groups() -> dict[str, str]:
  """The tasks of both of [EXP]'s benchmarks."""
  groups = {name: task.group for name, task in vtab.TASKS.items()}
  return groups | {f'{name} (full)': summary.NATURAL_SIX for name in natural6.TASKS}


def _ranked(task: str, members: pd.DataFrame, strategy: str, score: np.ndarray) -> pd.DataFrame:
  table = members[['model', 'kind']].assign(
    task=task, strategy=strategy, score=np.clip(score, 0, 1)
  )
  candidates = table.kind != 'random'
  if strategy in ('epn', 'kl'):
    candidates &= table.kind.isin(['full', 'adapter'])
    table.loc[~candidates, 'score'] = np.nan
  if strategy == 'task_agnostic':
    table.loc[table.kind == 'callable', 'score'] = 1
  own = table.score.where(candidates)
  table['rank'] = own.rank(method='first', ascending=False)
  return table.assign(low=table.score - 0.03, high=table.score + 0.03, p_value=0.04)


def _trials(rng: np.random.Generator, task: str, model: str, accuracy: float) -> pd.DataFrame:
  rows, settings = [], [(lr, steps) for lr in (0.2, 0.02) for steps in (2500, 10_000)]
  for selection in range(10):
    found = np.clip(accuracy - 0.03 + 0.01 * rng.normal(size=4), 0, 1)
    rows += [
      (*setting, selection, selection, 'validation', a) for setting, a in zip(settings, found)
    ]
    best = settings[int(found.argmax())]
    tested = np.clip(accuracy + 0.005 * rng.normal(size=3), 0, 1)
    rows += [(*best, 3 * selection + i, selection, 'test', a) for i, a in enumerate(tested)]
  columns = ['lr', 'steps', 'seed', 'selection', 'split', 'accuracy']
  return pd.DataFrame(rows, columns=columns).assign(task=task, model=model)


def _bootstrap(cluster: bool) -> float:
  groups = {name: task.group for name, task in vtab.TASKS.items()}
  rng = np.random.default_rng(0)
  runs = [
    _trials(rng, task, f'model {i}', rng.uniform(0.3, 0.9))
    for task in groups
    for i in range(_METHODS)
  ]
  trials = pd.concat(runs, ignore_index=True)
  chosen = trials[['task', 'model']].drop_duplicates().assign(upstream='')
  began = time.perf_counter()
  table = summary.summarise(chosen.assign(method=chosen.model), trials, groups, cluster=cluster)
  seconds = time.perf_counter() - began
  if len(table) != _METHODS * (19 + 4) or table.low.isna().any():
    raise ValueError(f'{len(table)} rows, {table.low.isna().sum()} without an interval')
  return seconds


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--out', default='', help='folder to leave the simulated results and their report in'
  )
  given = parser.parse_args()
  rows = [
    [f'bootstrap, {form}', f'{_bootstrap(form == "by selection"):.1f}', '10', '']
    for form in ('plain', 'by selection')
  ]
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(given.out or scratch)
    folder.mkdir(parents=True, exist_ok=True)
    groups = task_groups()
    members = simulate(folder, groups, experts=21)
    began = time.perf_counter()
    path = page.write(load(folder, members, groups), folder / 'report')
    seconds = time.perf_counter() - began
    size = path.stat().st_size / 2**20
    trials = len(files.read(folder / 'trials.csv'))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  rows.append(
    [
      f'report of {trials:,} trials, {len(members)} models, {len(groups)} tasks',
      f'{seconds:.1f}',
      '30',
      f'{peak:.2f}',
    ]
  )
  print(
    tabulate.tabulate(
      rows, ['what', 'seconds', 'at most', 'peak GiB'], 'pipe', disable_numparse=True
    )
  )
  print(f'index.html: {size:.1f} MiB')


if __name__ == '__main__':
  main()
