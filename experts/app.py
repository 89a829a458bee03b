"""Start-up: the config checked, the chain of phases run, each at most once for a workdir."""

import ctypes
import glob
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import jax
import ml_collections
from absl import flags, logging

from experts import config as configs
from experts.training import hosts
from experts.training.board import Board

# Phase -> the fields of the config that its results depend on (those of the phases before it included).
_NETWORK = ('seed', 'model', 'image', 'upstream', 'pool', 'experts')
_INPUTS = {
  'predict': ('model', 'images'),
  'upstream': _NETWORK[:-2],
  'experts': _NETWORK,
  'domain_predictor': (*_NETWORK, 'domain_predictor'),
  'select': (*_NETWORK, 'tasks', 'strategy', 'select'),
  'transfer': (*_NETWORK, 'tasks', 'strategy', 'select', 'trials', 'transfer'),
  'dat': (*_NETWORK, 'tasks', 'strategy', 'select', 'trials', 'transfer', 'dat'),
  'report': (*_NETWORK, 'tasks', 'strategy', 'select', 'trials', 'transfer', 'results', 'paper'),
}


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line; an override of a field that no config has ends in one line, not in a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ImportError, OSError) as error:
    print(f'error: {_explain(argv, error)}', file=sys.stderr)
    sys.exit(1)


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Runs the config's phases in order.

  A phase that has finished here for the same config is skipped. Errors that a user can mend end the program with one
  line and code 1; SIGTERM ends it with code 0, and the same command goes on from there.
  """
  hosts.watch_sigterm()
  try:
    run(config, workdir)
  except (ValueError, OSError, FloatingPointError) as error:
    logging.debug('failed', exc_info=True)
    _fail(str(error))
  except jax.errors.JaxRuntimeError as error:
    if not hosts.several():
      raise
    logging.debug('failed', exc_info=True)
    _fail(
      'another process of the job has ended or cannot be reached; start the same command on every host again, it goes '
      f'on from the last checkpoint ({str(error).splitlines()[0]})'
    )


def _fail(message: str) -> NoReturn:
  print(f'error: {message}', file=sys.stderr, flush=True)
  if hosts.several():
    # An orderly exit would wait for the other processes, which may wait for this one.
    os._exit(1)
  sys.exit(1)


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Like `main`, but raises.

  Raises:
    ValueError: the config is invalid, the workdir was made by another one, or the data does not serve.
    OSError: something cannot be read or written.
    FloatingPointError: a loss is not finite.
  """
  configs.validate(config)
  workdir = os.path.abspath(os.path.expanduser(workdir))
  _quiet_libraries()
  _keep_freed_memory()
  _keep_programs(config.run.compilation_cache)
  hosts.start(config.run.coordinator_timeout)
  _refuse_other_process(config, workdir)
  if not hosts.first():
    # The first process speaks for all; from the others come warnings and errors.
    logging.set_verbosity(logging.WARNING)
  _make_writable(workdir)
  for phase in config.phases:
    _refuse_other_config(config, workdir, phase)
  enabled = config.run.tensorboard and hosts.first()
  with Board(f'{workdir}/tensorboard', enabled) as board:
    for phase in config.phases:
      hosts.wait(phase)
      _run_phase(config, workdir, phase, board)
    # Who left while the first still writes a report or classifies would end the job after minutes of silence.
    hosts.wait('the phases')


def _refuse_other_process(config, workdir):
  """Ends all processes of a job where one was started with another command."""
  mine = json.loads(json.dumps({'config': config.to_dict(), 'workdir': workdir}))
  given = hosts.gather(mine)
  for index, other in enumerate(given):
    if differing := _differences(given[0], other, f'process {index}', 'process 0'):
      raise ValueError(
        f'the processes of a job need the same command; these fields differ: {", ".join(differing)}'
      )


def _keep_programs(folder):
  """Compiled programs are kept between runs; JAX's own setting, where there is one, wins."""
  if folder and not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser(folder))


def _run_phase(config, workdir, phase, board):
  record = _read_record(workdir, phase)
  if hosts.from_first(record.get('finished', False)):
    logging.info('%s: finished here before, for the same config; skipped', phase)
    return
  _write_record(workdir, phase, {'config': _inputs(config, phase), 'finished': False})
  started = time.monotonic()
  # Imported where used: a phase that does not run need not load what it needs.
  module = importlib.import_module(f'experts.phases.{phase}')
  before = _files(workdir)
  try:
    module.run(config, workdir, board)
  except (ValueError, OSError):
    # A mistyped path, say: as long as nothing was made, the mended config is no other one.
    if hosts.first() and not record and _files(workdir) == before:
      os.remove(_record_path(workdir, phase))
    raise
  # The programs of one phase are of no use to the next, and take memory.
  jax.clear_caches()
  _give_back_memory()
  seconds = round(time.monotonic() - started, 1)
  _write_record(
    workdir,
    phase,
    {
      'config': _inputs(config, phase),
      'finished': True,
      'seconds': seconds,
      'jax': jax.__version__,
      'devices': f'{jax.device_count()} × {jax.devices()[0].device_kind}',
    },
  )
  logging.info('%s: finished in %.0f s', phase, seconds)


def _files(workdir):
  """What the phases have made, without the records and the curves that are kept of them."""
  kept = {
    folder: files
    for folder, _, files in os.walk(workdir)
    if os.path.relpath(folder, workdir).split(os.sep)[0] not in ('phases', 'tensorboard')
  }
  return {os.path.join(folder, name) for folder, files in kept.items() for name in files}


def _quiet_libraries():
  # Orbax logs twenty lines a save at the level at which this program says how training goes, and a traceback of each
  # error that it raises as well; JAX logs each accelerator that is not there, and how processes find each other.
  def own_or_serious(entry):
    library = 'orbax' in entry.pathname or '/jax/_src/' in entry.pathname
    return not library or (entry.levelno >= 30 and not entry.exc_info)

  handler = logging.get_absl_handler()
  if not handler.filters:
    handler.addFilter(own_or_serious)


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


def _inputs(config, phase):
  fields = config.to_dict()
  chosen = {name: fields[name] for name in _INPUTS[phase]}
  # Not its path alone: a pool that models joined is another one.
  path = os.path.expanduser(chosen.get('pool', ''))
  if path and os.path.exists(path):
    with open(path, 'rb') as file:
      chosen['pool content'] = hashlib.sha256(file.read()).hexdigest()[:12]
  # What JSON gives back: tuples are lists there.
  return json.loads(json.dumps(chosen))


def _refuse_other_config(config, workdir, phase):
  record = _read_record(workdir, phase)
  if not record:
    return
  if differing := _differences(record['config'], _inputs(config, phase), 'is', 'was'):
    raise ValueError(
      f'{workdir} holds the phase {phase!r} of another config; these fields differ: {", ".join(differing)}. '
      'Take another --workdir, or the old values'
    )


def _differences(before, now, is_, was) -> list[str]:
  before, now = configs.leaves(before), configs.leaves(now)
  return [
    f'{name} ({was} {before.get(name)!r}, {is_} {now.get(name)!r})'
    for name in sorted({*before, *now})
    if before.get(name) != now.get(name)
  ]


def _record_path(workdir, phase):
  return f'{workdir}/phases/{phase}.json'


def _read_record(workdir, phase):
  try:
    with open(_record_path(workdir, phase)) as file:
      return json.load(file)
  except FileNotFoundError:
    return {}


def _write_record(workdir, phase, record):
  if not hosts.first():
    return
  path = _record_path(workdir, phase)
  with open(f'{path}.tmp', 'w') as file:
    json.dump(record, file, indent=2, ensure_ascii=False)
  os.replace(f'{path}.tmp', path)


def _explain(argv, error):
  """Says which override names no field; other errors speak for themselves."""
  paths = [arg.lstrip('-').split('=')[0] for arg in argv if arg.lstrip('-').startswith('config.')]
  for path in (p.removeprefix('config.') for p in paths):
    if not configs.is_field(path):
      return configs.unknown_field(path, list(configs.leaves(configs.SCHEMA)))
  return str(error) or type(error).__name__
