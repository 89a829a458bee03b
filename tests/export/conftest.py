"""Small networks as transfers leave them, and processes that know of one library alone."""

import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from experts.export import export
from experts.models import fitting, kinds, ours, resnet, timm, tuned, weights
from experts.runs import evaluators
from experts.selection import pool
from experts.selection.pool import joining

_CLASSES = ['ash', 'beech', 'c|d']
_SHOWN = {'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.25, 0.3]}
# timm's import wants torchvision's operators; the build on PyPI may not load beside a CPU build of torch.
_TIMM = """
import torch
if not hasattr(torch.ops.torchvision, 'nms'):
  library = torch.library.Library('torchvision', 'DEF')
  for name in ('nms', 'qnms'):
    library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
import timm
"""
# Both ways of timm to open what left.
_TORCH = """
import json
from PIL import Image

def run(folder, images):
  config = json.load(open(folder + '/config.json'))
  told = {'num_classes': config['num_classes'], **config['model_args']}
  weights = folder + '/model.safetensors'
  loaded = timm.create_model(config['architecture'], checkpoint_path=weights, **told).state_dict()
  model = timm.create_model('local-dir:' + folder, pretrained=True).eval()
  own = model.state_dict()
  assert own.keys() == loaded.keys() and all(torch.equal(own[name], loaded[name]) for name in own)
  transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
  pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
  with torch.inference_mode():
    return model(pixels).softmax(-1).numpy()
"""


def _ours(root='small', adapter=False, **network):
  network = {'depth': 14, 'width': 0.0625, 'root': root, 'dtype': 'float32', **network}
  model = ours.build(network).resnet
  shapes = dict(ours.build(network).shapes(len(_CLASSES)))
  if adapter:
    shapes['adapter'] = jax.eval_shape(lambda: resnet.init_adapter(model, jax.random.key(1)))
  return network, shapes


def _timm(architecture, **arguments):
  network = {
    'kind': 'timm',
    'architecture': architecture,
    'arguments': arguments,
    'dtype': 'float32',
    **_SHOWN,
  }
  return network, dict(kinds.family_of(network).build(network).shapes(len(_CLASSES)))


_VIT = {'embed_dim': 48, 'depth': 2, 'num_heads': 3, 'img_size': 48, 'reg_tokens': 1}
_NETWORKS = {
  'small': lambda: _ours(),
  'imagenet': lambda: _ours('imagenet'),
  'adapter': lambda: _ours(adapter=True),
  'bit': lambda: _ours('imagenet', depth=50, width=1),
  'resnet': lambda: _timm('resnet18', layers=[1, 1, 1, 1], channels=[8, 8, 16, 16]),
  'mobilenet': lambda: _timm('mobilenetv3_small_050'),
  'vit': lambda: _timm('vit_tiny_patch16_224', **_VIT),
  'distilled': lambda: _timm(
    'deit_tiny_distilled_patch16_224', embed_dim=48, depth=1, num_heads=3, img_size=32
  ),
}


def _filled(shapes):
  """Random values of the usual sizes, so that nothing can be left out unseen; probabilities that are not even."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = path[-1].key
    if name in ('scale', 'var'):
      return (1 + 0.2 * np.abs(rng.normal(size=leaf.shape))).astype(np.float32)
    fan = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 25
    return (rng.normal(size=leaf.shape) * 1.5 * fan**-0.5).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, dict(shapes))


def _spread(network, params, images) -> None:
  """Sets the head so that the classes of images differ: logits have a mean of 0 and deviations of about 1."""
  params['head'] = {'kernel': params['head']['kernel'] * 1e-3, 'bias': 0 * params['head']['bias']}
  logits = np.log(_probabilities(network, params, images))
  logits -= logits.mean(1, keepdims=True)
  scale = 1 / logits.std(0).max()
  params['head'] = {
    'kernel': params['head']['kernel'] * scale,
    'bias': (-logits.mean(0) * scale).astype(np.float32),
  }


def _probabilities(network, params, images):
  # As the export itself asks for them: one program.
  with jax.default_matmul_precision('highest'):
    return evaluators.probabilities({**network, 'dtype': 'float32'}, params, images, 16)


def _make(folder: pathlib.Path, name: str, size: int = 32, **more) -> pathlib.Path:
  network, shapes = _NETWORKS[name]()
  params = _filled(shapes)
  view = {'size': size, 'resize': size, 'interpolation': 'bicubic', 'antialias': True}
  _spread({**network, **view}, params, _images(size))
  folder.mkdir(parents=True)
  weights.save(str(folder / 'model.npz'), params)
  described = {
    'task': 'trees',
    'model': 'one',
    'lr': 0.03,
    'steps': 100,
    'test_accuracy': 0.75,
    'classes': _CLASSES,
    'hash': weights.content_hash(params),
    'network': {**network, **view},
    **more,
  }
  (folder / 'model.json').write_text(json.dumps(described))
  return folder


def _expected(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
  one = tuned.read(str(folder), '--model')
  return _probabilities(one.network, one.params, images)


def _alone(folder: pathlib.Path, exports, code: str, absent=('jax',)) -> list[np.ndarray]:
  """What a new process computes, which cannot load some modules.

  Args:
    folder: for its files.
    exports: pairs of a folder and images.
    code: defines run(folder, images) -> probabilities.
    absent: names of modules.
  """
  for i, (_, images) in enumerate(exports):
    np.save(folder / f'images{i}.npy', images)
  program = f"""
import os, sys
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
sys.modules.update(dict.fromkeys({absent!r}))
import numpy as np
{code}
for i, folder in enumerate({[str(where) for where, _ in exports]!r}):
  np.save(f'found{{i}}.npy', run(folder, np.load(f'images{{i}}.npy')))
"""
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return [np.load(folder / f'found{i}.npy') for i in range(len(exports))]


def _compare(folder: pathlib.Path, form: str, networks, code: str, absent, tolerance=1e-4) -> None:
  """Exports networks, names by size, and holds what a process alone makes of them against ours."""
  models = {name: _make(folder / name, name, size) for name, size in networks.items()}
  exports = []
  for name, model in models.items():
    export(str(model), form, str(folder / f'{name}-out'))
    # Another number of images than any that it was made with.
    exports.append((folder / f'{name}-out', _images(networks[name], 7)))
  for (name, model), found, (_, images) in zip(
    models.items(), _alone(folder, exports, code, absent), exports
  ):
    np.testing.assert_allclose(found, _expected(model, images), atol=tolerance, err_msg=name)
    assert found.std(0).max() > 0.1  # Images matter.


def _images(size: int = 32, number: int = 7) -> np.ndarray:
  return fitting.probe(32, size)[::-1][:number]


def _back(folder: pathlib.Path, name: str, size: int) -> pool.Member:
  """What comes back into a pool, if it computes the same."""
  joining.add(folder / 'pool.json', 'back', 'timm', str(folder / f'{name}-out'))
  (read,) = pool.read(folder / 'pool.json')
  params = timm.load(read, str(folder))
  network = timm.build(timm.describe(read, {'dtype': 'float32'}, params))
  logits = jax.jit(network.forward)(params, _images(size))[0]
  np.testing.assert_allclose(
    jax.nn.softmax(logits), _expected(folder / name, _images(size)), atol=1e-4
  )
  return read


@pytest.fixture
def peer():
  """`make` a fine-tuned network, what is `expected` of it, `images`; and see what else there is."""
  return types.SimpleNamespace(
    make=_make,
    expected=_expected,
    images=_images,
    compare=_compare,
    back=_back,
    stub=_TIMM,
    timm=_TIMM + _TORCH,
  )
