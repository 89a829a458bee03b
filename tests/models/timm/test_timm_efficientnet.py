"""EfficientNet and its kin against timm."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models.timm import efficientnet, efficientnet_blocks, tensors
from experts.models.timm.scope import Scope

torch = pytest.importorskip(
  'torch', reason='timm and torch are what the networks are compared with'
)

_POOL = pathlib.Path(__file__).resolve().parents[3].parent / 'shared' / 'pool' / 'timm'
# Small programs that run once: what optimising them costs is more than it saves.
_QUICK = {'xla_backend_optimization_level': 0}


@pytest.mark.parametrize(
  ('architecture', 'side', 'arguments'),
  [
    ('test_efficientnet', 40, {}),
    ('mobilenetv1_100', 33, {'depth_multiplier': 0.1, 'act_layer': 'silu'}),
    ('mobilenetv2_035', 40, {'depth_multiplier': 0.2, 'pad_type': 'same', 'bn_eps': 1e-3}),
    ('tf_mobilenetv3_large_100', 40, {'depth_multiplier': 0.1, 'group_size': 8}),
  ],
)
def test_a_network_and_its_gradient_are_timms(timm_peer, architecture, side, arguments):
  model = timm_peer.create(architecture, num_classes=0, **arguments)
  images = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
  ours = _network(efficientnet.settings(architecture, arguments))
  embedding, gradient = _differences(ours, model, images)
  assert embedding < 1e-5
  assert gradient < 1e-4


# What the networks above do not have: several kernels that share the channels, groups, the universal block with each of
# its convolutions and in its own order, attention with and without smaller keys, and averages for strides.
_STAGES = {
  'mixed': ('ir_r1_k3.5.7_a1.1_p1.1_s2_e4_c24_se0.5_nsw', {}),
  'grouped': ('er_r1_k3_s2_e4_gs16_c32', {}),
  'edge': ('er_r1_k3_s1_e4_c24_fc8_noskip', {}),
  'universal': ('uir_r1_a3_k5_s1_e2_c16', {'layer_scale': True}),
  'universal_start': ('uir_r1_a5_k0_s2_e4_c16', {}),
  'universal_none': ('uir_r1_a0_k0_s1_e2_c16', {}),
  'attention': ('mqa_r1_k3_h2_s1_v2_d8_c16 cn_r1_k1_s1_c8', {'layer_scale': True}),
  'attention_same': ('mqa_r1_k3_h2_s1_d8_c16 cn_r1_k1_s1_c8', {'pad_type': 'same'}),
  'averaged': ('ir_r1_k3_s2_e2_c16', {'aa_layer': 'avg'}),
}


@pytest.mark.parametrize('name', _STAGES)
def test_a_stage_and_its_gradient_are_timms(timm_peer, name):
  text, changes = _STAGES[name]
  style = dataclasses.replace(efficientnet.settings('mobilenetv2_100', {}).style, **changes)
  stage = efficientnet_blocks.repeat(
    [efficientnet_blocks.decode(block, None) for block in text.split()], 1.0, 'ceil'
  )
  peer = _timm_stage(timm_peer, text, style)
  images = np.random.default_rng(1).normal(size=(2, 12, 12, 16)).astype(np.float32)

  def ours(scope, x):
    for i, block in enumerate(stage):
      x = efficientnet_blocks.apply(style, scope / i, x, block)
    return x

  output, gradient = _differences(ours, peer, images)
  assert output < 1e-5
  assert gradient < 1e-4


def _timm_stage(timm_peer, text, style):
  """The stage that timm's builder makes of the text for 16 channels."""
  timm_peer.create('test_efficientnet')
  from timm.layers import get_act_layer
  from timm.models import _efficientnet_builder as builder

  make = builder.EfficientNetBuilder(
    pad_type=style.pad_type,
    norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=style.bn_eps),
    act_layer=get_act_layer(style.act_layer),
    aa_layer=style.aa_layer or None,
    se_layer=builder.SqueezeExcite,
    layer_scale_init_value=1e-5 if style.layer_scale else None,
  )
  (stage,) = make(16, builder.decode_arch_def([text.split()]))
  timm_peer.randomise(stage)
  return stage.eval()


@functools.cache
def _network(settings):
  return functools.partial(efficientnet.embed, settings)


@functools.cache
def _program(ours, gradients):
  """(backbone, statistics, images) -> what `ours` gives, and the gradient of the sum of its squares."""

  def loss(backbone, statistics, images):
    out = ours(Scope({'backbone': backbone, 'statistics': statistics}), images)
    return jnp.square(out).sum(), out

  run = jax.value_and_grad(loss, has_aux=True) if gradients else lambda *some: (loss(*some), {})
  return jax.jit(run, compiler_options=_QUICK)


def _differences(ours, model, images, gradients=True):
  """Relative differences of outputs, and of gradients of the sum of their squares.

  Args:
    ours: (scope, images) -> embeddings, or maps.
    model: timm's network, or a part that gives maps.
    images: channels last.
    gradients: whether to compute them.
  """
  state = {name: value.numpy() for name, value in model.state_dict().items()}
  trees = tensors.to_trees(state, 'classifier')
  (_, found), gradient = _program(ours, gradients)(trees['backbone'], trees['statistics'], images)
  x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  if hasattr(model, 'forward_head'):
    expected = model.forward_head(model.forward_features(x), pre_logits=True)
  else:
    expected = model(x).permute(0, 2, 3, 1)
  output = _relative(found, expected.detach().numpy())
  if not gradients:
    return output, 0.0
  expected.square().sum().backward()
  gradient = tensors.to_state({'backbone': jax.device_get(gradient)}, 'classifier')
  wanted = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
  assert set(gradient) == set(wanted)
  whole = lambda tree: np.concatenate([tree[name].ravel() for name in sorted(wanted)])
  return output, _relative(whole(gradient), whole(wanted))


def _relative(found, expected):
  return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def test_every_name_has_timms_parameters(timm_peer, monkeypatch):
  timm_peer.create('test_efficientnet')
  # Values are not looked at.
  for module in ('efficientnet', 'mobilenetv3'):
    monkeypatch.setattr(f'timm.models.{module}.efficientnet_init_weights', lambda model: None)
  kept = {}
  for name in efficientnet.ARCHITECTURES:
    settings = efficientnet.settings(name, {})
    plain = dataclasses.replace(settings.style, pad_type='', bn_eps=0.0)
    plain = dataclasses.replace(settings, style=plain)
    kept[plain] = kept.get(plain) or _shapes(plain)
    state = timm_peer.meta_state(name, num_classes=0)
    zeros = {module: np.broadcast_to(np.float32(0), shape) for module, shape in state.items()}
    expected = tensors.to_trees(zeros, efficientnet.head(settings))
    assert kept[plain] == jax.tree.map(lambda leaf: leaf.shape, expected), name


def _shapes(settings):
  """The shapes of a network's parameters; of equal blocks in a row two are traced, the others are as the second."""
  distinct = [
    [j for j, block in enumerate(stage) if j < 2 or {block, stage[j - 1]} != {stage[j - 2]}]
    for stage in settings.stages
  ]
  stages = tuple(tuple(stage[j] for j in some) for stage, some in zip(settings.stages, distinct))
  scope, image = Scope(None, jnp.bfloat16), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.bfloat16)
  short = dataclasses.replace(settings, stages=stages)
  jax.eval_shape(lambda x: efficientnet.embed(short, scope, x), image)
  traced = jax.tree.map(lambda leaf: leaf.shape, scope.noted)
  return {tree: _spread(modules, settings.stages, distinct) for tree, modules in traced.items()}


def _spread(modules, stages, distinct):
  found = {name: leaves for name, leaves in modules.items() if not name.startswith('blocks.')}
  for i, stage in enumerate(stages):
    for j in range(len(stage)):
      at = f'blocks.{i}.{max(k for k, kept in enumerate(distinct[i]) if kept <= j)}.'
      found.update(
        {
          f'blocks.{i}.{j}.{name.removeprefix(at)}': leaves
          for name, leaves in modules.items()
          if name.startswith(at)
        }
      )
  return found


def _real():
  path = _POOL / 'models.json'
  return json.loads(path.read_text()) if path.exists() else []


@pytest.mark.skipif(not _real(), reason='no real checkpoints in ../shared/pool/timm')
@pytest.mark.parametrize('entry', _real(), ids=lambda entry: entry['name'])
def test_real_networks_embed_as_timms(timm_peer, entry):
  output, gradient = _real_differences(timm_peer, entry)
  assert output < 1e-4
  assert gradient < 1e-3


def _real_differences(timm_peer, entry):
  safetensors = pytest.importorskip('safetensors.torch', reason='it reads the checkpoints')
  name, arguments = entry['architecture'], entry['kwargs']
  model = timm_peer.create(name, num_classes=entry['num_classes'], **arguments)
  state = safetensors.load_file(_POOL / entry['file'])
  model.load_state_dict({name: value.float() for name, value in state.items()})
  settings = efficientnet.settings(name, arguments)
  generator = np.random.default_rng(2)
  ramp = np.linspace(-1, 1, 96, dtype=np.float32)
  images = generator.normal(0, 0.3, (2, 96, 96, 3)).astype(np.float32) + ramp[:, None]
  # A gradient takes several times as long to compile.
  gradients = entry['name'] in ('mobilenet_v1_imagenet', 'mobilenet_v2_035_imagenet')
  return _differences(_network(settings), model, images, gradients)


def test_arguments_of_a_checkpoint_come_before_those_of_its_name():
  settings = efficientnet.settings(
    'tf_efficientnet_b0',
    {'pad_type': None, 'bn_eps': 1, 'act_layer': 'relu', 'num_classes': 7, 'drop_rate': 0.2},
  )
  assert (settings.style.pad_type, settings.style.bn_eps) == ('', 1)
  assert settings.style.act_layer == 'relu'
  deep = efficientnet.settings('efficientnetv2_rw_m', {'depth_multiplier': [1, 1, 1, 1, 1, 0.2]})
  assert [len(stage) for stage in deep.stages] == [2, 4, 4, 6, 9, 3]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'width': 2}, 'width: unknown'),
    ({'se_gate': 'sigmoid'}, 'se_gate: unknown'),
    ({'in_chans': 1}, 'in_chans: 1 is not supported, only 3'),
    ({'pad_type': 'valid'}, "pad_type: 'valid' is not supported"),
    ({'stem_size': 'big'}, "stem_size: 'big' is not supported"),
    ({'head_bias': 1}, 'head_bias: 1 is not supported'),
    ({'depth_multiplier': [1, 2]}, r'depth_multiplier: \(1, 2\) is not of 7 stages'),
  ],
)
def test_an_argument_that_is_unknown_or_unsupported_is_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    efficientnet.settings('efficientnet_b0', arguments)


def test_only_averages_need_sides_that_halve():
  averaged = efficientnet.settings('mobilenetv4_conv_aa_medium', {})
  assert efficientnet.fault(averaged, 90) == '90 pixels are not a multiple of 32'
  assert not efficientnet.fault(averaged, 96)
  assert not efficientnet.fault(efficientnet.settings('efficientnet_b0', {}), 90)
