"""Layers whose form is chosen for speed, against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models.timm import layers
from experts.models.timm.scope import Scope


@pytest.mark.parametrize(
  ('size', 'stride', 'padding', 'sides'),
  [(3, 1, None, (6, 5)), (3, 2, 'same', (6, 5)), (5, 2, None, (9, 8)), (7, 1, None, (3, 4))],
)
def test_depthwise_convolutions_and_their_gradients_are_those_of_xla(size, stride, padding, sides):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (2, *sides, 3))
  kernels = jax.random.normal(keys[1], (2, size, size, 1, 3))

  def ours(x, kernel):
    scope = Scope({'backbone': {'conv': {'kernel': kernel}}}) / 'conv'
    return layers.conv(scope, x, 3, size, stride, padding, groups=3)

  def plain(x, kernel):
    pads = 'SAME' if padding == 'same' else [((stride - 1 + size - 1) // 2,) * 2] * 2
    axes = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), pads, dimension_numbers=axes, feature_group_count=3
    )

  def both(convolve):
    loss = lambda x, kernel: jnp.sin(convolve(x, kernel)).sum()
    # Over two sets of weights, as a population trains.
    return jax.vmap(jax.value_and_grad(loss, (0, 1)), (None, 0))(x, kernels)

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), both(ours), both(plain))
