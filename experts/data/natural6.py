"""The six natural data sets on which [EXP] App. F compares with domain-adaptive transfer.

A folder `natural6/TASK/{train,validation,test}/class/file` in the data_dir is read where there is one, else what TFDS has
prepared. Aircraft and Birdsnap are in no TFDS, and Cars is no longer where TFDS looks for it: those need the folder.
"""

import dataclasses
import difflib
import os
from typing import TYPE_CHECKING

from absl import logging

from experts.data import image_files, prepared
from experts.data.dataset import Dataset, join

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

_SPLITS = ('train', 'validation', 'train_validation', 'test')


@dataclasses.dataclass(frozen=True)
class Task:
  """One data set.

  Attributes:
    name: key in TASKS, and its folder.
    num_classes: number of classes.
    counts: images of 'train', 'validation', 'train_validation' and 'test', as far as they are laid down.
    page: where to read about it, and download it.
    tfds: its name in TFDS; empty if it is not there.
    versions: those of TFDS that will do, the preferred first.
    splits: the same splits as TFDS expressions. Official ones, except that validation is cut from 'train' where there is none.
    metric: by which it is measured, 'accuracy' or 'mean_per_class'.
    resize: pixels of the side to which images are resized.
    crop: pixels of the side of the (random) crop.
    gone: whether it has gone from where TFDS downloads it.
  """

  name: str
  num_classes: int
  counts: dict[str, int]
  page: str
  tfds: str = ''
  versions: tuple[str, ...] = ()
  splits: dict[str, str] = dataclasses.field(default_factory=dict)
  metric: str = 'accuracy'
  resize: int = 512
  crop: int = 480
  gone: bool = False

  def folder(self, data_dir: str = '') -> str:
    """Where its images are if they are not TFDS's."""
    return os.path.join(os.path.expanduser(data_dir), 'natural6', self.name)


def find(name: str) -> Task:
  """The task of a name.

  Raises:
    ValueError: there is none.
  """
  if name not in TASKS:
    near = difflib.get_close_matches(name, TASKS, 1)
    hint = f' (did you mean {near[0]}?)' if near else ''
    raise ValueError(f'no task {name!r} in natural6{hint}; there are {", ".join(TASKS)}')
  return TASKS[name]


def choose_builder(name: str, data_dir: str = '') -> 'tfds.core.DatasetBuilder | None':
  """The TFDS builder of a task; None if TFDS does not have it."""
  task = find(name)
  return prepared.choose_builder(task.tfds, task.versions, data_dir) if task.tfds else None


def open_task(name: str, split: str, data_dir: str = '') -> Dataset:
  """Opens a split of a task.

  Args:
    name: a key of TASKS.
    split: 'train', 'validation', 'train_validation' or 'test'.
    data_dir: where the folder natural6 is, and where TFDS keeps prepared data (empty: the working folder, and TFDS's
      own default).

  Raises:
    FileNotFoundError: it is not there; the message says how to come by it.
    ValueError: an unknown task or split.
  """
  task = find(name)
  if split not in _SPLITS:
    raise ValueError(f'natural6:{name} has no split {split!r}; it has {", ".join(_SPLITS)}')
  dataset = _read(task, split, data_dir)
  for what, count, expected in (
    ('classes', dataset.num_classes, task.num_classes),
    ('images', len(dataset), task.counts.get(split, len(dataset))),
  ):
    if count != expected:
      logging.warning(
        'natural6:%s %s has %d %s, the papers had %d: results will not compare with published ones',
        name, split, count, what, expected,
      )  # fmt: skip
  return dataset


def how_to_prepare(task: Task, data_dir: str = '') -> str:
  """One line: how to come by a task that TFDS cannot prepare."""
  why = f'is not in TFDS{" in version " + " or ".join(task.versions) if task.tfds else ""}'
  if task.gone:
    why = 'has gone from where TFDS downloads it'
  return (
    f'natural6:{task.name} {why}: download it from {task.page} and lay it out as'
    f' {task.folder(data_dir)}/{{train,validation,test}}/CLASS/FILE'
  )


def _read(task: Task, split: str, data_dir: str) -> Dataset:
  if os.path.isdir(task.folder(data_dir)):
    parts = ('train', 'validation') if split == 'train_validation' else (split,)
    read = [image_files.open_images(task.folder(data_dir), part, published=True) for part in parts]
    return join(f'natural6:{task.name} {split}', read)
  builder = choose_builder(task.name, data_dir)
  if not builder:
    raise FileNotFoundError(how_to_prepare(task, data_dir))
  try:
    return prepared.read(
      builder,
      task.splits[split],
      f'natural6:{task.name} {split}',
      tuple(builder.info.features['label'].names),
      lambda example, where: prepared.rgb(example['image'], where),
      lambda example: int(example['label']),
    )
  except FileNotFoundError as error:
    if not task.gone:
      raise
    raise FileNotFoundError(how_to_prepare(task, data_dir)) from error


def _cut(size: int, test: str = 'test') -> dict[str, str]:
  return dict(zip(_SPLITS, (f'train[:{size}]', f'train[{size}:]', 'train', test)))


def _counts(*numbers: int) -> dict[str, int]:
  return dict(zip(_SPLITS, numbers))


TASKS = {
  task.name: task
  for task in (
    Task(
      'aircraft',
      100,
      _counts(3334, 3333, 6667, 3333),
      'https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/',
    ),
    # Its authors lay down the test images only, and pictures have vanished since: which validate is up to the folder.
    Task(
      'birdsnap',
      500,
      {'train_validation': 47386, 'test': 2443},
      'https://thomasberg.org/',
    ),
    Task(
      'cars',
      196,
      _counts(7330, 814, 8144, 8041),
      'https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset',
      'cars196',
      ('2.*.*',),
      _cut(7330),
      gone=True,
    ),
    Task(
      'cifar10',
      10,
      _counts(45000, 5000, 50000, 10000),
      'https://www.cs.toronto.edu/~kriz/cifar.html',
      'cifar10',
      ('3.*.*',),
      _cut(45000),
      resize=160,
      crop=128,
    ),
    Task(
      'food101',
      101,
      _counts(68175, 7575, 75750, 25250),
      'https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/',
      'food101',
      ('2.*.*',),
      # TFDS calls the test images 'validation'.
      _cut(68175, 'validation'),
    ),
    Task(
      'pets',
      37,
      _counts(2944, 736, 3680, 3669),
      'https://www.robots.ox.ac.uk/~vgg/data/pets/',
      'oxford_iiit_pet',
      ('3.*.*', '4.*.*'),
      _cut(2944),
      metric='mean_per_class',
    ),
  )
}
