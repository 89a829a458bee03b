"""Networks leave as serialised programs of JAX, which JAX runs without this project."""

import pytest

from experts.export import export
from experts.models.timm import resnet

_RUN = """
from jax import export

def run(folder, images):
  program = export.deserialize(bytearray(open(folder + '/program.bin', 'rb').read()))
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  return program.call(dict(np.load(folder + '/weights.npz')), images)
"""


def test_jax_alone_gives_our_probabilities(tmp_path, peer):
  networks = {'adapter': 32, 'resnet': 33, 'mobilenet': 32, 'vit': 64}
  peer.compare(tmp_path, 'jax', networks, _RUN, ('experts', 'flax', 'tensorflow'))
  text = (tmp_path / 'vit-out' / 'README.md').read_text()
  assert 'versions of the six months after that' in text


def test_what_needs_a_number_of_images_is_refused_in_one_line(tmp_path, peer, monkeypatch):
  model = peer.make(tmp_path / 'model', 'resnet')
  stem = resnet._stem
  # As where a number is asked for.
  monkeypatch.setattr(
    resnet, '_stem', lambda settings, scope, x: stem(settings, scope, x[: len(x)])
  )
  with pytest.raises(ValueError, match='JAX cannot export this network for any number') as raised:
    export(str(model), 'jax', str(tmp_path / 'out'))
  assert '\n' not in str(raised.value)
  assert [path.name for path in tmp_path.iterdir()] == ['model']
