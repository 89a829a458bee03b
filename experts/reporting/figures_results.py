"""What experts learned, what fine-tuning them reaches, and what it costs, after [EXP].

Each figure is a PNG with its data as a CSV beside it. A function that lacks the data writes neither and returns a sentence
that says which run gives them; otherwise it returns an empty one.
"""

import os

import pandas as pd
from matplotlib import figure, ticker

from experts.reporting import canvas, outcomes, summary

NO_TRIALS = "nothing was fine-tuned and tested: run the phase 'transfer'"
NO_COSTS = "the cost of selection and of training upstream for each task is not known: run the phase 'dat' beside 'select'"
_MARKS = (
  (canvas.BLUE, 'D'),
  (canvas.GREEN, '^'),
  (canvas.RED, 'o'),
  (canvas.ORANGE, 's'),
  (canvas.PURPLE, '*'),
  (canvas.SKY, 'v'),
  (canvas.GREY, 'x'),
)


def slices(learned: pd.DataFrame | None, path: str | os.PathLike) -> str:
  """Draws how much better than the baseline each expert is on the test images of its own slice.

  Args:
    learned: kind, slice, images, accuracy, baseline accuracy; None if no experts were trained.
    path: PNG to write.
  """
  data = (
    pd.DataFrame() if learned is None else learned.dropna(subset=['accuracy', 'baseline accuracy'])
  )
  if data.empty:
    return "no expert was tested on its slice: run the phase 'experts', which leaves slices.csv"
  drawing = figure.Figure(figsize=(7.2, 3.8), dpi=canvas.DPI, layout='constrained')
  plot = drawing.subplots()
  canvas.plain(plot)
  plot.axhline(0, color=canvas.GREY, linewidth=0.8)
  control = data.slice.str.startswith(outcomes.RANDOM_SLICE)
  for kind, part in data.groupby('kind', sort=False):
    text, colour, marker = canvas.KINDS.get(kind, (kind, canvas.ORANGE, 's'))
    for own, label, shade in (
      (part[~control[part.index]], text, colour),
      (part[control[part.index]], f'{text}, random images', canvas.GREY),
    ):
      if len(own):
        points = 100 * (own.accuracy - own['baseline accuracy'])
        plot.scatter(
          own.images, points, s=26, color=shade, marker=marker, label=label, linewidth=0.9
        )
  plot.set_xscale('log')
  plot.set_xlabel('upstream images of the slice', fontsize=9)
  plot.set_ylabel('accuracy minus the baseline’s, points', fontsize=9)
  canvas.legend(drawing, [plot], columns=4)
  canvas.save(drawing, data, path)
  return ''


def groups(means: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws each method's mean test accuracy by group of tasks, with its interval.

  Args:
    means: upstream, method, level, name, value, low, high, as `summary.summarise` returns.
    path: PNG to write.
  """
  data = means[(means.level == 'group') & means.value.notna()]
  if data.empty:
    return NO_TRIALS
  # Domain-adaptive transfer belongs to no pool, and so to no upstream data set.
  several = data.upstream[data.upstream != ''].nunique() > 1
  upstream = data.upstream.map(lambda name: f': {name}' if several and name else '')
  data = data.assign(label=data.method + upstream)
  names = [name for name in summary.ORDER if name in set(data.name)]
  labels = list(data.label.unique())
  size = 3.2 + 1.75 * len(names), 0.3 * len(labels) + 1.3
  drawing = figure.Figure(figsize=size, dpi=canvas.DPI, layout='constrained')
  plots = drawing.subplots(1, len(names), squeeze=False, sharey=True)[0]
  for plot, name in zip(plots, names, strict=True):
    canvas.plain(plot, along='x')
    for place, label in enumerate(labels):
      for row in data[(data.name == name) & (data.label == label)].itertuples():
        colour, marker = _MARKS[0] if row.method == summary.BASELINE else _MARKS[2]
        if row.method.startswith(summary.CONTROL):
          colour, marker = _MARKS[-1]
        plot.plot([100 * row.low, 100 * row.high], [place] * 2, color=colour, linewidth=1.4)
        plot.plot(100 * row.value, place, color=colour, marker=marker, markersize=5)
    plot.set_title(name, loc='left', fontsize=9)
    plot.xaxis.set_major_locator(ticker.MaxNLocator(4))
  plots[0].set_yticks(range(len(labels)), map(canvas.as_is, labels), fontsize=8.5)
  plots[0].set_ylim(len(labels) - 0.4, -0.6)
  drawing.supxlabel('test accuracy, %, and its 95 % interval', fontsize=9)
  canvas.save(drawing, data.drop(columns=['label', 'level']), path)
  return ''


def cost(costs: pd.DataFrame | None, means: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws the images that each way to a network for a task looks at, against the accuracy it reaches.

  Args:
    costs: task, method, images, seconds; 'selection' is one of the methods.
    means: task, method, accuracy of the methods, after fine-tuning.
    path: PNG to write.
  """
  if costs is None or costs.method.nunique() < 2:
    return NO_COSTS
  data = costs.merge(means, on=['task', 'method'])
  data = data.groupby('method', sort=False)[['images', 'accuracy']].mean().reset_index().dropna()
  if data.empty:
    return NO_TRIALS
  drawing = figure.Figure(figsize=(5.6, 3.6), dpi=canvas.DPI, layout='constrained')
  plot = drawing.subplots()
  canvas.plain(plot)
  for (colour, marker), row in zip(_MARKS, data.itertuples(), strict=False):
    plot.scatter(
      row.images, 100 * row.accuracy, s=45, color=colour, marker=marker, label=row.method
    )
  plot.set_xscale('log')
  plot.margins(x=0.2, y=0.2)
  plot.set_xlabel('images looked at for a task, before fine-tuning', fontsize=9)
  plot.set_ylabel('mean test accuracy, %', fontsize=9)
  canvas.legend(drawing, [plot], columns=4)
  canvas.save(drawing, data, path)
  return ''
