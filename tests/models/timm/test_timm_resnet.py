"""timm's ResNet against timm."""

import dataclasses

import pytest

from experts.models.timm import resnet

torch = pytest.importorskip('torch', reason='timm and torch are what the network is compared with')

NARROW = (8, 16, 24, 32)


@pytest.mark.parametrize(
  ('architecture', 'side', 'arguments'),
  [
    # Odd maps, so that what lies outside them shows.
    ('resnet18', 45, {'channels': NARROW, 'layers': (1, 2, 1, 1)}),
    ('resnet50_gn', 45, {'channels': (32, 64, 32, 64)}),
    (
      'seresnext26d_32x4d',
      45,
      {'channels': (16, 32, 16, 144), 'stem_width': 8, 'act_layer': 'silu'},
    ),
    ('ecaresnetlight', 45, {'channels': (8, 16, 300, 32)}),
    ('senet154', 45, {'channels': (32, 32, 64, 32), 'cardinality': 4, 'stem_width': 8}),
    ('resnetaa50', 66, {'channels': NARROW, 'base_width': 128}),
    ('resnetaa34d', 64, {'channels': NARROW, 'stem_width': 8, 'replace_stem_pool': True}),
    ('resnetblur50d', 45, {'channels': NARROW, 'stem_width': 8}),
    ('resnetrs50', 45, {'channels': (16, 24, 32, 40), 'stem_type': 'deep_tiered', 'stem_width': 8}),
    ('test_resnet', 45, {}),
  ],
)
def test_networks_compute_what_timm_computes(timm_peer, architecture, side, arguments):
  arguments = {'layers': (1, 1, 1, 1), 'num_classes': 0} | arguments
  embedding, gradient = timm_peer.compare(resnet, architecture, side, **arguments)
  assert embedding < 1e-5
  assert gradient < 1e-4


@pytest.mark.parametrize('architecture', resnet.ARCHITECTURES)
def test_every_architecture_has_the_parameters_of_timm(timm_peer, architecture):
  settings = resnet.settings(architecture, {})
  # A stage's blocks are as its second from there on; to trace them all takes long.
  short = dataclasses.replace(settings, layers=tuple(min(n, 2) for n in settings.layers))
  found = timm_peer.shapes(resnet, short, 64)
  for stage, depth in enumerate(settings.layers, 1):
    second = {name: shape for name, shape in found.items() if name.startswith(f'layer{stage}.1.')}
    for block in range(2, depth):
      found |= {name.replace('.1.', f'.{block}.', 1): shape for name, shape in second.items()}
  assert found == timm_peer.meta_state(architecture, num_classes=0)


def test_arguments_that_change_no_embedding_are_passed_over():
  assert resnet.settings(
    'resnet50',
    {
      'num_classes': 7,
      'in_chans': 3,
      'drop_rate': 0.1,
      'block_args': None,
      'channels': [64, 128, 256, 512],
    },
  ) == resnet.settings('resnet50', {'norm_layer': 'batchnorm', 'block': 'bottleneck'})


@pytest.mark.parametrize(
  ('arguments', 'named'),
  [
    ({'output_stride': 16}, 'output_stride'),
    ({'in_chans': 1}, 'in_chans'),
    ({'act_layer': 'mish'}, 'act_layer'),
    ({'norm_layer': 'layernorm'}, 'norm_layer'),
    ({'block_args': {'attn_layer': 'cbam'}}, 'attn_layer'),
    ({'block_args': {'dilation': 2}}, 'dilation'),
    ({'layers': (1, 1, 1)}, 'layers'),
    ({'block': 'basic', 'cardinality': 2}, 'cardinality'),
    ({'block': 'neck'}, 'block'),
  ],
)
def test_arguments_that_are_not_supported_are_named(arguments, named):
  with pytest.raises(ValueError, match=f'^resnet50: .*{named}'):
    resnet.settings('resnet50', arguments)


@pytest.mark.parametrize(
  ('architecture', 'side', 'taken'),
  [
    ('resnetaa50d', 224, True),
    ('resnetaa50d', 240, False),
    ('resnetaa50', 30, False),
    ('resnetblur50', 17, True),
    ('resnetblur50', 16, False),
    ('resnet50', 1, True),
  ],
)
def test_sides_are_taken_as_timm_takes_them(timm_peer, architecture, side, taken):
  arguments = {'channels': NARROW, 'layers': (1, 1, 1, 1), 'num_classes': 0}
  settings = resnet.settings(architecture, arguments)
  assert (resnet.fault(settings, side) == '') == taken
  try:
    timm_peer.create(architecture, **arguments)(torch.zeros(1, 3, side, side))
  except RuntimeError:
    assert not taken
  else:
    assert taken
