"""The processes of a job: how they find each other, agree, and stop together.

On one machine there is one process, and nothing here waits for anything.
"""

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that is silent for so long is dead, and ends the job.
_HEARTBEAT_SECONDS = 60
# Every call of `Preemption.reached` in the life of a process: JAX agrees on one of them, so the count must not restart
# with each run.
_CALLS = itertools.count(1)


def start(timeout: int) -> None:
  """Joins the job's other processes, if there are any; before JAX is asked for its devices.

  On a Cloud TPU slice everything is found in the machine's metadata. Elsewhere JAX_COORDINATOR_ADDRESS (host:port of
  the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.

  Args:
    timeout: seconds to wait for the coordinator.

  Raises:
    ConnectionError: the coordinator has not answered, or not every process has come.
  """
  address = os.environ.get('JAX_COORDINATOR_ADDRESS')
  # What JAX sets itself on a machine with TPU chips.
  on_tpu = (jax.config.jax_platforms or '').startswith('tpu')
  if not address and not on_tpu:
    return
  number, index = (os.environ.get(f'JAX_{name}') for name in ('NUM_PROCESSES', 'PROCESS_ID'))
  try:
    jax.distributed.initialize(
      num_processes=int(number) if number else None,
      process_id=int(index) if index else None,
      initialization_timeout=timeout,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
  except ValueError:
    # Chips, but no metadata of a slice.
    if address:
      raise
  except RuntimeError as error:
    where = f' at {address}' if address else ''
    raise ConnectionError(
      f'the coordinator{where} has not answered, or not all processes have come, within {timeout} s '
      f'(config.run.coordinator_timeout): start the same command on every host. {_first_line(error)}'
    ) from error


def several() -> bool:
  """Whether the job has more than this process."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def wait(name: str) -> None:
  """Returns when all processes are here: what the first one wrote can then be read."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def gather(value: Any) -> list[Any]:
  """The values of all processes, in their order; each process must ask. For a few megabytes of JSON."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.int32(len(text)))
  padded = np.zeros(int(lengths.max()), np.uint8)
  padded[: len(text)] = text
  rows = multihost_utils.process_allgather(padded)
  return [json.loads(bytes(row[:length])) for row, length in zip(rows, lengths)]


class Preemption:
  """Whether to save and stop: after SIGTERM to any process, all processes are told so at the same step."""

  def __init__(self):
    self._signalled = False

  def reached(self) -> bool:
    """Asked once a step, by every process."""
    if jax.process_count() == 1:
      return self._signalled
    return multihost_utils.reached_preemption_sync_point(next(_CALLS))

  def signal(self) -> None:
    self._signalled = True


@contextlib.contextmanager
def preemption() -> Iterator[Preemption]:
  """Turns SIGTERM into an answer of `Preemption.reached`, so that a step is never cut in two."""
  found = Preemption()
  if jax.process_count() > 1:
    # JAX's own service has the signal.
    yield found
    return
  previous = signal.signal(signal.SIGTERM, lambda *_: found.signal())
  try:
    yield found
  finally:
    signal.signal(signal.SIGTERM, previous)


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [''])[0]
