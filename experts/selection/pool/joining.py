"""How a model joins a pool: what its weights tell of it is read from them."""

import dataclasses
import math
import os
from typing import Any

import jax
import numpy as np

from experts.models import weights
from experts.selection import foreign, networks, pool


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
