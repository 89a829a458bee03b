"""The network against its published size, NumPy in float64, and Flax's own layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models import layers, resnet, weights

TINY = resnet.ResNet(14, 1 / 16, 'small')


# Compiled: eager, each of the net's operations is a program of its own.
forward = jax.jit(resnet.forward, static_argnums=0)


def count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def randomised(tree):
  """Gives every leaf random values, so that no scale of 1 or bias of 0 hides a mistake."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: (rng.normal(size=x.shape) + 0.3).astype(np.float32), tree)


@pytest.mark.parametrize(
  ('depth', 'width', 'backbone'),
  # 50x1 is the papers' count; 101x1 is BiT-M's 44.5 M less its head.
  [(50, 1, 23_500_352), (101, 1, 42_492_480)],
)
def test_parameter_count(depth, width, backbone):
  model = resnet.ResNet(depth, width)
  params = jax.eval_shape(lambda rng: resnet.init(model, rng, 21_843), jax.random.key(0))
  assert count(params['backbone']) == backbone
  assert count(params['head']) == 2049 * 21_843


def test_parameter_count_with_imagenet21k_head():
  params = jax.eval_shape(lambda rng: resnet.init(resnet.ResNet(), rng, 21_843), jax.random.key(0))
  assert count(params) == 68_256_659


@pytest.mark.parametrize(('width', 'groups'), [(1, 32), (3, 32), (1 / 2, 16), (1 / 4, 8)])
def test_groups_of_narrow_nets_are_as_wide_as_those_of_the_full_net(width, groups):
  assert resnet.ResNet(50, width).groups == groups


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ((51,), r'depth 51.*14, 26, 50, 101, 152'),
    ((50, 0.3), r'width 0.3'),
    ((50, 1.25), r'width 1.25'),
    ((50, 0), r'width 0'),
    ((50, 1, 'cifar'), r"root 'cifar'.*imagenet.*small"),
  ],
)
def test_unknown_form_is_refused(arguments, said):
  with pytest.raises(ValueError, match=said):
    resnet.ResNet(*arguments)


def numpy_group_norm(x, norm, groups):
  b, h, w, c = x.shape
  y = x.reshape(b, h, w, groups, c // groups)
  mean = y.mean((1, 2, 4), keepdims=True)
  variance = ((y - mean) ** 2).mean((1, 2, 4), keepdims=True)
  y = ((y - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
  return y * norm['scale'] + norm['bias']


def numpy_std_conv(x, kernel, stride=1, pad=0):
  kernel = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)
  size = kernel.shape[0]
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  height, width = ((length - size) // stride + 1 for length in x.shape[1:3])
  out = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
  for i in range(height):
    for j in range(width):
      patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
      out[:, i, j] = np.einsum('bhwi,hwio->bo', patch, kernel)
  return out


def numpy_unit(x, p, groups, stride):
  activate = lambda x, norm: np.maximum(numpy_group_norm(x, norm, groups), 0)
  active = activate(x, p['a']['norm'])
  shortcut = numpy_std_conv(active, p['proj']['kernel'], stride) if 'proj' in p else x
  y = numpy_std_conv(active, p['a']['conv']['kernel'])
  y = numpy_std_conv(activate(y, p['b']['norm']), p['b']['conv']['kernel'], stride, pad=1)
  return shortcut + numpy_std_conv(activate(y, p['c']['norm']), p['c']['conv']['kernel'])


@pytest.mark.parametrize(
  ('size', 'stride', 'project'),
  [(8, 2, True), (7, 2, True), (5, 1, True), (5, 1, False), (3, 2, True)],
)
def test_unit_equals_float64_numpy(size, stride, project):
  unit = resnet.Unit(8, 4, stride, project)
  x = np.random.default_rng(1).normal(size=(2, size, size, 32)).astype(np.float32)
  params = randomised(jax.eval_shape(unit.init, jax.random.key(0), x)['params'])
  wide = jax.tree.map(np.float64, params)
  expected = numpy_unit(x.astype(np.float64), wide, 4, stride)
  got = jax.jit(unit.apply)({'params': params}, x)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_whole_net_equals_float64_numpy():
  model = resnet.ResNet(14, 1 / 32)
  x = np.random.default_rng(1).uniform(-1, 1, size=(2, 40, 40, 3))
  params = randomised(resnet.init(model, jax.random.key(0), 2)['backbone'])
  p = jax.tree.map(np.float64, params)
  y = numpy_std_conv(x, p['root']['kernel'], 2, pad=3)
  y = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
  side = (y.shape[1] - 3) // 2 + 1
  windows = [
    y[:, i : i + 2 * side - 1 : 2, j : j + 2 * side - 1 : 2] for i in range(3) for j in range(3)
  ]
  y = np.max(windows, axis=0)
  for block, stride in (('block1', 1), ('block2', 2), ('block3', 2), ('block4', 2)):
    y = numpy_unit(y, p[block]['unit01'], model.groups, stride)
  expected = np.maximum(numpy_group_norm(y, p['norm'], model.groups), 0).mean((1, 2))
  _, embedding = forward(model, {'backbone': params}, x.astype(np.float32))
  np.testing.assert_allclose(embedding, expected, rtol=1e-3, atol=1e-4)


def test_group_norm_equals_flax_in_value_and_gradient():
  rng = np.random.default_rng(0)
  # A large mean: a one-pass variance would lose all digits.
  x = (rng.normal(size=(3, 5, 4, 12)) + 100).astype(np.float32)
  scale, bias = rng.normal(size=(2, 12)).astype(np.float32)
  weight = rng.normal(size=x.shape).astype(np.float32)
  flax_norm = nn.GroupNorm(4, epsilon=1e-5, use_fast_variance=False)
  theirs = lambda x, s, b: flax_norm.apply({'params': {'scale': s, 'bias': b}}, x)
  ours = lambda x, s, b: layers.group_norm(x, s, b, 4)
  grads = [
    jax.grad(lambda *a, f=f: jnp.sum(f(*a) * weight), (0, 1, 2))(x, scale, bias)
    for f in (ours, theirs)
  ]
  np.testing.assert_allclose(ours(x, scale, bias), theirs(x, scale, bias), rtol=1e-4, atol=1e-4)
  for mine, other in zip(*grads):
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def plain_conv(x, kernel, stride):
  pad = [(kernel.shape[0] // 2,) * 2] * 2
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, pad, dimension_numbers=numbers)


# Sides on both sides of the kernel's, where the form changes, for each stride.
@pytest.mark.parametrize(
  ('size', 'stride', 'side'),
  [(size, stride, side) for size in (1, 3) for stride in (1, 2) for side in (1, 2, 4, 5, 6)]
  + [(7, 2, 13)],
)
def test_conv_equals_the_plain_one_in_value_and_gradient(size, stride, side):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, side, side, 3)).astype(np.float32)
  kernel = rng.normal(size=(size, size, 3, 4)).astype(np.float32)
  ours, ours_vjp = jax.vjp(lambda x, k: layers.conv(x, k, stride), x, kernel)
  plain, plain_vjp = jax.vjp(lambda x, k: plain_conv(x, k, stride), x, kernel)
  cotangent = rng.normal(size=plain.shape).astype(np.float32)
  np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)
  for mine, other in zip(ours_vjp(cotangent), plain_vjp(cotangent)):
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('size', 'stride', 'side'), [(1, 1, 5), (1, 2, 5), (3, 2, 6), (3, 1, 2)])
def test_conv_in_bfloat16_is_a_convolution_with_the_same_result(size, stride, side):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, side, side, 3)).astype(np.float32)
  kernel = rng.normal(size=(size, size, 3, 4)).astype(np.float32)
  short = lambda x, k: layers.conv(x.astype(jnp.bfloat16), k, stride).astype(jnp.float32)
  ours, ours_vjp = jax.vjp(short, x, kernel)
  plain, plain_vjp = jax.vjp(lambda x, k: plain_conv(x, k, stride), x, kernel)
  cotangent = rng.normal(size=plain.shape).astype(np.float32)
  np.testing.assert_allclose(ours, plain, rtol=0.02, atol=0.05)
  for mine, other in zip(ours_vjp(cotangent), plain_vjp(cotangent)):
    np.testing.assert_allclose(mine, other, rtol=0.02, atol=0.1)
  assert 'dot_general' not in str(jax.make_jaxpr(short)(x, kernel))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(('size', 'stride'), [(1, 1), (1, 2), (3, 2)])
def test_product_with_a_kernel_for_each_expert_equals_their_convolutions(size, stride, dtype):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 2, 5, 5, 4)).astype(np.float32)
  kernels = rng.normal(size=(3, size, size, 4, 6)).astype(np.float32)
  together = jax.vmap(lambda x, k: layers.product(x.astype(dtype), k, stride))
  got = together(x, kernels)
  assert got.dtype == dtype
  expected = [plain_conv(a, k, stride) for a, k in zip(x, kernels)]
  tolerance = {'rtol': 1e-4, 'atol': 1e-4} if dtype == jnp.float32 else {'rtol': 0.02, 'atol': 0.1}
  np.testing.assert_allclose(np.float32(got), expected, **tolerance)
  assert 'conv_general_dilated' not in str(jax.make_jaxpr(together)(x, kernels))


@pytest.mark.parametrize('mean', [0, 20])
def test_group_norm_in_bfloat16_is_as_exact_as_its_input(mean):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(3, 8, 8, 12)) + mean, jnp.bfloat16)
  norm = {'scale': rng.normal(size=12), 'bias': rng.normal(size=12)}
  expected = numpy_group_norm(np.asarray(x, np.float64), norm, 4)
  got = layers.group_norm(x, jnp.float32(norm['scale']), jnp.float32(norm['bias']), 4)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float64(got), expected, rtol=2**-7, atol=2**-8)


def test_standardize_does_not_cancel_and_takes_a_constant_kernel():
  rng = np.random.default_rng(0)
  kernel = (rng.normal(size=(3, 3, 8, 5)) + 100).astype(np.float32)
  wide = kernel.astype(np.float64)
  expected = (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2))
  np.testing.assert_allclose(layers.standardize(kernel), expected, rtol=1e-4, atol=1e-4)
  # Invariant to its mean and scale: the gradient is orthogonal to both.
  weight = rng.normal(size=kernel.shape).astype(np.float32)
  gradient = jax.grad(lambda k: jnp.sum(layers.standardize(k) * weight))(kernel)
  np.testing.assert_allclose(gradient.sum((0, 1, 2)), 0, atol=1e-4)
  np.testing.assert_allclose(
    (gradient * (wide - wide.mean((0, 1, 2)))).sum((0, 1, 2)), 0, atol=1e-3
  )
  np.testing.assert_array_equal(layers.standardize(np.full((1, 1, 4, 2), 3.0, np.float32)), 0)


@pytest.mark.parametrize('side', [1, 2, 5, 6])
def test_max_pool_pads_with_zeros(side):
  rng = np.random.default_rng(0)
  # Mostly below zero, so that the border's zeros win where they are seen.
  x = (rng.normal(size=(2, side, side, 3)) - 1).astype(np.float32)

  def padded(x):
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return nn.max_pool(x, (3, 3), (2, 2))

  np.testing.assert_array_equal(layers.max_pool(x), padded(x))
  weight = rng.normal(size=padded(x).shape).astype(np.float32)
  mine, other = (
    jax.grad(lambda x, f=f: jnp.sum(f(x) * weight))(x) for f in (layers.max_pool, padded)
  )
  np.testing.assert_array_equal(mine, other)


def test_new_head_scores_zero_and_embedding_is_float32_under_bfloat16():
  model = resnet.ResNet(14, 1 / 16, 'small', jnp.bfloat16)
  params = resnet.init(model, jax.random.key(0), 5)
  images = resnet.normalise(jnp.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3).astype(jnp.uint8))
  logits, embedding = forward(model, params, images)
  assert embedding.dtype == jnp.float32
  assert embedding.shape == (2, model.embedding_dim) == (2, 128)
  np.testing.assert_array_equal(logits, np.zeros((2, 5)))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
  wide = forward(TINY, params, images)[1]
  np.testing.assert_allclose(embedding, wide, rtol=0.2, atol=0.05)


def test_without_a_head_there_are_no_logits():
  params = resnet.init(TINY, jax.random.key(0), 5)
  images = jnp.zeros((1, 32, 32, 3))
  logits, embedding = forward(TINY, {'backbone': params['backbone']}, images)
  assert logits is None
  assert embedding.shape == (1, 128)


def test_normalise_spans_minus_one_to_one():
  out = resnet.normalise(jnp.array([0, 255, 51], jnp.uint8))
  np.testing.assert_allclose(out, [-1, 1, -0.6], atol=1e-6)


@pytest.mark.parametrize(
  'model', [TINY, resnet.ResNet(26, 1 / 8), resnet.ResNet(14, 3 / 4, 'small')]
)
def test_form_is_read_from_the_parameters(model):
  params = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, np.float32),
    jax.eval_shape(lambda rng: resnet.init(model, rng, 3), jax.random.key(0)),
  )
  assert weights.infer(params) == model
