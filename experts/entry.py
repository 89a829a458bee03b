"""What every command does alike: it starts quietly, keeps a log, and ends in one line where it fails."""

import concurrent.futures
import contextlib
import dis
import errno
import io
import logging
import os
import pathlib
import platform
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Iterator

# Before TensorFlow, XLA and libtpu are loaded, which look once: their notes are for their own developers. TensorFlow says of oneDNN that
# sums may round differently, whatever its log level; no product of this project is computed by it.
_QUIET = {
  'TF_CPP_MIN_LOG_LEVEL': '3',
  'TF_ENABLE_ONEDNN_OPTS': '0',
  'TPU_MIN_LOG_LEVEL': '2',
  'TPU_STDERR_LOG_LEVEL': '2',
  # The log is to hold all of a traceback, and where an error was raised says whose it is.
  'JAX_TRACEBACK_FILTERING': 'off',
}
for _name, _value in _QUIET.items():
  os.environ.setdefault(_name, _value)
_FOLDER = pathlib.Path(__file__).resolve().parents[1]
_OURS = tuple(f'{_FOLDER / name}{os.sep}' for name in ('experts', 'launch', 'configs'))
_MENDABLE = (
  ValueError,
  FloatingPointError,
  MemoryError,
  RuntimeError,
  concurrent.futures.BrokenExecutor,
)
_FULL = {errno.ENOSPC: 'the disk is full', errno.EDQUOT: 'the quota of the disk is used up'}
INTERRUPTED = 130
# Of what is logged, the least that a terminal shows.
ALL, WARNINGS = logging.DEBUG, logging.WARNING
_RAISE = dis.opmap['RAISE_VARARGS']
_DEBUG = '--debug'


class _State:
  debug = False


def debug() -> bool:
  """Whether the command was started with --debug."""
  return _State.debug


@contextlib.contextmanager
def guard(interrupted: str = '') -> Iterator[None]:
  """What a command does goes in here: nothing that is raised reaches the terminal as a traceback.

  A mistake that the user can mend ends with its message and code 1. Any other error ends with its message, the path of
  the log that holds its traceback, and how to report it. Ctrl-C ends with code 130, a reader that has gone with 141,
  both without a word. `--debug`, which is taken out of the command line, shows the tracebacks.

  Args:
    interrupted: what to say after Ctrl-C, where something goes on or is kept.
  """
  own = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
  _State.debug = _DEBUG in sys.argv[1:own]
  sys.argv[:own] = [arg for arg in sys.argv[:own] if arg != _DEBUG]
  threading.excepthook = _of_thread
  sys.unraisablehook = lambda hook: logging.debug('ignored', exc_info=hook.exc_value)
  try:
    yield
    sys.stdout.flush()
  except Exception as error:
    sys.exit(report(error))
  except KeyboardInterrupt:
    if interrupted:
      _say(interrupted)
    sys.exit(INTERRUPTED)


def report(error: BaseException) -> int:
  """Says on the terminal why a command ends; returns the code to end with."""
  if _State.debug:
    traceback.print_exception(error)
  if isinstance(error, KeyboardInterrupt):
    return INTERRUPTED
  if isinstance(error, BrokenPipeError) and not error.filename:
    # Nobody reads on. Python would complain when it flushes what is left.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 128 + 13
  message = explain(error)
  if is_mendable(error):
    _say(f'error: {message}')
    return 1
  log = getattr(error, 'log', '') or _write_alone(error)
  _say(
    f'error: {type(error).__name__}: {" ".join(message.split())} (a fault of this program, not of what you gave it)\n'
    f'The traceback is in {log}: please report it with that file, as CONTRIBUTING.md says.'
  )
  return 1


def explain(error: BaseException) -> str:
  """The message of an error, for people."""
  code = getattr(error, 'errno', None)
  if isinstance(error, OSError) and code in _FULL:
    file = error.filename or _written(error)
    where = f'cannot write {os.fsdecode(file)}' if file else f'cannot write ({error})'
    return f'{_FULL[code]}: {where}; free some space, then start the same command again'
  return str(error) or type(error).__name__


def is_mendable(error: BaseException) -> bool:
  """Whether an error tells its user what to do: one of a file, or one that this project raises on purpose.

  What a library raises, or Python itself at a line of ours, says what could not be done, which is no user's mistake.
  """
  if isinstance(error, OSError):
    return True
  if not isinstance(error, _MENDABLE) or not str(error):
    return False
  if isinstance(error, concurrent.futures.BrokenExecutor) or _of_child(error):
    return True
  steps = error.__traceback__
  if steps is None:
    return True
  while steps.tb_next:
    steps = steps.tb_next
  code = steps.tb_frame.f_code
  return code.co_filename.startswith(_OURS) and code.co_code[steps.tb_lasti] == _RAISE


def _of_child(error: BaseException) -> bool:
  """Whether an error comes from another process, which sends no more than its type and message."""
  return type(error.__cause__).__name__ == '_RemoteTraceback'


def _written(error: OSError) -> str | bytes:
  """The file that was being written when the disk was full: Python names it where it opens one, not where it writes."""
  for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
    values = list(frame.f_locals.values())
    for value in values:
      name = getattr(value, 'name', None) if isinstance(value, io.IOBase) else None
      name = name or getattr(value, 'filename', None)
      if isinstance(name, (str, bytes)) and name and not isinstance(value, types.ModuleType):
        return name
    for key in ('path', 'file', 'filename', 'fname'):
      if isinstance(frame.f_locals.get(key), (str, os.PathLike)) and frame.f_locals[key]:
        return os.fspath(frame.f_locals[key])
  return ''


@contextlib.contextmanager
def logged(path: str) -> Iterator[None]:
  """Inside, all that is logged is appended to a file too, and the traceback of an error that ends it."""
  handler = _File(path, delay=True, encoding='utf-8', errors='backslashreplace')
  handler.setFormatter(
    logging.Formatter('%(asctime)s %(levelname).1s %(module)s:%(lineno)d] %(message)s')
  )
  handler.addFilter(_is_for_log)
  root = logging.getLogger()
  root.addHandler(handler)
  logging.captureWarnings(True)
  handler.note(
    f'{time.strftime("%F %T %z")} {" ".join(sys.argv)} (Python {platform.python_version()})'
  )
  try:
    yield
  except BaseException as error:
    if not isinstance(error, (SystemExit, KeyboardInterrupt)):
      handler.note(''.join(traceback.format_exception(error)).rstrip())
      error.log = path
    raise
  finally:
    root.removeHandler(handler)
    handler.close()
    logging.captureWarnings(False)


class _File(logging.FileHandler):
  """A log that cannot be written, on a full disk say, is no reason to end, and says nothing of itself."""

  def note(self, text: str) -> None:
    with contextlib.suppress(OSError):
      with open(self.baseFilename, 'a', encoding='utf-8', errors='backslashreplace') as file:
        file.write(f'{text}\n')

  def emit(self, record: logging.LogRecord) -> None:
    with contextlib.suppress(OSError):
      super().emit(record)

  def handleError(self, record: logging.LogRecord) -> None:
    del record


def quiet_terminal(least: int = ALL) -> None:
  """What absl's handler shows from now on: what this program logs, and of libraries what is serious.

  Orbax logs twenty lines a save at the level at which this program says how training goes, warns of what a kill leaves
  of a checkpoint and of a slow disk, both of which are provided for, and logs a traceback of each error that it raises
  as well; JAX logs each accelerator that is not there, and how processes find each other.

  Args:
    least: `ALL` or `WARNINGS`.
  """
  # Here, since the launchers need no absl.
  from absl import logging as absl_logging

  handler = absl_logging.get_absl_handler()
  handler.setLevel(least)
  if not handler.filters:
    handler.addFilter(_is_for_terminal)


def _is_for_terminal(entry: logging.LogRecord) -> bool:
  if _State.debug:
    return True
  if entry.name == 'py.warnings' or any(one in entry.pathname for one in ('xla_bridge', 'orbax')):
    return entry.levelno >= logging.ERROR
  return _is_for_log(entry) and not (_of_library(entry) and entry.exc_info)


def _is_for_log(entry: logging.LogRecord) -> bool:
  return _State.debug or not _of_library(entry) or entry.levelno >= logging.WARNING


def _of_library(entry: logging.LogRecord) -> bool:
  return 'orbax' in entry.pathname or '/jax/_src/' in entry.pathname


def _of_thread(hook) -> None:
  """An error in a thread, which ends nothing: a line, and its traceback where it is looked for."""
  if hook.exc_type is SystemExit:
    return
  logging.debug('in %s', hook.thread, exc_info=(hook.exc_type, hook.exc_value, hook.exc_traceback))
  logging.warning('%s in a thread: %s', hook.exc_type.__name__, hook.exc_value)


def _write_alone(error: BaseException) -> str:
  """Keeps the traceback of a command that has no log of its own; returns its path."""
  try:
    with tempfile.NamedTemporaryFile(
      'w',
      prefix='experts-',
      suffix='.log',
      delete=False,
      encoding='utf-8',
      errors='backslashreplace',
    ) as file:
      print(' '.join(sys.argv), file=file)
      traceback.print_exception(error, file=file)
      return file.name
  except OSError as failure:
    return f'no file ({failure}; start it again with {_DEBUG})'


def _say(text: str) -> None:
  # Names of files may be no UTF-8.
  with contextlib.suppress(OSError):
    encoding = sys.stderr.encoding or 'utf-8'
    print(text.encode(encoding, 'backslashreplace').decode(encoding), file=sys.stderr, flush=True)
