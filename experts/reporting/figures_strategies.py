"""Strategies compared by what fine-tuning their choices reaches, after [WHICH].

Each figure is a PNG with its data as a CSV beside it. A function that lacks the data writes neither and returns a sentence
that says which run gives them; otherwise it returns an empty one.
"""

import os

import numpy as np
import pandas as pd
from matplotlib import colors, figure, ticker

from experts.reporting import canvas

_NO_TRIALS = "no strategy's choices were fine-tuned: run the phase 'transfer' with config.transfer.models='all'"
_OF_PAPER = 2


def relative_regret(regrets: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws the relative regret of the first choice of each strategy on each task; a hybrid's is the task-agnostic one.

  The means are over the tasks on which all of them are known.

  Args:
    regrets: task, strategy, budget, s, best, relative_regret.
    path: PNG to write.
  """
  shown = regrets.strategy.isin(canvas.STRATEGIES) & (regrets.strategy != 'hybrid')
  data = regrets[(regrets.budget == 1) & shown]
  data = data.dropna(subset='relative_regret')
  if data.empty:
    return _NO_TRIALS
  table = _by_task(data, 'relative_regret')
  drawing, (plot,) = canvas.rows(table.index, last='mean')
  means = table.dropna().mean().to_frame('mean').T
  canvas.dots(plot, 100 * pd.concat([table, means]), canvas.STRATEGIES)
  plot.set_xlim(left=-1)
  plot.set_xlabel('relative regret of the first choice, % of its error', fontsize=9)
  canvas.legend(drawing, [plot], columns=3)
  canvas.save(drawing, data, path)
  return ''


def hybrid(deltas: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws Δ between the hybrid strategy and each of the others on each task, with a budget of 2.

  Args:
    deltas: task, budget, first, second, delta.
    path: PNG to write.
  """
  part = deltas[deltas.budget == _OF_PAPER]
  turned = part.rename(columns={'first': 'second', 'second': 'first'}).assign(delta=-part.delta)
  data = pd.concat([part, turned])
  others = [name for name in ('task_agnostic', 'linear', 'knn') if name in set(data['first'])]
  data = data[(data['first'] == 'hybrid') & data.second.isin(others)]
  if data.empty:
    return (
      "no choices of the strategy 'hybrid' were fine-tuned beside those of others: run the phase 'select' with "
      "config.strategy naming 'hybrid', 'linear' and 'task_agnostic', and 'transfer' with config.transfer.models='all'"
    )
  table = data.pivot(index='task', columns='second', values='delta')
  table = canvas.with_mean(table.loc[data.task.unique(), others])
  drawing, plots = canvas.rows(table.index[:-1], len(others), last='mean')
  for plot, name in zip(plots, others, strict=True):
    values = 100 * table[name]
    shades = [canvas.BLUE if value > 0 else canvas.RED for value in values]
    plot.barh(range(len(values)), values, color=shades, height=0.7)
    # Equal is not the same as missing.
    equal = np.flatnonzero(values == 0)
    plot.scatter(np.zeros(len(equal)), equal, s=14, color=canvas.GREY, zorder=3)
    plot.set_title(f'against {canvas.STRATEGIES[name][0]}', loc='left', fontsize=9)
  low, high = 105 * table.min(axis=None), 105 * table.max(axis=None)
  plots[0].set_xlim(min(low, -5), max(high, 5))
  drawing.supxlabel(
    'Δ, % of the worse choice’s error: right of 0 the hybrid is better (budget 2)', fontsize=9
  )
  canvas.save(drawing, data, path)
  return ''


def budgets(by_budget: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws the share of tasks without regret, and the mean relative regret, by the number of models chosen.

  Args:
    by_budget: strategy, budget, zero_regret, relative_regret, tasks.
    path: PNG to write.
  """
  data = by_budget[by_budget.strategy.isin(canvas.STRATEGIES)]
  if data.empty:
    return _NO_TRIALS
  drawing = figure.Figure(figsize=(8.4, 3.9), dpi=canvas.DPI, layout='constrained')
  plots = drawing.subplots(1, 2)
  for plot, column, title in zip(
    plots,
    ('zero_regret', 'relative_regret'),
    ('tasks whose best model is chosen, %', 'mean relative regret, %'),
    strict=True,
  ):
    for i, (name, (text, colour, marker)) in enumerate(canvas.STRATEGIES.items()):
      part = data[data.strategy == name]
      if len(part):
        plot.plot(
          part.budget, 100 * part[column], color=colour, marker=marker, markersize=6 - i / 3,
          linewidth=2.4 - i / 5,
          label=text, markevery=sorted({min(2**i, len(part)) - 1 for i in range(12)}), clip_on=False,
        )  # fmt: skip
    canvas.plain(plot)
    plot.set_xscale('log', base=2)
    plot.xaxis.set_major_locator(ticker.LogLocator(base=2, numticks=12))
    plot.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:g}'))
    plot.set_title(title, loc='left', fontsize=9)
    plot.set_ylim(bottom=0)
  plots[0].set_ylim(0, 104)
  drawing.supxlabel('budget: models chosen and fine-tuned', fontsize=9)
  canvas.legend(drawing, plots, columns=4)
  canvas.save(drawing, data, path)
  return ''


def rank_correlation(correlations: pd.DataFrame, path: str | os.PathLike) -> str:
  """Draws Kendall's tau between each strategy's scores and the test accuracies on each task.

  Args:
    correlations: task, strategy, kendall, models.
    path: PNG to write.
  """
  data = correlations[~correlations.strategy.isin(['oracle', 'random', 'hybrid'])]
  data = data.dropna(subset='kendall')
  if data.empty:
    return 'fewer than two models of each task were fine-tuned: ' + _NO_TRIALS.split(': ')[1]
  table = data.pivot(index='task', columns='strategy', values='kendall')
  table = canvas.with_mean(table.loc[data.task.unique()])
  # The best first, so that a reader need not search.
  table = table[table.loc['mean'].sort_values(ascending=False, na_position='last').index]
  size = 2.6 + 0.62 * table.shape[1], 0.3 * len(table) + 1.5
  drawing = figure.Figure(
    figsize=(max(size[0], 4.2), size[1]), dpi=canvas.DPI, layout='constrained'
  )
  plot = drawing.subplots()
  shades = colors.LinearSegmentedColormap.from_list('', [canvas.RED, 'white', canvas.BLUE])
  plot.imshow(table, cmap=shades, vmin=-1, vmax=1, aspect='auto')
  for y, row in enumerate(table.to_numpy()):
    for x, value in enumerate(row):
      shown = '' if pd.isna(value) else f'{value:.2f}'.replace('-', '−')
      plot.text(
        x,
        y,
        shown,
        ha='center',
        va='center',
        fontsize=7.5,
        color='white' if abs(value) > 0.8 else 'black',
      )
  names = [canvas.STRATEGIES.get(name, (name,))[0] for name in table.columns]
  plot.set_xticks(
    range(len(names)), names, rotation=45, ha='left', rotation_mode='anchor', fontsize=8.5
  )
  plot.set_yticks(range(len(table)), map(canvas.as_is, table.index), fontsize=8.5)
  plot.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
  plot.axhline(len(table) - 1.5, color=canvas.GREY, linewidth=0.8)
  plot.spines[:].set_visible(False)
  plot.set_xlabel('Kendall’s τ between score and test accuracy', fontsize=9)
  canvas.save(drawing, data, path)
  return ''


def _by_task(data: pd.DataFrame, column: str) -> pd.DataFrame:
  """Tasks in their order, strategies in that of the palette."""
  table = data.pivot(index='task', columns='strategy', values=column)
  return table.loc[data.task.unique(), [name for name in canvas.STRATEGIES if name in table]]
