"""Which examples a member sees, in which order, and the seeds of all that is random."""

import dataclasses
import zlib

import numpy as np

from experts.data import orders
from experts.data.dataset import Dataset
from experts.runs.description import Config


@dataclasses.dataclass(frozen=True)
class Stream:
  """The data of one member: the examples it sees, in which order, and the seed of that and of their augmentation."""

  name: str
  dataset: Dataset
  indices: np.ndarray
  seed: int
  order: orders.Order = orders.shuffled


def seed_of(config: Config, *names: str) -> int:
  """A seed that depends on what it is for, never on the place in a list."""
  digests = [zlib.crc32(name.encode()) for name in names]
  return int(np.random.SeedSequence([config.seed, *digests]).generate_state(1)[0])
