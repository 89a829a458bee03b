"""How much memory there is, of machines and containers that are laid out as files."""

import os

import pytest

from experts import machine

GIB = 2**30


@pytest.fixture
def system(tmp_path, monkeypatch):
  """Writes the files of a system of 64 GiB, of which 40 are free."""
  monkeypatch.setattr(machine, '_PROC', tmp_path / 'proc')
  monkeypatch.setattr(machine, '_CGROUPS', tmp_path / 'cgroup')
  monkeypatch.setattr(machine, '_physical', lambda: 64 * GIB)
  for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES'):
    monkeypatch.delenv(name, raising=False)

  def write(files: dict[str, str]) -> None:
    files = {'proc/meminfo': f'MemTotal: 1 kB\nMemAvailable: {40 * 2**20} kB\n', **files}
    for name, text in files.items():
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).write_text(text)

  return write


def _second(group: str, limit: int | str, used: int, files: int = 0) -> dict[str, str]:
  at = f'cgroup/{group}'
  return {
    f'{at}/memory.max': f'{limit}\n',
    f'{at}/memory.current': f'{used}\n',
    f'{at}/memory.stat': f'anon 1\nfile {used}\ninactive_file {files}\n',
  }


def _first(group: str, limit: int, used: int, files: int = 0) -> dict[str, str]:
  at = f'cgroup/memory/{group}'
  return {
    f'{at}/memory.limit_in_bytes': f'{limit}\n',
    f'{at}/memory.usage_in_bytes': f'{used}\n',
    f'{at}/memory.stat': f'inactive_file 1\ntotal_inactive_file {files}\n',
  }


_OWN = {'proc/self/cgroup': '0::/jobs/mine\n'}
# Name -> the files of a system, and the GiB that it has and that are free.
_SYSTEMS = {
  'no control groups': ({}, 64, 40),
  'no limit': (_OWN | _second('jobs/mine', 'max', 3 * GIB), 64, 40),
  'its own limit': (_OWN | _second('jobs/mine', 16 * GIB, 6 * GIB), 16, 10),
  'files make room': (_OWN | _second('jobs/mine', 16 * GIB, 6 * GIB, 4 * GIB), 16, 14),
  'more than is free': (_OWN | _second('jobs/mine', 60 * GIB, GIB), 60, 40),
  'of all jobs together': (
    _OWN | _second('jobs/mine', 16 * GIB, GIB) | _second('jobs', 8 * GIB, 7 * GIB), 8, 1,
  ),
  'a container shows its own as the root': (
    {'proc/self/cgroup': '0::/\n'} | _second('.', 12 * GIB, 2 * GIB), 12, 10,
  ),
  'a path that is not mounted in the container': (
    {'proc/self/cgroup': '0::/docker/0123\n'} | _second('.', 12 * GIB, 2 * GIB), 12, 10,
  ),
  'the first version': (
    {'proc/self/cgroup': '3:cpu,cpuacct:/x\n4:memory:/box\n0::/\n'} | _first('box', 8 * GIB, 6 * GIB, GIB),
    8, 3,
  ),
  'the first version without a limit': (
    {'proc/self/cgroup': '4:memory:/box\n'} | _first('box', 9223372036854771712, GIB), 64, 40,
  ),
  'over its limit': (_OWN | _second('jobs/mine', 4 * GIB, 5 * GIB), 4, 0),
}  # fmt: skip


@pytest.mark.parametrize(('files', 'there', 'free'), _SYSTEMS.values(), ids=_SYSTEMS)
def test_what_a_container_may_take_is_what_there_is(system, files, there, free):
  system(files)
  assert machine.memory() == there * GIB
  assert machine.free_memory() == free * GIB


@pytest.mark.parametrize(
  ('coordinator', 'share'),
  [('localhost:1234', 4), ('127.0.0.1:1234', 4), ('10.0.0.2:1234', 1), ('', 1)],
)
def test_processes_of_one_machine_share_it(system, monkeypatch, coordinator, share):
  system({})
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', coordinator)
  monkeypatch.setenv('JAX_NUM_PROCESSES', '4')
  assert machine.memory() == 64 * GIB // share
  assert machine.free_memory() == 40 * GIB // share


def test_this_machine_has_memory():
  physical = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  assert 2**26 < machine.free_memory() <= machine.memory() <= physical
