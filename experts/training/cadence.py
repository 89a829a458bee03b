"""How often something is done in a run: every so many steps, or every so much time."""

import dataclasses
import re
import time
from collections.abc import Callable

_SECONDS = {'second': 1, 'minute': 60, 'hour': 3600}
_EVERY = re.compile(r'^\s*(\d+(?:\.\d*)?)\s*(step|second|minute|hour)s?\s*$')


@dataclasses.dataclass(frozen=True)
class Cadence:
  """Every so many steps, or else every so many seconds; of those, one is 0."""

  steps: int = 0
  seconds: float = 0.0

  def over(self, steps: float, seconds: float) -> bool:
    """Whether what has taken so long was due."""
    return steps >= self.steps if self.steps else seconds >= self.seconds


def parse(text: str) -> Cadence:
  """'500 steps' or '10 minutes' to a cadence; units are steps, seconds, minutes and hours.

  >>> parse('10 minutes')
  Cadence(steps=0, seconds=600.0)

  Raises:
    ValueError: no number above 0 with such a unit, or no whole number of steps.
  """
  match = _EVERY.match(text)
  amount, unit = (float(match[1]), match[2]) if match else (0.0, '')
  if not amount or (unit == 'step' and amount % 1):
    raise ValueError(f"{text!r} is not how often: write a number and a unit, such as '10 minutes'")
  return Cadence(int(amount)) if unit == 'step' else Cadence(seconds=amount * _SECONDS[unit])


class Turn:
  """When it is the turn of what is done with a cadence.

  Of the processes of a job one looks at its clock, and all hear of it at the same step; steps each of them can count.
  """

  def __init__(self, cadence: Cadence, clock: Callable[[], float] = time.monotonic):
    self._cadence, self._clock = cadence, clock
    self._last = clock()

  def call(self) -> bool:
    """Whether, by this clock, the time has come; said once, then counted anew."""
    if self._cadence.steps or self._clock() - self._last < self._cadence.seconds:
      return False
    self._last = self._clock()
    return True

  def now(self, step: int, called: bool) -> bool:
    """Whether it is to be done after this step.

    Args:
      step: of those done.
      called: whether the process with the clock has been heard to call.
    """
    return step % self._cadence.steps == 0 if self._cadence.steps else called
