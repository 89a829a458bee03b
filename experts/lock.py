"""One run at a time in a workdir: who has it is said, and what a killed run left is not in the way."""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

NAME = 'lock.json'
# The holder of a lock touches it so often …
_BEAT_SECONDS = 10
# … and one on another machine that has not for so long is dead. Network disks may show times a minute late.
_SILENT_SECONDS = 150
# Between creating a lock and having written it, a process is given so long.
_WRITING_SECONDS = 5


@contextlib.contextmanager
def hold(folder: str, silent: float = _SILENT_SECONDS) -> Iterator[None]:
  """Inside, no other run has the folder.

  The lock is a file that only one process can create, since `flock` is not there on every network disk. On this machine
  the holder's process tells whether it is alive. Of one elsewhere, only the time of the file does: while that changes,
  it is.

  Args:
    folder: a workdir that is there.
    silent: seconds after which the lock of another machine that nobody touches is stale.

  Raises:
    BlockingIOError: another run has it; names its process, its machine, and since when.
  """
  path = os.path.join(folder, NAME)
  mine = {**_identity(), 'since': time.strftime('%F %T %z')}
  while not _create(path, mine):
    other, stamp = _read(path)
    if other is None:
      continue
    if not _is_dead(path, other, stamp, silent):
      raise BlockingIOError(
        f'another run is in the workdir {folder}: process {other.get("pid")} on {other.get("host")}, since '
        f'{other.get("since")}. Wait for its end, or take another --workdir'
      )
    _remove_stale(path, other)
  stop = threading.Event()
  threading.Thread(target=_beat, args=(path, mine, stop), daemon=True).start()
  try:
    yield
  finally:
    stop.set()
    # A forked process has not taken it, nor has one that lost it.
    if os.getpid() == mine['pid'] and _read(path)[0] == mine:
      os.remove(path)


def _create(path: str, mine: Mapping[str, Any]) -> bool:
  try:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
  except FileExistsError:
    return False
  try:
    with open(descriptor, 'w', encoding='utf-8') as file:
      json.dump(mine, file)
  except OSError as error:
    os.remove(path)
    raise OSError(error.errno, error.strerror, path) from error
  return True


def _read(path: str) -> tuple[dict[str, Any] | None, int]:
  """The lock and the time of its file; no lock where it is gone, an empty one where it was never written."""
  deadline = time.monotonic() + _WRITING_SECONDS
  while True:
    try:
      # Opened, not only asked for its time: network disks then look.
      with open(path, encoding='utf-8') as file:
        stamp = os.fstat(file.fileno()).st_mtime_ns
        found = json.load(file)
      if isinstance(found, dict):
        return found, stamp
      return {}, stamp
    except FileNotFoundError:
      return None, 0
    except ValueError:
      if time.monotonic() > deadline:
        return {}, stamp
      time.sleep(0.1)


def _is_dead(path: str, other: Mapping[str, Any], stamp: int, silent: float) -> bool:
  if not other:
    return True
  if _place(other) == _place(_identity()):
    return _started(other['pid']) != other['started']
  logging.info(
    'the workdir was in use by process %s on %s: waits up to %.0f s for a sign of life',
    other.get('pid'), other.get('host'), silent,
  )  # fmt: skip
  deadline = time.monotonic() + silent
  while time.monotonic() < deadline:
    now, seen = _read(path)
    if now != other:
      # It has ended; the next look finds out who comes after it.
      return not now
    if seen != stamp:
      return False
    time.sleep(min(0.5, silent))
  return True


def _remove_stale(path: str, other: Mapping[str, Any]) -> None:
  """Takes a stale lock away; if two find it, one does, and none takes the other's new one."""
  aside = f'{path}.{os.getpid()}'
  with contextlib.suppress(FileNotFoundError):
    os.rename(path, aside)
    found, _ = _read(aside)
    if found != other and not os.path.exists(path):
      os.rename(aside, path)
      return
    os.remove(aside)
    logging.info(
      'the run of process %s on %s has not ended well; goes on',
      other.get('pid', '?'), other.get('host', '?'),
    )  # fmt: skip


def _beat(path: str, mine: Mapping[str, Any], stop: threading.Event) -> None:
  while not stop.wait(_BEAT_SECONDS):
    if os.getpid() != mine['pid']:
      return
    with contextlib.suppress(OSError):
      if _read(path)[0] not in (mine, None):
        logging.error('%s: another run has taken the workdir; this one ends', path)
        signal.raise_signal(signal.SIGTERM)
        return
      os.utime(path)


def _identity() -> dict[str, Any]:
  """What no other process shares, on this machine or another, now or after a restart."""
  pid = os.getpid()
  return {
    'pid': pid,
    'started': _started(pid),
    'host': platform.node(),
    'boot': _boot(),
    # Containers count their processes each from 1.
    'namespace': _link('/proc/self/ns/pid'),
  }


def _place(lock: Mapping[str, Any]) -> tuple:
  return tuple(lock.get(key) for key in ('host', 'boot', 'namespace'))


def _started(pid: int) -> str:
  """When a process began, since its number may be another's later; empty where there is none."""
  try:
    with open(f'/proc/{pid}/stat') as file:
      # The name, in brackets, may hold anything.
      fields = file.read().rpartition(')')[2].split()
    # A zombie has ended.
    return '' if fields[0] in 'ZX' else fields[19]
  except OSError:
    if sys.platform.startswith('linux'):
      return ''
  done = subprocess.run(
    ['ps', '-o', 'lstart=', '-p', str(pid)], capture_output=True, text=True, check=False
  )
  return done.stdout.strip()


def _boot() -> str:
  try:
    with open('/proc/sys/kernel/random/boot_id') as file:
      return file.read().strip()
  except OSError:
    return ''


def _link(path: str) -> str:
  try:
    return os.readlink(path)
  except OSError:
    return ''
