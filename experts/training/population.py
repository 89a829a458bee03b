"""Trains P independent members in one program.

Every training phase is a population: the baseline is one member, the experts are one each, the trials of a transfer
are its learning rates times its seeds. The devices form a mesh ('population', 'data'): a member lives on one group of
devices along 'population' and its batch is split over the group along 'data'. Inside a group the code is that of a
single model, so a member's result does not depend on who trains beside it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import PartitionSpec as P

from experts.training import chunks, optim
from experts.training import mesh as meshes
from experts.training.mesh import EXAMPLE, MEMBER

Tree = Any
Batch = Mapping[str, jax.Array]
# (params, batch) -> (mean loss, {metric: mean}), over the examples of the batch that is handed in.
Objective = Callable[[Tree, Batch], tuple[jax.Array, dict[str, jax.Array]]]


# Key of a batch: float32 [groups, shards, 3], a `Word` of each process on its devices.
WORD = 'word'


class Word(NamedTuple):
  """What a process has to say to all, which they hear with the step that the batch makes: they act at the same step."""

  stop: bool = False
  save: bool = False
  log: bool = False


# Key of `State.sums`: how many steps they cover.
STEPS = 'steps'


@struct.dataclass
class State:
  """What a checkpoint holds. Leaves other than `step` have a leading member axis.

  Attributes:
    step: int32 [], steps done.
    trained: the parameter trees that train.
    optimizer: what the optimiser keeps of them, such as momenta.
    sums: {metric: float32 [P]}, added up since the last log line, and under `STEPS` how many steps that are. Kept here
      and not on the host so that a run resumed between two log lines prints the same second line. Not a number from
      where a member has diverged.
    bad_step: int32 [P], the step, counted from 1 as in the metric lines, at which a member diverged: its loss, or by
      `mark_spoilt` a parameter after it, is not finite; or -1. From then on its parameters and momenta stay as they are.
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
    optimizer: of all.
    members_at_once: how many members of a device group are computed by one `vmap`. 1 where kernels differ between
      members (a vmapped convolution over kernels becomes a slow grouped one); more where only adapters differ, as the
      shared backbone then sees one large batch.
    gradient_dtype: in which gradients cross devices. That of the activations halves what an accelerator moves: the
      kernels' gradients come out of bfloat16 convolutions in any case.
  """

  names: Sequence[str]
  objective: Objective
  learning_rate: Sequence[float]
  weight_decay: Sequence[float]
  schedule: Callable[[jax.Array], jax.Array]
  members_at_once: int
  optimizer: optim.Optimizer = optim.SGD
  gradient_dtype: Any = jnp.float32

  def __len__(self) -> int:
    return len(self.names)


def stack(trees: Sequence[Tree]) -> Tree:
  """Stacks members' trees along a new leading axis, on the host."""
  return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def repeat(tree: Tree, members: int) -> Tree:
  """Gives every member the same tree, or shapes, along a new leading axis, without copying on the host."""

  def one(leaf):
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct((members, *leaf.shape), leaf.dtype)
    return np.broadcast_to(np.asarray(leaf), (members, *np.shape(leaf)))

  return jax.tree.map(one, tree)


def create_state(population: Population, mesh: jax.sharding.Mesh, trained: Tree) -> State:
  """Puts the members' first parameters on the mesh, with fresh momenta.

  Args:
    population: the members.
    mesh: from `mesh.make`.
    trained: host arrays with a leading member axis, only the trees that train.
  """
  # A float32 zero for each parameter; on the host a page that is read many times, whatever their number.
  fresh = _zeros(_fresh(population, trained))
  return jax.tree.map(
    lambda spec, part: meshes.place(part, mesh, spec),
    _specs(),
    dataclasses.replace(fresh, trained=trained, bad_step=fresh.bad_step - 1),
  )


def abstract_state(population: Population, mesh: jax.sharding.Mesh, trained: Tree) -> State:
  """Shapes of the state of members whose trees are arrays or shapes [P, …], with their places."""
  return jax.tree.map(
    lambda spec, part: meshes.abstract(part, mesh, spec), _specs(), _fresh(population, trained)
  )


def restart_sums(state: State, mesh: jax.sharding.Mesh) -> State:
  """The state after a log line."""
  return dataclasses.replace(state, sums=meshes.place(_zeros(state.sums), mesh, MEMBER))


def mark_spoilt(state: State, mesh: jax.sharding.Mesh) -> State:
  """The state in which members have diverged at this step whose parameters are not finite.

  A finite loss may be followed by an update that is too large. The next step's loss would tell; to look at all
  parameters in each step takes a seventh of its time where a device has few images.
  """
  return dataclasses.replace(
    state, bad_step=_jit_mark(mesh)(state.trained, state.bad_step, state.step)
  )


@functools.cache
def _jit_mark(mesh):
  def mark(trained, bad_step, step):
    finite = [jnp.isfinite(x).reshape(x.shape[0], -1).all(1) for x in jax.tree.leaves(trained)]
    return jnp.where((bad_step < 0) & ~jnp.stack(finite).all(0), step, bad_step)

  return jax.jit(mark, out_shardings=jax.sharding.NamedSharding(mesh, MEMBER))


def means(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """{metric: [P]}, means over the steps that `State.sums` covers."""
  return {name: total / sums[STEPS] for name, total in sums.items() if name != STEPS}


def _zeros(tree):
  return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), tree)


def _fresh(population: Population, trained: Tree) -> State:
  """The shapes of a state."""
  members = jax.tree.leaves(trained)[0].shape[0]
  by_member = jax.ShapeDtypeStruct((members,), np.float32)
  trained = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), trained)
  return State(
    step=jax.ShapeDtypeStruct((), np.int32),
    trained=trained,
    optimizer=jax.eval_shape(jax.vmap(population.optimizer.transform(0.0, 0.0).init), trained),
    sums=dict.fromkeys(('loss', 'accuracy', 'learning_rate', STEPS), by_member),
    bad_step=jax.ShapeDtypeStruct((members,), np.int32),
  )


def _specs() -> State:
  return State(step=P(), trained=MEMBER, optimizer=MEMBER, sums=MEMBER, bad_step=MEMBER)


def make_step(
  population: Population, mesh: jax.sharding.Mesh
) -> Callable[[State, Tree, Batch], tuple[State, jax.Array, jax.Array]]:
  """Compiles one optimiser step of all members.

  Returns:
    (state, frozen parameter trees without a member axis, batch [P, B, …] with `WORD`) -> (new state, loss [P], devices
    that say each part of the word, float32 [3]). The old state's memory is reused for the new one.
  """
  rates = meshes.place(np.asarray(population.learning_rate, np.float32), mesh, MEMBER)
  decays = meshes.place(np.asarray(population.weight_decay, np.float32), mesh, MEMBER)
  program = make_program(population, mesh)
  members = len(population) // mesh.shape['population']
  at_once = chunks.largest(members, population.members_at_once)
  if mesh.devices.flat[0].platform != 'cpu' or members == at_once:
    return lambda state, frozen, batch: program(state, frozen, batch, rates, decays)
  # A CPU compiles a convolution inside a loop to naive code, 9 times slower (measured; github.com/jax-ml/jax/issues/12868),
  # and of members written out all temporaries are there at a time: a fifth slower, and minutes to compile. So the program
  # of a few is called for all, one after the other.
  take, put = _jit_take(at_once, mesh), _jit_put(mesh)
  starts = [meshes.place(np.int32(i), mesh, P()) for i in range(0, members, at_once)]

  def step(state, frozen, batch):
    word = {WORD: batch[WORD]}
    of_members = {key: value for key, value in batch.items() if key != WORD}, rates, decays
    losses = rates
    for start in starts:
      part, (examples, rate, decay) = take(state, of_members, start)
      part, loss, heard = program(part, frozen, {**examples, **word}, rate, decay)
      # The part's step may be the whole's, whose memory is gone.
      state, losses = put(dataclasses.replace(state, step=()), losses, part, loss, start)
    return state, losses, heard

  return step


def put_batch(
  mesh: jax.sharding.Mesh, batch: Mapping[str, np.ndarray], word: Word
) -> Mapping[str, jax.Array]:
  """The batch that a step takes, of this process's share [p, b, …] and its word; copied in the background."""
  said = np.stack([meshes.mark(mesh, part) for part in word], axis=-1)
  return meshes.put_batch(mesh, {**batch, WORD: said})


def make_program(population: Population, mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
  """The step as `jax.jit` knows it: (state, frozen, batch, learning rates [P], weight decays [P])."""
  how = _How(
    population.objective,
    population.schedule,
    population.optimizer,
    population.members_at_once,
    jnp.dtype(population.gradient_dtype),
  )
  return _jit_step(how, mesh)


def abstract_arguments(
  population: Population, mesh: jax.sharding.Mesh, trained: Tree, frozen: Tree, batch: Tree
) -> tuple[Tree, ...]:
  """The arguments of `make_program`'s step as shapes with their places, from shapes without."""
  rates = jax.ShapeDtypeStruct((len(population),), np.float32)
  said = jax.ShapeDtypeStruct((*mesh.devices.shape, len(Word._fields)), np.float32)
  batch = {**batch, WORD: said}
  return abstract_state(population, mesh, trained), *(
    jax.tree.map(lambda spec, part: meshes.abstract(part, mesh, spec), specs, tree)
    for specs, tree in (
      (P(), frozen),
      (EXAMPLE, batch),
      (MEMBER, rates),
      (MEMBER, rates),
    )
  )


class _How(NamedTuple):
  """What a step's program depends on; see `Population`."""

  objective: Objective
  schedule: Callable[[jax.Array], jax.Array]
  optimizer: optim.Optimizer
  at_once: int
  dtype: Any


@functools.cache
def _jit_step(how: _How, mesh):
  """One program serves all populations that differ in their values alone: a transfer has hundreds of them."""
  sharded = jax.shard_map(
    functools.partial(_step, how),
    mesh=mesh,
    in_specs=(_specs(), P(), EXAMPLE, MEMBER, MEMBER),
    out_specs=(_specs(), MEMBER, P()),
  )
  return jax.jit(sharded, donate_argnums=0)


@functools.cache
def _jit_take(at_once, mesh):
  """(state, (batch, rates, decays), start) -> those of `at_once` members of each group from `start` on."""

  def take(state, given, start):
    cut = lambda whole: jax.lax.dynamic_slice_in_dim(whole, start, at_once)
    part = jax.tree.map(cut, dataclasses.replace(state, step=()))
    return dataclasses.replace(part, step=state.step), jax.tree.map(cut, given)

  given = (EXAMPLE, MEMBER, MEMBER)
  return jax.jit(
    jax.shard_map(take, mesh=mesh, in_specs=(_specs(), given, P()), out_specs=(_specs(), given))
  )


@functools.cache
def _jit_put(mesh):
  """(state without step, losses, part of the members, their losses, start) -> both with the part in place.

  The step goes on with the last of the members.
  """

  def put(state, losses, part, loss, start):
    insert = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
    new = jax.tree.map(insert, state, dataclasses.replace(part, step=()))
    last = start + loss.shape[0] == losses.shape[0]
    return dataclasses.replace(new, step=part.step - 1 + last), insert(losses, loss)

  specs = _specs()
  whole = dataclasses.replace(specs, step=())
  return jax.jit(
    jax.shard_map(
      put, mesh=mesh, in_specs=(whole, MEMBER, specs, MEMBER, P()), out_specs=(specs, MEMBER)
    ),
    donate_argnums=0,
  )


def _step(how: _How, state, frozen, batch, rates, decays):
  factor = how.schedule(state.step)
  heard = jax.lax.psum(batch[WORD].sum((0, 1)), ('population', 'data'))
  batch = {key: value for key, value in batch.items() if key != WORD}

  def member(kept, given):
    trained, optimizer, bad_step = kept
    batch, rate, decay = given
    # Marked as different on each device, parameters get a local gradient, which is then reduced once. Left as they are,
    # JAX would reduce where they meet the data, once for each use.
    local = jax.lax.pcast({'trained': trained, 'frozen': frozen}, ('data',), to='varying')

    def loss_of(trained):
      return how.objective({**local['frozen'], **trained}, batch)

    (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(local['trained'])
    if jax.lax.axis_size('data') > 1:
      narrow = jax.tree.map(lambda x: x.astype(how.dtype), grads)
      loss, metrics, mean = jax.lax.pmean((loss, metrics, narrow), 'data')
      grads = jax.tree.map(lambda x, like: x.astype(like.dtype), mean, grads)
    else:
      loss, metrics, grads = jax.lax.pmean((loss, metrics, grads), 'data')
    transform = how.optimizer.transform(rate * factor, decay)
    updates, momenta = transform.update(grads, optimizer, trained)
    updated = optax.apply_updates(trained, updates), momenta
    going = (bad_step < 0) & jnp.isfinite(loss)
    # The loss is there before the update: to leave it out costs nothing.
    trained, optimizer = jax.tree.map(
      lambda new, old: jnp.where(going, new, old), updated, (trained, optimizer)
    )
    bad_step = jnp.where((bad_step < 0) & ~going, state.step + 1, bad_step)
    metrics = {'loss': loss, 'learning_rate': rate * factor, STEPS: 1.0, **metrics}
    metrics = {name: jnp.where(going, value, jnp.nan) for name, value in metrics.items()}
    return (trained, optimizer, bad_step), metrics

  (trained, optimizer, bad_step), metrics = chunks.each_member(
    member,
    (state.trained, state.optimizer, state.bad_step),
    (batch, rates, decays),
    how.at_once,
    unroll=False,
  )
  new = State(
    step=state.step + 1,
    trained=trained,
    optimizer=optimizer,
    sums={name: total + metrics[name] for name, total in state.sums.items()},
    bad_step=bad_step,
  )
  return new, metrics['loss'], heard
