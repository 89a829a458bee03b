"""Durations, schedule and optimiser, against the papers' numbers and NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.training import optim


@pytest.mark.parametrize(
  ('text', 'parsed'),
  [
    ('900 steps', (900, 'steps')),
    ('30 epochs', (30, 'epochs')),
    ('0.5 epochs', (0.5, 'epochs')),
    ('1e6 examples', (1e6, 'examples')),
    ('10 %', (10, '%')),
    ('10%', (10, '%')),
    ('0 steps', (0, 'steps')),
  ],
)
def test_durations_parse(text, parsed):
  assert optim.parse_duration(text) == parsed


@pytest.mark.parametrize(
  'text', ['', '900', 'steps', '-5 steps', '10 minutes', '1.2.3 epochs', '. epochs', 'nan steps']
)
def test_what_is_no_duration_is_refused_by_name(text):
  with pytest.raises(ValueError, match='is no duration: write a number and a unit') as error:
    optim.parse_duration(text)
  assert repr(text) in str(error.value)


@pytest.mark.parametrize(
  ('text', 'batch_size', 'examples', 'expected'),
  [
    # 13 million images of ImageNet-21k, 300 million of JFT (EXP §4, §6.1, App. D).
    ('90 epochs', 4096, 13_000_000, 285_645),
    ('30 epochs', 4096, 300_000_000, 2_197_266),
    ('2 epochs', 1024, 13_000_000, 25_391),
    ('4 epochs', 1024, 13_000_000, 50_782),
    ('2500 steps', 512, 1000, 2500),
    ('1e6 examples', 512, 0, 1954),
    ('1 epochs', 512, 1000, 2),
  ],
)
def test_steps_of_the_papers(text, batch_size, examples, expected):
  assert optim.steps(text, batch_size, examples) == expected


def test_percent_is_of_the_whole():
  # VTAB-1k's warm-up: 200 of 2,500 and, as 5 %, 500 of 10,000 (EXP §E.2).
  assert optim.steps('8 %', 512, total_steps=2500) == 200
  assert optim.steps('5 %', 512, total_steps=10_000) == 500
  assert optim.steps('0 %', 512, total_steps=2500) == 0


@given(st.integers(1, 10**6), st.integers(1, 4096), st.integers(1, 200))
def test_epochs_leave_no_example_out_and_add_no_step(examples, batch_size, epochs):
  steps = optim.steps(f'{epochs} epochs', batch_size, examples)
  assert (steps - 1) * batch_size < epochs * examples <= steps * batch_size


def test_learning_rate_scales_with_the_batch():
  assert optim.scaled(0.03, 4096) == pytest.approx(0.48)
  assert optim.scaled(0.1, 512) == pytest.approx(0.2)


@pytest.mark.parametrize(
  ('step', 'factor'),
  [
    (0, 0.0),
    (1, 1 / 50),
    (25, 0.5),
    (49, 49 / 50),
    (50, 1.0),
    (299, 1.0),
    (300, 0.1),
    (599, 0.1),
    (600, 0.01),
    (749, 0.01),
    (750, 0.001),
    (899, 0.001),
  ],
)
def test_staircase_at_literal_steps(step, factor):
  schedule = optim.staircase(900, 50, (1 / 3, 2 / 3, 5 / 6))
  np.testing.assert_allclose(schedule(jnp.int32(step)), factor, rtol=1e-6)


def test_staircase_without_warm_up_starts_at_once():
  schedule = optim.staircase(2500, 0, (1 / 3, 2 / 3, 9 / 10))
  at = [float(schedule(jnp.int32(step))) for step in (0, 832, 833, 1667, 2249, 2250)]
  np.testing.assert_allclose(at, [1, 1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_equal_schedules_are_one_so_that_programs_are_shared():
  assert optim.staircase(100, 5, (0.5,)) is optim.staircase(100, 5, (0.5,))


def test_sgd_is_momentum_with_weight_decay_on_kernels_only():
  rng = np.random.default_rng(0)
  shapes = {
    'backbone': {'conv': {'kernel': (3, 3, 2, 4)}, 'norm': {'scale': (4,), 'bias': (4,)}},
    'head': {'kernel': (4, 5), 'bias': (5,)},
  }
  draw = lambda: {
    part: {
      name: {leaf: rng.normal(size=shape) for leaf, shape in leaves.items()}
      if isinstance(leaves, dict)
      else rng.normal(size=leaves)
      for name, leaves in tree.items()
    }
    for part, tree in shapes.items()
  }
  params, rate, decay, momentum = draw(), 0.3, 0.05, 0.9
  gradients = [draw() for _ in range(5)]

  def reference(path):
    value = lambda tree: _at(tree, path)
    x, velocity = value(params), 0.0
    for gradient in gradients:
      g = value(gradient) + (decay * x if path[-1] == 'kernel' else 0)
      velocity = momentum * velocity + g
      x = x - rate * velocity
    return x

  transform = optim.Optimizer('sgd', momentum).transform(rate, decay)
  trained, state = params, transform.init(params)
  for gradient in gradients:
    updates, state = transform.update(gradient, state, trained)
    trained = optax.apply_updates(trained, updates)
  for path in [
    ('backbone', 'conv', 'kernel'),
    ('backbone', 'norm', 'scale'),
    ('backbone', 'norm', 'bias'),
    ('head', 'kernel'),
    ('head', 'bias'),
  ]:
    np.testing.assert_allclose(_at(trained, path), reference(path), rtol=1e-5, atol=1e-5)


def test_adamw_decays_kernels_apart_from_the_gradient_and_each_parameter_by_its_factor():
  rng = np.random.default_rng(0)
  draw = lambda: {
    'backbone': {'a': {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)}}
  }
  params, rate, decay = draw(), 0.1, 0.05
  gradients = [draw() for _ in range(4)]
  factor = lambda names: {'kernel': 0.5, 'bias': 1.0}[names[-1]]
  transform = optim.Optimizer('adamw', 0.9, factor).transform(rate, decay)
  trained, state = params, transform.init(params)
  for gradient in gradients:
    updates, state = transform.update(gradient, state, trained)
    trained = optax.apply_updates(trained, updates)
  for leaf in ('kernel', 'bias'):
    # Loshchilov & Hutter, 2019, Algorithm 2, with β₂ = 0.999 and ε = 1e-8.
    x, first, second = params['backbone']['a'][leaf], 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
      g = gradient['backbone']['a'][leaf]
      first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
      moved = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
      x = x - rate * factor((leaf,)) * (moved + (decay * x if leaf == 'kernel' else 0))
    np.testing.assert_allclose(trained['backbone']['a'][leaf], x, rtol=1e-4, atol=1e-5)
  assert [optim.Optimizer(name).slots for name in ('sgd', 'adamw')] == [1, 2]


def _at(tree, path):
  for key in path:
    tree = tree[key]
  return tree
