"""Start-up and interruption: one clear line for a mistake, nothing half-written, nothing lost to a kill."""

import importlib.util
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from experts import app

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS, CRASHES = 60, 5

_CONFIG = """
from configs import common

def get_config():
  config = common.get_config()
  config.phases = ('upstream',)
  config.data_dir = %r
  config.model.update(depth=14, width=0.03125, root='small', dtype='float32')
  config.image.update(size=16, resize=16)
  config.run.update(
    log_every='2 steps', checkpoint_every='3 steps', keep_checkpoints=2, evaluation_batch=16,
    tensorboard=False,
  )
  config.upstream.update(
    data='images:upstream', duration='%d steps', batch_size=8, warmup='10 %%',
    learning_rate=0.1, crop='inception', flip=True,
  )
  return config
"""


@pytest.fixture(scope='module')
def config_file(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('data')
  rng = np.random.default_rng(0)
  for split, number in (('train', 15), ('test', 5)):
    for name, colour in {
      'red': (200, 40, 40),
      'green': (40, 200, 40),
      'blue': (40, 40, 200),
    }.items():
      path = folder / 'upstream' / split / name
      path.mkdir(parents=True)
      for i in range(number):
        image = np.clip(rng.normal(colour, 50, (16, 16, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(path / f'{i}.png'), image[..., ::-1])
  path = folder / 'config.py'
  path.write_text(_CONFIG % (str(folder), STEPS))
  return path


@pytest.fixture
def config(config_file):
  spec = importlib.util.spec_from_file_location('tiny_config', config_file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.upstream.duration = '4 steps'
  return config


def _start(config_file, workdir, *flags) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, 'main.py', f'--config={config_file}', f'--workdir={workdir}', *flags],
    cwd=ROOT,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _finish(process) -> tuple[int, str]:
  _, errors = process.communicate(timeout=300)
  return process.returncode, errors


def _wait_for_step(process, workdir, step) -> None:
  """Returns when the run has written the metric lines of a step, or has ended."""
  lines = workdir / 'upstream' / 'metrics.csv'
  while process.poll() is None:
    last = lines.read_text().rsplit('\n', 2)[-2:-1] if lines.exists() else []
    if last and last[0].split(',')[0].isdigit() and int(last[0].split(',')[0]) >= step:
      return


def _results(workdir) -> tuple[bytes, dict[str, np.ndarray]]:
  with np.load(workdir / 'weights' / 'baseline.npz') as weights:
    return (workdir / 'upstream' / 'metrics.csv').read_bytes(), dict(weights)


@pytest.fixture(scope='module')
def undisturbed(config_file, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  code, errors = _finish(_start(config_file, workdir))
  assert code == 0, errors
  return workdir


def _assert_same(workdir, undisturbed):
  lines, weights = _results(workdir)
  expected_lines, expected = _results(undisturbed)
  assert lines == expected_lines
  assert weights.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(weights[name], value, err_msg=name)


def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(
  config_file, undisturbed, tmp_path
):
  workdir = tmp_path / 'run'
  survived = []
  # Each start goes on from where the kill before it left the run.
  for step in sorted(random.Random(2).sample(range(2, STEPS - 10), CRASHES)):
    process = _start(config_file, workdir)
    _wait_for_step(process, workdir, step)
    process.kill()
    code, errors = _finish(process)
    assert code == -signal.SIGKILL, errors
    survived += [line for line in errors.splitlines() if 'goes on from step' in line]
  code, errors = _finish(_start(config_file, workdir))
  assert code == 0, errors
  survived += [line for line in errors.splitlines() if 'goes on from step' in line]
  assert len(survived) >= CRASHES - 1
  _assert_same(workdir, undisturbed)


def test_sigterm_saves_exits_with_0_and_goes_on(config_file, undisturbed, tmp_path):
  workdir = tmp_path / 'run'
  process = _start(config_file, workdir)
  _wait_for_step(process, workdir, 7)
  process.terminate()
  code, errors = _finish(process)
  assert code == 0, errors
  stopped = [line for line in errors.splitlines() if 'stopped by SIGTERM at step' in line]
  assert len(stopped) == 1
  step = int(stopped[0].rsplit(' ', 1)[1])
  assert (workdir / 'upstream' / 'checkpoints' / str(step)).is_dir()
  assert not json.loads((workdir / 'phases' / 'upstream.json').read_text())['finished']
  code, errors = _finish(_start(config_file, workdir))
  assert code == 0, errors
  assert f'goes on from step {step}' in errors
  _assert_same(workdir, undisturbed)


def test_sigterm_before_the_first_step_ends_quietly(config_file, tmp_path):
  workdir = tmp_path / 'run'
  process = _start(config_file, workdir)
  while process.poll() is None and not (workdir / 'phases' / 'upstream.json').exists():
    pass
  process.terminate()
  code, errors = _finish(process)
  assert code == 0, errors
  assert 'Traceback' not in errors
  assert not (workdir / 'weights' / 'baseline.npz').exists()


def test_a_checkpoint_that_cannot_be_saved_ends_the_run_with_its_reason(config_file, tmp_path):
  workdir = tmp_path / 'run'
  process = _start(config_file, workdir)
  _wait_for_step(process, workdir, 12)
  folder = workdir / 'upstream' / 'checkpoints'
  # Another file where the folder was: nothing more can be saved in it.
  folder.rename(workdir / 'upstream' / 'moved')
  folder.write_text('in the way')
  code, errors = _finish(process)
  assert code == 1
  # TensorStore's threads write tracebacks of their own at the same time, even into the middle of a line.
  assert errors.count(f'error: cannot save a checkpoint in {folder}: ') == 1
  folder.unlink()
  (workdir / 'upstream' / 'moved').rename(folder)
  assert any(path.name.isdigit() for path in folder.iterdir())


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (
      ['--config.upstream.learning_rte=0.2'],
      'error: config.upstream.learning_rte is not a field; '
      'did you mean config.upstream.learning_rate?',
    ),
    (
      ['--config.model.depth=34'],
      'error: config.model.depth=34 is out of range: it must be 14, 26, 50, 101 or 152',
    ),
  ],
)
def test_a_wrong_override_is_one_line_and_leaves_nothing(config_file, tmp_path, flags, message):
  code, errors = _finish(_start(config_file, tmp_path / 'run', *flags))
  assert code == 1
  assert errors.splitlines() == [message]
  assert not (tmp_path / 'run').exists()


def test_a_workdir_that_cannot_be_written_is_one_line(config_file, tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  workdir = tmp_path / 'file' / 'run'
  code, errors = _finish(_start(config_file, workdir))
  assert code == 1
  assert errors.splitlines() == [
    f'error: cannot write to the workdir {workdir} (Not a directory); name another with --workdir'
  ]


def _times(folder: pathlib.Path) -> dict[pathlib.Path, int]:
  """When each file was written, but for the log, which every run continues."""
  files = [path for path in folder.rglob('*') if path.is_file() and path.name != 'log.txt']
  return {path: path.stat().st_mtime_ns for path in files}


def test_a_finished_phase_is_skipped_and_another_config_refused(config, tmp_path):
  app.run(config, str(tmp_path))
  record = json.loads((tmp_path / 'phases' / 'upstream.json').read_text())
  assert record['finished']
  before = _times(tmp_path)
  # Neither what later phases read nor where things are shown is part of what upstream made.
  config.transfer.mixups = (0.7,)
  config.run.log_every = '3 steps'
  app.run(config, str(tmp_path))
  config.upstream.learning_rate = 0.25
  config.seed = 5
  with pytest.raises(ValueError) as error:
    app.run(config, str(tmp_path))
  message = str(error.value)
  assert message.startswith(f"{tmp_path} holds the phase 'upstream' of another config; ")
  assert 'seed (was 0, is 5), upstream.learning_rate (was 0.1, is 0.25)' in message
  assert '\n' not in message
  assert _times(tmp_path) == before


def test_changed_data_is_refused_and_nothing_is_touched(config, config_file, tmp_path):
  data = tmp_path / 'data'
  shutil.copytree(config_file.parent / 'upstream', data)
  config.upstream.data = f'images:{data}'
  workdir = tmp_path / 'run'
  app.run(config, str(workdir))
  before = _times(workdir)
  (data / 'train' / 'red' / '3.png').rename(data / 'train' / 'blue' / 'three.png')
  with pytest.raises(ValueError) as error:
    app.run(config, str(workdir))
  assert str(error.value) == (
    f"{workdir} holds the phase 'upstream' of other data: upstream.data: train: 1 image of 'blue' is new, "
    "1 image of 'red' is gone. Take another --workdir, or put back what was there"
  )
  assert _times(workdir) == before


def test_a_mended_path_is_no_other_config(config, tmp_path):
  good, config.upstream.data = config.upstream.data, 'images:upstraem'
  with pytest.raises(FileNotFoundError, match='upstraem'):
    app.run(config, str(tmp_path))
  assert _times(tmp_path) == {}
  config.upstream.data = good
  app.run(config, str(tmp_path))
  assert (tmp_path / 'weights' / 'baseline.npz').exists()


def test_a_loss_that_is_not_finite_keeps_the_record_of_its_config(config, tmp_path):
  config.upstream.learning_rate = 1e38
  config.upstream.duration = '12 steps'
  with pytest.raises(
    FloatingPointError, match=r"upstream: member 'baseline' .* is not finite at step"
  ):
    app.run(config, str(tmp_path))
  config.upstream.learning_rate = 0.1
  with pytest.raises(ValueError, match=r'upstream\.learning_rate \(was 1e\+38, is 0\.1\)'):
    app.run(config, str(tmp_path))
