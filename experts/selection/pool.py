"""The pool file: the models that a task may choose from, and where their weights are."""

import collections
import dataclasses
import json
import os
import pathlib
import tempfile
import typing
from collections.abc import Mapping, Sequence

KINDS = ('random', 'baseline', 'checkpoint', 'full', 'adapter', 'bit')


@dataclasses.dataclass(frozen=True)
class Member:
  """One model of a pool.

  Attributes:
    name: unique in the pool.
    kind: `random` (initialised, never trained), `baseline`, `checkpoint` (the baseline, before its training ended), `full`
      or `adapter` expert, `bit` (published weights).
    upstream: data set it was trained on; empty for a random network.
    slice: the expert's part of the upstream data; None if it saw all or nothing.
    images: upstream images it was trained on.
    parameters: number of parameters, the head's left out.
    dimension: of the embedding.
    weights: file, relative to the pool file. An adapter expert's holds its adapter tree alone.
    hash: of the weights' content.
    backbone: for an adapter expert, the weights file of the baseline it sits on; None for the others.
    trained_from: for an expert, the hash of the baseline that it started from.
    definition: of the slice's node, where the hierarchy has one.
    labels: class -> upstream images of it that the model was trained on; what label matching compares ([EXP] App. B).
    imagenet_accuracy: top-1 in [0, 1] if known.
  """

  name: str
  kind: str
  upstream: str
  slice: str | None
  images: int
  parameters: int
  dimension: int
  weights: str
  hash: str
  backbone: str | None = None
  trained_from: str | None = None
  definition: str | None = None
  labels: dict | None = None
  imagenet_accuracy: float | None = None


_TYPES = typing.get_type_hints(Member)


def read(path: str | os.PathLike) -> list[Member]:
  """Reads the members of a pool file, in their order.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a pool file, unknown or missing fields, unknown kinds, or a name used twice.
  """
  members = [_member(path, i, entry) for i, entry in enumerate(_read_json(path)['members'])]
  _check(path, members)
  return members


def read_model(path: str | os.PathLike) -> dict[str, object]:
  """Reads what all members have in common: the arguments of their model, such as depth and width.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a pool file.
  """
  return _read_json(path)['model']


def write(path: str | os.PathLike, members: Sequence[Member], model: Mapping[str, object]) -> None:
  """Writes a pool file, whole or not at all.

  Args:
    path: the file; its directory exists.
    members: in the order to keep.
    model: arguments of the members' model, as JSON can hold them.

  Raises:
    ValueError: unknown kinds, inconsistent members, or a name used twice.
    OSError: the file cannot be written.
  """
  path = pathlib.Path(path)
  _check(path, members)
  content = {'model': dict(model), 'members': [dataclasses.asdict(m) for m in members]}
  text = json.dumps(content, indent=2) + '\n'
  # Beside the target, since a rename is atomic only within one file system.
  with tempfile.NamedTemporaryFile(
    'w', encoding='utf-8', dir=path.parent, prefix=f'.{path.name}.', delete=False
  ) as file:
    try:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
      os.fchmod(file.fileno(), 0o644)
      os.replace(file.name, path)
    except BaseException:
      os.unlink(file.name)
      raise


def _read_json(path: str | os.PathLike) -> dict[str, object]:
  try:
    content = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise FileNotFoundError(
      f"no pool at {path}; the phases 'upstream' and 'experts' write one into their workdir"
    ) from None
  except ValueError as error:
    raise ValueError(f'pool {path} is no JSON file: {error}') from None
  if (
    not isinstance(content, dict)
    or not isinstance(content.get('members'), list)
    or not isinstance(content.get('model'), dict)
  ):
    raise ValueError(f"pool {path} must hold an object 'model' and a list 'members'")
  return content


def _member(path: str | os.PathLike, index: int, entry: object) -> Member:
  if not isinstance(entry, dict):
    raise ValueError(f'pool {path}: member {index} must be an object, not {entry!r}')
  label = f'pool {path}: member {index} ({entry.get("name", "without name")})'
  unknown = sorted(entry.keys() - _TYPES.keys())
  if unknown:
    raise ValueError(f'{label} has unknown fields {", ".join(unknown)}; known: {", ".join(_TYPES)}')
  missing = [name for name in _TYPES if name not in entry and not hasattr(Member, name)]
  if missing:
    raise ValueError(f'{label} lacks the fields {", ".join(missing)}')
  return Member(**entry)


def _check(path: str | os.PathLike, members: Sequence[Member]) -> None:
  for member in members:
    label = f'pool {path}: member {member.name}'
    for name, expected in _TYPES.items():
      value = getattr(member, name)
      if not isinstance(value, expected):
        raise ValueError(
          f'{label}: {name} {value!r} must be {getattr(expected, "__name__", expected)}'
        )
    if member.kind not in KINDS:
      raise ValueError(f"{label} has the unknown kind '{member.kind}'; known: {', '.join(KINDS)}")
    if (member.kind == 'adapter') != (member.backbone is not None):
      raise ValueError(
        f"{label}: kind '{member.kind}' with backbone {member.backbone!r}; adapters need one, others none"
      )
  baselines = {member.hash: member.name for member in members if member.kind == 'baseline'}
  for member in members:
    if baselines and member.trained_from and member.trained_from not in baselines:
      raise ValueError(
        f'pool {path}: member {member.name} was trained from a baseline with the hash {member.trained_from}, which is not '
        f'that of {", ".join(baselines.values())} ({", ".join(baselines)}): train it anew, or keep pools apart'
      )
  counts = collections.Counter(member.name for member in members)
  twice = [name for name, count in counts.items() if count > 1]
  if twice:
    raise ValueError(f'pool {path} has several members named {", ".join(twice)}; names must differ')
