"""Times the layers of `experts.models` against the plain Flax and lax forms of the same.

    python -m benchmarks.layers

For each shape the two forms run in turn, compiled, and the medians are compared; `ratio` above 1
means that ours is faster. The gradient is with respect to the activations and the parameters. The
operations of a form are those of a convolution or normalisation in a small net (32×32 images,
batch 128) and in ResNet-50 (224×224, batch 8), with each shape once.
"""

import time
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from absl import app

from experts.models import layers

_REPEATS = 9
# (batch, side, channels in, channels out, kernel, stride)
_CONVS = (
  (128, 16, 16, 64, 1, 1),
  (128, 16, 64, 16, 1, 1),
  (128, 16, 64, 128, 1, 2),
  (128, 4, 64, 256, 1, 1),
  (128, 2, 512, 128, 1, 1),
  (8, 56, 64, 256, 1, 1),
  (8, 56, 256, 64, 1, 1),
  (8, 56, 256, 512, 1, 2),
  (8, 14, 1024, 256, 1, 1),
  (8, 7, 512, 2048, 1, 1),
  (128, 16, 16, 16, 3, 1),
  (128, 4, 128, 128, 3, 2),
  (128, 2, 128, 128, 3, 1),
)
# (batch, side, channels, groups)
_NORMS = (
  (128, 16, 16, 8),
  (128, 16, 64, 8),
  (128, 8, 128, 8),
  (128, 2, 512, 8),
  (8, 56, 64, 32),
  (8, 56, 256, 32),
  (8, 28, 512, 32),
  (8, 14, 1024, 32),
  (8, 7, 2048, 32),
)


def _medians(forms: list[Callable], arguments: tuple) -> list[float]:
  """Returns the median milliseconds of each form, run in turn."""
  forms = [jax.jit(form) for form in forms]
  for form in forms:
    jax.block_until_ready(form(*arguments))
  times = [[] for _ in forms]
  for _ in range(_REPEATS):
    for form, taken in zip(forms, times):
      start = time.perf_counter()
      jax.block_until_ready(form(*arguments))
      taken.append(1e3 * (time.perf_counter() - start))
  return [float(np.median(taken)) for taken in times]


def _compare(name: str, ours: Callable, plain: Callable, arguments: tuple) -> None:
  """Prints one line for the forward pass and one for forward and gradient together."""
  cotangent = np.ones(jax.eval_shape(ours, *arguments).shape, np.float32)
  train = lambda form: lambda g, *a: jax.vjp(form, *a)[1](g)
  for what, forms, given in (
    ('forward', [ours, plain], arguments),
    ('gradient', [train(ours), train(plain)], (cotangent, *arguments)),
  ):
    mine, other = _medians(forms, jax.device_put(given))
    print(f'{name:34s} {what:9s} {mine:9.2f} {other:9.2f} {other / mine:7.2f}', flush=True)


def main(_) -> None:
  rng = np.random.default_rng(0)
  array = lambda *shape: rng.normal(size=shape).astype(np.float32)
  print(f'{"layer":34s} {"pass":9s} {"ours ms":>9s} {"plain ms":>9s} {"ratio":>7s}')
  for batch, side, inputs, outputs, size, stride in _CONVS:
    name = f'conv {size}x{size}/{stride} {batch}x{side}x{side} {inputs}->{outputs}'
    ours = lambda x, k, stride=stride: layers.conv(x, k, stride)
    pad = [(size // 2, size // 2)] * 2
    plain = lambda x, k, stride=stride, pad=pad: jax.lax.conv_general_dilated(
      x, k, (stride, stride), pad, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    arguments = array(batch, side, side, inputs), array(size, size, inputs, outputs)
    _compare(name, ours, plain, arguments)
  for batch, side, channels, groups in _NORMS:
    name = f'norm {groups} groups {batch}x{side}x{side} {channels}'
    ours = lambda x, s, b, groups=groups: layers.group_norm(x, s, b, groups)
    flax_norm = nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False)
    plain = lambda x, s, b, norm=flax_norm: norm.apply({'params': {'scale': s, 'bias': b}}, x)
    arguments = array(batch, side, side, channels), array(channels), array(channels)
    _compare(name, ours, plain, arguments)


if __name__ == '__main__':
  app.run(main)
