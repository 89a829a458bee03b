"""Adding models to a pool file: what the weights tell is filled in, what they do not is asked for."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from experts.models import resnet, weights
from experts.selection import pool
from experts.selection.pool import joining

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_NET = resnet.ResNet(14, 0.0625, 'small')


def _parameters(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope='module')
def trees():
  params = jax.device_get(resnet.init(_NET, jax.random.key(0), 5))
  adapter = {'adapter': jax.device_get(resnet.init_adapter(_NET, jax.random.key(1)))}
  return params, adapter


@pytest.fixture
def folder(tmp_path, trees):
  """Weights, in a folder beside the pool's."""
  folder = tmp_path / 'weights'
  folder.mkdir()
  weights.save(folder / 'own.npz', trees[0])
  weights.save(folder / 'adapter.npz', trees[1])
  weights.save_bit(folder / 'bit.npz', trees[0])
  np.savez(folder / 'table.npz', task=np.ones((4, 3)))
  np.savez(folder / 'uneven.npz', task=np.ones((4, 3)), other=np.ones((4, 2)))
  (tmp_path / 'pool').mkdir()
  return folder


def test_own_networks_fill_in_the_pools_model(folder, trees):
  path = folder.parent / 'pool' / 'pool.json'
  joining.add(path, 'own', 'baseline', folder / 'own.npz', size=16, resize=20, upstream='x')
  joining.add(path, 'small', 'adapter', folder / 'adapter.npz', folder / 'own.npz')
  own, small = pool.read(path)
  assert pool.read_model(path) == {
    'depth': 14, 'width': 0.0625, 'root': 'small', 'dtype': 'auto', 'size': 16, 'resize': 20,
  }  # fmt: skip
  assert own == pool.Member(
    'own', 'baseline', 'x', None, 0, _parameters(trees[0]['backbone']), 128, '../weights/own.npz',
    weights.content_hash(trees[0]), size=16, resize=20,
  )  # fmt: skip
  assert (small.weights, small.backbone) == ('../weights/adapter.npz', '../weights/own.npz')
  assert small.parameters == own.parameters + _parameters(trees[1])
  assert small.hash == weights.content_hash(trees[1])
  assert small.trained_from == own.hash


def test_a_network_unlike_the_pools_is_refused(folder):
  path = folder.parent / 'pool.json'
  with pytest.raises(ValueError, match='first network of a pool needs the size of its images'):
    joining.add(path, 'own', 'baseline', folder / 'own.npz')
  joining.add(path, 'own', 'baseline', folder / 'own.npz', size=16)
  other = jax.device_get(resnet.init(resnet.ResNet(14, 0.125, 'small'), jax.random.key(0), 5))
  weights.save(folder / 'other.npz', other)
  with pytest.raises(ValueError, match=r"'width': 0.125.* but the pool has \{'width': 0.0625\}"):
    joining.add(path, 'other', 'full', folder / 'other.npz')
  assert [member.name for member in pool.read(path)] == ['own']


def test_bit_needs_no_model(folder, trees):
  path = folder.parent / 'pool.json'
  joining.add(path, 'BiT', 'bit', folder / 'bit.npz', size=32, imagenet_accuracy=0.5)
  (member,) = pool.read(path)
  assert pool.read_model(path) == {}
  # The same as that of our own file of the same weights.
  assert member.hash == weights.content_hash(trees[0])
  assert (member.dimension, member.size, member.imagenet_accuracy) == (128, 32, 0.5)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('a', 'callable', 'numpy:nothing'), 'a: the size of its images must be given'),
    (('a', 'embeddings', 'table.npz'), 'do not tell how many parameters it has; give `parameters`'),
    (('a', 'embeddings', 'uneven.npz'), 'of one dimension, not'),
    (('a', 'bit', 'own.npz'), 'not a ResNet'),
    (('taken', 'embeddings', 'table.npz', None, 3), 'several members named taken'),
  ],
)
def test_what_cannot_be_added_is_said_and_the_pool_stays(folder, arguments, message):
  path = folder / 'pool.json'
  joining.add(path, 'taken', 'embeddings', folder / 'table.npz', parameters=3)
  before = path.read_text()
  name, kind, source, *rest = arguments
  source = source if kind == 'callable' else folder / source
  with pytest.raises(ValueError, match=message):
    joining.add(path, name, kind, source, *rest)
  assert path.read_text() == before


def test_missing_weights_are_named(folder):
  for kind in ('full', 'bit', 'saved_model', 'embeddings'):
    with pytest.raises(FileNotFoundError, match=r"no weights of 'a' at .*gone"):
      joining.add(folder / 'pool.json', 'a', kind, folder / 'gone', size=8)


def test_command_line(folder):
  def run(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'experts.selection.pool', *arguments, '--pool=pool/pool.json'],
      cwd=folder.parent,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      capture_output=True,
      text=True,
      check=False,
    )

  add = ('add', '--name=ours', '--kind=embeddings', '--weights=weights/table.npz', '--upstream=x')
  done = run(*add, '--parameters=1234567')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    'ours: embeddings, 1,234,567 parameters, dimension 3',
    'pool/pool.json: added 1',
  ]
  (member,) = pool.read(folder.parent / 'pool' / 'pool.json')
  assert dataclasses.replace(member, hash='') == pool.Member(
    'ours', 'embeddings', 'x', None, 0, 1234567, 3, '../weights/table.npz', ''
  )
  (row,) = [line for line in run('list').stdout.splitlines() if 'ours' in line]
  assert [cell.strip() for cell in row.split('|')[1:8]] == [
    'ours', 'embeddings', 'x', '', '1,234,567', '', '3',
  ]  # fmt: skip
  assert run(*add).stderr.strip().endswith('has; give `parameters`')
