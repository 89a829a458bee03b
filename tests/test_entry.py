"""How a command starts and ends: faults put in on purpose, and what the terminal and the log then say."""

import errno
import io
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
from concurrent import futures

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
import pytest

from configs import common
from experts import app, entry, lock, memory
from experts import config as configs
from experts.models import weights
from experts.reporting import files
from experts.selection import pool
from experts.training import mesh as meshes
from experts.training import optim

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A config is a program: this one puts a fault in the phase that it runs.
_CONFIG = """
import errno, io, os, sys
import jax
from configs import common
from experts.phases import upstream

def fault(config, workdir, board):
  {fault}

upstream.run = fault

def get_config():
  config = common.get_config()
  config.phases = ('upstream',)
  config.run.tensorboard = False
  return config
"""


def _start(*args, **variables) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *args],
    cwd=ROOT,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1', **variables},
    capture_output=True,
    text=True,
    check=False,
  )


def _run(folder: pathlib.Path, fault: str, *flags: str) -> subprocess.CompletedProcess:
  config = folder / 'config.py'
  config.write_text(_CONFIG.replace('{fault}', fault))
  return _start('main.py', f'--config={config}', f'--workdir={folder}/run', *flags)


def test_a_fault_of_the_program_is_a_line_a_log_and_what_to_do(tmp_path):
  done = _run(tmp_path, "return {}['embedding']")
  log = tmp_path / 'run' / 'log.txt'
  assert done.returncode == 1
  first, second = done.stderr.splitlines()
  assert first == "error: KeyError: 'embedding' (a fault of this program, not of what you gave it)"
  assert second.startswith(f'The traceback is in {log}: please report it with that file')
  text = log.read_text()
  assert "KeyError: 'embedding'" in text
  assert 'Traceback (most recent call last)' in text
  assert 'in fault' in text
  assert f'--workdir={tmp_path}/run' in text


def test_debug_shows_the_traceback_too(tmp_path):
  done = _run(tmp_path, "return {}['embedding']", '--debug')
  assert done.returncode == 1
  assert 'Traceback (most recent call last)' in done.stderr
  assert "error: KeyError: 'embedding' (a fault of this program" in done.stderr


def _report(fault, capsys) -> list[str]:
  """What the terminal says of an error that a call raises."""
  with pytest.raises(Exception) as raised:
    fault()
  raised.value.log = 'run/log.txt'
  assert entry.report(raised.value) == 1
  said = capsys.readouterr()
  assert said.out == ''
  return said.err.splitlines()


def _forgotten():
  raise NotImplementedError


@pytest.mark.parametrize(
  ('fault', 'said'),
  [
    # What a library refuses, or Python itself, is no message of ours, though its type is one.
    (lambda: np.zeros(3).reshape(2, 2), 'ValueError: cannot reshape array'),
    (lambda: int('seven'), 'ValueError: invalid literal'),
    (lambda: json.loads('{'), 'JSONDecodeError: '),
    (lambda: jnp.zeros(3) + jnp.zeros(2), 'TypeError: add got incompatible shapes'),
    (_forgotten, 'NotImplementedError: '),
    (lambda: optim.parse_duration(None), ''),
  ],
)
def test_an_error_of_a_library_is_no_mistake_of_the_user(capsys, fault, said):
  first, second = _report(fault, capsys)
  assert first.startswith(f'error: {said}')
  assert first.endswith(' (a fault of this program, not of what you gave it)')
  assert second.startswith('The traceback is in run/log.txt: ')


@pytest.mark.parametrize(
  ('fault', 'said'),
  [
    (lambda: optim.parse_duration('3 weeks'), 'weeks'),
    (lambda: pool.read('nowhere.json'), 'no pool at nowhere.json'),
    (
      lambda: pathlib.Path('nowhere/x').read_bytes(),
      "[Errno 2] No such file or directory: 'nowhere/x'",
    ),
    (lambda: configs.validate(ml_collections.ConfigDict({'sed': 1})), 'config.sed is not a field'),
  ],
)
def test_what_this_program_raises_on_purpose_is_a_line(capsys, fault, said):
  (line,) = _report(fault, capsys)
  assert line.startswith('error: ')
  assert said in line


def test_what_a_child_process_raises_on_purpose_is_a_line(capsys):
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as workers:
    (line,) = _report(workers.submit(optim.parse_duration, '3 weeks').result, capsys)
  assert 'weeks' in line


def _write(path, error):
  def write(*_):
    raise error

  class Full(io.FileIO):
    pass

  Full.write = write
  file = Full(path, 'w')
  file.write(b'x')


@pytest.mark.parametrize(
  ('error', 'said'),
  [
    (OSError(errno.ENOSPC, 'No space left'), 'the disk is full: cannot write {path};'),
    (OSError(errno.EDQUOT, 'Quota'), 'the quota of the disk is used up: cannot write {path};'),
  ],
)
def test_a_full_disk_names_the_file_that_was_being_written(tmp_path, capsys, error, said):
  path = str(tmp_path / 'trials.csv')
  (line,) = _report(lambda: _write(path, error), capsys)
  assert (
    line == f'error: {said.format(path=path)} free some space, then start the same command again'
  )


@pytest.mark.parametrize(
  'write',
  [
    lambda path: files.write_json({'a': ['x' * 100_000]}, path),
    lambda path: files.write(pd.DataFrame({'a': ['x'] * 100_000}), path),
    lambda path: files.write_text('x' * 100_000, path),
    lambda path: weights.save(path, {'head': {'kernel': np.zeros(100_000)}}),
  ],
)
def test_every_way_to_write_names_its_file_on_a_full_disk(tmp_path, capsys, write):
  if not os.path.exists('/dev/full'):
    pytest.skip('no /dev/full on this system')
  # What is written under another name first, and then renamed, meets a full disk there.
  path = tmp_path / 'full.npz'
  for name in ('full.npz', 'full.npz.tmp', f'full.npz.{os.getpid()}.tmp'):
    (tmp_path / name).symlink_to('/dev/full')
  (line,) = _report(lambda: write(str(path)), capsys)
  assert line.startswith(f'error: the disk is full: cannot write {path}')


@pytest.fixture
def config():
  config = common.get_config()
  config.model.depth = 14
  config.upstream.size.update(images=100_000, test_images=10_000, classes=10, nodes=12)
  config.upstream.batch_size = 4096
  config.run.evaluation_batch = 64
  return config


def test_a_device_without_memory_names_what_to_lower(config, capsys):
  def fault():
    with memory.explained(config, 'upstream', lambda: app._needs(config, 'upstream')):
      # 256 TiB, which XLA itself refuses.
      jnp.zeros((2**46,), jnp.float32).block_until_ready()

  (line,) = _report(fault, capsys)
  assert line.startswith(
    "error: the device is out of memory in the phase 'upstream' (RESOURCE_EXHAUSTED: "
  )
  assert line.endswith(', which would fit by estimate')
  number = int(line.partition('config.upstream.batch_size=')[2].partition(' ')[0])
  assert 0 < number <= 2048
  assert '(now 4096)' in line
  assert 'config.run.evaluation_batch=32 (now 64)' in line


def test_the_batch_that_would_fit_is_the_plans(config, monkeypatch):
  # So little that the plan finds room for some images only.
  monkeypatch.setattr(meshes, 'memory_limit', lambda device: 3 * 2**30)
  needs = app._needs(config, 'upstream')
  text = memory._advice(config, 'upstream', needs)
  number = int(text.partition('config.upstream.batch_size=')[2].partition(' ')[0])
  need = needs['upstream.batch_size']
  devices = jax.device_count()

  def fits(batch):
    (one,) = meshes.plan(1, batch, devices, need, 3 * 2**30)
    return 'more than there is' not in one.reason

  assert 0 < number < 2048
  assert fits(number)
  assert not fits(number + devices)


@pytest.mark.parametrize('kinds', [('adapter',), ('full',), ('full', 'adapter')])
def test_only_what_the_phase_trains_is_to_be_lowered(config, kinds):
  config.experts.update(kinds=kinds, count=2)
  needs = app._needs(config, 'experts')
  assert list(needs) == [*(f'experts.{kind}.batch_size' for kind in kinds), 'run.evaluation_batch']
  text = memory._advice(config, 'experts', needs)
  for kind in ('full', 'adapter'):
    assert (f'config.experts.{kind}.batch_size=' in text) == (kind in kinds)


def test_a_machine_without_memory_names_what_to_lower(config, capsys):
  def fault():
    with memory.explained(config, 'select', lambda: app._needs(config, 'select')):
      np.zeros((2**50,), np.float64)

  (line,) = _report(fault, capsys)
  assert line.startswith("error: the machine is out of memory in the phase 'select' (Unable to ")
  assert 'lower config.run.evaluation_batch=32 (now 64), which would fit by estimate' in line


def test_a_config_that_raises_is_named_with_its_line(tmp_path):
  config = tmp_path / 'config.py'
  config.write_text("def get_config():\n  empty = {}\n  return empty['a']\n")
  command = ('main.py', f'--config={config}', f'--workdir={tmp_path}/run')
  done = _start(*command)
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr == f"error: {config}:3: KeyError: 'a'\n"
  done = _start(*command, '--debug')
  assert done.returncode == 1
  assert done.stderr.startswith('Traceback (most recent call last)')
  assert done.stderr.endswith(f"error: {config}:3: KeyError: 'a'\n")


def test_ctrl_c_ends_quietly(tmp_path):
  done = _run(tmp_path, 'raise KeyboardInterrupt')
  assert (done.returncode, done.stdout, done.stderr) == (130, '', '')


def test_a_reader_that_has_gone_ends_quietly(tmp_path):
  config = tmp_path / 'config.py'
  config.write_text(_CONFIG.replace('{fault}', "print('x' * 100_000)\n  print('y', flush=True)"))
  process = subprocess.Popen(
    [sys.executable, 'main.py', f'--config={config}', f'--workdir={tmp_path}/run'],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdout.close()
  errors = process.stderr.read().decode()
  process.stderr.close()
  assert (process.wait(), errors) == (141, '')


def test_a_second_run_in_a_workdir_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path):
  config, workdir = tmp_path / 'config.py', tmp_path / 'run'
  config.write_text(_CONFIG.replace('{fault}', "print('in', flush=True); sys.stdin.read()"))
  command = [sys.executable, 'main.py', f'--config={config}', f'--workdir={workdir}']
  first = subprocess.Popen(
    command,
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  assert first.stdout.readline() == 'in\n'
  done = _start(*command[1:])
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith(
    f'error: another run is in the workdir {workdir}: process {first.pid} on {os.uname().nodename}, since 20'
  )
  first.kill()
  first.communicate()
  assert (workdir / lock.NAME).exists()
  done = subprocess.run(
    command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert not (workdir / lock.NAME).exists()


@pytest.mark.parametrize(
  ('command', 'said'),
  [
    (('main.py', '--config=configs/quikstart.py', '--workdir=x'), '--config=configs/quikstart.py: no such file; did you mean configs/quickstart.py?'),
    (('-m', 'experts.selection.pool', 'list', '--pool=nowhere.json'), 'no pool at nowhere.json'),
    (('-m', 'experts.data.doctor', '--tasks=vtab:cifr'), "no task 'vtab:cifr'"),
    (('-m', 'experts.data.check', 'images:nowhere'), "task 'mine': nowhere: no such folder or archive of images"),
    (('-m', 'experts.data.imagenet21k', '--archive=nowhere', '--out=x'), 'nowhere: no such archive or folder'),
    (('-m', 'launch.local_pod', '--processes=0'), '--processes=0: at least 1'),
    (('-m', 'launch.cluster', 'gke', 'x', '--accelerator=v3-32', '--bucket=b'), '--workdir= is not in the bucket'),
    (('-m', 'launch.tpu_vm', 'run', 'x', '--zone=z', '--accelerator=v3-32', '--bucket=b'), '--workdir= is not in the bucket'),
    (('-m', 'launch.dry_run', '--config=configs/quickstart.py', '--topology=v9-1'), "'v9-1'"),
  ],
)  # fmt: skip
def test_every_command_says_what_is_wrong_in_a_line(command, said):
  done = _start(*command)
  assert done.returncode == 1
  assert done.stdout == ''
  assert 'Traceback' not in done.stderr
  *_, line = done.stderr.splitlines()
  assert line.startswith('error: ')
  assert said in line


@pytest.mark.parametrize(
  'command',
  [
    ('experts.selection.pool', 'tabulate.tabulate', ('list', '--pool={pool}')),
    ('experts.data.doctor', 'tabulate.tabulate', ('--tasks=vtab:cifar100',)),
    ('experts.data.check', 'experts.data.splits.load', ('images:nowhere',)),
    ('launch.local_pod', 'launch.commands.split', ()),
  ],
)
def test_every_command_ends_alike_where_the_program_is_wrong(tmp_path, command):
  module, broken, args = command
  # Python runs this before anything else; it breaks what the command calls.
  (tmp_path / 'sitecustomize.py').write_text(
    'import importlib, sys\n'
    f'owner, name = {broken!r}.rsplit(".", 1)\n'
    f'sys.path.insert(0, {str(ROOT)!r})\n'
    'setattr(importlib.import_module(owner), name, lambda *_, **__: {}["gone"])\n'
  )
  (tmp_path / 'pool.json').write_text('{"model": {}, "members": []}')
  args = [arg.format(pool=tmp_path / 'pool.json') for arg in args]
  done = _start('-m', module, *args, PYTHONPATH=str(tmp_path), TMPDIR=str(tmp_path))
  assert done.returncode == 1
  first, second = done.stderr.splitlines()
  assert first == "error: KeyError: 'gone' (a fault of this program, not of what you gave it)"
  (log,) = tmp_path.glob('experts-*.log')
  assert second.startswith(f'The traceback is in {log}')
  assert 'Traceback' in log.read_text()


def test_a_log_that_cannot_be_written_is_no_reason_to_end(tmp_path):
  (tmp_path / 'run' / 'log.txt').mkdir(parents=True)
  done = _run(tmp_path, 'print("well")')
  assert (done.returncode, done.stdout) == (0, 'well\n')
  assert 'Traceback' not in done.stderr


def test_nothing_but_our_own_is_said(tmp_path):
  body = (
    'from absl import logging; logging.info("first"); import tensorflow, warnings; '
    'tensorflow.constant(1.0) + 1; warnings.warn("of a library"); logging.info("last")'
  )
  done = _run(tmp_path, body)
  assert done.returncode == 0
  said = [line.rpartition('] ')[2] for line in done.stderr.splitlines()]
  assert said[:2] == ['first', 'last']
  assert len(said) == 3
  assert said[2].startswith('upstream: finished in ')
  assert 'of a library' in (tmp_path / 'run' / 'log.txt').read_text()
