"""Traces of a few steps, for TensorBoard's profile tab."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
from absl import logging


@dataclasses.dataclass(frozen=True)
class Steps:
  """The steps of a run to trace, both ends included; counted from 1 as in the metric lines."""

  first: int
  last: int

  @contextlib.contextmanager
  def trace(self, folder: str | None) -> Iterator['_Trace']:
    """Traces into the run's TensorBoard folder; not at all without one."""
    found = _Trace(self, folder)
    try:
      yield found
    finally:
      found.stop()


NONE = Steps(0, -1)


def parse(text: str) -> Steps:
  """'10:15' to steps.

  >>> parse('10:15')
  Steps(first=10, last=15)

  Raises:
    ValueError: not two step numbers in order.
  """
  if not text:
    return NONE
  first, _, last = text.partition(':')
  if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
    raise ValueError(f"{text!r} is no range of steps such as '10:15'")
  return Steps(int(first), int(last))


class _Trace:
  """A trace that starts and stops at the right steps."""

  def __init__(self, steps: Steps, folder: str | None):
    self._steps, self._folder = steps, folder
    self._running = False

  def before(self, step: int) -> None:
    if self._folder and step == self._steps.first:
      jax.profiler.start_trace(self._folder)
      self._running = True

  def after(self, step: int, result: jax.Array) -> None:
    if self._running and step == self._steps.last:
      result.block_until_ready()
      self.stop()
      logging.info("steps %d to %d are traced: TensorBoard's profile tab shows %s",
                   self._steps.first, self._steps.last, self._folder)  # fmt: skip

  def stop(self) -> None:
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
