"""Networks of torch that have no module of their own here, computed by torchax.

A member names what makes its module, module:function or an architecture of timm, and its weights are a state dict under
torch's names. The module is made, emptied of its parameters, and traced wherever it is computed: so it is a pure function
of its trees like any network, differentiable and mapped over members, in batches of any size and of images of each size that
the module takes. An exported program instead would need no torch to open it, but has no vmap, is of one batch for networks of
tokens, and is refused by a JAX of some versions later.

The trees are flat, {torch's name: array in torch's layout}: `backbone` of the parameters that ask for a gradient, `statistics`
of the others and of stored floating-point buffers; the module is in eval mode, always. Integer buffers, and those that no state
dict has, are the module's own. Activations are float32.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experts.models import fitting, network
from experts.models.timm import published, states
from experts.models.torch_modules import bridge, parity

Params = network.Params

find = published.find


@dataclasses.dataclass(frozen=True)
class Network:
  """Behind the contract.

  Attributes:
    architecture: see `bridge.construct`.
    arguments: as JSON.
    mean: of the channels of images in [0, 1].
    std: of those.
    dimension: D of its embeddings.
  """

  architecture: str
  arguments: str
  mean: tuple[float, ...]
  std: tuple[float, ...]
  dimension: int

  @property
  def skeleton(self) -> bridge.Skeleton:
    return bridge.skeleton(self.architecture, self.arguments)

  @property
  def dtype(self) -> Any:
    return jnp.dtype(jnp.float32)

  def forward(self, params: Params, images: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    mean, std = (255 * jnp.array(values, jnp.float32) for values in (self.mean, self.std))
    pixels = ((images.astype(jnp.float32) - mean) / std).transpose(0, 3, 1, 2)
    arrays = {**params['backbone'], **params.get('statistics', {})}
    embedding = bridge.embed(self.architecture, self.skeleton, arrays, pixels)
    if 'head' not in params:
      return None, embedding
    return embedding @ params['head']['kernel'] + params['head']['bias'], embedding

  @property
  def blocks(self) -> int:
    return 0

  def layer(self, path: tuple[str, ...]) -> int:
    del path
    return 0

  def fault(self, side: int) -> str:
    del side  # What a module cannot take ends in an error of its own.
    return ''

  def shapes(self, classes: int) -> Params:
    return {
      **_slots(self.skeleton, lambda slot: jax.ShapeDtypeStruct(tuple(slot.shape), jnp.float32)),
      'head': jax.eval_shape(lambda: network.head(self.dimension, classes)),
    }


def load(member: Any, folder: str) -> Params:
  """Reads a member's trees, and checks them against its module and hash.

  Raises:
    FileNotFoundError: no such file.
    ValueError: weights of another network, or not those that the pool lists; one line.
  """
  described = describe(member, {}, {})
  trees = _read(member, folder)
  if why := mismatch(described, trees):
    raise ValueError(f'model {member.name!r}: {member.weights}: {why}')
  if member.hash and member.hash != _hash(described, trees):
    raise ValueError(
      f'{member.weights}: not the weights, settings or code that the pool lists for {member.name!r} (hashes differ); add '
      'the model anew'
    )
  return trees


def describe(member: Any, settings: Mapping[str, Any], params: Params) -> dict[str, Any]:
  """What `build` needs; the pool's settings are of other networks."""
  del settings, params
  return {
    'kind': 'torch',
    'architecture': member.architecture,
    'arguments': member.arguments or {},
    'mean': list(member.mean),
    'std': list(member.std),
    'dimension': member.dimension,
  }


def build(description: Mapping[str, Any], platform: str | None = None) -> Network:
  """The network that a description stands for, which is the same on every platform."""
  del platform
  return Network(
    description['architecture'],
    json.dumps(description['arguments'], sort_keys=True),
    tuple(description['mean']),
    tuple(description['std']),
    description['dimension'],
  )


def mismatch(description: Mapping[str, Any], params: Params) -> str:
  """Why parameters are not of the described network, in one line; empty if they are."""
  flat = lambda trees: {
    f'{tree}/{name}': tuple(leaf.shape)
    for tree, leaves in network.own(trees).items()
    for name, leaf in leaves.items()
  }
  said = fitting.problems(flat(build(description).shapes(1)), flat(params))
  return f'not a {description["architecture"]}: {said}' if said else ''


def examine(
  member: Any, folder: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What its module and weights tell of a member that joins a pool, whose 'model' stays as it is.

  Raises:
    ValueError: it does not say what network it is, or computes something else than in torch; one line.
  """
  missing = [name for name in ('architecture', 'size', 'mean', 'std') if not getattr(member, name)]
  if missing:
    raise ValueError(
      f'{member.name}: say its {", ".join(missing)}: a file of tensors does not tell them'
    )
  one = build(describe(member, {}, {}))
  images = jax.ShapeDtypeStruct((2, member.size, member.size, 3), jnp.uint8)
  _, embedding = jax.eval_shape(one.forward, network.own(one.shapes(1)), images)
  member = dataclasses.replace(member, dimension=embedding.shape[1])
  trees = load(member, folder)
  own = network.own(trees)
  arrays = {**own['backbone'], **own.get('statistics', {})}
  parity.check(one.architecture, one.arguments, arrays, member.size, member.mean, member.std)
  found = {
    'hash': _hash(describe(member, {}, {}), trees),
    'parameters': sum(leaf.size for leaf in own['backbone'].values()),
    'dimension': member.dimension,
    'gflops': fitting.gflops(one, own, member.size),
  }
  return found, dict(settings)


def _slots(skeleton: bridge.Skeleton, make) -> Params:
  """A network's trees, each leaf made of its tensor."""
  trees = {'backbone': skeleton.trained, 'statistics': skeleton.frozen}
  return {
    tree: {name: make(slot) for name, slot in slots.items()}
    for tree, slots in trees.items()
    if slots
  }


def _read(member, folder) -> Params:
  """The trees of a member's file; what is left over is in `backbone`, where `mismatch` finds it."""
  path = os.path.join(folder, member.weights)
  skeleton = build(describe(member, {}, {})).skeleton
  state = states.read(path)
  if not member.architecture.count(':') and {*state} - _known(skeleton, state):
    state = _as_today(member.architecture, skeleton, state)
  for name, constant in skeleton.stored.items():
    counts = name.endswith('num_batches_tracked')
    if name in state and not counts and not np.array_equal(state[name], constant.numpy()):
      raise ValueError(
        f'{path}: {name} has other values than the module makes: only floating-point buffers are read from a file'
      )
  classifier = _of_classifier(skeleton, state)
  aside = {*skeleton.stored, *skeleton.aliases, *classifier}
  as_float = lambda value: np.asarray(value, np.float32)
  left = {name: as_float(value) for name, value in state.items() if name not in aside}
  statistics = {name: left.pop(name) for name in skeleton.frozen if name in left}
  trees = {'backbone': left} | ({'statistics': statistics} if statistics else {})
  if head := _head(skeleton, state, classifier, member.dimension):
    trees['head'] = head
  return trees


def _known(skeleton, state) -> set[str]:
  return {
    *skeleton.trained, *skeleton.frozen, *skeleton.stored, *skeleton.aliases,
    *_of_classifier(skeleton, state),
  }  # fmt: skip


def _of_classifier(skeleton, state) -> set[str]:
  """The names of a state dict that are of timm's classifiers, and not of what embeds."""
  own = {*skeleton.trained, *skeleton.frozen, *skeleton.stored}
  parts = {name.partition('.')[0] for name in skeleton.classifiers}
  return {name for name in state if name.partition('.')[0] in parts and name not in own}


def _head(skeleton, state, classifier, dimension) -> Params | None:
  """A classifier that is one dense layer; of others, such as one behind a normalisation, nothing is kept."""
  if len(skeleton.classifiers) != 1:
    return None
  kernel, bias = (f'{skeleton.classifiers[0]}.{leaf}' for leaf in ('weight', 'bias'))
  if not classifier or not {kernel} <= classifier <= {kernel, bias}:
    return None
  # Some write it as a convolution.
  kernel = np.asarray(state[kernel], np.float32)
  if kernel.size != len(kernel) * dimension:
    return None
  zeros = np.zeros(len(kernel), np.float32)
  return {
    'kernel': np.ascontiguousarray(kernel.reshape(len(kernel), dimension).T),
    'bias': np.asarray(state.get(bias, zeros), np.float32),
  }


def _as_today(architecture, skeleton, state) -> dict[str, np.ndarray]:
  """A state dict of another author or of long ago, brought under timm's names of today by timm, where it can."""
  torch, _ = bridge.libraries()
  convert = getattr(sys.modules[type(skeleton.module).__module__], 'checkpoint_filter_fn', None)
  if convert is None:
    return state
  try:
    found = convert({name: torch.tensor(value) for name, value in state.items()}, skeleton.module)
    return {name: value.detach().numpy() for name, value in found.items()}
  except Exception as error:
    raise ValueError(
      f'the weights are not a {architecture}: timm cannot convert them ({type(error).__name__}: '
      f'{" ".join(str(error).split())[:200]})'
    ) from error


def _hash(described, trees) -> str:
  """Of the weights, the settings, and the file of the function that makes the module."""
  file = bridge.file_of(described['architecture'])
  code = hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest() if file else ''
  return fitting.content_hash({**described, 'code': code}, trees)
