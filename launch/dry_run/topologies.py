"""The TPU slices that Cloud offers, and what one of their devices can do."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from launch import slices


@dataclasses.dataclass(frozen=True)
class Generation:
  """One kind of chip.

  Attributes:
    unit: what JAX calls a device there: a core, or a chip (on v4 and v5p its two cores act as one).
    memory_gib: what a program may use of a device's memory, in GiB. The compiler's own figure, as its out-of-memory
      error states it; a little less than what the chip has.
    peak_flops: bfloat16 operations a device does in a second at most.
    shapes: {number in the slice's name: arrangement of its chips}. The number counts cores up to v5p, chips for v5e and
      v6e.
    options: for the compiler, beside the arrangement.
  """

  unit: str
  memory_gib: float
  peak_flops: float
  shapes: Mapping[int, str]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Peaks: cloud.google.com/tpu/docs/v3, …/v4, …/v5p, …/v5e, …/v6e.
GENERATIONS = {
  # 123 TFLOP/s a chip of two cores, which are devices of their own. A v3-16 is not for rent.
  'v3': Generation('core', 15.48, 61.5e12, dict(sorted({**slices.GRIDS['v3'], 16: '2x4'}.items()))),
  'v4': Generation('chip', 30.75, 275e12, slices.GRIDS['v4'], {'chip_config_name': 'megacore'}),
  'v5p': Generation('chip', 95.74, 459e12, slices.GRIDS['v5p']),
  'v5e': Generation('chip', 15.75, 197e12, slices.GRIDS['v5litepod']),
  'v6e': Generation('chip', 31.25, 918e12, slices.GRIDS['v6e']),
}


def names() -> list[str]:
  """Every slice that `devices` knows."""
  return [f'{name}-{size}' for name, kind in GENERATIONS.items() for size in kind.shapes]


def generation(topology: str) -> Generation:
  """What a device of a slice such as 'v3-512' is.

  Raises:
    ValueError: no slice is called so; lists those that are.
  """
  if topology not in names():
    raise ValueError(f'unknown topology {topology!r}; known: {", ".join(names())}')
  return GENERATIONS[topology.split('-')[0]]


def devices(topology: str) -> Sequence[jax.Device]:
  """The devices of a slice such as 'v3-512', good for compiling only.

  Raises:
    ValueError: no slice is called so.
  """
  from jax.experimental import topologies

  kind = generation(topology)
  name, size = topology.split('-')
  shape = kind.shapes[int(size)]
  options = dict(kind.options)
  if shape == '1x1':
    # Its host has one chip; the compiler otherwise takes hosts of four.
    options['chips_per_host_bounds'] = (1, 1, 1)
  return topologies.get_topology_desc(
    platform='tpu', topology_name=f'{name}:{shape}', **options
  ).devices
