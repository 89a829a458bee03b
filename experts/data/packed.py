"""Lists the files in a tar or zip archive. An index is read once for all splits."""

import collections
import contextlib
import functools
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable

from experts.data import pixels
from experts.data.listings import (
  REFUSED,
  SYSTEM_FILES,
  File,
  Listing,
  is_system,
  too_large,
)
from experts.data.names import printable

# A compressed tar can only be read from its start, so that its images are kept, unpacked, in memory.
MAX_HELD = 2**32

_ZIP = (b'PK\3\4', b'PK\5\6')
_COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ')
_OTHERS = {b'Rar!': 'RAR', b"7z\xbc\xaf'\x1c": '7z', b'(\xb5/\xfd': 'Zstandard'}

_UNPACK = 'unpack it and give the folder'


def read_archive(path: str) -> Listing:
  """Lists an archive.

  Raises:
    ValueError: it is none that is read, it is encrypted, or it is damaged.
  """
  status = os.stat(path)
  return _read(path, status.st_mtime_ns, status.st_size)


def is_archive(path: str) -> bool:
  """Whether a file is an archive by its first bytes, of a kind that is read or not."""
  with open(path, 'rb') as file:
    start = file.read(512)
  return start.startswith((*_ZIP, *_COMPRESSED, *_OTHERS)) or start[257:262] == b'ustar'


@functools.lru_cache(maxsize=4)
def _read(path: str, mtime_ns: int, size: int) -> Listing:
  del mtime_ns, size  # part of the cache's key: an archive that changed is read again
  with open(path, 'rb') as file:
    start = file.read(6)
  if start.startswith(_ZIP):
    return _read_zip(path)
  for magic, name in _OTHERS.items():
    if start.startswith(magic):
      raise ValueError(f'{printable(path)}: a {name} archive is not read: {_UNPACK}')
  return _read_tar(path, start.startswith(_COMPRESSED))


class _Archive:
  """An open file, read at any place by several threads or forked processes at a time."""

  def __init__(self, path: str):
    self._descriptor = os.open(path, os.O_RDONLY)

  def __del__(self):
    os.close(self._descriptor)

  def read(self, offset: int, size: int) -> bytes:
    return os.pread(self._descriptor, size, offset)


class _Found:
  """The members of an archive, as they are met."""

  def __init__(self, path: str):
    self.path = path
    self.files: dict[tuple[str, ...], File] = {}
    self.folders: set[tuple[str, ...]] = {()}
    self.passed: collections.Counter[str] = collections.Counter()
    self.refused: list[str] = []

  def place(self, name: str, is_folder: bool, refused: bool) -> tuple[str, ...]:
    """Where a file lies; () where it is none that is to be read."""
    parts = tuple(part for part in name.split('/') if part not in ('', '.'))
    if refused or '..' in parts or name.startswith('/') or '\0' in name:
      self.refused.append(name)
    elif any(map(is_system, parts)):
      self.passed[SYSTEM_FILES] += not is_folder
    elif is_folder:
      self.folders.update(parts[:depth] for depth in range(len(parts) + 1))
    elif parts:
      return parts
    return ()

  def add(self, parts: tuple[str, ...], read: Callable[[int | None], bytes]) -> None:
    # As where an archive is unpacked, the last of several of one name counts.
    self.passed['replaced by a later file of the same name'] += parts in self.files
    self.folders.update(parts[:depth] for depth in range(1, len(parts)))
    where = f'{printable(self.path)}:{printable("/".join(parts))}'
    self.files[parts] = File(parts, read, self.path, where)

  def listing(self) -> Listing:
    notes = ()
    if self.refused:
      self.passed[REFUSED] += len(self.refused)
      notes = (f'{len(self.refused)} {REFUSED} refused, the first {printable(self.refused[0])!r}',)
    files = tuple(self.files[parts] for parts in sorted(self.files))
    return Listing(self.path, files, frozenset(self.folders), +self.passed, notes)


def _read_tar(path: str, compressed: bool) -> Listing:
  found, archive, held = _Found(path), _Archive(path), 0
  try:
    with tarfile.open(path, 'r:*' if compressed else 'r:') as tar:
      for member in tar:
        odd = not (member.isfile() or member.isdir()) or member.issparse() or member.size < 0
        parts = found.place(member.name, member.isdir(), odd)
        if not parts:
          continue
        if member.size > pixels.MAX_BYTES:
          read = functools.partial(_refuse, too_large(member.size))
        elif compressed:
          held += member.size
          if held > MAX_HELD:
            raise ValueError(
              f'{printable(path)}: holds more than {MAX_HELD:,} bytes when unpacked,'
              f' too much for a compressed tar: {_UNPACK}'
            )
          data = tar.extractfile(member).read()
          read = functools.partial(_held, data)
        else:
          read = functools.partial(_stored, archive, member.offset_data, member.size)
        found.add(parts, read)
  except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
    raise ValueError(
      f'{printable(path)}: not a readable tar or zip archive ({error}), and no folder'
    ) from error
  return found.listing()


def _held(data: bytes, limit: int | None) -> bytes:
  return data if limit is None else data[:limit]


def _stored(archive: _Archive, offset: int, size: int, limit: int | None) -> bytes:
  return archive.read(offset, size if limit is None else min(size, limit))


def _refuse(reason: str, limit: int | None) -> bytes:
  raise ValueError(reason)


def _read_zip(path: str) -> Listing:
  found, archive = _Found(path), _Archive(path)
  try:
    with zipfile.ZipFile(path) as unpacked:
      members = unpacked.infolist()
  except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
    raise ValueError(f'{printable(path)}: not a readable zip archive ({error})') from error
  for member in members:
    kind = stat.S_IFMT(member.external_attr >> 16)
    name = _name(member)
    parts = found.place(name, name.endswith('/'), kind not in (0, stat.S_IFREG, stat.S_IFDIR))
    if not parts:
      continue
    if member.flag_bits & 1:
      raise ValueError(f'{printable(path)}: {printable(name)!r} is encrypted: {_UNPACK}')
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise ValueError(
        f'{printable(path)}: {printable(name)!r} is compressed by method {member.compress_type},'
        f' which is not read: {_UNPACK}'
      )
    found.add(parts, functools.partial(_inflate, archive, member))
  return found.listing()


def _name(member: zipfile.ZipInfo) -> str:
  name = member.orig_filename
  if not member.flag_bits & 0x800:
    # By the format these are of an old code page; what wrote them on Linux or a Mac meant UTF-8.
    with contextlib.suppress(UnicodeError):
      name = name.encode('cp437').decode('utf-8')
  # Some writers on Windows kept its separators.
  return name if '/' in name else name.replace('\\', '/')


def _inflate(archive: _Archive, member: zipfile.ZipInfo, limit: int | None) -> bytes:
  if member.file_size > pixels.MAX_BYTES and limit is None:
    raise ValueError(too_large(member.file_size))
  head = archive.read(member.header_offset, 30)
  if len(head) < 30 or not head.startswith(b'PK\3\4'):
    raise ValueError('is damaged in the archive')
  start = 30 + int.from_bytes(head[26:28], 'little') + int.from_bytes(head[28:30], 'little')
  whole = limit is None or limit >= member.file_size
  length = member.compress_size if whole else min(member.compress_size, limit + 1024)
  data = archive.read(member.header_offset + start, min(length, pixels.MAX_BYTES))
  if member.compress_type == zipfile.ZIP_DEFLATED:
    try:
      # A zip bomb tells less than it holds.
      data = zlib.decompressobj(-15).decompress(data, (member.file_size if whole else limit) + 1)
    except zlib.error as error:
      raise ValueError('is damaged in the archive') from error
  if not whole:
    return data[:limit]
  if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
    raise ValueError('is damaged in the archive')
  return data
