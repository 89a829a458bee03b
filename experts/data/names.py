"""Names of files, folders and classes in messages."""

import os
from collections.abc import Iterable

_NAMED = 5


def printable(name: str) -> str:
  """A name whose bytes that are no UTF-8 are spelled out, such as 'caf\\xe9', so that it can be written anywhere."""
  return os.fsencode(name).decode('utf-8', 'backslashreplace')


def some(names: Iterable[str]) -> str:
  """The first of many names."""
  names = list(names)
  more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
  return ', '.join(names[:_NAMED]) + more
