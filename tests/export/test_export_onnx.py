"""Networks leave as ONNX files, which onnxruntime runs by itself; a fault is found before anything is there."""

import sys

import pytest

from experts.export import export
from experts.models.exporting import lowering
from experts.models.exporting import onnx as form

pytest.importorskip('onnxruntime', reason='onnxruntime runs what leaves as ONNX')
_RUN = """
import onnxruntime

def run(folder, images):
  session = onnxruntime.InferenceSession(folder + '/model.onnx')
  return session.run(None, {'images': images})[0]
"""
_NETWORKS = {
  'small': 32, 'imagenet': 40, 'adapter': 32, 'resnet': 33, 'mobilenet': 32, 'vit': 64, 'distilled': 48,
}  # fmt: skip


def test_onnxruntime_alone_gives_our_probabilities(tmp_path, peer):
  peer.compare(tmp_path, 'onnx', _NETWORKS, _RUN, ('jax', 'tensorflow', 'torch', 'experts'))


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, peer, monkeypatch):
  monkeypatch.setattr(form, '_MOST_BYTES', 1000)
  peer.compare(tmp_path, 'onnx', {'resnet': 32}, _RUN, ('jax',))
  assert (tmp_path / 'resnet-out' / 'model.onnx.data').stat().st_size > 1000


def _refused(tmp_path, peer, said):
  model = peer.make(tmp_path / 'model', 'resnet')
  with pytest.raises(ValueError, match=said) as raised:
    export(str(model), 'onnx', str(tmp_path / 'out'))
  assert '\n' not in str(raised.value)
  assert [path.name for path in tmp_path.iterdir()] == ['model']


def test_a_wrong_pooling_is_refused(tmp_path, peer, monkeypatch):
  pool = form._Graph.pool
  late = lambda self, name, x, window: pool(self, name, x, window._replace(pads=((0, 2), (0, 2))))
  monkeypatch.setattr(form._Graph, 'pool', late)
  _refused(
    tmp_path, peer, r"onnxruntime .* differ from our network's by \d.* more than 0.0001: nothing is"
  )


def test_an_operation_that_is_not_known_is_named(tmp_path, peer, monkeypatch):
  monkeypatch.delitem(lowering._RULES, 'reduce_window_max')
  _refused(tmp_path, peer, "the operation 'reduce_window_max' is not known to graphs")


def test_a_package_that_is_missing_is_named(tmp_path, peer, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnxruntime', None)
  _refused(tmp_path, peer, r"this format needs onnxruntime .*: pip install 'experts\[onnx\]'")
