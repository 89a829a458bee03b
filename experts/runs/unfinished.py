"""Where the checkpoints of trials are until the rows of the trials are written."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from experts.training import hosts


def folder(workdir: str, *names: str) -> str:
  """Of everything that is unfinished under these names."""
  safe = [''.join(c if c.isalnum() or c in '-_.' else '_' for c in name) for name in names]
  return '/'.join([workdir, 'unfinished', *safe])


def trials(where: str, steps: int, decides: Mapping[str, Any]) -> str:
  """Of trials of so many steps, named by all that decides what they are: no others are gone on from."""
  digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode())
  return f'{where}/{steps}-{digest.hexdigest()[:16]}'


def forget(where: str) -> None:
  """Removes what is there, what another config left included, and the folders above it that are then empty."""
  if hosts.first() and os.path.isdir(where):
    shutil.rmtree(where, ignore_errors=True)
    with contextlib.suppress(OSError):
      os.removedirs(os.path.dirname(where))
