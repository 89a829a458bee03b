"""Evaluation of strategies on a pool small enough to work out by hand."""

import numpy as np
import pandas as pd
import pytest

from experts.selection import evaluation, pool

# Fine-tuned: task a: b .5, e .9, f .8; task b: b .6, e .4, f .6. The control r is better than all, and never counts.
_ACCURACY = {'a': [0.5, 0.9, 0.8, 0.95], 'b': [0.6, 0.4, 0.6, 0.1]}
_SCORES = {
  ('a', 'knn'): [0.3, 0.2, 0.4, 0.9],
  ('b', 'knn'): [0.1, 0.3, 0.2, 0.0],
  ('a', 'big'): [9.0, 5.0, 7.0, np.nan],
  ('b', 'big'): [9.0, np.nan, 7.0, np.nan],
}


def _scores() -> pd.DataFrame:
  rows = [
    (task, model, kind, strategy, score)
    for (task, strategy), scores in _SCORES.items()
    for model, kind, score in zip(
      'befr', ('baseline', 'full', 'bit', 'random'), scores, strict=True
    )
  ]
  return pd.DataFrame(rows, columns=['task', 'model', 'kind', 'strategy', 'score'])


def _trials() -> pd.DataFrame:
  """Three retrains about each accuracy, with an outlier that a mean would follow, and sweeps that do not count."""
  rows = []
  for task, accuracies in _ACCURACY.items():
    for model, accuracy in zip('befr', accuracies, strict=True):
      for seed, value in enumerate([accuracy, 0.0, min(accuracy + 0.1, 1)]):
        rows.append((task, model, 0.1, 2500, seed, 'test', value))
      rows.append((task, model, 0.1, 2500, 0, 'validation', 0.99))
  columns = ['task', 'model', 'lr', 'steps', 'seed', 'split', 'accuracy']
  return pd.DataFrame(rows, columns=columns)


def _table(trials=None) -> pd.DataFrame:
  return evaluation.regrets(evaluation.join(_scores(), _trials() if trials is None else trials))


def _part(table, **key) -> pd.DataFrame:
  for name, value in key.items():
    table = table[table[name] == value]
  return table


def test_regrets_by_hand():
  part = _part(_table(), task='a', strategy='knn')
  assert part.budget.tolist() == [1, 2, 3]
  assert part.chosen.tolist() == ['f', 'b', 'e']
  np.testing.assert_allclose(part.s, [0.8, 0.8, 0.9])
  np.testing.assert_allclose(part.regret, [0.1, 0.1, 0], atol=1e-12)
  np.testing.assert_allclose(part.relative_regret, [0.5, 0.5, 0], atol=1e-12)
  np.testing.assert_allclose(part.log_odds_regret, [np.log(9 / 4)] * 2 + [0], atol=1e-12)
  assert set(part.best_model) == {'e'}
  assert (part.tested == 3).all()
  assert (part.models == 3).all()


def test_a_strategy_that_ranks_fewer_models_keeps_what_it_reached():
  part = _part(_table(), task='b', strategy='big')
  assert part.chosen.tolist() == ['b', 'f', '']
  assert part.s.tolist() == [0.6, 0.6, 0.6]


def test_one_row_of_each_model_counts_as_it_is():
  trials = _trials()
  means = trials[trials.split == 'test'].groupby(['task', 'model'], as_index=False).accuracy.mean()
  part = _part(_table(means), task='a', strategy='oracle', budget=1)
  # Of .9, 0 and 1.
  assert part.s.tolist() == pytest.approx([1.9 / 3])


def test_given_ranks_come_before_scores():
  scores = _scores()
  scores['rank'] = scores.groupby(['task', 'strategy']).score.rank(ascending=True)
  scores.loc[scores.kind == 'random', 'rank'] = np.nan
  scores.loc[(scores.task == 'b') & (scores.strategy == 'knn'), 'rank'] = [1, 3, 2, np.nan]
  part = _part(evaluation.regrets(evaluation.join(scores, _trials())), task='a', strategy='knn')
  assert part.chosen.tolist() == ['e', 'b', 'f']


def test_oracles_are_added_once():
  joined = evaluation.join(_scores(), _trials())
  table = evaluation.regrets(joined)
  assert (_part(table, strategy='oracle').regret == 0).all()
  # Means .55, .65, .7: the best on average is best on one task.
  first = _part(table, strategy='oracle_agnostic', budget=1).set_index('task')
  assert first.chosen.tolist() == ['f', 'f']
  np.testing.assert_allclose(first.regret, [0.1, 0], atol=1e-12)
  again = evaluation.join(joined.drop(columns='accuracy'), _trials())
  pd.testing.assert_frame_equal(again, joined)


def test_agnostic_oracle_knows_no_model_that_a_task_lacks():
  trials = _trials()
  trials = trials[(trials.task != 'b') | (trials.model != 'f')]
  first = _part(_table(trials), strategy='oracle_agnostic', budget=1)
  assert first.chosen.tolist() == ['e', 'e']


def test_what_was_not_fine_tuned_is_missing_not_zero():
  trials = _trials()
  table = _table(trials[(trials.task != 'a') | (trials.model != 'b')])
  part = _part(table, task='a', strategy='knn')
  np.testing.assert_array_equal(part.s, [0.8, np.nan, np.nan])
  assert (part.tested == 2).all()
  assert (part.models == 3).all()
  shares = evaluation.by_budget(table)
  # Of task a the choice of 'big' is not known: no strategy's mean is over it.
  assert set(shares.tasks) == {1}
  assert _part(shares, strategy='knn').regret.tolist() == pytest.approx([0.2, 0, 0], abs=1e-12)


def test_tasks_without_trials_have_no_rows():
  trials = _trials()
  assert set(_table(trials[trials.task == 'a']).task) == {'a'}


def test_by_budget_by_hand():
  part = _part(evaluation.by_budget(_table()), strategy='knn')
  # Regrets a: .1, .1, 0; b: .2, 0, 0 of best .6, reached .4.
  np.testing.assert_allclose(part.zero_regret, [0, 0.5, 1])
  np.testing.assert_allclose(part.regret, [0.15, 0.05, 0], atol=1e-12)
  np.testing.assert_allclose(part.relative_regret, [(0.5 + 0.2 / 0.6) / 2, 0.25, 0], atol=1e-12)


def test_deltas_by_hand():
  table = evaluation.deltas(_table(), [1])
  part = _part(table, first='knn', second='big')
  assert part.task.tolist() == ['a', 'b']
  # knn .8 and .4, big .5 and .6.
  np.testing.assert_allclose(part.delta, [0.3 / 0.5, -0.2 / 0.6])
  assert len(table) == 2 * 6


def test_correlations_leave_the_controls_out():
  part = _part(evaluation.correlations(evaluation.join(_scores(), _trials())), task='a').set_index(
    'strategy'
  )
  # knn puts f, b, e against the true e, f, b: one pair of three agrees.
  assert part.kendall['knn'] == pytest.approx(-1 / 3)
  assert part.kendall['oracle'] == 1
  assert (part.models == 3).all()


def test_foreign_tables_need_only_the_least_columns():
  scores = _scores().drop(columns='kind')
  trials = _trials()
  trials = trials[trials.split == 'test'][['task', 'model', 'accuracy']]
  part = _part(evaluation.regrets(evaluation.join(scores, trials)), task='a', strategy='knn')
  # Without kinds, nothing says that r is a control.
  assert part.chosen.tolist() == ['r', 'f', 'b', 'e']


def test_before_any_fine_tuning_there_are_picks_but_no_regrets():
  joined = evaluation.join(_scores(), None)
  assert joined.accuracy.isna().all()
  assert 'oracle' not in set(joined.strategy)
  table = evaluation.regrets(joined)
  assert table.columns.tolist() == _table().columns.tolist()
  assert table.empty
  assert evaluation.by_budget(table).empty
  assert evaluation.deltas(table, [1, 2]).empty
  assert evaluation.correlations(joined).kendall.isna().all()


def test_pool_as_a_table():
  member = pool.Member('b', 'baseline', 'jft', None, 9, 5, 2, 'f', 'h')
  assert evaluation.describe([member]).to_dict('records') == [
    {'model': 'b', 'kind': 'baseline', 'upstream': 'jft', 'slice': None, 'images': 9, 'parameters': 5, 'dimension': 2}
  ]  # fmt: skip


def _percent(trials):
  return trials.assign(accuracy=100 * trials.accuracy)


@pytest.mark.parametrize(
  ('scores', 'trials', 'message'),
  [
    (lambda s: s.drop(columns=['score', 'task']), None, 'scores lack the columns task, score; they have: model, kind'),
    (lambda s: pd.concat([s, s[:1]]), None, "scores have several rows of task 'a', model 'b', strategy 'knn'"),
    (lambda s: s.assign(rank=1), None, "ranks of task 'a', strategy 'knn' are not 1 to 4"),
    (None, lambda t: t.drop(columns='accuracy'), 'trials lack the columns accuracy; they have: task, model, lr'),
    (None, _percent, r"accuracy 50.0 of task 'a', model 'b' is not in \[0, 1\]; divide percentages by 100"),
    (None, lambda t: t.assign(model=t.model.replace('e', 'x')), "trials of task 'a' name models without scores: x"),
    (None, lambda t: t.assign(task='c'), "trials have the task 'c', scores have not; theirs: a, b"),
    (None, lambda t: t[t.split == 'validation'], "no row of the split 'test', only of: validation"),
    (None, lambda t: pd.concat([t, t[:1]]), r"trials list a run of task 'a', model 'b' twice \(seed 0\)"),
  ],
)  # fmt: skip
def test_faults_of_foreign_tables_are_named_in_one_line(scores, trials, message):
  keep = lambda frame: frame
  with pytest.raises(ValueError, match=message) as error:
    evaluation.join((scores or keep)(_scores()), (trials or keep)(_trials()))
  assert '\n' not in str(error.value)


def test_runs_that_diverged_got_nothing_right():
  trials = _trials()
  lost = pd.DataFrame(
    {'task': 'a', 'model': 'e', 'split': 'test', 'accuracy': np.nan, 'seed': range(70, 72)}
  )
  # Of .9, 0, 1, 0, 0 the median.
  part = _part(_table(pd.concat([trials, lost])), task='a', strategy='knn')
  np.testing.assert_allclose(part.s, [0.8, 0.8, 0.8])
  assert set(part.best_model) == {'f'}


@pytest.mark.parametrize('tested', [True, False])
def test_a_choice_that_diverged_keeps_its_task_in_the_mean(tested):
  trials = _trials()
  trials['accuracy'] = trials.accuracy.mask((trials.task == 'a') & (trials.model == 'f'))
  if not tested:
    trials = trials[trials.accuracy.notna() | (trials.split != 'test')]
  table = _table(trials)
  part = _part(table, task='a', strategy='knn')
  assert part.chosen.tolist() == ['f', 'b', 'e']
  np.testing.assert_allclose(part.s, [0, 0.5, 0.9])
  np.testing.assert_allclose(part.regret, [0.9, 0.4, 0], atol=1e-12)
  shares = evaluation.by_budget(table)
  assert set(shares.tasks) == {2}
  # Of task b it is .2.
  assert _part(shares, strategy='knn', budget=1).regret.item() == pytest.approx(0.55)


def test_strategies_are_compared_over_the_tasks_that_they_have_in_common():
  table = pd.DataFrame(
    [
      ('a', 'x', 1, 0.5), ('b', 'x', 1, 0.5), ('a', 'y', 1, np.nan), ('b', 'y', 1, 0.6),
      # Nothing is known of z, nor, under a budget of 2, a task that x and y have in common.
      ('a', 'z', 1, np.nan), ('a', 'x', 2, 0.5), ('b', 'y', 2, 0.7),
    ],
    columns=['task', 'strategy', 'budget', 's'],
  ).assign(regret=lambda t: 0.9 - t.s, relative_regret=0.0, log_odds_regret=0.0)  # fmt: skip
  found = evaluation.by_budget(table)
  assert found[['strategy', 'budget', 'tasks']].values.tolist() == [['x', 1, 1], ['y', 1, 1]]
  np.testing.assert_allclose(found.regret, [0.4, 0.3])


def test_controls_are_never_ranked_nor_the_best_whatever_the_file_says():
  scores = _scores()
  controls = scores[scores.model == 'e'].assign(model='c', score=9.0)
  kinds = ('random', 'checkpoint', 'control')
  many = [controls.assign(model=f'{kind} one', kind=kind) for kind in kinds]
  trials = _trials()
  of_e = trials[trials.model == 'e'].assign(accuracy=1.0)
  more = pd.concat([trials, *(of_e.assign(model=f'{kind} one') for kind in kinds)])
  # As files of older runs have it, where checkpoints and random slices had ranks.
  every = pd.concat([scores, *many], ignore_index=True)
  every['rank'] = every.groupby(['task', 'strategy']).score.rank(method='first', ascending=False)
  joined = evaluation.join(every, more)
  assert joined[joined.kind.isin(kinds)]['rank'].isna().all()
  assert joined[joined.kind.isin(kinds)].accuracy.min() >= 0.1
  alone = evaluation.regrets(evaluation.join(scores, trials))
  found = evaluation.regrets(joined)
  pd.testing.assert_frame_equal(
    found.sort_values(['task', 'strategy', 'budget'], ignore_index=True),
    alone.sort_values(['task', 'strategy', 'budget'], ignore_index=True),
  )


def test_models_that_can_only_be_ranked_cost_no_budget():
  scores = _scores()
  opaque = scores[scores.model == 'e'].assign(model='api', kind='callable', score=9.0)
  with_api = evaluation.regrets(
    evaluation.join(pd.concat([scores, opaque], ignore_index=True), _trials())
  )
  pd.testing.assert_frame_equal(with_api, evaluation.regrets(evaluation.join(scores, _trials())))
