"""What the report consists of: the papers' tables and figures, as far as the results hold their data."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import pandas as pd

from experts.reporting import figures_results, intake, outcomes, picks, study, summary, tables

EXP, OURS = '[EXP]', 'ours'
_DAT = outcomes.COMPETITOR, 'Domain-adaptive transfer'
# [EXP] Tables 2 and 5, in percent.
PUBLISHED = pd.DataFrame(
  [
    ('JFT', 'Baseline', 77.4, 81.6, 57.2, 69.8),
    ('JFT', 'Full (kNN)', 79.7, 83.6, 55.3, 70.2),
    ('JFT', 'All Experts (kNN)', 80.0, 83.7, 58.6, 71.8),
    ('IN21k', 'Full (kNN)', 78.3, 83.4, 59.4, 71.4),
  ],
  columns=['upstream', 'method', *summary.GROUPS, summary.ALL],
)
# So many models of each task are listed.
_RANKED = 10
_NO_SIX = 'no fine-tuned task is one of the natural six: select and transfer tasks whose data are natural6:TASK'


@dataclasses.dataclass(frozen=True)
class Results:
  """All that the report shows.

  Attributes:
    tables: scores, members and what follows from them; see `study.Tables`. The scores are joined with the accuracies.
    trials: task, model, split, accuracy and settings, as `results.read_trials` returns; empty before any fine-tuning.
    groups: task -> group of tasks (`summary.GROUPS`, `NATURAL_SIX`, `OTHER`); with `paper`, of its tasks too.
    costs: task, method, images, seconds; None if nobody measured.
    slices: kind, slice, images, accuracy, baseline accuracy; None if no experts were trained.
    paper: upstream, method, and a column of percentages for each task: published figures to show beside ours.
    strategy: the one that chose what was fine-tuned.
    budget: how many of its first choices were tried.
    cluster: whether intervals resample selections, then the retrains within each.
    tasks: what each task's data are, as `results.read_tasks` returns; None if nobody wrote it down.
  """

  tables: study.Tables
  trials: pd.DataFrame
  groups: Mapping[str, str]
  costs: pd.DataFrame | None = None
  slices: pd.DataFrame | None = None
  paper: pd.DataFrame | None = None
  strategy: str = 'knn'
  budget: int = 1
  cluster: bool = False
  tasks: pd.DataFrame | None = None


@dataclasses.dataclass(frozen=True)
class Part:
  """A table or a figure of the report.

  Attributes:
    name: of its files.
    title: what it shows.
    section: heading that it stands under.
    about: how to read it.
    table: what it shows, shares in [0, 1]; a column 'X low' and 'X high' hold the interval of 'X'.
    percent: columns that are shares.
    foot: that many last rows are means, which stay last when the table is sorted.
    figure: PNG in the report's folder.
    lacking: why there is neither, and which run would change that.
  """

  name: str
  title: str
  section: str
  about: str = ''
  table: pd.DataFrame | None = None
  percent: Sequence[str] = ()
  foot: int = 0
  figure: str = ''
  lacking: str = ''


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
  name, method = _DAT
  tasks = results.trials.task[results.trials.model == name].unique()
  chosen = pd.concat(
    [
      chosen,
      pd.DataFrame({'task': tasks}).assign(upstream='', method=method, model=name, strategy='knn'),
    ]
  )
  tested = set(results.trials.task[results.trials.split == 'test'])
  means = summary.summarise(
    chosen[chosen.task.isin(tested)], results.trials, results.groups, cluster=results.cluster
  )
  papers = chosen[chosen.strategy.isin(['', *summary.STRATEGIES])].method.unique()
  knn = chosen[chosen.strategy.isin(['', 'knn'])].method.unique()
  return [
    _overview(results),
    _ranking(results),
    *_of_vtab(results, means, papers, knn),
    *_of_six(results, means, knn),
    _picks(results),
    _settings(results, chosen[chosen.method.isin(knn)]),
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


def _of_vtab(
  results: Results, means: pd.DataFrame, papers: Sequence[str], knn: Sequence[str]
) -> list[Part]:
  """Tables 1, 2, 5 and 6; of other tasks, where there are none of VTAB's."""
  section = f'As in {EXP} Tables 1, 2, 5, 6: VTAB-1k'
  rest = means[~means.name.isin(_tasks_of(results.groups, summary.NATURAL_SIX))]
  rest = rest[rest.name != summary.NATURAL_SIX]
  groups = rest[rest.level == 'group']
  of_vtab = [
    t for t in rest.name[rest.level == 'task'].unique() if results.groups.get(t) in summary.GROUPS
  ]
  number = sum(summary.GROUPS.values())
  counted = (
    f'Means over tasks ({len(of_vtab)} of VTAB-1k’s {number}) of the median of the retrained models’ test accuracies; “all” '
    'is the mean over VTAB’s tasks.'
  )
  if not of_vtab:
    counted = (
      'Means over tasks of the median of the retrained models’ test accuracies. None of the tasks is VTAB-1k’s: for the '
      'paper’s figures select and transfer tasks whose data are vtab:TASK.'
    )
  elif len(of_vtab) < number:
    counted += ' So they do not compare with the paper’s over all of them.'
  specs = (
    (1, 'Test accuracy of each way to choose, by group of tasks', 'group', None, False, counted),
    (2, 'Test accuracy of the baseline and of what kNN chooses, by group of tasks', 'group', knn, False, counted),
    (5, 'Test accuracy of the paper’s ways to choose, by group of tasks, with intervals', 'group', papers, True, f'{counted} {_interval(results)}'),
    (6, 'Test accuracy of the paper’s ways to choose, by task', 'task', papers, False, 'Medians of the retrained models’ test accuracies.'),
  )  # fmt: skip
  parts = []
  for number, title, level, methods, intervals, about in specs:
    part = Part(f'exp_table_{number}', f'Table {number}: {title}', section, about)
    source = rest if level == 'task' else groups
    shown = source if methods is None else source[source.method.isin(methods)]
    if shown.value.notna().any():
      table = summary.wide(shown, level, intervals)
      table = _beside(table, _of_paper(results, level, of_vtab), every=number in (5, 6))
      about += _diverged(rest if methods is None else rest[rest.method.isin(methods)])
      parts.append(dataclasses.replace(part, about=about, table=table, percent=list(table)[3:]))
    else:
      lacking = (
        figures_results.NO_TRIALS
        if source.empty
        else f"{figures_results.NO_TRIALS} with config.transfer.models='all'"
      )
      parts.append(dataclasses.replace(part, lacking=lacking))
  return parts


def _diverged(means: pd.DataFrame) -> str:
  """Says how many of the methods' runs diverged; empty if none did."""
  by_task = means[means.level == 'task']
  counts = by_task.groupby(['upstream', 'method'], sort=False)[['diverged', 'runs']].sum()
  named = [
    f'{" ".join(filter(None, row.Index))} {row.diverged} of {row.runs}'
    for row in counts[counts.diverged > 0].itertuples()
  ]
  return f' Runs that diverged, and count as nothing right: {", ".join(named)}.' if named else ''


def _of_paper(results: Results, level: str, tasks: Sequence[str]) -> pd.DataFrame | None:
  """The paper's figures for those tasks, as shares."""
  every = len(tasks) == sum(summary.GROUPS.values())
  if results.paper is None:
    table = PUBLISHED if level == 'group' and every else None
  else:
    named = [task for task in tasks if task in results.paper]
    table = results.paper[['upstream', 'method', *named]] if named else None
    if table is not None and level == 'group':
      table = summary.group_means(table, results.groups)
  return None if table is None else _shares(table)


def _shares(table: pd.DataFrame) -> pd.DataFrame:
  numbers = [c for c in table if c not in ('upstream', 'method')]
  return table.assign(**{c: table[c] / 100 for c in numbers})


def _beside(ours: pd.DataFrame, paper: pd.DataFrame | None, every: bool) -> pd.DataFrame:
  """Puts the paper's rows of a method behind ours of the same; with `every`, also those that we have none of."""
  ours = ours.assign(source=OURS)
  order = list(ours.method.unique())
  if paper is not None:
    paper = paper.assign(source=EXP)
    if not every:
      paper = paper[paper.method.isin(order)]
    order += [method for method in paper.method.unique() if method not in order]
    ours = pd.concat([ours, paper])
  ours = ours.iloc[ours.method.map(order.index).argsort(kind='stable')]
  return ours[
    [
      'source',
      'upstream',
      'method',
      *(c for c in ours if c not in ('source', 'upstream', 'method')),
    ]
  ]


def _of_six(results: Results, means: pd.DataFrame, knn: Sequence[str]) -> list[Part]:
  section = f'As in {EXP} Tables 3, 8: the natural six, beside domain-adaptive transfer'
  six = _tasks_of(results.groups, summary.NATURAL_SIX)
  of_six = means[means.method.isin([*knn, _DAT[1]]) & means.name.isin([*six, summary.NATURAL_SIX])]
  about = (
    'Means of the retrained models’ test accuracies; of pets, the mean of per-class accuracies.'
  )
  title = 'Test accuracy of the baseline, of what kNN chooses and of domain-adaptive transfer'
  specs = (
    (3, f'{title}, by task', False, about),
    (8, f'{title}, with intervals', True, f'{about} {_interval(results)}'),
  )
  parts = []
  for number, title, intervals, text in specs:
    part = Part(f'exp_table_{number}', f'Table {number}: {title}', section, text)
    if of_six.value.notna().any():
      table = summary.wide(of_six, 'task', intervals).merge(
        summary.wide(of_six, 'group', intervals), on=['upstream', 'method'], how='left'
      )
      text += _diverged(of_six)
      parts.append(dataclasses.replace(part, about=text, table=table, percent=list(table)[2:]))
    else:
      parts.append(dataclasses.replace(part, lacking=_NO_SIX))
  return parts


def _picks(results: Results) -> Part:
  part = Part(
    'exp_table_4',
    'Table 4: The model that kNN chooses for each task, by part of the pool',
    f'As in {EXP} Tables 4, 7: what was chosen',
    'Of the full experts, of the adapter experts and of all models, the baseline among each; of several that the budget pays '
    'for, the best on validation. The margin is the score minus '
    'the baseline’s, p_value that of McNemar’s test that the two are equally good.',
  )
  if results.tables.picks.empty:
    return dataclasses.replace(
      part, lacking="there are no ranks of the strategy 'knn': run the phase 'select' with it"
    )
  table = picks.wide(results.tables.picks)
  percent = [c for c in table if c.endswith((' score', ' margin'))]
  return dataclasses.replace(part, table=table, percent=percent)


def _settings(results: Results, chosen: pd.DataFrame) -> Part:
  part = Part(
    'exp_table_7',
    'Table 7: The settings of fine-tuning that validation chose for each task',
    f'As in {EXP} Tables 4, 7: what was chosen',
    'Of the baseline and of the models that kNN chooses, for most of the retrained models; validation is the best accuracy '
    'in a sweep.',
  )
  table = summary.settings(results.trials)
  table = table.merge(chosen[['task', 'model']].drop_duplicates(), on=['task', 'model'])
  if table.empty:
    return dataclasses.replace(part, lacking=figures_results.NO_TRIALS)
  return dataclasses.replace(part, table=table, percent=['validation'])


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
  by_cost = means[(means.level == 'task') & means.method.isin(['All Experts (kNN)', _DAT[1]])]
  by_cost = by_cost.assign(
    method=by_cost.method.map({'All Experts (kNN)': 'selection', _DAT[1]: _DAT[0]})
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
    about, _shares(table), list(table)[2:],
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


def _interval(results: Results) -> str:
  how = 'of selections, then of retrains within each' if results.cluster else 'of runs'
  return f'In brackets: 95 % percentile bootstrap {how}, 10,000 resamples; tasks are fixed.'


def _tasks_of(groups: Mapping[str, str], name: str) -> list[str]:
  return [task for task, group in groups.items() if group == name]
