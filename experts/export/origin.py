"""What a workdir tells of how a fine-tuned network came about."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import ml_collections
import pandas as pd

from experts.models.tuned import Tuned
from experts.reporting import files
from experts.runs.records import Records
from experts.selection import pool


@dataclasses.dataclass(frozen=True)
class Origin:
  """What is known; all else is unknown.

  Attributes:
    config: what of it the transfer rests on; empty if unknown.
    member: the model of the pool that was fine-tuned.
    data: the task's row of tasks.csv.
    scores: rows of scores.csv: the model's on the task, one a strategy, each with its `place` among `of` models.
    confusion: test images [C, C] by their class (rows) and the class that they were taken for.
  """

  config: Mapping[str, Any]
  member: pool.Member | None
  data: Mapping[str, Any]
  scores: list[dict[str, Any]]
  confusion: pd.DataFrame | None


def find(one: Tuned) -> Origin:
  """Reads the workdir that a model lies in, WORKDIR/transfer/TASK, if it does.

  Raises:
    ValueError: a file there is damaged.
  """
  folder = os.path.dirname(os.path.abspath(one.path))
  workdir = os.path.dirname(os.path.dirname(folder))
  config = Records(ml_collections.ConfigDict(), workdir).read('transfer').get('config', {})
  return Origin(
    config=config,
    member=_member(one, workdir, config),
    data=_data(one, f'{workdir}/tasks.csv'),
    scores=_scores(one, f'{workdir}/scores.csv'),
    confusion=_confusion(f'{folder}/confusion.csv'),
  )


def _member(one: Tuned, workdir: str, config: Mapping[str, Any]) -> pool.Member | None:
  # Where experts were made, the workdir's own pool is the one that was chosen from.
  for path in (f'{workdir}/pool.json', os.path.expanduser(config.get('pool', ''))):
    if path and os.path.exists(path):
      for member in pool.read(path):
        if member.name == one.described.get('model'):
          return member
  return None


def _data(one: Tuned, path: str) -> dict[str, Any]:
  if not os.path.exists(path):
    return {}
  table = files.read(path)
  rows = table[table.task == one.described.get('task')].dropna(axis='columns')
  return rows.iloc[0].to_dict() if len(rows) else {}


def _scores(one: Tuned, path: str) -> list[dict[str, Any]]:
  if not os.path.exists(path):
    return []
  table = files.read(path)
  table = table[(table.task == one.described.get('task')) & table.score.notna()]
  ranked = table.groupby('strategy').score
  table = table.assign(
    place=ranked.rank(ascending=False, method='min').astype(int), of=ranked.transform('size')
  )
  return table[table.model == one.described.get('model')].to_dict('records')


def _confusion(path: str) -> pd.DataFrame | None:
  if not os.path.exists(path):
    return None
  table = pd.read_csv(path, keep_default_na=False, dtype={'true class': str})
  return table.set_index('true class').astype(int)
