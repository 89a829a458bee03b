"""The sorted kNN curves of the tasks: all models of the pool by score, the ones that matter marked."""

import math
import os

import numpy as np
import pandas as pd
from matplotlib import axes, figure, ticker

from experts.reporting import canvas as canvases
from experts.reporting import outcomes

_MARKS = {
  'random': ('random network', canvases.ORANGE, 's'),
  'baseline': ('baseline', canvases.BLUE, 'D'),
  'chosen': ('chosen', canvases.RED, '*'),
}
# So many models can each have their name under the axis.
_NAMED = 30


def overview(scores: pd.DataFrame, path: str | os.PathLike) -> None:
  """Draws every task's curve as small multiples, on one scale.

  Args:
    scores: task, model, kind, score, low, high; the scores of one strategy.
    path: PNG to write.

  Raises:
    ValueError: no scores.
  """
  tasks = list(scores.task.unique())
  if not tasks:
    raise ValueError('no scores to draw')
  columns = min(len(tasks), math.ceil(math.sqrt(len(tasks))), 5)
  rows = math.ceil(len(tasks) / columns)
  canvas = figure.Figure(
    figsize=(max(2.5 * columns, 5), 2.1 * rows + 0.7), dpi=canvases.DPI, layout='constrained'
  )
  plots = canvas.subplots(rows, columns, squeeze=False, sharey=True)
  for plot, task in zip(plots.flat, tasks, strict=False):
    _curve(plot, _sorted(scores, task))
    plot.set_title(canvases.as_is(task), loc='left', fontsize=9)
  for plot in plots.flat[len(tasks) :]:
    plot.set_axis_off()
  # Set once for all: a limit set on one of the shared scales would hide what is higher on another.
  plots[0, 0].set_ylim(0, min(100, 105 * scores.high.max()))
  canvas.supylabel('kNN accuracy, %', fontsize=9)
  canvas.supxlabel('models, best first', fontsize=9)
  canvases.legend(canvas, [plots[0, 0]], columns=5 if columns > 2 else 3)
  canvas.savefig(path)


def _sorted(scores: pd.DataFrame, task: str) -> pd.DataFrame:
  return scores[scores.task == task].sort_values('score', ascending=False, kind='stable')


def _curve(plot: axes.Axes, part: pd.DataFrame) -> None:
  """Draws models `part`, sorted by score, on `plot`."""
  place = np.arange(1, len(part) + 1)
  score = 100 * part.score.to_numpy()
  low, high = 100 * part.low.to_numpy(), 100 * part.high.to_numpy()
  plot.fill_between(
    place, low, high, color=canvases.GREY, alpha=0.18, linewidth=0, label='95 % interval'
  )
  plot.plot(
    place,
    score,
    color=canvases.GREY,
    linewidth=1.2,
    marker='.',
    markersize=4 if len(part) <= _NAMED else 0,
    label='other models',
  )
  candidates = np.flatnonzero(~part.kind.isin(outcomes.CONTROLS))
  groups = {kind: np.flatnonzero(part.kind == kind) for kind in ('random', 'baseline')}
  for name, where in {**groups, 'chosen': candidates[:1]}.items():
    text, colour, marker = _MARKS[name]
    size = 190 if marker == '*' else 55
    if where.size:
      # The baseline may be the chosen one: a star over its diamond shows both.
      plot.scatter(
        place[where],
        score[where],
        s=size,
        color=colour,
        marker=marker,
        edgecolor='white',
        linewidth=0.8,
        zorder=3 + (name == 'chosen'),
        label=text,
      )
  plot.margins(x=0.03)
  canvases.plain(plot)
  plot.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  plot.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
