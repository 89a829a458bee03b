"""The report's table from scores and trials made by hand."""

import numpy as np
import pandas as pd
import pytest

from experts.reporting import tables

_KINDS = {'init': 'random', 'base': 'baseline', 'full:greek': 'full', 'full:arrow': 'full'}


def _scores(**by_task) -> pd.DataFrame:
  rows = [
    {'task': task, 'model': model, 'kind': _KINDS[model], 'strategy': 'knn', 'score': score}
    for task, models in by_task.items()
    for model, score in models.items()
  ]
  scores = pd.DataFrame(rows).assign(low=0.1, high=0.9, ties=0.0)
  return scores.assign(rank=_ranks(scores))


def _ranks(scores) -> pd.Series:
  candidates = scores[scores.kind != 'random']
  return candidates.groupby('task').score.rank(ascending=False).reindex(scores.index)


def _trials(rows) -> pd.DataFrame:
  columns = ('task', 'model', 'seed', 'split', 'accuracy')
  return pd.DataFrame(rows, columns=columns).assign(lr=0.1, steps=100)


_SCORES = _scores(
  digits={'init': 0.9, 'base': 0.6, 'full:greek': 0.7, 'full:arrow': 0.5},
  letters={'init': 0.1, 'base': 0.65, 'full:greek': 0.4, 'full:arrow': 0.3},
)
_TRIALS = _trials(
  [('digits', 'init', seed, 'test', value) for seed, value in enumerate((0.95, 0.95, 0.95))]
  + [('digits', 'base', seed, 'test', value) for seed, value in enumerate((0.5, 0.8, 0.6))]
  + [('digits', 'full:greek', seed, 'test', value) for seed, value in enumerate((0.7, 0.72, 0.1))]
  + [('digits', 'full:arrow', 0, 'test', 0.75)]
  + [('digits', 'base', 0, 'validation', 0.99)]
  + [('letters', 'init', 0, 'test', 0.15), ('letters', 'base', 0, 'test', 0.8)]
)


def test_row_names_chosen_and_best_and_takes_medians():
  row = tables.report_table(_SCORES, _TRIALS).iloc[0]
  assert row.to_dict() == {
    'task': 'digits',
    'random accuracy': 0.95,
    'baseline accuracy': 0.6,
    'chosen': 'full:greek',  # not the random network, whose score is higher
    'chosen kNN': 0.7,
    'chosen accuracy': 0.7,
    'best by hindsight': 'full:arrow',
    'best accuracy': 0.75,
    'retrains': '1 to 3',
  }


def test_tasks_of_the_natural_six_are_measured_by_the_mean():
  row = tables.report_table(_SCORES, _TRIALS, groups={'digits': 'natural six'}).iloc[0]
  assert row['baseline accuracy'] == pytest.approx(1.9 / 3)
  assert row['chosen accuracy'] == pytest.approx(1.52 / 3)
  other = tables.report_table(_SCORES, _TRIALS, groups={'digits': 'natural'})
  assert other.equals(tables.report_table(_SCORES, _TRIALS))


def test_the_best_by_hindsight_is_so_by_the_tasks_own_statistic():
  runs = {'base': (0.5, 0.5, 0.5), 'full:greek': (0.4, 0.4, 0.9)}
  trials = _trials([('digits', m, i, 'test', a) for m in runs for i, a in enumerate(runs[m])])
  best = [
    tables.report_table(_SCORES, trials, groups=groups)['best by hindsight'].iloc[0]
    for groups in (None, {'digits': 'natural six'})
  ]
  assert best == ['base', 'full:greek']


def test_baseline_may_be_chosen_and_best():
  row = tables.report_table(_SCORES, _TRIALS).iloc[1]
  assert row[['chosen', 'best by hindsight', 'retrains']].tolist() == ['base', 'base', '1']
  assert row[['baseline accuracy', 'chosen accuracy', 'best accuracy']].tolist() == [0.8] * 3


def test_last_row_is_the_mean_over_tasks():
  mean = tables.report_table(_SCORES, _TRIALS).iloc[-1]
  assert mean.task == 'mean'
  assert mean['random accuracy'] == pytest.approx((0.95 + 0.15) / 2)
  assert mean['baseline accuracy'] == pytest.approx(0.7)
  assert mean['chosen accuracy'] == pytest.approx(0.75)
  assert mean['best accuracy'] == pytest.approx(0.775)
  assert mean['chosen kNN'] == pytest.approx(0.675)


def test_mean_over_other_tasks_than_its_neighbours_is_not_shown():
  trials = _TRIALS[~((_TRIALS.task == 'letters') & (_TRIALS.model == 'init'))]
  table = tables.report_table(_SCORES, trials)
  assert np.isnan(table['random accuracy'].iloc[1])
  assert np.isnan(table['random accuracy'].iloc[-1])
  assert not np.isnan(table['baseline accuracy'].iloc[-1])


def test_on_equal_accuracy_the_chosen_model_is_the_best():
  trials = _trials([('digits', m, 0, 'test', 0.8) for m in ('base', 'full:greek', 'full:arrow')])
  assert tables.report_table(_SCORES, trials)['best by hindsight'].iloc[0] == 'full:greek'


def test_nothing_fine_tuned_leaves_dashes():
  table = tables.report_table(_SCORES, _TRIALS[:0])
  assert table['chosen'].tolist()[:2] == ['full:greek', 'base']
  line = tables.to_markdown(table).splitlines()[2]
  assert [cell.strip() for cell in line.strip('|').split('|')] == [
    'digits', '–', '–', 'full:greek', '70.0', '–', '–', '–', '0'
  ]  # fmt: skip


def test_runs_that_diverged_are_counted_and_got_nothing_right():
  trials = _trials(
    [('digits', m, seed, 'test', a) for m in ('base', 'full:greek') for seed, a in enumerate((0.8, 0.7))]
    + [('digits', 'full:greek', 2, 'test', np.nan), ('digits', 'full:greek', 3, 'test', np.nan)]
    + [('letters', 'base', 0, 'validation', np.nan)]
  )  # fmt: skip
  table = tables.report_table(_SCORES, trials).set_index('task')
  assert table['chosen accuracy']['digits'] == pytest.approx(0.35)
  assert table['best by hindsight']['digits'] == 'base'
  assert table.retrains[['digits', 'letters']].tolist() == [
    '2 to 4, 2 of 6 diverged', '1, 1 of 1 diverged'
  ]  # fmt: skip
  assert table['baseline accuracy']['letters'] == 0


def test_other_strategies_do_not_mix_in():
  other = _SCORES.assign(strategy='linear', score=1 - _SCORES.score)
  other = other.assign(rank=_ranks(other))
  both = pd.concat([_SCORES, other])
  assert tables.report_table(both, _TRIALS).equals(tables.report_table(_SCORES, _TRIALS))
  assert tables.report_table(both, _TRIALS, 'linear').chosen.iloc[0] == 'full:arrow'


def test_unknown_strategy_lists_the_known_ones():
  with pytest.raises(ValueError, match=r"no scores of the strategy 'logme'; there are: knn"):
    tables.report_table(_SCORES, _TRIALS, 'logme')


def test_task_with_random_models_only_is_named():
  with pytest.raises(ValueError, match="task 'digits' has no model with a rank"):
    tables.report_table(_scores(digits={'init': 0.5}), _TRIALS)


def test_markdown_is_a_table_in_percent_with_one_decimal():
  frame = pd.DataFrame({'model': ['a|b', 'c'], 'score': [0.67049, np.nan], 'images': [1200, 7]})
  assert tables.to_markdown(frame).splitlines() == [
    '| model   |   score % |   images |',
    '|:--------|----------:|---------:|',
    '| a\\|b    |      67.0 |     1200 |',
    '| c       |         – |        7 |',
  ]


def test_terminal_form_aligns_numbers_to_the_right():
  frame = pd.DataFrame({'task': ['digits', 'x'], 'best accuracy': [0.5, 1.0]})
  assert tables.to_terminal(frame).splitlines() == [
    'task      best %',
    '------  --------',
    'digits      50.0',
    'x          100.0',
  ]


def test_the_competitors_network_has_its_own_column():
  trials = pd.concat([_TRIALS, _trials([('digits', 'dat', 0, 'test', 0.77)])])
  table = tables.report_table(_SCORES, trials)
  assert table['dat accuracy'].iloc[0] == 0.77
  assert table['dat accuracy'].iloc[1:].isna().all()
  # It is no model of the pool that could have been chosen.
  assert table['best accuracy'].iloc[0] == 0.75
  assert 'dat accuracy' not in tables.report_table(_SCORES, _TRIALS)


def test_costs_are_a_task_and_relative_to_selection():
  costs = pd.DataFrame(
    [
      ('a', 'selection', 1000, 2.0),
      ('b', 'selection', 3000, 4.0),
      ('a', 'dat', 500_000, 900.0),
      ('b', 'dat', 500_000, float('nan')),
    ],
    columns=('task', 'method', 'images', 'seconds'),
  )
  table = tables.cost_table(costs).set_index('method')
  assert table['images a task'].to_dict() == {'selection': 2000, 'dat': 500_000}
  assert table['images, times selection'].to_dict() == {'selection': 1.0, 'dat': 250.0}
  # One unknown time leaves the mean unknown.
  assert table['seconds a task']['selection'] == 3.0
  assert np.isnan(table['seconds, times selection']['dat'])


def test_of_those_tried_under_a_budget_the_best_on_validation_is_chosen():
  sweeps = _trials(
    [('digits', 'base', 0, 'validation', 0.7), ('digits', 'full:greek', 0, 'validation', 0.6)]
    + [('digits', 'full:arrow', 0, 'validation', 0.99), ('letters', 'base', 0, 'validation', 0.1)]
  )
  part = _SCORES[_SCORES.task == 'digits']
  # Ranks: greek, base, arrow; the random network has none.
  chosen = [tables.choose(part, sweeps, budget).model for budget in (1, 2, 3)]
  assert chosen == ['full:greek', 'base', 'full:arrow']


def _ranked(*models) -> pd.DataFrame:
  rows = [('t', model, kind, rank) for rank, (model, kind) in enumerate(models, 1)]
  return pd.DataFrame(rows, columns=['task', 'model', 'kind', 'rank'])


def _swept(**accuracies) -> pd.DataFrame:
  rows = [('t', model, i, 'validation', a) for i, (model, a) in enumerate(accuracies.items())]
  return _trials(rows)


@pytest.mark.parametrize(
  ('kinds', 'swept', 'budget', 'chosen'),
  [
    ({'a': 'full', 'b': 'full', 'c': 'full'}, {'a': 0.5, 'b': 0.6, 'c': 0.9}, 1, 'a'),
    # The better of two; the third, better still, is not paid for.
    ({'a': 'full', 'b': 'full', 'c': 'full'}, {'a': 0.5, 'b': 0.6, 'c': 0.9}, 2, 'b'),
    ({'a': 'full', 'b': 'full'}, {'a': 0.6, 'b': 0.6}, 2, 'a'),
    # What can only be ranked costs no budget.
    ({'x': 'callable', 'a': 'full', 'b': 'full'}, {'a': 0.5, 'b': 0.6}, 2, 'b'),
    ({'x': 'callable', 'a': 'full', 'b': 'full'}, {'a': 0.5, 'b': 0.6}, 1, 'a'),
    # Unless somebody did fine-tune it.
    ({'x': 'callable', 'a': 'full'}, {'x': 0.5, 'a': 0.6}, 1, 'x'),
    ({'x': 'callable', 'y': 'embeddings'}, {}, 2, 'x'),
    ({'x': 'callable', 'a': 'full'}, {}, 2, 'x'),
    # As long as the second was not tried, the choice is open.
    ({'a': 'full', 'b': 'full'}, {'a': 0.5}, 2, 'b'),
    # What diverged is never chosen, but where all did.
    ({'a': 'full', 'b': 'full'}, {'a': np.nan, 'b': 0.1}, 2, 'b'),
    ({'a': 'full', 'b': 'full'}, {'a': np.nan, 'b': np.nan}, 2, 'a'),
    # The budget comes first: what it pays for and is sound is chosen, however good the next.
    ({'a': 'full', 'b': 'full', 'c': 'full'}, {'a': np.nan, 'b': 0.1, 'c': 0.9}, 2, 'b'),
    # Where all that it pays for diverged, the next by rank that did not, the baseline among them.
    ({'a': 'full', 'b': 'full', 'c': 'full'}, {'a': np.nan, 'b': 0.1, 'c': 0.9}, 1, 'b'),
    ({'a': 'full', 'b': 'full', 'B': 'baseline'}, {'a': np.nan, 'B': 0.3}, 1, 'B'),
    ({'a': 'full', 'x': 'callable', 'B': 'baseline'}, {'a': np.nan, 'B': np.nan}, 1, 'a'),
  ],
)
def test_the_choice_under_a_budget(kinds, swept, budget, chosen):
  assert tables.choose(_ranked(*kinds.items()), _swept(**swept), budget).model == chosen


def test_where_all_diverged_a_baseline_without_a_rank_is_left_but_no_control():
  scores = _ranked(('a', 'full'), ('r', 'control'), ('B', 'baseline')).assign(rank=[1, None, None])
  assert tables.choose(scores, _swept(a=np.nan, r=0.9, B=0.3)).model == 'B'
  # It costs no budget, and is no rival of what is sound.
  assert tables.choose(scores, _swept(a=0.1, r=0.9, B=0.3), 2).model == 'a'


def test_the_ranking_lists_the_first_the_baseline_and_controls():
  scores = pd.DataFrame(
    [
      ('t', 'a', 'full', 'knn', 0.9, 1),
      ('t', 'b', 'full', 'knn', 0.8, 2),
      ('t', 'base', 'baseline', 'knn', 0.5, 3),
      ('t', 'like a', 'control', 'knn', 0.95, np.nan),
      ('t', 'init', 'random', 'knn', 0.1, np.nan),
      ('t', 'lost', 'full', 'knn', np.nan, np.nan),
      ('t', 'a', 'full', 'logme', -1.5, 1),
    ],
    columns=['task', 'model', 'kind', 'strategy', 'score', 'rank'],
  ).assign(low=lambda t: t.score - 0.1, high=lambda t: t.score + 0.1)
  table = tables.ranking(scores, 'knn', 1, controls=1)
  assert table.model.tolist() == ['a', 'base', 'like a']
  assert table['rank'].tolist() == [1, 3, pd.NA]
  assert tables.ranking_to_terminal(table).splitlines()[2].split() == [
    't', '1', 'a', 'full', '90.0', '80.0', 'to', '100.0'
  ]  # fmt: skip
  # What is no share is no percentage.
  (line,) = tables.ranking_to_terminal(
    tables.ranking(scores.drop(columns=['low', 'high']), 'logme', 5)
  ).splitlines()[2:]
  assert line.split() == ['t', '1', 'a', 'full', '-1.5']


def test_controls_are_neither_chosen_nor_the_best_by_hindsight():
  scores = _SCORES[_SCORES.task == 'digits'].copy()
  trials = _TRIALS
  for kind in ('checkpoint', 'control'):
    row = scores.iloc[[1]].assign(model=kind, kind=kind, score=0.99, rank=np.nan)
    scores = pd.concat([scores, row])
    trials = pd.concat([trials, _trials([('digits', kind, 0, 'test', 1.0)])])
  with_controls = tables.report_table(scores, trials)
  assert with_controls.equals(tables.report_table(_SCORES[_SCORES.task == 'digits'], _TRIALS))


def test_a_bar_ends_no_cell_of_markdown_and_is_itself_on_a_terminal():
  table = pd.DataFrame({'task': ['a|b'], 'c|d': ['x']})
  head, _, row = tables.to_markdown(table).splitlines()
  assert head.replace(' ', '') == r'|task|c\|d|'
  assert row.replace(' ', '') == r'|a\|b|x|'
  assert tables.to_terminal(table).splitlines()[-1].split() == ['a|b', 'x']
