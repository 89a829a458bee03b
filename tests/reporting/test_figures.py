"""The curves as files, and as what Matplotlib was told to draw."""

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib import colors, figure

from experts.reporting import figures


def _scores(tasks, models) -> pd.DataFrame:
  rng = np.random.default_rng(0)
  rows = []
  for height, task in enumerate(tasks, 1):
    for i in range(models):
      kind = {0: 'random', 1: 'baseline'}.get(i, 'full')
      score = 0.05 if kind == 'random' else height / 10 + rng.uniform(0, 0.2)
      rows.append({'task': task, 'model': f'{kind}:{i}', 'kind': kind, 'score': score})
  scores = pd.DataFrame(rows)
  return scores.assign(strategy='knn', low=scores.score - 0.03, high=scores.score + 0.03)


@pytest.fixture
def drawn(monkeypatch) -> list[figure.Figure]:
  """Figures as they were saved."""
  kept = []
  save = figure.Figure.savefig

  def keep(self, *args, **kwargs):
    kept.append(self)
    return save(self, *args, **kwargs)

  monkeypatch.setattr(figure.Figure, 'savefig', keep)
  return kept


def test_the_marks_are_seen_in_the_png(tmp_path):
  figures.overview(_scores(['digits', 'a/b c'], 5), tmp_path / 'x.png')
  image = cv2.imread(str(tmp_path / 'x.png'))
  assert min(image.shape[:2]) > 300
  found = {tuple(colour) for colour in image.reshape(-1, 3)[:, ::-1].tolist()}
  for text, colour, _ in figures._MARKS.values():
    assert tuple(round(255 * c) for c in colors.to_rgb(colour)) in found, text


def test_curve_is_sorted_and_marks_sit_on_their_models(tmp_path, drawn):
  scores = _scores(['digits'], 6)
  figures.overview(scores, tmp_path / 'x.png')
  (plot,) = drawn[0].axes
  order = scores.sort_values('score', ascending=False)
  place, height = plot.lines[0].get_data()
  np.testing.assert_array_equal(place, np.arange(1, 7))
  np.testing.assert_allclose(height, 100 * order.score)
  marks = {each.get_label(): each.get_offsets()[0].tolist() for each in plot.collections[1:]}
  for label, model in [
    ('random network', 'random:0'),
    ('baseline', 'baseline:1'),
    ('chosen', order.model.iloc[0]),
  ]:
    rank = order.model.tolist().index(model)
    assert marks[label] == pytest.approx([rank + 1, 100 * order.score.iloc[rank]])


def test_random_network_is_never_marked_as_chosen(tmp_path, drawn):
  scores = _scores(['digits'], 4)
  scores.loc[scores.kind == 'random', ['score', 'low', 'high']] = 0.97, 0.95, 0.99
  figures.overview(scores, tmp_path / 'x.png')
  marks = {each.get_label(): each.get_offsets()[0, 0] for each in drawn[0].axes[0].collections[1:]}
  assert (marks['random network'], marks['chosen']) == (1, 2)


def test_overview_shows_the_highest_task_whole(tmp_path, drawn):
  scores = _scores(['low', 'middle', 'high'], 5)
  figures.overview(scores, tmp_path / 'x.png')
  shown = [plot for plot in drawn[0].axes if plot.axison]
  assert [plot.get_title(loc='left') for plot in shown] == ['low', 'middle', 'high']
  for plot in shown:
    low, high = plot.get_ylim()
    assert low == 0
    assert high >= 100 * scores.high.max()


def test_nothing_is_cut_off(tmp_path, drawn):
  models = _scores(['a task with a rather long name'], 20)
  models['model'] = 'adapter:mathematical symbol ' + models.model
  figures.overview(models, tmp_path / 'x.png')
  for canvas in drawn:
    box = canvas.get_tightbbox()
    width, height = canvas.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_no_scores_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='no scores to draw'):
    figures.overview(_scores(['digits'], 3)[:0], tmp_path / 'x.png')
  assert not list(tmp_path.iterdir())
