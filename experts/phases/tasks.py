"""The tasks of a config: which images train, validate and test."""

import dataclasses
import fnmatch

import ml_collections
import numpy as np
from absl import logging
from sklearn.model_selection import train_test_split

from experts.data import batches, natural6, sources, transforms, vtab
from experts.data.dataset import Dataset, UndecodableImage
from experts.reporting import outcomes, summary


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """A labelled set of few images to transfer to.

  Attributes:
    name: key of the task in the config.
    train: data set of the images that may be trained on.
    fit: indices into `train`, for the sweep to train on.
    validation: indices into `train`, for the sweep to choose by.
    test: data set of the images that count.
    test_indices: indices into `test`.
    metric: what counts, 'accuracy' or 'mean_per_class'.
  """

  name: str
  train: Dataset
  fit: np.ndarray
  validation: np.ndarray
  test: Dataset
  test_indices: np.ndarray
  metric: str = 'accuracy'

  @property
  def all(self) -> np.ndarray:
    """Fit and validation images: what selection sees and the retrained model learns from."""
    return np.concatenate([self.fit, self.validation])

  @property
  def labels(self) -> np.ndarray:
    return self.train.labels[self.all]


def load(name: str, task: ml_collections.ConfigDict, data_dir: str, seed: int) -> Task:
  """Opens a task and splits its training images.

  VTAB tasks keep the order and the split of the protocol (§5), and the natural six their own validation split, unless
  the config says how many images. Others are shuffled by `seed` and split with every class in proportion. Without a test
  split, `test_images` of the training images are held out.

  Raises:
    ValueError: a class without images, one class only, or fewer images than the splits need; names the task.
  """
  train = sources.open_dataset(task.data, task.train, data_dir)
  held_out = 0 if task.test else task.test_images or len(train) // 5
  number = task.train_images or len(train) - held_out
  for_validation = task.validation_images or number // 5
  in_order = task.data.startswith('vtab:')
  all_of_it = task.train == 'train_validation' and not (task.train_images or task.validation_images)
  if task.data.startswith('natural6:') and all_of_it:
    for_validation = len(sources.open_dataset(task.data, 'validation', data_dir))
    in_order = True
  sources.check_task(train, number + held_out, every_class=not in_order)
  if not 0 < for_validation < number:
    raise ValueError(
      f'config.tasks.{name}: {for_validation} of {number} images to choose by leave none to train on, or are none'
    )
  if in_order:
    fit, validation = np.split(np.arange(number), [number - for_validation])
    rest = np.arange(0)
  else:
    chosen, rest = _split(name, train, np.arange(len(train)), number, seed)
    fit, validation = _split(name, train, chosen, number - for_validation, seed)
  if not task.test:
    _, test_indices = _split(name, train, rest, len(rest) - held_out, seed)
    return Task(name, train, fit, validation, train, np.sort(test_indices), task.metric)
  test = sources.open_dataset(task.data, task.test, data_dir)
  test_indices = np.arange(len(test))
  if task.test_images and task.test_images < len(test):
    test_indices, _ = _split(name, test, test_indices, task.test_images, seed)
  return Task(name, train, fit, validation, test, np.sort(test_indices), task.metric)


def group(data: str) -> str:
  """The group that results of a task count in: one of VTAB's, the natural six, or 'other tasks'."""
  scheme, _, name = data.partition(':')
  if scheme == 'vtab':
    return vtab.find(name)[0].group
  if scheme == 'natural6' and name in natural6.TASKS:
    return outcomes.NATURAL_SIX
  return summary.OTHER


def take(task: Task, rows: np.ndarray) -> Task:
  """The task with some of its training images, those at these places of `all`, which rise."""
  fit, validation = np.split(rows, [np.searchsorted(rows, len(task.fit))])
  return dataclasses.replace(task, fit=task.all[fit], validation=task.all[validation])


def describe(task: Task, data: str) -> dict[str, str | int | bool]:
  """What results of a task rest on: a row of tasks.csv.

  Args:
    task: as loaded.
    data: its data in the config.
  """
  scheme, _, name = data.partition(':')
  allowed = ()
  if scheme == 'vtab':
    allowed = vtab.find(name)[0].versions
  elif scheme == 'natural6':
    # A later one will do, but is another set of images.
    allowed = natural6.find(name).versions[:1]
  version = task.train.version
  number = version.rpartition('/')[2]
  return {
    'task': task.name,
    'data': data,
    'version': version,
    'drift': bool(version) and not any(fnmatch.fnmatch(number, one) for one in allowed or '*'),
    'classes': task.train.num_classes,
    'fit': len(task.fit),
    'validation': len(task.validation),
    'test': len(task.test_indices),
    'metric': task.metric,
    'statistic': outcomes.statistic(group(data)),
  }


# Test images up to this size are decoded once for all trials.
_HELD_BYTES = 2**30


def hold(task: Task, transform: transforms.Transform) -> Task:
  """Decodes the task's images once, since every trial reads all of them many times.

  Args:
    task: as loaded.
    transform: without chance; the one that trains and evaluates alike.

  Returns:
    The task over arrays. A test split larger than a GiB stays as it is.
  """
  train = batches.in_memory(task.train, task.all, transform)
  fit, validation = np.split(np.arange(len(train)), [len(task.fit)])
  held = dataclasses.replace(task, train=train, fit=fit, validation=validation)
  if 3 * transform.size**2 * len(task.test_indices) > _HELD_BYTES:
    return held
  test = batches.in_memory(task.test, task.test_indices, transform)
  return dataclasses.replace(held, test=test, test_indices=np.arange(len(test)))


def decodable(task: Task, undecodable: str) -> Task:
  """The task without those training images that cannot be decoded, under the policy 'skip'; else as it is."""
  if undecodable == 'raise':
    return task

  def good(indices):
    return np.array([i for i in indices if _decodes(task.train, int(i))], int)

  fit, validation = good(task.fit), good(task.validation)
  if not (len(fit) and len(validation)):
    raise ValueError(f'task {task.name!r}: no image to train on, or to choose by, can be decoded')
  return dataclasses.replace(task, fit=fit, validation=validation)


def _decodes(dataset: Dataset, index: int) -> bool:
  try:
    dataset.image(index)
  except UndecodableImage as error:
    logging.warning('skipped: %s', error)
    return False
  return True


def load_all(config: ml_collections.ConfigDict) -> list[Task]:
  """Opens every task of a config.

  Raises:
    ValueError: there is none.
    FileNotFoundError: some are not there; names all of them, each with what prepares it.
  """
  if not config.tasks:
    raise ValueError('config.tasks is empty: name at least one task')
  loaded, missing = [], []
  for name, task in config.tasks.items():
    try:
      loaded.append(load(name, task, config.data_dir, config.seed))
    except FileNotFoundError as error:
      missing.append(f'task {name!r}: {error}')
  if missing:
    raise FileNotFoundError('\n'.join(missing))
  return loaded


def _split(name: str, dataset: Dataset, indices: np.ndarray, first: int, seed: int):
  """Two disjoint parts, the first of `first` images, each with the classes in proportion."""
  if first == len(indices):
    return indices, indices[:0]
  if first == 0:
    return indices[:0], indices
  labels = dataset.labels[indices]
  smallest = min(first, len(indices) - first)
  # Proportions need an image of every class on both sides; where a side is too small, chance decides.
  counts = np.bincount(labels)
  proportional = smallest >= len(counts[counts > 0]) and counts[counts > 0].min() >= 2
  return train_test_split(
    indices, train_size=first, random_state=seed, stratify=labels if proportional else None
  )
