"""What is trained of a network, and what stays; adapters, blocks and heads."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from experts.models import ours, partial, resnet, timm
from experts.runs import description

_OURS = ours.Network(resnet.ResNet(14, 0.0625, 'small'))
_TIMM = timm.build(
  {
    'architecture': 'resnet18',
    'arguments': {'layers': [1, 1, 1, 1], 'channels': [8, 8, 16, 16]},
    'mean': [0.5] * 3,
    'std': [0.5] * 3,
    'dtype': 'float32',
  }
)
_VIT = timm.build(
  {
    'architecture': 'vit_tiny_patch16_224',
    'arguments': {'img_size': 32, 'depth': 3, 'embed_dim': 16, 'num_heads': 2},
    'mean': [0.5] * 3,
    'std': [0.5] * 3,
    'dtype': 'float32',
  }
)


def _draw(network, adapter=False):
  rng = np.random.default_rng(0)
  params = dict(network.shapes(3))
  if adapter:
    params['adapter'] = jax.eval_shape(
      lambda: resnet.init_adapter(network.resnet, jax.random.key(0))
    )
  return jax.tree.map(
    lambda leaf: np.abs(rng.normal(0.5, 0.2, leaf.shape)).astype(np.float32), params
  )


def _names(tree):
  return {'/'.join(path) for path in traverse_util.flatten_dict(tree)}


def test_parts_are_named_as_the_config_names_them():
  assert [partial.blocks(part) for part in ('head', 'last:2', 'all')] == [0, 2, float('inf')]
  for wrong in ('last:0', 'last', 'last:-1', 'first:2', ''):
    with pytest.raises(ValueError, match='no part of a network'):
      partial.blocks(wrong)


def test_the_depth_of_a_parameter_is_that_of_its_block():
  depth = lambda network, *names: [network.layer(tuple(name.split('/'))) for name in names]
  assert _OURS.blocks == 4
  assert depth(
    _OURS, 'root/kernel', 'block1/unit01/a/conv/kernel', 'block4/unit01/c/norm/scale'
  ) == [0, 1, 4]
  names = [
    name for name in _names(_OURS.shapes(1)['backbone']) if not name.startswith(('block', 'root'))
  ]
  assert names
  assert set(depth(_OURS, *names)) == {5}
  assert _TIMM.blocks == 4
  assert depth(_TIMM, 'conv1/kernel', 'layer1.0.conv1/kernel', 'layer4.0.downsample.0/kernel') == [
    0,
    1,
    4,
  ]
  assert _VIT.blocks == 3
  assert depth(
    _VIT,
    'cls_token',
    'pos_embed',
    'patch_embed.proj/kernel',
    'blocks.0.attn.qkv/bias',
    'blocks.2.mlp.fc2/bias',
    'norm/scale',
  ) == [0, 0, 0, 1, 3, 4]


@pytest.mark.parametrize(
  ('network', 'adapter'), [(_OURS, False), (_OURS, True), (_TIMM, False), (_VIT, False)]
)  # fmt: skip
@pytest.mark.parametrize('part', ['all', 'head', 'last:1', 'last:9'])
def test_a_network_in_parts_is_the_same_function_and_joins_again(network, adapter, part):
  params = _draw(network, adapter)
  one, trained, frozen = partial.split(network, params, part)
  images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
  for found, expected in zip(
    one.forward({**frozen, **trained}, images), network.forward(params, images)
  ):
    np.testing.assert_array_equal(found, expected)
  joined = partial.join({**frozen, **trained})
  assert _names(joined) == _names(params)
  jax.tree.map(np.testing.assert_array_equal, joined, params)
  assert 'statistics' not in trained
  whole = _names({name: tree for name, tree in params.items() if name != 'statistics'})
  if part in ('all', 'last:9'):
    assert _names(trained) == whole
  if part == 'head':
    assert {*trained} == {'head'}
  if part == 'last:1':
    late = {
      name
      for name in whole
      if name.startswith('head') or network.layer(tuple(name.split('/')[1:])) >= network.blocks
    }
    assert _names(trained) == late
    assert 0 < len(late) < len(whole)


def test_layer_decay_is_a_power_for_each_block_between_a_parameter_and_the_head():
  factor = description._layer_factor(_VIT, 0.5)
  assert factor(('head', 'kernel')) == 1
  assert factor(('backbone', 'norm', 'scale')) == 1
  assert factor(('backbone', 'blocks.2.attn.qkv', 'kernel')) == 0.5
  assert factor(('backbone', 'blocks.0.attn.qkv', 'kernel')) == 0.125
  assert factor(('backbone', 'pos_embed')) == 0.0625
