"""How much memory this process may take: of the machine, or of the container that it runs in."""

import os
import pathlib
from collections.abc import Iterator

_PROC, _CGROUPS = pathlib.Path('/proc'), pathlib.Path('/sys/fs/cgroup')
# Below _CGROUPS, of either version of control groups: a folder, and in each group its limit, what it uses, and the line
# of memory.stat that tells how much of that is files, which make room for what needs it.
_VERSIONS = {
  '': ('.', 'memory.max', 'memory.current', 'inactive_file'),
  'memory': (
    'memory',
    'memory.limit_in_bytes',
    'memory.usage_in_bytes',
    'total_inactive_file',
  ),
}
_HERE = ('localhost', '127.0.0.1', '[::1]')


def memory() -> int:
  """Bytes that there are for this process: the machine's, or its container's if those are fewer; its share of them.

  Processes that find each other at this very machine (`launch.local_pod`) share its memory evenly.
  """
  return min([_physical(), *(limit for limit, _ in _groups())]) // processes()


def free_memory() -> int:
  """Bytes of these that nothing takes yet, shared alike."""
  free = [_physical(), *(limit - used for limit, used in _groups())]
  for name, value in _lines(_PROC / 'meminfo'):
    if name == 'MemAvailable:':
      free.append(1024 * int(value))
  return max(min(free), 0) // processes()


def processes() -> int:
  """Processes of the job that are known to be on this machine."""
  host = os.environ.get('JAX_COORDINATOR_ADDRESS', '').rpartition(':')[0]
  number = os.environ.get('JAX_NUM_PROCESSES', '')
  return max(int(number), 1) if host in _HERE and number.isdecimal() else 1


def _physical() -> int:
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _groups() -> Iterator[tuple[int, int]]:
  """(limit, use) of each control group with a limit that this process is in, from its own up to the container's."""
  for line in _read(_PROC / 'self' / 'cgroup').splitlines():
    _, controllers, path = line.split(':', 2)
    for controller in {*controllers.split(',')} & {*_VERSIONS}:
      folder, limit, use, files = _VERSIONS[controller]
      path = pathlib.PurePosixPath(path.lstrip('/'))
      # Its own may lie outside of what is mounted in a container; the root of that is the container's.
      for group in (path, *path.parents):
        at = _CGROUPS / folder / group
        most, used = (_read(at / name).strip() for name in (limit, use))
        if most.isdecimal() and used.isdecimal():
          cached = dict(_lines(at / 'memory.stat')).get(files, '0')
          yield int(most), int(used) - int(cached)


def _lines(path: pathlib.Path) -> list[tuple[str, str]]:
  """The first two words of each line."""
  return [tuple(line.split()[:2]) for line in _read(path).splitlines() if len(line.split()) > 1]


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text('ascii')
  except OSError:  # not Linux, or no such controller
    return ''
