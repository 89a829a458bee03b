"""Images classified with what a transfer left, through main.py."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _predict(workdir, *flags):
  return subprocess.run(
    [sys.executable, 'main.py', '--config=configs/predict.py', f'--workdir={workdir}', *flags],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': '', 'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True,
    text=True,
    check=False,
  )


def test_predictions_are_the_transfers_own(chain, data_dir, tmp_path):
  images = tmp_path / 'images'
  shutil.copytree(data_dir / 'task' / 'test', images)
  (images / 'broken.jpg').write_bytes(b'no image')
  (images / 'notes.txt').write_text('no image either')
  model = chain[0] / 'transfer' / 'stripes'
  done = _predict(tmp_path / 'out', f'--config.model={model}', f'--config.images={images}')
  assert done.returncode == 0, done.stderr[-2000:]
  found = pd.read_csv(tmp_path / 'out' / 'predictions.csv').set_index('file')
  assert len(found) == 19
  assert np.isnan(found.probability['broken.jpg'])
  assert 'broken.jpg: cannot be decoded' in done.stderr
  found = found.drop('broken.jpg')
  np.testing.assert_allclose(found.probability + found.probability_2, 1, atol=1e-5)
  # The folders' names are the classes, which the transfer's confusion matrix counts.
  confusion = pd.read_csv(model / 'confusion.csv', index_col=0)
  true = [pathlib.Path(file).parts[0] for file in found.index]
  counted = pd.crosstab(pd.Series(true), pd.Series(found['class'].to_numpy()))
  counted = counted.reindex(index=confusion.index, columns=confusion.columns, fill_value=0)
  np.testing.assert_array_equal(counted, confusion)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((), 'config.model is empty: name what a transfer left: runs/mine/transfer/mine'),
    (('--config.model={model}',), 'config.images is empty: name a folder'),
    (('--config.model=nowhere', '--config.images=x'), 'nowhere'),
    (('--config.model={model}', '--config.images=nowhere'), 'nowhere: no such folder'),
    (('--config.model={model}', '--config.images={empty}'), 'holds no image'),
  ],
)
def test_what_cannot_be_predicted_is_one_line(chain, tmp_path, flags, message):
  (tmp_path / 'empty').mkdir()
  model = chain[0] / 'transfer' / 'stripes'
  done = _predict(
    tmp_path / 'out', *(flag.format(model=model, empty=tmp_path / 'empty') for flag in flags)
  )
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr
