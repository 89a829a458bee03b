"""Adapters: their size, that new ones change nothing, and that a bank is its experts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models import adapters, resnet

MODEL = resnet.ResNet(14, 1 / 16, 'small')


# Compiled once: eager, each of the net's operations is a program of its own.
forward = jax.jit(lambda params, images: resnet.forward(MODEL, params, images))


def images(count: int, seed: int = 0):
  return np.random.default_rng(seed).uniform(-1, 1, (count, 32, 32, 3)).astype(np.float32)


def bank(experts: int):
  """A bank whose kernels all do something, the last ones too."""
  new = jax.vmap(lambda rng: resnet.init_adapter(MODEL, rng))(
    jax.random.split(jax.random.key(1), experts)
  )
  rng = np.random.default_rng(2)
  return jax.tree.map(lambda x: (x + rng.normal(size=x.shape)).astype(np.float32), new)


def test_kernel_parameters_of_an_expert():
  tree = jax.eval_shape(lambda rng: resnet.init_adapter(resnet.ResNet(), rng), jax.random.key(0))
  kernels = [
    leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if 'kernel' in str(path)
  ]
  assert len(kernels) == 8
  assert sum(kernels) == 1_380_352


def test_new_adapter_changes_nothing():
  params = resnet.init(MODEL, jax.random.key(0), 4)
  params['head']['kernel'] += 1
  new = {**params, 'adapter': resnet.init_adapter(MODEL, jax.random.key(1))}
  for before, after in zip(forward(params, images(3)), forward(new, images(3))):
    np.testing.assert_array_equal(before, after)


def test_adapter_equals_float64_numpy():
  adapter = jax.tree.map(lambda x: np.asarray(x[0]), bank(1))['block2']
  x = np.random.default_rng(3).normal(size=(2, 3, 3, 16))
  y = x
  for name in ('a1', 'a2'):
    norm = adapter[name]['norm']
    grouped = y.reshape(2, 3, 3, 2, -1)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    deviation = np.sqrt(grouped.var((1, 2, 4), keepdims=True) + 1e-5)
    y = ((grouped - mean) / deviation).reshape(y.shape) * norm['scale'] + norm['bias']
    y = np.maximum(y, 0) @ adapter[name]['conv']['kernel'][0, 0].astype(np.float64)
  got = adapters.apply(adapter, x.astype(np.float32), groups=2)
  np.testing.assert_allclose(got, x + y, rtol=1e-4, atol=1e-4)


def test_new_adapter_learns_though_its_last_kernel_is_zero():
  params = resnet.init(MODEL, jax.random.key(0), 4)
  new = resnet.init_adapter(MODEL, jax.random.key(1))
  score = lambda adapter: jnp.sum(
    forward({'backbone': params['backbone'], 'adapter': adapter}, images(2))[1] ** 2
  )
  gradient = jax.jit(jax.grad(score))(new)
  for block in ('block1', 'block2', 'block3', 'block4'):
    assert np.abs(gradient[block]['a2']['conv']['kernel']).max() > 0


def test_bank_equals_each_adapter_alone():
  backbone = resnet.init(MODEL, jax.random.key(0), 4)['backbone']
  experts = bank(3)
  together = jax.jit(lambda *a: adapters.embed_bank(MODEL, *a))(backbone, experts, images(4))
  assert together.shape == (3, 4, 128)
  for e in range(3):
    alone = {'backbone': backbone, 'adapter': jax.tree.map(lambda x, e=e: x[e], experts)}
    np.testing.assert_allclose(together[e], forward(alone, images(4))[1], rtol=1e-4, atol=1e-4)
  assert np.abs(together[0] - together[1]).max() > 0.01


# In bfloat16 the backbone's 1×1 kernels are convolutions, too.
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_bank_runs_and_trains_without_grouped_convolutions(dtype):
  model = resnet.ResNet(14, 1 / 16, 'small', dtype)
  backbone = resnet.init(model, jax.random.key(0), 4)['backbone']
  experts = bank(3)
  batches = np.stack([images(2, seed) for seed in range(3)])
  embed = lambda adapter, batch: model.apply({'params': backbone}, batch, adapter)
  losses = jax.vmap(jax.value_and_grad(lambda a, b: jnp.sum(embed(a, b) ** 2)))
  shared = lambda a: adapters.embed_bank(model, backbone, a, batches[0])
  for program in (
    jax.jit(losses).lower(experts, batches).compile(),
    jax.jit(shared).lower(experts).compile(),
  ):
    text = program.as_text()
    assert 'convolution' in text
    assert set(re.findall(r'(?:feature|batch)_group_count=(\d+)', text)) <= {'1'}
