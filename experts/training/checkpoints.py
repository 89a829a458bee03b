"""Checkpoints of a training run: asynchronous, the last few kept, the newest readable one used.

The only module that knows Orbax.
"""

import contextlib
import dataclasses
import errno
import gc
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from experts.training import hosts

Tree = Any

# Seconds before each further try to read: a network disk comes back, or is moved, within about a minute.
PAUSES = (1.0, 4.0, 15.0, 40.0)
# What a disk or a storage service says that is busy, away or forbidden: it tells nothing of the checkpoint.
_PASSING = (
  'OS error', 'RESOURCE_EXHAUSTED', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED', 'CANCELLED', 'PERMISSION_DENIED',
  'UNAUTHENTICATED',
)  # fmt: skip
# What is found of a checkpoint that lost a part.
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# Why one cannot be read.
_DAMAGED, _PASSES, _NO_ROOM, _OTHER = 'damaged', 'passes', 'no room', 'other'


class Checkpoints:
  """The checkpoints of one run, in one folder, which is made with the first of them.

  A save that fails in the background raises OSError at the next `save`, `wait` or `check`.
  """

  def __init__(
    self,
    folder: str,
    keep: int,
    before_first: Callable[[], None] = lambda: None,
    pauses: Sequence[float] = PAUSES,
  ):
    """Touches nothing.

    Args:
      folder: of these checkpoints.
      keep: how many of the last to keep.
      before_first: called on every process before the first save.
      pauses: seconds before each further try to read.
    """
    self._folder, self._keep = os.path.abspath(folder), keep
    self._before_first, self._pauses = before_first, pauses
    self._manager = None

  def save(self, step: int, state: Tree) -> None:
    """Starts to save; returns when the arrays are copied off the device."""
    with self._failures():
      if self._manager is None:
        self._before_first()
        self._manager = self._open()
      self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))

  def there(self) -> bool:
    """Whether there are checkpoints, of this process or an earlier one; all processes of a job get one answer."""
    return bool(self._steps())

  def check(self) -> None:
    """Raises what went wrong in the background, if anything did; never waits."""
    # Orbax's own check forgets what its finalising thread has seen.
    if self._manager and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Returns when everything is on disk; raises if that failed."""
    if self._manager:
      with self._failures():
        self._manager.wait_until_finished()

  def close(self) -> None:
    if self._manager:
      with self._failures():
        self._manager.close()

  def restore_last_good(self, like: Tree) -> Tree | None:
    """Restores the newest checkpoint that all processes can read.

    One that is damaged is kept as `damaged-STEP`; one that merely cannot be read now, after a few tries, ends the run.

    Args:
      like: arrays or shape structs with the shapes and shardings wanted; the mesh may be another than at the save.

    Returns:
      The restored state, or None where the folder holds no checkpoint.

    Raises:
      OSError: a checkpoint cannot be read at present.
      ValueError: one holds other arrays than wanted, or there are checkpoints and all are damaged.
      MemoryError, jax.errors.JaxRuntimeError: there is no room for it on the host, on a device.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    steps = self._steps()
    damaged = []
    for step in steps:
      restored, error = self._read(step, target)
      found = hosts.gather(error and dataclasses.asdict(error))
      failed = [(i, _Failure(**one)) for i, one in enumerate(found) if one]
      if not failed:
        self._put_aside(damaged)
        return restored
      restored = None
      for index, one in failed:
        if one.kind != _DAMAGED:
          raise self._stops(step, index, one)
      index, first = failed[0]
      logging.warning(
        'checkpoint %d in %s is damaged (%s%s); trying the one before it',
        step, self._folder, f'process {index}: ' * hosts.several(), first.reason,
      )  # fmt: skip
      damaged.append(step)
    if steps:
      raise ValueError(
        f'all of the checkpoints {steps} in {self._folder} are damaged: remove that folder to start the phase again'
      )
    return None

  def _steps(self) -> list[int]:
    """As the first process sees them, newest first: a network disk shows a new file late to some."""
    names = os.listdir(self._folder) if hosts.first() and os.path.isdir(self._folder) else []
    return hosts.from_first(sorted((int(name) for name in names if name.isdigit()), reverse=True))

  def _open(self) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
      max_to_keep=self._keep,
      enable_async_checkpointing=True,
      cleanup_tmp_directories=True,
      # Else, where a folder cannot be made, Orbax's threads wait ten minutes for it before the program can end.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    # A named item: Orbax would guess the layout of all checkpoints from the newest, which may be damaged.
    return ocp.CheckpointManager(self._folder, options=options, item_names=('state',))

  def _read(self, step, target) -> tuple[Tree | None, '_Failure | None']:
    """(state, None), or (None, why not) after a few tries; waits for no other process."""
    with _no_afterthoughts():
      for pause in (*self._pauses, None):
        try:
          return self._read_once(f'{self._folder}/{step}/state', target)
        # Orbax and TensorStore raise a dozen types for a damaged file.
        except Exception as error:
          failure = _Failure(_kind(error), _reason(error))
          if failure.kind == _NO_ROOM:
            if hosts.several():
              break
            raise
        if pause is not None:
          logging.info('checkpoint %d: %s; reads it again in %g s', step, failure.reason, pause)
          time.sleep(pause)
      return None, failure

  def _read_once(self, path, target) -> tuple[Tree | None, '_Failure | None']:
    me = jax.process_index()
    # Orbax would meet the other processes after reading, where one that failed does not come.
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
      if differing := _differing(handler.metadata(pathlib.Path(path)), target):
        return None, _Failure(_OTHER, differing)
      return reader.restore(path, args=ocp.args.StandardRestore(target)), None

  def _stops(self, step, index, failure) -> Exception:
    where = f'checkpoint {step} in {self._folder}'
    who = f' by process {index}' if hosts.several() else ''
    if failure.kind == _OTHER:
      return ValueError(
        f'{where} is of another network or another version of this program ({failure.reason}): remove that folder to '
        'start the phase again, or take another --workdir'
      )
    if failure.kind == _NO_ROOM:
      return jax.errors.JaxRuntimeError(f'{failure.reason} (reading {where}{who})')
    return OSError(
      f'{where} cannot be read{who} at present ({failure.reason}): the same command goes on from there when it can; '
      f'to go on from an earlier one, rename {self._folder}/{step}'
    )

  def _put_aside(self, steps: list[int]) -> None:
    """They would be in the way when the run saves at the same step again."""
    for step in steps if hosts.first() else ():
      number, name = 1, f'{self._folder}/damaged-{step}'
      while os.path.exists(name):
        number += 1
        name = f'{self._folder}/damaged-{step}-{number}'
      os.rename(f'{self._folder}/{step}', name)
      logging.warning('checkpoint %d is kept as %s', step, name)
    if steps:
      hosts.wait('damaged checkpoints are put aside')

  @contextlib.contextmanager
  def _failures(self) -> Iterator[None]:
    try:
      yield
    # As many types as there are ways for a disk to fail.
    except Exception as error:
      if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
        raise  # It is not the disk that is gone, but another process.
      raise OSError(f'cannot save a checkpoint in {self._folder}: {_reason(error)}') from error


@dataclasses.dataclass(frozen=True)
class _Failure:
  """Why one process could not read a checkpoint."""

  kind: str
  reason: str


@contextlib.contextmanager
def _no_afterthoughts() -> Iterator[None]:
  """What is left half read beside an array that cannot be read prints pages when it is thrown away: here, unheard."""
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  try:
    yield
  finally:
    gc.collect()
    sys.unraisablehook = hook


def _kind(error: Exception) -> str:
  chain = [error]
  while below := chain[-1].__cause__ or chain[-1].__context__:
    chain.append(below)
  text = ' '.join(map(str, chain))
  if any(isinstance(one, MemoryError) for one in chain):
    return _NO_ROOM
  if 'RESOURCE_EXHAUSTED' in text and any(
    isinstance(one, jax.errors.JaxRuntimeError) for one in chain
  ):
    return _NO_ROOM
  if 'NOT_FOUND' in text:
    return _DAMAGED
  numbers = {one.errno for one in chain if isinstance(one, OSError) and one.errno}
  return _PASSES if numbers - {*_LOST} or any(word in text for word in _PASSING) else _DAMAGED


def _differing(held: Tree, wanted: Tree) -> str:
  """The first array whose shape in a checkpoint is not the one wanted; empty where there is none, or nothing is known."""
  held, wanted = _shapes(getattr(held, 'tree', held)), _shapes(wanted)
  for name in sorted({*held, *wanted}) if held else ():
    if held.get(name) != wanted.get(name):
      return f'{name}: {held.get(name, "none")} there, {wanted.get(name, "none")} wanted'
  return ''


def _shapes(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _reason(error: BaseException) -> str:
  """The first line of what lies at the bottom of an error."""
  while error.__cause__ is not None:
    error = error.__cause__
  return (str(error).splitlines() or [type(error).__name__])[0]
