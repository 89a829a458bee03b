"""The kinds of a config's fields: what each accepts, and what to say of the rest."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experts.training import optim


@dataclasses.dataclass(frozen=True)
class Field:
  """One leaf of a config: its type, the values it accepts, and what to say of others."""

  kind: type
  accepts: Callable[[Any], bool] = lambda value: True
  rule: str = ''


@dataclasses.dataclass(frozen=True)
class Each:
  """A section with keys of the user's choice, all of one schema."""

  schema: Mapping[str, Any]


def integer(low: int) -> Field:
  return Field(int, lambda v: v >= low, f'a whole number of at least {low}')


def number(low: float, high: float = float('inf')) -> Field:
  return Field(float, lambda v: low <= v <= high, f'a number from {low:g} to {high:g}')


def positive() -> Field:
  return Field(float, lambda v: 0 < v < float('inf'), 'a number above 0')


def choice(*options: str) -> Field:
  return Field(str, lambda v: v in options, 'one of ' + ', '.join(map(repr, options)))


def some_of(*options: str) -> Field:
  return Field(
    tuple,
    lambda v: len(set(v)) == len(v) and set(v) <= set(options),
    'distinct values of ' + ', '.join(map(repr, options)),
  )


def numbers(low: float, high: float) -> Field:
  return Field(
    tuple,
    lambda v: all(isinstance(x, (int, float)) and low < x <= high for x in v),
    f'numbers above {low:g} and up to {high:g}',
  )


def at_least_one(low: float) -> Field:
  return Field(
    tuple,
    lambda v: (
      len(v) > 0 and all(isinstance(x, (int, float)) and low <= x < float('inf') for x in v)
    ),
    f'at least one number of {low:g} or more',
  )


def duration(*units: str, above_zero: bool = True) -> Field:
  def accepts(value: Any) -> bool:
    try:
      amount, unit = optim.parse_duration(value)
    except (TypeError, ValueError):
      return False
    return unit in units and (amount > 0 or not above_zero)

  rule = (
    f"a number{' above 0' * above_zero} and a unit ({', '.join(units)}), such as '30 {units[0]}'"
  )
  return Field(str, accepts, rule)


def parsed_by(parse: Callable[[str], Any]) -> Callable[[Any], bool]:
  def accepts(value: Any) -> bool:
    try:
      parse(value)
    except ValueError:
      return False
    return True

  return accepts
