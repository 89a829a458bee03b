"""Networks leave as SavedModels, which TensorFlow runs by itself, and as LiteRT files of these."""

import pytest

from experts.export import export
from experts.models.exporting import tensorflow as form

_SAVED = """
import tensorflow as tf

def run(folder, images):
  classify = tf.saved_model.load(folder).signatures['serving_default']
  return classify(images=tf.constant(images))['probabilities'].numpy()
"""
_LITE = """
from ai_edge_litert.interpreter import Interpreter

def run(folder, images):
  interpreter = Interpreter(folder + '/model.tflite')
  (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
  interpreter.resize_tensor_input(taken['index'], images.shape)
  interpreter.allocate_tensors()
  interpreter.set_tensor(taken['index'], images)
  interpreter.invoke()
  return interpreter.get_tensor(given['index'])
"""


def test_tensorflow_alone_gives_our_probabilities(tmp_path, peer):
  networks = {'adapter': 32, 'imagenet': 40, 'resnet': 33, 'mobilenet': 32, 'vit': 64}
  peer.compare(tmp_path, 'saved_model', networks, _SAVED, ('jax', 'torch', 'experts'))


def test_litert_alone_gives_our_probabilities(tmp_path, peer):
  pytest.importorskip('ai_edge_litert', reason='LiteRT runs what leaves for it')
  networks = {'imagenet': 40, 'mobilenet': 32, 'vit': 64}
  absent = ('jax', 'torch', 'tensorflow', 'experts')
  peer.compare(tmp_path, 'litert', networks, _LITE, absent, 1e-3)


def test_a_wrong_pooling_is_refused(tmp_path, peer, monkeypatch):
  pool = form._Graph.pool
  late = lambda self, name, x, window: pool(self, name, x, window._replace(pads=((0, 2), (0, 2))))
  monkeypatch.setattr(form._Graph, 'pool', late)
  model = peer.make(tmp_path / 'model', 'resnet')
  with pytest.raises(ValueError, match=r"TensorFlow .* differ from our network's by \d"):
    export(str(model), 'saved_model', str(tmp_path / 'out'))
  assert [path.name for path in tmp_path.iterdir()] == ['model']
