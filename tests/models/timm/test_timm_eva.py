"""Eva networks are timm's: names, shapes, embeddings and gradients."""

import dataclasses

import pytest

from experts.models.timm import eva

SMALL = {'embed_dim': 48, 'depth': 1, 'num_heads': 3, 'img_size': 64}
# Architectures, and beside them what one may be told, that between them take every way through the code.
VARIANTS = [
  ('vit_small_patch16_dinov3', {'depth': 2}),
  ('vit_small_plus_patch16_dinov3_qkvb', {}),
  ('vit_small_patch16_lingbot', {}),
  ('eva02_tiny_patch14_224', {'img_size': 56}),
  ('eva02_base_patch16_clip_224', {}),
  ('eva02_enormous_patch14_clip_224', {'img_size': 60, 'mlp_ratio': 3}),
  ('vit_small_patch16_rope_ape_224', {}),
  ('vit_medium_patch16_rope_reg1_gap_256', {}),
  ('vit_pe_core_base_patch16_224', {'attn_pool_num_heads': 4}),
  ('vit_pe_lang_large_patch14_448', {'img_size': 56}),
]


@pytest.mark.parametrize(('architecture', 'more'), VARIANTS)
def test_embeddings_and_gradients_are_timms(timm_peer, architecture, more):
  arguments = {**SMALL, **more}
  embedding, gradient = timm_peer.compare(eva, architecture, arguments['img_size'], **arguments)
  assert embedding < 1e-5
  assert gradient < 1e-4


@pytest.mark.parametrize(
  'architecture', ['vit_small_patch16_dinov3', 'eva02_base_patch16_clip_224']
)
def test_images_of_another_side_see_other_positions(timm_peer, architecture):
  arguments = {**SMALL, 'dynamic_img_size': True}
  embedding, gradient = timm_peer.compare(eva, architecture, 96, **arguments)
  assert embedding < 1e-5
  assert gradient < 1e-4


def test_timms_entrypoints_say_the_same(timm_peer, monkeypatch):
  """What shapes do not tell: depths, heads, epsilons, pooling, angles."""

  class Told(Exception):
    pass

  def tell(self, **arguments):
    raise Told(arguments)

  timm_peer.create('test_vit')
  from timm.models import eva as theirs

  monkeypatch.setattr(theirs.Eva, '__init__', tell)
  defaults = {field.name: field.default for field in dataclasses.fields(eva.Settings)}
  for architecture in eva.ARCHITECTURES:
    with pytest.raises(Told) as told:
      timm_peer.create(architecture)
    arguments = dict(told.value.args[0])
    if 'norm_layer' in arguments:
      norm = arguments['norm_layer']
      arguments['norm_layer'] = norm.func.__name__, norm.keywords['eps']
    expected = eva.settings('vit_small_patch16_dinov3', {**defaults, **arguments})
    assert eva.settings(architecture, {}) == expected, architecture


@pytest.mark.parametrize('architecture', eva.ARCHITECTURES)
def test_every_architecture_has_timms_parameters(timm_peer, architecture):
  # Blocks are alike; their number is compared above.
  settings = eva.settings(architecture, {'depth': 1})
  expected = timm_peer.meta_state(architecture, depth=1, num_classes=0)
  assert timm_peer.shapes(eva, settings, settings.img_size) == expected


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'reg_tokens': 4}, 'reg_tokens is no argument of this network'),
    ({'qk_norm': True}, 'qk_norm: True is not supported'),
    ({'rope_type': 'mixed'}, 'rope_type: mixed is not supported'),
    ({'img_size': [1024, 768]}, r'img_size: \(1024, 768\) is not a square'),
  ],
)
def test_what_is_not_supported_is_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    eva.settings('vit_small_patch16_dinov3', arguments)


def test_sides_that_patches_do_not_divide_are_refused():
  settings = eva.settings('vit_small_patch16_dinov3', {'rope_rescale_coords': 2.0})
  assert settings == eva.settings('vit_small_patch16_dinov3', {})
  assert not eva.fault(settings, 64)
  assert eva.fault(settings, 65) == '65 pixels are not a multiple of the patch of 16'
