"""TensorFlow's SavedModels in a pool."""

import numpy as np
import pytest

from experts.models import opaque
from experts.selection import embed, pool
from experts.selection.pool import joining


def test_a_saved_model_sees_images_from_0_to_1(tmp_path):
  import tensorflow as tf  # 10 s, for this test alone.

  class Module(tf.Module):
    def __init__(self):
      super().__init__()
      self.kernel = tf.Variable(np.arange(6, dtype=np.float32).reshape(3, 2))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def __call__(self, images):
      return tf.reduce_mean(images, (1, 2)) @ self.kernel

  class Served(tf.Module):
    def __init__(self, inner):
      super().__init__()
      self.inner = inner

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def serve(self, images):
      return {'features': self.inner(images)}

  module = Module()
  served = Served(module)
  tf.saved_model.save(module, str(tmp_path / 'called'))
  tf.saved_model.save(served, str(tmp_path / 'served'), {'serving_default': served.serve})
  pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
  task = embed.Images('a', 10, lambda view: pixels)
  for name in ('called', 'served'):
    joining.add(tmp_path / 'pool.json', name, 'saved_model', tmp_path / name, size=16)
  members = pool.read(tmp_path / 'pool.json')
  assert [(m.parameters, m.dimension, m.weights) for m in members] == [
    (6, 2, 'called'),
    (6, 2, 'served'),
  ]
  run = lambda: list(embed.embed_pool(members, str(tmp_path), [task], {}, 8))
  found = run()
  expected = (pixels / 255).mean((1, 2)) @ np.arange(6).reshape(3, 2)
  assert len(found) == 2
  for one in found:
    np.testing.assert_allclose(one.embeddings[0], expected, rtol=1e-5)
  with open(tmp_path / 'called' / 'saved_model.pb', 'ab') as file:
    file.write(b'\0')
  with pytest.raises(ValueError, match="called: not the weights that the pool lists for 'called'"):
    run()


def test_what_a_function_does_to_its_images_no_other_sees():
  def spoil(images):
    images[:] = 0
    return images[:, 0, 0, :2].astype(np.float32)

  pixels = np.full((5, 4, 4, 3), 7, np.uint8)
  member = pool.Member('m', 'callable', '', None, 0, 0, 2, 'x:y', '', size=4)
  opaque.embed(member, spoil, pixels, 2)
  assert (pixels == 7).all()
