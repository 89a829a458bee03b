"""The study's figures as files, as what Matplotlib was told to draw, and as sentences where data are lacking."""

import dataclasses

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib import figure

from experts.reporting import figures_models, figures_strategies, picks, study
from experts.selection import evaluation

_MEMBERS = pd.DataFrame(
  [
    ('random', 'random', None, 0, 2048),
    ('baseline', 'baseline', None, 1000, 2048),
    ('baseline@100', 'checkpoint', None, 1000, 2048),
    ('baseline@200', 'checkpoint', None, 1000, 2048),
    ('full:bird', 'full', 'bird', 300, 2048),
    ('full:random like bird', 'control', 'random like bird', 300, 2048),
    ('adapter:bird', 'adapter', 'bird', 300, 2048),
    ('mobile', 'callable', None, 500, 1280),
  ],
  columns=['model', 'kind', 'slice', 'images', 'dimension'],
)


def _joined(tasks=('digits', 'letters'), members=_MEMBERS, tuned=True) -> pd.DataFrame:
  rng = np.random.default_rng(0)
  rows, trials = [], []
  for task in tasks:
    accuracy = rng.uniform(0.3, 0.9, len(members))
    for strategy in ('task_agnostic', 'linear', 'knn', 'hybrid', 'logme', 'random'):
      scores = accuracy + rng.normal(0, 0.05, len(members))
      rows += [
        (task, member.model, member.kind, strategy, score)
        for member, score in zip(members.itertuples(), scores, strict=True)
      ]
    trials += [(task, model, a) for model, a in zip(members.model, accuracy, strict=True)]
  scores = pd.DataFrame(rows, columns=['task', 'model', 'kind', 'strategy', 'score'])
  trials = pd.DataFrame(trials, columns=['task', 'model', 'accuracy'])
  return evaluation.join(scores, trials if tuned else None)


def _tables(joined=None, members=_MEMBERS) -> study.Tables:
  joined = _joined() if joined is None else joined
  regrets = evaluation.regrets(joined)
  return study.Tables(
    scores=joined,
    members=members,
    picks=picks.picks(joined),
    regrets=regrets,
    by_budget=evaluation.by_budget(regrets),
    deltas=evaluation.deltas(regrets, [1, 2]),
    correlations=evaluation.correlations(joined),
  )


@pytest.fixture
def drawn(monkeypatch) -> dict[str, figure.Figure]:
  """Figures as they were saved, by name."""
  kept = {}
  save = figure.Figure.savefig

  def keep(self, path, *args, **kwargs):
    kept[path.name] = self
    return save(self, path, *args, **kwargs)

  monkeypatch.setattr(figure.Figure, 'savefig', keep)
  return kept


def test_each_figure_is_a_png_with_its_data(tmp_path, drawn):
  made = study.write_all(_tables(), tmp_path)
  assert len(made) == 10
  assert not any(each.lacking for each in made)
  assert {path.name for path in tmp_path.iterdir()} == {
    name for each in made for name in (each.name, each.name.replace('.png', '.csv'))
  }
  for each in made:
    image = cv2.imread(str(tmp_path / each.name))
    assert min(image.shape[:2]) > 200
    assert image.std() > 10
    assert len(pd.read_csv(tmp_path / each.name.replace('.png', '.csv')))
    canvas = drawn[each.name]
    box, (width, height) = canvas.get_tightbbox(), canvas.get_size_inches()
    assert box.x0 >= 0, each.name
    assert box.y0 >= 0, each.name
    assert box.x1 <= width, each.name
    assert box.y1 <= height, each.name


def test_before_fine_tuning_the_run_that_is_lacking_is_named(tmp_path):
  made = study.write_all(_tables(_joined(tuned=False)), tmp_path)
  lacking = {each.name: each.lacking for each in made if each.lacking}
  assert set(lacking) == {
    'relative_regret.png', 'hybrid.png', 'budgets.png', 'rank_correlation.png', 'gain.png', 'proxy.png',
  }  # fmt: skip
  for name, sentence in lacking.items():
    assert "'transfer'" in sentence
    assert '\n' not in sentence
    assert not (tmp_path / name).exists()
    assert not (tmp_path / name.replace('.png', '.csv')).exists()


def test_a_plain_pool_lacks_checkpoints_controls_and_dimensions(tmp_path):
  members = _MEMBERS[
    _MEMBERS.kind.isin(['baseline', 'full']) & (_MEMBERS.slice != 'random like bird')
  ]
  made = study.write_all(_tables(_joined(members=members), members), tmp_path)
  lacking = {each.name: each.lacking for each in made if each.lacking}
  assert set(lacking) == {'dimension.png', 'checkpoints.png', 'controls.png'}
  assert 'all models have 2048 dimensions' in lacking['dimension.png']
  assert 'config.upstream.keep_every' in lacking['checkpoints.png']
  assert 'config.experts.controls=True' in lacking['controls.png']


def test_without_knn_scores_the_other_figures_remain(tmp_path):
  joined = _joined()
  tables = dataclasses.replace(_tables(joined), scores=joined[joined.strategy != 'knn'])
  lacking = {each.name: each.lacking for each in study.write_all(tables, tmp_path) if each.lacking}
  assert "the strategy 'knn'" in lacking['ranked.png']
  assert 'relative_regret.png' not in lacking


def _regrets(rows) -> pd.DataFrame:
  table = pd.DataFrame(rows, columns=['task', 'strategy', 'budget', 'relative_regret'])
  return table.assign(s=0.5, best=0.6)


def test_marks_are_regrets_and_their_mean(tmp_path, drawn):
  rows = [('a', 'knn', 1, 0.1), ('b', 'knn', 1, 0.3), ('a', 'knn', 2, 0.9), ('a', 'gbc', 1, 0.5)]
  assert figures_strategies.relative_regret(_regrets(rows), tmp_path / 'x.png') == ''
  (plot,) = drawn['x.png'].axes
  (marks,) = plot.collections
  np.testing.assert_allclose(marks.get_offsets(), [[10, 0], [30, 1], [20, 2]])
  assert [label.get_text() for label in plot.get_yticklabels()] == ['a', 'b', 'mean']
  assert pd.read_csv(tmp_path / 'x.csv').task.tolist() == ['a', 'b']


def test_means_of_regrets_are_over_the_tasks_that_all_have(tmp_path, drawn):
  rows = [('a', 'knn', 1, 0.1), ('b', 'knn', 1, 0.3), ('a', 'linear', 1, 0.5)]
  assert figures_strategies.relative_regret(_regrets(rows), tmp_path / 'x.png') == ''
  (plot,) = drawn['x.png'].axes
  last = [marks.get_offsets()[-1, 0] for marks in plot.collections]
  assert sorted(last) == pytest.approx([10, 50])


@pytest.mark.parametrize('turned', [False, True])
def test_hybrid_bars_point_right_where_the_hybrid_is_better(tmp_path, drawn, turned):
  pair = ['hybrid', 'linear'][:: -1 if turned else 1]
  sign = -1 if turned else 1
  rows = [('a', 2, *pair, sign * 0.2), ('b', 2, *pair, sign * -0.1), ('a', 1, *pair, 0.9)]
  deltas = pd.DataFrame(rows, columns=['task', 'budget', 'first', 'second', 'delta'])
  assert figures_strategies.hybrid(deltas, tmp_path / 'x.png') == ''
  (plot,) = drawn['x.png'].axes
  np.testing.assert_allclose([bar.get_width() for bar in plot.patches], [20, -10, 5])
  assert plot.get_title(loc='left') == 'against linear'


def test_lines_by_budget_are_shares_of_tasks(tmp_path, drawn):
  table = pd.DataFrame(
    {
      'strategy': 'knn',
      'budget': [1, 2, 3],
      'zero_regret': [0.2, 0.5, 1],
      'relative_regret': [0.3, 0.1, 0],
    }
  )
  figures_strategies.budgets(table.assign(tasks=10), tmp_path / 'x.png')
  left, right = drawn['x.png'].axes
  np.testing.assert_allclose(left.lines[0].get_xydata(), [[1, 20], [2, 50], [3, 100]])
  np.testing.assert_allclose(right.lines[0].get_xydata(), [[1, 30], [2, 10], [3, 0]])


def test_strategies_stand_by_their_mean_correlation(tmp_path, drawn):
  rows = [
    ('a', 'knn', 0.2),
    ('b', 'knn', 0.4),
    ('a', 'gbc', 0.9),
    ('b', 'gbc', np.nan),
    ('a', 'oracle', 1),
  ]
  table = pd.DataFrame(rows, columns=['task', 'strategy', 'kendall']).assign(models=5)
  figures_strategies.rank_correlation(table, tmp_path / 'x.png')
  (plot,) = drawn['x.png'].axes
  assert [label.get_text() for label in plot.get_xticklabels()] == ['gbc', 'kNN']
  assert [each.get_text() for each in plot.texts] == ['0.90', '0.20', '', '0.40', '0.90', '0.30']


def test_checkpoints_are_drawn_by_step(tmp_path, drawn):
  rows = [
    ('baseline@1000', 'checkpoint', 0.5), ('baseline@200', 'checkpoint', 0.3), ('baseline', 'baseline', 0.6),
    ('full:a', 'full', 0.4), ('full:b', 'full', 0.7),
  ]  # fmt: skip
  scores = pd.DataFrame(rows, columns=['model', 'kind', 'score']).assign(task='t', strategy='knn')
  figures_models.checkpoints(scores, tmp_path / 'x.png')
  (plot,) = drawn['x.png'].axes
  lines = {line.get_label(): line.get_ydata() for line in plot.lines}
  np.testing.assert_allclose(plot.lines[0].get_xydata(), [[200, 30], [1000, 50]])
  assert lines['baseline'][0] == 60
  assert lines['best full expert'][0] == 70


def test_controls_are_told_from_experts_on_slices(tmp_path, drawn):
  scores = _joined(tasks=['digits'])
  figures_models.controls(scores, _MEMBERS, tmp_path / 'x.png')
  (plot,) = drawn['x.png'].axes
  knn = scores[scores.strategy == 'knn'].set_index('model').score
  slices, control = (each.get_offsets() for each in plot.collections)
  expected = [[300, 100 * knn[name]] for name in ('full:bird', 'adapter:bird')]
  np.testing.assert_allclose(slices, expected)
  np.testing.assert_allclose(control, [[300, 100 * knn['full:random like bird']]])


def test_many_tasks_and_long_names_fit(tmp_path, drawn):
  tasks = [f'a_task_with_a_long_name_{i}' for i in range(7)]
  study.write_all(_tables(_joined(tasks)), tmp_path)
  for name, canvas in drawn.items():
    box, (width, height) = canvas.get_tightbbox(), canvas.get_size_inches()
    assert box.x0 >= 0, name
    assert box.x1 <= width, name
    assert box.y1 <= height, name
