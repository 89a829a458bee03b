"""Part 4: eight fine-tunes as one population against the same eight one after the other.

    python -m benchmarks.gpu.finetunes

Through the training loop, its batches copied to the device at each step, as a transfer trains: softmax over 100 classes,
four seeds with two learning rates. ResNet-50 at 224, 64 images a step, which fill the device, and a small network on small
images, which do not. Compilation is apart; it is once for all that train one after the other.
"""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks.gpu import measure
from experts.devices import make_mesh
from experts.models import ours, resnet
from experts.runs import description, objectives
from experts.training import board, cadence, loop, optim, population
from experts.training import mesh as meshes

_PART = 'fine-tunes'
_TRIALS, _CLASSES, _ROUNDS = 8, 100, 3
_SELDOM = cadence.parse('10 minutes')


class _Sweep:
  """Random images, and a network to fine-tune on them."""

  def __init__(self, model: resnet.ResNet, side: int, batch: int, steps: int):
    self.model, self.batch, self.steps, self._side = model, batch, steps, side
    self._images = measure.random_images(4 * batch, side)
    self._params = measure.random_params(model, _CLASSES)

  def _batches(self, trials: int, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    for step in range(start, stop):
      rows = np.random.default_rng(step).integers(len(self._images), size=(trials, self.batch))
      yield {'image': self._images[rows], 'label': (rows % _CLASSES).astype(np.int32)}

  def train(self, trials: range, steps: int) -> float:
    """Fine-tunes some of the trials at the same time; seconds."""
    started = time.perf_counter()
    trained = population.repeat(self._params, len(trials))
    need = description.need(ours.Network(self.model), self._side, trained, {})
    limit = meshes.memory_limit(jax.local_devices()[0])
    layout = meshes.plan_whole(len(trials), self.batch, 1, need, limit)
    mesh = make_mesh(layout.groups, jax.devices()[:1])
    described = population.Population(
      names=[f'trial{i}' for i in trials],
      objective=objectives.single_label(ours.Network(self.model)),
      learning_rate=[1e-4 if i % 2 else 3e-4 for i in trials],
      weight_decay=[0.0] * len(trials),
      schedule=optim.staircase(10_000, 0, ()),
      members_at_once=layout.at_once,
      gradient_dtype=self.model.dtype,
    )
    state = loop.train(
      described,
      mesh,
      trained,
      {},
      lambda start: self._batches(len(trials), start, steps),
      steps,
      loop.Records(board.Board(measure.OUT.value, enabled=False), 'fine-tunes', _SELDOM, _SELDOM),
    )
    jax.block_until_ready(state)
    return time.perf_counter() - started


def _measure(name: str, sweep: _Sweep) -> None:
  sides = {
    'one population': [range(_TRIALS)],
    'one after the other': [range(i, i + 1) for i in range(_TRIALS)],
  }
  for side, parts in sides.items():
    first = sweep.train(parts[0], 2)
    measure.record(_PART, f'{name}: {side}: compilation', seconds=first - sweep.train(parts[0], 2))
  medians = measure.in_turn(
    {side: lambda parts=parts: sum(sweep.train(p, sweep.steps) for p in parts) for side, parts in sides.items()},
    _ROUNDS,
  )  # fmt: skip
  images = _TRIALS * sweep.batch * sweep.steps
  for side, seconds in medians.items():
    measure.record(
      _PART, f'{name}: {side}', seconds=seconds, images_per_s=images / seconds,
      times_as_fast_as_apart=medians['one after the other'] / seconds,
    )  # fmt: skip


def main(_):
  little = resnet.ResNet(14, 1 / 4, 'small', dtype=measure.dtype())
  sizes = {
    'small network': lambda: _Sweep(little, 32, 64, 2 if measure.SMALL.value else 40),
    'ResNet-50': lambda: _Sweep(resnet.ResNet(50, dtype=jnp.bfloat16), 224, 64, 12),
  }
  for name, make in sizes.items():
    if name == 'small network' or not measure.SMALL.value:
      with measure.guarded(_PART, name):
        _measure(name, make())


if __name__ == '__main__':
  app.run(main)
