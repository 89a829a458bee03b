"""The 19 tasks of VTAB-1k as [EXP] and [WHICH] use them: splits, labels, images."""

import dataclasses
import difflib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from experts.data import prepared
from experts.data.dataset import Dataset
from experts.data.prepared import Example

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

GROUPS = ('natural', 'specialized', 'structured')


@dataclasses.dataclass(frozen=True)
class Task:
  """One task.

  Attributes:
    name: its VTAB name.
    group: one of GROUPS.
    tfds: NAME[/CONFIG] of its TFDS data set.
    versions: those that the protocol allows, the preferred first.
    num_classes: number of classes.
    splits: split name -> TFDS split. 'train800', 'val200', 'train800val200' and 'test' are the
      protocol's; 'train', 'validation' and 'train_validation' are the whole ones.
    counts: images of 'train', 'validation', 'train_validation' and 'test'.
    label: example -> class, derived where the data set's own label is another one.
    derived: whether it is.
    scale: by which pixels are multiplied.
  """

  name: str
  group: str
  tfds: str
  versions: tuple[str, ...]
  num_classes: int
  splits: dict[str, str]
  counts: dict[str, int]
  label: Callable[[Example], int]
  derived: bool = False
  scale: int = 1

  def image(self, example: Example, where: str = '') -> np.ndarray:
    """The image of an example, grey ones tiled: uint8 [H, W, 3] RGB."""
    return prepared.rgb(example['image'], where or f'vtab:{self.name}') * np.uint8(self.scale)


def find(name: str) -> tuple[Task, str]:
  """The task of TASK or TASK@VERSION, and that version, or ''.

  Raises:
    ValueError: no such task, or what is no version.
  """
  base, at, version = name.partition('@')
  if base not in TASKS:
    near = difflib.get_close_matches(base, TASKS, 1)
    hint = f' (did you mean {near[0]}?)' if near else ''
    raise ValueError(f'no VTAB task {base!r}{hint}; there are {", ".join(sorted(TASKS))}')
  if at and not re.fullmatch(r'\d+\.\d+\.\d+', version):
    raise ValueError(f'vtab:{name}: {version!r} is no version such as {base}@3.0.0')
  return TASKS[base], version


class OtherVersion(FileNotFoundError):
  """The data set is there, or can be prepared, but not in a version that the protocol allows.

  Attributes:
    wanted: the versions asked for, in words.
    version: the one that could be had instead.
  """

  def __init__(self, message: str, wanted: str, version: str):
    super().__init__(message)
    self.wanted = wanted
    self.version = version


def choose_builder(name: str, data_dir: str = '') -> 'tfds.core.DatasetBuilder':
  """The builder of the data set of TASK, in a version of the protocol, or of TASK@VERSION, in that.

  Raises:
    OtherVersion: only others are prepared, or can be; says what to write to have one of them.
    ValueError: an unknown task.
  """
  task, version = find(name)
  versions = (version,) if version else task.versions
  builder = prepared.choose_builder(task.tfds, versions, data_dir)
  there = prepared.prepared_versions(task.tfds, data_dir)
  if builder and (builder.info.initialized or not there):
    return builder
  other = there[-1] if there else str(prepared.load_builder(task.tfds, data_dir).version)
  wanted = ' or '.join(versions).replace('.*.*', '.*')
  have = f'prepared is {", ".join(there)}' if there else f'this TFDS builds only {other}'
  rather = f'; {prepared.how_to_prepare(builder)}' if builder else ''
  raise OtherVersion(
    f'vtab:{name} wants version {wanted} of {task.tfds}, but {have}: write vtab:{task.name}@{other} to use that,'
    f' with results that may differ from published ones{rather}',
    wanted,
    other,
  )


def open_task(name: str, split: str, data_dir: str = '') -> Dataset:
  """Opens a split of a task that TFDS has prepared.

  Args:
    name: a key of TASKS, or KEY@VERSION for a version of the data set that is not the protocol's.
    split: a key of the task's `splits`.
    data_dir: where TFDS keeps prepared data; empty: its own default.

  Raises:
    FileNotFoundError: the data set is not prepared in that version; the message says how to.
    ValueError: an unknown task or split.
  """
  task, _ = find(name)
  if split not in task.splits:
    raise ValueError(f'vtab:{name} has no split {split!r}; it has {", ".join(task.splits)}')
  builder = choose_builder(name, data_dir)
  names = tuple(map(str, range(task.num_classes)))
  if not task.derived:
    names = tuple(builder.info.features['label'].names)
    if len(names) != task.num_classes:
      raise ValueError(
        f'vtab:{name}: {builder.info.full_name} has {len(names)} classes, VTAB has {task.num_classes}'
      )
  dataset = prepared.read(
    builder, task.splits[split], f'vtab:{name} {split}', names, task.image, task.label
  )
  if len(dataset) != task.counts[split]:
    logging.warning(
      'vtab:%s %s has %d images, VTAB has %d: results will not compare with published ones',
      name, split, len(dataset), task.counts[split],
    )  # fmt: skip
  return dataset


def _plain(example: Example) -> int:
  return int(example['label'])


def _last_below(thresholds: tuple[float, ...], value: float) -> int:
  """The largest i with thresholds[i] < value, strictly."""
  return max(0, int(np.sum(np.array(thresholds) < value)) - 1)


def clevr_count(example: Example) -> int:
  """Objects in the scene, 3 to 10, from 0."""
  return len(example['objects']['size']) - 3


def clevr_distance(example: Example) -> int:
  """Depth of the object closest to the camera, in six bins."""
  depth = np.min(np.asarray(example['objects']['pixel_coords'])[:, 2], initial=np.inf)
  return _last_below((0, 8, 8.5, 9, 9.5, 10, 100), depth)


def kitti_distance(example: Example) -> int:
  """Depth in metres of the closest car, van or truck, in three bins; the fourth: none."""
  objects = example['objects']
  depth = [place[2] for kind, place in zip(objects['type'], objects['location']) if kind < 3]
  return _last_below((-100, 8, 20, 999), min([*depth, 1000]))


def dsprites_x(example: Example) -> int:
  """The 32 horizontal positions in pairs."""
  return int(example['label_x_position']) // 2


def dsprites_orientation(example: Example) -> int:
  """The 40 orientations in 16 bins."""
  return int(int(example['label_orientation']) / 2.5)


def _labelled(key: str) -> Callable[[Example], int]:
  return lambda example: int(example[key])


def _cut(size: int, end: int | None = None, test: str = 'test') -> dict[str, str]:
  """Splits where validation is cut from TFDS's 'train' at `size`."""
  last = '' if end is None else end
  return {
    'train800': 'train[:800]',
    'val200': f'train[{size}:{size + 200}]',
    'train800val200': f'train[:800]+train[{size}:{size + 200}]',
    'train': f'train[:{size}]',
    'validation': f'train[{size}:{last}]',
    'train_validation': f'train[:{last}]' if last else 'train',
    'test': test,
  }


def _own(validation: str = 'validation', whole: str = '', test: str = 'test') -> dict[str, str]:
  """Splits where TFDS has a validation split, or one is cut from 'test'."""
  whole = whole or validation
  return {
    'train800': 'train[:800]',
    'val200': f'{validation}[:200]',
    'train800val200': f'train[:800]+{validation}[:200]',
    'train': 'train',
    'validation': whole,
    'train_validation': f'train+{whole}',
    'test': test,
  }


def _task(
  name: str,
  group: str,
  tfds: str,
  splits: dict[str, str],
  counts: tuple[int, int, int, int],
  num_classes: int,
  label: Callable[[Example], int] | None = None,
  scale: int = 1,
) -> Task:
  data_set, _, versions = tfds.partition(':')
  whole = dict(zip(('train', 'validation', 'train_validation', 'test'), counts))
  return Task(
    name=name,
    group=group,
    tfds=data_set,
    versions=tuple(versions.split(',')),
    num_classes=num_classes,
    splits=splits,
    counts={'train800': 800, 'val200': 200, 'train800val200': 1000, **whole},
    label=label or _plain,
    derived=label is not None,
    scale=scale,
  )


_N, _S, _T = GROUPS
_CLEVR = 'clevr:3.*.*', _cut(63000, test='validation'), (63000, 7000, 70000, 15000)
_SPRITES = 'dsprites:2.*.*', _cut(589824, 663552, 'train[663552:]'), (589824, 73728, 663552, 73728)
_NORB = 'smallnorb:2.*.*', _own('test', 'test[:50%]', 'test[50%:]'), (24300, 12150, 36450, 12150)


TASKS = {
  task.name: task
  for task in (
    _task('caltech101', _N, 'caltech101:3.*.*', _cut(2754), (2754, 306, 3060, 6084), 102),
    _task('cifar100', _N, 'cifar100:3.*.*', _cut(45000), (45000, 5000, 50000, 10000), 100),
    _task('dtd', _N, 'dtd:3.*.*', _own(), (1880, 1880, 3760, 1880), 47),
    _task(
      'oxford_flowers102', _N, 'oxford_flowers102:2.*.*', _own(), (1020, 1020, 2040, 6149), 102
    ),
    # Today's TFDS builds 4.0.0 only.
    _task('oxford_iiit_pet', _N, 'oxford_iiit_pet:3.*.*', _cut(2944), (2944, 736, 3680, 3669), 37),
    _task('sun397', _N, 'sun397/tfds:4.*.*', _own(), (76128, 10875, 87003, 21750), 397),
    _task('svhn', _N, 'svhn_cropped:3.*.*', _cut(65931), (65931, 7326, 73257, 26032), 10),
    _task('patch_camelyon', _S, 'patch_camelyon:2.*.*', _own(), (262144, 32768, 294912, 32768), 2),
    _task(
      'eurosat',
      _S,
      'eurosat/rgb:2.*.*',
      _cut(16200, 21600, 'train[21600:]'),
      (16200, 5400, 21600, 5400),
      10,
    ),
    _task(
      'resisc45',
      _S,
      'resisc45:3.*.*',
      _cut(18900, 25200, 'train[25200:]'),
      (18900, 6300, 25200, 6300),
      45,
    ),
    _task(
      'diabetic_retinopathy',
      _S,
      'diabetic_retinopathy_detection/btgraham-300:3.*.*',
      _own(),
      (35126, 10906, 46032, 42670),
      5,
    ),
    _task('clevr_count_all', _T, *_CLEVR, 8, clevr_count),
    _task('clevr_closest_object_distance', _T, *_CLEVR, 6, clevr_distance),
    _task('dmlab', _T, 'dmlab:2.0.1', _own(), (65550, 22628, 88178, 22735), 6),
    _task(
      'kitti_closest_vehicle_distance',
      _T,
      'kitti:3.3.0,3.2.0,3.1.0',
      _own(),
      (6347, 423, 6770, 711),
      4,
      kitti_distance,
    ),
    # The pixels of dsprites are 0 and 1.
    _task('dsprites_label_x_position', _T, *_SPRITES, 16, dsprites_x, 255),
    _task('dsprites_label_orientation', _T, *_SPRITES, 16, dsprites_orientation, 255),
    _task('smallnorb_label_azimuth', _T, *_NORB, 18, _labelled('label_azimuth')),
    _task('smallnorb_label_elevation', _T, *_NORB, 9, _labelled('label_elevation')),
  )
}
