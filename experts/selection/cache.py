"""Embeddings kept on disk, found by the content that they were computed from."""

import contextlib
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
from absl import logging

# Part of every key: raise it when the same weights and images get other embeddings.
_VERSION = 1


def key(*content: object) -> str:
  """Names what embeddings are computed from: hashes, numbers and words, in a fixed order."""
  return hashlib.sha256(json.dumps([_VERSION, *content]).encode()).hexdigest()


class Cache:
  """A folder with a file for each model and set of images; several processes may share it.

  Attributes:
    found: entries read.
    written: entries written.
    bytes: size of the latter.
  """

  def __init__(self, folder: str | os.PathLike):
    """Uses a folder, which need not be there."""
    self._folder = pathlib.Path(folder)
    self.found = self.written = self.bytes = 0

  def has(self, name: str, array: str) -> bool:
    """Whether there is an entry with such an array; it may still turn out to be damaged."""
    try:
      with zipfile.ZipFile(self._path(name)) as file:
        return f'{array}.npy' in file.namelist()
    except FileNotFoundError:
      return False
    except Exception:
      return True  # `read` says what is wrong with it.

  def read(self, name: str) -> dict[str, np.ndarray] | None:
    """Returns an entry's arrays; None if there is none, or with a warning if it is damaged."""
    path = self._path(name)
    try:
      with np.load(path, allow_pickle=False) as file:
        # Reading an array to its end checks it against its CRC.
        arrays = {array: file[array] for array in file.files}
    except FileNotFoundError:
      return None
    # Damage can make NumPy and zipfile raise nearly anything.
    except Exception as error:
      logging.warning(
        'cache: %s is damaged (%s: %s): computing it anew', path, type(error).__name__, error
      )
      return None
    self.found += 1
    return arrays

  def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps arrays as float32, whole or not at all; warns if they cannot be kept."""
    path = self._path(name)
    partial = path.with_suffix(f'.{os.getpid()}.tmp')
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(partial, 'wb') as file:
        np.savez(file, **{array: np.asarray(value, np.float32) for array, value in arrays.items()})
      size = partial.stat().st_size
      os.replace(partial, path)
    except OSError as error:
      logging.warning('cache: %s cannot be written (%s): going on without it', path, error)
      with contextlib.suppress(OSError):
        partial.unlink()
      return
    self.written += 1
    self.bytes += size

  def _path(self, name: str) -> pathlib.Path:
    # Thousands of models times tasks: folders stay small.
    return self._folder / name[:2] / f'{name}.npz'
