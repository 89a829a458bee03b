"""Networks leave as timm's own files, which timm opens, and which come back into a pool."""

import json
import subprocess
import sys

import pytest

from experts.export import export
from experts.models.exporting import timm as form


def test_timm_alone_gives_our_probabilities(tmp_path, peer):
  pytest.importorskip('torch', reason='torch runs what leaves for timm')
  exec(peer.stub, {})
  networks = {'resnet': 32, 'mobilenet': 32, 'vit': 64, 'distilled': 48}
  absent = ('jax', 'tensorflow', 'experts')
  peer.compare(tmp_path, 'timm', networks, peer.timm, absent)
  assert 'timm 1' in (tmp_path / 'vit-out' / 'README.md').read_text()


def test_what_left_comes_back_into_a_pool(tmp_path, peer, monkeypatch):
  model = peer.make(tmp_path / 'vit', 'vit', 64)
  # As where there is no torch.
  monkeypatch.setitem(sys.modules, 'timm', None)
  check = export(str(model), 'timm', str(tmp_path / 'vit-out'))
  assert check.runtime.startswith("this project's own reading")
  member = peer.back(tmp_path, 'vit', 64)
  assert (member.size, member.resize, member.interpolation, member.keep_aspect) == (
    64, 64, 'bicubic', False,
  )  # fmt: skip


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
  command = [sys.executable, '-m', 'experts.models.export', '--format=timm', f'--model={model}']
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
