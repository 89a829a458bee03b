"""The images that an export is shown, to be compared with our network: the task's test images where they can be had."""

import ml_collections
import numpy as np

from experts.data import splits
from experts.data.dataset import UndecodableImage
from experts.export.origin import Origin
from experts.models import fitting
from experts.models.tuned import Tuned
from experts.runs import views

# Enough to see a fault, few enough to be shown to any runtime in a minute.
_MOST = 64
_FIXED = 32


def images(one: Tuned, known: Origin, data_dir: str) -> tuple[np.ndarray, str]:
  """uint8 [N, S, S, 3], and what they are in words."""
  found = _of_task(one, known, data_dir)
  if len(found):
    return found, f'{len(found)} test images of the task'
  return fitting.probe(_FIXED, one.view.size), f'{_FIXED} images with coarse and fine structure'


def _of_task(one: Tuned, known: Origin, data_dir: str) -> np.ndarray:
  """Test images, evenly out of all of them; none where they cannot be read any more."""
  name = one.described.get('task')
  spec = known.config.get('tasks', {}).get(name)
  if not spec:
    return np.array([])
  try:
    task = splits.load(name, ml_collections.ConfigDict(spec), data_dir, known.config['seed'])
  except (OSError, ValueError):
    return np.array([])
  transform = views.eval_transform(one.view)
  number = len(task.test_indices)
  pixels = []
  for place in np.linspace(0, number - 1, min(number, _MOST)).astype(int):
    try:
      pixels.append(transform(task.test.image(task.test_indices[place])))
    except (OSError, UndecodableImage):
      continue
  return np.array(pixels)
