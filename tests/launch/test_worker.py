"""main.py on one host: how the worker ends, and what host.sh does around it, with stand-ins for main.py and the machine."""

import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys

import pytest

from launch import worker

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _main(folder: pathlib.Path, body: str) -> None:
  (folder / 'main.py').write_text(f'import os, signal, sys\n{body}\n')


def _phase(workdir: pathlib.Path, name: str, finished: bool) -> None:
  (workdir / 'phases').mkdir(parents=True, exist_ok=True)
  (workdir / 'phases' / f'{name}.json').write_text(json.dumps({'finished': finished}))


def _work(folder, *args):
  return subprocess.run(
    [sys.executable, '-m', 'launch.worker', *args],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(_ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )


def test_worker_hands_the_arguments_on_and_ends_as_main_does(tmp_path):
  _main(tmp_path, 'print(sys.argv[1:])\nsys.exit(3)')
  args = ['--config=a b.py', '--workdir=w', '--config.note=it\'s "$HOME"']
  result = _work(tmp_path, *args)
  assert (result.returncode, result.stdout.strip()) == (3, str(args))


@pytest.mark.parametrize(('finished', 'code'), [(True, 0), (False, 143)])
def test_an_end_without_error_counts_only_where_every_begun_phase_is_finished(
  tmp_path, finished, code
):
  _main(tmp_path, '')
  _phase(tmp_path / 'w[1]', 'upstream', True)
  _phase(tmp_path / 'w[1]', 'experts', finished)
  result = _work(tmp_path, '--workdir', 'w[1]')
  assert result.returncode == code
  assert ('w[1]/phases/experts.json' in result.stderr) == (not finished)


def test_an_error_stays_that_error_where_a_phase_is_unfinished(tmp_path):
  _main(tmp_path, 'sys.exit(1)')
  _phase(tmp_path / 'w', 'upstream', False)
  assert _work(tmp_path, '--workdir=w').returncode == 1


def test_a_killed_main_ends_as_the_shell_would_say(tmp_path):
  _main(tmp_path, 'os.kill(os.getpid(), signal.SIGKILL)')
  assert _work(tmp_path, '--workdir=w').returncode == 137


@pytest.mark.parametrize(
  'args',
  [
    [],
    ['--workdir=runs/up'],
    ['--workdir', 'gs://bucket/up'],
    ['--workdir=/gcs'],
    ['workdir=/gcs/a'],
  ],
)
def test_a_workdir_outside_the_bucket_is_refused(args):
  with pytest.raises(ValueError, match='take --workdir=/gcs/runs/NAME'):
    worker.check_workdir(args)


@pytest.mark.parametrize('args', [['--workdir=/gcs/up'], ['-workdir', '/gcs/up']])
def test_a_workdir_in_the_bucket_is_taken(args):
  worker.check_workdir(args)
  assert worker.workdir(args) == '/gcs/up'


# Waits for SIGTERM after it has said so; then "saves" and ends as main.py does.
_WAITING = """
def stop(*_):
  print('saved')
  sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print('args', sys.argv[2:], flush=True)
with open('../ready', 'w') as file:
  print('ready', file=file)
signal.pause()
"""


class _Host:
  """A home folder as on a host of a slice."""

  def __init__(self, folder: pathlib.Path):
    self.home = folder / 'experts'
    code = self.home / 'code'
    (code / 'launch').mkdir(parents=True)
    for name in ('host.sh', 'worker.py'):
      shutil.copy(_ROOT / 'launch' / name, code / 'launch')
    (self.home / 'venv/bin').mkdir(parents=True)
    (self.home / 'venv/bin/python').symlink_to(sys.executable)
    os.mkfifo(self.home / 'ready')
    # Open for writing too: waiting for a job that never comes is select's, which has a limit.
    self._ready = os.open(self.home / 'ready', os.O_RDWR)
    # `install` puts the package beside the programs that need it; here it is the checkout's.
    self.environment = {
      **os.environ,
      'HOME': str(folder),
      'TMPDIR': str(folder),
      'PYTHONPATH': str(_ROOT),
    }
    self.code = code

  def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
      ['bash', str(self.code / 'launch/host.sh'), *args],
      env=self.environment,
      capture_output=True,
      text=True,
      check=False,
    )

  def wait_for_job(self) -> None:
    there, _, _ = select.select([self._ready], [], [], 120)
    log = self.home / 'log'
    assert there, f'the job did not start: {log.read_text() if log.exists() else "no log"}'
    assert os.read(self._ready, 100) == b'ready\n'

  def close(self) -> None:
    os.close(self._ready)

  def pid(self) -> int:
    return int((self.home.parent / 'experts.pid').read_text())


@pytest.fixture
def host(tmp_path):
  made = _Host(tmp_path)
  yield made
  made.close()
  if (tmp_path / 'experts.pid').exists():
    with contextlib.suppress(ProcessLookupError):
      os.killpg(made.pid(), signal.SIGKILL)


def test_host_runs_a_job_to_its_end_and_shows_log_and_code(host):
  _main(host.code, 'print(sys.argv[2:])\nsys.exit(int(sys.argv[2]))')
  assert host('running', '--workdir=w', '7').returncode == 10
  assert host('start', '--workdir=w', '7').returncode == 0
  followed = host('follow')
  assert (followed.returncode, followed.stdout) == (7, "['7']\n")
  assert 'ended with 7' in host('status').stdout
  # The next job is not taken for the last one.
  assert host('running', '--workdir=w', '7').returncode == 10
  assert host('start', '--workdir=w', '0').returncode == 0
  assert host('follow').returncode == 0


def test_host_lets_a_job_save_and_tells_it_from_a_finished_one(host):
  _main(host.code, _WAITING)
  _phase(host.home / 'w', 'upstream', False)
  args = [f'--workdir={host.home}/w', "--config.note=it's 30 epochs"]
  assert host('start', *args).returncode == 0
  host.wait_for_job()
  first = host.pid()
  assert host('running', *args).returncode == 0
  assert host('running', args[0]).returncode == 11
  # gcloud repeats a command whose connection broke: that starts no second job.
  assert host('start', *args).returncode == 0
  assert host('start', args[0]).returncode == 11
  assert host.pid() == first
  assert ': runs: ' in host('status').stdout
  assert host('stop').returncode == 0
  followed = host('follow')
  assert followed.returncode == worker.INTERRUPTED
  assert followed.stdout.startswith('args ["--config.note=it\'s 30 epochs"]\nsaved\n')


def test_a_machine_that_vanishes_is_an_interruption(host):
  _main(host.code, _WAITING)
  # Of a job before.
  (host.home / 'exit').write_text('0\n')
  host('start', '--workdir=w')
  host.wait_for_job()
  os.killpg(host.pid(), signal.SIGKILL)
  assert host('follow').returncode == worker.INTERRUPTED


def test_install_ends_the_old_job_and_brings_python_packages_and_bucket(host):
  _main(host.code, _WAITING)
  host('start', '--workdir=w')
  host.wait_for_job()
  old = host.pid()
  # The machine's programs: each writes how it was called. curl brings one more.
  programs = host.home.parent / 'programs'
  programs.mkdir()
  log = host.home / 'calls'
  note = f'#!/bin/bash\necho "$(basename "$0") $*" >> "{log}"\n'
  bring = 'printf \'mkdir -p "$UV_UNMANAGED_INSTALL"; cp "$0-uv" "$UV_UNMANAGED_INSTALL/uv"\''
  for name in ('sudo', 'findmnt', 'gcsfuse', 'uv', 'curl'):
    tail = bring.replace('$0-uv', str(programs / 'uv')) if name == 'curl' else ''
    (programs / name).write_text(note + tail)
    (programs / name).chmod(0o755)
  host.environment['PATH'] = f'{programs}:{os.environ["PATH"]}'
  (host.home / 'venv/bin/python').unlink()

  assert host('install', 'my-bucket').returncode == 0
  assert log.read_text().splitlines() == [
    f'sudo rm -f {host.home.parent}/experts.pid /tmp/libtpu_lockfile',
    'curl -LsSf https://astral.sh/uv/0.13.8/install.sh',
    'uv venv --managed-python --python 3.11 venv',
    'uv pip install --no-progress --python venv/bin/python '
    f'-c {host.code}/constraints.txt -e {host.code}[tpu]',
    'findmnt -n -o SOURCE /gcs',
    'sudo mkdir -p /gcs',
    f'sudo chown {os.getuid()} /gcs',
    'gcsfuse --implicit-dirs --rename-dir-limit=200000 --metadata-cache-ttl-secs=0 '
    '--metadata-cache-negative-ttl-secs=0 my-bucket /gcs',
  ]
  with pytest.raises(ProcessLookupError):
    os.killpg(old, 0)
