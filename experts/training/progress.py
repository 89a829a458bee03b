"""How far a run is: a bar in a terminal, log lines elsewhere."""

import collections
import sys
import time
from collections.abc import Callable, Mapping

import tqdm
from absl import logging

# Seconds that a rate looks back: long enough to smooth, short enough to show a stall.
_WINDOW = 30.0


class Progress:
  """Shows steps done, metrics, images/s and time left.

  In a terminal a bar; elsewhere a log line for each update that carries metrics, such as
  `experts/full step 200/900 loss 1.234, 512 img/s, 0:42 left`.

  Example:
    with Progress(900, description='upstream') as progress:
      progress.update(100, 12_800, {'loss': 1.234})
      board.scalars('upstream', 100, progress.rates())
  """

  def __init__(
    self,
    total: int,
    unit: str = 'img',
    description: str = '',
    start: int = 0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts at step `start`.

    Args:
      total: steps of the whole run.
      unit: what the rate counts.
      description: name of the run, such as `experts/full`.
      start: steps that an earlier process already did.
      clock: seconds now.
    """
    self._total = total
    self._unit = unit
    self._description = description
    self._clock = clock
    self._images = 0
    self._marks = collections.deque()
    self._metrics = {}
    self._bar = None
    if sys.stderr.isatty():
      self._bar = tqdm.tqdm(
        total=total,
        initial=start,
        desc=description,
        dynamic_ncols=True,
        bar_format='{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}',
      )

  def update(self, step: int, images: int, metrics: Mapping[str, float] | None = None) -> None:
    """Moves to `step`.

    Args:
      step: steps done of the whole run.
      images: images seen since the previous update, by all members together.
      metrics: values to show; without any, nothing is logged outside a terminal.
    """
    self._images += images
    self._marks.append((self._clock(), step, self._images))
    while len(self._marks) > 2 and self._marks[-1][0] - self._marks[1][0] >= _WINDOW:
      self._marks.popleft()
    # The bar keeps the last metrics until there are new ones.
    self._metrics = metrics or self._metrics
    shown = [' '.join(f'{name} {value:.4g}' for name, value in self._metrics.items())]
    rates = self.rates()
    if rates:
      shown.append(f'{rates["images_per_second"]:,.0f} {self._unit}/s')
      if rates['steps_per_second'] > 0:
        left = (self._total - step) / rates['steps_per_second']
        shown.append(f'{duration(left)} left')
    line = ', '.join(part for part in shown if part)
    if self._bar is not None:
      self._bar.set_postfix_str(line, refresh=False)
      self._bar.update(step - self._bar.n)
    elif metrics:
      logging.info('%s step %d/%d %s', self._description, step, self._total, line)

  def rates(self) -> dict[str, float]:
    """Returns `steps_per_second` and `images_per_second` over the last half minute.

    Empty until the second update: the time to the first one is mostly compilation.
    """
    if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
      return {}
    seconds, steps, images = (b - a for a, b in zip(self._marks[0], self._marks[-1], strict=True))
    return {'steps_per_second': steps / seconds, 'images_per_second': images / seconds}

  def close(self) -> None:
    """Leaves the bar as it stands and ends its line."""
    if self._bar is not None:
      self._bar.close()

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def duration(seconds: float) -> str:
  """Returns seconds as m:ss, or as h:mm:ss from an hour on.

  >>> duration(42)
  '0:42'
  >>> duration(3723)
  '1:02:03'
  """
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'
