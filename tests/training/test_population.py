"""A population is its members: each trains as if alone, on any mesh, and reduces its gradients once."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models import resnet
from experts.training import mesh as meshes
from experts.training import population

STEPS, CLASSES = 50, 4


@pytest.fixture(scope='module')
def network(toy):
  """A backbone that is not fresh, with a head that is not zero, so that every gradient flows."""
  params = jax.device_get(resnet.init(toy.MODEL, jax.random.key(0), CLASSES))
  rng = np.random.default_rng(0)
  shape = params['head']['kernel'].shape
  params['head']['kernel'] = rng.normal(0, 0.05, shape).astype(np.float32)
  return params


@pytest.fixture(scope='module')
def adapters(toy):
  return [jax.device_get(resnet.init_adapter(toy.MODEL, jax.random.key(i))) for i in range(4)]


def _distance(one, other):
  """‖one − other‖ / ‖other‖ over all leaves, in float64."""
  pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
  gap = sum(np.sum((np.asarray(a, np.float64) - b) ** 2) for a, b in pairs)
  return math.sqrt(gap / sum(np.sum(np.asarray(b, np.float64) ** 2) for _, b in pairs))


def _member(state, index):
  return jax.tree.map(lambda leaf: leaf[index], (state.trained, state.optimizer))


def _train_full(toy, network, members, rates, groups=1):
  pop = toy.make_population(toy.resnet_objective, rates, steps=STEPS)
  trained = population.repeat(network, len(members))
  mesh = toy.make_mesh(groups, 1)
  return toy.run(pop, mesh, trained, {}, toy.stream(members, stop=STEPS))


@pytest.fixture(scope='module')
def alone_full(toy, network):
  return [_train_full(toy, network, [i], [rate]) for i, rate in enumerate((0.02, 0.01, 0.04))]


@pytest.mark.parametrize('groups', [1, 3])
def test_a_full_member_ends_as_if_it_trained_alone(toy, network, alone_full, groups):
  together = _train_full(toy, network, [0, 1, 2], [0.02, 0.01, 0.04], groups)
  for i, alone in enumerate(alone_full):
    assert _distance(_member(together, i), _member(alone, 0)) < 1e-5
    assert together.sums['loss'][i] == pytest.approx(alone.sums['loss'][0], rel=1e-5)
    # The members differ: the equality above is not that of untrained ones.
    others = [j for j in range(3) if j != i]
    assert min(_distance(_member(together, j), _member(alone, 0)) for j in others) > 1e-2


def test_a_full_member_does_not_notice_that_its_neighbour_diverges(toy, network, alone_full):
  together = _train_full(toy, network, [0, 1, 2], [0.02, 1e30, 0.04])
  assert together.bad_step[1] > 0
  assert not np.isfinite(together.sums['loss'][1])
  for i in (0, 2):
    assert together.bad_step[i] == -1
    assert _distance(_member(together, i), _member(alone_full[i], 0)) < 1e-5


def _train_adapters(toy, network, adapters, members, rates, at_once):
  pop = toy.make_population(toy.resnet_objective, rates, at_once=at_once, steps=STEPS)
  trained = {'adapter': population.stack([adapters[i] for i in members])}
  batches = toy.stream(members, stop=STEPS)
  return toy.run(pop, toy.make_mesh(1, 1), trained, network, batches)


@pytest.fixture(scope='module')
def alone_adapters(toy, network, adapters):
  return [
    _train_adapters(toy, network, adapters, [i], [rate], 1)
    for i, rate in enumerate((0.05, 0.02, 0.1))
  ]


@pytest.mark.parametrize('neighbour', [0.02, 1e30])
def test_an_adapter_member_ends_as_if_it_trained_alone(
  toy, network, adapters, alone_adapters, neighbour
):
  rates = [0.05, neighbour, 0.1]
  together = _train_adapters(toy, network, adapters, [0, 1, 2], rates, at_once=3)
  diverges = neighbour > 1
  assert (together.bad_step[1] > 0) == diverges
  for i in (0, 2) if diverges else (0, 1, 2):
    assert together.bad_step[i] == -1
    assert _distance(_member(together, i), _member(alone_adapters[i], 0)) < 1e-5
    assert _distance(_member(together, i)[0]['adapter'], adapters[i]) > 1e-2


def test_training_adapters_holds_no_backbone_and_leaves_it_as_it_was(toy, network, adapters):
  pop = toy.make_population(toy.resnet_objective, [0.05, 0.02], at_once=2)
  mesh = toy.make_mesh(1, 1)
  before = jax.tree.map(np.array, network)
  frozen = jax.device_put(network, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
  state = population.create_state(pop, mesh, {'adapter': population.stack(adapters[:2])})
  step = population.make_step(pop, mesh)
  for batch in toy.stream([0, 1], stop=3):
    state, *_ = step(state, frozen, toy.put(mesh, batch))
  assert state.trained.keys() == {'adapter'}
  # Adapter and momentum of the same size, and nothing near the size of a backbone.
  one = sum(leaf.size for leaf in jax.tree.leaves(adapters[0]))
  assert sum(leaf.size for leaf in jax.tree.leaves(state.optimizer)) == 2 * one
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 4 * one + 20
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(frozen), before)


def _train_on(toy, network, mesh):
  pop = toy.make_population(toy.resnet_objective, [0.02, 0.05], steps=STEPS)
  batches = toy.stream([0, 1], stop=4)
  return toy.run(pop, mesh, population.repeat(network, 2), {}, batches)


@pytest.fixture(scope='module')
def one_device(toy, network):
  return _train_on(toy, network, toy.make_mesh(1, 1))


@pytest.mark.parametrize(('groups', 'shards'), [(1, 4), (2, 4)])
def test_more_devices_change_nothing(toy, network, one_device, groups, shards):
  many = _train_on(toy, network, toy.make_mesh(groups, shards))
  assert _distance(many.trained, one_device.trained) < 1e-5
  assert _distance(many.optimizer, one_device.optimizer) < 1e-4
  np.testing.assert_allclose(many.sums['loss'], one_device.sums['loss'], rtol=1e-5)
  np.testing.assert_allclose(many.sums['accuracy'], one_device.sums['accuracy'], rtol=1e-6)


def test_gradients_are_reduced_once_and_nothing_else_of_size(toy, network):
  pop = toy.make_population(toy.resnet_objective, [0.02])
  mesh = toy.make_mesh(1, 8)
  state = population.create_state(pop, mesh, population.repeat(network, 1))
  batch = toy.put(mesh, next(toy.stream([0])))
  step = population.make_step(pop, mesh)
  text = jax.jit(lambda s, b: step(s, {}, b)).lower(state, batch).compile().as_text()
  # 'f32[1,1,8]{…} all-reduce(…)', or a tuple of such shapes where the combiner has joined several.
  results = re.findall(r'= (.*?) all-reduce(?:-start)?\(', text)
  shapes = [shape for result in results for shape in re.findall(r'\w+\[([\d,]*)\]', result)]
  reduced = sum(math.prod(int(n) for n in shape.split(',') if n) for shape in shapes)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(network))
  # Beside the gradients, the loss, the accuracy, and the word: whether to stop, to save, to log.
  assert reduced == parameters + 2 + 3
  assert len(results) <= 3
  for collective in ('all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter'):
    assert f' {collective}(' not in text


def test_sums_are_means_since_they_were_restarted(toy):
  pop = toy.make_population(toy.linear_objective, [0.01])
  mesh = toy.make_mesh(1, 1)
  step = population.make_step(pop, mesh)
  state = population.create_state(pop, mesh, population.stack([toy.linear_params(0)]))
  losses, means = [], []
  for batch in toy.stream([0], stop=7):
    state, loss, _ = step(state, {}, toy.put(mesh, batch))
    losses.append(float(loss[0]))
    means.append(float(population.means(jax.device_get(state.sums))['loss'][0]))
    if len(losses) in (3, 6):
      state = population.restart_sums(state, mesh)
  stretches = [losses[0:1], losses[0:2], losses[0:3], losses[3:4], losses[3:5], losses[3:6]]
  np.testing.assert_allclose(means, [*map(np.mean, stretches), losses[6]], rtol=1e-6)


@pytest.mark.parametrize('members', [1, 5, 6, 7])
@pytest.mark.parametrize('at_once', [1, 2, 4, 8])
@pytest.mark.parametrize('unroll', [True, False])
def test_each_member_sees_every_member_once_in_any_chunks(members, at_once, unroll):
  shapes = []

  def function(kept, given):
    shapes.append(given.shape)
    return kept + given.sum(), {'twice': 2 * given}

  kept = np.arange(members, dtype=np.float32)
  given = np.arange(members * 3, dtype=np.float32).reshape(members, 3)
  new, out = jax.jit(
    lambda kept, given: population.each_member(function, kept, given, at_once, unroll)
  )(kept, given)
  np.testing.assert_array_equal(new, kept + given.sum(1))
  np.testing.assert_array_equal(out['twice'], 2 * given)
  assert set(shapes) == {(3,)}


def test_the_loop_of_an_accelerator_does_what_a_cpu_does(toy, network):
  """All members in one program, in place in a loop, against the program of one, called for each."""
  pop = toy.make_population(toy.resnet_objective, [0.02, 0.05, 0.1], steps=4)
  mesh = toy.make_mesh(1, 2)
  batch = toy.put(mesh, next(toy.stream([0, 1, 2])))
  rates, decays = (
    meshes.place(np.asarray(values, np.float32), mesh, meshes.MEMBER)
    for values in (pop.learning_rate, pop.weight_decay)
  )
  ends = []
  looped = population.make_program(pop, mesh)
  for step in (
    population.make_step(pop, mesh),
    lambda state, frozen, batch: looped(state, frozen, batch, rates, decays),
  ):
    state = population.create_state(pop, mesh, population.repeat(network, 3))
    for _ in range(2):
      state, losses, words = step(state, {}, batch)
    assert int(state.step) == 2
    assert words.tolist() == [0, 0, 0]
    ends.append(jax.device_get((state.trained, state.optimizer, state.sums, losses)))
  assert _distance(*ends) < 1e-5


def test_gradients_of_narrow_activations_cross_devices_as_narrow(toy, network):
  pop = dataclasses.replace(
    toy.make_population(toy.resnet_objective, [0.02]), gradient_dtype=jnp.bfloat16
  )
  shares = {}
  for shards in (1, 4):
    mesh = toy.make_mesh(1, shards)
    state = population.create_state(pop, mesh, population.repeat(network, 1))
    step = population.make_step(pop, mesh)
    lowered = jax.jit(lambda s, b, step=step: step(s, {}, b)).lower(
      state, toy.put(mesh, next(toy.stream([0])))
    )
    reduced = re.findall(r'all_reduce.*?\}\) : \((.*?)\) ->', lowered.as_text(), re.DOTALL)
    shares[shards] = any('bf16' in types for types in reduced)
  # Alone, a device rounds nothing.
  assert shares == {1: False, 4: True}
