"""A population is its members: each trains as if alone, on any mesh, and reduces its gradients once."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models import resnet
from experts.training import chunks, population
from experts.training import mesh as meshes

STEPS, CLASSES = 50, 4
# Between two programs, for the smooth network (see conftest.py). A product of float32 rounds by 6e-8, and 50 steps of
# well-behaved training carry that on without blowing it up: measured, 1e-7 at most. What a member would lose by its
# neighbours, a wrong seed or rate or batch, is above 1e-2.
_BOUND = 1e-5


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


def _equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def _train_full(toy, members, rates, groups=1, objective=None, params=None):
  pop = toy.make_population(objective or toy.smooth_objective, rates, steps=STEPS)
  trained = population.repeat(params or toy.smooth_params(0), len(members))
  mesh = toy.make_mesh(groups, 1)
  return toy.run(pop, mesh, trained, {}, toy.stream(members, stop=STEPS))


@pytest.fixture(scope='module')
def alone_full(toy):
  return [_train_full(toy, [i], [rate]) for i, rate in enumerate((0.02, 0.01, 0.04))]


def test_a_full_member_ends_as_if_it_trained_alone_to_the_bit(toy, alone_full):
  # On a CPU one program, that of one member, serves all: no bound is needed, on whichever CPU.
  together = _train_full(toy, [0, 1, 2], [0.02, 0.01, 0.04])
  for i, alone in enumerate(alone_full):
    _equal(_member(together, i), _member(alone, 0))
    assert together.sums['loss'][i] == alone.sums['loss'][0]
    # The members differ: the equality above is not that of untrained ones.
    others = [j for j in range(3) if j != i]
    assert min(_distance(_member(together, j), _member(alone, 0)) for j in others) > 1e-2


def test_a_member_of_a_resnet_ends_as_if_it_trained_alone_to_the_bit(toy, network):
  train = lambda members, rates: _train_full(
    toy, members, rates, objective=toy.resnet_objective, params=network
  )
  together = train([0, 1], [0.02, 0.04])
  for i, rate in enumerate((0.02, 0.04)):
    _equal(_member(together, i), _member(train([i], [rate]), 0))


def test_a_member_on_its_own_device_ends_as_if_it_trained_alone(toy, alone_full):
  together = _train_full(toy, [0, 1, 2], [0.02, 0.01, 0.04], groups=3)
  for i, alone in enumerate(alone_full):
    # A program for three devices may be laid out in another way; see _BOUND.
    assert _distance(_member(together, i), _member(alone, 0)) < _BOUND
    assert together.sums['loss'][i] == pytest.approx(alone.sums['loss'][0], rel=_BOUND)


def test_a_full_member_does_not_notice_that_its_neighbour_diverges(toy, alone_full):
  together = _train_full(toy, [0, 1, 2], [0.02, 1e38, 0.04])
  assert together.bad_step[1] > 0
  assert np.isnan(together.sums['loss'][1])
  for i in (0, 2):
    assert together.bad_step[i] == -1
    _equal(_member(together, i), _member(alone_full[i], 0))


def test_a_member_that_diverged_stays_as_it_was(toy):
  pop = toy.make_population(toy.smooth_objective, [0.02, 0.05], steps=STEPS)
  mesh = toy.make_mesh(1, 1)
  step = population.make_step(pop, mesh)
  state = population.create_state(pop, mesh, population.repeat(toy.smooth_params(0), 2))
  for done, batch in enumerate(toy.stream([0, 1], stop=6)):
    before = jax.device_get(state)
    if done == 3:
      # No class has that label: a loss of NaN, once.
      batch['label'][1] = CLASSES + 1
    state, loss, _ = step(state, {}, toy.put(mesh, batch))
    after = jax.device_get(state)
    moved = _distance(_member(after, 1), _member(before, 1)) > 0
    assert moved == (done < 3)
    assert np.isfinite(loss[0])
    assert np.isfinite(loss[1]) == (done < 3)
    assert _distance(_member(after, 0), _member(before, 0)) > 0
  assert after.bad_step.tolist() == [-1, 4]


def test_a_parameter_that_is_not_finite_counts_at_its_own_step(toy):
  def objective(params, batch):
    loss, metrics = toy.smooth_objective(params, batch)
    # The root of 0 is 0, its slope is not finite.
    return loss + jnp.sqrt(0 * params['head']['kernel'].sum()), metrics

  pop = toy.make_population(objective, [0.02], steps=STEPS)
  mesh = toy.make_mesh(1, 1)
  state = population.create_state(pop, mesh, population.repeat(toy.smooth_params(0), 1))
  state, loss, _ = population.make_step(pop, mesh)(state, {}, toy.put(mesh, next(toy.stream([0]))))
  assert np.isfinite(loss).all()
  assert state.bad_step.tolist() == [-1]
  assert population.mark_spoilt(state, mesh).bad_step.tolist() == [1]


def _train_adapters(toy, members, rates, at_once, steps=STEPS, resnet_of=None):
  """Members of the smooth network, or of the ResNet with the given trees, that differ in their adapters."""
  if resnet_of:
    objective, (frozen, adapters) = toy.resnet_objective, resnet_of
  else:
    objective, frozen = toy.smooth_objective, toy.smooth_params(0)
    frozen.pop('adapter')
    adapters = [toy.smooth_params(1 + i)['adapter'] for i in range(3)]
  pop = toy.make_population(objective, rates, at_once=at_once, steps=STEPS)
  trained = {'adapter': population.stack([adapters[i] for i in members])}
  batches = toy.stream(members, stop=steps)
  return toy.run(pop, toy.make_mesh(1, 1), trained, frozen, batches)


@pytest.fixture(scope='module')
def alone_adapters(toy):
  return [_train_adapters(toy, [i], [rate], 1) for i, rate in enumerate((0.05, 0.02, 0.1))]


@pytest.mark.parametrize('neighbour', [0.02, 1e38])
@pytest.mark.parametrize('at_once', [1, 3])
def test_an_adapter_member_ends_as_if_it_trained_alone(toy, alone_adapters, neighbour, at_once):
  rates = [0.05, neighbour, 0.1]
  together = _train_adapters(toy, [0, 1, 2], rates, at_once)
  diverges = neighbour > 1
  assert (together.bad_step[1] > 0) == diverges
  for i in (0, 2) if diverges else (0, 1, 2):
    assert together.bad_step[i] == -1
    ours, alone = _member(together, i), _member(alone_adapters[i], 0)
    if at_once == 1:
      _equal(ours, alone)
    else:
      # One product for three adapters rounds in another way than three.
      assert _distance(ours, alone) < _BOUND
    assert _distance(ours[0]['adapter'], toy.smooth_params(1 + i)['adapter']) > 1e-2


def test_adapters_of_a_resnet_see_the_same_whoever_is_beside_them(toy, network, adapters):
  rates = [0.05, 0.02, 0.1]
  together = _train_adapters(toy, [0, 1, 2], rates, 3, steps=2, resnet_of=(network, adapters))
  for i, rate in enumerate(rates):
    alone = _train_adapters(toy, [i], [rate], 1, steps=2, resnet_of=(network, adapters))
    # Of a loss, not of gradients: at a ReLU's zero it has no jump. It sums about 1e5 roundings of 6e-8, of either sign.
    assert together.sums['loss'][i] == pytest.approx(alone.sums['loss'][0], rel=1e-4)


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


def _train_on(toy, mesh, objective, params):
  pop = toy.make_population(objective, [0.02, 0.05], steps=STEPS)
  batches = toy.stream([0, 1], stop=4)
  return toy.run(pop, mesh, population.repeat(params, 2), {}, batches)


@pytest.fixture(scope='module')
def one_device(toy):
  return _train_on(toy, toy.make_mesh(1, 1), toy.smooth_objective, toy.smooth_params(0))


@pytest.mark.parametrize(('groups', 'shards'), [(1, 4), (2, 4)])
def test_more_devices_change_nothing(toy, one_device, groups, shards):
  mesh = toy.make_mesh(groups, shards)
  many = _train_on(toy, mesh, toy.smooth_objective, toy.smooth_params(0))
  assert _distance(many.trained, one_device.trained) < _BOUND
  assert _distance(many.optimizer, one_device.optimizer) < _BOUND
  np.testing.assert_allclose(many.sums['loss'], one_device.sums['loss'], rtol=_BOUND)
  # Of 4 steps of 8 examples: exact, for no two logits are within rounding of each other.
  np.testing.assert_allclose(many.sums['accuracy'], one_device.sums['accuracy'], atol=1e-6)


def test_more_devices_change_nothing_of_a_resnet(toy, network):
  one, many = (
    _train_on(toy, toy.make_mesh(*shape), toy.resnet_objective, network)
    for shape in ((1, 1), (2, 4))
  )
  # Its loss, which has no jump where a ReLU's input is within rounding of zero; its gradient has.
  np.testing.assert_allclose(many.sums['loss'], one.sums['loss'], rtol=1e-4)


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
    lambda kept, given: chunks.each_member(function, kept, given, at_once, unroll)
  )(kept, given)
  np.testing.assert_array_equal(new, kept + given.sum(1))
  np.testing.assert_array_equal(out['twice'], 2 * given)
  assert set(shapes) == {(3,)}


def test_the_loop_of_an_accelerator_does_what_a_cpu_does(toy):
  """All members in one program, in place in a loop, against the program of one, called for each."""
  pop = toy.make_population(toy.smooth_objective, [0.02, 0.05, 0.1], steps=4)
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
    state = population.create_state(pop, mesh, population.repeat(toy.smooth_params(0), 3))
    for _ in range(2):
      state, losses, words = step(state, {}, batch)
    assert int(state.step) == 2
    assert words.tolist() == [0, 0, 0]
    ends.append(jax.device_get((state.trained, state.optimizer, state.sums, losses)))
  assert _distance(*ends) < _BOUND


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
