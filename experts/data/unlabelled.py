"""Images without labels: a file, a folder of any layout, or an archive."""

import collections
import dataclasses
import functools
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

from experts.data import contents, image_files


@dataclasses.dataclass(frozen=True)
class Images:
  """What was found.

  Attributes:
    names: of the images below where they lie, in order; bytes that are no UTF-8 are escaped.
    read: index -> the bytes of one; raises OSError.
    sizes: of the files, bytes.
    left_out: what was passed over and why -> files.
  """

  names: tuple[str, ...]
  read: Callable[[int], bytes]
  sizes: tuple[int, ...]
  left_out: Mapping[str, int]

  def __len__(self) -> int:
    return len(self.names)

  def content(self) -> contents.Content:
    """What tells them from others wherever they lie."""
    each = [functools.partial(self.read, index) for index in range(len(self))]
    return contents.by_class(self.names, self.sizes, each, [0] * len(self), [''])


def find(path: str | os.PathLike) -> Images:
  """Finds the images of a file, a folder with all that is below it, a .tar (also compressed) or a .zip.

  Raises:
    FileNotFoundError: nothing is there.
    ValueError: the archive cannot be read, or no image is there; says what else is.
  """
  root = pathlib.Path(path).expanduser()
  if not root.exists():
    raise FileNotFoundError(
      f'{escaped(root)}: no such image, folder or archive; name one with --config.images'
    )
  if root.is_dir():
    found = _in_folder(root)
  elif zipfile.is_zipfile(root):
    found = _in_zip(root)
  elif not image_files.is_image(root.name) and tarfile.is_tarfile(root):
    found = _in_tar(root)
  else:
    # A file that was named is meant, whatever its name.
    found = Images((escaped(root.name),), lambda _: root.read_bytes(), (root.stat().st_size,), {})
  if not len(found):
    raise ValueError(f'{escaped(root)}: holds no image{said(found.left_out, "; left out: ")}')
  return found


def escaped(name: str | os.PathLike) -> str:
  """A name as text that can be written and read again, whatever its bytes."""
  return os.fsencode(name).decode('utf-8', 'backslashreplace')


def said(left_out: Mapping[str, int], before: str = '') -> str:
  """What was left out, in words: '30 .heic, 10 without a suffix'; empty where nothing was."""
  parts = [f'{number} {what}' for what, number in sorted(left_out.items())]
  return before + ', '.join(parts) if parts else ''


def _in_folder(root: pathlib.Path) -> Images:
  files, left_out = [], collections.Counter()
  for parts, names in image_files.walk(root):
    for name in names:
      if image_files.is_image(name):
        files.append(root.joinpath(*parts, name))
      else:
        left_out[_why(name)] += 1
  return Images(
    tuple(escaped(file.relative_to(root)) for file in files),
    lambda index: files[index].read_bytes(),
    tuple(file.stat().st_size if file.exists() else 0 for file in files),
    left_out,
  )


def _in_zip(root: pathlib.Path) -> Images:
  archive = zipfile.ZipFile(root)
  members, left_out = [], collections.Counter()
  for member in archive.infolist():
    if member.is_dir():
      continue
    if _is_wanted(member.filename):
      members.append(member)
    else:
      left_out[_why(member.filename)] += 1
  members.sort(key=lambda member: member.filename)

  def read(index: int) -> bytes:
    try:
      return archive.read(members[index])
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
      raise OSError(f'cannot be read from the archive ({error})') from error

  return Images(
    tuple(escaped(member.filename) for member in members),
    read,
    tuple(member.file_size for member in members),
    left_out,
  )


def _in_tar(root: pathlib.Path) -> Images:
  """Members in the order of the archive, in which a compressed one is quick to read."""
  members, left_out = [], collections.Counter()
  try:
    archive = tarfile.open(root)  # noqa: SIM115
    for member in archive:
      if member.isdir():
        continue
      if member.isfile() and _is_wanted(member.name):
        members.append(member)
      else:
        left_out[_why(member.name) if member.isfile() else 'links or devices'] += 1
  except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
    raise ValueError(f'{escaped(root)}: not a readable tar archive ({error})') from error

  def read(index: int) -> bytes:
    try:
      return archive.extractfile(members[index]).read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
      raise OSError(f'cannot be read from the archive ({error})') from error

  return Images(
    tuple(escaped(member.name) for member in members),
    read,
    tuple(member.size for member in members),
    left_out,
  )


def _is_wanted(path: str) -> bool:
  *folders, name = path.split('/')
  hidden = any(folder.startswith('.') and folder != '.' for folder in folders)
  return not hidden and '__MACOSX' not in folders and image_files.is_image(name)


def _why(path: str) -> str:
  name = escaped(path.rpartition('/')[2])
  if name.startswith('.') or '__MACOSX' in path.split('/'):
    return 'hidden'
  suffix = os.path.splitext(name)[1].lower()
  return suffix if suffix else 'without a suffix'
