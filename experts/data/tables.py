"""Labels in a table beside the images: labels.csv, metadata.csv or metadata.jsonl.

Its columns are `file`, `file_name` or `path`, relative to the table; `label`; and, where wanted, `split` and `group`.
All are text. A group that holds whole classes is their parent in the is-a graph; else its images belong together.
"""

import collections
import csv
import dataclasses
import functools
import io
import json
import os
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence

from experts.data.layouts import Arrangement, Labelled, Path, split_of
from experts.data.listings import File, Listing, is_image
from experts.data.names import printable, some

NAMES = ('labels.csv', 'metadata.csv', 'metadata.jsonl')
_FILE = ('file', 'file_name', 'path')
_KNOWN = (*_FILE, 'label', 'split', 'group')


@dataclasses.dataclass(frozen=True)
class _Row:
  line: int
  file: str
  label: str
  split: str
  group: str


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of labels.

  Attributes:
    file: where it lies.
    rows: its rows; none if it lacks the columns.
    columns: the names of its columns.
    usable: whether it has the columns that tell files and labels.
  """

  file: File
  rows: tuple[_Row, ...]
  columns: tuple[str, ...]
  usable: bool


def find(listing: Listing) -> dict[Path, list[Table]]:
  """All tables of a source, by their folder.

  Raises:
    ValueError: one cannot be read; names it and the line.
  """
  found = collections.defaultdict(list)
  for file in listing.files:
    if file.name.lower() in NAMES:
      found[file.parts[:-1]].append(_read(file))
  return dict(found)


def places(listing: Listing, found: Mapping[Path, Sequence[Table]], root: Path) -> list[Path]:
  """The folders whose tables tell the labels: the one that the layout begins in, or those of splits in it."""
  if _usable(found, root):
    return [root]
  folders = {
    file.parts[: len(root) + 1] for file in listing.files if len(file.parts) > len(root) + 1
  }
  return sorted(folder for folder in folders if split_of(folder[-1]) and _usable(found, folder))


def arrange(
  listing: Listing, found: Mapping[Path, Sequence[Table]], root: Path, where: Sequence[Path]
) -> Arrangement:
  """Tells splits and classes by the tables in some folders.

  Args:
    listing: what is there.
    found: all tables.
    root: the folder that the layout begins in.
    where: the folders, as `places` tells.

  Raises:
    ValueError: two tables or rows contradict each other, or none of the files is there.
  """
  result, files = Arrangement(), _index(listing)
  rows: dict[Path, _Row] = {}
  for place in where:
    table, *others = _usable(found, place)
    if others:
      raise ValueError(f'{table.file.where}: {others[0].file.where} has labels too: remove one')
    _add(result, rows, listing, files, table, split_of(place[-1]) if place != root else '')
  names = some(map(printable, sorted({found[place][0].file.name for place in where})))
  left = sum(is_image(file.name) and file.parts not in rows for file in listing.files)
  if left:
    result.left_out[f'not in {names}'] += left
  _class_groups(result)
  result.splits = {image.split for image in result.images}
  result.images.sort(key=lambda image: image.file.parts)
  return result


def notes(found: Mapping[Path, Sequence[Table]], where: Sequence[Path]) -> list[str]:
  """A line on each table that tells no labels, and on what is not used of those in the folders that do."""
  lines = []
  for folder, table in ((folder, table) for folder, each in found.items() for table in each):
    unknown = [name for name in table.columns if name and name not in _KNOWN]
    if not table.usable:
      lines.append(
        f'{table.file.where}: is not used: it has no columns file (or file_name, path) and label'
      )
    elif folder not in where:
      lines.append(
        f'{table.file.where}: is not used: it lies neither beside all images nor beside those of a split'
      )
    elif unknown:
      lines.append(
        f'{table.file.where}: columns that are not used: {some(map(printable, unknown))}'
      )
  return lines


def _usable(found: Mapping[Path, Sequence[Table]], place: Path) -> list[Table]:
  return [table for table in found.get(place, ()) if table.usable]


def _read(file: File) -> Table:
  try:
    text = _text(file.read(None))
    columns, rows = _json(text) if file.name.lower().endswith('.jsonl') else _csv(text)
  except (OSError, ValueError, csv.Error) as error:
    raise ValueError(f'{file.where}: cannot be read as a table: {error}') from error
  name = next((name for name in _FILE if name in columns), '')
  usable = bool(name) and 'label' in columns
  kept = (name, 'label', 'split', 'group')
  parsed = [
    _Row(line, *(row.get(column, '').strip() for column in kept)) for line, row in rows if usable
  ]
  return Table(file, tuple(parsed), tuple(columns), usable)


def _text(data: bytes) -> str:
  # What Excel writes as text; its CSVs begin with a mark, too, or are in the system's old encoding.
  if data.startswith((b'\xff\xfe', b'\xfe\xff')):
    return data.decode('utf-16')
  return data.removeprefix(b'\xef\xbb\xbf').decode('utf-8', 'surrogateescape')


def _csv(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
  separator = ''
  if text.startswith('sep=') and text[5:6] in ('\r', '\n'):
    separator, text = text[4], text[5:].lstrip('\r\n')
  head = text.lstrip().partition('\n')[0]
  separator = separator or max(',;\t', key=head.count)
  reader = csv.reader(io.StringIO(text, newline=''), delimiter=separator)
  columns: list[str] = []
  rows = []
  for cells in reader:
    if not any(cell.strip() for cell in cells):
      continue
    if not columns:
      columns = [cell.strip().lower() for cell in cells]
      twice = [name for name, number in collections.Counter(columns).items() if name and number > 1]
      if twice:
        raise ValueError(f'column {printable(twice[0])!r} is there twice')
    elif len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
      raise ValueError(f'line {reader.line_num} has {len(cells)} cells, the first {len(columns)}')
    else:
      rows.append((reader.line_num, dict(zip(columns, cells))))
  return columns, rows


def _json(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
  columns: dict[str, None] = {}
  rows = []
  for line, content in enumerate(text.split('\n'), 1):
    if not content.strip():
      continue
    try:
      # Numbers as they are written: 007 is none, and 1e5 is not 100000.0.
      row = json.loads(content, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
      raise ValueError(f'line {line} is no JSON') from error
    if not isinstance(row, dict):
      raise ValueError(f'line {line} is no object {{"file_name": …, "label": …}}')
    row = {name.strip().lower(): _plain(value) for name, value in row.items()}
    odd = [name for name in _KNOWN if not isinstance(row.get(name, ''), str)]
    if odd:
      raise ValueError(f'line {line}: {odd[0]!r} is neither text nor a number')
    columns |= dict.fromkeys(row)
    rows.append((line, {name: value for name, value in row.items() if name in _KNOWN}))
  return list(columns), rows


def _plain(value: object) -> object:
  return '' if value is None else str(value).lower() if isinstance(value, bool) else value


def _index(listing: Listing) -> dict[Path, File]:
  """The files by their path, and by the path as other systems spell its accents."""
  spelled = {_spelling(file.parts): file for file in listing.files}
  return spelled | {file.parts: file for file in listing.files}


def _spelling(parts: Path) -> Path:
  return tuple(unicodedata.normalize('NFC', part) for part in parts)


def _add(
  result: Arrangement,
  rows: dict[Path, _Row],
  listing: Listing,
  files: Mapping[Path, File],
  table: Table,
  split: str,
) -> None:
  """Adds the images of a table that is within the folder of a split, if `split` is not ''."""
  where, name = table.file.where, table.file.name
  missing, unlabelled, unsplit, again = [], [], [], []
  chosen = []
  for row in table.rows:
    if not row.file:
      raise ValueError(f'{where}: line {row.line} names no file')
    file = _find(listing, files, table, row)
    first = rows.setdefault(file.parts, row)
    if (first.label, first.split) != (row.label, row.split):
      raise ValueError(
        f'{where}: {printable(row.file)!r} is there twice, in lines {first.line} and {row.line},'
        f' with other labels or splits: remove one'
      )
    if first is not row:
      again.append(row.file)
    elif not row.label:
      unlabelled.append(row.file)
    elif not row.split and 'split' in table.columns:
      unsplit.append(row.file)
    else:
      chosen.append((file, row))
      missing += [row.file] if file.parts not in files else []
  if chosen and len(missing) == len(chosen):
    raise ValueError(
      f'{where}: none of its {len(chosen)} files is there, the first {printable(missing[0])!r}:'
      ' names are relative to the table'
    )
  splits = _splits(table, [row for _, row in chosen], split)
  for (file, row), own in zip(chosen, splits):
    result.images.append(Labelled(file, own, (row.label,), row.group))
  for names, what, reason in (
    (unlabelled, 'without a label are left out', f'without a label in {name}'),
    (unsplit, 'without a split are left out', f'without a split in {name}'),
    (again, 'are in more than one row', ''),
    (missing, 'are not there', ''),
  ):
    if names:
      result.notes.append(f'{where}: {len(names)} files {what}: {some(map(printable, names))}')
      result.left_out[reason] += len(names) if reason else 0
  del result.left_out['']


def _splits(table: Table, rows: Sequence[_Row], split: str) -> list[str]:
  """Of each row the split: as it tells, else that of the folder of the table or, for all, of the files, else train."""
  # Where every file lies in the folder of a split, and nothing else tells.
  inner = [split_of(row.file.replace('\\', '/').split('/')[0]) for row in rows]
  by_folder = all(inner) and 'split' not in table.columns and not split
  return [
    split_of(row.split) or printable(row.split) or (below if by_folder else split or 'train')
    for row, below in zip(rows, inner)
  ]


def _find(listing: Listing, files: Mapping[Path, File], table: Table, row: _Row) -> File:
  """The file that a row names; one that cannot be read where there is none."""
  folder = '/'.join(table.file.parts[:-1])
  name = row.file
  for spelled in (name, name.replace('\\', '/')):
    if os.path.isabs(spelled) and not os.path.isfile(listing.root):
      spelled = os.path.relpath(spelled, os.path.join(listing.root, folder))
    path = posixpath.normpath(posixpath.join(folder, spelled))
    if path.startswith(('../', '/')) or path in ('.', '..'):
      raise ValueError(
        f'{table.file.where}: line {row.line}: {printable(name)!r} leaves the folder'
      )
    parts = tuple(path.split('/'))
    if file := files.get(parts) or files.get(_spelling(parts)):
      return file
  root = printable(listing.root)
  if os.path.isfile(listing.root):
    read = functools.partial(_gone, row.line, table.file.name)
    return File(parts, read, listing.root, f'{root}:{printable(path)}')
  where = os.path.join(listing.root, *parts)
  return File(parts, functools.partial(_gone, row.line, table.file.name), where, printable(where))


def _gone(line: int, name: str, limit: int | None) -> bytes:
  raise ValueError(f'is in line {line} of {name}, but not there')


def _class_groups(result: Arrangement) -> None:
  """Groups that hold whole classes become the classes' parents."""
  group_of = collections.defaultdict(set)
  for image in result.images:
    group_of[image.folder[-1]].add(image.group)
  if all(len(groups) == 1 and '' not in groups for groups in group_of.values()):
    result.images = [
      Labelled(image.file, image.split, (image.group, *image.folder)) for image in result.images
    ]
