"""What a run reads, looked at before anything is computed.

python -m experts.data.check images:FOLDER

Says how many images each split holds, of which classes, what is left out and why, which files cannot be decoded, and
what is there twice. Ends with 1 where a run would end, with the same words, and with 0 elsewhere. Also an archive, or a
set that is prepared (tfds:NAME, vtab:TASK, natural6:TASK).
"""

import argparse
from collections.abc import Sequence

import ml_collections
import numpy as np

from experts import entry
from experts.data import layouts, look, opening, sources, splits
from experts.data.names import printable, some


def describe(task: splits.Task, data: str) -> list[str]:
  """What was read, in lines."""
  fit, validation, test = (len(task.part(part)[1]) for part in splits.PARTS)
  (small, least), (large, most) = extremes(task)
  each = f'{least}' if least == most else f'{least} ({small}) to {most} ({large})'
  lines = [
    f'task {task.name}: {printable(data)}',
    f'  to fit: {fit} images of {task.origin["fit"]}',
    f'  to choose by: {validation} images {_of(task.origin["validation"])}',
    f'  to test: {test} images {_of(task.origin["test"])}',
    f'  {task.train.num_classes} classes, {each} images of each to learn from',
  ]
  if out := left_out(task):
    lines.append(f'  not read: {out}')
  if unused := unused_splits(task):
    lines.append(f'  {unused}')
  if task.skipped:
    lines.append(f'  skipped: {len(task.skipped)} images that cannot be decoded')
    lines += look.lines(task.skipped)
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
  return task.train.intake.left_out_in_words if task.train.intake else ''


def unused_splits(task: splits.Task) -> str:
  """The splits of people's own images that the task takes nothing from, such as 'turned (20)', and how it would."""
  if not task.train.intake or task.train.published:
    return ''
  taken = {layouts.split_of(name) or name for name in task.origin.values()}
  unused = {name: n for name, n in task.train.intake.splits.items() if name not in taken}
  if not unused:
    return ''
  part = next((part for part in ('test', 'validation') if part in task.drawn), 'train')
  named = some(f'{name} ({number})' for name, number in unused.items())
  return f'splits that are not used: {named}; --config.tasks.{task.name}.{part}={next(iter(unused))} takes one'


def warnings(task: splits.Task) -> list[str]:
  """What makes the results of a task worth less than they look, a line each."""
  lines = []
  if one := splits.one_image_classes(task):
    lines.append(
      f'classes with a single image, which is trained on, and nothing to test them: {len(one)} ({some(one)})'
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
  if copies and copies.classes:
    lines.append(
      f'{copies.classes} images are copies of an image of another class: one of the labels is wrong '
      f'({copies.examples["classes"]})'
    )
  return [f'task {task.name}: {line}' for line in lines]


def _of(origin: str) -> str:
  return origin if ' ' in origin else f'of {origin}'


def main(argv: Sequence[str] | None = None) -> None:
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
  if not spec['test'] and sources.own(given.data) is None:
    spec['test'] = 'test'
  (task,) = opening.open_tasks(
    {'mine': ml_collections.ConfigDict(spec)}, given.data_dir, 0, given.undecodable
  )
  print('\n'.join([*describe(task, given.data), *(f'warning: {one}' for one in warnings(task))]))


if __name__ == '__main__':
  with entry.guard():
    main()
