"""Several processes are one job: the same result as one process, and nothing lost when one of them goes."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from launch import local_pod

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, CHECKPOINT_EVERY, TEST_IMAGES = 60, 6, 15

_CONFIG = f"""
from configs import common

def get_config():
  config = common.get_config()
  config.phases = ('upstream',)
  config.data_dir = {{folder!r}}
  config.model.update(depth=14, width=0.03125, root='small', dtype='float32')
  config.image.update(size=16, resize=16)
  config.run.update(
    log_every='2 steps', checkpoint_every='{CHECKPOINT_EVERY} steps', keep_checkpoints=2, evaluation_batch=8,
    tensorboard=False, compilation_cache='',
  )
  config.upstream.update(
    data='images:upstream', duration='{STEPS} steps', batch_size=8, warmup='10 %',
    learning_rate=0.05, crop='inception', flip=True,
  )
  return config
"""


@pytest.fixture(scope='module')
def config_file(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('data')
  rng = np.random.default_rng(0)
  colours = {'red': (200, 40, 40), 'green': (40, 200, 40), 'blue': (40, 40, 200)}
  for split, number in (('train', 15), ('test', TEST_IMAGES // 3)):
    for name, colour in colours.items():
      path = folder / 'upstream' / split / name
      path.mkdir(parents=True)
      for i in range(number):
        image = np.clip(rng.normal(colour, 90, (16, 16, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(path / f'{i}.png'), image[..., ::-1])
  path = folder / 'config.py'
  path.write_text(_CONFIG.format(folder=str(folder)))
  return path


def _main(config_file, workdir, *flags) -> list[str]:
  return ['main.py', f'--config={config_file}', f'--workdir={workdir}', *flags]


class Pod:
  """A pod of 4 devices, whose output can be read as it comes."""

  def __init__(self, processes, command):
    pod = ['-m', 'launch.local_pod', f'--processes={processes}', '--devices=4', '--', *command]
    self._process = subprocess.Popen(
      [sys.executable, *pod], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    self.lines = []

  def read_until(self, text) -> str:
    for line in self._process.stdout:
      self.lines.append(line)
      if text in line:
        return line
    pytest.fail(f'no {text!r} in:\n{"".join(self.lines[-40:])}')

  def pid(self, index) -> int:
    starts = [line for line in self.lines if line.startswith(f'[{index}] started as process')]
    return int(starts[0].split()[-1])

  def finish(self) -> tuple[int, str]:
    self.lines += self._process.stdout
    return self._process.wait(timeout=300), ''.join(self.lines)


def _run(processes, command) -> str:
  code, output = Pod(processes, command).finish()
  assert code == 0, output[-4000:]
  return output


def _weights(workdir) -> np.ndarray:
  with np.load(workdir / 'weights' / 'baseline.npz') as arrays:
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


def _metrics(workdir) -> pd.Series:
  lines = pd.read_csv(workdir / 'upstream' / 'metrics.csv')
  return lines.set_index(['step', 'metric']).value


def _assert_same(workdir, other):
  """To rounding, on any machine: eight devices run the very same program however many processes have them.

  All that differs is the order in which their gradients are added up, 6e-8 of one; measured, 2e-9 of the weights' norm.
  """
  one, two = _weights(workdir), _weights(other)
  assert np.linalg.norm(one - two) <= 1e-6 * np.linalg.norm(two)
  one, two = _metrics(workdir), _metrics(other)
  # The loss of every step up to the last, so every image of every global batch.
  pd.testing.assert_series_equal(one, two, rtol=1e-5)


@pytest.fixture(scope='module')
def alone(config_file, tmp_path_factory) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('pods') / 'alone'
  _run(1, _main(config_file, workdir))
  return workdir


@pytest.mark.parametrize('processes', [2, 4])
def test_more_processes_change_nothing(config_file, alone, tmp_path, processes):
  output = _run(processes, _main(config_file, tmp_path / 'run'))
  _assert_same(tmp_path / 'run', alone)
  # Progress is told once, not by every process.
  assert output.count(f'upstream step {STEPS}/{STEPS}') == 1


def test_evaluation_counts_every_example_once_with_uneven_shards(alone):
  # 15 images in batches of 8 over 4 devices: the last batch has seven, and one device one of them.
  accuracy = _metrics(alone)[STEPS, 'test_accuracy']
  correct = accuracy * TEST_IMAGES
  assert correct == pytest.approx(round(correct), abs=1e-4)


@pytest.fixture(scope='module')
def interrupted(config_file, tmp_path_factory) -> tuple[pathlib.Path, str]:
  """A pod of four, one process of which got SIGTERM."""
  workdir = tmp_path_factory.mktemp('pods') / 'interrupted'
  pod = Pod(4, _main(config_file, workdir))
  pod.read_until('upstream step 4/')
  os.kill(pod.pid(2), signal.SIGTERM)
  code, output = pod.finish()
  assert code == 0, output[-4000:]
  return workdir, output


def test_sigterm_to_one_process_saves_everywhere_at_the_same_step(interrupted):
  workdir, output = interrupted
  stops = [line for line in output.splitlines() if 'stopped by SIGTERM at step' in line]
  assert {line[:3] for line in stops} == {'[0]', '[1]', '[2]', '[3]'}
  (step,) = {int(line.split()[-1]) for line in stops}
  assert 4 < step < STEPS
  assert (workdir / 'upstream' / 'checkpoints' / str(step)).is_dir()
  assert not (workdir / 'weights').exists()


@pytest.mark.parametrize('processes', [1, 2])
def test_a_checkpoint_of_four_processes_resumes_on_fewer(
  config_file, alone, interrupted, tmp_path, processes
):
  workdir = tmp_path / 'run'
  shutil.copytree(interrupted[0], workdir)
  output = _run(processes, _main(config_file, workdir))
  assert 'upstream: goes on from step' in output
  _assert_same(workdir, alone)


@pytest.mark.parametrize('victim', [0, 3])
def test_when_one_process_dies_the_others_end_and_the_restart_goes_on(
  config_file, alone, tmp_path, victim
):
  workdir = tmp_path / 'run'
  pod = Pod(4, _main(config_file, workdir))
  pod.read_until(f'upstream step {2 * CHECKPOINT_EVERY + 2}/')
  os.kill(pod.pid(victim), signal.SIGKILL)
  # The launcher kills what is left after two minutes: then the code would be that of SIGKILL for all.
  code, output = pod.finish()
  assert code == 128 + signal.SIGKILL
  ends = [line for line in output.splitlines() if 'ended with code' in line]
  assert sum('ended with code -9' in line for line in ends) == 1
  assert len(ends) == 4
  # Our words, or where process 0 is gone, which the others are connected to, those of JAX's own watch.
  told = 'another process of the job has ended or cannot be reached', 'another task died'
  assert any(words in output for words in told), output[-4000:]
  output = _run(4, _main(config_file, workdir))
  resumed = next(line for line in output.splitlines() if 'goes on from step' in line)
  assert int(re.search(r'from step (\d+)', resumed)[1]) >= CHECKPOINT_EVERY
  _assert_same(workdir, alone)


def _start(command, coordinator, index, processes=2) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, *command],
    cwd=ROOT,
    env=os.environ | local_pod.environment(coordinator, processes, index, 1),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_processes_of_different_configs_all_end_naming_the_field(config_file, tmp_path):
  coordinator = f'localhost:{local_pod.free_port()}'
  command = _main(config_file, tmp_path / 'run')
  first = _start(command, coordinator, 0)
  second = _start([*command, '--config.upstream.learning_rate=0.07'], coordinator, 1)
  for process in (first, second):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert 'error: the processes of a job need the same command' in output
    assert 'config.upstream.learning_rate (process 0 0.05, process 1 0.07)' in output


def test_a_coordinator_that_never_answers_is_waited_for_as_long_as_configured(
  config_file, tmp_path
):
  coordinator = f'localhost:{local_pod.free_port()}'
  command = _main(config_file, tmp_path / 'run', '--config.run.coordinator_timeout=2')
  output, _ = (process := _start(command, coordinator, 1)).communicate(timeout=120)
  assert process.returncode == 1
  assert f'error: the coordinator at {coordinator} has not answered' in output
  assert 'within 2 s' in output


def test_a_pod_that_cannot_share_its_devices_is_refused():
  command = ['-m', 'launch.local_pod', '--processes=3', '--devices=4', '--', 'main.py']
  done = subprocess.run(
    [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 1
  assert done.stderr.strip() == 'error: 4 devices do not divide over 3 processes'


@pytest.fixture
def two_hosts():
  """Two network namespaces with a cable between them: (names, addresses)."""
  names, addresses = ('experts-a', 'experts-b'), ('10.211.7.1', '10.211.7.2')
  ip = lambda *args: subprocess.run(['ip', *args], capture_output=True, text=True, check=True)
  host = socket.gethostname()
  files = [pathlib.Path('/etc/netns') / name / 'hosts' for name in names]
  try:
    try:
      for name in names:
        ip('netns', 'add', name)
    except (OSError, subprocess.CalledProcessError) as error:
      pytest.skip(f'cannot make network namespaces here: {error}')
    ip('link', 'add', 'exa0', 'netns', names[0], 'type', 'veth', 'peer', 'exb0', 'netns', names[1])
    for name, address, link, file in zip(names, addresses, ('exa0', 'exb0'), files):
      ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', link)
      for each in (link, 'lo'):
        ip('-n', name, 'link', 'set', each, 'up')
      # `ip netns exec` lays it over /etc/hosts: a process finds its own address by its name.
      file.parent.mkdir(parents=True)
      file.write_text(f'{address} {host}\n')
    yield names, addresses
  finally:
    for name in names:
      subprocess.run(['ip', 'netns', 'delete', name], capture_output=True, check=False)
      shutil.rmtree(f'/etc/netns/{name}', ignore_errors=True)


def test_hosts_with_an_address_each_are_one_job(config_file, alone, tmp_path, two_hosts):
  names, addresses = two_hosts
  coordinator = f'{addresses[0]}:7077'
  command = _main(config_file, tmp_path / 'run')
  processes = [
    subprocess.Popen(
      ['ip', 'netns', 'exec', name, sys.executable, *command],
      cwd=ROOT,
      env=os.environ | local_pod.environment(coordinator, 2, index, 2),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index, name in enumerate(names)
  ]
  for process in processes:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
  _assert_same(tmp_path / 'run', alone)
