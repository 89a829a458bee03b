"""All figures of a study of strategies, and what is lacking for those that cannot be drawn."""

import dataclasses
import os
import pathlib

import pandas as pd

from experts.reporting import figures_models, figures_strategies

# Name -> what the figure shows, what draws it, and which of `Tables` this is given.
_DRAWINGS = {
  'relative_regret': (
    'Relative regret of the first choice of each strategy, by task (after [WHICH])',
    figures_strategies.relative_regret,
    ('regrets',),
  ),
  'hybrid': (
    'Δ between the hybrid and the other strategies with a budget of 2, by task (after [WHICH])',
    figures_strategies.hybrid,
    ('deltas',),
  ),
  'budgets': (
    'Share of tasks without regret, and mean relative regret, by budget (after [WHICH])',
    figures_strategies.budgets,
    ('by_budget',),
  ),
  'rank_correlation': (
    "Kendall's τ between scores and test accuracies, by task and strategy (after [WHICH])",
    figures_strategies.rank_correlation,
    ('correlations',),
  ),
  'dimension': (
    'kNN accuracy by dimension of the embedding (after [WHICH])',
    figures_models.dimension,
    ('scores', 'members'),
  ),
  'ranked': (
    'kNN accuracy of all models, best first (after [EXP])',
    figures_models.ranked,
    ('scores',),
  ),
  'gain': (
    'Test accuracy of the chosen expert minus that of the baseline (after [EXP])',
    figures_models.gain,
    ('picks',),
  ),
  'proxy': (
    'Test accuracy after fine-tuning by kNN accuracy before (after [EXP])',
    figures_models.proxy,
    ('scores',),
  ),
  'checkpoints': (
    'kNN accuracy of the baseline as it trains, and of the best experts (after [EXP] App. C.5)',
    figures_models.checkpoints,
    ('scores',),
  ),
  'controls': (
    'kNN accuracy of experts on slices and on as many random images (after [EXP] App. G)',
    figures_models.controls,
    ('scores', 'members'),
  ),
}


@dataclasses.dataclass(frozen=True)
class Tables:
  """What the figures show; see `experts.selection.evaluation` and `experts.reporting.picks` for the columns.

  Attributes:
    scores: joined with the test accuracies.
    members: the pool's models.
    picks: of the strategy 'knn'.
    regrets: by task, strategy and budget; empty before any fine-tuning, as are the next two.
    by_budget: their means.
    deltas: of each two strategies.
    correlations: of scores and test accuracies.
  """

  scores: pd.DataFrame
  members: pd.DataFrame
  picks: pd.DataFrame
  regrets: pd.DataFrame
  by_budget: pd.DataFrame
  deltas: pd.DataFrame
  correlations: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class Figure:
  """One figure: its PNG's name, what it shows, and, if it was not drawn, why not and which run would change that."""

  name: str
  caption: str
  lacking: str


def write_all(tables: Tables, folder: str | os.PathLike) -> list[Figure]:
  """Writes each figure that the tables suffice for, as a PNG and its data as a CSV of the same name.

  Args:
    tables: what to draw.
    folder: where the files go; it exists.

  Returns:
    All figures, those of [WHICH] first.
  """
  figures = []
  for name, (caption, draw, shown) in _DRAWINGS.items():
    data = [getattr(tables, table) for table in shown]
    path = pathlib.Path(folder) / f'{name}.png'
    figures.append(Figure(path.name, caption, draw(*data, path)))
  return figures
