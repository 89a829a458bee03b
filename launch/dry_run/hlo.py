"""Reads what a compiled program's text says of its collectives and loops."""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')

_HEADER = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{\s*$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$')
_SHAPE = re.compile(r'\b([a-z]+\d+\w*|pred)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIP_COUNT = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# The compiler's mark for an instruction whose cycles it did not estimate.
_NO_ESTIMATE = 2**53


@dataclasses.dataclass(frozen=True)
class Collective:
  """Exchanges of one kind.

  Attributes:
    kind: one of `KINDS`.
    count: how often in one call of the program.
    bytes: that a device hands in or gets, whichever is more, in all of them.
  """

  kind: str
  count: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  result: str
  operation: str
  rest: str

  @property
  def operands(self):
    # Closing the list of operands, as types within it are not written here.
    return re.findall(r'%([\w.-]+)', self.rest.split(')')[0])


class Program:
  """A compiled module, from `compiled.as_text()`."""

  def __init__(self, text: str):
    self._entry, self._computations = '', {}
    lines = []
    for line in text.splitlines():
      if header := _HEADER.match(line):
        lines = self._computations.setdefault(header[2], [])
        if header[1]:
          self._entry = header[2]
      elif found := _INSTRUCTION.match(line):
        lines.append(_Instruction(*found.groups()[1:]))
    if not self._entry:
      raise ValueError('no ENTRY computation; is this the text of a compiled program?')

  @functools.cached_property
  def runs(self) -> Mapping[str, int]:
    """How often each computation runs in one call: loops by their trip counts, branches once."""
    runs = collections.Counter()

    def visit(name, times):
      runs[name] += times
      for instruction in self._computations[name]:
        inner = times * (self._trips(instruction) if instruction.operation == 'while' else 1)
        for called in _called(instruction):
          if called in self._computations:
            visit(called, inner)

    visit(self._entry, 1)
    return runs

  def collectives(self) -> list[Collective]:
    """The exchanges between devices by kind, in the order of `KINDS`; a start and its done count as one."""
    found = dict.fromkeys(KINDS, (0, 0))
    for name, times in self.runs.items():
      shapes = {line.name: line for line in self._computations[name]}
      for line in self._computations[name]:
        kind = line.operation.removesuffix('-done')
        if kind not in found:
          continue
        # Of a pair, the start takes the operands and the done has the result.
        start = shapes[line.operands[0]] if line.operation.endswith('-done') else line
        given = sum(_bytes(shapes[operand].result) for operand in start.operands)
        count, total = found[kind]
        found[kind] = count + times, total + times * max(given, _bytes(line.result))
    return [Collective(kind, *totals) for kind, totals in found.items() if totals[0]]

  def loop_factor(self) -> float:
    """By how much one call takes longer than if each loop ran once, by the compiler's cycles.

    `cost_analysis` counts the body of a loop once, as a loop's length is not always known to it.
    """
    cycles = {name: sum(map(_cycles, self._computations[name])) for name in self.runs}
    calls = collections.Counter({self._entry: 1})
    for name in self.runs:
      for line in self._computations[name]:
        calls.update(_called(line))
    once = sum(cycles[name] * calls[name] for name in self.runs)
    return sum(cycles[name] * times for name, times in self.runs.items()) / once if once else 1.0

  @functools.cached_property
  def unknown_loops(self) -> list[str]:
    """Loops whose length the program does not tell; they count once."""
    lines = [line for name in self.runs for line in self._computations[name]]
    return [line.name for line in lines if line.operation == 'while' and not self._length(line)]

  def _trips(self, loop):
    return self._length(loop) or 1

  def _length(self, loop):
    if known := _TRIP_COUNT.search(loop.rest):
      return int(known[1])
    # Else the condition compares the counter, which starts at 0, with the only constant in it.
    condition = self._computations[re.search(r'condition=%?([\w.-]+)', loop.rest)[1]]
    values = [line.rest.split(')')[0] for line in condition if line.operation == 'constant']
    return int(values[0]) if len(values) == 1 and values[0].isdigit() else None


def _called(instruction) -> Iterator[str]:
  yield from _CALLED.findall(instruction.rest)
  for branches in _BRANCHES.findall(instruction.rest):
    yield from re.findall(r'%?([\w.-]+)', branches)


def _bytes(shape):
  # Layouts repeat no shape, but memory spaces such as S(5) and tiles follow in braces.
  bare = re.sub(r'\{[^{}]*\}', '', shape)
  return sum(
    _width(kind) * _product(map(int, filter(None, sizes.split(','))))
    for kind, sizes in _SHAPE.findall(bare)
  )


def _width(kind):
  digits = re.search(r'\d+', kind)
  return max(1, int(digits[0]) // 8) if digits else 1


def _product(sizes):
  return functools.reduce(lambda a, b: a * b, sizes, 1)


def _cycles(instruction):
  found = _CYCLES.search(instruction.rest)
  cycles = int(found[1]) if found else 0
  return cycles if cycles < _NO_ESTIMATE else 0
