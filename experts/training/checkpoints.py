"""Checkpoints of a training run: asynchronous, the last few kept, the newest readable one used.

The only module that knows Orbax.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

Tree = Any


class Checkpoints:
  """The checkpoints of one run, in one folder.

  A save that fails in the background raises OSError at the next `save`, `wait` or `check`.
  """

  def __init__(self, folder: str, keep: int):
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      enable_async_checkpointing=True,
      cleanup_tmp_directories=True,
      # Else, where a folder cannot be made, Orbax's threads wait ten minutes for it before the program can end.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    # A named item: Orbax would guess the layout of all checkpoints from the newest, which may be damaged.
    self._manager = ocp.CheckpointManager(
      os.path.abspath(folder), options=options, item_names=('state',)
    )

  def save(self, step: int, state: Tree) -> None:
    """Starts to save; returns when the arrays are copied off the device."""
    with self._failures():
      self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))

  def check(self) -> None:
    """Raises what went wrong in the background, if anything did; never waits."""
    # Orbax's own check forgets what its finalising thread has seen.
    if not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Returns when everything is on disk; raises if that failed."""
    with self._failures():
      self._manager.wait_until_finished()

  def close(self) -> None:
    with self._failures():
      self._manager.close()

  def restore_last_good(self, state: Tree) -> Tree | None:
    """Restores the newest checkpoint that can be read.

    Args:
      state: arrays or shape structs with the shapes and shardings wanted; the mesh may be another than at the save.

    Returns:
      The restored state, or None where the folder holds no checkpoint.

    Raises:
      ValueError: if there are checkpoints and none can be read.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    wanted = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    steps = sorted(self._manager.all_steps(), reverse=True)
    broken = []
    for step in steps:
      try:
        restored = self._manager.restore(step, args=wanted).state
      # Orbax and TensorStore raise a dozen types for a damaged file; whichever it is, an older checkpoint serves.
      except Exception as error:
        logging.warning(
          'checkpoint %d in %s cannot be read (%s); trying the one before it',
          step,
          self._manager.directory,
          _reason(error),
        )
        broken.append(step)
        continue
      # They would be in the way when the run saves at the same step again.
      for bad in broken:
        self._manager.delete(bad)
      return restored
    if steps:
      raise ValueError(
        f'none of the checkpoints {steps} in {self._manager.directory} can be read: '
        'remove that folder to start the phase again'
      )
    return None

  @contextlib.contextmanager
  def _failures(self) -> Iterator[None]:
    try:
      yield
    # As many types as there are ways for a disk to fail.
    except Exception as error:
      if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
        raise  # It is not the disk that is gone, but another process.
      raise OSError(
        f'cannot save a checkpoint in {self._manager.directory}: {_reason(error)}'
      ) from error


def _reason(error: BaseException) -> str:
  """The first line of what lies at the bottom of an error."""
  while error.__cause__ is not None:
    error = error.__cause__
  return (str(error).splitlines() or [type(error).__name__])[0]
