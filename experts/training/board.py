"""TensorBoard events; the one module that knows clu's metric writers."""

import math
import os
import pathlib
import types
from collections.abc import Callable, Mapping

import numpy as np
from absl import logging


class Board:
  """Writes TensorBoard events of many runs from one background thread.

  A run is a sub-directory of `logdir`, so that the members of a population overlay in one chart. TensorFlow, which
  takes seconds to import, is imported by the thread at its first write: training starts at once. What fails there is
  raised by the next call, or by `close`.

  Example:
    with Board(workdir / 'tensorboard') as board:
      board.scalars('experts/full/greek', 100, {'train/loss': 0.3})
  """

  def __init__(self, logdir: str | os.PathLike, enabled: bool = True):
    """Makes `logdir`.

    Args:
      logdir: directory of all runs.
      enabled: whether to write at all; false on every process but the first.

    Raises:
      OSError: `logdir` cannot be made.
    """
    self._logdir = pathlib.Path(logdir)
    self._enabled = enabled
    self._writers = {}
    if enabled:
      # Here, so that what writes no events does without.
      from clu import asynclib

      self._pool = asynclib.Pool('board', max_workers=1)
      self._error = asynclib.AsyncError
      self._logdir.mkdir(parents=True, exist_ok=True)

  def folder(self, run: str) -> str | None:
    """Where files of a run belong that TensorBoard reads but this does not write; None if not enabled."""
    return str(self._logdir / run) if self._enabled else None

  def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
    """Writes one point of each named curve."""
    values = {tag: float(value) for tag, value in values.items()}
    self._submit(run, lambda writer: writer.write_scalars(int(step), values))

  def text(self, run: str, step: int, values: Mapping[str, str]) -> None:
    """Writes Markdown texts, tables included."""
    values = dict(values)
    self._submit(run, lambda writer: writer.write_texts(int(step), values))

  def images(self, run: str, step: int, values: Mapping[str, np.ndarray]) -> None:
    """Writes each tag's images as one grid.

    Args:
      run: sub-directory of the log directory.
      step: training step.
      values: uint8 `[N, H, W, 3]` for each tag.

    Raises:
      ValueError: an array of another shape or type.
    """
    grids = {tag: _grid(tag, images)[None] for tag, images in values.items()}
    self._submit(run, lambda writer: writer.write_images(int(step), grids))

  def histograms(self, run: str, step: int, values: Mapping[str, np.ndarray]) -> None:
    """Writes the distribution of each array's values."""
    values = {tag: np.array(value) for tag, value in values.items()}
    self._submit(run, lambda writer: writer.write_histograms(int(step), values))

  def hparams(self, run: str, values: Mapping[str, object], metrics: Mapping[str, float]) -> None:
    """Writes one row of the HParams tab: a trial's hyper-parameters and what it reached.

    Args:
      run: sub-directory of the log directory; one for each trial.
      values: hyper-parameters; what is no bool, number or string is written as its text.
      metrics: results; they appear as columns beside the hyper-parameters.
    """
    values = {name: _hparam(value) for name, value in values.items()}
    metrics = {name: float(value) for name, value in metrics.items()}

    def write(writer):
      writer.write_hparams(values)
      writer.write_scalars(0, metrics)

    self._submit(run, write)

  def flush(self) -> None:
    """Waits until every event so far is in its file.

    Raises:
      OSError: an earlier write failed.
    """
    self._finish(lambda writer: writer.flush())

  def close(self) -> None:
    """Flushes and closes the files; a later write opens new ones.

    Raises:
      OSError: an earlier write failed.
    """
    try:
      self._finish(lambda writer: writer.close())
    finally:
      self._writers.clear()

  def __enter__(self) -> 'Board':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: types.TracebackType | None,
  ) -> None:
    try:
      self.close()
    except OSError as failure:
      # The error that ended the block is the one to show; this one must not replace it.
      if kind is None:
        raise
      logging.error('%s', failure)

  def _submit(self, run: str, write: Callable) -> None:
    if not self._enabled:
      return
    self._guard(lambda: self._pool(self._write)(run, write))

  def _write(self, run: str, write: Callable) -> None:
    if run not in self._writers:
      # The summaries need no device, and TensorFlow would otherwise claim the GPU's memory.
      os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
      import tensorflow as tf
      from clu import metric_writers

      tf.config.set_visible_devices([], 'GPU')
      self._writers[run] = metric_writers.SummaryWriter(str(self._logdir / run))
    write(self._writers[run])

  def _finish(self, action: Callable) -> None:
    if not self._enabled:
      return

    def finish_all():
      for writer in self._writers.values():
        action(writer)

    try:
      self._guard(lambda: self._pool(finish_all)())
    finally:
      self._guard(self._pool.join)

  def _guard(self, call: Callable) -> None:
    try:
      call()
    except self._error as error:
      # One cause tends to fail every write that follows it: report the first.
      self._pool.clear_errors()
      message = str(error.__cause__).splitlines()[0]
      raise OSError(f'cannot write TensorBoard events under {self._logdir}: {message}') from error


def _hparam(value: object) -> bool | int | float | str:
  if isinstance(value, np.generic):
    value = value.item()
  return value if isinstance(value, bool | int | float | str) else str(value)


def _grid(tag: str, images: np.ndarray) -> np.ndarray:
  """Lays images `[N, H, W, 3]` out in a near-square grid with a pixel between them."""
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
    raise ValueError(
      f"images of '{tag}' must be uint8 [N, H, W, 3] with N > 0, not {images.dtype} {images.shape}"
    )
  number, height, width, _ = images.shape
  columns = math.ceil(math.sqrt(number))
  rows = math.ceil(number / columns)
  grid = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), np.uint8)
  for index, image in enumerate(images):
    top, left = index // columns * (height + 1), index % columns * (width + 1)
    grid[top : top + height, left : left + width] = image
  return grid
