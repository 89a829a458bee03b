"""Networks leave as timm's own files, which timm opens, and which come back into a pool."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experts.export import export
from experts.models import timm
from experts.models.exporting import timm as form
from experts.selection import pool
from experts.selection.pool import joining

_TORCH = """
from PIL import Image

def run(folder, images):
  model = timm.create_model('local-dir:' + folder, pretrained=True).eval()
  transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
  pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
  with torch.inference_mode():
    return model(pixels).softmax(-1).numpy()
"""


def test_timm_alone_gives_our_probabilities(tmp_path, peer):
  pytest.importorskip('torch', reason='torch runs what leaves for timm')
  exec(peer.timm, {})
  networks = {'resnet': 32, 'mobilenet': 32, 'vit': 64, 'distilled': 48, 'bit': 32}
  absent = ('jax', 'tensorflow', 'experts')
  peer.compare(tmp_path, 'timm', networks, peer.timm + _TORCH, absent)
  assert 'timm 1' in (tmp_path / 'bit-out' / 'README.md').read_text()
  assert _back(tmp_path, peer, 'bit', 32).architecture == 'resnetv2_50x1_bit'


def test_what_left_comes_back_into_a_pool(tmp_path, peer, monkeypatch):
  model = peer.make(tmp_path / 'vit', 'vit', 64)
  # As where there is no torch.
  monkeypatch.setitem(sys.modules, 'timm', None)
  check = export(str(model), 'timm', str(tmp_path / 'vit-out'))
  assert check.runtime.startswith("this project's own reading")
  member = _back(tmp_path, peer, 'vit', 64)
  assert (member.size, member.resize, member.interpolation, member.keep_aspect) == (
    64, 64, 'bicubic', False,
  )  # fmt: skip
  assert member.class_names == ['ash', 'beech', 'c|d']


def _back(folder, peer, name, size):
  """What comes back into a pool, if it computes the same."""
  joining.add(folder / 'pool.json', 'back', 'timm', str(folder / f'{name}-out'))
  (read,) = pool.read(folder / 'pool.json')
  params = timm.load(read, str(folder))
  network = timm.build(timm.describe(read, {'dtype': 'float32'}, params))
  logits = jax.jit(network.forward)(params, peer.images(size))[0]
  np.testing.assert_allclose(
    jax.nn.softmax(logits), peer.expected(folder / name, peer.images(size)), atol=1e-4
  )
  return read


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('small', 'timm has no ResNet with a root for small images: export it as onnx'),
    ('adapter', 'timm has no network with adapters: export it as onnx'),
    ('imagenet', 'timm has no ResNet of depth 14, width 0.0625, only resnetv2_50x1_bit, '),
  ],
)
def test_what_timm_has_not_is_refused_in_one_line(tmp_path, peer, name, said):
  model = peer.make(tmp_path / 'model', name)
  with pytest.raises(ValueError, match=said):
    export(str(model), 'timm', str(tmp_path / 'out'))
  assert [path.name for path in tmp_path.iterdir()] == ['model']


def test_a_fault_in_the_writing_is_found_before_anything_is_there(tmp_path, peer, monkeypatch):
  model = peer.make(tmp_path / 'model', 'vit')
  monkeypatch.setitem(sys.modules, 'timm', None)
  whole = form._config

  def wrong(*given):
    config = whole(*given)
    config['pretrained_cfg']['std'] = [0.25] * 3
    return config

  monkeypatch.setattr(form, '_config', wrong)
  with pytest.raises(ValueError, match=r"differ from our network's by \d.* nothing is written"):
    export(str(model), 'timm', str(tmp_path / 'out'))
  assert [path.name for path in tmp_path.iterdir()] == ['model']


def test_the_command_ends_in_one_line(tmp_path, peer):
  model = peer.make(tmp_path / 'model', 'resnet')
  command = [sys.executable, '-m', 'experts.export', '--format=timm', f'--model={model}']
  run = lambda out: subprocess.run(
    [*command, f'--out={out}'], capture_output=True, text=True, check=False
  )
  done = run(tmp_path / 'out')
  assert done.returncode == 0, done.stderr
  assert 'gives the same probabilities to' in done.stdout
  config = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert config['label_names'] == ['ash', 'beech', 'c|d']
  assert config['pretrained_cfg']['crop_mode'] == 'squash'
  done = run(tmp_path / 'out')
  assert done.returncode == 1
  assert (
    done.stderr.strip()
    == f'error: {tmp_path}/out is there already: give another --out, or remove it first'
  )
