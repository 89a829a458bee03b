"""costs.csv: what a way to a network for each task took."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experts.reporting import files

COSTS = ('task', 'method', 'images', 'seconds')


def write(workdir: str, method: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Enters in costs.csv what a way to a network for each task took, in place of what was known of it.

  Args:
    workdir: of the run.
    method: such as 'selection'.
    rows: task, images (every look at an image counts), seconds (not a number where unknown).
  """
  path = f'{workdir}/costs.csv'
  known = files.read(path) if os.path.exists(path) else pd.DataFrame(columns=COSTS)
  fresh = pd.DataFrame([{'method': method, **row} for row in rows], columns=COSTS)
  others = known[known.method != method]
  files.write(pd.concat([others, fresh]) if len(others) else fresh, path)
