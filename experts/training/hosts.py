"""The processes of a job: how they find each other, agree, and stop together.

On one machine there is one process, and nothing here waits for anything.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experts import machine

# A process that is silent for so long is dead, and ends the job; the second where no network is between them.
_HEARTBEAT_SECONDS = 60
_HEARTBEAT_SECONDS_HERE = 20


def start(timeout: int) -> None:
  """Joins the job's other processes, if there are any; before JAX is asked for its devices.

  On a Cloud TPU slice everything is found in the machine's metadata. Elsewhere JAX_COORDINATOR_ADDRESS (host:port of
  the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.

  Args:
    timeout: seconds to wait for the coordinator and all processes. Then the program ends, with one line and code 1.
  """
  address = os.environ.get('JAX_COORDINATOR_ADDRESS')
  # What JAX sets itself on a machine with TPU chips.
  on_tpu = (jax.config.jax_platforms or '').startswith('tpu')
  if not address and not on_tpu:
    return
  # JAX's own answer to SIGTERM counts steps from the start of the job, which has several runs.
  jax.config.update('jax_enable_preemption_service', False)
  number, index = (os.environ.get(f'JAX_{name}') for name in ('NUM_PROCESSES', 'PROCESS_ID'))
  # JAX would abort, with a stack trace of its own; by then this has ended the process.
  limit = threading.Timer(timeout, _give_up, [address, timeout])
  limit.start()
  silent = _HEARTBEAT_SECONDS_HERE if machine.processes() > 1 else _HEARTBEAT_SECONDS
  try:
    jax.distributed.initialize(
      num_processes=int(number) if number else None,
      process_id=int(index) if index else None,
      initialization_timeout=timeout + 60,
      heartbeat_timeout_seconds=silent,
    )
  except ValueError:
    # Chips, but no metadata of a slice.
    if address:
      raise
  finally:
    limit.cancel()


def _give_up(address, timeout):
  where = f' at {address}' if address else ''
  print(
    f'error: the coordinator{where} has not answered, or not all processes have come, within {timeout} s '
    '(config.run.coordinator_timeout): start the same command on every host',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


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
  text = json.dumps(value).encode()
  lengths = multihost_utils.process_allgather(np.int32(len(text)))
  rows = multihost_utils.process_allgather(_padded(text, int(lengths.max())))
  return [json.loads(bytes(row[:length])) for row, length in zip(rows, lengths)]


def from_first(value: Any) -> Any:
  """The first process's value, for all; each process must ask. For a few megabytes of JSON.

  What decides on which programs run, such as whether a file is there, is not looked up by each process for itself: on a
  network's disk they need not all see the same at a time.
  """
  if jax.process_count() == 1:
    return value
  text = json.dumps(value).encode() if first() else b''
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  return json.loads(bytes(multihost_utils.broadcast_one_to_all(_padded(text, length))[:length]))


def _padded(text: bytes, length: int) -> np.ndarray:
  """The bytes, with zeros up to `length` and on to a power of two: of each size there is a program to compile."""
  padded = np.zeros(max(256, 1 << (length - 1).bit_length()), np.uint8)
  padded[: len(text)] = np.frombuffer(text, np.uint8)
  return padded


def watch_sigterm() -> None:
  """From now on SIGTERM ends the program with code 0 where nothing is to be saved, and else waits to be asked for.

  What a phase has half done outside a training run is done again. In a job of several processes the signal waits for
  the next step in any case: one process that left by itself would take the others down.
  """
  signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number, frame) -> None:
  _State.asked_to_stop = True
  if _State.training or several():
    return
  if frame and frame.f_code.co_name == '_xla_gc_callback':
    # Python throws away what is raised in there.
    threading.Timer(0.1, os.kill, [os.getpid(), number]).start()
    return
  sys.exit(0)


class _State:
  asked_to_stop = False
  training = False


@contextlib.contextmanager
def training() -> Iterator[Callable[[], bool]]:
  """Inside, SIGTERM cuts no step in two; yields whether this process has been asked to stop."""
  previous = signal.signal(signal.SIGTERM, _on_sigterm)
  _State.training = True
  try:
    yield lambda: _State.asked_to_stop
  finally:
    signal.signal(signal.SIGTERM, previous)
    _State.training = False
    # What came too late for this run of a job is for the next one.
    _State.asked_to_stop &= several()
