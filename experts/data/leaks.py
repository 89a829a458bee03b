"""What a task's test knows from training, and what it asks that no image taught."""

import collections
import dataclasses

import numpy as np

from experts.data.splits import Task


@dataclasses.dataclass(frozen=True)
class Parted:
  """Images of groups that have images in another part, too.

  Attributes:
    test: test images of groups that train or validate.
    validation: images to choose by of groups to fit.
    examples: 'test' or 'validation' -> such a group.
  """

  test: int
  validation: int
  examples: dict[str, str]


def parted_groups(task: Task) -> Parted:
  """The groups that the splits part which the user gave; a draw parts none."""
  of = {part: _groups_of(task, part) for part in ('fit', 'validation', 'test')}
  known = {'test': {*of['fit'], *of['validation']}, 'validation': {*of['fit']}}
  shared = {part: [name for name in of[part] if name in names] for part, names in known.items()}
  examples = {part: min(names) for part, names in shared.items() if names}
  return Parted(len(shared['test']), len(shared['validation']), examples)


def neighbours(task: Task) -> int:
  """How many training images have another of their own group beside them."""
  counts = collections.Counter([*_groups_of(task, 'fit'), *_groups_of(task, 'validation')])
  return sum(number for number in counts.values() if number > 1)


def _groups_of(task: Task, part: str) -> list[str]:
  """The group of each image of a part that has one."""
  dataset, indices = task.part(part)
  return [dataset.groups[i] for i in indices if dataset.groups[i]] if dataset.groups else []


def untrained_classes(task: Task) -> list[str]:
  """The classes that are tested, and of which no image trains."""
  lacking = np.setdiff1d(task.test.labels[task.test_indices], task.labels)
  return [task.train.class_names[label] for label in lacking]
