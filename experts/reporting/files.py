"""Reads and writes the files of results: names are text, whatever they look like, and figures are numbers."""

import csv
import json
import os
from typing import Any

import pandas as pd

# Columns that hold names: '007' is not 7, and neither 'NA' nor 'nan' is missing.
TEXT = frozenset(
  (
    'task', 'model', 'kind', 'strategy', 'split', 'config', 'method', 'pool', 'upstream', 'slice', 'chosen', 'member', 'data', 'trained',
    'version', 'statistic', 'file', 'best by hindsight',
  )
)  # fmt: skip
# Columns that must hold numbers, or nothing.
NUMBERS = frozenset(
  (
    'score', 'low', 'high', 'ties', 'duplicates', 'images', 'p_value', 'rank', 'selection', 'lr', 'steps', 'weight_decay',
    'mixup', 'seed', 'parameters', 'gflops', 'accuracy', 'baseline accuracy', 'seconds', 'step', 'value', 'margin', 'gain',
  )
)  # fmt: skip
# In tasks.csv and in the lines of a run this is a name, too.
_METRIC = 'metric'


def read(path: str | os.PathLike) -> pd.DataFrame:
  """Reads scores.csv, trials.csv, picks.csv, tasks.csv, costs.csv, slices.csv or metrics.csv, of this project or of another.

  Returns:
    The table; columns of `TEXT` as text, NaN where empty, those of `NUMBERS` as numbers, and others as pandas guesses.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a table, or no number where one must be; names the line.
  """
  name = os.path.basename(path)
  with open(path, newline='', encoding='utf-8') as file:
    header = next(csv.reader(file), [])
  text = {column for column in header if column in TEXT or column == _METRIC}
  try:
    table = pd.read_csv(
      path,
      dtype=dict.fromkeys(text, str),
      keep_default_na=False,
      na_values={column: [''] if column in text else ['', 'nan', 'NaN'] for column in header},
    )
  except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
    raise ValueError(f'{name}: {str(error).strip()}') from error
  if not isinstance(table.index, pd.RangeIndex):
    raise ValueError(f'{name} line 2: more fields than the header has')
  for column in NUMBERS & set(table):
    if table[column].isna().all():
      table[column] = table[column].astype(float)
    number = pd.to_numeric(table[column], errors='coerce')
    if len(bad := table[number.isna() & table[column].notna()]):
      # The header is line 1.
      raise ValueError(
        f'{name} line {bad.index[0] + 2}: {column} {bad[column].iloc[0]} is no number'
      )
  return table


def write(frame: pd.DataFrame, path: str | os.PathLike) -> None:
  """Writes a table that appears under its name only when it is complete."""
  frame.to_csv(f'{path}.tmp', index=False, float_format='%.6g')
  os.replace(f'{path}.tmp', path)


def write_json(content: Any, path: str | os.PathLike) -> None:
  """Writes a JSON file that appears under its name only when it is complete."""
  with open(f'{path}.tmp', 'w', encoding='utf-8') as file:
    json.dump(content, file, indent=2, ensure_ascii=False)
  os.replace(f'{path}.tmp', path)


def write_text(text: str, path: str | os.PathLike) -> None:
  """Writes a text that appears under its name only when it is complete."""
  with open(f'{path}.tmp', 'w', encoding='utf-8') as file:
    file.write(text)
  os.replace(f'{path}.tmp', path)
