"""The lists that ship: each entry is complete, and says of its network what its code and timm say."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from experts.models import fitting, network
from experts.models import timm as ours
from experts.models.timm import architectures, published
from experts.selection import pool
from experts.selection.pool import lists

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FILES = _ROOT / 'experts' / 'selection' / 'pool' / 'shipped'
_LISTS = {path.stem: json.loads(path.read_text()) for path in sorted(_FILES.glob('*.json'))}
_ENTRIES = {
  f'{name}:{entry["name"]}': entry for name, entries in _LISTS.items() for entry in entries
}
_FIELDS = {
  'name', 'hub', 'upstream', 'licence', 'imagenet_accuracy', 'source', 'size', 'parameters', 'gflops', 'notes',
}  # fmt: skip
_IMAGENET = 'ImageNet (ILSVRC-2012)'

every = pytest.mark.parametrize('entry', _ENTRIES.values(), ids=list(_ENTRIES))


@pytest.fixture(scope='module')
def timm():
  """timm, whose import wants torchvision's operators; the build on PyPI may not load beside a CPU build of torch."""
  torch = pytest.importorskip('torch', reason='timm tells what each name stands for')
  library = torch.library.Library('torchvision', 'FRAGMENT')
  if not hasattr(torch.ops.torchvision, 'nms'):
    for name in ('nms', 'qnms'):
      library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
  yield pytest.importorskip('timm', reason='it tells what each name stands for')
  del library  # Which its operators live as long as.


def _of_torch(entry) -> bool:
  return entry.get('kind') == 'torch'


@functools.cache
def _measured(architecture: str, size: int) -> tuple[int, float]:
  """Parameters without the head and GFLOPs of one of our networks, from shapes alone."""
  one = ours.build(
    {'architecture': architecture, 'arguments': {}, 'mean': [0.5] * 3, 'std': [0.5] * 3, 'dtype': 'float32'}
  )  # fmt: skip
  trees = network.own(one.shapes(1))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(trees['backbone']))
  return parameters, fitting.gflops(one, trees, size)


def test_how_many_networks_each_list_has():
  counts = {name: len(entries) for name, entries in _LISTS.items()}
  assert counts == {'modern': 25, 'small': 10, 'which': 15}
  assert lists.shipped() == [*counts]
  for name, entries in _LISTS.items():
    for field in ('name', 'hub'):
      assert len({entry[field] for entry in entries}) == len(entries), (name, field)


@every
def test_an_entry_is_complete(entry):
  assert {*entry} - {'kind', 'architecture'} == _FIELDS
  assert re.fullmatch(r'timm/[a-z0-9_]+\.[a-z0-9_]+', entry['hub'])
  assert entry['upstream']
  assert (entry['imagenet_accuracy'] is None) == (entry['source'] is None)
  assert entry['source'] is None or entry['source'].startswith('https://github.com/huggingface/')
  known = {name for family in architectures.FAMILIES for name in family.ARCHITECTURES}
  assert (entry['name'].partition('.')[0] in known) != _of_torch(entry)


@every
def test_timm_says_the_same_of_an_entry(entry, timm):
  assert entry['name'] in timm.list_pretrained()
  said = timm.get_pretrained_cfg(entry['name'])
  assert said.hf_hub_id == entry['hub']
  assert said.license == entry['licence']
  shown = published.read_config(
    {'architecture': said.architecture, 'pretrained_cfg': said.to_dict()}
  )
  assert shown['size'] == entry['size']
  # The hub's name tells another architecture where one repository is of two.
  repository = entry['hub'].partition('/')[2].partition('.')[0]
  assert entry.get('architecture', repository) == said.architecture
  # What has no classifier of ImageNet has no accuracy there.
  assert (entry['imagenet_accuracy'] is not None) == (said.num_classes == 1000)


@every
def test_the_parameters_and_operations_of_an_entry_are_those_of_its_network(entry, timm):
  architecture = entry['name'].partition('.')[0]
  if not _of_torch(entry):
    parameters, gflops = _measured(architecture, entry['size'])
    assert entry['parameters'] == parameters
    assert entry['gflops'] == pytest.approx(gflops, rel=0.01)
    return
  import torch
  from torch.utils import flop_counter

  with torch.device('meta'), torch.no_grad(), flop_counter.FlopCounterMode(display=False) as count:
    model = timm.create_model(architecture, num_classes=0).eval()
    model(torch.empty(1, 3, entry['size'], entry['size']))
  assert entry['parameters'] == sum(one.numel() for one in model.parameters())
  # torch counts products alone, and also those with the zeros around an image, which the compiler leaves out.
  assert entry['gflops'] == pytest.approx(count.get_total_flops() / 1e9, rel=0.05)


def test_the_limits_of_each_list_hold():
  assert max(entry['parameters'] for entry in _LISTS['small']) <= 30_000_000
  assert max(entry['parameters'] for entry in _LISTS['modern']) <= 100_000_000
  assert {entry['licence'] for entry in _LISTS['small']} <= {'apache-2.0', 'bsd-3-clause', 'mit'}
  # Several upstreams, and no torch needed.
  for name in ('small', 'modern'):
    assert not any(map(_of_torch, _LISTS[name]))
    ways = {entry['notes'].partition(':')[0] for entry in _LISTS[name]}
    assert ways == {'supervised', 'self-supervised', 'image-text'}
  # [WHICH]'s are of ILSVRC-2012 alone, and each has its accuracy there.
  assert {entry['upstream'] for entry in _LISTS['which']} == {_IMAGENET}
  assert all(entry['imagenet_accuracy'] for entry in _LISTS['which'])


@pytest.mark.parametrize(
  ('name', 'accuracy'),
  [
    # Of torchvision's documentation of these weights.
    ('resnet50.tv_in1k', 0.7613),
    ('resnet101.tv_in1k', 0.7737),
    ('resnet152.tv_in1k', 0.7831),
    # Of TF-Slim's table of pre-trained models, of which these are copies.
    ('inception_v3.tf_in1k', 0.780),
    ('inception_v4.tf_in1k', 0.802),
    ('inception_resnet_v2.tf_in1k', 0.804),
    ('nasnetalarge.tf_in1k', 0.827),
    ('pnasnet5large.tf_in1k', 0.829),
  ],
)
def test_accuracies_are_near_what_those_who_trained_the_weights_publish(name, accuracy):
  assert _ENTRIES[f'which:{name}']['imagenet_accuracy'] == pytest.approx(accuracy, abs=0.002)


@pytest.mark.parametrize('name', _LISTS)
def test_a_list_is_read_as_models_to_add(name):
  models = lists.read(name)
  assert [model['source'] for model in models] == [
    f'hf-hub:{entry["hub"]}' for entry in _LISTS[name]
  ]
  assert [model['kind'] for model in models] == [
    entry.get('kind', 'timm') for entry in _LISTS[name]
  ]
  forbidden = {'cc-by-nc-4.0'} if name == 'modern' else set()
  members = [
    pool.Member(m['name'], m['kind'], m['upstream'], None, 0, 0, 0, '', '', licence=m['licence'])
    for m in models
  ]
  assert {member.licence for member in members if not member.commercial} == forbidden


def test_without_network_one_line_says_what_to_bring_and_where_to(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'experts.selection.pool', 'add', '--pool=pool.json', '--list=small'],
    cwd=tmp_path,
    env={
      **os.environ,
      'PYTHONPATH': str(_ROOT),
      'HF_HOME': str(tmp_path / 'home'),
      'HF_HUB_OFFLINE': '1',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stdout) == (1, '')
  (line,) = done.stderr.splitlines()
  first = _LISTS['small'][0]['hub']
  assert f'bring config.json and model.safetensors of https://huggingface.co/{first} in' in line
  assert line.endswith(f'where the pool file is, as {first}')
  assert not [*tmp_path.rglob('*.json')]
