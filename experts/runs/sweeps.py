"""The trials of a sweep: what is tried, how often, and trials.csv, which says what came of it (EXP App. E)."""

import itertools
import os
from typing import NamedTuple

import numpy as np
import pandas as pd

from experts.models import partial
from experts.reporting import files
from experts.runs.description import Config
from experts.training import hosts, optim

COLUMNS = (
  'task', 'model', 'selection', 'lr', 'steps', 'weight_decay', 'mixup', 'seed', 'split', 'accuracy', 'trained',
)  # fmt: skip


class Point(NamedTuple):
  """One point of a sweep; the duration as the config has it."""

  learning_rate: float
  duration: str
  weight_decay: float
  mixup: float
  trained: str


def numbers(config: Config) -> tuple[int, int]:
  """How often the sweep is run and its best chosen, and how often each choice is retrained (EXP App. E.2: 10 and 3)."""
  selections, retrains = config.trials.split('x')
  return int(selections), int(retrains)


def points(config: Config, selection: int) -> list[Point]:
  """The settings that one selection tries: all combinations, or random draws that depend on the seed alone."""
  section = config.transfer
  grid = (
    section.learning_rates, section.durations, section.weight_decays, section.mixups, section.trained,
  )  # fmt: skip
  if not section.draws:
    return [Point(*values) for values in itertools.product(*grid)]
  rng = np.random.default_rng([config.seed, selection])

  def between(values):
    # Four digits, which a CSV keeps: a restart goes on with the very same.
    return float(f'{np.exp(rng.uniform(*np.log([min(values), max(values)]))):.4g}')

  return [
    Point(
      between(section.learning_rates),
      str(rng.choice(section.durations)),
      between(section.weight_decays),
      float(rng.choice(section.mixups)),
      # Where there is no choice, none is drawn: draws stay those of before.
      str(rng.choice(section.trained)) if len(section.trained) > 1 else section.trained[0],
    )
    for _ in range(section.draws)
  ]


def warmup(config: Config, steps: int, images: int) -> str:
  """The warm-up that goes with the duration of so many steps, where a sweep trains on `images`."""
  section = config.transfer
  for i, text in enumerate(section.durations):
    if optim.steps(text, section.batch_size, images) == steps:
      return section.warmups[i % len(section.warmups)]
  raise ValueError(
    f'no duration of config.transfer.durations={section.durations} has {steps} steps'
  )


class Trial(NamedTuple):
  """One fine-tune."""

  selection: int
  lr: float
  steps: int
  weight_decay: float
  mixup: float
  seed: int
  trained: str = partial.ALL


class Trials:
  """trials.csv: a row is written when its trial ends, and a trial that has its row is not run again.

  All processes of a job make one together: they must agree on what is there.
  """

  def __init__(self, path: str):
    self._path = path
    rows = []
    if hosts.first() and os.path.exists(path):
      # A table of before says not what was trained: all.
      table = files.read(path)
      trained = table.trained.fillna(partial.ALL) if 'trained' in table else partial.ALL
      rows = table.assign(trained=trained).to_dict('records')
    self._rows = hosts.from_first(rows)

  @property
  def folder(self) -> str:
    return os.path.dirname(self._path)

  def frame(self) -> pd.DataFrame:
    return pd.DataFrame(self._rows, columns=COLUMNS)

  def find(self, **key) -> list[dict]:
    return [row for row in self._rows if all(row[name] == value for name, value in key.items())]

  def add(self, rows: list[dict]) -> None:
    # As the file has them: a run that reads them back must choose as one that was not interrupted.
    self._rows += [
      {name: float(f'{x:.6g}') if isinstance(x, float) else x for name, x in row.items()}
      for row in rows
    ]
    if hosts.first():
      files.write(self.frame(), self._path)
