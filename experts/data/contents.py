"""What tells images and files from others by what they hold, wherever they lie and whenever they were written."""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from experts.data.listings import File

# Name -> how many images, and a digest of them.
Content = dict[str, tuple[int, str]]

# Images are read to be told apart where there are no more bytes than these; of more, names and sizes must do.
WHOLE_BYTES = 2 * 2**30
# Of a larger file, its size and both ends: weights in an .npz have the checksums of all arrays at their end.
_WHOLE_FILE, _END = 2**26, 2**20
_THREADS = 8


def by_class(
  names: Sequence[str],
  files: Sequence[File],
  labels: Sequence[int] | np.ndarray,
  class_names: Sequence[str],
) -> Content:
  """The content of a split of images.

  Args:
    names: of the images, below their split.
    files: that they lie in.
    labels: int [N].
    class_names: in label order.

  Returns:
    Class -> images and digest, in the order of the classes; classes without an image too.
  """
  found = _digests(files)
  each = {name: hashlib.blake2b(digest_size=8) for name in class_names}
  for index in sorted(range(len(names)), key=names.__getitem__):
    text = f'{names[index]}\0{found[index]}\0'
    each[class_names[labels[index]]].update(text.encode('utf-8', 'surrogateescape'))
  numbers = np.bincount(np.asarray(labels, int), minlength=len(class_names))
  return {name: (int(numbers[i]), each[name].hexdigest()) for i, name in enumerate(class_names)}


def _digests(files: Sequence[File]) -> list[str]:
  """Of each file's bytes; of many bytes in all, its size, or that of the archive that holds it."""
  sizes = {within: _size(within) for within in {file.within for file in files}}
  if sum(sizes.values()) > WHOLE_BYTES:
    return [str(sizes[file.within]) for file in files]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(_digest, files))


def _size(path: str) -> int:
  try:
    return os.path.getsize(path)
  except OSError:
    return 0


def of_path(path: str | os.PathLike) -> str:
  """A digest of a file, or of all files of a folder with their names, of large files the ends alone.

  It tells what a run reads from what was read before. Whether a model is the very one that its pool lists says
  `models.opaque.content_hash`, of every byte.

  Raises:
    OSError: it cannot be read.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    return _of_file(root)
  digest = hashlib.blake2b(digest_size=8)
  for file in sorted(file for file in root.rglob('*') if file.is_file()):
    text = f'{file.relative_to(root)}\0{_of_file(file)}\0'
    digest.update(text.encode('utf-8', 'surrogateescape'))
  return digest.hexdigest()


def of_text(text: str) -> str:
  return hashlib.blake2b(text.encode('utf-8', 'surrogateescape'), digest_size=8).hexdigest()


def _of_file(path: pathlib.Path) -> str:
  digest = hashlib.blake2b(digest_size=8)
  with open(path, 'rb') as file:
    size = os.fstat(file.fileno()).st_size
    digest.update(f'{size}\0'.encode())
    if size <= _WHOLE_FILE:
      digest.update(file.read())
    else:
      digest.update(file.read(_END))
      file.seek(-_END, os.SEEK_END)
      digest.update(file.read())
  return digest.hexdigest()


def _digest(file: File) -> str:
  try:
    return hashlib.blake2b(file.read(None), digest_size=16).hexdigest()
  except (OSError, ValueError):
    return 'unreadable'
