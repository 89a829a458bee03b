"""Opens the tasks of a config, and looks at their images before anything is computed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experts import machine
from experts.data import look, settling, splits
from experts.data.dataset import UndecodableImage
from experts.data.transforms import Resize

# (task, part, index, why) of an image that cannot be decoded; what JSON can carry.
Fault = Sequence[str | int]


def open_tasks(
  specs: Mapping[str, Any],
  data_dir: str,
  seed: int,
  undecodable: str = 'raise',
  sizes: Callable[[str, str], set[Resize | None]] = lambda task, part: set(),
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
    sizes: (task, part) -> the sizes in which its images will be wanted; they are held in memory as far as it goes.
    agree: the faults that this process found -> those that any found.
    begin: called with the number of images; gives what is called after each.

  Raises:
    FileNotFoundError: some are not there; names all of them, each with what prepares it.
    UndecodableImage: under 'raise'; names all of them.
    ValueError: a task that cannot be trained.
  """
  loaded = _load(specs, data_dir, seed)
  room = look.Room(int(look.SHARE * machine.free_memory()))
  loaded = [_with_memory(task, room) for task in loaded]
  looked = [
    task
    for task in loaded
    if not task.train.in_memory and (undecodable == 'skip' or not task.train.published)
  ]
  seen = _look(looked, sizes, begin)
  faults = agree(
    [
      (name, part, index, why)
      for name, parts in seen.items()
      for part, own in parts.items()
      for index, why in own.faults.items()
    ]
  )
  if faults and undecodable == 'raise':
    raise UndecodableImage(look.listed([why for *_, why in faults]))
  return [
    _settle(task, seen[task.name], faults, seed) if task.name in seen else task for task in loaded
  ]


def _load(specs: Mapping[str, Any], data_dir: str, seed: int) -> list[splits.Task]:
  loaded, missing = [], []
  for name, spec in specs.items():
    try:
      loaded.append(splits.load(name, spec, data_dir, seed))
    except FileNotFoundError as error:
      missing.append(f'task {name!r}: {error}')
  if missing:
    raise FileNotFoundError('\n'.join(missing))
  return loaded


def _with_memory(task: splits.Task, room: look.Room) -> splits.Task:
  if task.train.in_memory:
    return task
  train = dataclasses.replace(task.train, memory=look.Held(len(task.train), room))
  test = train
  if task.test is not task.train:
    test = dataclasses.replace(task.test, memory=look.Held(len(task.test), room))
  return dataclasses.replace(task, train=train, test=test)


def _look(
  tasks: Sequence[splits.Task],
  sizes: Callable[[str, str], set[Resize | None]],
  begin: Callable[[int], Callable[[], None]],
) -> dict[str, dict[str, look.Seen]]:
  """Task -> part -> what was seen, with copies told apart from what only looks like them."""
  tick = begin(sum(len(task.part(part)[1]) for task in tasks for part in splits.PARTS))
  seen = {
    task.name: {
      part: look.look(*task.part(part), sizes(task.name, part), tick) for part in splits.PARTS
    }
    for task in tasks
  }
  return {
    task.name: look.confirm(
      {part: (task.part(part)[0], own) for part, own in seen[task.name].items()}
    )
    for task in tasks
  }


def _settle(
  task: splits.Task, seen: Mapping[str, look.Seen], faults: Sequence[Fault], seed: int
) -> splits.Task:
  own = {(part, index): why for name, part, index, why in faults if name == task.name}
  return settling.settle(task, own, seen, seed)
