"""What a task's test knows from training, and what it asks that no image taught."""

import numpy as np

from experts.data.splits import Task


def untrained_classes(task: Task) -> list[str]:
  """The classes that are tested, and of which no image trains."""
  lacking = np.setdiff1d(task.test.labels[task.test_indices], task.labels)
  return [task.train.class_names[label] for label in lacking]
