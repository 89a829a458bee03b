"""The tables and the JSON file of a dry run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tabulate

from launch.dry_run.measure import Costs
from launch.dry_run.topologies import Generation


@dataclasses.dataclass(frozen=True)
class Row:
  """One program and what it needs.

  Attributes:
    program: an `experts.programs.Program`.
    batch: the value of its batch field.
    costs: None where it does not fit.
    needed_gib: on a device.
    largest_batch: that fits, where this one does not; 0 where none does.
    batch_step: of the batches that were to choose from.
  """

  program: Any
  batch: int
  costs: Costs | None
  needed_gib: float
  largest_batch: int | None = None
  batch_step: int | None = None


def record(topology: str, kind: Generation, devices: int, rows: Sequence[Row]) -> dict[str, Any]:
  """Everything that was found, with units in the names, as it goes into the JSON file."""
  programs = [_program(row, kind) for row in rows]
  hours = {}
  for program in programs:
    known = hours.get(program['phase'], 0.0)
    one = program['phase_hours']
    hours[program['phase']] = None if known is None or one is None else known + one
  return {
    'topology': topology,
    'devices': devices,
    'device': kind.unit,
    'memory_limit_gib': kind.memory_gib,
    'peak_bf16_flops_per_second': kind.peak_flops,
    'fits': all(row.costs for row in rows),
    'programs': programs,
    'hours_by_phase': hours,
  }


def _program(row, kind):
  program, costs = row.program, row.costs
  fields = {
    'name': program.name,
    'phase': program.phase,
    'mesh': dict(program.mesh.shape),
    'mesh_reason': program.reason,
    'calls': program.calls,
    'images_per_call': program.images,
    'batch_field': program.batch_field,
    'batch': row.batch,
    'fits': costs is not None,
    'total_gib': row.needed_gib,
    'over_by_gib': max(0.0, row.needed_gib - kind.memory_gib),
    'largest_batch_that_fits': row.largest_batch,
    'batch_step': row.batch_step,
    'phase_hours': None,
  }
  if costs is None:
    return fields
  return {
    **fields,
    'argument_gib': costs.argument_gib,
    'output_gib': costs.output_gib,
    'temporary_gib': costs.temporary_gib,
    'flops_per_device': costs.flops,
    'bytes_per_device': costs.bytes,
    'estimated_step_milliseconds': 1e3 * costs.seconds,
    'loop_factor': costs.loop_factor,
    'loops_of_unknown_length': costs.unknown_loops,
    'model_flops': costs.model_flops,
    # Of the devices that run it: the models of a pool are embedded by each host for itself.
    'model_flop_utilisation': costs.model_flops
    / (row.program.mesh.size * kind.peak_flops * costs.seconds),
    'images_per_second': program.images / costs.seconds,
    'collectives': [dataclasses.asdict(collective) for collective in costs.collectives],
    'phase_hours': program.calls * costs.seconds / 3600,
  }


def text(result: Mapping[str, Any]) -> str:
  """The tables, for a person."""
  unit, limit = result['device'], result['memory_limit_gib']
  parts = [
    f'{result["topology"]}: {result["devices"]} devices (each a {unit} with {limit:.2f} GiB for programs and '
    f'{result["peak_bf16_flops_per_second"] / 1e12:g} bfloat16 TFLOP/s at most)',
    _table(result['programs'], unit),
    _collectives(result['programs'], unit),
    '\n'.join(_mesh(program) for program in result['programs']),
    _hours(result['hours_by_phase']),
    _notes(result['programs'], unit),
  ]
  problems = [
    verdict(program, limit, unit) for program in result['programs'] if not program['fits']
  ]
  return '\n\n'.join(part for part in [*parts, *problems] if part) + '\n'


def _table(programs, unit):
  rows = [
    [
      program['name'],
      *(_number(program, key, '.3f') for key in ('argument_gib', 'output_gib', 'temporary_gib')),
      f'{program["total_gib"]:.3f}',
      'yes' if program['fits'] else 'NO',
      _number(program, 'flops_per_device', '.1f', 1e9),
      _number(program, 'bytes_per_device', '.2f', 1e9),
      _number(program, 'estimated_step_milliseconds', '.2f'),
      _number(program, 'model_flop_utilisation', '.1f', 0.01),
      _number(program, 'images_per_second', ',.0f'),
      f'{program["calls"]:,}',
      _number(program, 'phase_hours', '.2f'),
    ]
    for program in programs
  ]
  headers = [
    'program',
    f'arguments\nGiB/{unit}',
    f'outputs\nGiB/{unit}',
    f'temporaries\nGiB/{unit}',
    f'total\nGiB/{unit}',
    'fits',
    f'GFLOP\na {unit}',
    f'GB moved\na {unit}',
    'estimated\nms a call',
    'utilisation\n% of peak',
    'images/s',
    'calls',
    'hours',
  ]
  return tabulate.tabulate(rows, headers, disable_numparse=True, colalign=['left'] + ['right'] * 12)


def _number(program, key, form, scale=1.0):
  return format(program[key] / scale, form) if key in program and program[key] is not None else ''


def _collectives(programs, unit):
  rows = [
    [program['name'], each['kind'], each['count'], f'{each["bytes"] / 1e6:.4g}']
    for program in programs
    for each in program.get('collectives', [])
  ]
  headers = ['program', 'collective', 'times a call', f'MB a call and {unit}']
  return tabulate.tabulate(rows, headers, disable_numparse=True) if rows else 'No collectives.'


def _mesh(program):
  sizes = ' × '.join(f'{size} {axis}' for axis, size in program['mesh'].items())
  return f'{program["name"]}: mesh {sizes}: {program["mesh_reason"]}'


def _hours(hours):
  said = [f'{name} {"?" if each is None else f"{each:.2f}"} h' for name, each in hours.items()]
  return 'By the estimate, without input, start and checkpoints: ' + ', '.join(said)


def _notes(programs, unit):
  notes = [
    f'FLOP, bytes and estimate are the compiler\'s, for one {unit}. The estimate takes for each operation the time of its '
    'arithmetic or of its memory traffic, whichever is longer, and of an exchange its memory traffic only: a lower bound. '
    'Utilisation counts convolutions and matrix products of the program as written.'
  ]  # fmt: skip
  looped = [f'{p["name"]} ×{p["loop_factor"]:.2f}' for p in programs if p.get('loop_factor', 1) > 1]
  if looped:
    notes.append(
      'The compiler counts a loop once; corrected by the loops\' lengths: ' + ', '.join(looped)
    )  # fmt: skip
  unknown = [p['name'] for p in programs if p.get('loops_of_unknown_length')]
  if unknown:
    notes.append('Too low, as the length of a loop is not known: ' + ', '.join(unknown))
  return '\n'.join(notes)


def verdict(program: Mapping[str, Any], limit: float, unit: str) -> str:
  """One line on a program that does not fit."""
  line = (
    f'{program["name"]} does not fit: it needs {program["total_gib"]:.2f} GiB a {unit}, '
    f'{program["over_by_gib"]:.2f} GiB more than the {limit:.2f} there are, with {program["batch_field"]}={program["batch"]}'
  )
  if program['largest_batch_that_fits']:
    return f'{line}; the largest that fits is {program["largest_batch_that_fits"]}, in steps of {program["batch_step"]}'
  return f'{line}; no smaller batch fits'
