"""The models of a pool compared, after [WHICH] and [EXP].

Each figure is a PNG with its data as a CSV beside it. A function that lacks the data writes neither and returns a sentence
that says which run gives them; otherwise it returns an empty one.
"""

import os

import numpy as np
import pandas as pd
from matplotlib import axes, ticker

from experts.reporting import canvas, figures

_NO_KNN = "there are no scores of the strategy 'knn': run the phase 'select' with it"
_POOLS = {
  'full': ('full experts', canvas.RED, 'o'),
  'adapter': ('adapter experts', canvas.GREEN, '^'),
  'all': ('all models', canvas.BLUE, 'D'),
}


def dimension(scores: pd.DataFrame, members: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws each task's kNN accuracy against the dimension of the embedding.

  Args:
    scores: task, model, kind, strategy, score.
    members: model, dimension.
    path: PNG to write.
  """
  data = _knn(scores).merge(members[['model', 'dimension']], on='model')
  if data.empty:
    return _NO_KNN
  if data.dimension.nunique() < 2:
    return (
      f'all models have {data.dimension.iloc[0]} dimensions: run select on a pool of several architectures '
      '(python -m experts.selection.pool add)'
    )
  tasks = data.task.unique()
  drawing, plots = canvas.panels(tasks, sharex=True)
  for plot, task in zip(plots, tasks, strict=True):
    part = data[data.task == task]
    _scatter(plot, part, part.dimension, 100 * part.score)
    plot.set_xscale('log', base=2)
    plot.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:g}'))
    plot.xaxis.set_major_locator(ticker.LogLocator(base=2, numticks=5))
    plot.margins(x=0.1)
  return _finish(drawing, plots, data, path, 'dimension of the embedding', 'kNN accuracy, %')


def ranked(scores: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws each task's models by their kNN accuracy, best first.

  Args:
    scores: task, model, kind, strategy, score, and optionally low and high.
    path: PNG to write.
  """
  data = scores[(scores.strategy == 'knn') & scores.score.notna()]
  if data.empty:
    return _NO_KNN
  if not {'low', 'high'} <= set(data):
    data = data.assign(low=data.score, high=data.score)
  data = data[['task', 'model', 'kind', 'score', 'low', 'high']]
  figures.overview(data, path)
  canvas.write_data(data, path)
  return ''


def gain(picks: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws how much better than the baseline the chosen experts are after fine-tuning.

  Args:
    picks: task, pool, chosen, gain.
    path: PNG to write.
  """
  data = picks.dropna(subset='gain')
  if data.empty:
    return "neither chosen experts nor a baseline were fine-tuned: run the phase 'transfer' on a pool with a baseline"
  table = data.pivot(index='task', columns='pool', values='gain')
  table = table.loc[data.task.unique(), [name for name in _POOLS if name in table]]
  table = canvas.with_mean(table)
  drawing, (plot,) = canvas.rows(table.index[:-1], last='mean')
  canvas.dots(plot, 100 * table, _POOLS)
  plot.set_xlabel(
    'test accuracy of the model chosen by kNN\nminus the baseline’s, points', fontsize=9
  )
  canvas.legend(drawing, [plot], columns=3)
  canvas.save(drawing, data, path)
  return ''


def proxy(scores: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws each task's test accuracies after fine-tuning against the kNN accuracies before.

  Args:
    scores: task, model, kind, strategy, score, accuracy.
    path: PNG to write.
  """
  data = _knn(scores).dropna(subset='accuracy')
  data = data[data.groupby('task').model.transform('size') > 1]
  if data.empty:
    return "fewer than two models were fine-tuned on each task: run the phase 'transfer' with config.transfer.models='all'"
  tasks = data.task.unique()
  drawing, plots = canvas.panels(tasks)
  for plot, task in zip(plots, tasks, strict=True):
    part = data[data.task == task]
    _scatter(plot, part, 100 * part.score, 100 * part.accuracy)
    plot.xaxis.set_major_locator(ticker.MaxNLocator(4))
  labels = 'kNN accuracy, %', 'test accuracy after fine-tuning, %'
  return _finish(
    drawing, plots, data[['task', 'model', 'kind', 'score', 'accuracy']], path, *labels
  )


def checkpoints(scores: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws each task's kNN accuracy of the baseline as it trains, and the best expert's.

  Args:
    scores: task, model, kind, strategy, score; checkpoints are named `…@step`.
    path: PNG to write.
  """
  data = _knn(scores)
  data = data.assign(step=data.model.str.extract(r'@(\d+)$', expand=False).astype(float))
  kept = data[(data.kind == 'checkpoint') & data.step.notna()]
  if kept.empty:
    return "the pool has no checkpoints of the baseline: run the phase 'upstream' with config.upstream.keep_every set"
  tasks = kept.task.unique()
  drawing, plots = canvas.panels(tasks, sharex=True)
  shown = [kept]
  for plot, task in zip(plots, tasks, strict=True):
    own, part = kept[kept.task == task].sort_values('step'), data[data.task == task]
    text, colour, _ = canvas.KINDS['checkpoint']
    plot.plot(
      own.step, 100 * own.score, color=colour, marker='.', markersize=4, linewidth=1.2, label=text
    )
    for kind, colour, text in (
      ('baseline', canvas.BLUE, 'baseline'),
      ('full', canvas.RED, 'best full expert'),
      ('adapter', canvas.GREEN, 'best adapter expert'),
    ):
      best = part[part.kind == kind].nlargest(1, 'score')
      if len(best):
        style = '-' if kind == 'baseline' else '--'
        plot.axhline(
          100 * best.score.iloc[0], color=colour, linewidth=1.1, linestyle=style, label=text
        )
        shown.append(best)
    plot.xaxis.set_major_locator(ticker.MaxNLocator(3))
    plot.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  table = pd.concat(shown)[['task', 'model', 'kind', 'step', 'score']]
  return _finish(drawing, plots, table, path, 'upstream step', 'kNN accuracy, %')


def controls(scores: pd.DataFrame, members: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws each task's kNN accuracy of experts on slices and of experts on as many random images.

  Args:
    scores: task, model, kind, strategy, score.
    members: model, slice, images.
    path: PNG to write.
  """
  # Of the model's images, not of those that it was scored on.
  data = _knn(scores)[['task', 'model', 'kind', 'score']]
  data = data.merge(members[['model', 'slice', 'images']], on='model')
  data = data[data.kind.isin(['full', 'adapter', 'control']) & data.slice.notna()]
  data = data.assign(control=data.kind == 'control')
  if not data.control.any() or data.control.all():
    return "the pool has no experts on random images: run the phase 'experts' with config.experts.controls=True"
  tasks = data.task.unique()
  baseline = _knn(scores)
  drawing, plots = canvas.panels(tasks, sharex=True)
  for plot, task in zip(plots, tasks, strict=True):
    for control, text, colour, marker in (
      (False, 'expert on a slice', canvas.RED, 'o'),
      (True, 'expert on as many random images', canvas.GREY, 'x'),
    ):
      part = data[(data.task == task) & (data.control == control)]
      plot.scatter(
        part.images, 100 * part.score, s=16, color=colour, marker=marker, linewidth=0.9, label=text
      )
    own = baseline[(baseline.task == task) & (baseline.kind == 'baseline')]
    if len(own):
      plot.axhline(100 * own.score.iloc[0], color=canvas.BLUE, linewidth=1.1, label='baseline')
    plot.set_xscale('log')
  table = data[['task', 'model', 'kind', 'slice', 'images', 'control', 'score']]
  return _finish(drawing, plots, table, path, 'upstream images of the expert', 'kNN accuracy, %')


def _knn(scores: pd.DataFrame) -> pd.DataFrame:
  return scores[(scores.strategy == 'knn') & (scores.kind != 'random') & scores.score.notna()]


def _scatter(plot: axes.Axes, part: pd.DataFrame, x: pd.Series, y: pd.Series) -> None:
  named = np.where(part.kind.isin(canvas.KINDS), part.kind, '')
  # Drawn from the most frequent kind to the baseline, which nothing then hides.
  for kind in reversed(canvas.KINDS):
    where = named == kind
    if where.any():
      text, colour, marker = canvas.KINDS[kind]
      plot.scatter(
        x[where],
        y[where],
        s=18,
        color=colour,
        marker=marker,
        label=text,
        alpha=0.8,
        edgecolor='white',
        linewidth=0.4,
      )


def _finish(drawing, plots, data, path, across: str, up: str) -> str:
  drawing.supxlabel(across, fontsize=9)
  drawing.supylabel(up, fontsize=9)
  canvas.legend(drawing, plots, columns=max(2, int(drawing.get_figwidth() / 2.5)))
  canvas.save(drawing, data, path)
  return ''
