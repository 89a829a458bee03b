"""timm's ConvNeXt against timm."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models.timm import convnext
from experts.models.timm.scope import Scope

NARROW = {'depths': (1, 1, 1, 1), 'dims': (8, 16, 24, 32), 'kernel_sizes': 3, 'num_classes': 0}


@pytest.mark.parametrize(
  ('architecture', 'side', 'arguments'),
  [
    # Sides that no stage divides, so that what is left out shows.
    ('convnext_tiny', 47, {'depths': (1, 2, 1, 1), 'kernel_sizes': (7, 5, 3, 7)}),
    ('convnext_large_mlp', 32, {'head_hidden_size': 12, 'patch_size': 2, 'act_layer': 'silu'}),
    ('convnext_zepto_rms_ols', 45, {}),
    ('convnext_atto_ols', 45, {'dims': (36, 36, 24, 32), 'conv_bias': False}),
    ('convnext_tiny_hnf', 47, {'norm_layer': 'rmsnorm2d'}),
    ('convnextv2_tiny', 47, {'norm_eps': 0.1}),
  ],
)
def test_networks_compute_what_timm_computes(timm_peer, architecture, side, arguments):
  embedding, gradient = timm_peer.compare(convnext, architecture, side, **NARROW | arguments)
  assert embedding < 1e-5
  assert gradient < 1e-4


@pytest.mark.parametrize('architecture', convnext.ARCHITECTURES)
def test_every_architecture_has_the_parameters_of_timm(timm_peer, architecture):
  settings = convnext.settings(architecture, {})
  # A stage's blocks are as its second from there on; to trace them all takes long.
  short = dataclasses.replace(settings, depths=tuple(min(n, 2) for n in settings.depths))
  found = timm_peer.shapes(convnext, short, 32)
  for stage, depth in enumerate(settings.depths):
    place = f'stages.{stage}.blocks.'
    second = {
      name.removeprefix(f'{place}1.'): shape
      for name, shape in found.items()
      if name.startswith(f'{place}1.')
    }
    for block in range(2, depth):
      found |= {f'{place}{block}.{name}': shape for name, shape in second.items()}
  assert found == timm_peer.meta_state(architecture, num_classes=0)


def test_the_least_side_is_what_leaves_one_pixel():
  for architecture, least in (('convnext_atto', 32), ('convnext_atto_ols', 29)):
    settings = convnext.settings(architecture, {})
    assert convnext.fault(settings, least) == ''
    assert convnext.fault(settings, least - 1) == f'must be at least {least}'


def test_a_silent_channel_has_a_gradient():
  trees = {'backbone': {'grn': {'scale': jnp.ones(2), 'bias': jnp.zeros(2)}}}
  images = jnp.zeros((1, 3, 3, 2)).at[..., 0].set(2.0)
  norm = lambda x: convnext._response_norm(Scope(trees) / 'grn', x).sum()
  # Norms 6 and 0, whose mean is 3: twice the first channel is added to it.
  assert float(norm(images)) == pytest.approx(9 * 2 * 3)
  assert np.isfinite(jax.grad(norm)(images)).all()


def test_arguments_that_change_no_embedding_are_passed_over():
  assert convnext.settings(
    'convnext_tiny',
    {'num_classes': 7, 'drop_path_rate': 0.1, 'ls_init_value': 1.0, 'dims': [96, 192, 384, 768]},
  ) == convnext.settings('convnext_tiny', {'norm_layer': 'layernorm2d', 'kernel_sizes': 7})


@pytest.mark.parametrize(
  ('arguments', 'named'),
  [
    ({'output_stride': 16}, 'output_stride'),
    ({'global_pool': 'max'}, 'global_pool'),
    ({'act_layer': 'mish'}, 'act_layer'),
    ({'norm_layer': 'batchnorm2d'}, 'norm_layer'),
    ({'stem_type': 'deep'}, 'stem_type'),
    ({'patch_size': 8}, 'patch_size'),
    ({'dilation': 2}, 'dilation'),
    ({'dims': (8, 8)}, 'dims'),
    ({'head_norm_first': True, 'head_hidden_size': 8}, 'head_hidden_size'),
  ],
)
def test_arguments_that_are_not_supported_are_named(arguments, named):
  with pytest.raises(ValueError, match=f'^convnext_tiny: .*{named}'):
    convnext.settings('convnext_tiny', arguments)
