"""The tables of [EXP], in its form: our figures, and beside them the paper's over the same tasks."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from experts.reporting import figures_results, picks, summary
from experts.reporting.parts import Part, Results

EXP, OURS = '[EXP]', 'ours'
DAT = 'Domain-adaptive transfer'
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
_NO_SIX = 'no fine-tuned task is one of the natural six: select and transfer tasks whose data are natural6:TASK'


def vtab(
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
  return None if table is None else shares(table)


def shares(table: pd.DataFrame) -> pd.DataFrame:
  """Returns a table of published percentages with its numbers as shares."""
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


def natural_six(results: Results, means: pd.DataFrame, knn: Sequence[str]) -> list[Part]:
  """Tables 3 and 8."""
  section = f'As in {EXP} Tables 3, 8: the natural six, beside domain-adaptive transfer'
  six = _tasks_of(results.groups, summary.NATURAL_SIX)
  of_six = means[means.method.isin([*knn, DAT]) & means.name.isin([*six, summary.NATURAL_SIX])]
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


def choices(results: Results) -> Part:
  """Table 4."""
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


def settings(results: Results, chosen: pd.DataFrame) -> Part:
  """Table 7."""
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


def _interval(results: Results) -> str:
  how = 'of selections, then of retrains within each' if results.cluster else 'of runs'
  return f'In brackets: 95 % percentile bootstrap {how}, 10,000 resamples; tasks are fixed.'


def _tasks_of(groups: Mapping[str, str], name: str) -> list[str]:
  return [task for task, group in groups.items() if group == name]
