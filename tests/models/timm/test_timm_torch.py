"""Architectures of timm without a family of their own here are computed by torchax, as timm computes them."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from experts.models import torch_modules
from experts.models.network import View
from experts.models.timm import states
from experts.selection import embed, pool
from experts.selection.pool import joining

_SHOWN = {'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.25, 0.3]}
_DENSE = {'growth_rate': 4, 'block_config': [2, 2]}
_LEVIT = {
  'img_size': 32,
  'embed_dim': [16, 24],
  'num_heads': [2, 3],
  'key_dim': 8,
  'depth': [1, 1],
}


@pytest.fixture(autouse=True)
def torchax():
  if importlib.util.find_spec('torchax') is None:
    pytest.skip('torchax is what computes modules of torch')


def _folder(path, architecture, model, arguments):
  """What the hub has of a network."""
  path.mkdir()
  shown = {'input_size': [3, 32, 32], 'crop_pct': 0.8, 'interpolation': 'bicubic', **_SHOWN}
  config = {'architecture': architecture, 'model_args': arguments, 'pretrained_cfg': shown}
  (path / 'config.json').write_text(json.dumps(config))
  state = {name: value.numpy() for name, value in model.state_dict().items()}
  states.write(str(path / 'model.safetensors'), state, {})
  return path


@pytest.mark.parametrize(
  ('architecture', 'arguments', 'classifies'),
  # The other's classifiers are two, each behind a normalisation.
  [('densenet121', _DENSE, True), ('levit_128s', _LEVIT, False)],
)
def test_what_torchax_computes_is_what_timm_does(
  timm_peer, tmp_path, architecture, arguments, classifies
):
  whole = timm_peer.create(architecture, num_classes=5, **arguments)
  source = _folder(tmp_path / 'net', architecture, whole, arguments)
  # As it is called; what is published of the image comes with it.
  member = joining.add(
    tmp_path / 'pool.json', 'one', 'torch', str(source), architecture=architecture
  )
  assert embed.preprocessing(member, {}) == View(32, 40, 'bicubic', True, True)
  trees = torch_modules.load(member, str(tmp_path))
  one = torch_modules.build(torch_modules.describe(member, {}, {}))
  images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
  logits, embeddings = jax.jit(one.forward)(trees, images)

  bare = timm_peer.create(architecture, num_classes=0, **arguments)
  torch = pytest.importorskip('torch')
  state = whole.state_dict()
  bare.load_state_dict({name: state[name] for name in bare.state_dict()})
  shown = torch.tensor((images / 255 - _SHOWN['mean']) / _SHOWN['std']).float().permute(0, 3, 1, 2)
  with torch.no_grad():
    expected = bare(shown), whole(shown)
  np.testing.assert_allclose(embeddings, expected[0], rtol=1e-4, atol=1e-5)
  assert (logits is not None) == classifies
  if classifies:
    np.testing.assert_allclose(logits, expected[1], rtol=1e-4, atol=1e-5)
  assert member.parameters == sum(p.numel() for p in bare.parameters())


def test_what_old_files_hold_besides_is_dropped_by_timm(timm_peer, tmp_path):
  # LeViT's tables of biases follow from the settings, and were kept once.
  model = timm_peer.create('levit_128s', num_classes=0, **_LEVIT)
  state = {name: value.numpy() for name, value in model.state_dict().items()}
  file = str(tmp_path / 'old.safetensors')
  old = 'stages.0.blocks.0.attn.attention_bias_idxs'
  assert old not in state
  states.write(file, state | {old: np.zeros((4, 4), np.int64)}, {})
  member = pool.Member(
    'one', 'torch', '', None, 0, 0, 24, file, '',
    architecture='levit_128s', arguments=_LEVIT, **_SHOWN,
  )  # fmt: skip
  trees = torch_modules.load(member, '')
  assert {*trees['backbone'], *trees['statistics']} == {
    name for name in state if not name.endswith('num_batches_tracked')
  }
  states.write(file, state | {'attn.bias': np.zeros(4)}, {})
  with pytest.raises(ValueError, match=r'not a levit_128s: left over: backbone/attn\.bias$'):
    torch_modules.load(member, '')
