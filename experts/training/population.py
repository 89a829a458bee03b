"""Trains P independent members in one program.

Every training phase is a population: the baseline is one member, the experts are one each, the trials of a transfer
are its learning rates times its seeds. The devices form a mesh ('population', 'data'): a member lives on one group of
devices along 'population' and its batch is split over the group along 'data'. Inside a group the code is that of a
single model, so a member's result does not depend on who trains beside it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experts.training import optim

Tree = Any
Batch = Mapping[str, jax.Array]
# (params, batch) -> (mean loss, {metric: mean}), over the examples of the batch that is handed in.
Objective = Callable[[Tree, Batch], tuple[jax.Array, dict[str, jax.Array]]]

MEMBER = P('population')
EXAMPLE = P('population', 'data')


@struct.dataclass
class State:
  """What a checkpoint holds. Leaves other than `step` have a leading member axis.

  Attributes:
    step: int32 [], steps done.
    trained: the parameter trees that train.
    optimizer: their momenta.
    sums: {metric: float32 [P]}, added up since the last log line. Kept here and not on the host so that a run resumed
      between two log lines prints the same second line.
    bad_step: int32 [P], the first step, counted from 1 as in the metric lines, whose loss was not finite; or -1.
  """

  step: jax.Array
  trained: Tree
  optimizer: Tree
  sums: dict[str, jax.Array]
  bad_step: jax.Array


@dataclasses.dataclass(frozen=True)
class Population:
  """The members of one training run and how they train.

  Attributes:
    names: one a member.
    objective: see `Objective`.
    learning_rate: [P], already scaled to the batch.
    weight_decay: [P].
    schedule: step to a factor for the learning rate.
    momentum: of SGD.
    members_at_once: how many members of a device group are computed by one `vmap`. 1 where kernels differ between
      members (a vmapped convolution over kernels becomes a slow grouped one); more where only adapters differ, as the
      shared backbone then sees one large batch.
    log_every: steps between log lines; `State.sums` restarts there.
  """

  names: Sequence[str]
  objective: Objective
  learning_rate: Sequence[float]
  weight_decay: Sequence[float]
  schedule: Callable[[jax.Array], jax.Array]
  momentum: float
  members_at_once: int
  log_every: int

  def __len__(self) -> int:
    return len(self.names)


def make_mesh(members: int, batch_size: int) -> jax.sharding.Mesh:
  """Splits all devices between members and batch: as many groups as divide both devices and members.

  Raises:
    ValueError: if a member's batch does not divide over its group; names the nearest batches that do.
  """
  devices = jax.device_count()
  groups = int(np.gcd(devices, members))
  shards = devices // groups
  if batch_size % shards:
    below, above = batch_size // shards * shards, -(-batch_size // shards) * shards
    nearest = f'{below} or {above}' if below else f'{above}'
    raise ValueError(
      f'a batch of {batch_size} does not divide over {shards} devices a member ({devices} devices, {members} members);'
      f' the nearest that does is {nearest}'
    )
  return jax.make_mesh((groups, shards), ('population', 'data'), axis_types=(AxisType.Auto,) * 2)


def stack(trees: Sequence[Tree]) -> Tree:
  """Stacks members' trees along a new leading axis, on the host."""
  return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def repeat(tree: Tree, members: int) -> Tree:
  """Gives every member the same tree, along a new leading axis, without copying on the host."""
  return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (members, *np.shape(x))), tree)


def create_state(population: Population, mesh: jax.sharding.Mesh, trained: Tree) -> State:
  """Puts the members' first parameters on the mesh, with fresh momenta.

  Args:
    population: the members.
    mesh: from `make_mesh`.
    trained: host arrays with a leading member axis, only the trees that train.
  """
  members = len(population)
  by_member = NamedSharding(mesh, MEMBER)
  trained = jax.device_put(trained, by_member)
  # SGD's momenta are zeros of the parameters' shapes.
  fresh = jax.eval_shape(optim.sgd(0.0, 0.0, population.momentum).init, trained)
  momenta = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), fresh)
  metrics = ('loss', 'accuracy', 'learning_rate')
  return State(
    step=jax.device_put(np.int32(0), NamedSharding(mesh, P())),
    trained=trained,
    optimizer=jax.device_put(momenta, by_member),
    sums={name: jax.device_put(np.zeros(members, np.float32), by_member) for name in metrics},
    bad_step=jax.device_put(np.full(members, -1, np.int32), by_member),
  )


def put_batch(mesh: jax.sharding.Mesh, batch: Mapping[str, np.ndarray]) -> Batch:
  """Makes global arrays [P, B, …] of this process's share of a batch."""
  sharding = NamedSharding(mesh, EXAMPLE)
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def make_step(
  population: Population, mesh: jax.sharding.Mesh
) -> Callable[[State, Tree, Batch], tuple[State, jax.Array]]:
  """Compiles one optimiser step of all members.

  Returns:
    (state, frozen parameter trees without a member axis, batch [P, B, …]) -> (new state, loss [P]). The old state's
    memory is reused for the new one.
  """
  by_member = NamedSharding(mesh, MEMBER)
  rates = jax.device_put(np.asarray(population.learning_rate, np.float32), by_member)
  decays = jax.device_put(np.asarray(population.weight_decay, np.float32), by_member)
  program = _program(
    population.objective,
    population.schedule,
    population.momentum,
    population.members_at_once,
    population.log_every,
    mesh,
  )
  return lambda state, frozen, batch: program(state, frozen, batch, rates, decays)


@functools.cache
def _program(objective, schedule, momentum, members_at_once, log_every, mesh):
  """One program serves all populations that differ in their values alone: a transfer has hundreds of them."""
  specs = State(step=P(), trained=MEMBER, optimizer=MEMBER, sums=MEMBER, bad_step=MEMBER)
  sharded = jax.shard_map(
    functools.partial(_step, objective, schedule, momentum, members_at_once, log_every),
    mesh=mesh,
    in_specs=(specs, P(), EXAMPLE, MEMBER, MEMBER),
    out_specs=(specs, MEMBER),
  )
  return jax.jit(sharded, donate_argnums=0)


def _step(
  objective, schedule, momentum, members_at_once, log_every, state, frozen, batch, rates, decays
):
  factor = schedule(state.step)

  def member(trained, optimizer, batch, rate, decay):
    # Marked as different on each device, parameters get a local gradient, which is then reduced once, in float32.
    # Left as they are, JAX would reduce where they meet the data, in the compute dtype.
    local = jax.lax.pcast({'trained': trained, 'frozen': frozen}, ('data',), to='varying')

    def loss_of(trained):
      return objective({**local['frozen'], **trained}, batch)

    (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(local['trained'])
    loss, metrics, grads = jax.lax.pmean((loss, metrics, grads), 'data')
    transform = optim.sgd(rate * factor, decay, momentum)
    updates, optimizer = transform.update(grads, optimizer, trained)
    metrics = {'loss': loss, 'learning_rate': rate * factor, **metrics}
    return optax.apply_updates(trained, updates), optimizer, metrics

  trained, optimizer, metrics = each_member(
    lambda args: member(*args),
    (state.trained, state.optimizer, batch, rates, decays),
    members_at_once,
  )
  keep = jnp.where(state.step % log_every == 0, 0.0, 1.0)
  newly_bad = (state.bad_step < 0) & ~jnp.isfinite(metrics['loss'])
  new = State(
    step=state.step + 1,
    trained=trained,
    optimizer=optimizer,
    sums={name: keep * total + metrics[name] for name, total in state.sums.items()},
    bad_step=jnp.where(newly_bad, state.step + 1, state.bad_step),
  )
  return new, metrics['loss']


def each_member(function: Callable[[Tree], Tree], args: Tree, at_once: int = 1) -> Tree:
  """Maps a function over the leading member axis, `at_once` members by `vmap`, the chunks one after the other.

  On a CPU the chunks are unrolled: XLA compiles a convolution inside a loop to naive code there, 9 times slower
  (measured; github.com/jax-ml/jax/issues/12868).
  """
  members = jax.tree.leaves(args)[0].shape[0]
  at_once = max(size for size in range(1, min(at_once, members) + 1) if members % size == 0)
  chunks = jax.tree.map(lambda x: x.reshape(members // at_once, at_once, *x.shape[1:]), args)

  def chunk(part):
    if at_once > 1:
      return jax.vmap(function)(part)
    one = function(jax.tree.map(lambda x: x[0], part))
    return jax.tree.map(lambda x: x[None], one)

  if jax.default_backend() == 'cpu' or members == at_once:
    parts = [chunk(jax.tree.map(lambda x, i=i: x[i], chunks)) for i in range(members // at_once)]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
  out = jax.lax.map(chunk, chunks)
  return jax.tree.map(lambda x: x.reshape(members, *x.shape[2:]), out)


@jax.jit
def finite(trained: Tree) -> jax.Array:
  """Whether all parameters of each member are finite, bool [P]."""
  leaves = [jnp.isfinite(x).reshape(x.shape[0], -1).all(1) for x in jax.tree.leaves(trained)]
  return jnp.stack(leaves).all(0)


def fetch(tree: Tree) -> Tree:
  """Copies global arrays to every host as NumPy arrays."""
  return multihost_utils.process_allgather(tree, tiled=True)
