"""Which of the papers' 25 tasks are prepared, and what prepares the others.

python -m experts.data.doctor [--data_dir=DIR] [--tasks=dtd,svhn,pets] [--json]

Reads what the folders say about themselves, so it takes a second or two, and TensorFlow is not imported.
"""

import dataclasses
import difflib
import glob
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import tabulate
import tensorflow_datasets as tfds
from absl import app, flags, logging

from experts import entry
from experts.data import listings, natural6, prepared, vtab

# What a row's `state` may be, and what it means to the reader.
STATES = {
  'prepared': '',
  'missing': 'not there',
  'unfinished': 'preparing it was broken off',
  'damaged': 'files are missing or empty',
  'other version': 'not of a version that the protocol allows',
  'other sizes': 'prepared, but results will not compare with published ones',
}


@dataclasses.dataclass
class Row:
  """What there is of one task.

  Attributes:
    task: as configs name it, e.g. 'vtab:dtd'.
    group: of VTAB's tasks; 'natural6'.
    state: a key of STATES.
    version: that is prepared, or that TFDS would prepare; of folders: empty.
    format: 'array_record', 'tfrecord' or 'folder'; empty where there is none.
    bytes: on the disk, of the whole data set, which several tasks may share.
    folder: where it is, or would be.
    download: how much there is to download, in words; empty for what is there.
    manual: the page from which to download by hand; empty if TFDS downloads it.
    manual_folder: where TFDS looks for what is downloaded by hand; empty for folders.
    command: the command that prepares it; empty for what is there, and for folders.
    note: what else there is to say.
  """

  task: str
  group: str
  state: str = 'missing'
  version: str = ''
  format: str = ''
  bytes: int = 0
  folder: str = ''
  download: str = ''
  manual: str = ''
  manual_folder: str = ''
  command: str = ''
  note: str = ''


def examine(names: Sequence[str] = (), data_dir: str = '') -> list[Row]:
  """Looks at tasks, without reading their images.

  Args:
    names: of tasks, e.g. 'dtd', 'vtab:dtd' or 'pets'; 'vtab' and 'natural6' stand for all of theirs; none: all.
    data_dir: as in configs; empty: the working folder, and TFDS's own default.

  Raises:
    ValueError: an unknown task, lists the known; a data_dir that is no folder.
  """
  if os.path.isfile(os.path.expanduser(data_dir)):
    raise ValueError(f'{data_dir} is a file: --data_dir is the folder that holds the data sets')
  rows = []
  for spec in _specs(names):
    scheme, _, name = spec.partition(':')
    try:
      rows.append((_vtab if scheme == 'vtab' else _natural6)(name, data_dir))
    except Exception as error:  # a damaged dataset_info.json raises many kinds
      line = (str(error).strip() or type(error).__name__).splitlines()[0]
      group = vtab.TASKS[name].group if scheme == 'vtab' else scheme
      rows.append(Row(spec, group, 'damaged', note=line))
  return rows


def _specs(names: Sequence[str]) -> list[str]:
  known = {'vtab': [f'vtab:{name}' for name in vtab.TASKS]}
  known['natural6'] = [f'natural6:{name}' for name in natural6.TASKS]
  everything = known['vtab'] + known['natural6']
  known |= {spec: [spec] for spec in everything} | {s.partition(':')[2]: [s] for s in everything}
  for name in names:
    if name not in known:
      near = difflib.get_close_matches(name, known, 1)
      hint = f' (did you mean {near[0]}?)' if near else ''
      raise ValueError(
        f'no task {name!r}{hint}; there are vtab, natural6, {", ".join((*vtab.TASKS, *natural6.TASKS))}'
      )
  chosen = [spec for name in names for spec in known[name]] or everything
  return list(dict.fromkeys(chosen))


def _vtab(name: str, data_dir: str) -> Row:
  task = vtab.TASKS[name]
  row = Row(f'vtab:{name}', task.group)
  try:
    builder = vtab.choose_builder(name, data_dir)
  except vtab.OtherVersion as error:
    row.note = (
      f'the protocol has {error.wanted}: write vtab:{name}@{error.version} to use {error.version}'
    )
    builder = vtab.choose_builder(f'{name}@{error.version}', data_dir)
  _fill(row, builder, task.splits, task.counts)
  if row.note and row.state == 'prepared':
    row.state = 'other version'
  return row


def _natural6(name: str, data_dir: str) -> Row:
  task = natural6.TASKS[name]
  row = Row(f'natural6:{name}', 'natural6')
  folder = task.folder(data_dir)
  if os.path.isdir(folder):
    row.folder, row.format, row.bytes = folder, 'folder', _bytes(folder)
    row.state = 'prepared'
    found = _images(folder)
    for split, number in found.items():
      _compare(row, split, number, task.counts)
    empty = [split for split, number in found.items() if not number]
    if empty:
      row.state, row.note = 'damaged', f'{folder} holds no {empty[0]}/CLASS/FILE'
  elif builder := natural6.choose_builder(name, data_dir):
    _fill(row, builder, task.splits, task.counts)
  if row.state == 'missing' and (task.gone or not task.tfds):
    # TFDS's command would end in an error.
    row = Row(row.task, row.group, folder=folder, download='size unknown', manual=task.page)
    row.note = natural6.how_to_prepare(task, data_dir)
  return row


def _images(folder: str) -> dict[str, int]:
  """How many images each split of a folder has."""
  found = dict.fromkeys(('train', 'validation', 'test'), 0)
  for parts, files in listings.walk(pathlib.Path(folder)):
    if len(parts) > 1 and parts[0] in found:
      found[parts[0]] += sum(map(listings.is_image, files))
  return found | {'train_validation': found['train'] + found['validation']}


def _fill(
  row: Row,
  builder: tfds.core.DatasetBuilder,
  splits: dict[str, str],
  counts: dict[str, int],
) -> None:
  """What TFDS has of a data set."""
  row.version = str(builder.version)
  row.folder = str(builder.data_dir)
  if builder.info.initialized:
    row.format = builder.info.file_format.value
    row.bytes = _bytes(row.folder)
    row.state = 'prepared'
    files = [str(f) for split in builder.info.splits.values() for f in split.filepaths]
    gone = [path for path in files if not os.path.isfile(path) or not os.path.getsize(path)]
    if gone:
      row.state = 'damaged'
      _add(row, f'{len(gone)} of {len(files)} files, {gone[0]} first; remove {row.folder}, then')
      row.command = prepared.command(builder)
      return
    for split, expression in splits.items():
      _compare(row, split, builder.info.splits[expression].num_examples, counts)
    return
  unfinished = _unfinished(row.folder)
  if unfinished:
    row.state, row.bytes = 'unfinished', _bytes(unfinished)
    _add(row, f'{unfinished} may be removed')
  row.download = prepared.download_size(builder)
  row.command = prepared.command(builder)
  row.manual = prepared.manual_page(builder)
  row.manual_folder = prepared.manual_folder(builder) if row.manual else ''


def _compare(row: Row, split: str, found: int, counts: dict[str, int]) -> None:
  if found != counts.get(split, found) and row.state == 'prepared':
    row.state = 'other sizes'
    _add(row, f'{split} has {found} images, the papers had {counts[split]}')


def _add(row: Row, note: str) -> None:
  row.note = f'{row.note}; {note}' if row.note else note


def _unfinished(folder: str) -> str:
  """The folder in which TFDS was preparing a version when it ended."""
  parent, version = map(glob.escape, os.path.split(folder))
  begun = sorted(glob.glob(os.path.join(parent, f'incomplete.*_{version}')))
  return begun[0] if begun else ''


def _bytes(folder: str) -> int:
  return sum(
    os.lstat(os.path.join(root, file)).st_size
    for root, _, files in os.walk(folder)
    for file in files
  )


def render(rows: Sequence[Row]) -> str:
  """A table of tasks, and below it what there is to do."""
  table = tabulate.tabulate(
    [(r.task, r.group, r.state, r.version, r.format, _size(r.bytes)) for r in rows],
    ('task', 'group', 'state', 'version', 'format', 'on disk'),
    disable_numparse=True,
    colalign=('left', 'left', 'left', 'left', 'left', 'right'),
  )
  parts = [table]
  todo: dict[str, list[Row]] = {}
  for row in rows:
    if row.state != 'prepared':
      todo.setdefault(row.folder or row.task, []).append(row)
  for group in todo.values():
    parts.append('\n'.join(_advice(group)))
  there = sum(row.state in ('prepared', 'other sizes') for row in rows)
  total = sum({row.folder: row.bytes for row in rows}.values())
  parts.append(f'{there} of {len(rows)} tasks are prepared, {_size(total) or "0 MiB"} on disk.')
  parts.append(_next(rows))
  return '\n\n'.join(parts)


def _advice(rows: Sequence[Row]) -> list[str]:
  """What to do about a data set, in lines; `rows` are its tasks."""
  first = rows[0]
  lines = [f'{", ".join(row.task for row in rows)}: {STATES[first.state]}']
  if first.download:
    lines[0] += f' ({first.download})'
  # Notes of tasks that share a data set differ where a name is in them.
  lines += [f'  {note}' for note in dict.fromkeys(row.note for row in rows) if note]
  if first.manual_folder:
    lines.append(f'  download by hand: {first.manual} into {first.manual_folder}')
  if first.command:
    lines.append(f'  {first.command}')
  return lines


def _next(rows: Sequence[Row]) -> str:
  if any(row.state in ('missing', 'unfinished', 'damaged') for row in rows):
    ready = [r.task.partition(':')[2] for r in rows if r.state == 'prepared' and 'vtab' in r.task]
    also = f' Or begin with what is there: --config=configs/vtab_knn.py:{",".join(ready)}'
    return f'Next: run the commands above, then this one again.{also if ready else ""}'
  if any(row.state == 'other version' for row in rows):
    return 'Next: name the other versions in the config, as said above, or prepare those of the protocol.'
  return 'Next: python main.py --config=configs/vtab_knn.py --workdir=WORKDIR --config.pool=POOL'


def _size(count: int) -> str:
  if not count:
    return ''
  return f'{count / 2**30:.2f} GiB' if count >= 2**29 else f'{max(count / 2**20, 0.1):.1f} MiB'


_DATA_DIR = flags.DEFINE_string(
  'data_dir', '', "Where the data is; empty: TFDS's own default, and the working folder."
)
_TASKS = flags.DEFINE_list(
  'tasks', [], 'Some of the tasks, or vtab, or natural6; none: all of them.'
)
_JSON = flags.DEFINE_bool('json', False, 'Prints the rows as JSON.')


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    sys.exit(f'error: {argv[1]!r} is no flag; did you mean --tasks={argv[1]}?')
  logging.set_verbosity(logging.ERROR)
  rows = examine(_TASKS.value, _DATA_DIR.value)
  print(
    json.dumps([dataclasses.asdict(r) for r in rows], indent=2) if _JSON.value else render(rows)
  )


if __name__ == '__main__':
  with entry.guard():
    app.run(main)
