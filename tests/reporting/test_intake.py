"""What the report says beside results that are worth less than they look."""

import pandas as pd

from experts.reporting import intake


def test_a_task_is_cautioned_of_by_name_for_each_thing_that_weakens_its_test():
  tasks = pd.DataFrame(
    {
      'task': ['sound', '007'],
      'test': [10, 8],
      'test_copies': [None, 3],
      'test_groups': [0, 2],
      'untrained_classes': [0, 1],
    }
  )
  assert intake.cautions(tasks) == [
    '007: 3 of 8 test images are copies of training images: its test accuracy says little of other images',
    '007: 2 of 8 test images belong to groups that train: its test accuracy says little of other groups',
    '007: 1 classes are tested, and no image trains them',
  ]
  # Tables of earlier runs lack some of them.
  assert intake.cautions(tasks[['task', 'test', 'test_copies']]) == intake.cautions(tasks)[:1]
  assert intake.cautions(tasks[['task', 'test']]) == []
  assert intake.cautions(None) == []
