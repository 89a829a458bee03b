"""Which devices train what: the mesh ('population', 'data'), the rounds of a population, each host's share of a batch."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experts import machine

Tree = Any

MEMBER = P('population')
EXAMPLE = P('population', 'data')

# Of a device's memory: the compiler needs room of its own, and estimates are estimates.
_USABLE = 0.9
_GIB = 2**30
# Of each member on a device: the one that trains, the one that waits behind it, and the one being copied.
_BATCHES = 3


@dataclasses.dataclass(frozen=True)
class Round:
  """Members that train at the same time, and how the devices are split between them and their batches.

  Attributes:
    start: first member.
    members: their number, a multiple of `groups`.
    groups: device groups; each computes members/groups members, one after the other.
    shards: devices of a group; a member's batch is split over them.
    at_once: members of a group that one `vmap` computes.
    reason: why, for people.
  """

  start: int
  members: int
  groups: int
  shards: int
  at_once: int
  reason: str


@dataclasses.dataclass(frozen=True)
class Need:
  """Bytes of device memory that a population asks for.

  Attributes:
    member: parameters and momenta of one member.
    gradient: of one member.
    image: what the forward pass of one image keeps for the backward pass.
    shared: frozen parameters.
    input: an image as it arrives.
  """

  member: int
  gradient: int
  image: int
  shared: int = 0
  input: int = 0


def plan(
  members: int,
  batch_size: int,
  devices: int,
  need: Need,
  limit: int,
  at_once: int = 1,
  loop: bool = True,
) -> list[Round]:
  """Splits a population into rounds that fit the memory, and the devices within each.

  No device idles: members that do not divide over the groups train in a round of their own, with more devices each. All
  plans then compute the same images; they differ in how often a device goes through a member's parameters and reduces
  its gradients, which is the less the more groups there are. Of the plans within a tenth of the cheapest, the one with
  the fewest rounds.

  Args:
    members: how many train.
    batch_size: of one member, over all devices of its group.
    devices: in all.
    need: bytes.
    limit: bytes of memory of one device.
    at_once: most members that one `vmap` may compute.
    loop: whether a group may train several members, one after the other.

  Raises:
    ValueError: a batch that does not divide over any group, or more members than groups without `loop`.
  """

  @functools.cache
  def plans(left):
    """{number of rounds: (cost, rounds)}, the cheapest of each."""
    if not left:
      return {0: (0.0, ())}
    found = {}
    for one in _options(left, batch_size, devices, need, limit, at_once):
      for number, (cost, rest) in plans(left - one.members).items():
        total = cost + _cost(one, batch_size, need)
        if number + 1 not in found or total < found[number + 1][0]:
          found[number + 1] = (total, (one, *rest))
    return found

  found = plans(members)
  cheapest = min(cost for cost, _ in found.values())
  rounds, start = [], 0
  for one in next(found[n][1] for n in sorted(found) if found[n][0] <= 1.1 * cheapest):
    rounds.append(dataclasses.replace(one, start=start))
    start += one.members
  if not loop and (len(rounds) > 1 or rounds[0].members > rounds[0].groups):
    raise ValueError(
      f'{members} members of batch {batch_size} do not train at the same time on {devices} devices, and '
      'config.run.loop=False forbids one after the other: allow it, or take fewer members or a larger slice'
    )
  return rounds


def plan_whole(
  members: int, batch_size: int, devices: int, need: Need, limit: int, at_once: int = 1
) -> Round:
  """Like `plan`, for a round whose members are given, such as one that was interrupted."""
  options = _options(members, batch_size, devices, need, limit, at_once, whole=True)
  return min(options, key=lambda one: _cost(one, batch_size, need))


def largest_batch(devices: int, need: Need, limit: int) -> int:
  """The largest batch of which one member fits on all devices together, by the estimate of `plan`; 0 if none does."""
  left = _USABLE * limit - need.shared - need.member - need.gradient
  return max(0, int(left // (need.image + _BATCHES * need.input))) * devices


def _cost(one: Round, batch_size: int, need: Need) -> float:
  """Time of a step of a round, in images of one device.

  Going through a member's parameters and reducing its gradients is worth 25 times its gradients' bytes of memory
  traffic, frozen parameters 3 times theirs, the forward and backward pass of an image 40 times what it keeps; orders
  of magnitude, from v3's bandwidths.
  """
  through = (25 * need.gradient + 3 * need.shared) / (40 * need.image)
  return one.members / one.groups * (batch_size / one.shards + through)


def _options(members, batch_size, devices, need, limit, at_once, whole=False) -> list[Round]:
  """The ways to train some members, or all if `whole`; those that fit, or else the one that needs least."""
  divisors = [g for g in range(1, min(devices, members) + 1) if devices % g == 0]
  if whole:
    divisors = [g for g in divisors if members % g == 0]
  fitting, too_large = [], []
  for groups in divisors:
    shards = devices // groups
    if batch_size % shards:
      continue
    per_image = batch_size // shards * need.image
    once = need.gradient + per_image
    left = _USABLE * limit - need.shared - once
    member = need.member + _BATCHES * batch_size // shards * need.input
    room = int(left // member)
    each = members // groups if whole else max(1, min(room, members // groups))
    more = int((left - each * member) // once) if each <= room else 0
    together = max(n for n in range(1, min(at_once, each) + 1) if each % n == 0 and n <= 1 + more)
    used = need.shared + each * member + together * once
    reason = (
      f'{each * groups} of {members} members; devices: {groups} x {devices // groups} (population x data); '
      f'{each} members a device, {together} at a time, {batch_size // shards} images each; about '
      f'{used / _GIB:.2f} of {limit / _GIB:.2f} GiB'
    )
    if each <= room:
      fitting.append(Round(0, each * groups, groups, shards, together, reason))
    else:
      reason += ', more than there is, by this estimate'
      too_large.append((used, Round(0, each * groups, groups, shards, together, reason)))
  if fitting:
    return fitting
  if too_large:
    return [min(too_large, key=lambda option: option[0])[1]]
  raise _indivisible(batch_size, devices // divisors[-1], devices, members)


def _indivisible(batch_size, shards, devices, members) -> ValueError:
  below, above = batch_size // shards * shards, -(-batch_size // shards) * shards
  nearest = (
    f'those that do are {below} and {above}' if below else f'the nearest that does is {above}'
  )
  return ValueError(
    f'a batch of {batch_size} does not divide over {shards} devices a member ({devices} devices, {members} members);'
    f' {nearest}'
  )


def memory_limit(device: jax.Device) -> int:
  """Bytes of memory of a device; where it is a CPU, its share of what there is for this process."""
  stats = device.memory_stats() if device.platform != 'cpu' else None
  if stats and 'bytes_limit' in stats:
    return stats['bytes_limit']
  return machine.memory() // jax.local_device_count()


@functools.cache
def meet(mesh: Mesh) -> None:
  """Connects the processes of a mesh along each of its axes; each of them must ask.

  Where CPUs make up a pod, devices that are to exchange something for the first time wait no longer than half a minute
  for each other, and so for the slowest process to compile the program that does it. Here there is next to nothing to
  compile.
  """
  if jax.process_count() == 1 or mesh.devices.flat[0].platform != 'cpu':
    return
  for axes in (('data',), ('population', 'data')):
    total = jax.shard_map(
      lambda x, axes=axes: jax.lax.psum(x, axes), mesh=mesh, in_specs=EXAMPLE, out_specs=MEMBER
    )
    jax.block_until_ready(
      jax.jit(total)(place(np.ones(mesh.devices.shape, np.float32), mesh, EXAMPLE))
    )


def share(mesh: Mesh, members: int) -> tuple[slice, tuple[int, int]]:
  """What this process feeds: its members, and (index, number) of its block of their batches.

  Raises:
    ValueError: the mesh cuts a process's devices into pieces.
  """
  (row, rows), (column, columns) = _block(mesh)
  each = members // rows
  return slice(row * each, (row + 1) * each), (column, columns)


@functools.cache
def _block(mesh):
  """This process's block of the mesh: (index, number) along 'population' and along 'data'."""
  mine = np.array([[d.process_index == jax.process_index() for d in row] for row in mesh.devices])
  cut = [np.flatnonzero(mine.any(axis)) for axis in (1, 0)]
  if not mine[np.ix_(*cut)].all() or any(places[0] % len(places) for places in cut):
    raise ValueError(
      f'{mine.sum()} devices a process do not tile a mesh of {mesh.devices.shape}; take a number of processes '
      'that is a power of two'
    )
  return tuple(
    (int(places[0]) // len(places), size // len(places))
    for places, size in zip(cut, mesh.devices.shape)
  )


def place(tree: Tree, mesh: Mesh, spec: P) -> Tree:
  """Puts host arrays, which every process holds, on the mesh; each process copies its own part only."""
  sharding = NamedSharding(mesh, spec)

  def put(leaf):
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

  return jax.tree.map(put, tree)


def abstract(tree: Tree, mesh: Mesh, spec: P) -> Tree:
  """Shapes with their place on the mesh, which may be one that this machine only compiles for."""
  sharding = NamedSharding(mesh, spec)
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
  )


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array]:
  """Makes global arrays [P, B, …] of this process's share [p, b, …]; copies in the background."""
  return _put(mesh, batch, EXAMPLE, tuple(number for _, number in _block(mesh)))


def mark(mesh: Mesh, value: bool) -> np.ndarray:
  """This process's share of an array with a number for each device: 1 if `value`, else 0."""
  (_, rows), (_, columns) = _block(mesh)
  groups, shards = mesh.devices.shape
  return np.full((groups // rows, shards // columns), value, np.float32)


def put_shared_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array]:
  """Makes global arrays [B, …], the same for all members, of this process's share [b, …]."""
  return _put(mesh, batch, P('data'), (_block(mesh)[1][1],))


def _put(mesh, batch, spec, parts):
  sharding = NamedSharding(mesh, spec)

  def put(value):
    whole = tuple(size * part for size, part in zip(value.shape, parts))
    return jax.make_array_from_process_local_data(
      sharding, value, (*whole, *value.shape[len(parts) :])
    )

  return {key: put(value) for key, value in batch.items()}


def fetch(tree: Tree) -> Tree:
  """Copies small global arrays to every process, as NumPy arrays."""
  return multihost_utils.process_allgather(tree, tiled=True)


def fetch_member(tree: Tree, member: int) -> Tree:
  """One member's trees [P, …] on every process, as NumPy arrays; the others stay where they are."""
  if jax.process_count() == 1:
    return jax.tree.map(lambda leaf: np.asarray(leaf[member]), tree)
  cut = _cut(jax.tree.leaves(tree)[0].sharding.mesh)
  return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), cut(tree, member))


@functools.cache
def _cut(mesh):
  return jax.jit(
    lambda tree, i: jax.tree.map(lambda x: x[i], tree), out_shardings=NamedSharding(mesh, P())
  )
