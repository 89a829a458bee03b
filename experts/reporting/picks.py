"""Which expert is chosen for each task, and how far it is ahead of the baseline (the form of [EXP] Table 4)."""

import pandas as pd

from experts.reporting import tables

# The baseline is in every pool: an expert that is worse is not worth a fine-tune.
_POOLS = {'full': ('baseline', 'full'), 'adapter': ('baseline', 'adapter'), 'all': ()}


def picks(
  scores: pd.DataFrame,
  strategy: str = 'knn',
  trials: pd.DataFrame | None = None,
  budget: int = 1,
) -> pd.DataFrame:
  """Returns the choice among the full experts, among the adapter experts, and among all models.

  Args:
    scores: task, model, kind, strategy, score, rank, and optionally p_value (McNemar's, against the baseline) and accuracy
      (after fine-tuning).
    strategy: which ranks choose; its scores are accuracies.
    trials: as for `tables.choose`, which then chooses among the first `budget`; None or none at all: the choice is the
      first by rank.
    budget: how many of the best-ranked are tried.

  Returns:
    A row for each task and pool: task, pool ('full', 'adapter', 'all'), chosen, score, margin (score minus the
    baseline's), p_value, accuracy, gain (accuracy minus the baseline's). NaN where the baseline, or a column, is missing.
    Pools of experts that `scores` have none of are left out.

  Raises:
    ValueError: no ranks of that strategy.
  """
  part = scores[scores.strategy == strategy]
  if part['rank'].isna().all():
    known = scores.strategy[scores['rank'].notna()].unique()
    raise ValueError(f"no ranks of the strategy '{strategy}'; there are: {', '.join(known)}")
  part = part.reindex(columns=[*part.columns.union(['p_value', 'accuracy'], sort=False)])
  pools = _pools(part.kind[part['rank'].notna()])
  rows = []
  for task, models in part.groupby('task', sort=False):
    ranked = models[models['rank'].notna()]
    baseline = _first(ranked[ranked.kind == 'baseline'])
    for pool, kinds in pools.items():
      among = models[models.kind.isin(kinds)] if kinds else models
      if among['rank'].isna().all():
        continue
      tried = trials is not None and (trials.task == task).any()
      chosen = tables.choose(among, trials, budget) if tried else _first(among)
      rows.append({'task': task, 'pool': pool, **_against(chosen, baseline)})
  return pd.DataFrame(rows)


def wide(table: pd.DataFrame) -> pd.DataFrame:
  """Puts the pools of `picks` side by side: a row for each task.

  Returns:
    task and, for each pool, the chosen model under the pool's name, '… score', '… margin', '… p_value'.
  """
  tasks = table.task.unique()
  columns = {'task': tasks}
  for name, part in table.groupby('pool', sort=False):
    part = part.set_index('task').reindex(tasks)
    columns |= {name: part.chosen.to_numpy()}
    columns |= {f'{name} {c}': part[c].to_numpy() for c in ('score', 'margin', 'p_value')}
  return pd.DataFrame(columns)


def _pools(kinds: pd.Series) -> dict[str, tuple[str, ...]]:
  """The pools that ranked models of such kinds form; a pool of experts needs one of them."""
  return {name: of for name, of in _POOLS.items() if not of or (kinds == of[-1]).any()}


def _against(chosen: pd.Series, baseline: pd.Series | None) -> dict[str, str | float]:
  """The chosen model's figures, and how far they are ahead of the baseline's."""
  own = baseline is not None and chosen.model == baseline.model
  return {
    'chosen': chosen.model,
    'score': chosen.score,
    'margin': float('nan') if baseline is None else chosen.score - baseline.score,
    'p_value': float('nan') if own else chosen.p_value,
    'accuracy': chosen.accuracy,
    'gain': float('nan') if baseline is None else chosen.accuracy - baseline.accuracy,
  }


def _first(models: pd.DataFrame) -> pd.Series | None:
  return None if models.empty else models.loc[models['rank'].idxmin()]
