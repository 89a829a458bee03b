"""Names of files, folders and classes in messages."""

import os
import re
from collections.abc import Iterable

_NAMED = 5
# Those that only join letters, as in Persian or in emoji, are none.
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029]')


def printable(name: str) -> str:
  """A name that can be written anywhere: bytes that are no UTF-8 are spelled out, such as 'caf\\xe9', and control
  characters, such as a new line, with which a name would move the terminal's cursor or end a line of a table.
  """
  text = os.fsencode(name).decode('utf-8', 'backslashreplace')
  return _CONTROL.sub(lambda found: found[0].encode('unicode_escape').decode(), text)


def some(names: Iterable[str]) -> str:
  """The first of many names."""
  names = list(names)
  more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
  return ', '.join(names[:_NAMED]) + more
