"""The metric lines of a run: a CSV that opens in pandas and survives a crash."""

import csv
import os
from collections.abc import Mapping, Sequence

import numpy as np

FIELDS = ('step', 'member', 'metric', 'value')


class Lines:
  """Appends (step, member, metric, value) rows; a resumed run goes on as if it had not stopped."""

  def __init__(self, path: str):
    self._path = path

  def start(self, step: int) -> None:
    """Drops the rows after `step`: the run is about to write them again."""
    rows = []
    if os.path.exists(self._path):
      with open(self._path, newline='') as file:
        # A crash may have left half a line at the end, perhaps with a value that still looks like one.
        whole = [line for line in file if line.endswith('\n')]
      rows = [row for row in list(csv.reader(whole))[1:] if int(row[0]) <= step]
    temporary = f'{self._path}.tmp'
    with open(temporary, 'w', newline='') as file:
      csv.writer(file, lineterminator='\n').writerows([FIELDS, *rows])
    os.replace(temporary, self._path)

  def append(self, step: int, members: Sequence[str], metrics: Mapping[str, np.ndarray]) -> None:
    """Writes one row for each member and metric, and hands them to the system at once."""
    rows = [
      (step, member, name, f'{values[i]:.9g}')
      for i, member in enumerate(members)
      for name, values in sorted(metrics.items())
    ]
    with open(self._path, 'a', newline='') as file:
      csv.writer(file, lineterminator='\n').writerows(rows)
