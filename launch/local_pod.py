"""Runs a command as a pod of several processes on this machine, over gloo: python -m launch.local_pod --processes=4 -- main.py ...

For trying out, without a TPU slice, what happens on one: batches built per host, collectives across processes, saving
and resuming together. The devices are CPU devices; by default 8 in all, as on a v3-8, shared out evenly, so that the
number of processes does not change the mesh.

  python -m launch.local_pod --processes=4 -- main.py --config=configs/quickstart.py --workdir=runs/pod

Each line of output is preceded by its process's number. SIGTERM, and Ctrl-C as such, goes to all processes: they save at
the same step and end. Where one process dies, the others notice, and end with an error; what has not ended two minutes after
the first failure is killed. The exit code is 0 if all processes ended well.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from experts import entry
from launch import commands

# Longer than a process may take to find that another is dead.
_GRACE_SECONDS = 120


def environment(coordinator: str, processes: int, index: int, devices: int) -> dict[str, str]:
  """The variables that make a process one of a pod.

  Args:
    coordinator: host:port of process 0.
    processes: in the pod.
    index: of this process.
    devices: of this process.
  """
  return {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
    'JAX_COORDINATOR_ADDRESS': coordinator,
    'JAX_NUM_PROCESSES': str(processes),
    'JAX_PROCESS_ID': str(index),
    'PYTHONUNBUFFERED': '1',
  }


def run(command: Sequence[str], processes: int, devices: int) -> int:
  """Runs the command in every process; returns the exit code of the pod."""
  coordinator = f'localhost:{free_port()}'
  pod, readers = [], []
  for index in range(processes):
    variables = environment(coordinator, processes, index, devices // processes)
    process = subprocess.Popen(
      [sys.executable, *command],
      env=os.environ | variables,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      errors='replace',
      # Ctrl-C is for this process, which asks the others to save.
      process_group=0,
    )
    _say(index, f'started as process {process.pid}')
    readers.append(threading.Thread(target=_show, args=(index, process.stdout)))
    readers[-1].start()
    pod.append(process)
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: [process.terminate() for process in pod])
  _wait(pod)
  for reader in readers:
    reader.join()
  codes = [process.returncode for process in pod]
  for index, code in enumerate(codes):
    if code:
      _say(index, f'ended with code {code}')
  # A signal's number is negative here; a shell says 128 and the number.
  return max(code if code >= 0 else 128 - code for code in codes)


def _wait(pod: Sequence[subprocess.Popen]) -> None:
  deadline = None
  while any(process.poll() is None for process in pod):
    if deadline is None and any(process.poll() for process in pod):
      deadline = time.monotonic() + _GRACE_SECONDS
    if deadline and time.monotonic() > deadline:
      for process in pod:
        process.kill()
    time.sleep(0.1)


def _show(index, lines):
  for line in lines:
    _say(index, line.rstrip())


def _say(index, text):
  # In one write: `print` ends its line in a second one, before which another process's may come.
  sys.stdout.write(f'[{index}] {text}\n')
  sys.stdout.flush()


def free_port() -> int:
  """A port that nothing listens on."""
  with socket.socket() as probe:
    probe.bind(('', 0))
    return probe.getsockname()[1]


def main(argv: Sequence[str]) -> None:
  own, command = commands.split(list(argv))
  parser = argparse.ArgumentParser(
    prog='python -m launch.local_pod',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--processes', type=int, default=4, help='of the pod')
  parser.add_argument(
    '--devices',
    type=int,
    default=0,
    help='in all, a multiple of the processes; 0: 8, rounded up to one',
  )
  flags = parser.parse_args(own)
  processes = flags.processes
  if processes < 1:
    raise ValueError(f'--processes={processes}: at least 1')
  devices = flags.devices or -(-8 // processes) * processes
  if not command:
    raise ValueError('name what to run after --, such as: -- main.py --config=... --workdir=...')
  if devices < 0 or devices % processes:
    raise ValueError(f'{devices} devices do not divide over {processes} processes')
  sys.exit(run(command, processes, devices))


if __name__ == '__main__':
  with entry.guard():
    main(sys.argv[1:])
