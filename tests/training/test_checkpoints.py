"""Checkpoints: the last few kept, damage survived and said aloud, a failed save never silent."""

import errno
import logging
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experts import entry
from experts.training import checkpoints


def _state(step, mesh=None):
  rng = np.random.default_rng(step)
  state = {
    'step': np.int32(step),
    'trained': {'head': {'kernel': rng.normal(size=(2, 300, 40)).astype(np.float32)}},
  }
  if mesh is None:
    return jax.device_put(state)
  specs = {'step': P(), 'trained': P('population')}
  return {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in state.items()}


def _equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


def _steps(folder):
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  return tmp_path / 'checkpoints'


@pytest.fixture
def open_(folder):
  """A function that opens the folder as a new process would; all are closed at the end."""
  opened = []

  def open_folder(keep=2):
    opened.append(checkpoints.Checkpoints(str(folder), keep, pauses=(0, 0)))
    return opened[-1]

  yield open_folder
  for one in opened:
    one.close()


def _fill(saved, steps):
  for step in steps:
    saved.save(step, _state(step))
  saved.wait()


def _truncate(folder):
  """Cuts the file that holds the arrays to half its length."""
  biggest = max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  os.truncate(biggest, biggest.stat().st_size // 2)


def test_an_empty_folder_restores_nothing(open_):
  assert open_().restore_last_good(_state(0)) is None


@pytest.mark.parametrize('keep', [1, 3])
def test_the_last_few_are_kept_and_the_newest_is_restored(folder, open_, keep):
  _fill(open_(keep), [10, 20, 30, 40])
  assert _steps(folder) == [10, 20, 30, 40][-keep:]
  _equal(open_(keep).restore_last_good(_state(0)), _state(40))


def test_a_truncated_checkpoint_gives_way_to_the_one_before(folder, open_, caplog):
  _fill(open_(), [10, 20])
  _truncate(folder / '20')
  saved = open_()
  with caplog.at_level(logging.WARNING):
    _equal(saved.restore_last_good(_state(0)), _state(10))
  said = [record.getMessage() for record in caplog.records if 'is damaged' in record.message]
  assert len(said) == 1
  assert said[0].startswith(f'checkpoint 20 in {folder} is damaged (')
  assert '\n' not in said[0]
  # The run reaches step 20 again and saves there.
  _fill(saved, [20])
  _equal(open_().restore_last_good(_state(0)), _state(20))


@pytest.mark.parametrize('lost', ['state/manifest.ocdbt', 'state/ocdbt.process_0', 'state'])
def test_a_checkpoint_with_a_part_missing_gives_way_too(folder, open_, lost):
  _fill(open_(), [10, 20])
  part = folder / '20' / lost
  shutil.rmtree(part) if part.is_dir() else part.unlink()
  _equal(open_().restore_last_good(_state(0)), _state(10))


def test_what_is_damaged_is_kept_beside(folder, open_):
  held = {}
  for name in ('damaged-20', 'damaged-20-2'):
    _fill(open_(), [10, 20])
    _truncate(folder / '20')
    held[name] = {path.name for path in (folder / '20').rglob('*')}
    _equal(open_().restore_last_good(_state(0)), _state(10))
    shutil.rmtree(folder / '10')
  for name, files in held.items():
    assert {path.name for path in (folder / name).rglob('*')} == files
  # They are no checkpoints, and in nobody's way.
  assert open_().restore_last_good(_state(0)) is None
  _fill(open_(), [30])
  assert (folder / 'damaged-20').is_dir()


@pytest.fixture
def fail(monkeypatch):
  """Makes Orbax fail with these errors, one a try, before it reads; returns how often it was asked."""
  tries = []

  def fail_with(*errors):
    waiting = list(errors)
    restore = ocp.Checkpointer.restore

    def failing(self, path, **options):
      tries.append(str(path).split('/')[-2])
      if waiting:
        raise waiting.pop(0)
      return restore(self, path, **options)

    monkeypatch.setattr(ocp.Checkpointer, 'restore', failing)
    return tries

  return fail_with


_STALE = OSError(errno.ESTALE, 'Stale file handle')
_BUSY = ValueError('UNAVAILABLE: Error reading "k" in OCDBT database: 503 Slow down')
_EXHAUSTED = ValueError('RESOURCE_EXHAUSTED: Error reading "k": 429 Too many requests')
_INPUT_OUTPUT = ValueError('Error reading local file "/x": [OS error 5: EIO Input/output error]')
_ALSO = ValueError('Error reading local file "/x": Input/output error [os_error_code=\'5\']')
_NO_ROOM = 'RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.'


@pytest.mark.parametrize('error', [_STALE, _BUSY, _EXHAUSTED, _INPUT_OUTPUT, _ALSO])
def test_what_passes_is_read_again(folder, open_, fail, error):
  _fill(open_(), [10, 20])
  tries = fail(error, error)
  _equal(open_().restore_last_good(_state(0)), _state(20))
  assert tries == ['20'] * 3
  assert _steps(folder) == [10, 20]


@pytest.mark.parametrize('error', [_STALE, _BUSY, _EXHAUSTED, _INPUT_OUTPUT, _ALSO])
def test_what_does_not_pass_ends_the_run_and_throws_nothing_away(folder, open_, fail, error):
  _fill(open_(), [10, 20])
  fail(*[error] * 3)
  with pytest.raises(OSError, match=r'checkpoint 20 in .* cannot be read at present') as raised:
    open_().restore_last_good(_state(0))
  assert '\n' not in str(raised.value)
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20']
  # The next start finds the disk back, and everything there.
  _equal(open_().restore_last_good(_state(0)), _state(20))


@pytest.mark.parametrize(
  'error', [jax.errors.JaxRuntimeError(_NO_ROOM), MemoryError('cannot allocate 8 GiB')]
)
def test_a_lack_of_memory_is_no_damage_and_not_tried_again(folder, open_, fail, error):
  _fill(open_(), [10, 20])
  tries = fail(error)
  with pytest.raises(type(error)) as raised:
    open_().restore_last_good(_state(0))
  # As it came: whoever knows what to lower recognises it.
  assert raised.value is error
  assert tries == ['20']
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20']


def test_a_checkpoint_of_another_network_is_refused_not_thrown_away(folder, open_):
  _fill(open_(), [10, 20])
  wanted = _state(0)
  wanted['trained']['head']['kernel'] = np.zeros((2, 300, 41), np.float32)
  with pytest.raises(
    ValueError, match=r'another network .*\(2, 300, 40\) there, \(2, 300, 41\) wan'
  ):
    open_().restore_last_good(jax.device_put(wanted))
  wanted = _state(0) | {'sums': np.zeros(3, np.float32)}
  with pytest.raises(ValueError, match=r'\(sums: none there, \(3,\) wanted\)'):
    open_().restore_last_good(jax.device_put(wanted))
  assert _steps(folder) == [10, 20]


def test_restoring_holds_one_state(open_):
  saved = open_()
  _fill(saved, [10])
  like = jax.eval_shape(lambda: _state(10))
  placed = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ),
    like,
  )
  before = {id(array) for array in jax.live_arrays()}
  # Shapes are enough: no first state need be there.
  restored = open_().restore_last_good(placed)
  new = [array for array in jax.live_arrays() if id(array) not in before]
  _equal(restored, _state(10))
  assert sum(array.nbytes for array in new) == sum(
    leaf.nbytes for leaf in jax.tree.leaves(restored)
  )


def test_a_run_without_checkpoints_leaves_no_folder(folder, open_):
  saved = open_()
  assert saved.restore_last_good(_state(0)) is None
  assert not saved.there()
  saved.check()
  saved.wait()
  saved.close()
  assert not folder.exists()


_TWO_PROCESSES = """
import sys
import jax, numpy as np, orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec as P
from experts.devices import make_mesh
from experts.training import checkpoints, hosts, mesh as meshes
from launch import local_pod

folder, case = sys.argv[1:]
hosts.start(60)
mesh = make_mesh(2)
spec = {'step': P(), 'kernel': P('population')}

def state(step):
  values = {'step': np.int32(step), 'kernel': np.random.default_rng(step).normal(size=(2, 500))}
  return {name: meshes.place(value, mesh, spec[name]) for name, value in values.items()}

saved = checkpoints.Checkpoints(folder, 3)
for step in (10, 20):
  saved.save(step, state(step))
saved.wait()
saved.close()
restore = ocp.Checkpointer.restore
errors = {
  'damaged': ValueError('OUT_OF_RANGE: Requested byte range is not valid'),
  'away': OSError(5, 'Input/output error'),
  'no room': jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'),
}

def failing(self, path, **options):
  if jax.process_index() == 1 and '/20/' in str(path):
    raise errors[case]
  return restore(self, path, **options)

ocp.Checkpointer.restore = failing
again = checkpoints.Checkpoints(folder, 3, pauses=(0, 0))
try:
  restored = again.restore_last_good(state(0))
  mine = [np.asarray(shard.data) for shard in restored['kernel'].addressable_shards]
  wanted = np.random.default_rng(10).normal(size=(2, 500)).astype(mine[0].dtype)
  np.testing.assert_array_equal(mine[0][0], wanted[jax.process_index()])
  print('restored', int(restored['step']))
  again.save(20, state(20))
  again.wait()
except (OSError, jax.errors.JaxRuntimeError) as error:
  print('ended:', type(error).__name__, error)
again.close()
"""


@pytest.mark.parametrize(
  ('case', 'said', 'left'),
  [
    ('damaged', 'restored 10', {'10', '20', 'damaged-20'}),
    ('away', 'ended: OSError checkpoint 20 in ', {'10', '20'}),
    ('no room', 'ended: JaxRuntimeError RESOURCE_EXHAUSTED', {'10', '20'}),
  ],
)
def test_what_one_process_cannot_read_none_goes_on_from(tmp_path, folder, case, said, left):
  script = tmp_path / 'script.py'
  script.write_text(_TWO_PROCESSES)
  root = pathlib.Path(__file__).resolve().parents[2]
  pod = ['-m', 'launch.local_pod', '--processes=2', '--devices=2', '--', str(script)]
  done = subprocess.run(
    [sys.executable, *pod, str(folder), case],
    cwd=root,
    env={**os.environ, 'PYTHONPATH': str(root)},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
  told = [line for line in done.stdout.splitlines() if said in line]
  assert {line[:3] for line in told} == {'[0]', '[1]'}, done.stdout[-3000:]
  assert {path.name for path in folder.iterdir()} == left


def test_where_none_can_be_read_the_folder_is_named(folder, open_):
  _fill(open_(), [10, 20])
  _truncate(folder / '10')
  _truncate(folder / '20')
  with pytest.raises(ValueError, match=r'all of the checkpoints \[20, 10\] in .* are damaged') as e:
    open_().restore_last_good(_state(0))
  assert str(folder) in str(e.value)
  # Nothing is thrown away: somebody may know how to mend it.
  assert _steps(folder) == [10, 20]


def test_what_a_crash_left_of_a_save_is_no_checkpoint(folder, open_):
  _fill(open_(), [10])
  shutil.copytree(folder / '10', folder / '20.orbax-checkpoint-tmp')
  saved = open_()
  _equal(saved.restore_last_good(_state(0)), _state(10))
  _fill(saved, [20])
  assert _steps(folder) == [10, 20]


def test_a_folder_that_is_none_any_more_is_an_error_of_save(folder, open_):
  saved = open_()
  _fill(saved, [10])
  shutil.rmtree(folder)
  folder.write_text('in the way')
  with pytest.raises(OSError, match=r'cannot save a checkpoint in .*Not a directory'):
    saved.save(20, _state(20))


@pytest.mark.parametrize('notice', ['check', 'wait', 'save'])
def test_a_full_disk_is_an_error_of_the_next_call(folder, open_, notice):
  saved = open_()
  _fill(saved, [10])
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # No file may grow past 20 kB, as when the disk is full; the arrays take 96.
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
  try:
    with pytest.raises(OSError, match='cannot save a checkpoint in ') as error:  # noqa: PT012
      saved.save(20, _state(20))
      if notice == 'save':
        saved.save(30, _state(30))
      if notice == 'wait':
        saved.wait()
      given_up = time.monotonic() + 30
      while time.monotonic() < given_up:
        saved.check()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert str(folder) in str(error.value)
  assert '\n' not in str(error.value)
  _equal(open_().restore_last_good(_state(0)), _state(10))


_OF_TENSORSTORE = (
  'RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "/w/1.orbax-checkpoint-tmp/state/": '
  'Failed writing: "/w/1.orbax-checkpoint-tmp/state/d/edc0": Failed to write 330533 bytes to file 5: '
)


def _below(error):
  raised = RuntimeError('a save failed')
  raised.__cause__ = error
  return raised


@pytest.mark.parametrize(
  ('error', 'said'),
  [
    (ValueError(f"{_OF_TENSORSTORE}No space left on device [os_error_code='28']"), 'the disk is full'),
    (ValueError(f"{_OF_TENSORSTORE}[os_error_code='122']"), 'the quota of the disk is used up'),
    (ValueError(f'{_OF_TENSORSTORE}[OS error 28: ENOSPC]'), 'the disk is full'),
    (ValueError('x: No space left on device'), 'the disk is full'),
    (OSError(errno.ENOSPC, 'No space left on device', '/w/1.tmp'), 'the disk is full'),
    (_below(OSError(errno.EDQUOT, 'Disk quota exceeded')), 'the quota of the disk is used up'),
  ],
)  # fmt: skip
def test_a_disk_without_room_is_called_so(folder, open_, monkeypatch, error, said):
  saved = open_()
  _fill(saved, [10])

  def fail(_):
    raise error

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, 'wait_until_finished', fail)
    with pytest.raises(OSError, match=str(folder)) as raised:
      saved.wait()
  assert raised.value.errno in (errno.ENOSPC, errno.EDQUOT)
  assert entry.explain(raised.value) == (
    f'{said}: cannot write {folder}; free some space, then start the same command again'
  )


def test_what_the_system_says_is_not_lost_between_names_of_files(folder, open_, monkeypatch):
  saved = open_()
  _fill(saved, [10])

  def fail(_):
    raise ValueError(f"{_OF_TENSORSTORE}File too large [os_error_code='27']")

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, 'wait_until_finished', fail)
    with pytest.raises(OSError, match='cannot save') as raised:
      saved.wait()
  assert str(raised.value) == f'cannot save a checkpoint in {folder}: File too large'


def test_a_checkpoint_is_restored_onto_another_mesh(toy, open_):
  saved = open_()
  saved.save(10, _state(10, toy.make_mesh(2, 4)))
  saved.wait()
  other = toy.make_mesh(1, 2)
  restored = open_().restore_last_good(_state(0, other))
  _equal(restored, _state(10))
  assert restored['trained']['head']['kernel'].sharding.mesh == other
