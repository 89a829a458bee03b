"""Which images of a task train, validate and test: as its source splits them, else drawn by the seed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experts.data import draws, sources
from experts.data.dataset import Dataset, join
from experts.data.names import some

# Names of the parts of a task.
PARTS = ('fit', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Copies:
  """Images of the very same pixels as others of their task.

  Attributes:
    test: test images that are copies of images that train or validate.
    validation: images to choose by that are copies of images to fit.
    classes: images that are copies of one of another class.
    examples: 'test', 'validation' or 'classes' -> the files of one such pair.
  """

  test: int
  validation: int
  classes: int
  examples: Mapping[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """A labelled set of few images to transfer to.

  Attributes:
    name: key of the task in the config.
    train: data set of the images that may be trained on.
    fit: indices into `train`, for the sweep to train on.
    validation: indices into `train`, for the sweep to choose by.
    test: data set of the images that count; the very same as `train` where they are held out of it.
    test_indices: indices into `test`.
    metric: what counts, 'accuracy' or 'mean_per_class'.
    origin: part -> where its images come from, in words.
    drawn: the parts that were drawn by chance out of one split, and may be drawn again.
    every_class: whether each class must have an image to train on.
    skipped: why images were left out that cannot be decoded, a line each that names the file.
    copies: what there is twice; None where nobody has looked.
    units: index into `train` -> a number, the same for images that no draw parts: of a group, or, where they were looked
      at, of the same pixels; None where nothing tells.
  """

  name: str
  train: Dataset
  fit: np.ndarray
  validation: np.ndarray
  test: Dataset
  test_indices: np.ndarray
  metric: str = 'accuracy'
  origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
  drawn: tuple[str, ...] = ()
  every_class: bool = True
  skipped: tuple[str, ...] = ()
  copies: Copies | None = None
  units: Mapping[int, int] | None = None

  @property
  def all(self) -> np.ndarray:
    """Fit and validation images: what selection sees and the retrained model learns from."""
    return np.concatenate([self.fit, self.validation])

  @property
  def labels(self) -> np.ndarray:
    return self.train.labels[self.all]

  def part(self, name: str) -> tuple[Dataset, np.ndarray]:
    """The data set and the indices of one of PARTS."""
    if name == 'test':
      return self.test, self.test_indices
    return self.train, getattr(self, name)


def load(name: str, spec: Any, data_dir: str, seed: int) -> Task:
  """Opens a task and splits its training images.

  VTAB tasks keep the order and the split of the protocol (§5), and the natural six their own validation split, unless
  the config says how many images. A folder's or archive's splits 'validation' and 'test' are what they are called, unless
  the config says otherwise. All else is drawn by `seed`, with every class in proportion and every group on one side.

  Args:
    name: key of the task in the config.
    spec: the config's fields of a task.
    data_dir: where relative paths start.
    seed: of what is drawn.

  Raises:
    ValueError: a class without images, one class only, one image a class, or fewer images than the splits need; names
      the task.
  """
  train = sources.open_dataset(spec.data, spec.train, data_dir)
  validation, test = other_splits(name, spec, train)
  chosen_by, tests = (
    sources.open_dataset(spec.data, split, data_dir) if split else None
    for split in (validation, test)
  )
  official = _official_validation(spec, data_dir)
  in_order = spec.data.startswith('vtab:') or official > 0
  number, for_validation, held_out = _sizes(spec, train, chosen_by, official, not test)
  sources.check_task(train, number + held_out, every_class=not in_order)
  if not in_order:
    _refuse_one_image_a_class(train)
  _check_numbers(name, number, for_validation, chosen_by is not None)
  used, rest = _used(train, chosen_by, number, in_order, bool(spec.train_images), seed)
  fit, validates = _parts(train, chosen_by, used, for_validation, in_order, seed)
  whole = join(f'{train.name} and {validation}', [train, chosen_by]) if validation else train
  test_indices = _tested(spec, tests, train, rest, held_out, seed)
  _refuse_empty(name, train, {'choose by': validates, 'test': test_indices})
  drawn = () if in_order else ('fit', *['validation'][bool(validation) :], *['test'][bool(test) :])
  held = f'held out of {spec.train}'
  return Task(
    name,
    whole,
    fit,
    validates,
    whole if tests is None else tests,
    np.sort(test_indices),
    spec.metric,
    {'fit': spec.train, 'validation': validation or held, 'test': test or held},
    drawn,
    every_class=not in_order,
    units=draws.groups(whole),
  )


def other_splits(name: str, spec: Any, train: Dataset) -> tuple[str, str]:
  """The names of the splits that validate and test; empty for those that are held out of the training split.

  Args:
    name: key of the task in the config.
    spec: the config's fields of a task.
    train: the opened training split.

  Raises:
    ValueError: one split would validate and test.
  """
  found = dict.fromkeys(('validation', 'test'), '')
  # Those of a published set are not for the project to choose from.
  known = set(train.intake.splits if train.intake and not train.published else ())
  for part in found:
    wanted = spec[part]
    others = {spec.train, *(spec[other] for other in found if other != part)}
    if not wanted and part in known - others:
      wanted = part
    found[part] = '' if wanted == spec.train else wanted
  if found['test'] and found['test'] == found['validation']:
    raise ValueError(
      f'config.tasks.{name}: validation and test are both {found["test"]!r}: an accuracy on images that were chosen by says '
      f'nothing; config.tasks.{name}.validation={spec.train} holds some out of {spec.train!r}'
    )
  return found['validation'], found['test']


def hold_out(task: Task, indices: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Some of a task's training images, four to fit for each to score by, as [WHICH] has 800 and 200 of 1,000.

  Args:
    task: as loaded.
    indices: int [N], into `task.train`.
    seed: of the draw, with every class in proportion and every unit on one side.

  Returns:
    Indices to fit, and to score by, none where there are fewer than five.
  """
  return draws.split_to_train(
    task.train, indices, len(indices) - len(indices) // 5, seed, task.units
  )


def one_image_classes(task: Task) -> list[str]:
  """The classes of which there is a single image in all to learn from, or to hold out."""
  indices = [task.fit, task.validation]
  if 'test' in task.drawn:
    indices.append(task.test_indices)
  counts = np.bincount(task.train.labels[np.concatenate(indices)], minlength=task.train.num_classes)
  return [task.train.class_names[label] for label in np.flatnonzero(counts == 1)]


def _sizes(
  spec: Any, train: Dataset, chosen_by: Dataset | None, official: int, holds_out: bool
) -> tuple[int, int, int]:
  """How many images of the training split are learned from, of all are chosen by, and are held out to test."""
  held_out = (spec.test_images or len(train) // 5) if holds_out else 0
  if chosen_by is None:
    number = spec.train_images or len(train) - held_out
    return number, official or spec.validation_images or number // 5, held_out
  for_validation = min(spec.validation_images or len(chosen_by), len(chosen_by))
  number = spec.train_images - for_validation if spec.train_images else len(train) - held_out
  return number, for_validation, held_out


def _used(
  train: Dataset,
  chosen_by: Dataset | None,
  number: int,
  in_order: bool,
  some_are_left: bool,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """The images of the training split that are learned from, and those of the others that may be tested.

  Args:
    train: the training split.
    chosen_by: the split that validates, if there is one; none of its groups is tested.
    number: how many are learned from.
    in_order: whether these are the first, and chance decides nothing; then none may be tested.
    some_are_left: whether images may be left over, instead of being learned from, that may not be tested.
    seed: of what is drawn.
  """
  if in_order:
    return np.arange(number), np.arange(0)
  groups, given = draws.groups(train), draws.shared_groups(train, chosen_by)
  stays = frozenset() if some_are_left else given
  used, rest = draws.split_to_train(train, np.arange(len(train)), number, seed, groups, stays)
  return used, draws.without(rest, groups, given)


def _tested(
  spec: Any, tests: Dataset | None, train: Dataset, rest: np.ndarray, held_out: int, seed: int
) -> np.ndarray:
  """The images that test: of the split that does, if there is one, else so many of the rest of the training split."""
  if tests is not None:
    return _some_of(tests, spec.test_images or len(tests), seed)
  unused = max(len(rest) - held_out, 0)
  return draws.split(train, rest, unused, seed, draws.groups(train))[1]


def _parts(
  train: Dataset,
  chosen_by: Dataset | None,
  used: np.ndarray,
  for_validation: int,
  in_order: bool,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """The images to fit and those to choose by, which follow on the training split where they have one of their own.

  Args:
    train: the training split.
    chosen_by: the split that validates, if there is one.
    used: of the training split, those that are learned from.
    for_validation: how many validate.
    in_order: whether the last of `used` do, and chance decides nothing.
    seed: of what is drawn.
  """
  if chosen_by is not None:
    return used, len(train) + _some_of(chosen_by, for_validation, seed)
  number = len(used) - for_validation
  if in_order:
    return tuple(np.split(used, [number]))
  return draws.split_to_train(train, used, number, seed, draws.groups(train))


def _some_of(dataset: Dataset, number: int, seed: int) -> np.ndarray:
  """So many of its images, or all where there are no more."""
  return draws.split(dataset, np.arange(len(dataset)), min(number, len(dataset)), seed)[0]


def _official_validation(spec: Any, data_dir: str) -> int:
  """How many images of the natural six's joined split validate, as published; 0 where it is another task or a part."""
  whole = spec.train == 'train_validation' and not (spec.train_images or spec.validation_images)
  if not spec.data.startswith('natural6:') or not whole:
    return 0
  return len(sources.open_dataset(spec.data, 'validation', data_dir))


def _check_numbers(name: str, number: int, for_validation: int, apart: bool) -> None:
  if min(for_validation, number) < 1 or (not apart and for_validation >= number):
    raise ValueError(
      f'config.tasks.{name}: {for_validation} of {number} images to choose by leave none to train on, or are none'
    )


def _refuse_one_image_a_class(train: Dataset) -> None:
  if np.bincount(train.labels).max() == 1:
    raise ValueError(
      f'{train.name}: there is one image of each class ({some(train.class_names)}): nothing could be tested; add images, '
      'at least another of each'
    )


def _refuse_empty(name: str, train: Dataset, parts: Mapping[str, np.ndarray]) -> None:
  for purpose, indices in parts.items():
    if not len(indices):
      what = 'group' if train.groups else 'image'
      raise ValueError(
        f'config.tasks.{name}: no {what} is left to {purpose}: all train, or are in another split: add {what}s, or a split '
        'for it'
      )
