"""Networks of timm join a pool from files, folders and the hub, are ranked and fine-tuned, and classify; no torch."""

import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from concurrent import futures

import cv2
import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experts.data import transforms
from experts.models import timm, weights
from experts.models.network import View
from experts.models.timm import architectures, published, states, tensors
from experts.selection import embed, pool
from experts.selection.pool import joining, lists

# A ResNet of four blocks, 16 to 32 wide.
_NET = {'layers': [1, 1, 1, 1], 'channels': [8, 8, 16, 16]}
_SHOWN = {'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.25, 0.3]}


def _state(seed: int = 0, classes: int = 5) -> dict[str, np.ndarray]:
  """A state dict of random values."""
  rng = np.random.default_rng(seed)
  _, settings = architectures.find('resnet18', _NET)
  one = timm.build({'architecture': 'resnet18', 'arguments': _NET, 'dtype': 'float32', **_SHOWN})
  draw = lambda leaf: (rng.normal(0, 1, leaf.shape) * _scale(leaf.shape)).astype(np.float32)
  trees = jax.tree.map(draw, dict(one.shapes(classes)))
  for leaves in trees['statistics'].values():
    leaves['var'] = 1 + np.abs(leaves['var'])
  return tensors.to_state(trees, one.family.head(settings)) | {
    'bn1.num_batches_tracked': np.array(7)
  }


def _scale(shape) -> float:
  return np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.5


def _folder(path, seed=0, **changes):
  """What the hub has of a network."""
  path.mkdir(parents=True)
  shown = {'input_size': [3, 24, 24], 'crop_pct': 0.75, 'interpolation': 'bicubic', **_SHOWN}
  config = {
    'architecture': 'resnet18',
    'num_classes': 5,
    'model_args': _NET,
    'label_names': [*'abcde'],
    'pretrained_cfg': {'tag': 'a1_in1k', **shown},
    **changes,
  }
  (path / 'config.json').write_text(json.dumps(config))
  (path / 'README.md').write_text('---\ntags:\n- timm\nlicense: mit\n---\n# A network\n')
  states.write(str(path / 'model.safetensors'), _state(seed), {'format': 'pt'})
  return path


def _add(path, source, **known):
  return joining.add(
    path,
    'one',
    'timm',
    str(source),
    architecture='resnet18',
    arguments=_NET,
    size=24,
    **_SHOWN,
    **known,
  )


def test_a_folder_tells_all_that_the_hub_publishes(tmp_path):
  source = _folder(tmp_path / 'net')
  member = joining.add(tmp_path / 'pool.json', 'one', 'timm', str(source))
  assert (member.architecture, member.arguments, member.upstream) == (
    'resnet18', _NET, 'ImageNet (ILSVRC-2012)',
  )  # fmt: skip
  # 24 / 0.75 before the crop, the aspect kept, as torchvision resizes.
  assert embed.preprocessing(member, {}) == View(24, 32, 'bicubic', True, True)
  assert (member.licence, member.weights) == (
    'mit', 'net/model.safetensors',
  )  # fmt: skip
  assert member.dimension == 16
  backbone = [v.size for k, v in _state().items() if not re.search('running|num_b|fc', k)]
  assert member.parameters == sum(backbone)
  assert pool.read(tmp_path / 'pool.json') == [member]
  # What is said goes before what is published.
  other = joining.add(
    tmp_path / 'pool.json', 'two', 'timm', str(source), licence='mine', size=16, resize=16
  )
  assert (other.licence, other.size, other.hash) == ('mine', 16, member.hash)


def test_what_is_shown_to_a_network_is_what_torchvision_would_show(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)
  resized = Image.fromarray(image).resize((49, 32), Image.Resampling.BICUBIC)  # int(32 * 70 / 45)
  expected = np.asarray(resized)[4:28, 12:36]  # (32 - 24) / 2, round((49 - 24) / 2)
  np.testing.assert_array_equal(transforms.Resize(24, 32, 'bicubic', True)(image), expected)
  np.testing.assert_array_equal(
    transforms.Resize(24, 0, 'bicubic')(image),
    cv2.resize(image, (24, 24), interpolation=cv2.INTER_CUBIC),
  )
  with pytest.raises(ValueError, match='central'):
    transforms.Transform(24, 32, 'random', keep_aspect=True)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda s: s.pop('layer3.0.conv2.weight'), r'missing: backbone/layer3.0.conv2/kernel;.* a ResNet of \[1, 1, 1, 1\] blocks'),
    (lambda s: s.update(extra=np.zeros(2)), 'left over: backbone/extra;'),
    (lambda s: s.update({'fc.weight': s['fc.weight'], 'bn1.weight': np.zeros(3)}), r'bn1/scale \(3,\) instead of \(64,\)'),
  ],
)  # fmt: skip
def test_weights_of_another_network_are_refused(tmp_path, change, said):
  state = _state()
  change(state)
  states.write(str(tmp_path / 'a.safetensors'), state, {})
  with pytest.raises(ValueError, match=said):
    _add(tmp_path / 'pool.json', tmp_path / 'a.safetensors')
  assert not (tmp_path / 'pool.json').exists()


def test_what_cannot_be_a_network_is_one_line(tmp_path):
  (tmp_path / 'a.pkl').write_bytes(b'\x80\x04N.')
  (tmp_path / 'a.safetensors').write_bytes(b'cut')
  (tmp_path / 'a.pth').write_bytes(b'\x80\x04cos\nsystem\n.')
  for file, said in (
    ('a.pkl', 'pickles, are not read'),
    ('a.safetensors', 'no complete .safetensors'),
    ('b.safetensors', 'there is no file'),
    ('a.pth', 'would run code|file of torch'),
  ):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
      _add(tmp_path / 'pool.json', tmp_path / file)
  states.write(str(tmp_path / 'a.safetensors'), _state(), {})
  add = lambda **given: joining.add(
    tmp_path / 'pool.json', 'one', 'timm', str(tmp_path / 'a.safetensors'), **given
  )
  with pytest.raises(ValueError, match='say its architecture, size, mean, std'):
    add()
  with pytest.raises(ValueError, match=r"unknown architecture 'resnet81'; near it: resnet18"):
    add(architecture='resnet81', size=24, **_SHOWN)
  with pytest.raises(ValueError, match=r'architecture resnet18: .*depth'):
    add(architecture='resnet18', arguments={'depth': 3}, size=24, **_SHOWN)
  assert not (tmp_path / 'pool.json').exists()


def test_a_state_dict_of_torch_is_read_without_running_what_it_says(tmp_path):
  torch = pytest.importorskip('torch', reason='a file of torch is read by torch')
  state = {name: torch.from_numpy(np.array(value)) for name, value in _state().items()}
  torch.save({'epoch': 3, 'state_dict': state}, tmp_path / 'a.pth')
  states.write(str(tmp_path / 'a.safetensors'), _state(), {})
  one = _add(tmp_path / 'a.json', tmp_path / 'a.pth')
  assert one.hash == _add(tmp_path / 'b.json', tmp_path / 'a.safetensors').hash


def test_other_settings_of_the_same_weights_are_another_network(tmp_path):
  states.write(str(tmp_path / 'a.safetensors'), _state(), {})
  path = tmp_path / 'pool.json'
  member = _add(path, tmp_path / 'a.safetensors')
  content = json.loads(path.read_text())
  content['members'][0]['std'] = [0.2, 0.2, 0.2]
  path.write_text(json.dumps(content))
  (changed,) = pool.read(path)
  assert changed.hash == member.hash
  with pytest.raises(ValueError, match='not the weights or settings that the pool lists'):
    timm.load(changed, str(tmp_path))


def _command(*arguments, **environment):
  return subprocess.run(
    [sys.executable, '-m', *arguments],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=False,
  )


def _cache(home, name, revision='0123456789abcdef0123456789abcdef01234567'):
  """The hub's cache as its library lays it."""
  where = home / 'hub' / f'models--timm--{name}'
  _folder(where / 'snapshots' / revision)
  (where / 'refs').mkdir()
  (where / 'refs' / 'main').write_text(revision)


def test_the_hub_is_read_from_its_cache_and_what_is_not_there_is_said(tmp_path):
  _cache(tmp_path / 'home', 'tiny.a1_in1k')
  add = ('experts.selection.pool', 'add', f'--pool={tmp_path}/pool.json')
  offline = {'HF_HOME': str(tmp_path / 'home'), 'HF_HUB_OFFLINE': '1'}
  done = _command(*add, '--weights=hf-hub:timm/tiny.a1_in1k', **offline)
  assert done.returncode == 0, done.stderr
  (member,) = pool.read(tmp_path / 'pool.json')
  assert (member.name, member.kind, member.licence) == ('tiny.a1_in1k', 'timm', 'mit')
  assert 'GFLOPs an image, licence mit' in done.stdout
  assert (tmp_path / member.weights).exists()
  done = _command(*add, '--weights=hf-hub:timm/other', **offline)
  assert done.returncode == 1
  assert (
    'bring config.json and model.safetensors of https://huggingface.co/timm/other in a folder, and name it as '
    '--weights=FOLDER;'
  ) in done.stderr.splitlines()[-1]
  assert 'Traceback' not in done.stderr


def test_the_hub_is_asked_where_it_is_said_to_be(tmp_path):
  source = _folder(tmp_path / 'net')

  class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
      name = self.path.rpartition('/')[2]
      found = source / name
      if '/timm/net/resolve/main/' not in self.path or not found.exists():
        self.send_response(404)
        self.send_header(
          'X-Error-Code', 'RepoNotFound' if '/timm/net/' not in self.path else 'EntryNotFound'
        )
        self.end_headers()
        return None
      self.send_response(200)
      self.send_header('ETag', f'"{name}"')
      self.send_header('X-Repo-Commit', 'f' * 40)
      self.send_header('Content-Length', str(found.stat().st_size))
      self.end_headers()
      return found

    def do_GET(self):
      if found := self.do_HEAD():
        self.wfile.write(found.read_bytes())

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  online = {
    'HF_HOME': str(tmp_path / 'home'),
    'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
  }
  add = ('experts.selection.pool', 'add', f'--pool={tmp_path}/pool.json')
  done = _command(*add, '--weights=hf-hub:timm/net', **online)
  assert done.returncode == 0, done.stderr
  assert pool.read(tmp_path / 'pool.json')[0].name == 'net'
  done = _command(*add, '--weights=hf-hub:timm/none', **online)
  assert 'the hub has no timm/none, or it is not public' in done.stderr.splitlines()[-1]
  server.shutdown()


def test_a_list_joins_whole_or_not_at_all(tmp_path):
  path, listed = tmp_path / 'pool.json', tmp_path / 'models.json'
  entries = []
  for i, name in enumerate('ab'):
    states.write(str(tmp_path / f'{name}.safetensors'), _state(i), {})
    entries.append(
      {
        'name': name,
        'file': f'{name}.safetensors',
        'architecture': 'resnet18',
        'kwargs': _NET,
        'size': 24,
        'imagenet_accuracy': None if i else 0.5,
        'parameters': 1,
        **_SHOWN,
      }
    )
  listed.write_text(json.dumps([*entries, {**entries[0], 'name': 'c', 'architecture': 'resnet19'}]))
  with pytest.raises(ValueError, match="'resnet19'"):
    joining.add_all(path, lists.read(str(listed)))
  assert not path.exists()
  listed.write_text(json.dumps(entries[:1]))
  joining.add_all(path, lists.read(str(listed)))
  listed.write_text(json.dumps(entries))
  found = joining.add_all(path, lists.read(str(listed)))
  assert [(member.name, same) for member, same in found] == [('a', True), ('b', False)]
  assert [(m.name, m.imagenet_accuracy) for m in pool.read(path)] == [('a', 0.5), ('b', None)]
  listed.write_text(json.dumps([{**entries[0], 'sha256': '0' * 64}]))
  with pytest.raises(ValueError, match='sha256 differs'):
    lists.read(str(listed))
  listed.write_text(json.dumps([{**entries[0], 'licnce': 'MIT'}]))
  with pytest.raises(ValueError, match='unknown fields licnce'):
    lists.read(str(listed))
  with pytest.raises(FileNotFoundError, match='no list nothing'):
    lists.read('nothing')


@pytest.mark.parametrize('kind', ['timm', 'torch'])
def test_a_list_takes_a_repository_that_was_brought_as_a_folder(tmp_path, kind, request):
  if kind == 'torch':
    if importlib.util.find_spec('torchax') is None:
      pytest.skip('networks of torch are computed by torchax')
    request.getfixturevalue('timm_peer').meta_state('resnet18')  # Which imports timm.
  _folder(tmp_path / 'pools' / 'timm' / 'tiny.a1_in1k')
  entry = {'name': 'tiny', 'hub': 'timm/tiny.a1_in1k', 'kind': kind, 'imagenet_accuracy': 0.5}
  (tmp_path / 'models.json').write_text(json.dumps([entry]))
  models = lists.read(str(tmp_path / 'models.json'), tmp_path / 'pools')
  ((member, _),) = joining.add_all(tmp_path / 'pools' / 'pool.json', models)
  assert (member.kind, member.weights) == (kind, 'timm/tiny.a1_in1k/model.safetensors')
  assert (member.imagenet_accuracy, member.upstream) == (0.5, 'ImageNet (ILSVRC-2012)')
  # The hub has what was not brought.
  (given,) = lists.read(str(tmp_path / 'models.json'), tmp_path)
  assert given['source'] == 'hf-hub:timm/tiny.a1_in1k'


@pytest.mark.parametrize(
  ('tag', 'upstream'),
  [
    ('laion2b_ft_in12k_in1k', 'LAION-2B'),
    ('openai_ft_in1k', 'WebImageText'),
    ('sw_in12k_ft_in1k', 'ImageNet-12k'),
    ('a1_in1k', 'ImageNet (ILSVRC-2012)'),
    ('dino', ''),
  ],
)
def test_the_upstream_is_what_weights_were_trained_on_first(tag, upstream):
  assert published.upstream(tag) == upstream


def test_networks_of_timm_are_ranked_fine_tuned_and_classify(
  tmp_path, data_dir, run_main, pool_config
):
  for i in range(2):
    source = _folder(tmp_path / f'net{i}', i)
    joining.add(tmp_path / 'pool.json', f'net{i}', 'timm', str(source))
  (tmp_path / 'config.py').write_text(
    pool_config(tmp_path / 'pool.json', learning_rates=(2.0, 1.0))
  )
  done = run_main(tmp_path / 'config.py', tmp_path / 'run', '--config.strategy=knn,leep')
  assert done.returncode == 0, done.stderr[-3000:]
  scores = pd.read_csv(tmp_path / 'run' / 'scores.csv')
  # Their heads are what LEEP looks at.
  assert scores.groupby('strategy').score.count().to_dict() == {'knn': 2, 'leep': 2}
  trials = pd.read_csv(tmp_path / 'run' / 'trials.csv')
  assert trials.groupby(['model', 'split']).size().to_dict() == {
    (f'net{i}', split): 2 for i in range(2) for split in ('validation', 'test')
  }
  described = json.loads((tmp_path / 'run/transfer/stripes/model.json').read_text())
  tuned = weights.load(str(tmp_path / 'run/transfer/stripes/model.npz'))
  first = tensors.to_trees(_state(int(described['model'][-1])), 'fc')
  # All but the statistics was trained.
  jax.tree.map(np.testing.assert_array_equal, tuned['statistics'], first['statistics'])
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), tuned['backbone'], first['backbone'])
  assert all(jax.tree.leaves(moved))
  network = described['network']
  assert (network['architecture'], network['size'], network['interpolation']) == (
    'resnet18', 24, 'bicubic',
  )  # fmt: skip
  (tmp_path / 'config.py').write_text('from configs.predict import get_config\n')
  images = f'--config.images={data_dir}/task/test'
  done = run_main(
    tmp_path / 'config.py', tmp_path / 'out', f'--config.model={tmp_path}/run/transfer/stripes', images
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  said = pd.read_csv(tmp_path / 'out' / 'predictions.csv')
  right = np.mean([re.split('/', file)[0] == c for file, c in zip(said.file, said['class'])])
  assert right == pytest.approx(described['test_accuracy'], abs=1e-6)


@pytest.mark.parametrize(
  ('card', 'licence', 'commercial'),
  [
    ('license: mit\n', 'mit', True),
    ('license: other\nlicense_name: fair-noncommercial\n', 'fair-noncommercial', False),
    ('license: cc-by-nc-4.0\n', 'cc-by-nc-4.0', False),
    ('license:\n- mit\n', 'mit', True),
    ('license: "CC_BY_NC-4.0"\n', 'CC_BY_NC-4.0', False),
    ('tags:\n- timm\n', None, True),
  ],
)
def test_a_licence_is_that_of_the_card_by_its_name(tmp_path, card, licence, commercial):
  source = _folder(tmp_path / 'net')
  (source / 'README.md').write_text(f'---\n{card}---\n# A network\n')
  member = joining.add(tmp_path / 'pool.json', 'one', 'timm', str(source))
  assert (member.licence, member.commercial) == (licence, commercial)


def test_what_a_pool_or_list_says_wrongly_is_named(tmp_path):
  source = str(_folder(tmp_path / 'net'))
  path = tmp_path / 'pool.json'
  for given, said in (
    ({'kind': 'tim'}, "unknown kind 'tim'"),
    ({'kind': 'timm', 'size': '24'}, "size '24' must be"),
    ({'kind': 'timm', 'mean': [0.5, 'a', 0.5]}, 'mean .* must be three numbers'),
  ):
    with pytest.raises(ValueError, match=said):
      joining.add(path, 'one', source=source, **given)
  joining.add(path, 'one', 'timm', source)
  content = json.loads(path.read_text())
  del content['members'][0]['mean']
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match='needs architecture, mean and std'):
    pool.read(path)


def test_a_head_that_is_damaged_is_refused(tmp_path):
  for change in (
    lambda s: s.update({'fc.weight': s['fc.weight'][:, :9]}),
    lambda s: s.update({'fc.bias': s['fc.bias'][:3]}),
    lambda s: s.pop('fc.weight'),
  ):
    state = _state()
    change(state)
    states.write(str(tmp_path / 'a.safetensors'), state, {})
    with pytest.raises(ValueError, match='head/kernel'):
      _add(tmp_path / 'pool.json', tmp_path / 'a.safetensors')
  # One without a bias is one of zeros.
  state = _state()
  del state['fc.bias']
  states.write(str(tmp_path / 'a.safetensors'), state, {})
  member = _add(tmp_path / 'pool.json', tmp_path / 'a.safetensors')
  assert not timm.load(member, str(tmp_path))['head']['bias'].any()


@pytest.mark.parametrize(
  ('shown', 'said'),
  [
    ({'crop_mode': 'border', 'crop_pct': 1.0}, "crop_mode 'border' is not supported"),
    ({'input_size': [3, 32, 24]}, 'not square ones of three channels'),
    ({'input_size': [1, 24, 24]}, 'not square ones of three channels'),
  ],
)
def test_images_that_nothing_here_can_show_are_refused(tmp_path, shown, said):
  source = _folder(tmp_path / 'net')
  config = json.loads((source / 'config.json').read_text())
  config['pretrained_cfg'] |= shown
  (source / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=said):
    joining.add(tmp_path / 'pool.json', 'one', 'timm', str(source))


def test_another_size_keeps_the_published_share_of_the_image(tmp_path):
  source = str(_folder(tmp_path / 'net'))
  member = joining.add(tmp_path / 'pool.json', 'one', 'timm', source, size=48)
  assert (member.size, member.resize) == (48, 64)


def test_commands_that_add_at_once_lose_nothing(tmp_path):
  source = _folder(tmp_path / 'net')
  (tmp_path / 'link').symlink_to(tmp_path / 'net')
  pools = tmp_path / 'pools' / 'deep'
  pools.mkdir(parents=True)
  (tmp_path / 'here').symlink_to(pools)
  add = lambda name: joining.add(tmp_path / 'here/pool.json', name, 'timm', str(tmp_path / 'link'))
  with futures.ThreadPoolExecutor(3) as threads:
    list(threads.map(add, 'abc'))
  members = pool.read(pools / 'pool.json')
  assert sorted(member.name for member in members) == ['a', 'b', 'c']
  for member in members:
    assert (pools / member.weights).resolve() == (source / 'model.safetensors').resolve()


def test_a_list_that_says_otherwise_of_what_is_there_is_refused(tmp_path):
  states.write(str(tmp_path / 'a.safetensors'), _state(), {})
  entry = {'name': 'a', 'file': 'a.safetensors', 'architecture': 'resnet18', 'kwargs': _NET, 'size': 24, **_SHOWN}  # fmt: skip
  listed, path = tmp_path / 'models.json', tmp_path / 'pool.json'
  listed.write_text(json.dumps([entry]))
  joining.add_all(path, lists.read(str(listed)))
  listed.write_text(json.dumps([{**entry, 'licence': 'mit'}]))
  with pytest.raises(ValueError, match="has 'a' with another licence"):
    joining.add_all(path, lists.read(str(listed)))
  for changed in ({'crop': 0}, {'file': 5}, {'name': None}):
    listed.write_text(json.dumps([{**entry, **changed}]))
    with pytest.raises(ValueError, match=r'must be a share|each a text'):
      lists.read(str(listed))
