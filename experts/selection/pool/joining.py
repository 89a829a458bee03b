"""How a model joins a pool: what its weights tell of it is read from them."""

import dataclasses
import os
from typing import Any

from experts.models import kinds
from experts.selection import pool


def add(
  path: str | os.PathLike,
  name: str,
  kind: str,
  source: str,
  backbone: str | None = None,
  parameters: int | None = None,
  **known: Any,
) -> pool.Member:
  """Adds a model to a pool file, which is made if it is not there.

  Its hash, dimension and number of parameters come from its weights.

  Args:
    path: of the pool file.
    name: of the model.
    kind: of `models.kinds.KINDS`.
    source: weights file or folder, or a callable's module:function.
    backbone: weights file of an adapter expert's baseline.
    parameters: number of them, where the weights do not tell: callables, embeddings, SavedModels of constants.
    **known: other fields of `pool.Member`.

  Raises:
    FileNotFoundError: no such weights.
    ValueError: the pool has such a name, the weights do not fit the kind, or something must be said that they do not
      tell.
  """
  members, settings = [], {}
  if os.path.exists(path):
    members, settings = pool.read(path), pool.read_model(path)
  folder = os.path.dirname(os.path.abspath(path))
  here = lambda file: file and os.path.relpath(os.path.abspath(file), folder)
  member = pool.Member(
    name=name,
    kind=kind,
    weights=source if kind == 'callable' else here(source),
    backbone=here(backbone),
    parameters=parameters or 0,
    **{'upstream': '', 'slice': None, 'images': 0, 'dimension': 0, 'hash': ''} | known,
  )
  family = kinds.KINDS[kind].family
  found, settings = family.examine(member, folder, settings)
  if parameters is None and 'parameters' not in found:
    found['parameters'] = family.count(member, folder)
  member = dataclasses.replace(member, **found)
  pool.write(path, [*members, member], settings)
  return member
