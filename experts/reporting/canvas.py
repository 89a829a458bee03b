"""What the figures have in common: colours, panels for each task, and a CSV beside each PNG."""

import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import axes, figure, ticker

from experts.reporting import files

# Okabe and Ito's palette, which colour-blind readers tell apart; the markers differ too.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
  '#0072B2',
  '#E69F00',
  '#009E73',
  '#D55E00',
  '#CC79A7',
  '#56B4E9',
)
GREY = '#555555'
DPI = 150

STRATEGIES = {
  'task_agnostic': ('task-agnostic', BLUE, 'D'),
  'oracle_agnostic': ('task-agnostic oracle', SKY, '^'),
  'linear': ('linear', RED, 'o'),
  'knn': ('kNN', GREEN, 's'),
  'knn_holdout': ('kNN, hold-out', ORANGE, 'P'),
  'hybrid': ('hybrid', PURPLE, '*'),
  'random': ('random', GREY, 'x'),
}

KINDS = {
  'baseline': ('baseline', BLUE, 'D'),
  'checkpoint': ('checkpoint of the baseline', SKY, 'v'),
  'full': ('full expert', RED, 'o'),
  'adapter': ('adapter expert', GREEN, '^'),
  'control': ('expert on a random slice (control)', GREY, 'X'),
  '': ('other model', ORANGE, 's'),
}


def panels(
  names: Sequence[str], *, width: float = 2.5, height: float = 2.1, **shared: bool
) -> tuple[figure.Figure, list[axes.Axes]]:
  """A figure with one small plot for each name."""
  columns = min(len(names), math.ceil(math.sqrt(len(names))), 5)
  rows = math.ceil(len(names) / columns)
  size = max(width * columns, 5), height * rows + 0.9
  canvas = figure.Figure(figsize=size, dpi=DPI, layout='constrained')
  plots = canvas.subplots(rows, columns, squeeze=False, **shared).ravel()
  for plot, name in zip(plots, names, strict=False):
    plot.set_title(as_is(name), loc='left', fontsize=9)
    plain(plot)
  for plot in plots[len(names) :]:
    plot.set_axis_off()
  # Shared scales are labelled in the last row only, which may end early.
  for plot in plots[max(len(names) - columns, 0) : len(names)]:
    plot.tick_params(labelbottom=True)
  return canvas, list(plots[: len(names)])


def rows(
  names: Sequence[str], columns: int = 1, last: str = ''
) -> tuple[figure.Figure, list[axes.Axes]]:
  """A figure of `columns` plots with a row for each name, from the top, and one more for `last` below a rule."""
  labels = [*map(as_is, names), *[last] * bool(last)]
  size = 3.4 + 3.2 * columns, 0.36 * len(labels) + 1.4
  canvas = figure.Figure(figsize=size, dpi=DPI, layout='constrained')
  plots = canvas.subplots(1, columns, squeeze=False, sharex=True, sharey=True)[0]
  for plot in plots:
    plain(plot, along='x')
    plot.axvline(0, color=GREY, linewidth=0.8)
    if last:
      plot.axhline(len(names) - 0.5, color=GREY, linewidth=0.8)
  plots[0].set_yticks(range(len(labels)), labels, fontsize=8.5)
  plots[0].set_ylim(len(labels) - 0.4, -0.6)
  return canvas, list(plots)


def as_is(name: str) -> str:
  """A name that Matplotlib does not take for a formula."""
  return name.replace('$', r'\$')


def dots(plot: axes.Axes, values: pd.DataFrame, styles: dict[str, tuple[str, str, str]]) -> None:
  """Draws a table's columns as marks, its rows as rows of the plot; within a row they stand apart, so that none hides another."""
  for i, name in enumerate(values.columns):
    text, colour, marker = styles[name]
    offset = 0.0 if values.shape[1] == 1 else 0.7 * i / (values.shape[1] - 1) - 0.35
    place = np.arange(len(values)) + offset
    plot.scatter(
      values[name], place, s=20, color=colour, marker=marker, label=text, zorder=3, linewidth=0.9
    )
  for edge in range(len(values) - 1):
    plot.axhline(edge + 0.5, color='#eeeeee', linewidth=0.6, zorder=0)


def with_mean(table: pd.DataFrame) -> pd.DataFrame:
  """Returns the table with a last row 'mean' of its columns."""
  return pd.concat([table, table.mean().to_frame('mean').T])


def plain(plot: axes.Axes, along: str = 'y') -> None:
  """Takes the box away and draws faint lines across."""
  plot.grid(axis=along, color='#dddddd', linewidth=0.6)
  plot.set_axisbelow(True)
  plot.spines[['top', 'right']].set_visible(False)
  plot.tick_params(labelsize=8)
  if along == 'y':
    plot.yaxis.set_major_locator(ticker.MaxNLocator(5))


def legend(canvas: figure.Figure, plots: Sequence[axes.Axes], columns: int) -> None:
  """Explains the marks above the plots, where no curve can pass; a mark that several plots have appears once."""
  found = {}
  for plot in plots:
    for handle, text in zip(*plot.get_legend_handles_labels(), strict=True):
      found.setdefault(text, handle)
  canvas.legend(
    found.values(), found, loc='outside upper center', ncols=columns, frameon=False, fontsize=8.5
  )


def save(canvas: figure.Figure, data: pd.DataFrame, path: str | os.PathLike) -> None:
  """Writes the PNG, and what it shows as a CSV of the same name."""
  canvas.savefig(path)
  write_data(data, path)


def write_data(data: pd.DataFrame, path: str | os.PathLike) -> None:
  """Writes what a PNG shows as a CSV of the same name."""
  files.write(data, pathlib.Path(path).with_suffix('.csv'))
