"""BiT's networks are timm's: names, shapes, embeddings and gradients."""

import pytest

from experts.models.timm import resnetv2


def test_embeddings_and_gradients_are_timms(timm_peer):
  embedding, gradient = timm_peer.compare(resnetv2, 'resnetv2_50x1_bit', 40)
  assert embedding < 1e-4
  assert gradient < 1e-3


@pytest.mark.parametrize('architecture', resnetv2.ARCHITECTURES)
def test_names_and_shapes_are_timms(timm_peer, architecture):
  expected = timm_peer.meta_state(architecture)
  found = timm_peer.shapes(resnetv2, resnetv2.settings(architecture, {}), 64)
  head = {name for name in expected if name.startswith('head.fc')}
  assert found == {name: shape for name, shape in expected.items() if name not in head}


@pytest.mark.parametrize('arguments', [{'stem_type': 'deep'}, {'preact': False}])
def test_what_is_not_supported_is_named(arguments):
  with pytest.raises(ValueError, match=next(iter(arguments))):
    resnetv2.settings('resnetv2_50x1_bit', arguments)
