"""Every file in a folder, a tar or a zip archive, and how to read it; nothing is unpacked to disk."""

import collections
import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import stat
from collections.abc import Callable, Iterator

from experts.data import pixels
from experts.data.names import printable

_SUFFIXES = tuple(
  f'.{name}'
  for name in ('avif', 'bmp', 'gif', 'jfif', 'jpe', 'jpeg', 'jpg', 'jp2', 'pbm', 'pgm', 'png')
  + ('pnm', 'ppm', 'tif', 'tiff', 'webp')
)
# Image formats that people hand in and that nothing here reads.
_OTHER_IMAGES = ('arw', 'cr2', 'cr3', 'dng', 'exr', 'hdr', 'ico', 'jxl', 'nef', 'orf', 'psd', 'raf')
_OTHER_IMAGES += ('raw', 'rw2', 'svg', 'tga')
# What file managers, NAS boxes and synchronisers leave behind, besides names that begin with a dot.
_SYSTEM = (
  'thumbs.db',
  'ehthumbs.db',
  'desktop.ini',
  'icon\r',
  '__macosx',
  '$recycle.bin',
  'recycler',
)
_SYSTEM += ('system volume information', 'lost+found', '@eadir', '@recycle', '@sharebin')
_SYSTEM += ('@recently-snapshot', '#recycle', '#snapshot', '~snapshot')

SYSTEM_FILES = 'system files'
REFUSED = 'links, devices or paths that leave the archive'


@dataclasses.dataclass(frozen=True, slots=True)
class File:
  """A file of a source.

  Attributes:
    parts: its path below the source's root, as bytes that are no UTF-8 are escaped by Python.
    read: how many bytes (None for all) -> the first of them. Raises OSError, or ValueError with a reason in words.
    within: the file on disk that holds it: itself, or the archive.
    where: what messages call it: its path on disk, or archive:member.
  """

  parts: tuple[str, ...]
  read: Callable[[int | None], bytes]
  within: str
  where: str

  @property
  def name(self) -> str:
    return self.parts[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
  """What lies below a root.

  Attributes:
    root: the folder or archive.
    files: all files but those of systems, in the order of their paths.
    folders: all folders, the root's own path `()` and empty ones included.
    passed: why files were passed over -> how many.
    notes: a line on each thing of which the user should know.
  """

  root: str
  files: tuple[File, ...]
  folders: frozenset[tuple[str, ...]]
  passed: collections.Counter[str]
  notes: tuple[str, ...]


def is_system(name: str) -> bool:
  """Whether a file or folder is one that some system leaves behind, by its name."""
  return name.startswith(('.', '~$')) or name.lower() in _SYSTEM


def is_image(name: str) -> bool:
  """Whether a file is an image that can be read, by its name."""
  return not is_system(name) and name.lower().endswith(_readable())


def _readable() -> tuple[str, ...]:
  return _SUFFIXES + (pixels.HEIF_SUFFIXES if pixels.pillow_heif else ())


def why_not(name: str) -> str:
  """Why a file is not read as an image; '' if it is."""
  if is_image(name):
    return ''
  suffix = pathlib.PurePath(printable(name)).suffix
  if not suffix:
    return 'no suffix'
  if suffix.lower() in pixels.HEIF_SUFFIXES:
    return f'{suffix} (needs pillow-heif)'
  if suffix.lower()[1:] in _OTHER_IMAGES:
    return f'{suffix} (not read)'
  return f'not an image: {suffix}'


def walk(root: str | os.PathLike) -> Iterator[tuple[tuple[str, ...], list[str]]]:
  """Every folder below a root that is not a system's, in order: (its path's parts, the names of its files)."""
  for parts, entries, _ in _walk(os.fspath(root), lambda path, error: None):
    yield parts, [entry.name for entry in entries]


def read_folder(root: str) -> Listing:
  """Lists a folder, following links, but not in circles."""
  files, folders, notes = [], set(), []
  passed: collections.Counter[str] = collections.Counter()

  def closed(path: str, error: OSError) -> None:
    notes.append(f'{printable(path)}: cannot be opened ({error.strerror}): nothing in it is read')

  for parts, entries, left in _walk(root, closed):
    folders.add(parts)
    passed[SYSTEM_FILES] += sum(map(_count, left))
    for entry in entries:
      # A dangling link is an image that cannot be read.
      if _is_file(entry) or not os.path.exists(entry.path):
        files.append(_on_disk((*parts, entry.name), entry.path))
      else:
        passed['pipes, sockets or devices'] += 1
  files.sort(key=lambda file: file.parts)
  return Listing(root, tuple(files), frozenset(folders), +passed, tuple(notes))


def read_file(path: str) -> Listing:
  """Lists a single file."""
  parts = (os.path.basename(path),)
  return Listing(
    os.path.dirname(path), (_on_disk(parts, path),), frozenset([()]), collections.Counter(), ()
  )


def _on_disk(parts: tuple[str, ...], path: str) -> File:
  return File(parts, functools.partial(_read, path), path, printable(path))


def _walk(
  root: str, closed: Callable[[str, OSError], None]
) -> Iterator[tuple[tuple[str, ...], list[os.DirEntry], list[os.DirEntry]]]:
  """Every folder, in order: (its path's parts, its entries that are no folders, those of systems)."""
  # Links are followed, since large data sets are often arranged by links. Those that lead to a folder above are not.
  above = frozenset(_identity(path) for path in pathlib.Path(os.path.realpath(root)).parents)
  todo = [(root, (), above)]
  while todo:
    path, parts, above = todo.pop()
    try:
      within = above | {_identity(path)}
      with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
      closed(path, error)
      continue
    left = [entry for entry in entries if is_system(entry.name)]
    entries = [entry for entry in entries if not is_system(entry.name)]
    folders, others = [], []
    for entry in entries:
      (folders if _is_folder(entry) else others).append(entry)
    yield parts, others, left
    for entry in reversed(folders):
      if not entry.is_symlink() or _identity(entry.path) not in within:
        todo.append((entry.path, (*parts, entry.name), within))


def _is_folder(entry: os.DirEntry) -> bool:
  with contextlib.suppress(OSError):  # of a link to itself
    return entry.is_dir()
  return False


def _is_file(entry: os.DirEntry) -> bool:
  with contextlib.suppress(OSError):
    return entry.is_file()
  return False


def _identity(path: str | os.PathLike) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_dev, status.st_ino


def _count(entry: os.DirEntry) -> int:
  """How many files an entry of a system is."""
  if not entry.is_dir(follow_symlinks=False):
    return 1
  return sum(len(names) for _, _, names in os.walk(entry.path))


def _read(path: str, limit: int | None) -> bytes:
  # Without waiting, should it have become a pipe.
  descriptor = os.open(
    path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0)
  )
  with open(descriptor, 'rb') as file:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
      raise ValueError('is no file')
    if limit is None and status.st_size > pixels.MAX_BYTES:
      raise ValueError(too_large(status.st_size))
    return file.read(-1 if limit is None else limit)


def too_large(size: int) -> str:
  """Why a file of so many bytes is not read."""
  return f'has {size:,} bytes, more than {pixels.MAX_BYTES:,}, and is refused for its size'


def load(file: File) -> bytes:
  """The bytes of an image.

  Raises:
    UndecodableImage: they cannot be read; the message says why.
  """
  try:
    return file.read(None)
  except OSError as error:
    raise pixels.unreadable(file.where, _why(file, error)) from error
  except ValueError as error:
    raise pixels.unreadable(file.where, str(error)) from error


def _why(file: File, error: OSError) -> str:
  if error.errno == errno.ENOENT:
    if os.path.islink(file.within):
      return f'is a link to {printable(os.readlink(file.within))}, where nothing is'
    return 'is not there'
  if error.errno == errno.EACCES:
    return 'may not be read (permission denied)'
  return f'cannot be read ({error.strerror or error})'
