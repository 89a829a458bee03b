"""Networks of timm as networks of a pool: pure functions, without torch.

A member names its architecture and, where they differ from timm's, the arguments of its class; its weights are timm's own
files. Statistics of batch normalisation stay as they are.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experts.models import fitting, network
from experts.models.timm import architectures, published, states, tensors
from experts.models.timm.built import Network

Params = network.Params

find = published.find


def load(member: Any, folder: str) -> Params:
  """Reads a member's trees, and checks them against its architecture and hash.

  Raises:
    FileNotFoundError: no such file.
    ValueError: weights of another network, or not those that the pool lists; one line.
  """
  described = _described(member)
  trees = _read(member, folder)
  if why := mismatch(described, trees):
    raise ValueError(f'model {member.name!r}: {member.weights}: {why}')
  if member.hash and member.hash != fitting.content_hash(described, trees):
    raise ValueError(
      f'{member.weights}: not the weights or settings that the pool lists for {member.name!r} (hashes differ); add the '
      'model anew'
    )
  return trees


def describe(member: Any, settings: Mapping[str, Any], params: Params) -> dict[str, Any]:
  """What `build` needs; activations are of the dtype that the settings name, if any."""
  del params
  return {**_described(member), 'dtype': settings.get('dtype', 'auto')}


def build(description: Mapping[str, Any], platform: str | None = None) -> Network:
  """The network that a description stands for, on this machine or the named platform."""
  family, settings = architectures.find(description['architecture'], description['arguments'])
  dtype = network.compute_dtype(description.get('dtype', 'auto'), platform)
  return Network(
    family, settings, tuple(description['mean']), tuple(description['std']), jnp.dtype(dtype)
  )


def mismatch(description: Mapping[str, Any], params: Params) -> str:
  """Why parameters are not of the described network, in one line; empty if they are."""
  flat = lambda trees: {
    '/'.join(key): tuple(leaf.shape) for key, leaf in traverse_util.flatten_dict(trees).items()
  }
  classes = params['head']['bias'].size if 'bias' in params.get('head', {}) else 1
  needed, found = flat(build(description).shapes(classes)), flat(params)
  if 'head' not in params:
    needed = {name: shape for name, shape in needed.items() if not name.startswith('head/')}
  said = fitting.problems(needed, found)
  if not said:
    return ''
  family, settings = architectures.find(description['architecture'], description['arguments'])
  state = tensors.to_state(params, family.head(settings))
  return (
    f'not a {description["architecture"]}: {said}; they look like {architectures.looks_like(state)}'
  )


def examine(
  member: Any, folder: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What its weights tell of a member that joins a pool, whose 'model' stays as it is.

  Raises:
    ValueError: it does not say what network it is, or images of its size cannot be taken.
  """
  missing = [name for name in ('architecture', 'size', 'mean', 'std') if not getattr(member, name)]
  if missing:
    raise ValueError(
      f'{member.name}: say its {", ".join(missing)}: a file of tensors does not tell them (a folder or repository with '
      'config.json does)'
    )
  described = _described(member)
  one = build({**described, 'dtype': 'float32'})
  try:
    one.shapes(1)
  except (TypeError, ValueError, ArithmeticError, IndexError) as error:
    raise ValueError(
      f'{member.name}: {described["architecture"]} cannot be built with {described["arguments"]}: '
      f'{" ".join(str(error).split())[:200]}'
    ) from error
  if why := one.fault(member.size):
    raise ValueError(f'{member.name}: images of {member.size} pixels: {why}')
  trees = load(member, folder)
  found = {
    'hash': fitting.content_hash(described, trees),
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(trees['backbone'])),
    'dimension': one.dimension,
    'gflops': fitting.gflops(one, network.own(trees), member.size),
  }
  return found, dict(settings)


def _described(member) -> dict[str, Any]:
  return {
    'kind': 'timm',
    'architecture': member.architecture.partition('.')[0],
    'arguments': member.arguments or {},
    'mean': list(member.mean),
    'std': list(member.std),
  }


def _read(member, folder) -> Params:
  path = os.path.join(folder, member.weights)
  state = states.read(path)
  family, settings = architectures.find(member.architecture, member.arguments or {})
  trees = tensors.to_trees(state, family.head(settings))
  if (head := trees.get('head')) and 'kernel' in head:
    head.setdefault('bias', np.zeros(head['kernel'].shape[1], np.float32))
  return trees
