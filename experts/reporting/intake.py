"""What was read of each task's images, from tasks.csv: beside its data, and as a caution beside its results."""

import pandas as pd

# Column of tasks.csv -> its name in the report.
_NAMES = {
  'task': 'task',
  'validation_from': 'validation from',
  'test_from': 'test from',
  'least': 'smallest class',
  'most': 'largest class',
  'one_image_classes': 'classes of one image',
  'left_out': 'not read',
  'skipped': 'skipped',
  'test_copies': 'copies in test',
  'validation_copies': 'copies in validation',
  'class_copies': 'copies across classes',
  'notes': 'notes',
}
COLUMNS = tuple(_NAMES)
# Column of tasks.csv -> what to say where it is not 0.
_CAUTIONS = {
  'test_copies': '{number} of {test} test images are copies of training images: its test accuracy says little of other '
  'images',
  'test_groups': '{number} of {test} test images belong to groups that train: its test accuracy says little of other '
  'groups',
  'untrained_classes': '{number} classes are tested, and no image trains them',
}


def table(tasks: pd.DataFrame | None) -> pd.DataFrame | None:
  """What was read of each task; None where tasks.csv does not say."""
  if tasks is None or not set(COLUMNS) <= set(tasks):
    return None
  return tasks[list(COLUMNS)].rename(columns=_NAMES)


def cautions(tasks: pd.DataFrame | None) -> list[str]:
  """A line for each task whose test accuracy says less than it seems to."""
  lines = []
  for column, what in _CAUTIONS.items():
    if tasks is None or column not in tasks:
      continue
    counts = pd.to_numeric(tasks[column]).fillna(0)
    for task, number, test in zip(tasks.task, counts, pd.to_numeric(tasks.test), strict=True):
      if number:
        lines.append(f'{task}: {what.format(number=int(number), test=int(test))}')
  return lines
