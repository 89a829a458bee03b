"""The table of picks, by hand."""

import numpy as np
import pandas as pd
import pytest

from experts.reporting import picks

_NAN = float('nan')
_COLUMNS = ['task', 'model', 'kind', 'strategy', 'score', 'rank', 'p_value', 'accuracy']


def _scores() -> pd.DataFrame:
  rows = [
    ('a', 'random', 'random', 'knn', 0.9, _NAN, 0.5, 0.2),
    ('a', 'B', 'baseline', 'knn', 0.5, 3, _NAN, 0.8),
    ('a', 'bird', 'full', 'knn', 0.6, 2, 0.01, 0.9),
    ('a', 'fish', 'full', 'knn', 0.4, 4, 0.2, 0.6),
    ('a', 'bird a', 'adapter', 'knn', 0.3, 5, 0.3, 0.7),
    ('a', 'BiT', 'bit', 'knn', 0.7, 1, 0.001, 0.95),
    ('b', 'B', 'baseline', 'knn', 0.5, 2, _NAN, 0.8),
    # Equal scores: the rank decides.
    ('b', 'bird', 'full', 'knn', 0.5, 1, 1.0, _NAN),
    ('b', 'bird a', 'adapter', 'knn', 0.5, 3, 1.0, 0.9),
    ('b', 'BiT', 'bit', 'knn', 0.1, 4, 0.001, 0.9),
    ('b', 'BiT', 'bit', 'linear', 0.99, 1, _NAN, 0.9),
  ]
  return pd.DataFrame(rows, columns=_COLUMNS)


def test_picks_by_hand():
  table = picks.picks(_scores()).set_index(['task', 'pool'])
  assert table.chosen.to_dict() == {
    ('a', 'full'): 'bird', ('a', 'adapter'): 'B', ('a', 'all'): 'BiT',
    ('b', 'full'): 'bird', ('b', 'adapter'): 'B', ('b', 'all'): 'bird',
  }  # fmt: skip
  np.testing.assert_allclose(table.score['a'], [0.6, 0.5, 0.7])
  np.testing.assert_allclose(table.margin['a'], [0.1, 0, 0.2], atol=1e-12)
  np.testing.assert_array_equal(table.p_value['a'], [0.01, _NAN, 0.001])
  np.testing.assert_allclose(table.gain['a'], [0.1, 0, 0.15], atol=1e-12)
  np.testing.assert_array_equal(table.gain['b'], [_NAN, 0, _NAN])


def test_wide_puts_pools_side_by_side():
  table = picks.wide(picks.picks(_scores()))
  assert table.columns.tolist()[:6] == [
    'task', 'full', 'full score', 'full margin', 'full p_value', 'adapter',
  ]  # fmt: skip
  assert table.task.tolist() == ['a', 'b']
  assert table['all'].tolist() == ['BiT', 'bird']


def test_kinds_of_experts_that_the_pool_lacks_are_left_out():
  scores = _scores()
  table = picks.picks(scores[scores.kind != 'adapter'])
  assert table.pool.unique().tolist() == ['full', 'all']


def test_without_a_baseline_there_is_no_margin():
  scores = _scores()
  table = picks.picks(scores[(scores.kind != 'baseline') & (scores.task == 'a')])
  assert table.margin.isna().all()
  assert table.chosen.tolist() == ['bird', 'bird a', 'BiT']


def test_columns_that_are_not_there_are_missing_values():
  table = picks.picks(_scores().drop(columns=['p_value', 'accuracy']))
  assert table[['p_value', 'accuracy', 'gain']].isna().all(axis=None)


def test_other_strategies_choose_by_their_own_ranks():
  assert picks.picks(_scores(), 'linear').chosen.tolist() == ['BiT']


def test_unknown_strategy_lists_those_with_ranks():
  with pytest.raises(ValueError, match="no ranks of the strategy 'x'; there are: knn, linear"):
    picks.picks(_scores(), 'x')


def test_picks_hold_the_budget():
  trials = pd.DataFrame(
    [('a', 'BiT', 'validation', 0.5), ('a', 'bird', 'validation', 0.6)],
    columns=['task', 'model', 'split', 'accuracy'],
  )
  chosen = lambda budget: (
    picks.picks(_scores(), 'knn', trials, budget).set_index(['task', 'pool']).chosen
  )
  assert chosen(1)['a', 'all'] == 'BiT'
  assert chosen(2)['a', 'all'] == 'bird'
  lost = trials.assign(accuracy=_NAN)
  spare = pd.DataFrame([('a', 'B', 'validation', 0.1)], columns=trials.columns)
  own = _scores().assign(
    rank=lambda t: t['rank'].mask((t.task == 'a') & (t.kind == 'baseline'), _NAN)
  )
  found = picks.picks(own, 'knn', pd.concat([lost, spare]), 2).set_index(['task', 'pool']).chosen
  assert found['a', 'all'] == 'B'
  # Of a task where nothing was fine-tuned, the first by rank.
  assert chosen(2)['b', 'all'] == 'bird'
