"""How a command starts and ends: faults put in on purpose, and what the terminal and the log then say."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

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
  assert done.stderr.rstrip().endswith('as CONTRIBUTING.md says.')


@pytest.mark.parametrize(
  'fault',
  [
    # What a library refuses, or Python itself, is no message of ours, though its type is one.
    'import numpy; numpy.zeros(3).reshape(2, 2)',
    "int('seven')",
    "import json; json.loads('{')",
    'jax.numpy.zeros(3) + jax.numpy.zeros(2)',
    'raise NotImplementedError',
  ],
)
def test_an_error_of_a_library_is_no_mistake_of_the_user(tmp_path, fault):
  done = _run(tmp_path, fault)
  assert done.returncode == 1
  assert 'a fault of this program' in done.stderr
  assert 'Traceback' not in done.stderr
  assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
  ('fault', 'said'),
  [
    (
      "open(workdir + '/scores.csv', 'w'); raise OSError(errno.ENOSPC, 'No space left', workdir + '/scores.csv')",
      'the disk is full: cannot write {run}/scores.csv; free some space, then start the same command again',
    ),
    # A write says no name; the file that was being written does.
    (
      "file = open(workdir + '/trials.csv', 'w'); raise OSError(errno.EDQUOT, 'Disk quota exceeded')",
      'the quota of the disk is used up: cannot write {run}/trials.csv; free some space, then start the same command again',
    ),
    # A real one.
    (
      "file = open('/dev/full', 'w'); file.write('x' * 100_000); file.flush()",
      'the disk is full: cannot write /dev/full; free some space, then start the same command again',
    ),
    (
      "open(workdir + '/none/x')",
      "[Errno 2] No such file or directory: '{run}/none/x'",
    ),
  ],
)
def test_a_full_disk_names_the_file(tmp_path, fault, said):
  if '/dev/full' in fault and not os.path.exists('/dev/full'):
    pytest.skip('no /dev/full on this system')
  done = _run(tmp_path, fault)
  assert done.returncode == 1
  assert done.stderr.splitlines() == ['error: ' + said.format(run=tmp_path / 'run')]


def test_a_device_without_memory_names_what_to_lower(tmp_path):
  # 256 TiB, which XLA itself refuses.
  done = _run(
    tmp_path,
    'jax.numpy.zeros((2**46,), jax.numpy.float32).block_until_ready()',
    '--config.upstream.batch_size=4096',
    '--config.run.evaluation_batch=64',
    '--config.upstream.size.images=100_000',
    '--config.upstream.size.test_images=10_000',
    '--config.upstream.size.classes=10',
    '--config.upstream.size.nodes=12',
    '--config.model.depth=14',
  )
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith(
    "error: the device is out of memory in the phase 'upstream' (RESOURCE_EXHAUSTED: "
  )
  assert line.endswith(', which would fit by estimate')
  number = int(line.partition('config.upstream.batch_size=')[2].partition(' ')[0])
  assert 0 < number <= 2048
  assert '(now 4096)' in line
  assert 'config.run.evaluation_batch=32 (now 64)' in line


def test_a_machine_without_memory_names_what_to_lower(tmp_path):
  done = _run(tmp_path, 'bytes(2**62)', '--config.run.evaluation_batch=64')
  (line,) = done.stderr.splitlines()
  assert line.startswith(
    "error: the machine is out of memory in the phase 'upstream': lower config.upstream.batch_size="
  )
  assert not (tmp_path / 'run' / 'phases' / 'upstream.json').exists()


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


@pytest.mark.parametrize(
  ('command', 'said'),
  [
    (('main.py', '--config=configs/quikstart.py', '--workdir=x'), '--config=configs/quikstart.py: no such file; did you mean configs/quickstart.py?'),
    (('-m', 'experts.selection.pool', 'list', '--pool=nowhere.json'), 'no pool at nowhere.json'),
    (('-m', 'experts.data.doctor', '--tasks=vtab:cifr'), "no task 'vtab:cifr'"),
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
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ')
  assert said in line


@pytest.mark.parametrize(
  'command',
  [
    ('experts.selection.pool', 'experts.selection.pool.read', ('list',)),
    ('experts.data.doctor', 'experts.data.prepared.load_builder', ()),
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
  if module == broken.rpartition('.')[0]:
    pytest.skip('runs as __main__, apart from what was broken')
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


def test_codes_of_a_full_disk():
  from experts import entry

  assert entry.explain(OSError(errno.EIO, 'Input/output error', 'x')) == (
    "[Errno 5] Input/output error: 'x'"
  )
