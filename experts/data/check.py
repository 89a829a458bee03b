"""What a run reads, looked at before anything is computed.

python -m experts.data.check images:FOLDER

Says how many images each split holds, of which classes, what is left out and why, which files cannot be decoded, and
what is there twice. Ends with 1 where a run would end, with the same words, and with 0 elsewhere. Also an archive, or a
set that is prepared (tfds:NAME, vtab:TASK, natural6:TASK).
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from experts.data import leaks, look, splits
from experts.data.dataset import MEND, Dataset, UndecodableImage

# (task, part, index, why) of an image that cannot be decoded; what JSON can carry.
Fault = Sequence[str | int]
# Of so many undecodable images each has a line.
_LISTED = 1000


def open_tasks(
  specs: Mapping[str, Any],
  data_dir: str,
  seed: int,
  undecodable: str = 'raise',
  sides: Callable[[str, str], set[int]] = lambda task, part: set(),
  agree: Callable[[list[Fault]], list[Fault]] = lambda faults: faults,
  begin: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
) -> list[splits.Task]:
  """Opens tasks and looks at their images.

  People's own folders and archives are looked at whole. A set that is prepared is not, for it was read before, and its
  test split may have more images than the run will ever need; where undecodable images are to be skipped it is, so that
  the numbers are those of what is used.

  Args:
    specs: name -> the config's fields of a task.
    data_dir: where relative paths start.
    seed: of what is drawn.
    undecodable: 'raise' or 'skip'.
    sides: (task, part) -> the sides to which its images will be resized; they are held in memory as far as it goes.
    agree: the faults that this process found -> those that any found.
    begin: called with the number of images; gives what is called after each.

  Raises:
    FileNotFoundError: some are not there; names all of them, each with what prepares it.
    UndecodableImage: under 'raise'; names all of them.
    ValueError: a task that cannot be trained.
  """
  loaded, missing = [], []
  for name, spec in specs.items():
    try:
      loaded.append(splits.load(name, spec, data_dir, seed))
    except FileNotFoundError as error:
      missing.append(f'task {name!r}: {error}')
  if missing:
    raise FileNotFoundError('\n'.join(missing))
  room = look.Room(int(look.SHARE * look.free_memory()))
  loaded = [_with_memory(task, room) for task in loaded]
  looked = [
    task
    for task in loaded
    if not task.train.in_memory
    and (undecodable == 'skip' or specs[task.name].data.startswith('images:'))
  ]
  tick = begin(sum(len(task.part(part)[1]) for task in looked for part in splits.PARTS))
  seen = {
    task.name: {
      part: look.look(*task.part(part), sides(task.name, part), tick) for part in splits.PARTS
    }
    for task in looked
  }
  seen = {
    task.name: look.confirm(
      {part: (task.part(part)[0], own) for part, own in seen[task.name].items()}
    )
    for task in looked
  }
  faults = agree(
    [
      (task.name, part, index, why)
      for task in looked
      for part in splits.PARTS
      for index, why in seen[task.name][part].faults.items()
    ]
  )
  if faults and undecodable == 'raise':
    raise UndecodableImage(listed([why for *_, why in faults]))
  return [
    splits.settle(
      task,
      {(part, index): why for name, part, index, why in faults if name == task.name},
      seen[task.name],
      seed,
    )
    if task.name in seen
    else task
    for task in loaded
  ]


def hold(dataset: Dataset, indices: np.ndarray, side: int) -> None:
  """Decodes what is not yet held in memory at a side, if there is room for it.

  Raises:
    UndecodableImage: names all of them.
  """
  held = dataset.memory
  if not held or not side:
    return
  missing = held.missing(indices, side)
  if not len(missing) or not held.fits(missing, side):
    return
  if faults := look.look(dataset, missing, [side]).faults:
    raise UndecodableImage(listed(list(faults.values())))


def listed(faults: Sequence[str]) -> str:
  """The message that names every image that cannot be decoded, and what to do."""
  if len(faults) == 1:
    return f'{faults[0]}: {MEND}'
  mend = MEND.replace('remove it', 'remove them')
  return '\n'.join([f'{len(faults)} images cannot be decoded:', *_first(faults), mend])


def describe(task: splits.Task, data: str) -> list[str]:
  """What was read, in lines."""
  fit, validation, test = (len(task.part(part)[1]) for part in splits.PARTS)
  (small, least), (large, most) = extremes(task)
  each = f'{least}' if least == most else f'{least} ({small}) to {most} ({large})'
  lines = [
    f'task {task.name}: {data}',
    f'  to fit: {fit} images of {task.origin["fit"]}',
    f'  to choose by: {validation} images {_of(task.origin["validation"])}',
    f'  to test: {test} images {_of(task.origin["test"])}',
    f'  {task.train.num_classes} classes, {each} images of each to learn from',
  ]
  if out := left_out(task):
    lines.append(f'  not read: {out}')
  if task.skipped:
    lines.append(f'  skipped: {len(task.skipped)} images that cannot be decoded')
    lines += _first(task.skipped)
  if task.train.intake:
    lines += [f'  {note}' for note in task.train.intake.notes]
  return lines


def extremes(task: splits.Task) -> tuple[tuple[str, int], tuple[str, int]]:
  """(class, images to fit and to choose by) of the smallest and of the largest class."""
  counts = np.bincount(task.labels, minlength=task.train.num_classes)
  return tuple(
    (task.train.class_names[i], int(counts[i])) for i in (counts.argmin(), counts.argmax())
  )


def left_out(task: splits.Task) -> str:
  """What lay beside the images and was not read, such as '30 .HEIC, 10 without a suffix'."""
  found = task.train.intake.left_out if task.train.intake else {}
  return ', '.join(f'{number} {what}' for what, number in found.items())


def warnings(task: splits.Task) -> list[str]:
  """What makes the results of a task worth less than they look, a line each."""
  lines = []
  untrained = leaks.untrained_classes(task)
  if untrained:
    lines.append(
      f'classes that are tested, and of which no image trains: {len(untrained)} ({splits.some(untrained)}): add images of '
      'them, or groups'
    )
  if one := [name for name in splits.one_image_classes(task) if name not in untrained]:
    lines.append(
      f'classes with a single image, which is trained on, and nothing to test them: {len(one)} ({splits.some(one)})'
    )
  copies = task.copies
  if copies and copies.test:
    lines.append(
      f'{copies.test} of {len(task.test_indices)} test images are copies of training images: its test accuracy would say '
      f'little of other images ({copies.examples["test"]})'
    )
  if copies and copies.validation:
    lines.append(
      f'{copies.validation} of {len(task.validation)} images to choose by are copies of images to fit '
      f'({copies.examples["validation"]})'
    )
  lines += _of_parted_groups(task)
  if copies and copies.classes:
    lines.append(
      f'{copies.classes} images are copies of an image of another class: one of the labels is wrong '
      f'({copies.examples["classes"]})'
    )
  return [f'task {task.name}: {line}' for line in lines]


def _of_parted_groups(task: splits.Task) -> list[str]:
  lines, parted = [], leaks.parted_groups(task)
  if parted.test:
    lines.append(
      f'{parted.test} of {len(task.test_indices)} test images belong to groups that train, such as '
      f'{parted.examples["test"]!r}: its test accuracy would say little of other groups'
    )
  if parted.validation:
    lines.append(
      f'{parted.validation} of {len(task.validation)} images to choose by belong to groups to fit, such as '
      f'{parted.examples["validation"]!r}'
    )
  if number := leaks.neighbours(task):
    apart = '' if parted.validation else '; knn_holdout and linear do'
    lines.append(
      f"{number} of {len(task.all)} training images are of groups of several, each other's nearest neighbours: leave-one-out "
      f'(knn) does not keep groups apart{apart}'
    )
  return lines


def _first(faults: Sequence[str]) -> list[str]:
  more = [f'  and {len(faults) - _LISTED} more'] if len(faults) > _LISTED else []
  return [f'    {fault}' for fault in faults[:_LISTED]] + more


def _of(origin: str) -> str:
  return origin if ' ' in origin else f'of {origin}'


def _with_memory(task: splits.Task, room: look.Room) -> splits.Task:
  if task.train.in_memory:
    return task
  train = dataclasses.replace(task.train, memory=look.Held(len(task.train), room))
  test = train
  if task.test is not task.train:
    test = dataclasses.replace(task.test, memory=look.Held(len(task.test), room))
  return dataclasses.replace(task, train=train, test=test)


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m experts.data.check',
    description=__doc__.partition('\n\n')[2].partition('\n\n')[2],
  )
  parser.add_argument('data', help='images:FOLDER, tfds:NAME, vtab:TASK or natural6:TASK')
  for split, default in (('train', 'train'), ('validation', ''), ('test', '')):
    parser.add_argument(
      f'--{split}', default=default, help='the split of that name, as in a config'
    )
  parser.add_argument('--data_dir', default='', help='where relative paths start')
  parser.add_argument('--undecodable', default='raise', choices=('raise', 'skip'))
  given = parser.parse_args(argv)
  # As configs/my_images.py has them.
  spec = {'train_images': 0, 'validation_images': 0, 'test_images': 0, 'metric': 'accuracy'}
  spec |= {name: getattr(given, name) for name in ('data', 'train', 'validation', 'test')}
  if not spec['test'] and not given.data.startswith('images:'):
    spec['test'] = 'test'
  try:
    (task,) = open_tasks(
      {'mine': ml_collections.ConfigDict(spec)}, given.data_dir, 0, given.undecodable
    )
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  print('\n'.join([*describe(task, given.data), *(f'warning: {one}' for one in warnings(task))]))
  return 0


if __name__ == '__main__':
  sys.exit(main())
