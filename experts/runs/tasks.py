"""The tasks of a config: opened and looked at once for all phases of a run."""

import dataclasses
import fnmatch
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import pandas as pd
from absl import logging

from experts.data import check, leaks, natural6, opening, splits, transforms, vtab
from experts.data.splits import Task
from experts.reporting import files, outcomes, summary
from experts.runs import views
from experts.selection import embed, pool
from experts.training import hosts
from experts.training.progress import Progress

# (task, part) -> the sizes in which its images will be wanted.
Sizes = Callable[[str, str], set[transforms.Resize | None]]
# Images between two lines of a log that say how far the looking is.
_SAY_EVERY = 1000

# What was opened in this run, by the fields that it depends on.
_opened: dict[str, list[Task]] = {}


def load_all(
  config: ml_collections.ConfigDict, sizes: Sizes = lambda task, part: set()
) -> list[Task]:
  """Opens every task of a config and looks at its images; the phases of a run that come later find them as they are.

  Args:
    config: the whole config.
    sizes: what `sizes_of` gives, so that each image need not be decoded again.

  Raises:
    ValueError: there is none, or one that does not serve; images that cannot be decoded, on any host.
    FileNotFoundError: some are not there; names all of them, each with what prepares it.
  """
  if not config.tasks:
    raise ValueError('config.tasks is empty: name at least one task')
  fields = [config.tasks.to_dict(), config.data_dir, config.seed, config.image.undecodable]
  key = json.dumps(fields)
  if key not in _opened:
    forget()
    looking = _Looking()
    found = opening.open_tasks(
      config.tasks, config.data_dir, config.seed, config.image.undecodable, sizes, _of_all_hosts, looking.begin,
    )  # fmt: skip
    looking.end()
    _refuse_other_images(found)
    if hosts.first():
      _say(config, found)
    _opened[key] = found
  return _opened[key]


def forget() -> None:
  """Lets go of what was opened, and of its images; at the end of a run."""
  _opened.clear()


def find(config: ml_collections.ConfigDict, name: str) -> Task:
  """One of the tasks of `load_all`."""
  return next(task for task in load_all(config) if task.name == name)


def let_go(config: ml_collections.ConfigDict, name: str) -> None:
  """Makes room for the images of other tasks, as this one is done."""
  task = find(config, name)
  for dataset in (task.train, task.test):
    if dataset.memory:
      dataset.memory.clear()


def sizes_of(
  config: ml_collections.ConfigDict,
  candidates: Sequence[pool.Member],
  settings: Mapping[str, Any],
  selects: bool = False,
) -> Sizes:
  """The sizes of a task's images that selection and fine-tuning will want of them.

  Args:
    config: the whole config.
    candidates: models that may be embedded or fine-tuned.
    settings: the pool's 'model'.
    selects: whether selection is still to come.
  """
  tunes = {'transfer', 'dat'} & set(config.phases)

  def sizes(name: str, part: str) -> set[transforms.Resize | None]:
    found = set()
    for member in candidates:
      view = embed.preprocessing(member, settings)
      if selects and view.size and part != 'test':
        found.add(views.eval_transform(view).first)
      if tunes and member.trainable:
        image = _image_of(config, member, settings, name)
        found.add(views.task_transform(image).first)
        if part != 'test':
          found.add(views.train_transform(image, config.transfer).first)
    return found

  return sizes


def sized(
  config: ml_collections.ConfigDict,
  member: pool.Member,
  settings: Mapping[str, Any],
  task: str = '',
) -> ml_collections.ConfigDict:
  """The config for a pool's model: `image` as it was trained on, of that size or of the task's own."""
  image = _image_of(config, member, settings, task)
  config = config.copy_and_resolve_references()
  config.image = image
  return config


def _image_of(config, member, settings, task) -> ml_collections.ConfigDict:
  view = embed.preprocessing(member, settings)
  size, resize = view.size, view.resize or view.size
  if task and config.tasks[task].size:
    size, resize = config.tasks[task].size, config.tasks[task].resize
  image = config.image.copy_and_resolve_references()
  image.update(
    size=size,
    resize=resize or size,
    interpolation=view.interpolation,
    antialias=view.antialias,
  )
  return image


def group(data: str) -> str:
  """The group that results of a task count in: one of VTAB's, the natural six, or 'other tasks'."""
  scheme, _, name = data.partition(':')
  if scheme == 'vtab':
    return vtab.find(name)[0].group
  if scheme == 'natural6' and name in natural6.TASKS:
    return outcomes.NATURAL_SIX
  return summary.OTHER


def take(task: Task, rows: np.ndarray, seed: int) -> tuple[Task, np.ndarray]:
  """The task with some of its training images, of which a fifth is held out anew.

  Args:
    task: as loaded.
    rows: places in its `all`.
    seed: of what is held out.

  Returns:
    The task, and the places in the order of its own `all`.
  """
  fit, validation = splits.hold_out(task, task.all[rows], seed)
  place = {index: row for row, index in enumerate(task.all.tolist())}
  taken = dataclasses.replace(task, fit=fit, validation=validation)
  return taken, np.array([place[index] for index in taken.all.tolist()])


def write(config: ml_collections.ConfigDict, workdir: str, loaded: Sequence[Task]) -> None:
  """Leaves tasks.csv, as soon as it is known what the tasks are."""
  if hosts.first():
    rows = [describe(task, config.tasks[task.name].data) for task in loaded]
    files.write(pd.DataFrame(rows), f'{workdir}/tasks.csv')


def describe(task: Task, data: str) -> dict[str, str | int | bool | None]:
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
  (_, least), (_, most) = check.extremes(task)
  copies = task.copies
  notes = [*(task.train.intake.notes if task.train.intake else ()), check.unused_splits(task)]
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
    'validation_from': task.origin['validation'],
    'test_from': task.origin['test'],
    'least': least,
    'most': most,
    'skipped': len(task.skipped),
    'left_out': check.left_out(task),
    'test_copies': copies.test if copies else None,
    'validation_copies': copies.validation if copies else None,
    'test_groups': leaks.parted_groups(task).test,
    'class_copies': copies.classes if copies else None,
    'one_image_classes': len(splits.one_image_classes(task)),
    'untrained_classes': len(leaks.untrained_classes(task)),
    'notes': '; '.join(filter(None, notes)),
  }


class _Looking:
  """Shows how far the looking is."""

  def __init__(self):
    self._done = self._total = 0
    self._began = time.monotonic()

  def begin(self, total: int) -> Callable[[], None]:
    self._total = total
    self._progress = Progress(total, description='look')
    return self._tick

  def _tick(self) -> None:
    self._done += 1
    said = not self._done % _SAY_EVERY
    if said or not self._done % 16 or self._done == self._total:
      seconds = time.monotonic() - self._began
      self._progress.update(
        self._done, self._done % 16 or 16, {'seconds': seconds} if said else None
      )

  def end(self) -> None:
    self._progress.close()
    if self._total:
      seconds = time.monotonic() - self._began
      logging.info(
        'tasks: looked at %d images in %.1f s, %.0f images/s', self._total, seconds, self._total / max(seconds, 1e-3)
      )  # fmt: skip


def _of_all_hosts(faults: list[opening.Fault]) -> list[opening.Fault]:
  """What cannot be decoded on any of the hosts, each of which reads its own copy: all skip the same, or all end."""
  found = {}
  for process, part in enumerate(hosts.gather(faults)):
    for name, split, index, why in part:
      where = f' (process {process})' if process else ''
      found.setdefault((name, split, index), f'{why}{where}')
  return [(*place, why) for place, why in sorted(found.items())]


def _refuse_other_images(found: Sequence[Task]) -> None:
  """Ends all processes of a job where the images of one are others, or drawn otherwise: they would train apart."""
  mine = {task.name: _digest(task) for task in found}
  first, *others = hosts.gather(mine)
  for process, other in enumerate(others, 1):
    if differing := [name for name in first if other.get(name) != first[name]]:
      raise ValueError(
        f'task {differing[0]!r}: process {process} reads other images than process 0: give all hosts the same copy'
      )


def _digest(task: Task) -> str:
  digest = hashlib.sha256()
  for dataset, indices in (task.part(part) for part in splits.PARTS):
    digest.update(np.stack([indices, dataset.labels[indices]]).astype(np.int64).tobytes())
  return digest.hexdigest()


def _say(config, found: Sequence[Task]) -> None:
  for task in found:
    logging.info('%s', '\n'.join(check.describe(task, config.tasks[task.name].data)))
    for line in check.warnings(task):
      logging.warning('%s', line)
