"""Embeddings of networks: what shares a pass, and that sharing changes nothing."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from experts.devices import make_mesh
from experts.models import ours, resnet
from experts.selection import networks, pool

_NET = resnet.ResNet(14, 0.0625, 'small')


def _perturb(tree, seed):
  """Random numbers for the zeros of fresh heads, biases and adapters."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: (np.asarray(leaf) + 0.2 * rng.normal(size=leaf.shape)).astype(np.float32), tree
  )


def _network(seed):
  return _perturb(resnet.init(_NET, jax.random.key(seed), 5), seed)


@jax.jit
def _forward(trees, pixels):
  return resnet.forward(_NET, trees, resnet.normalise(pixels))


@pytest.mark.parametrize(('devices', 'groups'), [(1, 1), (8, 1), (8, 4)])
@pytest.mark.parametrize('bank', [False, True])
def test_devices_share_models_and_images(devices, groups, bank):
  number = 2 * groups if bank else groups
  trees = [_network(i) for i in range(number)]
  adapters = [
    _perturb(jax.device_get(resnet.init_adapter(_NET, jax.random.key(i))), i) for i in range(number)
  ]
  stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
  if bank:
    params = {'backbone': trees[0]['backbone'], 'bank': stack(adapters)}
    singles = [{'backbone': trees[0]['backbone'], 'adapter': adapter} for adapter in adapters]
  else:
    params = {'backbone': stack([tree['backbone'] for tree in trees])}
    singles = [{'backbone': tree['backbone']} for tree in trees]
  mesh = make_mesh(groups, jax.devices()[:devices])
  placed = {
    name: jax.device_put(params[name], NamedSharding(mesh, spec))
    for name, spec in networks.placement(params).items()
  }
  pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
  found = networks.embed(ours.Network(_NET), mesh, placed, networks.batches(mesh, pixels, 4), 10)
  assert found.shape == (number, 10, 128)
  for own, single in zip(found, singles):
    expected = _forward(single, pixels)[1]
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


def test_units_share_programs_backbones_and_devices():
  kinds = {'baseline': 'baseline', 'full1': 'full', 'full2': 'full', 'full3': 'full'}
  kinds |= {f'adapter{i}': 'adapter' for i in range(3)}
  kinds |= {'bit': 'bit', 'function': 'callable', 'table': 'embeddings'}
  members = [
    pool.Member(name, kind, '', None, 0, 0, 0, '', '', 'b.npz' if kind == 'adapter' else None)
    for name, kind in kinds.items()
  ]
  names = lambda devices: [
    (' '.join(m.name for m in group), groups) for group, groups in networks.units(members, devices)
  ]
  assert names(1) == [
    ('baseline', 1), ('full1', 1), ('full2', 1), ('full3', 1), ('adapter0 adapter1 adapter2', 1),
    ('bit', 1), ('function', 1), ('table', 1),
  ]  # fmt: skip
  assert names(2) == [
    ('baseline full1', 2), ('full2 full3', 2), ('adapter0 adapter1', 2), ('adapter2', 1),
    ('bit', 1), ('function', 1), ('table', 1),
  ]  # fmt: skip
  bank = [dataclasses.replace(members[4], name=str(i)) for i in range(20)]
  assert [len(group) for group, _ in networks.units(bank, 1)] == [8, 8, 4]


def test_every_process_gets_as_many_models_as_the_next_or_one_more():
  kinds = {'baseline': 'baseline', 'full1': 'full', 'full2': 'full'}
  kinds |= {f'adapter{i}': 'adapter' for i in range(5)} | {'function': 'callable'}
  members = [
    pool.Member(name, kind, '', None, 0, 0, 0, '', '', 'b.npz' if kind == 'adapter' else None)
    for name, kind in kinds.items()
  ]
  names = lambda processes: [
    ' '.join(m.name for m in part) for part in networks.share(members, processes)
  ]
  assert names(1) == [' '.join(kinds)]
  # Who got fewer of one kind gets more of the next.
  assert names(2) == [
    'baseline full1 adapter3 adapter4 function', 'full2 adapter0 adapter1 adapter2',
  ]  # fmt: skip
  assert names(4) == [
    'baseline adapter2 function', 'full1 adapter3', 'full2 adapter4', 'adapter0 adapter1',
  ]  # fmt: skip
  # More processes than models: some have none.
  assert names(10) == [*kinds, '']
