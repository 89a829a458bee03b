"""Result files keep names as text and figures as numbers."""

import numpy as np
import pandas as pd
import pytest

from experts.models import kinds
from experts.reporting import files, outcomes
from experts.selection import pool

_NAMES = (
  '007', '1e5', 'True', 'NA', 'nan', 'NaN', 'None', 'null', '-inf', '2024', ' a ', 'a,b', 'a"b', 'größe'
)  # fmt: skip


def test_any_name_comes_back_as_it_was(tmp_path):
  written = pd.DataFrame({'task': _NAMES, 'model': _NAMES[::-1], 'score': np.arange(14) / 8})
  written['rank'] = pd.array([*range(1, 14), pd.NA], 'Int64')
  files.write(written, tmp_path / 'scores.csv')
  read = files.read(tmp_path / 'scores.csv')
  assert read.task.tolist() == list(_NAMES)
  assert read.model.tolist() == list(_NAMES[::-1])
  assert read.score.tolist() == written.score.tolist()
  assert read['rank'].tolist()[:-1] == list(range(1, 14))
  assert np.isnan(read['rank'].iloc[-1])
  assert not list(tmp_path.glob('*.tmp'))


def test_what_is_empty_is_missing(tmp_path):
  (tmp_path / 'trials.csv').write_text(
    'task,model,config,accuracy,drift\na,b,,,True\na,b,nan,nan,\n'
  )
  table = files.read(tmp_path / 'trials.csv')
  assert table.accuracy.isna().all()
  assert table.accuracy.dtype == float
  assert table.config.isna().tolist() == [True, False]
  assert table.drift.tolist()[0] is True


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('', 'x.csv: No columns'),
    ('task,score\na,0.5\nb,high\n', 'x.csv line 3: score high is no number'),
    ('task,steps\na,0.5\nb,1,2\n', 'x.csv: .* line 3, saw 3'),
    ('task,steps\na,5,1\nb,1,2\n', 'x.csv line 2: more fields than the header has'),
  ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, text, reason):
  (tmp_path / 'x.csv').write_text(text)
  with pytest.raises(ValueError, match=reason) as error:
    files.read(tmp_path / 'x.csv')
  assert '\n' not in str(error.value)


def test_reporting_and_selection_name_the_same_models():
  assert outcomes.CONTROLS == pool.CONTROLS
  assert outcomes.OPAQUE == kinds.OPAQUE
  assert outcomes.RANDOM_SLICE == pool.RANDOM_SLICE
  assert outcomes.COMPETITOR == pool.COMPETITOR
