"""Settings that every test needs before JAX starts its backend, and one run of every phase, through main.py, that many read."""

import os
import pathlib
import subprocess
import sys
import tempfile

# The tests describe the CPU form of the program, on eight virtual devices so that meshes are real.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Programs repeat between tests and between runs: compile each once.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), 'experts-test-cache')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

import cv2
import jax
import numpy as np
import pytest

jax.config.update('jax_num_cpu_devices', 8)

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Tiny networks that are compiled a hundred times: a fifth of the time is spent with less care for their speed.
QUICK = {
  'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
  'XLA_FLAGS': '--xla_cpu_use_fusion_emitters=false',
}
# Where tests are of what is computed, programs are those that people get.
_QUICK_ROOMS = ('phases', 'runs', 'launch')

# A hierarchy of two groups of three classes; a class is a colour and a direction of stripes.
_GROUPS = {
  'warm': {'red': (220, 40, 40), 'orange': (220, 140, 30), 'pink': (230, 120, 170)},
  'cold': {'blue': (40, 60, 220), 'cyan': (40, 200, 210), 'green': (40, 170, 60)},
}

_CONFIG = """
from configs import common

def get_config():
  config = common.get_config()
  config.model.update(depth=14, width=0.0625, root='small')
  config.image.update(size=16, resize=16)
  config.run.update(log_every='4 steps', checkpoint_every='8 steps', evaluation_batch=16)
  config.run.embedding_cache = {data_dir} + '/embeddings'
  small = {'batch_size': 16, 'warmup': '10 %', 'weight_decay': 1e-4}
  config.upstream.update(small, data='images:upstream', duration='12 steps', learning_rate=0.5)
  config.experts.update(count=2, min_images=30)
  config.experts.full.update(small, duration='6 steps', learning_rate=0.1)
  config.experts.adapter.update(small, duration='6 steps', learning_rate=0.1)
  config.data_dir = {data_dir}
  config.tasks = {
    'stripes': common.task('images:task', train_images=0, validation_images=8),
    'held-out': common.task('images:plain', test='', train_images=0, validation_images=0),
  }
  config.transfer.update(
    models='all', batch_size=16, durations=('4 steps',), learning_rates=(0.5, 0.1), warmups=('8 %',)
  )
  config.trials = '1x2'
  return config
"""

# A pool is ranked for a task, all of it is fine-tuned, and the best is kept.
_POOL_CONFIG = """
from configs import common

{before}
def get_config():
  config = common.get_config()
  config.phases = ('select', 'transfer', 'report')
  config.run.update(evaluation_batch=16, tensorboard=False, embedding_cache='')
  config.data_dir = {data!r}
  config.pool = {pool!r}
  config.tasks = {{'stripes': common.task('images:task', train_images=0, validation_images=8)}}
  config.transfer.update(
    models='all', batch_size=16, durations=('12 steps',), learning_rates={rates}, warmups=('8 %',)
  )
  config.trials = '1x2'
  return config
"""


def _draw(folder: pathlib.Path, colour, horizontal: bool, number: int, seed: int) -> None:
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True)
  for i in range(number):
    image = np.clip(rng.normal(colour, 30, (20, 20, 3)), 0, 255).astype(np.uint8)
    image[::4] //= 2
    image = image if horizontal else image.transpose(1, 0, 2)
    cv2.imwrite(str(folder / f'{i}.png'), image[..., ::-1])


@pytest.fixture(scope='module', autouse=True)
def _quick_programs(request):
  if request.path.parent.name not in _QUICK_ROOMS:
    yield
    return
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory) -> pathlib.Path:
  data = tmp_path_factory.mktemp('data')
  seed = 0
  for group, classes in _GROUPS.items():
    for name, colour in classes.items():
      for split, number in (('train', 12), ('test', 4)):
        seed += 1
        _draw(data / 'upstream' / split / group / name, colour, True, number, seed)
  for split, number in (('train', 20), ('test', 9)):
    for name, horizontal in (('along', True), ('across', False)):
      seed += 1
      _draw(data / 'task' / split / name, (128, 128, 128), horizontal, number, seed)
  for name in ('red', 'blue'):
    seed += 1
    _draw(data / 'plain' / name, {'red': (200, 0, 0), 'blue': (0, 0, 200)}[name], True, 15, seed)
  return data


@pytest.fixture(scope='session')
def config_file(data_dir) -> pathlib.Path:
  path = data_dir / 'config.py'
  path.write_text(_CONFIG.replace('{data_dir}', repr(str(data_dir))))
  return path


def _run(config_file, workdir, *flags) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, 'main.py', f'--config={config_file}', f'--workdir={workdir}', *flags],
    cwd=ROOT,
    env={**os.environ, **QUICK, 'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture(scope='session')
def pool_config(data_dir):
  """(pool file, learning rates, lines before) -> the text of a config that ranks and fine-tunes all of a pool."""

  def text(path, learning_rates=(0.5, 0.1), before=''):
    return _POOL_CONFIG.format(
      before=before, data=str(data_dir), pool=str(path), rates=learning_rates
    )

  return text


@pytest.fixture(scope='session')
def chain(config_file, tmp_path_factory) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
  """The workdir of a whole run, and what it printed."""
  workdir = tmp_path_factory.mktemp('work') / 'run'
  return workdir, _run(config_file, workdir)


@pytest.fixture(scope='session')
def run_main():
  """(config file, workdir, *flags) -> main.py, run to its end."""
  return _run
