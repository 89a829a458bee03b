"""Networks of which only embeddings are known: TensorFlow's, any Python function's, and those computed elsewhere."""

import dataclasses
import hashlib
import importlib
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experts.models.network import View, as_given

find = as_given

# uint8 [B, S, S, 3] -> embeddings [B, D], or a pair of them and class probabilities [B, C]
Function = Callable[[np.ndarray], Any]
# (a task's `selection.embed.Images`, how to show them) -> embeddings [N, D], and logits [N, C] or None
Embed = Callable[[Any, View], tuple[np.ndarray, np.ndarray | None]]


def content_hash(path: str) -> str:
  """Returns the SHA-256 of a file, or of the names and bytes of all files of a folder.

  A pool lists it. A run that only asks whether what it reads has changed asks `data.contents.of_path`, which is quicker.
  """
  if os.path.isfile(path):
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  root, digest = pathlib.Path(path), hashlib.sha256()
  for file in sorted(entry for entry in root.rglob('*') if entry.is_file()):
    digest.update(f'{file.relative_to(root).as_posix()} {file.stat().st_size}\n'.encode())
    digest.update(file.read_bytes())
  return digest.hexdigest()


def load(member: Any, folder: str, batch_size: int) -> Embed:
  """Returns what embeds a task's images.

  Args:
    member: a `selection.pool.Member`.
    folder: of the pool file.
    batch_size: most images of one call of a function.

  Raises:
    FileNotFoundError: no such weights.
    ValueError: not the weights that the pool lists, no such function, or a SavedModel that has none.
  """
  if member.kind == 'embeddings':
    tables = load_embeddings(member, folder)
    return lambda images, view: (_of_table(member, tables, images), None)
  function = load_function(member, folder)
  return lambda images, view: embed(member, function, images.pixels(view), batch_size)


def identity(member: Any) -> tuple | None:
  """What embeddings are computed with, to find them again; None if that is not known, or needs no computing."""
  if member.kind == 'embeddings':
    return None
  named = (member.weights,) if member.kind == 'callable' else ()
  return member.kind, *named, member.hash


def examine(
  member: Any, folder: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What a member that joins a pool is found to be, whose 'model' stays as it is.

  Raises:
    FileNotFoundError: no such weights.
    ValueError: something must be said that the weights do not tell.
  """
  found, settings = {}, dict(settings)
  path = os.path.join(folder, member.weights)
  if member.kind != 'callable':
    if not os.path.exists(path):
      raise FileNotFoundError(f'no weights of {member.name!r} at {path}')
    found['hash'] = content_hash(path)
    member = dataclasses.replace(member, **found)
  if member.kind == 'embeddings':
    found['dimension'] = _width(member, load_embeddings(member, folder))
  else:
    size = member.size or settings.get('size')
    if not size:
      raise ValueError(f'{member.name}: the size of its images must be given')
    function = load_function(member, folder)
    embeddings, _ = embed(member, function, np.zeros((2, size, size, 3), np.uint8), 2)
    found['dimension'] = embeddings.shape[1]
  return found, settings


def _width(member, tables) -> int:
  sizes = {task: table.shape for task, table in tables.items()}
  if any(len(s) != 2 for s in sizes.values()) or len({s[1] for s in sizes.values()}) != 1:
    raise ValueError(
      f'{member.weights} must hold an array [images, dimension] for each task, of one dimension, not {sizes}'
    )
  return next(iter(sizes.values()))[1]


def count(member: Any, folder: str) -> int:
  """Parameters of a SavedModel, as its variables tell.

  Raises:
    ValueError: they do not.
  """
  found = 0
  if member.kind == 'saved_model':
    import tensorflow as tf

    variables = os.path.join(folder, member.weights, 'variables', 'variables')
    if os.path.exists(f'{variables}.index'):
      shapes = tf.train.load_checkpoint(variables).get_variable_to_shape_map()
      # Other entries describe the graph and have no shape.
      found = sum(math.prod(s) for key, s in shapes.items() if 'VARIABLE_VALUE' in key)
  if not found:
    raise ValueError(
      f'{member.name}: its weights do not tell how many parameters it has; give `parameters`'
    )
  return found


def _of_table(member, tables, images) -> np.ndarray:
  if images.name not in tables:
    raise ValueError(
      f'model {member.name!r}: {member.weights} has no embeddings of the task {images.name!r}; it has those of '
      f'{", ".join(tables)}'
    )
  own = np.asarray(tables[images.name], np.float32)
  if images.rows is None:
    return own
  if len(own) != images.whole:
    raise ValueError(
      f'model {member.name!r}: {member.weights} has {len(own)} embeddings of the task {images.name!r}, which has '
      f'{images.whole} images'
    )
  return own[images.rows]


def load_function(member: Any, folder: str) -> Function:
  """Returns what a `callable` or `saved_model` member computes.

  Raises:
    FileNotFoundError: no such SavedModel.
    ValueError: not the weights that the pool lists, no such function, or a SavedModel that has none.
  """
  if member.kind == 'callable':
    return _find(member)
  return saved_model(member, _verified(member, folder))


def load_embeddings(member: Any, folder: str) -> dict[str, np.ndarray]:
  """Reads an `embeddings` member's arrays, by task."""
  path = _verified(member, folder)
  with np.load(path, allow_pickle=False) as file:
    return {task: file[task] for task in file.files}


def embed(
  member: Any, function: Function, pixels: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray | None]:
  """Embeds images with a member's function.

  Args:
    member: for messages.
    function: from `load_function`.
    pixels: uint8 [N, S, S, 3].
    batch_size: most images of one call.

  Returns:
    float32 embeddings [N, D], and logits [N, C] where it gives class probabilities (the softmax of these are those).

  Raises:
    ValueError: the function fails, or returns something of another shape; one line that names the model.
  """
  done = []
  for start in range(0, len(pixels), batch_size):
    # A copy: what a function does to it is not what the next model sees.
    batch = np.array(pixels[start : start + batch_size])
    try:
      result = function(batch)
      pair = result if isinstance(result, tuple | list) and len(result) == 2 else (result,)
      parts = [np.asarray(each, np.float32) for each in pair]
    except Exception as error:
      raise ValueError(
        f'model {member.name!r}: {member.weights} failed on images {batch.shape}: '
        f'{type(error).__name__}: {" ".join(str(error).split())}'
      ) from error
    for part, what in zip(parts, ('embeddings', 'probabilities')):
      if part.ndim != 2 or len(part) != len(batch):
        raise ValueError(
          f'model {member.name!r}: {member.weights} returned {what} of shape {part.shape} for {len(batch)} images; '
          f'it must be ({len(batch)}, dimension)'
        )
    done.append(parts)
  if len({tuple(part.shape[1] for part in parts) for parts in done}) > 1:
    raise ValueError(f'model {member.name!r}: {member.weights} changes its shape between batches')
  embeddings, *probabilities = (np.concatenate(parts) for parts in zip(*done))
  return embeddings, _logits(member, *probabilities) if probabilities else None


def _logits(member: Any, probabilities: np.ndarray) -> np.ndarray:
  sums = probabilities.sum(axis=1)
  if not (probabilities.min() >= 0 and np.abs(sums - 1).max() < 0.01):
    raise ValueError(
      f'model {member.name!r}: {member.weights} returned probabilities from {probabilities.min():.3g} on with sums '
      f'from {sums.min():.3g} to {sums.max():.3g}; they must be at least 0 and sum to 1'
    )
  with np.errstate(divide='ignore'):
    return np.log(probabilities)


def _verified(member: Any, folder: str) -> str:
  path = os.path.join(folder, member.weights)
  if not os.path.exists(path):
    raise FileNotFoundError(f'no weights of {member.name!r} at {path}')
  if content_hash(path) != member.hash:
    raise ValueError(
      f'{member.weights}: not the weights that the pool lists for {member.name!r} (hashes differ); '
      'if they are meant to be new, add the model anew'
    )
  return path


def _find(member: Any) -> Function:
  name, _, attribute = member.weights.partition(':')
  if not (name and attribute):
    raise ValueError(
      f'model {member.name!r}: weights {member.weights!r} of a callable must be module:function'
    )
  try:
    return getattr(importlib.import_module(name), attribute)
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'model {member.name!r}: {member.weights} cannot be imported ({error}); is its folder in PYTHONPATH?'
    ) from error


def saved_model(member: Any, path: str) -> Function:
  """Returns what a SavedModel computes.

  Args:
    member: for messages.
    path: its folder.

  Raises:
    ValueError: it cannot be loaded, or has nothing to call.
  """
  import tensorflow as tf  # 10 s, for those who need it.

  try:
    loaded = tf.saved_model.load(path)
  except Exception as error:
    raise ValueError(
      f'model {member.name!r}: {member.weights} cannot be loaded: {" ".join(str(error).split())}'
    ) from error
  function = loaded if callable(loaded) else loaded.signatures.get('serving_default')
  if function is None:
    raise ValueError(
      f'model {member.name!r}: {member.weights} has nothing to call; it has {", ".join(loaded.signatures) or "no signatures"}'
    )

  def run(images: np.ndarray) -> np.ndarray:
    images = tf.constant(images.astype(np.float32) / 255)
    if callable(loaded):
      result = function(images)
    else:
      (name,) = function.structured_input_signature[1]
      result = function(**{name: images})
    if isinstance(result, dict):
      if len(result) != 1:
        raise ValueError(f'several outputs, {", ".join(result)}: one must be left')
      (result,) = result.values()
    # A tensor that could pass for a pair.
    return result.numpy()

  # The module lives as long as its function is used.
  run.loaded = loaded
  return run
