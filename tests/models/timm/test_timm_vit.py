"""Vision Transformers are timm's: names, shapes, embeddings and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models.timm import tokens, vit
from experts.models.timm.scope import Scope

SMALL = {'embed_dim': 48, 'depth': 1, 'num_heads': 3, 'img_size': 64}
# Architectures, and beside them what one may be told, that between them take every way through the code.
VARIANTS = [
  ('vit_tiny_patch16_224', {'depth': 2}),
  ('vit_tiny_patch16_224', {'qk_norm': True, 'norm_layer': 'rmsnorm', 'global_pool': 'avg'}),
  ('deit_tiny_distilled_patch16_224', {}),
  ('vit_small_patch14_dinov2', {'img_size': 56}),
  ('vit_giant_patch14_reg4_dinov2', {'img_size': 56}),
  ('vit_base_patch16_clip_quickgelu_224', {}),
  ('vit_so400m_patch14_siglip_384', {'img_size': 60}),
  ('vit_so150m_patch16_reg4_map_256', {'pool_include_prefix': True, 'act_layer': 'gelu_tanh'}),
  ('vit_medium_patch16_gap_256', {}),
  ('vit_base_patch16_radio_v3', {}),
  ('vit_base_patch16_rpn_224', {}),
  ('vit_small_patch16_18x2_224', {}),
  ('vit_base_patch16_xp_224', {}),
  ('vit_pwee_patch16_reg1_gap_256', {}),
  ('aimv2_large_patch14_224', {'img_size': 56}),
  ('beit3_base_patch16_224', {}),
]


@pytest.mark.parametrize(('architecture', 'more'), VARIANTS)
def test_embeddings_and_gradients_are_timms(timm_peer, architecture, more):
  arguments = {**SMALL, **more}
  embedding, gradient = timm_peer.compare(vit, architecture, arguments['img_size'], **arguments)
  assert embedding < 1e-5
  assert gradient < 1e-4


@pytest.mark.parametrize(
  ('architecture', 'side'), [('vit_tiny_patch16_224', 48), ('deit3_small_patch16_224', 112)]
)
def test_images_of_another_side_see_resampled_positions(timm_peer, architecture, side):
  arguments = {**SMALL, 'dynamic_img_size': True}
  embedding, gradient = timm_peer.compare(vit, architecture, side, **arguments)
  assert embedding < 1e-5
  assert gradient < 1e-4


@pytest.mark.parametrize(('prefix', 'old', 'new'), [(0, 14, 7), (1, 7, 12), (5, 16, 37)])
def test_positions_are_resampled_as_timm_resamples_a_checkpoint(timm_peer, prefix, old, new):
  torch = pytest.importorskip('torch')
  theirs = pytest.importorskip('timm.layers').resample_abs_pos_embed
  positions = np.random.default_rng(0).normal(size=(1, prefix + old * old, 8)).astype(np.float32)
  expected = theirs(torch.from_numpy(positions), [new, new], [old, old], prefix)
  found = tokens.resample_positions(jnp.asarray(positions), prefix, new)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_array_equal(found[:, :prefix], positions[:, :prefix])


def test_timms_entrypoints_say_the_same(timm_peer, monkeypatch):
  """What shapes do not tell: depths, heads, activations, epsilons, pooling."""

  class Told(Exception):
    pass

  def tell(self, **arguments):
    raise Told({**arguments, 'distilled': 'Distilled' in type(self).__name__})

  timm_peer.create('test_vit')
  from timm.models import deit, vision_transformer

  monkeypatch.setattr(vision_transformer.VisionTransformer, '__init__', tell)
  monkeypatch.setattr(deit.VisionTransformerDistilled, '__init__', tell)
  for architecture in vit.ARCHITECTURES:
    with pytest.raises(Told) as told:
      timm_peer.create(architecture)
    arguments = {name: _plain(name, value) for name, value in told.value.args[0].items()}
    expected = vit.settings('vit_tiny_patch16_224', {**_DEFAULTS, **arguments})
    assert vit.settings(architecture, {}) == expected, architecture


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(vit.Settings)}


def _plain(name, value):
  """timm's classes by their names."""
  if name in ('norm_layer', 'embed_norm_layer') and not isinstance(value, str):
    return (
      getattr(value, 'func', value).__name__,
      getattr(value, 'keywords', {}).get('eps', 1e-6),
    )
  if name == 'mlp_layer':
    return {'GluMlp': 'SwiGLUPacked'}.get(getattr(value, 'func', value).__name__, 'SwiGLU')
  if name == 'act_layer' and not isinstance(value, str):
    return value.__name__.lower()
  return value.__name__ if name == 'block_fn' else value


@pytest.mark.parametrize('architecture', vit.ARCHITECTURES)
def test_every_architecture_has_timms_parameters(timm_peer, architecture):
  # Blocks are alike; their number is compared above.
  settings = vit.settings(architecture, {'depth': 1})
  expected = timm_peer.meta_state(architecture, depth=1, num_classes=0)
  assert timm_peer.shapes(vit, settings, settings.img_size) == expected


def test_networks_train_side_by_side_and_in_half_precision():
  settings = vit.settings('vit_tiny_patch16_224', SMALL)
  images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 64, 64, 3)), jnp.float32)
  noted = Scope(None)
  jax.eval_shape(lambda x: vit.embed(settings, noted, x), images)
  leaves, tree = jax.tree.flatten(noted.noted['backbone'])
  random = np.random.default_rng(2)
  both = tree.unflatten([random.normal(0, 0.1, (2, *leaf.shape)) for leaf in leaves])

  def embed(backbone, dtype=jnp.float32):
    return vit.embed(settings, Scope({'backbone': backbone}, dtype), images.astype(dtype))

  def all_ways(both):
    return jax.vmap(embed)(both), embed(one(both, 1)), embed(one(both, 0), jnp.bfloat16)

  one = lambda both, index: jax.tree.map(lambda leaf: leaf[index], both)
  together, alone, half = jax.jit(all_ways)(both)
  np.testing.assert_allclose(together[1], alone, atol=1e-4)
  assert half.dtype == jnp.float32
  assert np.linalg.norm(half - together[0]) < 0.05 * np.linalg.norm(together[0])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'depht': 3}, 'depht is no argument of this network'),
    ({'in_chans': 1}, 'in_chans: 1 is not supported'),
    ({'attn_layer': 'diff'}, 'attn_layer: diff is not supported'),
    ({'global_pool': ''}, 'global_pool:  is not supported'),
    ({'img_size': [224, 196]}, r'img_size: \(224, 196\) is not a square'),
    ({'norm_layer': 'batchnorm'}, 'norm_layer: batchnorm is not supported'),
    ({'class_token': False}, 'class_token: without one there is none to pool'),
  ],
)
def test_what_is_not_supported_is_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    vit.settings('vit_tiny_patch16_224', arguments)


def test_what_has_no_effect_on_embeddings_is_no_setting():
  plain = vit.settings('vit_tiny_patch16_224', {})
  told = {'num_classes': 10, 'in_chans': 3, 'drop_path_rate': 0.1, 'dynamic_img_size': True}
  assert vit.settings('vit_tiny_patch16_224', {**told, 'img_size': [224, 224]}) == plain
  assert hash(plain) is not None


def test_sides_that_patches_do_not_divide_are_refused_except_its_own():
  settings = vit.settings('vit_so400m_patch14_siglip_384', {})
  assert not vit.fault(settings, 384)
  assert not vit.fault(settings, 224)
  assert vit.fault(settings, 225) == '225 pixels are not a multiple of the patch of 14'
