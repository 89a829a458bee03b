"""Modules of torch join a pool if torchax computes what torch does, and are ranked, fine-tuned and used like any network."""

import dataclasses
import importlib
import importlib.util
import json
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experts.models import import_torch, torch_modules, weights
from experts.models.timm import states
from experts.models.torch_modules import bridge
from experts.selection import pool
from experts.selection.pool import joining

# Convolution, batch normalisation, and tokens that look at each other.
_NETS = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
  def __init__(self, width=8):
    super().__init__()
    self.stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
    self.norm = nn.BatchNorm2d(width)
    self.place = nn.Parameter(torch.ones(width), requires_grad=False)
    self.both = nn.Linear(width, 2 * width)
    self.again = self.both
    self.register_buffer('order', torch.arange(width).flip(0))
    self.scale = torch.tensor([width ** -0.5])

  def forward(self, images):
    x = F.relu(self.norm(self.stem(images)))
    x = F.adaptive_avg_pool2d(x, 4).flatten(2).transpose(1, 2) * self.place
    x = x + torch.linspace(0, 1, 16)[:, None]
    query, key = self.both(x).chunk(2, -1)
    x = (query @ key.transpose(1, 2) * self.scale).softmax(-1) @ x
    return (x + self.again(x)[..., :x.shape[-1]]).mean(1)[:, self.order]


class Bent(Net):
  def __init__(self, bend, last=lambda x: x):
    super().__init__()
    self.bend, self.last = bend, last

  def forward(self, images):
    return self.last(super().forward(self.bend(images)))


class Stuck(nn.Dropout):
  def train(self, mode=True):
    return super().train(True)


class Chance(Net):
  def __init__(self):
    super().__init__()
    self.scale = torch.rand(1)


def net(width=8):
  return Net(width)


def batch():
  return Bent(nn.BatchNorm2d(3, affine=False, track_running_stats=False))


def stuck():
  return Bent(Stuck())


def chance():
  return Chance()


def dropped():
  return Bent(lambda x: F.dropout(x, 0.5, training=True))


def rrelu():
  return Bent(F.rrelu)


def shape():
  return Bent(nn.Identity(), lambda x: x[..., None])


def pair():
  return Bent(nn.Identity(), lambda x: (x, x))


def by_value():
  return Bent(lambda x: x if x.sum() > 0 else -x)


def none():
  return 7


def broken():
  return Net(width='wide')
"""
_SHOWN = {'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.25, 0.3]}


@pytest.fixture(scope='module')
def torch():
  if importlib.util.find_spec('torchax') is None:
    pytest.skip('torchax is what computes modules of torch')
  return pytest.importorskip('torch', reason='modules of torch are of torch')


@pytest.fixture(scope='module')
def nets(torch, tmp_path_factory):
  """The folder of torch_nets.py, from which modules are imported, and of their weights."""
  folder = tmp_path_factory.mktemp('nets')
  (folder / 'torch_nets.py').write_text(_NETS)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(folder)
    patch.setenv('PYTHONPATH', os.pathsep.join([str(folder), os.environ.get('PYTHONPATH', '')]))
    for width in (8, 12):
      states.write(str(folder / f'{width}.safetensors'), _state(width), {})
    yield folder


def _state(width: int = 8) -> dict[str, np.ndarray]:
  """A state dict of random values."""
  rng = np.random.default_rng(width)
  draw = lambda *shape: rng.normal(0, 0.6, shape).astype(np.float32)
  both = {'weight': draw(2 * width, width), 'bias': draw(2 * width)}
  return {
    'stem.weight': draw(width, 3, 3, 3),
    'norm.weight': 1 + draw(width) / 4,
    'norm.bias': draw(width),
    'norm.running_mean': draw(width),
    'norm.running_var': 1 + draw(width) ** 2,
    'norm.num_batches_tracked': np.array(7),
    'place': 1 + draw(width) / 4,
    # One layer under two names.
    **{f'{name}.{leaf}': value for name in ('both', 'again') for leaf, value in both.items()},
    'order': np.arange(width)[::-1].copy(),
  }


def _add(nets, path, function='net', name='one', **known):
  known = {'size': 16, **_SHOWN} | known
  source = str(known.pop('source', nets / '8.safetensors'))
  return joining.add(path, name, 'torch', source, architecture=f'torch_nets:{function}', **known)


@pytest.fixture(scope='module')
def joined(nets):
  """A pool of two of them, which the command made, and what it said."""
  path = nets / 'pool.json'
  for width in (8, 12):
    with pytest.MonkeyPatch.context() as patch:
      said = f'--pool={path} --module=torch_nets:net --weights={nets}/{width}.safetensors --name=net{width} --size=16'
      shown = '--mean 0.5 0.4 0.3 --std 0.2 0.25 0.3 --interpolation=bicubic --upstream=mine --licence=mit'
      given = ['', *said.split(), *shown.split(), f'--architecture_args={{"width": {width}}}']
      patch.setattr(sys, 'argv', given)
      import_torch.main()
  return path


def test_a_module_joins_and_computes_what_torch_does(nets, joined, torch):
  first, second = pool.read(joined)
  assert (first.name, first.kind, first.architecture, first.weights) == (
    'net8', 'torch', 'torch_nets:net', '8.safetensors',
  )  # fmt: skip
  assert (first.licence, first.interpolation, first.upstream) == ('mit', 'bicubic', 'mine')
  # Convolution, normalisation, dense layer; what asks for no gradient is not trained.
  assert (first.dimension, first.parameters) == (8, 216 + 16 + 144)
  assert (second.dimension, second.parameters) == (12, 324 + 24 + 312)
  trees = torch_modules.load(first, str(nets))
  assert {tree: sorted(leaves) for tree, leaves in trees.items()} == {
    'backbone': ['both.bias', 'both.weight', 'norm.bias', 'norm.weight', 'stem.weight'],
    'statistics': ['norm.running_mean', 'norm.running_var', 'place'],
  }
  images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)
  module = importlib.import_module('torch_nets').Net().eval()
  module.load_state_dict({name: torch.tensor(value) for name, value in _state().items()})
  shown = (images / 255 - _SHOWN['mean']) / _SHOWN['std']
  expected = module(torch.tensor(shown.transpose(0, 3, 1, 2), dtype=torch.float32))
  one = torch_modules.build(torch_modules.describe(first, {}, {}))
  # Of two members at a time, as they train.
  double = lambda scale: {**trees, 'backbone': jax.tree.map(lambda x: scale * x, trees['backbone'])}
  members = jax.tree.map(lambda *leaves: np.stack(leaves), double(2), trees)
  embed = jax.jit(jax.vmap(lambda tree: one.forward(tree, images)[1]))
  found = np.asarray(embed(members))
  np.testing.assert_allclose(found[1], expected.detach(), rtol=1e-5, atol=1e-5)
  assert np.abs(found[0] - found[1]).max() > 0.1


def test_modules_are_ranked_fine_tuned_and_classify(
  nets, joined, data_dir, run_main, pool_config, tmp_path
):
  config = tmp_path / 'config.py'
  config.write_text(pool_config(joined))
  done = run_main(config, tmp_path / 'run')
  assert done.returncode == 0, done.stderr[-3000:]
  scores = pd.read_csv(tmp_path / 'run' / 'scores.csv')
  assert dict(zip(scores.model, scores.kind)) == {'net8': 'torch', 'net12': 'torch'}
  assert sorted(scores['rank']) == [1, 2]
  trials = pd.read_csv(tmp_path / 'run' / 'trials.csv')
  assert trials.groupby(['model', 'split']).size().to_dict() == {
    (f'net{width}', split): 2 for width in (8, 12) for split in ('validation', 'test')
  }
  described = json.loads((tmp_path / 'run/transfer/stripes/model.json').read_text())
  tuned = weights.load(str(tmp_path / 'run/transfer/stripes/model.npz'))
  first = _state(int(described['model'].removeprefix('net')))
  for name in ('norm.running_mean', 'norm.running_var', 'place'):
    np.testing.assert_array_equal(tuned['statistics'][name], first[name])
  assert {name: (leaf != first[name]).any() for name, leaf in tuned['backbone'].items()} == (
    dict.fromkeys(['both.bias', 'both.weight', 'norm.bias', 'norm.weight', 'stem.weight'], True)
  )
  config.write_text('from configs.predict import get_config\n')
  images = f'--config.images={data_dir}/task/test'
  model = f'--config.model={tmp_path}/run/transfer/stripes'
  done = run_main(config, tmp_path / 'out', model, images)
  assert done.returncode == 0, done.stderr[-3000:]
  said = pd.read_csv(tmp_path / 'out' / 'predictions.csv')
  right = np.mean([re.split('/', file)[0] == c for file, c in zip(said.file, said['class'])])
  assert right == pytest.approx(described['test_accuracy'], abs=1e-6)


@pytest.mark.parametrize(
  ('function', 'said'),
  [
    ('rrelu', 'torchax cannot compute it: it has no operator aten::rrelu_with_noise'),
    ('shape', r'it returns float32 \[2, 8, 1\] for 2 images, and must return embeddings, float \[2, D\]'),
    ('pair', 'it returns tuple, and must return one tensor of embeddings'),
    ('batch', 'depends on the other images of the batch'),
    ('stuck', r'stays in training mode after eval\(\): bend \(Stuck\)'),
    ('dropped', 'depends on chance: dropout'),
    ('chance', 'torchax computes other embeddings than torch'),
    ('by_value', '.* aten::_local_scalar_dense: .* depends on the values in a tensor'),
    ('none', 'gives int, no torch.nn.Module'),
    ('broken', "cannot be made: TypeError: "),
    ('absent', r'cannot be imported \(.*absent.*; is its folder in PYTHONPATH\?'),
  ],
)  # fmt: skip
def test_what_is_no_pure_function_of_its_weights_is_refused_in_a_line(
  nets, tmp_path, function, said
):
  with pytest.raises(ValueError) as error:
    _add(nets, tmp_path / 'pool.json', function)
  assert re.match(f'torch_nets:{function}:? .*{said}', str(error.value)), str(error.value)
  assert '\n' not in str(error.value)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  ('planted', 'what'),
  [
    (lambda x: jnp.maximum(x, 1e-2), 'embeddings'),
    (lambda x: jax.lax.stop_gradient(jnp.maximum(x, 0)), 'gradients'),
  ],
)
def test_what_torchax_computes_otherwise_is_refused(
  nets, torch, tmp_path, monkeypatch, planted, what
):
  _, env = bridge.libraries()
  for key in (torch.nn.functional.relu, torch.ops.aten.relu, torch.ops.aten.relu.default):
    if key in env._ops:
      changed = dataclasses.replace(env._ops[key], func=planted, is_jax_function=True)
      monkeypatch.setitem(env._ops, key, changed)
  with pytest.raises(ValueError, match=f'torchax computes other {what} than torch: they differ by'):
    _add(nets, tmp_path / 'pool.json')
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda s: s.pop('stem.weight'), 'not a torch_nets:net: missing: backbone/stem.weight'),
    (lambda s: s.update(extra=np.zeros(2)), 'left over: backbone/extra'),
    (lambda s: s.update({'both.bias': np.zeros(3)}), r'both.bias \(3,\) instead of \(16,\)'),
    (lambda s: s.update(order=np.arange(8)), 'order has other values than the module makes'),
  ],
)
def test_weights_of_another_network_are_refused(nets, tmp_path, change, said):
  state = _state()
  change(state)
  states.write(str(tmp_path / 'a.safetensors'), state, {})
  with pytest.raises(ValueError, match=said):
    _add(nets, tmp_path / 'pool.json', source=tmp_path / 'a.safetensors')
  assert os.listdir(tmp_path) == ['a.safetensors']


def test_other_code_is_another_network(nets, joined):
  member = pool.read(joined)[0]
  file = nets / 'torch_nets.py'
  file.write_text(_NETS.replace('linspace(0, 1, 16)', 'linspace(0, 2, 16)'))
  with pytest.raises(ValueError, match='not the weights, settings or code that the pool lists'):
    torch_modules.load(member, str(nets))
  file.write_text(_NETS)
  torch_modules.load(member, str(nets))


def test_what_is_not_said_or_not_installed_is_named(nets, tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='one: say its size, mean, std'):
    _add(nets, tmp_path / 'pool.json', size=None, mean=None, std=None)
  monkeypatch.setitem(sys.modules, 'torchax', None)
  bridge.libraries.cache_clear()
  with pytest.raises(
    ValueError, match=r"need torch and torchax .*: pip install 'experts\[torch\]'"
  ):
    _add(nets, tmp_path / 'pool.json', arguments={'width': 9})
  assert os.listdir(tmp_path) == []
