"""What becomes of a task's parts once all of its images were looked at: none that cannot be decoded, no copy on two sides."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence, Set

import numpy as np

from experts.data import draws, look
from experts.data.names import some
from experts.data.splits import PARTS, Copies, Task


def settle(
  task: Task, faults: Mapping[tuple[str, int], str], seen: Mapping[str, look.Seen], seed: int
) -> Task:
  """The task as it is used, now that all its images were looked at.

  Args:
    task: as loaded.
    faults: (part, index) of the images to leave out -> why.
    seen: what was seen of each part.
    seed: of what is drawn again.

  Returns:
    The task without these images. Where images of the same pixels fell on both sides of what was drawn by chance, it is
    drawn again, with these on one side; those of a given validation split are then not tested.

  Raises:
    ValueError: nothing is left of a part, or of a class to train on; names the task.
  """
  left = {
    part: np.array([i for i in task.part(part)[1] if (part, int(i)) not in faults], np.int64)
    for part in PARTS
  }
  if empty := [part for part, indices in left.items() if not len(indices)]:
    raise ValueError(f'task {task.name!r}: no image of {task.origin[empty[0]]} can be decoded')
  if task.every_class:
    _check_classes(task, np.concatenate([left['fit'], left['validation']]))
  numbers = _numbers(task, left, seen)
  units = _units(task, left, numbers)
  given = _given_units(task, left, units)
  if given or _straddle([numbers[part] for part in task.drawn]):
    left |= _drawn_again(task, left, units, given, seed)
    numbers = _numbers(task, left, seen)
  settled = dataclasses.replace(
    task,
    fit=left['fit'],
    validation=left['validation'],
    test_indices=left['test'],
    skipped=tuple(faults.values()),
    units=units,
  )
  return dataclasses.replace(settled, copies=_copies(settled, numbers))


def _check_classes(task: Task, indices: np.ndarray) -> None:
  left = np.bincount(task.train.labels[indices], minlength=task.train.num_classes)
  before = np.bincount(task.train.labels[task.all], minlength=task.train.num_classes)
  if len(gone := np.flatnonzero((left == 0) & (before > 0))):
    names = some(repr(task.train.class_names[label]) for label in gone)
    raise ValueError(
      f'task {task.name!r}: no image of class {names} can be decoded: add images, or remove the class'
    )


def _numbers(
  task: Task, parts: Mapping[str, np.ndarray], seen: Mapping[str, look.Seen]
) -> dict[str, np.ndarray]:
  """Part -> a number for each of its images, the same for images of the same pixels."""
  of_train = {**seen['fit'].prints, **seen['validation'].prints}
  of_test = seen['test'].prints
  if task.test is task.train:
    of_train = of_test = of_train | of_test
  prints = [
    (of_test if part == 'test' else of_train)[int(i)] for part in PARTS for i in parts[part]
  ]
  ends = np.cumsum([len(parts[part]) for part in PARTS])[:-1]
  return dict(zip(PARTS, np.split(look.copies(prints), ends), strict=True))


def _units(
  task: Task, left: Mapping[str, np.ndarray], numbers: Mapping[str, np.ndarray]
) -> dict[int, int]:
  """Index into the images to train on -> a number, the same for those of a group or of the same pixels."""
  parts = [part for part in PARTS if task.part(part)[0] is task.train]
  indices, same = (np.concatenate([each[part] for part in parts]) for each in (left, numbers))
  return draws.together(
    dict(zip(indices.tolist(), same.tolist(), strict=True)), draws.groups(task.train)
  )


def _given_units(
  task: Task, left: Mapping[str, np.ndarray], units: Mapping[int, int]
) -> frozenset[int]:
  """What a drawn test must not have, for a split that is given validates it; empty if it has none, or nothing else."""
  if 'test' not in task.drawn or 'validation' in task.drawn:
    return frozenset()
  given = frozenset(units[int(i)] for i in left['validation'])
  own = {part: {units[int(i)] for i in left[part]} for part in task.drawn}
  free = set().union(*own.values()) - given
  return given if own['test'] & given and free else frozenset()


def _straddle(parts: Sequence[np.ndarray]) -> bool:
  """Whether a number is in several parts, and there are enough to go round."""
  if len(parts) < 2:
    return False
  several = len(np.unique(np.concatenate(parts)))
  return sum(len(np.unique(part)) for part in parts) > several >= len(parts)


def _drawn_again(
  task: Task,
  left: Mapping[str, np.ndarray],
  unit: Mapping[int, int],
  given: Set[int],
  seed: int,
) -> dict[str, np.ndarray]:
  """The drawn parts, with images of one number on one side, none of `given` tested, and of about the same sizes."""
  kept = np.concatenate([left[part] for part in task.drawn])
  found = {}
  if 'test' in task.drawn:
    kept, test = draws.split_to_train(
      task.train, kept, len(kept) - len(left['test']), seed, unit, given
    )
    found['test'] = np.sort(test)
  found['fit'] = kept
  if 'validation' in task.drawn:
    validates = len(left['validation'])
    found['fit'], found['validation'] = draws.split_to_train(
      task.train, kept, len(kept) - validates, seed, unit
    )
  return found


def _copies(task: Task, numbers: Mapping[str, np.ndarray]) -> Copies:
  fit, validation, test = (numbers[part] for part in PARTS)
  places = [(part, int(i)) for part in PARTS for i in task.part(part)[1]]
  number = np.concatenate([fit, validation, test])
  label = np.array([task.part(part)[0].label(i) for part, i in places])
  first = {}  # of each number
  for place, own in zip(places, number.tolist(), strict=True):
    first.setdefault(own, place)
  labels = collections.defaultdict(set)
  for own, one in zip(number.tolist(), label.tolist(), strict=True):
    labels[own].add(one)
  kinds = {
    'test': np.isin(number, np.concatenate([fit, validation])) & _of(places, 'test'),
    'validation': np.isin(number, fit) & _of(places, 'validation'),
    'classes': np.array([len(labels[own]) > 1 for own in number.tolist()]),
  }
  where = lambda place: task.part(place[0])[0].where(place[1])
  examples = {}
  for kind, found in kinds.items():
    for row in np.flatnonzero(found):
      if (other := first[int(number[row])]) != places[row] and kind not in examples:
        examples[kind] = f'{where(places[row])} is {where(other)}'
  return Copies(**{kind: int(found.sum()) for kind, found in kinds.items()}, examples=examples)


def _of(places: Sequence[tuple[str, int]], part: str) -> np.ndarray:
  return np.array([one == part for one, _ in places])
