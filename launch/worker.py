"""Runs main.py on one host of a slice; every launcher starts this: python -m launch.worker --config=… --workdir=…

Ends as main.py ends, but for one case. main.py that gets SIGTERM saves and ends with 0, on all hosts, and to a job queue
that looks like a finished job. So, where a phase in the workdir is not finished, this ends with 143 (128 + SIGTERM): the
queue takes the job for interrupted, and the same command goes on from the checkpoint. Where the environment has EXIT_FILE,
the code is written to that file too.
"""

import glob
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from experts import entry

INTERRUPTED = 128 + signal.SIGTERM
# Where each launcher mounts the bucket on every host, so that the arguments of main.py are the same for all of them.
BUCKET_FOLDER = '/gcs'


def workdir(main_args: Sequence[str]) -> str:
  """The workdir among the arguments of main.py; empty where there is none."""
  for arg, following in zip(main_args, [*main_args[1:], '']):
    name, is_set, value = arg.lstrip('-').partition('=')
    if arg.startswith('-') and name == 'workdir':
      return value if is_set else following
  return ''


def check_workdir(main_args: Sequence[str]) -> None:
  """For launchers.

  Raises:
    ValueError: the workdir is not in the bucket: other hosts would not see it, and it would go with the machines.
  """
  folder = workdir(main_args)
  if not folder.startswith(f'{BUCKET_FOLDER}/'):
    raise ValueError(
      f'--workdir={folder} is not in the bucket: every host must see it, and it must outlive the machines. The bucket '
      f'is mounted at {BUCKET_FOLDER}: take --workdir={BUCKET_FOLDER}/runs/NAME'
    )


def unfinished(folder: str) -> list[str]:
  """The records of the phases that have begun in a workdir and not ended."""
  paths = sorted(glob.glob(f'{glob.escape(folder)}/phases/*.json'))
  return [path for path in paths if not _finished(path)]


def main(argv: Sequence[str]) -> int:
  """Runs main.py with these arguments; returns the code to end with."""
  child = subprocess.Popen([sys.executable, 'main.py', *argv])
  signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
  code = child.wait()
  if code < 0:
    # The number of the signal that killed it; 128 more by the shell's convention.
    code = 128 - code
  if code == 0 and (left := unfinished(workdir(argv))):
    print(f'stopped before the end ({", ".join(left)}): the same command goes on', file=sys.stderr)
    code = INTERRUPTED
  if path := os.environ.get('EXIT_FILE'):
    with open(path, 'w') as file:
      print(code, file=file)
  return code


def _finished(path):
  with open(path) as file:
    return json.load(file)['finished']


if __name__ == '__main__':
  # Before --debug is taken out, which main.py is to see, too.
  given = sys.argv[1:]
  with entry.guard():
    sys.exit(main(given))
