"""The TPU slices that Google Cloud rents: accelerator type, VM image, chip grid, hosts.

Names and grids: cloud.google.com/tpu/docs/v3 (v2, v4, v5e, v5p, v6e); images: cloud.google.com/tpu/docs/runtimes; names on
GKE: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
"""

import dataclasses
import math

# The number in an accelerator type counts TensorCores up to v5p (two a chip), chips for v5e and v6e.
_FLAT = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}
_CUBES = {
  8: '2x2x1',
  16: '2x2x2',
  32: '2x2x4',
  64: '2x4x4',
  128: '4x4x4',
  256: '4x4x8',
  512: '4x8x8',
  1024: '8x8x8',
  2048: '8x8x16',
}
GRIDS = {
  'v2': {8: '2x2', 32: '4x4', 128: '8x8', 256: '8x16', 512: '16x16'},
  'v3': {
    8: '2x2',
    32: '4x4',
    64: '4x8',
    128: '8x8',
    256: '8x16',
    512: '16x16',
    1024: '16x32',
    2048: '32x32',
  },
  'v4': {**_CUBES, 4096: '8x16x16'},
  'v5litepod': _FLAT,
  'v5p': {**_CUBES, 4096: '8x16x16'},
  'v6e': _FLAT,
}
_IMAGES = {
  'v2': 'tpu-ubuntu2204-base',
  'v3': 'tpu-ubuntu2204-base',
  'v4': 'tpu-ubuntu2204-base',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v5p': 'v2-alpha-tpuv5',
  'v6e': 'v2-alpha-tpuv6e',
}
_GKE = {
  'v3': 'tpu-v3-slice',
  'v4': 'tpu-v4-podslice',
  'v5litepod': 'tpu-v5-lite-podslice',
  'v5p': 'tpu-v5p-slice',
  'v6e': 'tpu-v6e-slice',
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """One accelerator type.

  Attributes:
    name: accelerator type, as in `v3-32`.
    image: what its VMs run, gcloud's --runtime-version.
    grid: its chips, as in `4x4`.
    chips_per_host: chips of one VM.
    hosts: number of VMs; main.py runs on each.
    gke: value of the node label cloud.google.com/gke-tpu-accelerator; empty where GKE has none.
  """

  name: str
  image: str
  grid: str
  chips_per_host: int
  hosts: int
  gke: str


def find(name: str) -> Slice:
  """The slice of that accelerator type.

  Raises:
    ValueError: there is none; the message lists those there are.
  """
  generation, _, number = name.partition('-')
  grid = GRIDS.get(generation, {}).get(int(number) if number.isdecimal() else -1)
  if grid is None:
    known = '; '.join(f'{gen}-{{{",".join(map(str, grids))}}}' for gen, grids in GRIDS.items())
    raise ValueError(f'unknown accelerator {name!r}; known are {known} (v5litepod is v5e)')
  chips = math.prod(map(int, grid.split('x')))
  # v5e and v6e have VMs of up to eight chips for slices that need one VM only; all else is built of VMs with four.
  per_host = chips if generation in ('v5litepod', 'v6e') and chips <= 8 else 4
  # The single host of v3 has its own name on GKE.
  gke = 'tpu-v3-device' if name == 'v3-8' else _GKE.get(generation, '')
  return Slice(name, _IMAGES[generation], grid, per_host, chips // per_host, gke)
