"""TFRecord files read at random without TensorFlow, which reads them in order only and takes 10 s to import."""

import functools
import os
import struct
from collections.abc import Sequence
from typing import Protocol

import numpy as np

# A record is its length, a checksum of that, the bytes, and a checksum of those.
_LENGTH = struct.Struct('<Q')
_HEAD, _TAIL = 12, 4


class Part(Protocol):
  """A run of a file's records, as TFDS's FileInstruction names it."""

  filename: str
  skip: int
  take: int


class Records(Sequence[bytes]):
  """The records of some parts of files, one part after the other.

  Where they lie in a file is found at the first record asked of it, by its lengths alone; what stays in memory is 16
  bytes a record. Any number of threads may read.
  """

  def __init__(self, parts: Sequence[Part]):
    self._parts = list(parts)
    self._ends = np.cumsum([part.take for part in self._parts])
    self._places = functools.cache(lambda i: _places(self._parts[i]))

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> bytes:
    """A record; raises ValueError where the file is cut short, and IndexError past the end."""
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    which = int(np.searchsorted(self._ends, index, side='right'))
    row = index - int(self._ends[which]) + self._parts[which].take
    start, length = (int(value) for value in self._places(which)[row])
    # Opened anew, for the files of 19 tasks together may be more than a process may hold open.
    with open(self._parts[which].filename, 'rb', buffering=0) as file:
      return os.pread(file.fileno(), length, start)


def _places(part: Part) -> np.ndarray:
  """Start and length of each record of a part, int64 [take, 2]."""
  places = np.empty((part.skip + part.take, 2), np.int64)
  size = os.path.getsize(part.filename)
  position = 0
  with open(part.filename, 'rb', buffering=0) as file:
    for row in range(len(places)):
      head = os.pread(file.fileno(), _LENGTH.size, position)
      length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else size
      if position + _HEAD + length + _TAIL > size:
        raise ValueError(
          f'{part.filename}: ends within record {row} of {len(places)}, or is damaged: remove its folder and prepare'
          ' the data set again'
        )
      places[row] = position + _HEAD, length
      position += _HEAD + length + _TAIL
  return places[part.skip :]
