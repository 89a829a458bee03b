"""Images in a folder or a tar archive, laid out as split/class/file, or class/file for a single split 'train'.

A class may lie under folders that group it (`train/Fruit/Apple/Granny-Smith/1.jpg`); the groups
become nodes of the is-a graph.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from absl import logging

from experts.data import contents
from experts.data.dataset import Dataset, decode

_SUFFIXES = tuple(
  f'.{name}'
  for name in ('avif', 'bmp', 'gif', 'jfif', 'jpe', 'jpeg', 'jpg', 'jp2', 'pbm', 'pgm', 'png')
  + ('pnm', 'ppm', 'tif', 'tiff', 'webp')
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Tree:
  """Every image below a root, and how to read one."""

  files: tuple[tuple[str, ...], ...]  # each (split, folder, ..., file name)
  read: tuple[Callable[[], bytes], ...]
  within: tuple[pathlib.Path, ...]  # the file that holds each: its own, or the archive
  folders: frozenset[tuple[str, ...]]  # folders named by the source, empty ones included


def open_images(path: str | os.PathLike, split: str) -> Dataset:
  """Opens one split of a folder or archive of images.

  Args:
    path: a folder, or a .tar, .tar.gz or .tgz archive, with members split/class/file.
    split: the name of a first-level folder.

  Returns:
    The split's images in the order of their paths. Its classes are those of all splits.

  Raises:
    FileNotFoundError: nothing is at that path.
    ValueError: no images, or no split of that name.
  """
  path = pathlib.Path(path).expanduser()
  if not path.exists():
    raise FileNotFoundError(f'{path}: no such folder or archive of images')
  status = path.stat()
  tree = (
    _read_folder(path) if path.is_dir() else _read_tar(path, status.st_mtime_ns, status.st_size)
  )
  splits = sorted({file[0] for file in tree.files} | {f[0] for f in tree.folders if len(f) > 1})
  if not tree.files:
    raise ValueError(f'{path}: holds no image laid out as split/class/file or class/file')
  if split not in splits:
    raise ValueError(f'{path}: no split {split!r}; it has {", ".join(splits)}')
  class_of, names, edges = _classes(tree)
  chosen = sorted((file, i) for i, file in enumerate(tree.files) if file[0] == split)
  labels = np.array([class_of[file[1:-1]] for file, _ in chosen], np.int32)
  where = [f'{path}:{"/".join(file)}' for file, _ in chosen]
  read = [tree.read[i] for _, i in chosen]
  return Dataset(
    name=f'{path.name} {split}',
    class_names=names,
    size=len(chosen),
    read_image=lambda index: decode(read[index](), where[index]),
    read_labels=lambda: labels,
    describe=lambda index: where[index],
    edges=edges,
    identify=lambda: _identify(where, {tree.within[i] for _, i in chosen}),
    content=lambda: contents.by_class(
      ['/'.join(file[1:]) for file, _ in chosen],
      _sizes([tree.within[i] for _, i in chosen]),
      read,
      labels,
      names,
    ),
  )


def _identify(names: Iterable[str], files: Iterable[pathlib.Path]) -> str:
  """A digest of the images' names, and of the sizes and times of the files that hold them."""
  digest = hashlib.sha256('\0'.join(names).encode('utf-8', 'surrogateescape'))
  for file in sorted(files):
    status = file.stat()
    digest.update(
      f'\0{file.resolve()}\0{status.st_size} {status.st_mtime_ns}'.encode(
        'utf-8', 'surrogateescape'
      )
    )
  return digest.hexdigest()


def _sizes(within: list[pathlib.Path]) -> list[int]:
  """Bytes of images that lie in these files; those of an archive share its size."""
  numbers = collections.Counter(within)
  sizes = {
    file: file.stat().st_size // number if file.exists() else 0 for file, number in numbers.items()
  }
  return [sizes[file] for file in within]


def is_image(name: str) -> bool:
  """Whether a file is an image by its name."""
  return not name.startswith('.') and name.lower().endswith(_SUFFIXES)


def walk(root: pathlib.Path) -> Iterator[tuple[tuple[str, ...], list[str]]]:
  """Every folder below a root that is not hidden, in order: (its path's parts, the names of its files)."""
  # Links are followed, since large data sets are often arranged by links, but not in circles.
  for folder, children, names in os.walk(root, followlinks=True):
    above = pathlib.Path(os.path.realpath(os.path.dirname(folder)))
    if os.path.islink(folder) and above.is_relative_to(os.path.realpath(folder)):
      children.clear()
      continue
    children[:] = sorted(child for child in children if not child.startswith('.'))
    yield pathlib.Path(folder).relative_to(root).parts, sorted(names)


def _read_folder(root: pathlib.Path) -> _Tree:
  files, read, within, folders = [], [], [], set()
  for parts, names in walk(root):
    if not parts:  # a file beside the classes belongs to none
      continue
    folders.add(parts)
    for name in filter(is_image, names):
      files.append((*parts, name))
      read.append(root.joinpath(*parts, name).read_bytes)
      within.append(root.joinpath(*parts, name))
  return _below_splits(files, read, within, folders)


# The index of an archive is read once for all its splits; the compressed ones hold their bytes.
@functools.lru_cache(maxsize=4)
def _read_tar(path: pathlib.Path, mtime_ns: int, size: int) -> _Tree:
  del mtime_ns, size  # part of the cache's key: an archive that changed is read again
  files, read, folders, refused = [], [], set(), []
  compressed = _is_compressed(path)
  descriptor = None if compressed else os.open(path, os.O_RDONLY)
  try:
    with tarfile.open(path, 'r:*' if compressed else 'r:') as tar:
      for member in tar:
        parts = tuple(part for part in member.name.split('/') if part not in ('', '.'))
        if '..' in parts or member.name.startswith('/') or not (member.isfile() or member.isdir()):
          refused.append(member.name)
        elif any(part.startswith('.') for part in parts):
          continue
        elif member.isdir():
          folders.add(parts)
        elif len(parts) >= 2 and is_image(parts[-1]):
          files.append(parts)
          folders.update(parts[:depth] for depth in range(1, len(parts)))
          if compressed:
            data = tar.extractfile(member).read()
            read.append(lambda data=data: data)
          else:
            read.append(functools.partial(os.pread, descriptor, member.size, member.offset_data))
  except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
    raise ValueError(f'{path}: not a readable tar archive ({error})') from error
  if refused:
    logging.warning(
      '%s: ignored %d links, devices or paths that leave the archive, the first %s',
      path, len(refused), refused[0],
    )  # fmt: skip
  return _below_splits(files, read, [path] * len(files), folders)


def _below_splits(
  files: list[tuple[str, ...]],
  read: list[Callable[[], bytes]],
  within: list[pathlib.Path],
  folders: set[tuple[str, ...]],
) -> _Tree:
  """Puts plain class/file below one split, 'train'; elsewhere an image beside the classes belongs to none."""
  if files and all(len(file) == 2 for file in files):
    files = [('train', *file) for file in files]
    folders = {('train', *folder) for folder in folders}
  kept = [i for i, file in enumerate(files) if len(file) >= 3]
  chosen = (tuple(each[i] for i in kept) for each in (files, read, within))
  return _Tree(*chosen, frozenset(folders))


def _is_compressed(path: pathlib.Path) -> bool:
  with open(path, 'rb') as file:
    return file.read(2) in (b'\x1f\x8b', b'BZ', b'\xfd7')


def _classes(
  tree: _Tree,
) -> tuple[dict[tuple[str, ...], int], tuple[str, ...], tuple[tuple[str, str], ...]]:
  """Which folder is which class, the classes' names, and the is-a edges of nested folders."""
  with_images = {file[1:-1] for file in tree.files}
  below_split = {folder[1:] for folder in tree.folders if len(folder) > 1}
  inner = {
    folder[:depth] for folder in below_split | with_images for depth in range(1, len(folder))
  }
  # A folder that holds nothing is a class too: an empty one, which a task then refuses.
  folders = sorted(with_images | (below_split - inner))
  by_name = collections.defaultdict(list)
  for folder in folders:
    by_name[folder[-1]].append(folder)
  name_of = {}
  for name, spelled in by_name.items():
    groups = _same_class(spelled)
    for group in groups:
      longest = max(group, key=len)
      for folder in group:
        name_of[folder] = name if len(groups) == 1 else '/'.join(longest)
  names = tuple(sorted(set(name_of.values())))
  label = {name: index for index, name in enumerate(names)}
  return {f: label[n] for f, n in name_of.items()}, names, _edges(name_of)


def _same_class(folders: list[tuple[str, ...]]) -> list[list[tuple[str, ...]]]:
  """Groups folders of one innermost name: alike where one's ancestors contain the other's."""
  groups = [[folder] for folder in folders]
  for first, second in itertools.combinations(folders, 2):
    above, below = set(first[:-1]), set(second[:-1])
    if above <= below or below <= above:
      one = next(group for group in groups if first in group)
      other = next(group for group in groups if second in group)
      if one is not other:
        groups.remove(other)
        one.extend(other)
  return groups


def _edges(name_of: dict[tuple[str, ...], str]) -> tuple[tuple[str, str], ...]:
  """(child, parent) names; a group's name is its folder's, or its path where that is taken."""
  groups = {f[:depth] for f in name_of for depth in range(1, len(f))} - set(name_of)
  count = collections.Counter(group[-1] for group in groups)
  taken = set(name_of.values())
  node = dict(name_of)
  for group in groups:
    short = group[-1]
    node[group] = short if count[short] == 1 and short not in taken else '/'.join(group) + '/'
  paths: Iterable[tuple[str, ...]] = {f[:depth] for f in name_of for depth in range(2, len(f) + 1)}
  edges = {(node[path], node[path[:-1]]) for path in paths}
  return tuple(sorted(edge for edge in edges if edge[0] != edge[1]))
