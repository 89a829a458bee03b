"""Our ResNet as a network of a pool: baselines, and experts with and without adapters."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax

from experts.models import adapters, network, resnet, weights

Params = network.Params

find = network.as_given

_FIELDS = ('depth', 'width', 'root')


@dataclasses.dataclass(frozen=True)
class Network:
  """Behind the contract; the only one with adapters."""

  resnet: resnet.ResNet

  @property
  def dimension(self) -> int:
    return self.resnet.embedding_dim

  @property
  def dtype(self) -> Any:
    return self.resnet.dtype

  def forward(self, params: Params, images: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    return resnet.forward(self.resnet, params, resnet.normalise(images))

  def fault(self, side: int) -> str:
    del side
    return ''

  def embed_bank(self, backbone: Params, bank: Params, images: jax.Array) -> jax.Array:
    """Embeds uint8 images [B, S, S, 3] with the E experts of a bank over one backbone: float32 [E, B, D]."""
    return adapters.embed_bank(self.resnet, backbone, bank, resnet.normalise(images))

  @property
  def blocks(self) -> int:
    return sum(resnet.DEPTHS[self.resnet.depth])

  def layer(self, path: tuple[str, ...]) -> int:
    if not path[0].startswith('block'):
      return 0 if path[0] == 'root' else self.blocks + 1
    # An adapter is before the first unit.
    unit = int(path[1][-2:]) if path[1].startswith('unit') else 1
    return sum(resnet.DEPTHS[self.resnet.depth][: int(path[0][-1]) - 1]) + unit

  def shapes(self, classes: int) -> Params:
    return jax.eval_shape(lambda: resnet.init(self.resnet, jax.random.key(0), classes))


def fields(model: resnet.ResNet) -> dict[str, Any]:
  """What a description says of a ResNet, besides its dtype."""
  return {name: getattr(model, name) for name in _FIELDS}


def build(description: Mapping[str, Any], platform: str | None = None) -> Network:
  """The network that `config.model`, a pool's 'model' or a fine-tuned network's description stands for."""
  dtype = network.compute_dtype(description['dtype'], platform)
  return Network(resnet.ResNet(**{name: description[name] for name in _FIELDS}, dtype=dtype))


def describe(member: Any, settings: Mapping[str, Any], params: Params) -> dict[str, Any]:
  """What `build` needs: the pool's settings, which all its own networks have in common."""
  del member, params
  return {name: settings[name] for name in (*_FIELDS, 'dtype')}


def load(member: Any, folder: str) -> Params:
  """Reads {'backbone', 'head'}, and for an adapter expert 'adapter', and checks them against the pool's hashes.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file is damaged, or not the one that the pool lists.
  """
  own = read(member.weights, folder, member.hash, member.name)
  if not member.backbone:
    return own
  return {**read(member.backbone, folder, member.trained_from, member.name), **own}


def read(path: str, folder: str, content: str | None, name: str, load=weights.load) -> Params:
  """Reads the trees of a file, and checks them against the hash that the pool has of them, if any."""
  full = os.path.join(folder, path)
  if not os.path.exists(full):
    raise FileNotFoundError(f'no weights of {name!r} at {full}')
  trees = load(full)
  if content and weights.content_hash(trees) != content:
    raise ValueError(
      f'{path}: not the weights that the pool lists for {name!r} (hashes differ); '
      'run the phase that makes them again, or add the model anew'
    )
  return trees


def mismatch(description: Mapping[str, Any], params: Params) -> str:
  """Why parameters are not of the described network, in one line; empty if they are."""
  wanted = build(description).resnet
  try:
    found = weights.infer(params)
  except ValueError as error:
    return str(error)
  if fields(found) == fields(wanted):
    return ''
  say = lambda one: f'depth {one.depth}, width {one.width:g}, root {one.root}'
  return f'described is a ResNet of {say(wanted)}, these are of {say(found)}'


def examine(
  member: Any, folder: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What its weights tell of a member that joins a pool, whose network must be the pool's, if that has one already.

  Raises:
    ValueError: it is of another network, or the first one and nobody says how large its images are.
  """
  found, model = measured(member, folder, load(member, folder), weights.load)
  network_of = fields(model)
  if 'depth' not in settings:
    if not member.size:
      raise ValueError(f'{member.name}: the first network of a pool needs the size of its images')
    resize = member.resize or member.size
    return found, {**network_of, 'dtype': 'auto', 'size': member.size, 'resize': resize}
  if theirs := {key: settings[key] for key in network_of if settings[key] != network_of[key]}:
    raise ValueError(
      f'{member.name} is a network of {network_of}, but the pool has {theirs}: keep pools apart'
    )
  return found, dict(settings)


def measured(
  member: Any, folder: str, trees: Params, load_file
) -> tuple[dict[str, Any], resnet.ResNet]:
  """Hashes, parameters and dimension of a ResNet's weights, and the ResNet."""
  own = read(member.weights, folder, None, member.name, load_file)
  model = weights.infer(trees)
  found = {
    'hash': weights.content_hash(own),
    'parameters': sum(
      leaf.size for key in trees if key != 'head' for leaf in jax.tree.leaves(trees[key])
    ),
    'dimension': model.embedding_dim,
  }
  if member.backbone:
    baseline = read(member.backbone, folder, None, member.name)
    found['trained_from'] = weights.content_hash(baseline)
  return found, model
