"""What to do where memory is too small: the fields to lower, with the values that would fit."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import jax
import ml_collections
from absl import logging

from experts import config as configs
from experts.training import mesh as meshes

_EVALUATION = 'run.evaluation_batch'

# Field of a batch -> what one member of a population needs of it, where it is one of training.
Needs = Mapping[str, meshes.Need | None]


@contextlib.contextmanager
def explained(
  config: ml_collections.ConfigDict, phase: str, needs: Callable[[], Needs]
) -> Iterator[None]:
  """Inside, a device or a machine that is out of memory raises MemoryError, which names what to lower.

  Args:
    config: the whole config.
    phase: that runs inside.
    needs: gives what the phase's programs need.
  """
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    first = (str(error).splitlines() or [''])[0]
    if isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' not in first:
      raise
    on = 'the device' if isinstance(error, jax.errors.JaxRuntimeError) else 'the machine'
    raise MemoryError(
      f'{on} is out of memory in the phase {phase!r}{f" ({first})" if first else ""}: {_advice(config, phase, _estimate(needs))}'
    ) from error


def _advice(config, phase, needs: Needs) -> str:
  values = configs.leaves(config.to_dict())
  largest = max(filter(None, needs.values()), key=lambda one: one.image, default=None)
  lower = []
  for field in dict.fromkeys((*needs, _EVALUATION)):
    now = values[field]
    # Of a pass without training the estimate is above the truth: most is kept for the backward pass.
    fitting = _fitting(now, needs.get(field) or largest)
    if fitting:
      lower.append(f'config.{field}={fitting} (now {now})')
  smaller = 'config.image.size, or a smaller network' if phase != 'predict' else 'the network'
  if not lower:
    return f'not even a single image fits: lower {smaller}, or take a larger device'
  return f'lower {" or ".join(lower)}, which would fit by estimate'


def _fitting(now: int, need: meshes.Need | None) -> int:
  """Half the batch that did not fit, or the largest that the plan takes to fit, if that is less; 0 if none does."""
  half = now // 2
  if need is None:
    return half
  devices, limit = jax.device_count(), meshes.memory_limit(jax.local_devices()[0])
  return min(half, meshes.largest_batch(devices, need, limit))


def _estimate(needs: Callable[[], Needs]) -> Needs:
  try:
    return needs()
  # On the way out for another reason: less is said then.
  except Exception:
    logging.debug('no estimate', exc_info=True)
    return {}
