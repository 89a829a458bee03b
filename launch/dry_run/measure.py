"""Compiles one program for the devices of a slice and reads off what it needs."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from launch.dry_run import hlo
from launch.dry_run.flops import flops

_GIB = 2**30
_UNITS = {'K': 2**-20, 'M': 2**-10, 'G': 1, 'T': 2**10}
# The compiler ends in either, the first from a quick look ahead, the second from the full assignment.
_OUT_OF_MEMORY = (
  re.compile(r'\(([\d.]+)([KMGT])\) exceeds available HBM'),
  re.compile(r'Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm'),
)


@dataclasses.dataclass(frozen=True)
class Costs:
  """What one call of a compiled program needs; sizes are those of one device.

  Attributes:
    argument_gib: parameters, optimiser state and the batch.
    output_gib: results that do not take the place of arguments.
    temporary_gib: everything between, and the program itself.
    flops: operations of one device, as the compiler counts them.
    bytes: that one device reads and writes in its memory, as the compiler counts them.
    seconds: the compiler's estimate: for each operation the time of its arithmetic or of its memory, whichever is more.
    loop_factor: by which `flops`, `bytes` and `seconds` were multiplied, as the compiler counts each loop once.
    unknown_loops: loops that count once because their length is not known.
    model_flops: operations of convolutions and matrix products as traced, of all devices together.
    collectives: exchanges between the devices.
  """

  argument_gib: float
  output_gib: float
  temporary_gib: float
  flops: float
  bytes: float
  seconds: float
  loop_factor: float
  unknown_loops: int
  model_flops: int
  collectives: Sequence[hlo.Collective]

  @property
  def total_gib(self) -> float:
    return self.argument_gib + self.output_gib + self.temporary_gib


class OutOfMemoryError(Exception):
  """The program needs more memory than a device has.

  Attributes:
    needed_gib: on a device, as far as the compiler came; the whole may need more.
  """

  def __init__(self, needed_gib: float):
    super().__init__(f'needs {needed_gib:.2f} GiB a device')
    self.needed_gib = needed_gib


def costs(function: Any, arguments: tuple) -> Costs:
  """Compiles a jitted function for the devices of its arguments' shardings.

  Raises:
    OutOfMemoryError: it does not fit.
  """
  traced = function.trace(*arguments)
  try:
    compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    for pattern in _OUT_OF_MEMORY:
      if found := pattern.search(str(error)):
        raise OutOfMemoryError(float(found[1]) * _UNITS[found[2]]) from error
    raise
  memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
  program = hlo.Program(compiled.as_text())
  factor = program.loop_factor()
  return Costs(
    argument_gib=memory.argument_size_in_bytes / _GIB,
    output_gib=(memory.output_size_in_bytes - memory.alias_size_in_bytes) / _GIB,
    temporary_gib=(memory.temp_size_in_bytes + memory.generated_code_size_in_bytes) / _GIB,
    flops=factor * analysis['flops'],
    bytes=factor * analysis['bytes accessed'],
    seconds=factor * analysis['optimal_seconds'],
    loop_factor=factor,
    unknown_loops=len(program.unknown_loops),
    model_flops=flops(traced.jaxpr),
    collectives=program.collectives(),
  )


def batch_step(batch: int, shards: int) -> int:
  """The step in which smaller batches are tried: at most 64 of them, each of which divides over the shards."""
  return -(-batch // (64 * shards)) * shards


def largest_batch(
  needed_gib: Callable[[int], float], batch: int, step: int, needed: float, limit: float
) -> int:
  """Finds the largest batch that fits, in few compilations.

  Memory is nearly a straight line over the batch, if it depends on the batch at all, so the line through the two known batches nearest to the limit tells
  which one to try next; where that gains little, the middle of what is left is tried.

  Args:
    needed_gib: batch -> GiB a device; compiles.
    batch: one that does not fit.
    step: the batches to choose from are its multiples; see `batch_step`.
    needed: GiB a device for `batch`.
    limit: GiB a device has.

  Returns:
    The largest multiple of `step` below `batch` that fits, or 0.
  """
  fits, too_large = 0, -(-batch // step)
  known = {too_large: needed}
  # Of a single point the line to the origin; what does not grow with the batch makes that too steep at the end.
  guess = int(0.9 * too_large * limit / needed)
  while too_large - fits > 1:
    left = too_large - fits
    guess = min(max(guess, fits + 1), too_large - 1)
    known[guess] = needed_gib(guess * step)
    if known[guess] >= needed:
      return 0
    if known[guess] <= limit:
      fits = guess
    else:
      too_large = guess
    (a, gib_a), (b, gib_b) = sorted(known.items(), key=lambda point: abs(point[1] - limit))[:2]
    straight = gib_a != gib_b and (len(known) == 2 or too_large - fits <= left / 2)
    middle = (fits + too_large) // 2
    guess = int(a + (limit - gib_a) * (b - a) / (gib_b - gib_a)) if straight else middle
  return fits * step
