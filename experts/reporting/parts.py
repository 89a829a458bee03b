"""What the report is made from, and what it is made of: results, and parts that each hold a table or a figure."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from experts.reporting import study


@dataclasses.dataclass(frozen=True)
class Results:
  """All that the report shows.

  Attributes:
    tables: scores, members and what follows from them; see `study.Tables`. The scores are joined with the accuracies.
    trials: task, model, split, accuracy and settings, as `results.read_trials` returns; empty before any fine-tuning.
    groups: task -> group of tasks (`summary.GROUPS`, `NATURAL_SIX`, `OTHER`); with `paper`, of its tasks too.
    costs: task, method, images, seconds; None if nobody measured.
    slices: kind, slice, images, accuracy, baseline accuracy; None if no experts were trained.
    paper: upstream, method, and a column of percentages for each task: published figures to show beside ours.
    strategy: the one that chose what was fine-tuned.
    budget: how many of its first choices were tried.
    cluster: whether intervals resample selections, then the retrains within each.
    tasks: what each task's data are, as `results.read_tasks` returns; None if nobody wrote it down.
  """

  tables: study.Tables
  trials: pd.DataFrame
  groups: Mapping[str, str]
  costs: pd.DataFrame | None = None
  slices: pd.DataFrame | None = None
  paper: pd.DataFrame | None = None
  strategy: str = 'knn'
  budget: int = 1
  cluster: bool = False
  tasks: pd.DataFrame | None = None


@dataclasses.dataclass(frozen=True)
class Part:
  """A table or a figure of the report.

  Attributes:
    name: of its files.
    title: what it shows.
    section: heading that it stands under.
    about: how to read it.
    table: what it shows, shares in [0, 1]; a column 'X low' and 'X high' hold the interval of 'X'.
    percent: columns that are shares.
    foot: that many last rows are means, which stay last when the table is sorted.
    figure: PNG in the report's folder.
    lacking: why there is neither, and which run would change that.
  """

  name: str
  title: str
  section: str
  about: str = ''
  table: pd.DataFrame | None = None
  percent: Sequence[str] = ()
  foot: int = 0
  figure: str = ''
  lacking: str = ''
