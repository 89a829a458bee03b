"""Flags, records and clocks of the parts of `benchmarks.gpu`."""

import contextlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experts.models import resnet

OUT = flags.DEFINE_string('out', 'gpu', 'Folder of the results.')
SMALL = flags.DEFINE_bool('small', False, 'Small sizes: tells that it runs, not how fast.')

# A form of doing something -> seconds that it took, once.
Forms = Mapping[str, Callable[[], float]]


def record(part: str, form: str, **values: Any) -> None:
  """Appends a line to results.jsonl, and prints it."""
  line = json.dumps({'part': part, 'form': form, **{k: _plain(v) for k, v in values.items()}})
  with open(f'{OUT.value}/results.jsonl', 'a', encoding='utf-8') as file:
    file.write(f'{line}\n')
  print(line, flush=True)


def _plain(value):
  if isinstance(value, np.generic):
    value = value.item()
  if not isinstance(value, float):
    return value
  # JSON has no word for what is not a number.
  return float(f'{value:.5g}') if math.isfinite(value) else None


def read() -> list[dict[str, Any]]:
  """All records so far."""
  path = f'{OUT.value}/results.jsonl'
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def ceiling(name: str) -> float:
  """What the part `ceilings` measured, per second; not a number where it did not run."""
  found = [r['rate'] for r in read() if (r['part'], r['form']) == ('ceilings', name)]
  return found[-1] if found else float('nan')


@contextlib.contextmanager
def guarded(part: str, form: str) -> Iterator[None]:
  """Inside, an error is a result of this form in one line: it costs the other forms nothing."""
  try:
    yield
  # Whatever it is, the rest of the run is worth having.
  except Exception as error:
    record(part, form, error=one_line(error))


def one_line(error: BaseException) -> str:
  return f'{type(error).__name__}: {(str(error).strip().splitlines() or [""])[0]}'[:300]


def clock(function: Callable[[], Any]) -> float:
  """Seconds of one call and of what it starts on the device."""
  started = time.perf_counter()
  jax.block_until_ready(function())
  return time.perf_counter() - started


def in_turn(forms: Forms, rounds: int) -> dict[str, float]:
  """Medians of seconds, of forms that run in turn; all have been warmed up."""
  times = {form: [] for form in forms}
  for _ in range(rounds):
    for form, run in forms.items():
      times[form].append(run())
  return {form: statistics.median(each) for form, each in times.items()}


def network() -> tuple[resnet.ResNet, int]:
  """The network that is measured, and the side of its images."""
  if SMALL.value:
    return resnet.ResNet(14, 1 / 4, dtype=dtype()), side()
  return resnet.ResNet(50, dtype=dtype()), side()


def side() -> int:
  """Of the images, in pixels."""
  return 32 if SMALL.value else 224


def dtype() -> Any:
  """Of activations, as `make_model` chooses it."""
  return jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16


def random_images(number: int, side: int, seed: int = 0) -> np.ndarray:
  """uint8 [N, S, S, 3]; random, since zeros would cost the device less."""
  return np.random.default_rng(seed).integers(0, 256, (number, side, side, 3), np.uint8)


def random_adapter(model: resnet.ResNet, seed: int) -> dict[str, Any]:
  """An adapter tree on the host that changes what it is added to."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: resnet.init_adapter(model, jax.random.key(0)))
  return jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes)


def random_params(model: resnet.ResNet, classes: int) -> dict[str, Any]:
  """Parameters on the host; the head, which starts at zero, and what scales and shifts are random too."""
  rng = np.random.default_rng(0)
  params = jax.device_get(resnet.init(model, jax.random.key(0), classes))
  noise = lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32)
  return jax.tree.map(lambda leaf: leaf + noise(leaf) if leaf.ndim < 4 else leaf, params)
