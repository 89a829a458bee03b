"""Checkpoints: the last few kept, damage survived and said aloud, a failed save never silent."""

import logging
import os
import pathlib
import resource
import shutil
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

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


def test_a_checkpoint_is_restored_onto_another_mesh(toy, open_):
  saved = open_()
  saved.save(10, _state(10, toy.make_mesh(2, 4)))
  saved.wait()
  other = toy.make_mesh(1, 2)
  restored = open_().restore_last_good(_state(0, other))
  _equal(restored, _state(10))
  assert restored['trained']['head']['kernel'].sharding.mesh == other
