"""A BiT ResNet leaves as timm's network of that name, and comes back."""

import pytest


def test_timm_alone_gives_our_probabilities_and_so_does_a_pool(tmp_path, peer):
  pytest.importorskip('torch', reason='torch runs what leaves for timm')
  exec(peer.stub, {})
  peer.compare(tmp_path, 'timm', {'bit': 32}, peer.timm, ('jax', 'tensorflow', 'experts'))
  assert 'timm 1' in (tmp_path / 'bit-out' / 'README.md').read_text()
  assert peer.back(tmp_path, 'bit', 32).architecture == 'resnetv2_50x1_bit'
