"""Embeddings of networks that are pure functions: one or several in one compiled pass."""

import collections
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experts.models import adapters, kinds, ours
from experts.models.network import Network, Params, own
from experts.selection import pool

# Batches that the device has before it: one that it computes, one that is copied to it meanwhile.
_IN_FLIGHT = 2


def share(candidates: Sequence[pool.Member], processes: int) -> list[list[pool.Member]]:
  """Shares models out over processes: as many to each as to any other, or one more; some get none if there are too few.

  Neighbours in the pool that one program embeds stay neighbours. Such a group is cut in as many parts as there are
  processes, even where its models share a backbone, which is then computed once on each: with fewer processes at work the
  ranking would be there later.
  """
  parts = [[] for _ in range(processes)]
  for _, group in itertools.groupby(candidates, _alike):
    group = list(group)
    least, more = divmod(len(group), processes)
    # Those with the fewest so far take what is left over.
    for place, part in enumerate(sorted(parts, key=len)):
      number = least + (place < more)
      part += group[:number]
      del group[:number]
  return parts


def units(candidates: Sequence[pool.Member], devices: int) -> list[tuple[list[pool.Member], int]]:
  """Models that are embedded in one pass, and over how many groups of a process's devices."""
  found = []
  for (alone, bank, _), group in itertools.groupby(candidates, _alike):
    group = list(group)
    while group:
      most = 1 if alone else min(devices, len(group))
      groups = max(n for n in range(1, most + 1) if devices % n == 0)
      each = min(adapters.AT_ONCE, len(group) // groups) if bank else 1
      found.append((group[: groups * each], groups))
      group = group[groups * each :]
  return found


def _alike(member: pool.Member) -> tuple:
  """Equal for members that one program embeds."""
  if not kinds.KINDS[member.kind].shared:
    return True, False, member.name
  return False, is_bank(member), member.backbone


def is_bank(member: pool.Member) -> bool:
  """Whether it shares a backbone with others: those are embedded as a bank of adapters."""
  return member.backbone is not None


def load_unit(
  unit: Sequence[pool.Member], folder: str, mesh: Mesh, settings: Mapping[str, Any]
) -> tuple[Network, Params, list[Params | None]]:
  """Reads the members of a unit and starts to copy them to the devices.

  Args:
    unit: from `units`.
    folder: of the pool file.
    mesh: from `devices.make_mesh`.
    settings: the pool's 'model'.

  Returns:
    `embed`'s network and params, and the members' heads on the host, None for one without.
  """
  first = unit[0]
  family = kinds.KINDS[first.kind].family
  if is_bank(first):
    # The backbone that all have in common is read once.
    shared = ours.read(first.backbone, folder, first.trained_from, first.name)
    bank = [ours.read(m.weights, folder, m.hash, m.name)['adapter'] for m in unit]
    params = {'backbone': shared['backbone'], 'bank': _stack(bank)}
    loaded = [shared] * len(unit)
  else:
    loaded = [family.load(member, folder) for member in unit]
    params = _stack([own(trees) for trees in loaded])
  places = placement(params)
  placed = {
    name: jax.device_put(params[name], NamedSharding(mesh, spec)) for name, spec in places.items()
  }
  described = {'dtype': 'auto'} | dict(settings)
  network = family.build(family.describe(first, described, loaded[0]))
  return network, placed, [trees.get('head') for trees in loaded]


def described(member: pool.Member, folder: str, settings: Mapping[str, Any]) -> dict[str, Any]:
  """What `Family.build` needs of a pool's model; its weights are read where they alone tell.

  Args:
    member: one that trains.
    folder: of the pool file.
    settings: the pool's 'model', which is of the network that its own models share.
  """
  kind = kinds.KINDS[member.kind]
  params = {} if kind.shared or member.architecture else kind.family.load(member, folder)
  return kind.family.describe(member, settings if kind.shared else {}, params)


def _stack(trees: Sequence[Params]) -> Params:
  if len(trees) == 1:
    return jax.tree.map(lambda leaf: leaf[None], trees[0])
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def placement(params: Params) -> dict[str, P]:
  """Where a unit's parameters lie on the mesh: models and adapters are spread, a shared backbone is everywhere."""
  if 'bank' in params:
    return {'backbone': P(), 'bank': P('population')}
  return dict.fromkeys(params, P('population'))


def batches(mesh: Mesh, pixels: np.ndarray, batch_size: int) -> Iterator[jax.Array]:
  """Copies images uint8 [N, S, S, 3] to the mesh, up to `batch_size` at a time, all batches of one shape."""
  sharding = NamedSharding(mesh, P('data'))
  shards = mesh.shape['data']
  batch_size = -(-min(batch_size, len(pixels)) // shards) * shards
  for start in range(0, len(pixels), batch_size):
    batch = pixels[start : start + batch_size]
    if len(batch) < batch_size:
      # One shape, one program: the last batch is filled up, and its embeddings are cut.
      batch = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
    yield jax.device_put(batch, sharding)


def embed(
  network: Network, mesh: Mesh, params: Params, images: Iterable[jax.Array], number: int
) -> np.ndarray:
  """Embeds images with every model of a unit.

  Args:
    network: of all of the unit.
    mesh: see `devices.make_mesh`.
    params: on the mesh; 'backbone' with a leading axis of a model for each group of devices, or one 'backbone' and a
      'bank' of E adapters.
    images: the `batches` of N images.
    number: N.

  Returns:
    float32 [E, N, D].
  """
  program = make_program(network, mesh)
  waiting, found, done = collections.deque(), None, 0

  def take():
    # Into its place at once: what is left to do when the device has ended is little.
    nonlocal found, done
    part = np.asarray(waiting.popleft())[:, : number - done]
    if found is None:
      found = np.empty((len(part), number, part.shape[2]), np.float32)
    found[:, done : done + part.shape[1]] = part
    done += part.shape[1]

  for batch in images:
    waiting.append(program(params, batch))
    if len(waiting) > _IN_FLIGHT:
      take()
  while waiting:
    take()
  return found


@functools.cache
def make_program(network: Network, mesh: Mesh) -> jax.stages.Wrapped:
  """The embedding of one batch: (params, uint8 images [B, S, S, 3]) -> [E, B, D]; see `embed`."""

  def of_bank(params, images):
    return network.embed_bank(params['backbone'], params['bank'], images)

  def of_network(params, images):
    return network.forward(jax.tree.map(lambda leaf: leaf[0], params), images)[1][None]

  def program(params, images):
    bank = 'bank' in params
    return jax.shard_map(
      of_bank if bank else of_network,
      mesh=mesh,
      in_specs=(placement(params), P('data')),
      out_specs=P('population', 'data'),
    )(params, images)

  return jax.jit(program)
