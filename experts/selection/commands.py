"""Adds foreign and own models to a pool file, and lists one."""

import dataclasses
import math
import os
import sys
from typing import Any

import jax
import numpy as np
import tabulate
from absl import flags

from experts.models import weights
from experts.selection import foreign, networks, pool

_POOL = flags.DEFINE_string('pool', 'pool.json', 'The pool file; made if it is not there.')
_NAME = flags.DEFINE_string('name', '', 'Of the model.')
_KIND = flags.DEFINE_enum('kind', None, pool.KINDS, 'Of the model.')
_WEIGHTS = flags.DEFINE_string('weights', '', 'File or folder; module:function of a callable.')
_BACKBONE = flags.DEFINE_string('backbone', None, "File of an adapter expert's baseline.")
_UPSTREAM = flags.DEFINE_string('upstream', '', 'Data set that it was trained on.')
_IMAGES = flags.DEFINE_integer('images', 0, 'Images that it was trained on; 0 if unknown.')
_ACCURACY = flags.DEFINE_float('imagenet_accuracy', None, 'Top-1 in [0, 1], if known.', 0, 1)
_SIZE = flags.DEFINE_integer('size', None, "Side of its images, pixels; else the pool's.")
_RESIZE = flags.DEFINE_integer('resize', None, 'Side before the central crop.')
_PARAMETERS = flags.DEFINE_integer('parameters', None, 'Where its weights do not tell.')
_HASH = flags.DEFINE_string('hash', '', 'Of a callable: a word for its version, to cache by.')


def add(
  path: str | os.PathLike,
  name: str,
  kind: str,
  source: str,
  backbone: str | None = None,
  parameters: int | None = None,
  **known: Any,
) -> pool.Member:
  """Adds a model to a pool file, which is made if it is not there.

  Its hash, dimension and number of parameters come from its weights.

  Args:
    path: of the pool file.
    name: of the model.
    kind: of `pool.KINDS`.
    source: weights file or folder, or a callable's module:function.
    backbone: weights file of an adapter expert's baseline.
    parameters: number of them, where the weights do not tell: callables, embeddings, SavedModels of constants.
    **known: other fields of `pool.Member`.

  Raises:
    FileNotFoundError: no such weights.
    ValueError: the pool has such a name, the weights do not fit the kind, or something must be said that they do not
      tell.
  """
  members, settings = [], {}
  if os.path.exists(path):
    members, settings = pool.read(path), pool.read_model(path)
  folder = os.path.dirname(os.path.abspath(path))
  here = lambda file: file and os.path.relpath(os.path.abspath(file), folder)
  member = pool.Member(
    name=name,
    kind=kind,
    weights=source if kind == 'callable' else here(source),
    backbone=here(backbone),
    parameters=parameters or 0,
    **{'upstream': '', 'slice': None, 'images': 0, 'dimension': 0, 'hash': ''} | known,
  )
  if kind in (*pool.NETWORKS, 'bit'):
    member, settings = _of_network(member, folder, settings)
  else:
    member = _of_foreign(member, folder, settings)
    if parameters is None:
      member = dataclasses.replace(member, parameters=_count(member, folder))
  pool.write(path, [*members, member], settings)
  return member


def _of_network(member, folder, settings) -> tuple[pool.Member, dict]:
  trees = networks.load_member(member, folder)
  own = networks.read(member.weights, folder, None, member.name, member.kind == 'bit')
  model = weights.infer(trees)
  counted = {key: value for key, value in trees.items() if key != 'head'}
  trained_from = member.trained_from
  if member.backbone:
    trained_from = weights.content_hash(networks.read(member.backbone, folder, None, member.name))
  member = dataclasses.replace(
    member,
    hash=weights.content_hash(own),
    trained_from=trained_from,
    parameters=sum(leaf.size for leaf in jax.tree.leaves(counted)),
    dimension=model.embedding_dim,
  )
  if member.kind == 'bit':
    return member, settings
  network = {'depth': model.depth, 'width': model.width, 'root': model.root}
  if 'depth' not in settings:
    if not member.size:
      raise ValueError(f'{member.name}: the first network of a pool needs the size of its images')
    resize = member.resize or member.size
    settings = {**network, 'dtype': 'auto', 'size': member.size, 'resize': resize}
  elif theirs := {key: settings[key] for key in network if settings[key] != network[key]}:
    raise ValueError(
      f'{member.name} is a network of {network}, but the pool has {theirs}: keep pools apart'
    )
  return member, settings


def _of_foreign(member, folder, settings) -> pool.Member:
  if member.kind != 'callable':
    path = os.path.join(folder, member.weights)
    if not os.path.exists(path):
      raise FileNotFoundError(f'no weights of {member.name!r} at {path}')
    member = dataclasses.replace(member, hash=foreign.content_hash(path))
  if member.kind == 'embeddings':
    tables = foreign.load_embeddings(member, folder)
    sizes = {task: table.shape for task, table in tables.items()}
    if any(len(s) != 2 for s in sizes.values()) or len({s[1] for s in sizes.values()}) != 1:
      raise ValueError(
        f'{member.weights} must hold an array [images, dimension] for each task, of one dimension, not {sizes}'
      )
    return dataclasses.replace(member, dimension=next(iter(sizes.values()))[1])
  size = member.size or settings.get('size')
  if not size:
    raise ValueError(f'{member.name}: the size of its images must be given')
  function = foreign.load_function(member, folder)
  embeddings, _ = foreign.embed(member, function, np.zeros((2, size, size, 3), np.uint8), 2)
  return dataclasses.replace(member, dimension=embeddings.shape[1])


def _count(member, folder) -> int:
  """Parameters of a SavedModel, as its variables tell."""
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


def main(argv: list[str]) -> None:
  """`add` or `list`; see experts/selection/pool.py."""
  try:
    match argv[1:]:
      case ['add'] if _NAME.value and _KIND.value and _WEIGHTS.value:
        member = add(
          _POOL.value,
          _NAME.value,
          _KIND.value,
          _WEIGHTS.value,
          _BACKBONE.value,
          _PARAMETERS.value,
          upstream=_UPSTREAM.value,
          images=_IMAGES.value,
          imagenet_accuracy=_ACCURACY.value,
          size=_SIZE.value,
          resize=_RESIZE.value,
          hash=_HASH.value,
        )
        print(
          f'{_POOL.value}: added {member.name} ({member.kind}, {member.parameters:,} parameters, dimension '
          f'{member.dimension})'
        )
      case ['add']:
        raise ValueError('a model to add needs --name, --kind and --weights')
      case ['list']:
        columns = (
          'name', 'kind', 'upstream', 'slice', 'parameters', 'dimension', 'imagenet_accuracy',
        )  # fmt: skip
        rows = [[getattr(m, column) for column in columns] for m in pool.read(_POOL.value)]
        print(tabulate.tabulate(rows, columns, 'github', intfmt=','))
      case _:
        raise ValueError(f"say 'add' or 'list', not {' '.join(argv[1:])!r}")
  except (ValueError, OSError) as error:
    sys.exit(f'error: {error}')
