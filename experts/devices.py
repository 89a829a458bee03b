"""The mesh that models and images are spread over, in training and to embed."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh


def make_mesh(groups: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Models along 'population', images along 'data'.

  A process's devices are neighbours in it, so that its share of a batch is one block.

  Args:
    groups: along 'population', a divisor of the number of devices.
    devices: all of the job's, if not given.
  """
  devices = jax.devices() if devices is None else devices
  ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
  grid = np.array(ordered).reshape(groups, -1)
  return Mesh(grid, ('population', 'data'), axis_types=(AxisType.Auto,) * 2)
