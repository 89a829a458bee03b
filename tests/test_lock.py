"""One run at a time in a workdir, whatever became of the one before."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from experts import lock

_HOLD = """
import sys, time
from experts import lock
with lock.hold(sys.argv[1]):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
  """A process that has the folder until its input ends."""
  process = subprocess.Popen(
    [sys.executable, '-c', _HOLD, tmp_path],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.communicate()


def _write(folder, **changes):
  mine = {**lock._identity(), 'since': 'a while ago', **changes}
  (folder / lock.NAME).write_text(json.dumps(mine))


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path, other):
  with pytest.raises(BlockingIOError) as error:
    with lock.hold(str(tmp_path)):
      pass
  (written,) = [json.loads((tmp_path / lock.NAME).read_text())]
  assert str(error.value) == (
    f'another run is in the workdir {tmp_path}: process {other.pid} on {os.uname().nodename}, since {written["since"]}. '
    'Wait for its end, or take another --workdir'
  )
  other.communicate('')
  with lock.hold(str(tmp_path)):
    pass
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_is_not_in_the_way(tmp_path, other, number):
  other.send_signal(number)
  # Not waited for: a zombie has ended, too.
  os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
  assert (tmp_path / lock.NAME).exists()
  with lock.hold(str(tmp_path)):
    assert json.loads((tmp_path / lock.NAME).read_text())['pid'] == os.getpid()
  assert os.listdir(tmp_path) == []


def test_a_number_that_another_process_has_now_is_not_in_the_way(tmp_path):
  _write(tmp_path, started='1')
  with lock.hold(str(tmp_path)):
    pass


@pytest.mark.parametrize('text', ['', '{"pid": 1', 'null'])
def test_a_lock_that_was_never_written_is_not_in_the_way(tmp_path, monkeypatch, text):
  monkeypatch.setattr(lock, '_WRITING_SECONDS', 0)
  (tmp_path / lock.NAME).write_text(text)
  with lock.hold(str(tmp_path)):
    pass


@pytest.mark.parametrize(
  'changes', [{'host': 'elsewhere'}, {'boot': 'x'}, {'namespace': 'pid:[1]'}]
)
def test_a_silent_lock_of_another_machine_is_not_in_the_way(tmp_path, changes):
  _write(tmp_path, **changes)
  with lock.hold(str(tmp_path), silent=0.05):
    pass


def test_a_lock_that_another_machine_touches_is(tmp_path):
  _write(tmp_path, host='elsewhere')
  path, stop = tmp_path / lock.NAME, threading.Event()

  def beat():
    time = 1
    while not stop.wait(0.01):
      time += 1
      os.utime(path, ns=(time, time))

  thread = threading.Thread(target=beat)
  thread.start()
  try:
    with pytest.raises(BlockingIOError, match='on elsewhere, since a while ago'):
      with lock.hold(str(tmp_path), silent=60):
        pass
  finally:
    stop.set()
    thread.join()


def test_an_error_gives_the_workdir_back(tmp_path):
  with pytest.raises(KeyError):
    with lock.hold(str(tmp_path)):
      raise KeyError
  assert os.listdir(tmp_path) == []


def test_a_forked_process_gives_nothing_back(tmp_path):
  body = (
    'import os, sys\nfrom experts import lock\n'
    'held = lock.hold(sys.argv[1])\n'
    'held.__enter__()\n'
    'if not os.fork():\n'
    '  held.__exit__(None, None, None)\n'
    '  os._exit(0)\n'
    'os.wait()\n'
    'print(os.listdir(sys.argv[1]))\n'
    'held.__exit__(None, None, None)\n'
    'print(os.listdir(sys.argv[1]))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', body, tmp_path],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert done.stdout.splitlines() == [f"['{lock.NAME}']", '[]']


def test_of_many_that_find_a_stale_lock_one_goes_on(tmp_path):
  _write(tmp_path, started='1')
  body = (
    'import sys\nfrom experts import lock\n'
    'try:\n'
    '  with lock.hold(sys.argv[1]):\n'
    '    print("held", flush=True)\n'
    '    sys.stdin.read()\n'
    'except BlockingIOError:\n'
    '  print("refused", flush=True)\n'
  )
  many = [
    subprocess.Popen(
      [sys.executable, '-c', body, tmp_path],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    )
    for _ in range(6)
  ]
  said = [process.stdout.readline().strip() for process in many]
  for process in many:
    process.communicate('')
  assert sorted(said) == ['held', *['refused'] * 5]


def test_a_full_disk_names_the_lock_and_leaves_none(tmp_path, monkeypatch):
  def full(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(lock.json, 'dump', full)
  with pytest.raises(OSError, match='No space left') as error:
    with lock.hold(str(tmp_path)):
      pass
  assert error.value.filename == str(tmp_path / lock.NAME)
  assert os.listdir(tmp_path) == []
