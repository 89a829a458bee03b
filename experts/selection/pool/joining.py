"""How models join a pool: what their weights tell of them is read from them."""

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experts.models import kinds
from experts.selection import pool

_FIELDS = [field.name for field in dataclasses.fields(pool.Member)]


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
    source: weights file or folder, a callable's module:function, or what else the kind finds weights by.
    backbone: weights file of an adapter expert's baseline.
    parameters: number of them, where the weights do not tell: callables, embeddings, SavedModels of constants.
    **known: other fields of `pool.Member`; those that are None are as published, or unknown.

  Raises:
    FileNotFoundError: no such weights.
    ValueError: the pool has such a name, the weights do not fit the kind, or something must be said that they do not
      tell.
  """
  given = dict(known, name=name, kind=kind, source=source, backbone=backbone, parameters=parameters)
  ((member, _),) = add_all(path, [given], again=False)
  return member


def add_all(
  path: str | os.PathLike,
  models: Sequence[Mapping[str, Any]],
  tell: Callable[[pool.Member], None] = lambda member: None,
  again: bool = True,
) -> list[tuple[pool.Member, bool]]:
  """Adds models to a pool file: all of them, or where one is at fault none.

  Args:
    path: of the pool file.
    models: the arguments of `add` for each.
    tell: called with each as soon as it was examined.
    again: whether a model may be there already, if it is the very same; it is then left as it is.

  Returns:
    The members; and of each whether it was there already, under its name and with the same content.

  Raises:
    FileNotFoundError: as `add`.
    ValueError: as `add`.
  """
  folder = os.path.dirname(os.path.abspath(path))
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'there is no folder {folder} for the pool')
  with _alone(folder):
    return _add_all(path, folder, models, tell, again)


@contextlib.contextmanager
def _alone(folder):
  """Waits until no other command adds to a pool there: each reads the file, and writes it with its own."""
  place = os.open(folder, os.O_RDONLY)
  try:
    # Where a file system knows no locks, there is none.
    with contextlib.suppress(OSError):
      fcntl.flock(place, fcntl.LOCK_EX)
    yield
  finally:
    os.close(place)


def _add_all(path, folder, models, tell, again):
  members, settings = [], {}
  if os.path.exists(path):
    members, settings = pool.read(path), pool.read_model(path)
  there = {member.name: member for member in members}
  found = []
  for given in models:
    member, settings = _examined(folder, settings, **given)
    old = there.get(member.name)
    same = again and old is not None and old.hash == member.hash
    if same and (differing := [f for f in _FIELDS if getattr(old, f) != getattr(member, f)]):
      raise ValueError(
        f'{path} has {member.name!r} with another {", ".join(differing)}: take it out of the pool first, or name it otherwise'
      )
    found.append((member, same))
    tell(member)
  pool.write(path, [*members, *(member for member, same in found if not same)], settings)
  return found


def _examined(folder, settings, *, kind, source, backbone=None, parameters=None, **known):
  """A member as its weights and what is published with them tell it, and the pool's 'model' from then on."""
  if kind not in kinds.KINDS:
    raise ValueError(f'unknown kind {kind!r}; known: {", ".join(kinds.KINDS)}')
  family = kinds.KINDS[kind].family
  source, published = family.find(source)
  # What is said goes before what is published.
  said = {name: value for name, value in known.items() if value is not None}
  if isinstance(said.get('size'), int) and published.get('resize') and 'resize' not in said:
    # The same share of the image is kept.
    said['resize'] = round(published['resize'] * said['size'] / published['size'])
  known = {**published, **said}
  # Of a file its folder's place: the file itself may be a link, as the hub's are.
  real = lambda file: os.path.join(os.path.realpath(os.path.dirname(file)), os.path.basename(file))
  here = lambda file: (
    file and os.path.relpath(real(os.path.abspath(file)), os.path.realpath(folder))
  )
  member = pool.Member(
    kind=kind,
    weights=source if kind == 'callable' else here(source),
    backbone=here(backbone),
    parameters=parameters or 0,
    **{'upstream': '', 'slice': None, 'images': 0, 'dimension': 0, 'hash': ''} | known,
  )
  pool.check_types(member, known['name'])
  found, settings = family.examine(member, folder, settings)
  if parameters is None and 'parameters' not in found:
    found['parameters'] = family.count(member, folder)
  return dataclasses.replace(member, **found), settings
