"""Parameters in files: BiT's published .npz, and this project's own."""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from experts.models import resnet

Params = Any

_BIT_HEAD = 'resnet/head/conv2d/kernel'
# Some of BiT's files carry the layer counter of the TensorFlow graph: standardized_conv2d_17.
_COUNTER = re.compile(r'(standardized_conv2d|group_norm|conv2d)_\d+(?=/)')
# Our names to BiT's, applied in turn.
_TO_BIT = (
  (r'^head/', 'resnet/head/conv2d/'),
  (r'^backbone/', 'resnet/'),
  (r'/root/', '/root_block/standardized_conv2d/'),
  (r'/proj/', '/a/proj/standardized_conv2d/'),
  (r'/conv/', '/standardized_conv2d/'),
  (r'/norm/scale$', '/group_norm/gamma'),
  (r'/norm/bias$', '/group_norm/beta'),
)


def load_bit(path: str) -> Params:
  """Reads a BiT checkpoint of any depth and width.

  Args:
    path: an .npz file such as BiT-M-R50x1.npz.

  Returns:
    {'backbone', 'head'} of float32 NumPy arrays; `infer` tells their `ResNet`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no .npz file, or has missing, left-over or misshapen entries; lists them.
  """
  return from_bit(_read(path), path)


def from_bit(arrays: Mapping[str, np.ndarray], where: str, with_head: bool = True) -> Params:
  """Brings arrays under BiT's names, such as resnet/block1/unit01/a/group_norm/gamma, under ours.

  Args:
    arrays: by name; their layers may be counted, as in standardized_conv2d_17.
    where: what to call them in an error.
    with_head: whether there must be a head, or none.

  Returns:
    {'backbone'} and, where asked for, 'head', of the given arrays; `infer` tells their `ResNet`.

  Raises:
    ValueError: there are missing, left-over or misshapen entries; lists them.
  """
  found = {}
  for key, value in arrays.items():
    name = _COUNTER.sub(r'\1', key)
    if name in found:
      raise ValueError(f'{where}: two entries are both {name}; a BiT file has one of each')
    found[name] = value
  head = found.get(_BIT_HEAD)
  if head is not None and head.shape[:2] == (1, 1):
    found[_BIT_HEAD] = head[0, 0]
  _, flat = _match(found, where, _to_bit, with_head)
  return traverse_util.unflatten_dict(flat, sep='/')


def save_bit(path: str, params: Params) -> None:
  """Writes {'backbone', 'head'} under BiT's names, for programs that read BiT's files.

  Raises:
    ValueError: `params` holds an adapter, has no head, or is no complete network; lists what.
  """
  _, flat = _match(_flatten(params), 'parameters', str, with_head=True)
  bit = {_to_bit(key): value for key, value in flat.items()}
  # BiT's head is a 1×1 convolution.
  bit[_BIT_HEAD] = bit[_BIT_HEAD][None, None]
  _write(path, bit)


def infer(params: Params) -> resnet.ResNet:
  """Returns the `ResNet` whose backbone is in `params`: depth, width and root by their shapes.

  Raises:
    ValueError: no network fits; lists what the nearest one misses or has too many.
  """
  model, _ = _match(_flatten({'backbone': params['backbone']}), 'parameters', str, with_head=False)
  return model


def save(path: str, params: Params) -> None:
  """Writes parameters as a flat .npz, with keys such as backbone/block1/unit01/a/conv/kernel.

  The file appears under its name only when it is complete.
  """
  _write(path, _flatten(params))


def load(path: str) -> Params:
  """Reads what `save` wrote, as float32 NumPy arrays.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no .npz file, is cut short, or holds something else than numbers.
  """
  return traverse_util.unflatten_dict(_read(path), sep='/')


def content_hash(params: Params) -> str:
  """Returns the SHA-256 of the names, shapes and float32 values, the same for equal parameters."""
  digest = hashlib.sha256()
  for key, value in sorted(_flatten(params).items()):
    digest.update(f'{key} {value.dtype} {value.shape}\n'.encode())
    # Flat, as hashlib wants it; not copied.
    digest.update(np.ascontiguousarray(value).reshape(-1))
  return digest.hexdigest()


def _to_bit(key: str) -> str:
  """Maps backbone/block1/unit01/a/norm/scale to resnet/block1/unit01/a/group_norm/gamma."""
  for pattern, replacement in _TO_BIT:
    key = re.sub(pattern, replacement, key)
  return key


def _match(
  found: dict[str, np.ndarray], where: str, name: Callable[[str], str], with_head: bool
) -> tuple[resnet.ResNet, dict[str, np.ndarray]]:
  """Finds the network that `found` holds and returns both, the arrays under our names.

  Args:
    found: arrays by name.
    where: what to call the source in an error.
    name: maps our name of a parameter to the one it has in `found`.
    with_head: whether `found` holds a head too.
  """
  units = [
    {m[1] for m in re.finditer(rf'/block{b}/(unit\d+)/', '\n'.join(found))} for b in range(1, 5)
  ]
  # The nearest depth, so that a damaged file is told what it lacks of the net it was.
  distance = lambda depth: sum(abs(n - len(u)) for n, u in zip(resnet.DEPTHS[depth], units))
  root_name = name('backbone/root/kernel')
  root = found.get(root_name, np.zeros((7, 7, 3, 64))).shape
  roots = {size: key for key, size in resnet.ROOTS.items()}
  try:
    model = resnet.ResNet(
      min(resnet.DEPTHS, key=distance),
      root[-1] / 64 if root else 0,
      roots.get(root[:1] and root[0]),
    )
  except ValueError as error:
    raise ValueError(f'{where}: {root_name} has shape {root}: {error}') from error
  bias = found.get(name('head/bias'), np.zeros(1))
  needed = jax.eval_shape(lambda rng: resnet.init(model, rng, bias.size), jax.random.key(0))
  if not with_head:
    del needed['head']
  needed = {k: v.shape for k, v in traverse_util.flatten_dict(needed, sep='/').items()}
  names = {name(key): shape for key, shape in needed.items()}
  problems = {
    'missing': [key for key in names if key not in found],
    'left over': [key for key in found if key not in names],
    'of another shape': [
      f'{key} {found[key].shape} instead of {shape}'
      for key, shape in names.items()
      if key in found and found[key].shape != shape
    ],
  }
  if any(problems.values()):
    text = '; '.join(f'{kind}: {", ".join(keys)}' for kind, keys in problems.items() if keys)
    raise ValueError(f'{where}: not a ResNet of depth {model.depth}, width {model.width:g}: {text}')
  return model, {key: found[name(key)] for key in needed}


def _flatten(params: Params) -> dict[str, np.ndarray]:
  flat = traverse_util.flatten_dict(params, sep='/')
  return {key: np.asarray(value, np.float32) for key, value in flat.items()}


def _read(path: str) -> dict[str, np.ndarray]:
  with open(path, 'rb') as file:
    # NumPy would advise to trust what is no archive.
    if file.read(2) not in (b'PK', b''):
      raise ValueError(f'{path} is no file of weights (.npz)')
  try:
    with np.load(path, allow_pickle=False) as file:
      return {key: np.asarray(file[key], np.float32) for key in file.files}
  except (zipfile.BadZipFile, EOFError, TypeError, ValueError) as error:
    said = 'an entry is no array of numbers' if 'allow_pickle' in str(error) else error
    raise ValueError(f'{path}: not a complete .npz file of arrays ({said})') from error


def _write(path: str, flat: dict[str, np.ndarray]) -> None:
  partial = f'{path}.{os.getpid()}.tmp'
  try:
    with open(partial, 'wb') as file:
      np.savez(file, **flat)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except BaseException:
    if os.path.exists(partial):
      os.unlink(partial)
    raise
