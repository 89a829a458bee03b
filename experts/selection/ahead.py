"""Work that threads do while what they did before is used."""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures


def read_ahead(load: Callable, units: Sequence, readers: int) -> Iterator[tuple]:
  """Yields each unit and what `load` makes of it, while threads load the next ones."""
  with futures.ThreadPoolExecutor(readers, 'weights') as threads:
    coming = collections.deque(threads.submit(load, unit) for unit in units[:readers])
    for unit, following in itertools.zip_longest(units, units[readers:]):
      loaded = coming.popleft().result()
      if following:
        coming.append(threads.submit(load, following))
      yield unit, loaded
      del loaded


def one_ahead(stream: Iterator) -> Iterator:
  """The same, each drawn in a thread while the one before it is used."""
  end = object()
  try:
    with futures.ThreadPoolExecutor(1, 'embeddings') as thread:
      coming = thread.submit(next, stream, end)
      while (found := coming.result()) is not end:
        coming = thread.submit(next, stream, end)
        yield found
        del found
  finally:
    stream.close()
