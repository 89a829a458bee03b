"""A kind of network that the program has never seen is a module and a line in a table: ranked, fine-tuned, used."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from experts.models import kinds
from experts.selection import pool
from experts.selection.pool import joining

# Colours of a few patches, through one dense layer: all that the contract asks for, and nothing of a ResNet.
_MODULE = """
import dataclasses, os
import jax, jax.numpy as jnp
import numpy as np
from experts.models import network, weights


@dataclasses.dataclass(frozen=True)
class Patches:
  dimension: int
  dtype: object = jnp.float32
  blocks: int = 0

  def layer(self, path):
    return 0

  def fault(self, side):
    return ''

  def forward(self, params, images):
    patches = jax.image.resize(images / 255.0, (len(images), 4, 4, 3), 'linear').reshape(len(images), 48)
    embedding = jnp.tanh(patches @ params['backbone']['kernel'])
    if 'head' not in params:
      return None, embedding
    return embedding @ params['head']['kernel'] + params['head']['bias'], embedding

  def shapes(self, classes):
    kernel = jax.ShapeDtypeStruct((48, self.dimension), jnp.float32)
    return {'backbone': {'kernel': kernel}, 'head': jax.eval_shape(lambda: network.head(self.dimension, classes))}


find = network.as_given


def load(member, folder):
  return weights.load(os.path.join(folder, member.weights))


def describe(member, settings, params):
  return {'kind': 'toy', 'width': params['backbone']['kernel'].shape[1]}


def build(description, platform=None):
  return Patches(description['width'])


def mismatch(description, params):
  return '' if params['backbone']['kernel'].shape == (48, description['width']) else 'another width'


def examine(member, folder, settings):
  trees = load(member, folder)
  kernel = trees['backbone']['kernel']
  found = {'hash': weights.content_hash(trees), 'parameters': kernel.size, 'dimension': kernel.shape[1]}
  return found, settings
"""
_LINE = "from experts.models import kinds\nkinds.KINDS['toy'] = kinds.Kind('toy_networks')\n"


@pytest.fixture
def toys(tmp_path, monkeypatch):
  """The folder of a pool of two networks of the new kind."""
  (tmp_path / 'toy_networks.py').write_text(_MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  monkeypatch.setitem(kinds.KINDS, 'toy', kinds.Kind('toy_networks'))
  for i, width in enumerate((8, 24)):
    kernel = np.random.default_rng(i).normal(0, 0.5, (48, width)).astype(np.float32)
    np.savez(tmp_path / f'{width}.npz', **{'backbone/kernel': kernel})
    joining.add(tmp_path / 'pool.json', f'toy {width}', 'toy', tmp_path / f'{width}.npz', size=16)
  return tmp_path


def test_a_new_kind_is_ranked_fine_tuned_and_classifies(toys, data_dir, run_main, pool_config):
  assert [(m.name, m.dimension, m.parameters) for m in pool.read(toys / 'pool.json')] == [
    ('toy 8', 8, 384),
    ('toy 24', 24, 1152),
  ]
  config = toys / 'config.py'
  config.write_text(pool_config(toys / 'pool.json', before=_LINE))
  done = run_main(config, toys / 'run')
  assert done.returncode == 0, done.stderr[-3000:]
  scores = pd.read_csv(toys / 'run' / 'scores.csv')
  assert sorted(scores.model) == ['toy 24', 'toy 8']
  assert sorted(scores['rank']) == [1, 2]
  trials = pd.read_csv(toys / 'run' / 'trials.csv')
  # Two learning rates, then two retrains, of each.
  assert trials.groupby(['model', 'split']).size().to_dict() == {
    (f'toy {width}', split): 2 for width in (8, 24) for split in ('validation', 'test')
  }
  described = json.loads((toys / 'run/transfer/stripes/model.json').read_text())
  with np.load(toys / 'run/transfer/stripes/model.npz') as tuned:
    width = tuned['backbone/kernel'].shape[1]
    with np.load(toys / f'{width}.npz') as first:
      # All of it was trained, not the head alone, which starts at zero and passes little on.
      assert (tuned['backbone/kernel'] != first['backbone/kernel']).mean() > 0.5
  assert described['network'] == {
    'kind': 'toy',
    'width': width,
    'size': 16,
    'resize': 16,
    'interpolation': 'bilinear',
    'antialias': False,
    'keep_aspect': False,
  }

  config.write_text(f'{_LINE}from configs.predict import get_config\n')
  images = f'--config.images={data_dir}/task/test'
  done = run_main(config, toys / 'out', f'--config.model={toys}/run/transfer/stripes', images)
  assert done.returncode == 0, done.stderr[-3000:]
  said = pd.read_csv(toys / 'out' / 'predictions.csv')
  right = np.mean([re.split('/', file)[0] == c for file, c in zip(said.file, said['class'])])
  assert right == pytest.approx(described['test_accuracy'], abs=1e-6)
