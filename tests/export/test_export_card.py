"""The card says where a network comes from, as its workdir tells it, and the export is checked on the task's own images."""

import json
import re
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from configs import common
from experts.export import export
from experts.models import fitting
from experts.selection import pool

_TRUE = {'ash': (9, 1, 0), 'beech': (2, 8, 0), 'c|d': (0, 0, 10)}


@pytest.fixture
def workdir(tmp_path, peer, monkeypatch):
  """What a run leaves, and the images that it was about."""
  monkeypatch.setitem(sys.modules, 'timm', None)  # Quicker without torch.
  folder = tmp_path / 'run'
  model = peer.make(folder / 'transfer' / 'trees', 'resnet', test_accuracy=0.9)
  rng = np.random.default_rng(0)
  for name in _TRUE:
    (tmp_path / 'images' / name).mkdir(parents=True)
    for i in range(10):
      pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
      cv2.imwrite(str(tmp_path / 'images' / name / f'{i}.png'), pixels)
  task = common.task('images:images', test='', train_images=0, validation_images=0)
  config = {'seed': 0, 'pool': str(tmp_path / 'pool.json'), 'tasks': {'trees': task}}
  (folder / 'phases').mkdir()
  (folder / 'phases' / 'transfer.json').write_text(json.dumps({'config': config}))
  member = pool.Member(
    'one', 'timm', 'ImageNet-21k', None, 0, 1, 16, 'a.safetensors', 'h4sh', size=32, licence='mit',
    architecture='resnet18', mean=[0.5] * 3, std=[0.5] * 3,
  )  # fmt: skip
  pool.write(tmp_path / 'pool.json', [member], {})
  scores = [
    ('one', 'knn', 0.75, 0.5, 0.9),
    ('two', 'knn', 0.8, 0.6, 0.95),
    ('one', 'leep', -0.5, np.nan, np.nan),
  ]
  table = pd.DataFrame(scores, columns=['model', 'strategy', 'score', 'low', 'high'])
  table.assign(task='trees', kind='timm').to_csv(folder / 'scores.csv', index=False)
  tasks = pd.DataFrame([{'task': 'trees', 'data': 'images:images', 'version': '', 'fit': 20}])
  tasks.to_csv(folder / 'tasks.csv', index=False)
  confusion = pd.DataFrame(_TRUE, index=list(_TRUE)).T.rename_axis('true class')
  confusion.reset_index().to_csv(model / 'confusion.csv', index=False)
  return folder


def _card(out):
  text = (out / 'README.md').read_text()
  assert text.startswith('---\nlibrary_name: timm\n')
  return text


def test_a_card_says_where_a_network_comes_from(tmp_path, workdir):
  check = export(f'{workdir}/transfer/trees', 'timm', str(tmp_path / 'out'), str(tmp_path))
  assert check.images == '6 test images of the task'  # A fifth of 30.
  text = _card(tmp_path / 'out')
  assert '\nlicense: mit\n' in text
  assert '# one, fine-tuned on trees' in text
  assert '- trained on: ImageNet-21k\n' in text
  assert '- licence of its weights: mit\n' in text
  assert '- images to train: 20\n' in text
  row = lambda *cells: re.search(r'\| *' + r' *\| *'.join(map(re.escape, cells)) + r' *\|', text)
  assert row('knn', '0.75', '0.5 to 0.9', '2 of 2')
  assert row('leep', '-0.5', '', '1 of 1')
  # 27 of 30; Wilson's interval by Newcombe's formula.
  z, p, n = 1.959964, 0.9, 30
  middle, half = (p + z * z / 2 / n), z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
  ends = [(middle + side * half) / (1 + z * z / n) for side in (-1, 1)]
  assert f'an accuracy of 0.9000, 95 % interval {ends[0]:.4f} to {ends[1]:.4f}' in text
  assert row('beech', '10', '0.8000')
  assert row('beech', '2', '8', '0')
  assert row(r'c\|d', '10', '1.0000')
  assert '- lr: 0.03\n- steps: 100' in text
  assert 'resized to 32 × 32 pixels, whatever its aspect: bicubic, with antialias' in text
  assert 'on 6 test images of the task' in text


def test_without_its_workdir_what_is_unknown_is_said(tmp_path, workdir):
  (workdir / 'transfer' / 'trees').rename(tmp_path / 'alone')
  (tmp_path / 'alone' / 'confusion.csv').unlink()
  check = export(str(tmp_path / 'alone'), 'timm', str(tmp_path / 'out'))
  assert check.images == '32 images with coarse and fine structure'
  text = _card(tmp_path / 'out')
  assert 'license:' not in text
  assert 'The licence of the weights that it was fine-tuned from is not known here' in text
  assert 'accuracy on the test images: 0.9000.' in text
  assert 'there is no ranking beside it' in text


def test_images_that_are_gone_are_replaced_by_fixed_ones(tmp_path, workdir):
  (tmp_path / 'images').rename(tmp_path / 'moved')
  check = export(f'{workdir}/transfer/trees', 'timm', str(tmp_path / 'out'), str(tmp_path))
  assert check.images == '32 images with coarse and fine structure'


@pytest.mark.parametrize('size', [16, 33])
def test_fixed_images_are_always_the_same_and_have_structure(size):
  images = fitting.probe(32, size)
  assert images.shape == (32, size, size, 3)
  np.testing.assert_array_equal(images, fitting.probe(32, size))
  assert images.std((1, 2)).min() > 20
