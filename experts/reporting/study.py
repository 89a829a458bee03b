"""All figures of a study of strategies, and what is lacking for those that cannot be drawn."""

import dataclasses
import os
import pathlib

import pandas as pd

from experts.reporting import figures_models, figures_strategies


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
  of_strategies, of_models = figures_strategies, figures_models
  drawings = {
    'relative_regret': (
      'Relative regret of the first choice of each strategy, by task (after [WHICH])',
      of_strategies.relative_regret,
      (tables.regrets,),
    ),
    'hybrid': (
      'Δ between the hybrid and the other strategies with a budget of 2, by task (after [WHICH])',
      of_strategies.hybrid,
      (tables.deltas,),
    ),
    'budgets': (
      'Share of tasks without regret, and mean relative regret, by budget (after [WHICH])',
      of_strategies.budgets,
      (tables.by_budget,),
    ),
    'rank_correlation': (
      "Kendall's τ between scores and test accuracies, by task and strategy (after [WHICH])",
      of_strategies.rank_correlation,
      (tables.correlations,),
    ),
    'dimension': (
      'kNN accuracy by dimension of the embedding (after [WHICH])',
      of_models.dimension,
      (tables.scores, tables.members),
    ),
    'ranked': (
      'kNN accuracy of all models, best first (after [EXP])',
      of_models.ranked,
      (tables.scores,),
    ),
    'gain': (
      'Test accuracy of the chosen expert minus that of the baseline (after [EXP])',
      of_models.gain,
      (tables.picks,),
    ),
    'proxy': (
      'Test accuracy after fine-tuning by kNN accuracy before (after [EXP])',
      of_models.proxy,
      (tables.scores,),
    ),
    'checkpoints': (
      'kNN accuracy of the baseline as it trains, and of the best experts (after [EXP] App. C.5)',
      of_models.checkpoints,
      (tables.scores,),
    ),
    'controls': (
      'kNN accuracy of experts on slices and on as many random images (after [EXP] App. G)',
      of_models.controls,
      (tables.scores, tables.members),
    ),
  }
  return [
    Figure(f'{name}.png', caption, draw(*data, pathlib.Path(folder) / f'{name}.png'))
    for name, (caption, draw, data) in drawings.items()
  ]
