"""The pool file: the models that a task may choose from, and where their weights are."""

import collections
import dataclasses
import json
import os
import pathlib
import re
import tempfile
import typing
from collections.abc import Mapping, Sequence

from experts.models.kinds import KINDS

# Kinds of experts.
EXPERTS = ('full', 'adapter')
# Roles that are there to be compared with, and are never chosen: `Member.role`.
CONTROLS = ('random', 'checkpoint', 'control')
# An expert on as many random images as the node behind this has ([EXP] App. G).
RANDOM_SLICE = 'random like '
# The competitor's rows in trials.csv, which is no model of a pool.
COMPETITOR = 'dat'
_LONGEST_NAME = 200


@dataclasses.dataclass(frozen=True)
class Member:
  """One model of a pool.

  Attributes:
    name: unique in the pool.
    kind: `random` (initialised, never trained), `baseline`, `checkpoint` (the baseline, before its training ended), `full`
      or `adapter` expert; `bit` (published weights), `timm` (networks of timm), `torch` (modules of torch), `saved_model`
      (of TensorFlow, images in [0, 1] -> [B, D]), `callable` (Python: uint8 images [B, S, S, 3] -> embeddings [B, D], or a
      pair of them and class probabilities [B, C]),
      `embeddings` (computed elsewhere).
    upstream: data set it was trained on; empty for a random network.
    slice: the expert's part of the upstream data; None if it saw all or nothing.
    images: upstream images it was trained on; 0 if unknown.
    parameters: number of parameters, the head's left out.
    dimension: of the embedding.
    weights: file, relative to the pool file. An adapter expert's holds its adapter tree alone; a SavedModel's is a folder, a
      callable's `module:function`, that of embeddings an .npz file with an array [N, D] under each task's name.
    hash: of the weights' content, of a network of timm or torch also of what makes another function of them. A callable's is any word that changes with what it computes, or empty: then its
      embeddings are not cached.
    backbone: for an adapter expert, the weights file of the baseline it sits on; None for the others.
    trained_from: for an expert, the hash of the baseline that it started from.
    definition: of the slice's node, where the hierarchy has one.
    labels: class -> upstream images of it that the model was trained on; what label matching compares ([EXP] App. B).
    imagenet_accuracy: top-1 in [0, 1] if known.
    size: side of the images it takes, pixels; None: that of the pool's 'model'.
    resize: side before the central crop, with a `size` of its own; None: no crop.
    interpolation: how its images are resized, of `INTERPOLATIONS`.
    antialias: whether a pixel of a smaller image is made of all that it covers.
    keep_aspect: whether the shorter side becomes `resize`, instead of both.
    architecture: of a `timm` or `torch` network, timm's name; of a `torch` network else the module:function that makes it.
    arguments: of such a network, what timm's class or the function is given besides, such as {'pad_type': 'same'}.
    mean: of the channels of such a network's images in [0, 1], which is subtracted.
    std: of those channels, by which is divided.
    licence: under which its weights may be used, as their publisher names it; None if unknown.
    gflops: 10⁹ operations of one image's embedding, multiplications and additions counted each.
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
  size: int | None = None
  resize: int | None = None
  interpolation: str = 'bilinear'
  antialias: bool = False
  keep_aspect: bool = False
  architecture: str | None = None
  arguments: dict | None = None
  mean: list | None = None
  std: list | None = None
  licence: str | None = None
  gflops: float | None = None

  @property
  def role(self) -> str:
    """The kind as results have it: that of an expert on a random slice is 'control'."""
    return 'control' if (self.slice or '').startswith(RANDOM_SLICE) else self.kind

  @property
  def competes(self) -> bool:
    """Whether a strategy may choose it; controls are only compared with."""
    return self.role not in CONTROLS

  @property
  def commercial(self) -> bool:
    """Whether its licence, as far as it is known by its name, allows commercial use."""
    return not _NON_COMMERCIAL.search(re.sub(r'[_\s]', '-', self.licence or ''))

  @property
  def trainable(self) -> bool:
    """Whether it can be fine-tuned here; of the others only embeddings are known."""
    return KINDS[self.kind].trains


# How a network's images may be resized.
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'lanczos')
_RARE = (
  'interpolation', 'antialias', 'keep_aspect', 'architecture', 'arguments', 'mean', 'std', 'licence', 'gflops',
)  # fmt: skip
# Words of licences for research alone.
_NON_COMMERCIAL = re.compile(r'\bnc\b|non-?commercial|research|amlr|nvcl', re.IGNORECASE)
_TYPES = typing.get_type_hints(Member)


def read(path: str | os.PathLike) -> list[Member]:
  """Reads the members of a pool file, in their order.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a pool file, unknown or missing fields, unknown kinds, or a name used twice.
  """
  content = _read_json(path)
  members = [_member(path, i, entry) for i, entry in enumerate(content['members'])]
  _check(path, members, content['model'])
  return members


def read_model(path: str | os.PathLike) -> dict[str, object]:
  """Reads what our own networks of a pool have in common, such as depth and width; {} if there are none.

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
    model: see `read_model`.

  Raises:
    ValueError: unknown kinds, inconsistent members, or a name used twice.
    OSError: the file cannot be written.
  """
  path = pathlib.Path(path)
  _check(path, members, model)
  content = {'model': dict(model), 'members': [_entry(m) for m in members]}
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


def filter(
  members: Sequence[Member],
  max_parameters: int = 0,
  max_dimension: int = 0,
  upstream: str = '',
  kinds: Sequence[str] = (),
  max_gflops: float = 0,
  licences: Sequence[str] = (),
) -> list[Member]:
  """Returns the members that pass all the limits that are given, in their order.

  The pools of [WHICH]: ResNet-50 is `max_parameters=23_500_352` (25_000_000 where adapters count too), Dim2048
  `max_dimension=2048`, Expert `kinds=('full', 'adapter')`, ImNetAccuracies `upstream=` the pool's name for ImageNet
  (ILSVRC-2012), All no limit.

  Args:
    members: of the pool.
    max_parameters: most that a member may have; 0 for any number.
    max_dimension: of the embedding; 0 for any.
    upstream: the data set that it was trained on; empty for any.
    kinds: of `models.kinds.KINDS`; empty for all.
    max_gflops: 10⁹ operations of an image's embedding; 0 for any number. One whose number is unknown does not pass.
    licences: names of licences, in any case; empty for any, and for none that is known.

  Raises:
    ValueError: no member is left, or an unknown kind.
  """
  allowed = {name.lower() for name in licences}
  limits = {
    f'max_parameters={max_parameters}': lambda m: (
      not max_parameters or m.parameters <= max_parameters
    ),
    f'max_dimension={max_dimension}': lambda m: not max_dimension or m.dimension <= max_dimension,
    f'upstream={upstream!r}': lambda m: not upstream or m.upstream == upstream,
    f'kinds={",".join(kinds)}': lambda m: not kinds or m.kind in kinds,
    f'max_gflops={max_gflops:g}': lambda m: not max_gflops or 0 < (m.gflops or 0) <= max_gflops,
    f'licences={",".join(licences)}': lambda m: (
      not licences or (m.licence or '').lower() in allowed
    ),
  }
  if unknown := sorted(set(kinds) - set(KINDS)):
    raise ValueError(f'unknown kinds {", ".join(unknown)}; known: {", ".join(KINDS)}')
  left = [m for m in members if all(passes(m) for passes in limits.values())]
  if not left:
    counts = {text: sum(map(passes, members)) for text, passes in limits.items()}
    known = {
      'upstreams': sorted({m.upstream for m in members}),
      'kinds': sorted({m.kind for m in members}),
      **({'licences': sorted({m.licence or 'unknown' for m in members})} if licences else {}),
    }
    raise ValueError(
      f'no model of {len(members)} is left by '
      + ', '.join(f'{text} (passes {n})' for text, n in counts.items() if n < len(members))
      + ''.join(f'; {name}: {", ".join(map(repr, values))}' for name, values in known.items())
    )
  return left


def name_fault(name: str) -> str:
  """Why a name cannot stand in files and their names; empty if it can."""
  if not name.strip():
    return 'is empty'
  if not name.isprintable():
    return 'has characters that cannot be printed'
  if {'.', '..', ''} & set(name.split('/')):
    return "would be a path out of the workdir: no '.', '..' or nothing between slashes"
  if len(name.encode()) > _LONGEST_NAME:
    return f'is longer than {_LONGEST_NAME} bytes'
  return ''


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


def check_types(member: Member, label: str) -> None:
  """Refuses a member one of whose fields is of another type than it must be; `label` begins the message.

  Raises:
    ValueError: names the field.
  """
  for name, expected in _TYPES.items():
    value = getattr(member, name)
    if not isinstance(value, expected):
      raise ValueError(
        f'{label}: {name} {value!r} must be {getattr(expected, "__name__", expected)}'
      )
  for name in ('mean', 'std'):
    values = getattr(member, name)
    if values and not (
      len(values) == 3
      and all(
        isinstance(x, int | float) and (0 if name == 'mean' else 1e-6) <= x <= 1 for x in values
      )
    ):
      raise ValueError(f'{label}: {name} {values!r} must be three numbers of images in [0, 1]')
  if member.imagenet_accuracy is not None and not 0 <= member.imagenet_accuracy <= 1:
    raise ValueError(f'{label}: imagenet_accuracy {member.imagenet_accuracy} must be in [0, 1]')
  if member.interpolation not in INTERPOLATIONS:
    raise ValueError(
      f'{label}: interpolation {member.interpolation!r} must be one of {", ".join(INTERPOLATIONS)}'
    )
  for name in ('size', 'resize', 'images'):
    if (getattr(member, name) or 0) < 0:
      raise ValueError(f'{label}: {name} {getattr(member, name)} is below 0')


def _entry(member: Member) -> dict[str, object]:
  """What a file has of a member: of the fields that few have only those that say something."""
  return {
    field.name: getattr(member, field.name)
    for field in dataclasses.fields(member)
    if field.name not in _RARE or getattr(member, field.name) != field.default
  }


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


def _check(path: str | os.PathLike, members: Sequence[Member], model: Mapping[str, object]) -> None:
  for member in members:
    label = f'pool {path}: member {member.name}'
    check_types(member, label)
    if fault := name_fault(member.name):
      raise ValueError(f'pool {path}: the name {member.name!r} {fault}')
    if member.name == COMPETITOR:
      raise ValueError(
        f'pool {path}: {COMPETITOR!r} is what the results call domain-adaptive transfer; name the model otherwise'
      )
    if member.kind not in KINDS:
      raise ValueError(f"{label} has the unknown kind '{member.kind}'; known: {', '.join(KINDS)}")
    if (member.kind == 'adapter') != (member.backbone is not None):
      raise ValueError(
        f"{label}: kind '{member.kind}' with backbone {member.backbone!r}; adapters need one, others none"
      )
    if not member.hash and member.kind != 'callable':
      raise ValueError(f'{label} has no hash; only a callable may go without')
    if KINDS[member.kind].shared and 'depth' not in model:
      raise ValueError(f"{label}: kind '{member.kind}' needs the pool's 'model', which is empty")
    described = [member.architecture, member.mean, member.std]
    if member.kind in ('timm', 'torch') and not all(described):
      raise ValueError(
        f'{label}: a network of kind {member.kind!r} needs architecture, mean and std'
      )
    if member.resize and not member.size:
      raise ValueError(f'{label}: resize {member.resize} without a size')
    if member.kind != 'embeddings' and not (member.size or model.get('size')):
      raise ValueError(f"{label} has no image size: give it one, or the pool's 'model'")
    if member.resize and member.resize < (member.size or 0):
      raise ValueError(f'{label}: resize {member.resize} is below size {member.size}')
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
