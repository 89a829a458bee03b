"""What the report consists of: the papers' tables and figures, as far as the results hold their data."""

import dataclasses
import os
import pathlib

import pandas as pd

from experts.reporting import (
  figures_results,
  intake,
  outcomes,
  paper_tables,
  study,
  summary,
  tables,
)
from experts.reporting.paper_tables import DAT, EXP, PUBLISHED
from experts.reporting.parts import Part, Results

# So many models of each task are listed.
_RANKED = 10


def collect(results: Results, folder: str | os.PathLike) -> list[Part]:
  """Computes the tables and draws the figures.

  Args:
    results: what there is.
    folder: where PNGs and their data go; it exists.

  Returns:
    All parts in their order, those that lack data among them.
  """
  chosen = summary.methods(
    results.tables.scores, results.tables.members, results.trials, results.budget
  )
  name = outcomes.COMPETITOR
  tasks = results.trials.task[results.trials.model == name].unique()
  dat = pd.DataFrame({'task': tasks}).assign(upstream='', method=DAT, model=name, strategy='knn')
  chosen = pd.concat([chosen, dat])
  tested = set(results.trials.task[results.trials.split == 'test'])
  means = summary.summarise(
    chosen[chosen.task.isin(tested)], results.trials, results.groups, cluster=results.cluster
  )
  papers = chosen[chosen.strategy.isin(['', *summary.STRATEGIES])].method.unique()
  knn = chosen[chosen.strategy.isin(['', 'knn'])].method.unique()
  return [
    _overview(results),
    _ranking(results),
    *paper_tables.vtab(results, means, papers, knn),
    *paper_tables.natural_six(results, means, knn),
    paper_tables.choices(results),
    paper_tables.settings(results, chosen[chosen.method.isin(knn)]),
    _costs(results),
    *_figures(results, means[means.method.isin(papers)], folder),
    _published(results),
    *_tasks(results),
  ]


def _overview(results: Results) -> Part:
  part = Part(
    'table',
    'What was chosen for each task, and what there was to choose from',
    'Results',
    ' '.join(
      (
        'Test accuracies after fine-tuning: medians over the retrained models, of the natural six means.',
        *(f'{line}.' for line in intake.cautions(results.tasks)),
      )
    ),
  )
  scores = results.tables.scores
  if lacking := _no_rank(results):
    return dataclasses.replace(part, lacking=lacking)
  table = tables.report_table(
    scores, results.trials, results.strategy, results.budget, results.groups
  )
  percent = [c for c in table if c.endswith((' accuracy', ' kNN', ' linear'))]
  if diverged := int(results.trials.accuracy.isna().sum()):
    about = (
      f'{part.about} {diverged} of {len(results.trials)} fine-tunes diverged. What diverged counts as nothing right in every '
      'statistic, and is chosen nowhere: where all that the budget pays for diverged in their sweeps, the choice is the '
      'next-ranked that was fine-tuned and did not, the baseline among them.'
    )
    part = dataclasses.replace(part, about=about)
  return dataclasses.replace(part, table=table, percent=percent, foot=1)


def _ranking(results: Results) -> Part:
  part = Part(
    'ranking',
    f'The first {_RANKED} models of each task',
    'Results',
    f'By the strategy {results.strategy}, the baseline whatever its rank; without a rank the controls, which are never '
    'chosen: the best three of the untrained networks, the checkpoints of the baseline and the experts on random slices. '
    'scores.csv has all.',
  )
  if lacking := _no_rank(results):
    return dataclasses.replace(part, lacking=lacking)
  table = tables.ranking(results.tables.scores, results.strategy, _RANKED, controls=3)
  # Of accuracies there are intervals.
  percent = [c.removesuffix(' low') for c in table if c.endswith(' low')]
  return dataclasses.replace(part, table=table, percent=percent)


def _no_rank(results: Results) -> str:
  scores = results.tables.scores
  if ((scores.strategy == results.strategy) & scores['rank'].notna()).any():
    return ''
  return f"no model has a rank of the strategy '{results.strategy}': run the phase 'select' with it"


def _costs(results: Results) -> Part:
  part = Part(
    'exp_cost', 'What a network for a task costs before it is fine-tuned', f'{EXP} §6.6: Cost'
  )
  if results.costs is None or 'selection' not in set(results.costs.method):
    return dataclasses.replace(part, lacking=figures_results.NO_COSTS)
  return dataclasses.replace(part, table=tables.cost_table(results.costs))


def _figures(results: Results, means: pd.DataFrame, folder: str | os.PathLike) -> list[Part]:
  drawn = {figure.name: figure for figure in study.write_all(results.tables, folder)}
  path = pathlib.Path(folder)
  draw = figures_results
  by_cost = means[(means.level == 'task') & means.method.isin(['All Experts (kNN)', DAT])]
  by_cost = by_cost.assign(
    method=by_cost.method.map({'All Experts (kNN)': 'selection', DAT: outcomes.COMPETITOR})
  )
  by_cost = by_cost.drop_duplicates(['method', 'name'])
  by_cost = by_cost.rename(columns={'name': 'task', 'value': 'accuracy'})
  own = [
    ('slices', 'Experts on the test images of their slices, against the baseline (after [EXP])', draw.slices(results.slices, path / 'slices.png')),
    ('groups', 'Test accuracy of each method by group of tasks, with 95 % intervals (after [EXP])', draw.groups(means, path / 'groups.png')),
    ('cost', 'Images looked at for a task against accuracy: selection and domain-adaptive transfer (after [EXP] §6.6)', draw.cost(results.costs, by_cost[['task', 'method', 'accuracy']], path / 'cost.png')),
  ]  # fmt: skip
  drawn |= {f'{name}.png': study.Figure(f'{name}.png', *rest) for name, *rest in own}
  order = ('slices', 'groups', 'ranked', 'gain', 'proxy', 'cost', 'checkpoints', 'controls')
  first = [drawn.pop(f'{name}.png') for name in order]
  sections = (
    (f'As in {EXP} Figures 2, 4–8, 10, 11: experts, proxies and cost', first),
    ('As in [WHICH] Figures 3–7: strategies and models', drawn.values()),
  )
  return [
    Part(
      f.name.removesuffix('.png'),
      f.caption,
      section,
      figure='' if f.lacking else f.name,
      lacking=f.lacking,
    )
    for section, figures in sections
    for f in figures
  ]


def _published(results: Results) -> Part:
  """The paper's figures over all its tasks, whatever ours are."""
  if results.paper is None:
    table = PUBLISHED
  else:
    table = summary.group_means(results.paper, results.groups)
  about = 'Means over all 19 tasks and their groups. They stand beside ours above where the tasks are the same.'
  return Part(
    'exp_published', 'The paper’s own figures on VTAB-1k', f'{EXP} As published (Tables 2 and 5)',
    about, paper_tables.shares(table), list(table)[2:],
  )  # fmt: skip


def _tasks(results: Results) -> list[Part]:
  """What the tasks' images are, where the results say so."""
  if results.tasks is None:
    return []
  drift = results.tasks.drift
  in_words = ['not the papers’ version' if each is True else None for each in drift.tolist()]
  about = (
    'The data of each task, its images to fit, to choose settings by (validation) and to test on, and how it is measured: '
    'the metric of a run, and the statistic over runs.'
  )
  changed = results.tasks.task[drift.eq(True)]
  if len(changed):
    about += f' Not the papers’ version: {", ".join(changed)}; their figures do not compare with the papers’.'
  table = results.tasks.assign(drift=pd.Series(in_words, results.tasks.index, dtype=object))
  read = intake.table(results.tasks)
  if read is None:
    return [Part('tasks', 'Tasks: data and versions', 'Data', about, table)]
  found = (
    'Where the images to choose by and to test on come from, the images to learn from of the smallest and the largest '
    'class, what lay there and was not read, and images that are there twice, pixel for pixel.'
  )
  return [
    Part(
      'tasks',
      'Tasks: data and versions',
      'Data',
      about,
      table.drop(columns=list(intake.COLUMNS[1:])),
    ),
    Part('intake', 'Tasks: what was read', 'Data', found, read),
  ]
