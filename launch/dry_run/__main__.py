"""Compiles what a config would run, for a TPU slice that need not be there, and tells what it needs.

    python -m launch.dry_run --config=configs/quickstart.py --topology=v3-32 [--config.FIELD=VALUE …] [--json=PATH]

It needs the TPU compiler (pip install -e '.[tpu]') and no TPU; each program takes a minute or so. For every program of
the config's phases it prints the memory of a core against what there is, operations and bytes of a step, the compiler's
estimate of the step's time, the exchanges between cores, and the hours of each phase. It ends with code 1 where a
program does not fit, and names the largest batch that does.

An unknown --topology ends with the list of those that are known.
"""

import functools
import os
import sys
import time

# Before JAX starts: it is to take the CPU for itself, the compiler is not to look for a TPU host around it, and another
# process may compile at the same time.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TPU_SKIP_MDS_QUERY'] = '1'
os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
# What the compiler would else ask the host that is not there, and complain of; it compiles for any slice all the same.
os.environ['TPU_ACCELERATOR_TYPE'] = 'v3-8'
os.environ['TPU_WORKER_HOSTNAMES'] = 'localhost'
os.environ.setdefault('TPU_LOG_DIR', 'disabled')
# Programs for devices that are not there can be written to the cache, but not read.
os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'

# First, since it quiets the libraries that the others load.
from experts import entry  # isort: skip

from absl import app as absl_app
from absl import flags
from ml_collections import config_flags

from experts import app
from experts import config as configs
from experts.reporting import files
from launch.dry_run import measure, report, topologies

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='A file of configs/; its fields are overridden by --config.FIELD=VALUE.'
)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'A slice as Cloud names it, such as v3-32.')
_JSON = flags.DEFINE_string('json', None, 'Where to write the same as JSON.')
flags.mark_flags_as_required(['config', 'topology'])


def main(argv):
  del argv
  sys.exit(run(_CONFIG.value, _TOPOLOGY.value, _JSON.value))


def run(config, topology: str, json_path: str | None) -> int:
  """Prints the report; returns 1 where a program does not fit.

  Raises:
    ValueError: the topology or the config is invalid.
    FileNotFoundError: the TPU compiler is not installed.
  """
  kind = topologies.generation(topology)
  configs.validate(config)
  try:
    import libtpu  # noqa: F401
  except ImportError as error:
    raise FileNotFoundError(
      "the TPU compiler is not installed (no module 'libtpu'); install it with: pip install -e '.[tpu]'"
    ) from error
  from experts import programs

  devices = topologies.devices(topology)
  limit = int(kind.memory_gib * 2**30)
  todo = programs.programs(config, devices, limit)
  rows = []
  started = time.monotonic()
  for number, program in enumerate(todo, 1):
    _say(f'{number}/{len(todo)} {program.name}: compiles', started)
    rows.append(_row(config, devices, limit, program, started))
  result = report.record(topology, kind, len(devices), rows)
  if json_path:
    files.write_json(result, json_path)
  print(report.text(result), end='')
  return 0 if result['fits'] else 1


def _row(config, devices, limit, program, started):
  batch = _field(config, program.batch_field)
  try:
    costs = measure.costs(program.function, program.arguments)
    return report.Row(program, batch, costs, costs.total_gib)
  except measure.OutOfMemoryError as error:
    needed = error.needed_gib
  step = measure.batch_step(batch, program.mesh.shape['data'])
  other = functools.partial(_needed, config, devices, limit, program, started)
  largest = measure.largest_batch(other, batch, step, needed, limit / 2**30)
  return report.Row(program, batch, None, needed, largest, step)


def _needed(config, devices, limit, program, started, batch):
  """GiB a device of the same program with another batch."""
  from experts import programs

  _say(f'{program.name}: does not fit; tries {program.batch_field}={batch}', started)
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict({program.batch_field: batch})
  # Another batch may split the population into other rounds, 'step of 32' and 'step of 18' instead of 'step'.
  kind = program.name.split(' of ')[0]
  return max(
    _memory(other)
    for other in programs.programs(changed, devices, limit)
    if other.name.split(' of ')[0] == kind
  )


def _memory(program):
  try:
    return measure.costs(program.function, program.arguments).total_gib
  except measure.OutOfMemoryError as error:
    return error.needed_gib


def _field(config, path):
  return functools.reduce(lambda section, name: section[name], path.split('.'), config)


def _say(message, started):
  print(f'[{time.monotonic() - started:4.0f} s] {message}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  with entry.guard():
    absl_app.run(main, flags_parser=app.parse_flags)
