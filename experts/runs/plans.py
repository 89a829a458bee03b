"""Which models are fine-tuned on a task: the best-ranked that can be."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from absl import logging

from experts.runs.description import Config
from experts.selection import pool, strategies
from experts.training import hosts


class Plan(NamedTuple):
  """What is fine-tuned on a task.

  Attributes:
    wanted: models, in the pool's order.
    scores: rows of scores.csv of the task and the strategy that chooses.
  """

  wanted: list[pool.Member]
  scores: pd.DataFrame


def plan(config: Config, scores: pd.DataFrame, known: Sequence[pool.Member], name: str) -> Plan:
  """Decides what is fine-tuned on a task, and says so where it is not what is ranked first.

  The best-ranked models that can be fine-tuned here, as many as the budget; the baseline, if it is a candidate; with
  `config.transfer.models='all'` all candidates, the controls among them.

  Raises:
    ValueError: no ranks on that task, or a model of another pool.
  """
  strategy = strategies.named(config.strategy)[0]
  rows = scores[(scores.task == name) & (scores.strategy == strategy)]
  ranked = rows[rows['rank'].notna()].sort_values('rank', kind='stable')
  if ranked.empty:
    raise ValueError(
      f"scores.csv has no rank of the strategy '{strategy}' on the task {name!r}: run the phase 'select' with it"
    )
  by_name = {member.name: member for member in known}
  if missing := [model for model in rows.model if model not in by_name]:
    raise ValueError(f'scores.csv ranks models that the pool has not: {", ".join(missing)}')
  able = ranked[[by_name[model].trainable for model in ranked.model]]
  tried = able[: config.select.budget]
  _say(name, ranked, tried)
  every = config.transfer.models == 'all'
  wanted = [
    by_name[model]
    for model in by_name
    if model in set(rows.model)
    and by_name[model].trainable
    and (every or model in set(tried.model) or (by_name[model].kind == 'baseline' and len(tried)))
  ]
  return Plan(wanted, rows)


def _say(name: str, ranked: pd.DataFrame, tried: pd.DataFrame) -> None:
  if not hosts.first():
    return
  if tried.empty:
    logging.warning(
      'transfer: %s: nothing is fine-tuned, for all models that are ranked are of kinds that can only be ranked (%s); the '
      'ranking is in scores.csv', name, ', '.join(sorted(ranked.kind.unique())),
    )  # fmt: skip
    return
  skipped = ranked[(ranked['rank'] < tried['rank'].max()) & ~ranked.model.isin(tried.model)]
  if len(skipped):
    logging.warning(
      'transfer: %s: %s can only be ranked; %s %s fine-tuned',
      name, _named(skipped, kind=True), _named(tried), 'is' if len(tried) == 1 else 'are',
    )  # fmt: skip


def _named(rows: pd.DataFrame, kind: bool = False) -> str:
  """'A (callable), ranked first, and B, ranked 2nd'."""
  return ' and '.join(
    f'{row.model}{f" ({row.kind})" if kind else ""}, ranked {_ordinal(int(row.place))},'
    for row in rows.rename(columns={'rank': 'place'}).itertuples()
  )


def _ordinal(number: int) -> str:
  if number == 1:
    return 'first'
  suffixes = {1: 'st', 2: 'nd', 3: 'rd'}
  teen = number % 100 in (11, 12, 13)
  return f'{number}{"th" if teen else suffixes.get(number % 10, "th")}'
