"""Groups and methods by hand, and the papers' tables from their figures by task."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from experts.data import vtab
from experts.reporting import contents, statistics, summary

_GROUPS = {name: task.group for name, task in vtab.TASKS.items()}
_PAPER = (
  pathlib.Path(__file__).resolve().parents[2].parent / 'shared' / 'paper' / 'vtab1k_per_task.csv'
)
_NAN = float('nan')


@pytest.fixture
def paper() -> pd.DataFrame:
  if not _PAPER.exists():
    pytest.skip(f"no {_PAPER}: the paper's figures are not part of the project")
  return pd.read_csv(_PAPER)


@pytest.mark.parametrize(
  ('upstream', 'method', 'published'),
  # [EXP] Tables 2 and 5: natural, specialized, structured, all.
  [
    ('JFT', 'Baseline', (77.4, 81.6, 57.2, 69.8)),
    ('JFT', 'Full (kNN)', (79.7, 83.6, 55.3, 70.2)),
    ('IN21k', 'Full (kNN)', (78.3, 83.4, 59.4, 71.4)),
    ('JFT', 'All Experts (kNN)', (80.0, 83.7, 58.6, 71.8)),
  ],
)
def test_the_papers_figures_by_task_give_its_tables(paper, upstream, method, published):
  means = summary.group_means(paper, _GROUPS).set_index(['upstream', 'method'])
  # Either side is rounded to 0.1.
  np.testing.assert_allclose(means.loc[(upstream, method)], published, atol=0.1)
  of_page = contents.PUBLISHED.set_index(['upstream', 'method'])
  assert tuple(of_page.loc[(upstream, method)]) == published


def test_table_1_has_a_misprint(paper):
  means = summary.group_means(paper, _GROUPS).set_index(['upstream', 'method'])
  # Table 5 says 78.0, Table 1 says 77.6.
  assert means.loc[('JFT', 'Full (KL)'), 'natural'] == pytest.approx(78.0, abs=0.1)


def test_the_same_runs_give_the_papers_tables(paper):
  """Runs that scatter about the paper's medians, through the way that ours go."""
  row = paper[(paper.upstream == 'JFT') & (paper.method == 'Full (kNN)')].iloc[0]
  rows = [
    (task, 'm', 'test', row[task] / 100 + d)
    for task in _GROUPS
    for d in (-0.02, -0.001, 0, 0.001, 0.01)
  ]
  trials = pd.DataFrame(rows, columns=['task', 'model', 'split', 'accuracy'])
  chosen = pd.DataFrame({'task': list(_GROUPS), 'model': 'm', 'upstream': 'JFT', 'method': 'Full'})
  table = summary.wide(summary.summarise(chosen, trials, _GROUPS), 'group')
  assert list(table)[2:] == ['natural', 'specialized', 'structured', 'all']
  np.testing.assert_allclose(
    100 * table.iloc[0, 2:].astype(float), [79.7, 83.6, 55.3, 70.2], atol=0.1
  )


def test_a_missing_figure_leaves_its_group_out(paper):
  means = summary.group_means(paper, _GROUPS).set_index('upstream').loc['JFT+IN21k']
  assert np.isnan([means.specialized, means['all']]).all()
  assert means.natural == pytest.approx(80.2, abs=0.05)


def test_columns_that_are_no_tasks_are_refused():
  table = pd.DataFrame({'upstream': ['a'], 'method': ['b'], 'svnh': [1.0]})
  with pytest.raises(ValueError, match='no task with a group: svnh'):
    summary.group_means(table, _GROUPS)


_SCORES = pd.DataFrame(
  [
    ('t', 'B', 'baseline', 'knn', 2),
    ('t', 'full:a', 'full', 'knn', 3),
    ('t', 'adapter:a', 'adapter', 'knn', 1),
    ('t', 'random', 'random', 'knn', _NAN),
    ('t', 'full:a', 'full', 'epn', 1),
    ('t', 'adapter:a', 'adapter', 'epn', 2),
    ('t', 'B', 'baseline', 'epn', _NAN),
  ],
  columns=['task', 'model', 'kind', 'strategy', 'rank'],
)


def _methods(scores=_SCORES, **upstream) -> dict:
  members = pd.DataFrame({'model': scores.model.unique()})
  members['upstream'] = [upstream.get(model, 'glyphs') for model in members.model]
  table = summary.methods(scores, members)
  return {(row.upstream, row.method): row.model for row in table.itertuples()}


def test_methods_are_first_choices_of_a_part_of_the_pool():
  assert _methods() == {
    ('glyphs', 'Baseline'): 'B',
    # The baseline is in each part, and ahead of the full expert.
    ('glyphs', 'Adapters (kNN)'): 'adapter:a', ('glyphs', 'Full (kNN)'): 'B',
    ('glyphs', 'All Experts (kNN)'): 'adapter:a',
    ('glyphs', 'Adapters (EPN)'): 'adapter:a', ('glyphs', 'Full (EPN)'): 'full:a',
    ('glyphs', 'All Experts (EPN)'): 'full:a',
  }  # fmt: skip
  assert list(_methods())[:2] == [('glyphs', 'Baseline'), ('glyphs', 'Adapters (EPN)')]


def test_several_upstreams_have_methods_of_their_own_and_joint_ones():
  other = pd.DataFrame(
    [('t', 'C', 'baseline', 'knn', 0.5), ('t', 'mobile', 'callable', 'knn', 0)],
    columns=_SCORES.columns,
  )
  found = _methods(pd.concat([_SCORES, other]), C='photos', mobile='')
  assert found[('glyphs', 'Baseline')] == 'B'
  assert found[('photos', 'Baseline')] == 'C'
  assert found[('glyphs', 'All Experts (kNN)')] == 'adapter:a'
  assert found[('glyphs+photos', 'All Experts (kNN)')] == 'C'
  assert [model for (_, method), model in found.items() if method == 'All Models (kNN)'] == [
    'mobile'
  ]
  assert ('photos', 'Full (kNN)') not in found


def _summarise(runs: dict, groups: dict, **options) -> pd.DataFrame:
  rows = [(task, 'm', 'test', a, i) for task, values in runs.items() for i, a in enumerate(values)]
  trials = pd.DataFrame(rows, columns=['task', 'model', 'split', 'accuracy', 'selection'])
  sweep = trials.assign(split='validation', accuracy=0.99)
  chosen = pd.DataFrame({'task': [*runs]}).assign(model='m', upstream='u', method='x')
  table = summary.summarise(chosen, pd.concat([trials, sweep]), groups, **options)
  return table.set_index('name')


def test_medians_of_vtab_means_of_the_six_and_all_over_tasks():
  runs = {
    'a': [0.1, 0.2, 0.9],
    'b': [0.4],
    'c': [0.8, 0.8],
    'six': [0.1, 0.2, 0.9],
    'own': [0.3, 0.5],
  }
  groups = {'a': 'natural', 'b': 'natural', 'c': 'structured', 'six': summary.NATURAL_SIX}
  table = _summarise(runs, groups)
  assert table.value[['a', 'b', 'c', 'six', 'own']].tolist() == pytest.approx(
    [0.2, 0.4, 0.8, 0.4, 0.4]
  )
  assert table.value['natural'] == pytest.approx(0.3)
  # Of three tasks: of two groups it were 0.55.
  assert table.value['all'] == pytest.approx(1.4 / 3)
  assert table.value[summary.NATURAL_SIX] == pytest.approx(0.4)
  assert table.value[summary.OTHER] == pytest.approx(0.4)
  assert table.runs['all'] == 6
  assert table.tasks['all'] == 3
  # A task of one run has no known spread, nor has what it is in.
  assert table.low[['b', 'natural', 'all']].isna().all()
  assert table.low['a'] == pytest.approx(0.1)


def test_a_groups_interval_is_that_of_the_mean_of_independent_tasks():
  rng = np.random.default_rng(0)
  runs = {name: rng.normal(0.5, 0.02, 30) for name in 'abcdefg'}
  table = _summarise(runs, dict.fromkeys(runs, 'natural'))
  # A slow, plain bootstrap.
  draws = [np.mean([np.median(rng.choice(x, 30)) for x in runs.values()]) for _ in range(4000)]
  low, high = np.quantile(draws, [0.025, 0.975])
  width = high - low
  assert table.low['natural'] == pytest.approx(low, abs=0.06 * width)
  assert table.high['natural'] == pytest.approx(high, abs=0.06 * width)
  assert width < 0.5 * (table.high['a'] - table.low['a'])


def test_an_interval_does_not_depend_on_what_else_is_in_the_table():
  runs = {'a': [0.1, 0.2, 0.35, 0.4], 'b': [0.2, 0.25, 0.3, 0.5]}
  both, alone = _summarise(runs, {}), _summarise({'b': runs['b']}, {})
  assert (both.low['b'], both.high['b']) == (alone.low['b'], alone.high['b'])
  other = _summarise(runs, {}, seed=1)
  assert np.isfinite(other.low).all()


def test_clusters_are_selections():
  rows = [
    ('a', 'm', 'test', accuracy, s) for s, accuracy in enumerate([0.1, 0.9]) for _ in range(15)
  ]
  trials = pd.DataFrame(rows, columns=['task', 'model', 'split', 'accuracy', 'selection'])
  chosen = pd.DataFrame({'task': ['a'], 'model': 'm', 'upstream': 'u', 'method': 'x'})
  groups = {'a': summary.NATURAL_SIX}
  plain = summary.summarise(chosen, trials, groups).iloc[0]
  nested = summary.summarise(chosen, trials, groups, cluster=True).iloc[0]
  assert (nested.low, nested.high) == pytest.approx((0.1, 0.9))
  assert plain.low > 0.3


def test_what_cannot_be_resampled_by_selection_says_what_to_do():
  rows = [('a', 'm', 'test', 0.1, 0), ('a', 'm', 'test', 0.2, 0), ('a', 'm', 'test', 0.3, 1)]
  trials = pd.DataFrame(rows, columns=['task', 'model', 'split', 'accuracy', 'selection'])
  chosen = pd.DataFrame({'task': ['a'], 'model': 'm', 'upstream': 'u', 'method': 'x'})
  for without in (trials.drop(columns='selection'), trials.assign(selection=[0, 0, _NAN])):
    with pytest.raises(ValueError, match=r"column 'selection' .*: --config\.report\.cluster=False"):
      summary.summarise(chosen, without, {}, cluster=True)
  with pytest.raises(
    ValueError,
    match=r"model 'm' on task 'a': clusters must be equally large: .*--config\.report\.cluster=False",
  ):
    summary.summarise(chosen, trials, {}, cluster=True)
  # Before anything is tested there is nothing to resample.
  none = trials[:0].drop(columns='selection')
  assert summary.summarise(chosen, none, {}, cluster=True).value.isna().all()


def test_a_model_that_was_not_fine_tuned_leaves_its_group_out():
  trials = pd.DataFrame([('a', 'm', 'test', 0.5)], columns=['task', 'model', 'split', 'accuracy'])
  chosen = pd.DataFrame({'task': ['a', 'b'], 'model': 'm', 'upstream': 'u', 'method': 'x'})
  table = summary.summarise(chosen, trials, {'a': 'natural', 'b': 'natural'}).set_index('name')
  assert table.value['a'] == 0.5
  assert np.isnan(table.value['natural'])


def test_unknown_groups_are_refused():
  with pytest.raises(
    ValueError, match='unknown groups of tasks: naturel; there are: natural, special'
  ):
    _summarise({'a': [0.5, 0.6]}, {'a': 'naturel'})


def test_settings_are_those_of_most_retrains():
  rows = [
    ('a', 'm', 'validation', 0.1, 0, 0.5), ('a', 'm', 'validation', 0.2, 0, 0.6),
    ('a', 'm', 'validation', 0.1, 1, 0.7), ('a', 'm', 'test', 0.2, 0, 0.8),
    ('a', 'm', 'test', 0.1, 1, 0.8), ('a', 'm', 'test', 0.1, 1, 0.9),
  ]  # fmt: skip
  trials = pd.DataFrame(rows, columns=['task', 'model', 'split', 'lr', 'selection', 'accuracy'])
  assert summary.settings(trials).to_dict('records') == [
    {'task': 'a', 'model': 'm', 'lr': 0.1, 'validation': 0.7, 'retrains': '2 of 3'}
  ]


def test_settings_have_weight_decay_and_mixup_where_they_were_set():
  rows = [
    ('a', 'm', 'validation', 0.1, 500, 1e-4, 0.2, 0.6), ('a', 'm', 'validation', 0.1, 500, 1e-5, 0.2, 0.5),
    ('a', 'm', 'test', 0.1, 500, 1e-4, 0.2, 0.8), ('b', 'm', 'validation', 0.1, 500, _NAN, _NAN, 0.4),
    ('b', 'm', 'test', 0.1, 500, _NAN, _NAN, 0.5),
  ]  # fmt: skip
  columns = ['task', 'model', 'split', 'lr', 'steps', 'weight_decay', 'mixup', 'accuracy']
  table = summary.settings(pd.DataFrame(rows, columns=columns)).set_index('task')
  assert list(table) == ['model', 'lr', 'steps', 'weight_decay', 'mixup', 'validation', 'retrains']
  assert table.loc['a', ['weight_decay', 'mixup', 'validation']].tolist() == [1e-4, 0.2, 0.6]
  # Of an older run, whose rows have neither.
  assert table.validation['b'] == 0.4
  assert table.loc['b', ['weight_decay', 'mixup']].isna().all()


def test_intervals_are_of_the_bootstrap():
  values = [0.3, 0.5, 0.6, 0.8]
  table = _summarise({'a': values}, {})
  low, high = statistics.bootstrap(values, resamples=40_000, seed=3)
  assert (table.low['a'], table.high['a']) == pytest.approx((low, high), abs=0.03)


def test_methods_hold_the_budget_and_controls_have_methods_of_their_own():
  scores = pd.DataFrame(
    [
      ('t', 'api', 'callable', 'knn', 0.9, 1),
      ('t', 'a', 'full', 'knn', 0.8, 2),
      ('t', 'b', 'full', 'knn', 0.7, 3),
      ('t', 'B', 'baseline', 'knn', 0.6, 4),
      ('t', 'like a', 'control', 'knn', 0.5, _NAN),
      ('t', 'like b', 'control', 'knn', 0.95, _NAN),
      ('t', 'B@4', 'checkpoint', 'knn', 0.99, _NAN),
    ],
    columns=['task', 'model', 'kind', 'strategy', 'score', 'rank'],
  )
  members = pd.DataFrame({'model': scores.model}).assign(upstream='u')
  trials = pd.DataFrame(
    [('t', m, 'validation', v) for m, v in (('a', 0.5), ('b', 0.6), ('B', 0.9), ('like a', 0.9))],
    columns=['task', 'model', 'split', 'accuracy'],
  )
  found = lambda budget: (
    summary.methods(scores, members, trials, budget).set_index('method').model.to_dict()
  )
  assert found(1) == {
    'Baseline': 'B', 'Full (kNN)': 'a', 'All Experts (kNN)': 'a', 'All Models (kNN)': 'a',
    # The best of those that were fine-tuned; no checkpoint was.
    'Control: random slices (kNN)': 'like a',
  }  # fmt: skip
  two = found(2)
  assert (two['Full (kNN)'], two['All Models (kNN)']) == ('b', 'b')
  # The third of the full experts' part of the pool is the baseline.
  assert found(3)['Full (kNN)'] == 'B'
  # What is left where all that the budget pays for diverged, whether it has a rank or not.
  trials = trials.assign(accuracy=trials.accuracy.mask(trials.model.isin(['a', 'b'])))
  for rank in (4, _NAN):
    scores.loc[scores.model == 'B', 'rank'] = rank
    assert found(2)['All Models (kNN)'] == 'B'


@pytest.mark.parametrize('cluster', [False, True])
def test_runs_that_diverged_count_as_nothing_right(cluster):
  runs = {'t': [0.5, 0.6, _NAN, 0.7], 'u': [_NAN, _NAN], 'v': [0.5, 0.5]}
  table = _summarise(runs, {}, cluster=cluster)
  assert table.value[['t', 'u', 'v']].tolist() == pytest.approx([0.55, 0, 0.5])
  assert table.value['other tasks'] == pytest.approx(0.35)
  assert table.runs[['t', 'u', 'other tasks']].tolist() == [4, 2, 8]
  assert table.diverged[['t', 'u', 'v', 'other tasks']].tolist() == [1, 2, 0, 3]
  # The resampled runs hold it too.
  assert table.low['t'] < 0.5
  assert (table.low['u'], table.high['u']) == (0, 0)


def test_random_slices_of_full_and_of_adapter_experts_have_rows_of_their_own():
  scores = pd.DataFrame(
    [
      ('t', 'B', 'baseline', 'knn', 0.6, 1),
      ('t', 'full:random like a', 'control', 'knn', 0.5, _NAN),
      ('t', 'full:random like b', 'control', 'knn', 0.7, _NAN),
      ('t', 'adapter:random like a', 'control', 'knn', 0.4, _NAN),
      ('u', 'adapter:random like b', 'control', 'knn', 0.9, _NAN),
      ('t', 'theirs', 'control', 'knn', 0.3, _NAN),
      ('t', 'full:B@4', 'checkpoint', 'knn', 0.2, _NAN),
    ],
    columns=['task', 'model', 'kind', 'strategy', 'score', 'rank'],
  )
  members = pd.DataFrame({'model': scores.model}).assign(upstream='u')
  trials = scores[['task', 'model']].assign(split='validation', accuracy=0.5)
  table = summary.methods(scores, members, trials)
  found = table[table.pool == summary.CONTROL]
  assert [*zip(found.method, found.task, found.model)] == [
    ('Control: full experts on random slices (kNN)', 't', 'full:random like b'),
    ('Control: adapters on random slices (kNN)', 'u', 'adapter:random like b'),
    ('Control: adapters on random slices (kNN)', 't', 'adapter:random like a'),
    ('Control: random slices (kNN)', 't', 'theirs'),
    ('Control: checkpoints (kNN)', 't', 'full:B@4'),
  ]
