"""What to do where memory is too small: the fields to lower, with the values that would fit."""

import contextlib
from collections.abc import Iterator

import jax
import ml_collections
from absl import logging

from experts import config as configs
from experts.training import mesh as meshes

# Phase -> the fields that its memory grows with, next to the images of a pass.
_BATCHES = {
  'upstream': ('upstream.batch_size',),
  'experts': ('experts.full.batch_size', 'experts.adapter.batch_size'),
  'domain_predictor': ('domain_predictor.batch_size',),
  'transfer': ('transfer.batch_size',),
  'dat': ('dat.batch_size',),
}
_EVALUATION = 'run.evaluation_batch'


@contextlib.contextmanager
def explained(config: ml_collections.ConfigDict, phase: str) -> Iterator[None]:
  """Inside, a device or a machine that is out of memory raises MemoryError, which names what to lower."""
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    first = (str(error).splitlines() or [''])[0]
    if isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' not in first:
      raise
    on = 'the device' if isinstance(error, jax.errors.JaxRuntimeError) else 'the machine'
    raise MemoryError(
      f'{on} is out of memory in the phase {phase!r}{f" ({first})" if first else ""}: {_advice(config, phase)}'
    ) from error


def _advice(config, phase) -> str:
  values = configs.leaves(config.to_dict())
  needs = _needs(config, phase)
  lower = []
  for field in (*_BATCHES.get(phase, ()), _EVALUATION):
    now = values[field]
    # Of a pass without training the estimate is above the truth: most is kept for the backward pass.
    need = needs.get(field) or (max(needs.values(), key=lambda one: one.image) if needs else None)
    fitting = _fitting(now, need)
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


def _needs(config, phase) -> dict[str, meshes.Need]:
  """Field of a batch -> what its members need; nothing where that cannot be told."""
  if phase not in _BATCHES:
    return {}
  # All phases, which most runs need not load.
  from experts.phases import programs

  alone = config.copy_and_resolve_references()
  alone.phases = (phase,)
  devices = jax.devices()
  try:
    found = programs.programs(alone, devices, meshes.memory_limit(jax.local_devices()[0]))
    return {one.batch_field: one.need for one in found if one.need}
  # On the way out for another reason: less is said then.
  except Exception:
    logging.debug('no estimate', exc_info=True)
    return {}
