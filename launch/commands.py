"""The commands of the launchers: what a dry run prints is what a run executes."""

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterable

# Ignored by git. Relative: the launchers are started at the root of the repository.
ARCHIVE = 'build/experts.tar.gz'


@dataclasses.dataclass(frozen=True)
class Command:
  """One command.

  Attributes:
    note: what it is for, one line.
    argv: program and arguments, no shell between.
    stdin: text to feed it, ending in a newline; None feeds nothing.
  """

  note: str
  argv: tuple[str, ...]
  stdin: str | None = None

  def __str__(self) -> str:
    line = shlex.join(self.argv)
    return line if self.stdin is None else f"{line} <<'END'\n{self.stdin}END"


def script(commands: Iterable[Command]) -> str:
  """The commands as a shell script, each under its note."""
  return '\n'.join(f'# {command.note}\n{command}' for command in commands)


def call(command: Command, capture: bool = False) -> subprocess.CompletedProcess[str]:
  """Shows and executes a command.

  Args:
    command: what to execute.
    capture: whether its output is wanted as text rather than on the screen.

  Raises:
    FileNotFoundError: the program is not installed.
  """
  print(f'# {command.note}\n{command}', file=sys.stderr, flush=True)
  try:
    return subprocess.run(
      command.argv, input=command.stdin, text=True, capture_output=capture, check=False
    )
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'{command.argv[0]!r} is not installed; launch/README.md says from where'
    ) from error


def check(command: Command) -> None:
  """Like `call`; a command that fails is a RuntimeError."""
  code = call(command).returncode
  if code:
    raise RuntimeError(f'this ended with {code}: {shlex.join(command.argv)}')


def split(argv: list[str]) -> tuple[list[str], list[str]]:
  """The launcher's own arguments, and those behind `--`, which are for main.py."""
  at = argv.index('--') if '--' in argv else len(argv)
  return argv[:at], argv[at + 1 :]


def pack() -> Command:
  """Packs the files that git tracks, as they are on disk, those deleted but not yet committed left out."""
  listed = 'while IFS= read -r -d "" f; do if [ -e "$f" ]; then printf "%s\\0" "$f"; fi; done'
  line = f'set -euo pipefail; mkdir -p build; git ls-files -z | {listed} | tar -czf {ARCHIVE} --null -T -'
  return Command('Pack the files that git tracks, as they are now', ('bash', '-c', line))
