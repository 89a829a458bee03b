"""What each phase of a workdir was made with: its part of the config, and the content of what it read."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
from absl import logging

from experts import config as configs
from experts import lock
from experts.data import contents, image_files, sources
from experts.data.names import some
from experts.reporting import files
from experts.selection import pool

Config = ml_collections.ConfigDict
Record = Mapping[str, Any]

# Phase -> the fields of the config that its results depend on (those of the phases before it included).
_NETWORK = ('seed', 'model', 'image', 'upstream', 'pool', 'experts')
_INPUTS = {
  'predict': ('model', 'images'),
  'upstream': _NETWORK[:-2],
  'experts': _NETWORK,
  'domain_predictor': (*_NETWORK, 'domain_predictor'),
  'select': (*_NETWORK, 'tasks', 'strategy', 'select'),
  'transfer': (*_NETWORK, 'tasks', 'strategy', 'select', 'trials', 'transfer'),
  'dat': (*_NETWORK, 'tasks', 'strategy', 'select', 'trials', 'transfer', 'dat'),
  'report': (*_NETWORK, 'tasks', 'strategy', 'select', 'trials', 'transfer', 'results', 'paper'),
}
# Phase -> those whose files it reads itself.
_READS = {
  'predict': ('model', 'images'),
  'upstream': ('upstream',),
  'experts': ('upstream', 'pool'),
  'domain_predictor': ('upstream', 'pool'),
  'select': ('tasks', 'pool'),
  'transfer': ('tasks', 'pool'),
  'dat': ('upstream', 'tasks', 'pool'),
  'report': ('results', 'paper'),
}
# Those that make the workdir's own pool, in whose place another may be given.
_OF_POOL = ('upstream', 'experts', 'domain_predictor')
# Each goes on from what those before it left.
_CHAIN = (*_OF_POOL, 'select', 'transfer', 'dat', 'report')
# What is read of a folder that is no data set.
_RESULTS = ('.csv', '.json', '.npz')


class Records:
  """The records of a workdir, for one run; what the run reads is looked at once for all its phases."""

  def __init__(self, config: Config, workdir: str):
    self._config = config
    self._workdir = workdir
    self._seen: dict[str, Any] = {}

  def check(self) -> None:
    """Refuses a config, or data, other than what the phases that are there were made with.

    Raises:
      ValueError: names the fields, and what of the data changed.
    """
    for phase in self._config.phases:
      for known in (phase, *self._rests_on(phase)):
        if record := self.read(known):
          self._refuse_other_config(known, record, _INPUTS[phase])
    self._refuse_other_content()

  def read(self, phase: str) -> dict[str, Any]:
    """The record of a phase; empty where it has not begun."""
    try:
      with open(self.path(phase), encoding='utf-8') as file:
        return json.load(file)
    except FileNotFoundError:
      return {}
    except ValueError as error:
      raise ValueError(
        f'{self.path(phase)} is damaged: remove it to have the phase {phase!r} done again'
      ) from error

  def path(self, phase: str) -> str:
    return f'{self._workdir}/phases/{phase}.json'

  def begin(self, phase: str) -> None:
    self._write(phase, {'finished': False})

  def finish(self, phase: str, seconds: float) -> None:
    devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
    self._write(
      phase, {'finished': True, 'seconds': seconds, 'jax': jax.__version__, 'devices': devices}
    )

  def _write(self, phase, state):
    record = {'config': self._inputs(phase), **state, 'content': self._content(phase)}
    files.write_json(record, self.path(phase))

  def _inputs(self, phase) -> dict[str, Any]:
    fields = self._config.to_dict()
    # What JSON gives back: tuples are lists there.
    return json.loads(json.dumps({name: fields[name] for name in _INPUTS[phase]}))

  def _rests_on(self, phase: str) -> tuple[str, ...]:
    """The phases of this workdir from whose files a phase goes on, whether or not they are of this run."""
    if phase not in _CHAIN or (phase == 'report' and self._config.results):
      return ()
    earlier = _CHAIN[: _CHAIN.index(phase)]
    return tuple(name for name in earlier if not (self._config.pool and name in _OF_POOL))

  def _refuse_other_config(self, phase, record, fields):
    """Refuses where a phase was made with other values of those fields that it depends on."""
    now = {name: value for name, value in self._inputs(phase).items() if name in fields}
    # A record may hold a field that no result depends on, such as the pool's bytes.
    before = {name: value for name, value in record['config'].items() if name in now}
    if record.get('content') is None:
      logging.info(
        '%s was made before the content of data was kept: only its config is compared',
        self.path(phase),
      )
    differing = [
      text
      for name, text in differences(before, now, 'is', 'was').items()
      if not _met_none(phase, record, name) and not self._is_same_place(name, before, now)
    ]
    if differing:
      own = f'{self._workdir}/pool.json'
      only_chooses = phase in _OF_POOL and not set(_OF_POOL) & set(self._config.phases)
      given = f' with --config.pool={own}' if only_chooses and os.path.exists(own) else ''
      raise ValueError(
        f'{self._workdir} holds the phase {phase!r} of another config; these fields differ: {", ".join(differing)}. '
        f'Take another --workdir{given}, or the old values'
      )

  def _is_same_place(self, name, before, now) -> bool:
    """Whether two values are one path, or paths whose content is compared instead."""
    if name not in self._paths():
      return False
    old, new = (str(configs.leaves(part).get(name, '')) for part in (before, now))
    if not (old and new) or (sources.own(old) is None) != (sources.own(new) is None):
      return False
    return self._real(old) == self._real(new) or self._is_compared(name)

  def _is_compared(self, name: str) -> bool:
    """Whether some phase kept the content of a field, which `_refuse_other_content` then holds against that of now."""
    kept = any(name in (self.read(phase).get('content') or {}) for phase in _INPUTS)
    looks = dict(self._looks(name.partition('.')[0])) if kept else {}
    return name in looks and bool(self._see(name, looks[name]))

  def _paths(self) -> set[str]:
    data = {'upstream.data', *(f'tasks.{name}.data' for name in self._config.get('tasks', {}))}
    fields = configs.leaves(self._config.to_dict())
    lying = {name for name in data if sources.own(str(fields.get(name, ''))) is not None}
    single = {'pool', 'upstream.init_from', 'results', 'paper', 'images'}
    return lying | single | ({'model'} if 'model' in fields else set())

  def _real(self, value: str) -> str:
    own = sources.own(value)
    start, path = ('', value) if own is None else (self._config.get('data_dir', ''), own)
    return os.path.realpath(os.path.join(os.path.expanduser(start), os.path.expanduser(path)))

  def _refuse_other_content(self):
    for phase in self._config.phases:
      self._content(phase)
    found = {name: content for name, content in self._seen.items() if content}
    # Of all that is there: what a phase before read is what this run's rest on.
    for phase in _INPUTS:
      known = self.read(phase).get('content') or {}
      differing = [
        f'{name}: {", ".join(changes)}'
        for name in found
        if name in known and (changes := changed(known[name], found[name]))
      ]
      if differing:
        raise ValueError(
          f'{self._workdir} holds the phase {phase!r} of other data: {"; ".join(differing)}. '
          'Take another --workdir, or put back what was there'
        )

  def _content(self, phase) -> dict[str, Any]:
    """Field -> part -> name -> 'number digest' of what a phase reads; without what is not there."""
    found = {}
    for section in _READS[phase]:
      for name, look in self._looks(section):
        if content := self._see(name, look):
          found[name] = content
    return found

  def _see(self, name, look) -> dict[str, Any]:
    """What a look at the data of a field finds; once a run."""
    if name not in self._seen:
      self._seen[name] = {
        part: {key: f'{number} {digest}' for key, (number, digest) in content.items()}
        for part, content in look().items()
      }
    return self._seen[name]

  def _looks(self, section: str) -> Iterator[tuple[str, Callable[[], dict[str, contents.Content]]]]:
    """The fields of a section that name data, each with what looks at it."""
    config = self._config
    if section == 'upstream':
      yield 'upstream.data', functools.partial(_of_upstream, config.upstream, config.data_dir)
      yield 'upstream.init_from', functools.partial(_of_file, config.upstream.init_from)
    elif section == 'tasks':
      for name, task in config.tasks.items():
        yield f'tasks.{name}.data', functools.partial(_of_task, name, task, config.data_dir)
    elif section == 'images':
      yield section, functools.partial(_of_images, config.images)
    elif section == 'pool':
      yield section, functools.partial(_of_pool, config.pool)
    else:
      yield section, functools.partial(_of_file, config[section])


def differences(before: Record, now: Record, is_: str, was: str) -> dict[str, str]:
  """The fields in which two configs differ, each with both values in words."""
  before, now = configs.leaves(before), configs.leaves(now)
  before = {name: value for name, value in configs.SINCE.items() if name in now} | before
  return {
    name: f'{name} ({was} {before.get(name)!r}, {is_} {now.get(name)!r})'
    for name in sorted({*before, *now})
    if before.get(name) != now.get(name)
  }


def changed(before: Record, now: Record) -> list[str]:
  """What differs between two contents, in words: part by part, the number of images or files of each name."""
  several = len({*before, *now}) > 1
  found = []
  for part in sorted({*before, *now}):
    prefix = f'{part}: ' if several and part else ''
    if part not in before or part not in now:
      found.append(f'the split {part!r} is {"gone" if part in before else "new"}')
      continue
    words = _changed_names(before[part], now[part])
    found += [prefix + some(words)] if words else []
  return found


def _changed_names(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
  words = []
  for name in sorted({*before, *now}, key=str):
    (old, then), (new, digest) = (side.get(name, '0 ').split(' ') for side in (before, now))
    old, new = int(old), int(new)
    of = f' of {name!r}' if name else ''
    many = max(abs(new - old), 1)
    noun = f'{many} image{"s" if many > 1 else ""}'
    verb = 'are' if many > 1 else 'is'
    if name.startswith(('model ', 'file ')):
      state = 'is new' if name not in before else 'is gone' if name not in now else 'is another'
      words += [f'the {name} {state}'] if then != digest else []
    elif new != old:
      words.append(f'{noun}{of} {verb} {"new" if new > old else "gone"}')
    elif name not in now or name not in before:
      words.append(f'the class {name!r} is {"gone" if name in before else "new"}')
    elif then != digest:
      words.append(f'images{of} are others' if of else 'its content is another')
  return words


def _met_none(phase: str, record: Record, name: str) -> bool:
  """Whether a field says what to do with undecodable images, of which a phase that has finished met none.

  Not so of tasks: those of prepared images are drawn otherwise once they were looked at.
  """
  raised = record['config'].get('image', {}).get('undecodable') == 'raise'
  return name == 'image.undecodable' and phase in _OF_POOL and raised and record['finished']


def _of_upstream(section: Config, data_dir: str) -> dict[str, contents.Content]:
  return _of_splits(section.data, (section.train, section.test), data_dir)


def _of_task(name: str, section: Config, data_dir: str) -> dict[str, contents.Content]:
  # Imported where used: scikit-learn, which draws splits, takes seconds that a run without tasks need not pay.
  from experts.data import splits

  if sources.is_drawn(section.data):
    return {}
  try:
    train = sources.open_dataset(section.data, section.train, data_dir)
    others = splits.other_splits(name, section, train)
    content = train.content()
  except (ValueError, OSError):
    return {}
  found = {section.train: content} if content else {}
  return found | _of_splits(section.data, others, data_dir)


def _of_splits(data: str, names: Iterable[str], data_dir: str) -> dict[str, contents.Content]:
  """Split -> content; the phase itself says of what is not there that it is not."""
  found = {}
  for split in filter(None, () if sources.is_drawn(data) else names):
    with contextlib.suppress(ValueError, OSError):
      if content := sources.open_dataset(data, split, data_dir).content():
        found[split] = content
  return found


def _of_file(path: str) -> dict[str, contents.Content]:
  path = os.path.expanduser(path)
  if not path or not os.path.exists(path):
    return {}
  if not os.path.isdir(path):
    return {'': {'': (1, contents.of_path(path))}}
  # Results or a model; a workdir holds more, which is written all the time.
  names = [name for name in os.listdir(path) if name.endswith(_RESULTS) and name != lock.NAME]
  return {'': {f'file {name}': (1, contents.of_path(f'{path}/{name}')) for name in names}}


def _of_images(path: str) -> dict[str, contents.Content]:
  try:
    return {'': image_files.open_unlabelled(path).content()}
  except (OSError, ValueError):
    return {}


def _of_pool(path: str) -> dict[str, contents.Content]:
  """The models of a pool file: what it says of them, and their files."""
  path = os.path.expanduser(path)
  try:
    found = {'model': (1, contents.of_text(json.dumps(pool.read_model(path), sort_keys=True)))}
    listed = pool.read(path)
  except (OSError, ValueError):
    return {}
  for member in listed:
    said = dataclasses.replace(member, weights='', backbone=None)
    files = [os.path.join(os.path.dirname(path), f) for f in (member.weights, member.backbone) if f]
    digests = [contents.of_path(file) for file in files if os.path.exists(file)]
    found[f'model {member.name}'] = (1, contents.of_text(f'{said} {digests}'))
  return {'': found}
