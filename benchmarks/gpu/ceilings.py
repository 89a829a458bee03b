"""What the device can do at most: products in both precisions, its memory, the way to it.

    python -m benchmarks.gpu.ceilings

The other parts give their share of these rates; see `benchmarks.gpu`.
"""

import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks.gpu import measure

_ROUNDS, _CALLS = 5, 10


def main(_):
  device = jax.devices()[0]
  stats = device.memory_stats() or {}
  measure.record(
    'ceilings', 'device', kind=device.device_kind, jax=jax.__version__, limit=stats.get('bytes_limit', 0)
  )  # fmt: skip
  side = 512 if measure.SMALL.value else 8192
  keys = jax.random.split(jax.random.key(0), 2)
  for name, dtype, precision in (
    ('bfloat16 product', jnp.bfloat16, 'default'),
    ('float32 product', jnp.float32, 'highest'),
  ):
    with measure.guarded('ceilings', name):
      left, right = (jax.random.normal(key, (side, side), dtype) for key in keys)
      product = jax.jit(functools.partial(jnp.matmul, precision=precision))
      _rate(name, functools.partial(product, left, right), 2 * side**3)
  with measure.guarded('ceilings', 'memory'):
    values = jax.random.normal(keys[0], (side**2 * (1 if measure.SMALL.value else 8),))
    add = jax.jit(lambda x: x + 1)
    # Each number is read and written.
    _rate('memory', lambda: add(values), 2 * values.nbytes)
  with measure.guarded('ceilings', 'to the device'):
    host = np.random.default_rng(0).standard_normal(side**2, np.float32)
    _rate('to the device', lambda: jax.device_put(host), host.nbytes)


def _rate(name, call, amount):
  def several():
    # One result at a time: all of them would fill the device.
    for _ in range(_CALLS):
      last = call()
    return last

  several()
  times = [measure.clock(several) for _ in range(_ROUNDS)]
  measure.record('ceilings', name, rate=amount * _CALLS / statistics.median(times))


if __name__ == '__main__':
  app.run(main)
