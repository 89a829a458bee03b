"""Part 2: 1-NN leave-one-out of 240 models on 1,000 samples, and of one model on 50,000, against PyTorch.

    python -m benchmarks.gpu.scorer

`rate` counts 2·N·N·D operations a model, whoever does less; `of_product` is its share of the rate of the float32 product
of an [N, D] by a [D, N] matrix at the highest precision. Ours also finds ties, their bounds and duplicates. On the device:
the embeddings lie there already. Ours is compared with float64 sample by sample.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks.gpu import measure, peer
from experts.selection import knn

_PART = 'scorer'
_ROUNDS = 5


def _data(models: int, number: int, dimension: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """As PyTorch draws them."""
  embeddings = np.random.default_rng(0).standard_normal((models, number, dimension), np.float32)
  return embeddings, np.random.default_rng(1).integers(classes, size=number)


def _ours_on_device(embeddings: np.ndarray, labels: np.ndarray):
  """A run of the program that `knn.leave_one_out` calls for each model."""
  program = knn.make_program(tuple(jax.local_devices()[:1]))
  held = [jax.device_put(one[None]) for one in embeddings]
  given = jax.device_put((labels.astype(np.int32), np.ones(len(labels), bool)))
  return lambda: [program(one, *given)['correct'] for one in held]


def _product(embeddings: np.ndarray):
  """The product alone, once for each model."""
  left = jax.device_put(embeddings[0])
  right = jax.device_put(np.ascontiguousarray(embeddings[-1].T))
  product = jax.jit(functools.partial(jnp.matmul, precision='highest'))

  def run():
    # One result at a time.
    for _ in embeddings:
      last = product(left, right)
    return last

  return run


def _differing(embeddings: np.ndarray, labels: np.ndarray, correct: np.ndarray, rows) -> int:
  """How many of some samples of one model float64 judges otherwise."""
  exact = embeddings.astype(np.float64)
  apart = np.square(exact).sum(axis=1) - 2 * exact[rows] @ exact.T
  apart[np.arange(len(rows)), rows] = np.inf
  return int(np.sum((labels[apart.argmin(axis=1)] == labels[rows]) != correct[rows]))


def _size(torch: peer.Peer, name: str, sizes: dict[str, int], checked: int) -> None:
  """Measures all forms on some data."""
  requests = {
    f'torch {form}, {"on the device" if resident else "in memory"}': {'form': form, 'resident': resident}
    for form in ('mm', 'cdist')
    for resident in (True, False)
  }  # fmt: skip
  for form, request in requests.items():
    torch.ask(do='build', name=form, what='neighbours', **sizes, **request)
  embeddings, labels = _data(**sizes)
  held, product = _ours_on_device(embeddings, labels), _product(embeddings)
  ours = {
    'ours, on the device': held,
    'ours, in memory': lambda: knn.leave_one_out(embeddings, labels).correct,
    'product, float32': product,
  }
  forms = {}
  for form in requests:
    with measure.guarded(_PART, f'{name}: {form}'):
      torch.reply()
      forms[form] = functools.partial(torch.seconds, form)
  for form, run in ours.items():
    with measure.guarded(_PART, f'{name}: {form}'):
      first = measure.clock(run)
      compiled = first - measure.clock(run)
      measure.record(_PART, f'{name}: {form}: compilation', seconds=compiled)
      forms[form] = functools.partial(measure.clock, run)
  medians = measure.in_turn(forms, _ROUNDS)
  models, number = sizes['models'], sizes['number']
  operations = 2 * number**2 * sizes['dimension'] * models
  for form, seconds in medians.items():
    measure.record(
      _PART, f'{name}: {form}', seconds=seconds, ms_a_model=1e3 * seconds / models, rate=operations / seconds,
      of_product=medians['product, float32'] / seconds,
    )  # fmt: skip
  correct = knn.leave_one_out(embeddings, labels).correct
  for model in range(0, models, max(1, models // 3)):
    rows = np.random.default_rng(2).choice(number, min(checked, number), replace=False)
    differing = _differing(embeddings[model], labels, correct[model], rows)
    measure.record(
      _PART, f'{name}: against float64', model=model, samples=len(rows), differing=differing
    )
  for form in requests:
    torch.ask(do='drop', name=form)
    torch.reply()


def main(_):
  small = measure.SMALL.value
  dimension = 64 if small else 2048
  many = {'models': 6, 'number': 100} if small else {'models': 240, 'number': 1000}
  large = {'models': 1, 'number': 5000 if small else 50_000}
  with peer.Peer() as torch:
    for sizes, checked in ((many, 1000), (large, 200)):
      name = f'{sizes["models"]} x {sizes["number"]}'
      with measure.guarded(_PART, name):
        _size(torch, name, {**sizes, 'dimension': dimension, 'classes': 20}, checked)


if __name__ == '__main__':
  app.run(main)
