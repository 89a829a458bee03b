"""A pool of the experts that [EXP] published for TensorFlow Hub, in this project's own form."""

import functools
import os
import tempfile
from typing import Any

import jax
import numpy as np

from experts.models import fitting, network, opaque, ours, published_experts, weights
from experts.selection import pool
from experts.selection.pool import joining

# Of the images, pixels: what the experts were trained at.
SIZE = 224
# How far our embedding of an image may be from theirs, as a part of its norm.
TOLERANCE = 1e-3
_UPSTREAM = 'imagenet21k'
_WEIGHTS = 'weights'


def convert(modules: str, out: str) -> str:
  """Makes a pool of a folder of SavedModels, if each gives the same embeddings as what it became; else nothing.

  Args:
    modules: see `published_experts.find`; a module is an expert on the slice of its name, 'baseline' the baseline.
    out: a .json file that is not there yet, or the folder of a pool.json.

  Returns:
    The path of the pool file.

  Raises:
    FileNotFoundError: no such folder of modules.
    FileExistsError: there is such a pool, or other weights where its own go.
    ValueError: a module that is damaged, of another network than ours or than the other modules', or computes other
      embeddings than ours.
  """
  path = out if out.endswith('.json') else os.path.join(out, 'pool.json')
  folder = os.path.dirname(os.path.abspath(path))
  for taken in (path, os.path.join(folder, _WEIGHTS)):
    if os.path.exists(taken):
      raise FileExistsError(f'{taken} is there already: give another --out, or remove it first')
  found = published_experts.find(modules)
  os.makedirs(folder, exist_ok=True)
  # Beside the target, since a rename is atomic only within one file system.
  with tempfile.TemporaryDirectory(dir=folder, prefix='.import-') as scratch:
    staged = os.path.join(scratch, os.path.basename(path))
    os.mkdir(os.path.join(scratch, _WEIGHTS))
    for number, (name, source) in enumerate(found.items(), 1):
      with published_experts.unpacked(source, scratch) as module:
        trees = published_experts.read(module, source)
        error = _difference(name, source, module, trees)
      member = _join(staged, name, trees)
      print(
        f'{number}/{len(found)} {name}: {member.kind}, {member.parameters:,} parameters, dimension {member.dimension}; '
        f'embeddings differ by {error:.1e}',
        flush=True,
      )
    # The pool last: where it is, all of it is.
    os.replace(os.path.join(scratch, _WEIGHTS), os.path.join(folder, _WEIGHTS))
    os.replace(staged, path)
  return path


def _difference(name: str, source: str, module: str, trees: network.Params) -> float:
  """The largest distance of our embedding of an image from the SavedModel's, as a part of the latter's norm."""
  images = fitting.probe(8, SIZE)
  member = pool.Member(name, 'saved_model', _UPSTREAM, name, 0, 0, 0, source, '', size=SIZE)
  theirs, _ = opaque.embed(member, opaque.saved_model(member, module), images, len(images))
  net = ours.build({**ours.fields(weights.infer(trees)), 'dtype': 'float32'})
  if theirs.shape[1] != net.dimension:
    raise ValueError(
      f'{source}: its embeddings have {theirs.shape[1]} dimensions, ours {net.dimension}'
    )
  # Accelerators would round the factors of each product, by more than the tolerance.
  with jax.default_matmul_precision('highest'):
    own = np.asarray(_embed(net, trees, images))
  with np.errstate(invalid='ignore', divide='ignore'):
    error = np.max(np.linalg.norm(own - theirs, axis=1) / np.linalg.norm(theirs, axis=1))
  # Also what is not finite.
  if not error <= TOLERANCE:
    raise ValueError(
      f'{source}: with its variables our network computes other embeddings than it does: they differ by {error:.1e} of their '
      f'norm, more than {TOLERANCE:g}; add it as it is: python -m experts.selection.pool add --kind=saved_model'
    )
  return float(error)


@functools.partial(jax.jit, static_argnums=0)
def _embed(net: network.Network, params: network.Params, images: jax.Array) -> jax.Array:
  return net.forward(params, images)[1]


def _join(path: str, name: str, trees: network.Params) -> pool.Member:
  """Writes a module's weights beside a pool file, and adds it there."""
  here = functools.partial(os.path.join, os.path.dirname(path), _WEIGHTS)
  known: dict[str, Any] = {'kind': 'full', 'slice': name, 'source': here(f'{name}.npz')}
  if name == 'baseline':
    known |= {'kind': 'baseline', 'slice': None}
  if 'adapter' in trees:
    below = {'backbone': trees['backbone']}
    shared = here(f'backbone.{weights.content_hash(below)[:8]}.npz')
    if not os.path.exists(shared):
      weights.save(shared, below)
    known |= {'kind': 'adapter', 'backbone': shared}
    trees = {key: tree for key, tree in trees.items() if key != 'backbone'}
  weights.save(known['source'], trees)
  return joining.add(path, name, upstream=_UPSTREAM, size=SIZE, **known)
