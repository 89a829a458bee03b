"""Start-up: the config checked, the chain of phases run, each at most once for a workdir."""

import contextlib
import ctypes
import difflib
import glob
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
import ml_collections
from absl import flags, logging

from experts import config as configs
from experts import entry, lock, memory
from experts.runs.records import Records, differences
from experts.training import hosts
from experts.training import mesh as meshes
from experts.training.board import Board


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line; an override of a field that no config has ends in one line, not in a traceback."""
  try:
    left = flags.FLAGS(argv)
    # A config that is not there, or that raises, is an error only when a field is asked for.
    if 'config' in flags.FLAGS:
      getattr(flags.FLAGS.config, 'phases', ())
    return left
  except Exception as error:  # A config is a program, and may raise anything.
    if entry.debug():
      traceback.print_exception(error)
    print(f'error: {_explain(argv, error)}', file=sys.stderr)
    sys.exit(1)


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Runs the config's phases in order.

  A phase that has finished here for the same config and data is skipped. SIGTERM ends the program with code 0, and the
  same command goes on from there. What is raised is for `entry.guard`.
  """
  hosts.watch_sigterm()
  try:
    run(config, workdir)
  except (Exception, KeyboardInterrupt) as error:
    if hosts.several():
      code = entry.report(_of_job(error))
      sys.stdout.flush()
      # An orderly exit would wait for the other processes, which may wait for this one.
      os._exit(code)
    raise


def _of_job(error: BaseException) -> BaseException:
  """What an error of JAX means where there are several processes."""
  if not isinstance(error, jax.errors.JaxRuntimeError):
    return error
  return ConnectionError(
    'another process of the job has ended or cannot be reached; start the same command on every host again, it goes '
    f'on from the last checkpoint ({str(error).splitlines()[0]})'
  )


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Like `main`, but raises.

  Raises:
    ValueError: the config is invalid, the workdir was made by another one or with other data, or the data does not
      serve.
    OSError: something cannot be read or written, or another run is in the workdir.
    FloatingPointError: a loss is not finite.
    MemoryError: the device's or the machine's is too small; says which fields to lower.
  """
  configs.validate(config)
  workdir = os.path.abspath(os.path.expanduser(workdir))
  entry.quiet_terminal()
  _keep_freed_memory()
  _keep_programs(config.run.compilation_cache)
  hosts.start(config.run.coordinator_timeout)
  # The first process speaks for all; from the others come warnings and errors.
  entry.quiet_terminal(least=entry.ALL if hosts.first() else entry.WARNINGS)
  _refuse_other_process(config, workdir)
  _make_writable(workdir)
  with _alone(workdir), entry.logged(_log(workdir)):
    records = Records(config, workdir)
    _agree(records.check)
    enabled = config.run.tensorboard and hosts.first()
    with Board(f'{workdir}/tensorboard', enabled) as board, _tasks_in_memory():
      for phase in config.phases:
        hosts.wait(phase)
        _run_phase(config, workdir, phase, board, records)
      # Who left while the first still writes a report or classifies would end the job after minutes of silence.
      hosts.wait('the phases')


def _log(workdir: str) -> str:
  number = jax.process_index()
  return f'{workdir}/log.{number}.txt' if number else f'{workdir}/log.txt'


@contextlib.contextmanager
def _alone(workdir: str) -> Iterator[None]:
  """No other job is in the workdir; the first process holds it for all of this one."""
  with contextlib.ExitStack() as stack:
    _agree(lambda: stack.enter_context(lock.hold(workdir)))
    yield


def _agree(decide: Callable[[], object]) -> object:
  """What the first process finds, or raises, for all: files may look different, or later, to the others."""
  answer, raised, kind = None, None, ''
  if hosts.first():
    try:
      answer = decide()
    except (ValueError, OSError) as error:
      raised, kind = error, 'ValueError' if isinstance(error, ValueError) else 'OSError'
  message = raised and entry.explain(raised)
  known = answer if isinstance(answer, (bool, str, type(None))) else None
  answer, message, kind = hosts.from_first([known, message, kind])
  if raised:
    raise raised
  if message:
    raise (ValueError if kind == 'ValueError' else OSError)(message)
  return answer


@contextlib.contextmanager
def _tasks_in_memory():
  """What phases read of the tasks is there for those that follow, and no longer."""
  try:
    yield
  finally:
    if module := sys.modules.get('experts.runs.tasks'):
      module.forget()


def _refuse_other_process(config, workdir):
  """Ends all processes of a job where one was started with another command."""
  mine = json.loads(json.dumps({'config': config.to_dict(), 'workdir': workdir}))
  given = hosts.gather(mine)
  for index, other in enumerate(given):
    if found := differences(given[0], other, f'process {index}', 'process 0'):
      raise ValueError(
        f'the processes of a job need the same command; these fields differ: {", ".join(found.values())}'
      )


def _keep_programs(folder):
  """Compiled programs are kept between runs; JAX's own setting, where there is one, wins."""
  if folder and not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser(folder))


def _run_phase(config, workdir, phase, board, records):
  state = _agree(lambda: _state(records, phase))
  if state == 'finished':
    logging.info('%s: finished here before, for the same config and data; skipped', phase)
    return
  if hosts.first():
    records.begin(phase)
  started = time.monotonic()
  # Imported where used: a phase that does not run need not load what it needs.
  module = importlib.import_module(f'experts.phases.{phase}')
  before = _files(workdir)
  try:
    with memory.explained(config, phase, lambda: _needs(config, phase)):
      module.run(config, workdir, board)
  except (ValueError, OSError, MemoryError):
    # A mistyped path, say: as long as nothing was made, the mended config is no other one.
    if hosts.first() and not state and _files(workdir) == before:
      os.remove(records.path(phase))
    raise
  # The programs of one phase are of no use to the next, and take memory.
  jax.clear_caches()
  _give_back_memory()
  seconds = round(time.monotonic() - started, 1)
  if hosts.first():
    records.finish(phase, seconds)
  logging.info('%s: finished in %.0f s', phase, seconds)


def _needs(config, phase) -> memory.Needs:
  """The fields that the memory of a phase grows with, those of training first."""
  # All phases, which most runs need not load.
  from experts import programs

  alone = config.copy_and_resolve_references()
  alone.phases = (phase,)
  limit = meshes.memory_limit(jax.local_devices()[0])
  found = programs.programs(alone, jax.devices(), limit)
  needs = {one.batch_field: one.need for one in found if one.need}
  return needs | {one.batch_field: None for one in found if one.batch_field not in needs}


def _state(records, phase) -> str:
  record = records.read(phase)
  return 'finished' if record.get('finished') else 'begun' if record else ''


def _files(workdir):
  """What the phases have made, without the records and the curves that are kept of them, and what was read."""
  kept = {
    folder: files
    for folder, _, files in os.walk(workdir)
    if os.path.relpath(folder, workdir).split(os.sep)[0] not in ('phases', 'tensorboard')
  }
  made = {os.path.join(folder, name) for folder, files in kept.items() for name in files}
  others = (_log(workdir), f'{workdir}/{lock.NAME}', f'{workdir}/tasks.csv')
  return {path for path in made if path not in others}


def _keep_freed_memory():
  """Lets glibc reuse the memory of a step for the next one: a quarter less time a step on a CPU (measured).

  XLA allocates its temporaries anew at every step. By default the C library gives blocks of that size back to the
  system, and the kernel clears them page by page when they are next touched. This must come before JAX starts its
  threads, hence before JAX can be asked for its devices. Beside an accelerator there is nothing to gain.
  """
  accelerators = ('/dev/nvidia[0-9]*', '/dev/accel*', '/dev/vfio/[0-9]*', '/dev/kfd')
  if not sys.platform.startswith('linux') or any(map(glob.glob, accelerators)):
    return
  trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # malloc.h
  library = ctypes.CDLL(None)
  # Other C libraries have no such function, and need none.
  if hasattr(library, 'mallopt'):
    library.mallopt(arena_max, 1)
    library.mallopt(mmap_max, 0)
    library.mallopt(trim_threshold, 2**31 - 1)
    library.mallopt(top_pad, 2**26)


def _give_back_memory():
  library = ctypes.CDLL(None) if sys.platform.startswith('linux') else None
  if hasattr(library, 'malloc_trim'):
    library.malloc_trim(0)


def _make_writable(workdir):
  try:
    os.makedirs(f'{workdir}/phases', exist_ok=True)
    probe = f'{workdir}/phases/.writable-{jax.process_index()}'
    with open(probe, 'w'):
      pass
    os.remove(probe)
  except OSError as error:
    raise PermissionError(
      f'cannot write to the workdir {workdir} ({error.strerror}); name another with --workdir'
    ) from error


def _explain(argv, error):
  """Says which override names no field, and which config is not there; other errors speak for themselves."""
  paths = [arg.lstrip('-').split('=')[0] for arg in argv if arg.lstrip('-').startswith('config.')]
  for path in (p.removeprefix('config.') for p in paths):
    if str(error).startswith('Could not parse') and path.startswith('tasks.'):
      return f"config.{path}: a task's name that is no word goes in brackets: --config.tasks['NAME'].data=…"
    if not configs.is_field(path):
      return configs.unknown_field(path, list(configs.leaves(configs.SCHEMA)))
  for arg in argv:
    name, _, value = arg.lstrip('-').partition('=')
    file = value.partition(':')[0]
    if name == 'config' and file and not os.path.exists(file):
      near = difflib.get_close_matches(file, glob.glob('configs/*.py'), 1)
      return f'--config={value}: no such file' + (f'; did you mean {near[0]}?' if near else '')
  said = str(error)
  if 'Traceback' in said:
    # Of a config file, which config_flags quotes whole: the last line says what is wrong.
    said = f'{said.partition("Error whilst")[0]}{said.strip().splitlines()[-1]}'
  said = ' '.join(said.split()) or type(error).__name__
  place = '' if entry.is_mendable(error) else _place(argv, error)
  return f'{place}: {type(error).__name__}: {said}' if place else said


def _place(argv, error) -> str:
  """File and line of a config that raised; empty where something else did."""
  files = {os.path.realpath((arg.partition('=')[2] or arg).partition(':')[0]) for arg in argv[1:]}
  steps = [
    step
    for step in traceback.extract_tb(error.__traceback__)
    if os.path.realpath(step.filename) in files
  ]
  return f'{steps[-1].filename}:{steps[-1].lineno}' if steps else ''
