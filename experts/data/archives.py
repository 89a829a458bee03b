"""Images by class as they are published: a tar of tars, a folder of tars, a folder of folders.

Nothing is unpacked. A tar within a tar is read where it lies, so several processes may read one archive.
"""

import dataclasses
import hashlib
import math
import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from experts.data import listings
from experts.data.dataset import UndecodableImage, decode
from experts.data.names import some

_COMPRESSED = (b'\x1f\x8b', b'BZ', b'\xfd7', b'(\xb5')


class Damaged(ValueError):
  """Archives that end too early or are garbled; the arguments are their names."""

  def __str__(self) -> str:
    return (
      f'{some(self.args)}: cut off or garbled: fetch it again, then run the same command;'
      ' what is complete is kept'
    )


@dataclasses.dataclass(frozen=True)
class Member:
  """A file of a class.

  Attributes:
    name: path within the class's tar or folder.
    data: its bytes; none where it is refused.
    refused: why it is not read.
  """

  name: str
  data: bytes = b''
  refused: str = ''


@dataclasses.dataclass(frozen=True)
class Tar:
  """A tar of one class's images.

  Attributes:
    name: its path within the source, for messages and to tell it from others.
    path: the file it lies in.
    offset: where it begins there, in bytes.
    size: its length in bytes.
  """

  name: str
  path: str
  offset: int
  size: int

  @property
  def key(self) -> tuple[str, int]:
    """Differs between tars of another content, as far as that is seen without reading them."""
    return self.name, self.size

  def read(self, part: int = 0, parts: int = 1) -> Iterator[Member]:
    """The members that begin in one of `parts` equal stretches of the tar, in its order.

    Raises:
      Damaged: the tar is cut off or garbled.
    """
    first, last = (self.offset + self.size * edge // parts for edge in (part, part + 1))
    with open(self.path, 'rb') as file:
      for header in _headers(file, self.name, self.offset, self.offset + self.size):
        if header.offset >= last:
          return
        if header.offset < first or header.isdir():
          continue
        if refused := _unsafe(header):
          yield Member(header.name, refused=refused)
          continue
        file.seek(header.offset_data)
        yield Member(header.name, file.read(header.size))

  def check(self) -> None:
    """Finds out, without reading it all, whether the tar is there to its end.

    Raises:
      Damaged: it is not.
    """
    with open(self.path, 'rb') as file:
      file.seek(self.offset + max(self.size - tarfile.BLOCKSIZE, 0))
      if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise Damaged(self.name)


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder of one class's images.

  Attributes:
    name: its path within the source.
    path: its path.
    size: of all its files together, in bytes, roughly.
    listing: a hash of the files' names.
  """

  name: str
  path: str
  size: int
  listing: str

  @property
  def key(self) -> tuple[str, str]:
    return self.name, self.listing

  def read(self, part: int = 0, parts: int = 1) -> Iterator[Member]:
    """One of `parts` equal stretches of the files, by name."""
    names = _files(self.path)
    first, last = (len(names) * edge // parts for edge in (part, part + 1))
    for name in names[first:last]:
      yield Member(name, pathlib.Path(self.path, name).read_bytes())

  def check(self) -> None:
    """A folder has no end that could be missing."""


Source = Tar | Folder


def fault(member: Member) -> str:
  """Why a member cannot be trained on; empty if it can."""
  if member.refused:
    return f'is {member.refused}: refused'
  try:
    decode(member.data, '')
  except UndecodableImage:
    return f'is no image, or a damaged one ({len(member.data)} bytes)'
  return ''


def find(path: str | os.PathLike) -> dict[str, list[Source]]:
  """Finds the classes of an archive or folder.

  Args:
    path: a tar of tars, or a folder with tars or class folders at any depth. A class is named as its tar or
      innermost folder.

  Returns:
    Class name -> where its images lie. Folders of one name are one class; a tar of that name too is an error.

  Raises:
    FileNotFoundError: nothing is there.
    Damaged: the archive is cut off or garbled.
    ValueError: it holds no class, or a link or a path that leaves it.
  """
  root = pathlib.Path(path).expanduser()
  if not root.exists():
    raise FileNotFoundError(f'{root}: no such archive or folder')
  found: dict[str, list[Source]] = {}
  for source in _in_folder(root) if root.is_dir() else _in_tar(root):
    name = pathlib.PurePosixPath(source.name).name
    if isinstance(source, Tar):
      name = name.removesuffix('.tar')
    other = found.get(name, [])
    if other and not all(isinstance(one, Folder) for one in (*other, source)):
      raise ValueError(
        f'{root}: class {name!r} is there twice, as {other[0].name} and {source.name}: remove one'
      )
    found.setdefault(name, []).append(source)
  if not found:
    raise ValueError(
      f'{root}: holds no class: give a tar of tars (CLASS.tar), or a folder of such tars or of class folders'
    )
  return found


def _in_folder(root: pathlib.Path) -> Iterator[Source]:
  for parts, names in listings.walk(root):
    for name in names:
      if name.endswith('.tar') and not name.startswith('.'):
        path = root.joinpath(*parts, name)
        yield Tar('/'.join((*parts, name)), str(path), 0, path.stat().st_size)
    # A folder with nothing in it is a class that lost its images: the user is to hear of it.
    if parts and (any(map(listings.is_image, names)) or not os.listdir(root.joinpath(*parts))):
      yield _folder(root, parts)


def _folder(root: pathlib.Path, parts: tuple[str, ...]) -> Folder:
  path = root.joinpath(*parts)
  names = _files(path)
  # A few files tell the size well enough: it only balances the work.
  few = names[:: math.ceil(len(names) / 8) or 1]
  mean = sum(os.path.getsize(path / name) for name in few) / max(len(few), 1)
  listing = hashlib.blake2b('\0'.join(names).encode('utf-8', 'surrogateescape'), digest_size=16)
  return Folder('/'.join(parts), str(path), int(mean * len(names)) + 1, listing.hexdigest())


def _files(path: str | os.PathLike) -> list[str]:
  with os.scandir(path) as entries:
    return sorted(
      entry.name
      for entry in entries
      if entry.is_file() and not entry.name.startswith('.') and not entry.name.endswith('.tar')
    )


def _in_tar(path: pathlib.Path) -> Iterator[Source]:
  with open(path, 'rb') as file:
    if file.read(2) in _COMPRESSED:
      raise ValueError(
        f'{path}: is compressed, and so could only be read from its start: unpack it once (tar xf {path.name})'
        ' and give the folder'
      )
    other = ''
    for header in _headers(file, str(path), 0, path.stat().st_size):
      if header.isdir() or os.path.basename(header.name).startswith('.'):
        continue
      if refused := _unsafe(header):
        raise ValueError(f'{path}: member {header.name!r} is {refused}: such archives are refused')
      if header.name.endswith('.tar'):
        yield Tar(header.name, str(path), header.offset_data, header.size)
      else:
        other = header.name
    if other:
      raise ValueError(
        f'{path}: member {other!r} is no tar of a class: unpack the archive (tar xf {path.name}) and give the folder'
      )


def _headers(file: BinaryIO, name: str, start: int, stop: int) -> Iterator[tarfile.TarInfo]:
  """The headers of a tar that lies from `start` to `stop` in a file; raises Damaged if no end mark follows them."""
  file.seek(start)
  try:
    # Never closed: that would do nothing, since the file is the caller's.
    tar = tarfile.open(fileobj=file, mode='r:')  # noqa: SIM115
    while (header := tar.next()) is not None and header.offset < stop:
      tar.members.clear()  # else it keeps every header
      yield header
    end = tar.offset
  except tarfile.TarError as error:
    raise Damaged(name) from error
  # The module takes a garbled header, or none at all, for the end.
  file.seek(end)
  if end + tarfile.BLOCKSIZE > stop or any(file.read(tarfile.BLOCKSIZE)):
    raise Damaged(name)


def _unsafe(header: tarfile.TarInfo) -> str:
  if header.issym() or header.islnk():
    return f'a link (to {header.linkname!r})'
  if not header.isreg():
    return 'no file'
  if header.name.startswith('/') or '..' in header.name.split('/'):
    return 'a path that leaves the archive'
  return ''
