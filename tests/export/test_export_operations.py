"""What networks may be made of, operation by operation: graphs of each framework compute what JAX does."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models import tuned
from experts.models.exporting import lowering, onnx, tensorflow

lax = jax.lax
_KERNEL = np.random.default_rng(0).normal(size=(3, 3, 2, 8)).astype(np.float32)
_WIDE = np.random.default_rng(1).normal(size=(5, 3, 4)).astype(np.float32)
_CONV = ('NHWC', 'HWIO', 'NHWC')
# Of images [B, 6, 6, 3] in [0, 1].
_FUNCTIONS = {
  'grouped': lambda x: lax.conv_general_dilated(
    jnp.concatenate([x, x[..., :1]], -1), _KERNEL.astype(x.dtype), (2, 1), [(1, 0), (0, 2)], dimension_numbers=_CONV,
    feature_group_count=2,
  ),
  'dilated': lambda x: lax.conv_general_dilated(
    x[..., :2], _KERNEL.astype(x.dtype), (1, 1), [(2, 2), (2, 2)], rhs_dilation=(2, 2), dimension_numbers=_CONV
  ),
  'depthwise, two of each': lambda x: lax.conv_general_dilated(
    jnp.concatenate([x, x[..., :1]], -1), _KERNEL[:, :, :1].astype(x.dtype), (1, 1), [(0, 1), (1, 0)], dimension_numbers=_CONV,
    feature_group_count=4,
  ),
  'sums of windows': lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 3, 1), (1, 2, 1, 1), ((0, 0), (0, 1), (1, 1), (0, 0))),
  'negative maxima': lambda x: lax.reduce_window(
    x - 2, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
  ),
  'shares': lambda x: jnp.einsum('bhwc,dce->bwhde', x, _WIDE),
  'attention': lambda x: jnp.einsum('bhwc,bhvc->bhwv', x, x),
  'outer': lambda x: jnp.einsum('bh,bc->bhc', x[:, 0, :, 0], x[:, 1, 2]),
  'both sides': lambda x: jnp.pad(x, ((0, 0), (2, 0), (1, 3), (0, 0)), constant_values=0.5),
  'mirrored': lambda x: jnp.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0)), 'reflect'),
  'rolled': lambda x: jnp.roll(x, (1, -2), (1, 2)),
  'chosen': lambda x: jnp.where(x > 0.5, jnp.clip(x, 0.2, 0.7), -(x**3)),
  'limits': lambda x: jnp.minimum(jnp.maximum(x, 0.3), x.mean((1, 2), keepdims=True)) + jnp.sign(x - 0.5),
  'powers': lambda x: jnp.expm1(x) + jnp.log1p(x) + jnp.exp2(x) + jnp.sqrt(x) + (x + 1) ** 1.5 + (x + 1) ** -2,
  'waves': lambda x: jnp.sin(3 * x) * jnp.cos(x) + jnp.floor(3 * x) - jnp.ceil(x * 2) + jnp.abs(x - 1),
  'errors': lambda x: lax.erf(9 * x - 4) + lax.erfc(2 * x) + jax.nn.gelu(4 * x - 2, approximate=True),
  'reduced': lambda x: x.prod(-1) + x.min(-1) + x.max(-1) + jax.nn.logsumexp(x, -1),
  'comparisons': lambda x: ((x >= 0.5) & (x != 1) | ~(x <= 0.2)).astype(x.dtype) + (x < 0.9) * 2,
  'tokens': lambda x: jnp.concatenate([jnp.broadcast_to(jnp.arange(3.0), (len(x), 1, 3)), x.reshape(len(x), 36, 3)], 1),
  'parts': lambda x: sum(jnp.split(x[:, 1:6:2, ::-1], 3, -1)).swapaxes(1, 2),
  'a place': lambda x: lax.dynamic_slice(x, (0, 2, 1, 0), (len(x), 3, 2, 3)),
}  # fmt: skip


def _network(function, monkeypatch) -> tuned.Tuned:
  """A network whose logits a function makes of its images."""

  def forward(params, images):
    found = function(images.astype(dtype[0]) / 255)
    return found.reshape(len(images), -1)[:, :40].astype(jnp.float32), None

  dtype = [jnp.float32]

  def build(description):
    dtype[0] = jnp.dtype(description.get('dtype', 'float32'))
    return types.SimpleNamespace(forward=forward)

  monkeypatch.setattr(lowering, 'family_of', lambda network: types.SimpleNamespace(build=build))
  return tuned.Tuned({'network': {'size': 6, 'resize': 6}, 'classes': ['a'] * 40}, {}, '')


@pytest.mark.parametrize('name', _FUNCTIONS)
def test_graphs_compute_what_jax_does(tmp_path, monkeypatch, name):
  images = np.random.default_rng(2).integers(0, 256, (5, 6, 6, 3), np.uint8)
  images[:, 0, 0] = [0, 127, 255]
  function = _FUNCTIONS[name]
  logits = function(images.astype(jnp.float32) / 255).reshape(5, -1)[:, :40]
  expected = np.asarray(jax.nn.softmax(logits))
  one = _network(function, monkeypatch)
  import tensorflow as tf

  graph = tensorflow._Graph(tf, tf.constant(images), [])
  found = lowering.lower(one, graph, tf.constant(images))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
  pytest.importorskip('onnxruntime')
  monkeypatch.setattr(onnx, 'write_classes', lambda one, folder: None)
  one.classes[:] = ['a'] * expected.shape[1]
  onnx.write(one, str(tmp_path))
  found, _ = onnx.run(str(tmp_path), images)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
  ('function', 'said'),
  [
    (lambda x: jnp.sort(x, -1), "the operation 'sort' is not known to graphs"),
    (lambda x: x[:1] + 0 * x, 'some of the images'),
    (lambda x: jnp.pad(x, ((0, 1), (0, 0), (0, 0), (0, 0)))[: len(x)], 'no multiple of the number of images'),
    (lambda x: sum(x[0] for _ in range(len(x))) + x, 'depends on the number of images'),
    (
      lambda x: lax.conv_transpose(x[..., :2], _KERNEL.astype(x.dtype), (2, 2), 'SAME', dimension_numbers=_CONV),
      'a transposed convolution',
    ),
  ],
)  # fmt: skip
def test_what_graphs_cannot_say_is_one_line(tmp_path, monkeypatch, function, said):
  pytest.importorskip('onnxruntime')
  with pytest.raises(ValueError, match=f'^cannot be exported: .*{said}') as raised:
    onnx.write(_network(function, monkeypatch), str(tmp_path))
  assert '\n' not in str(raised.value)
