"""Published experts: SavedModels in their form become a pool that is ranked, or nothing."""

import contextlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pandas as pd
import pytest

from experts import entry
from experts.models import import_hub as hub_command
from experts.models import kinds, weights
from experts.selection import pool
from experts.selection.pool import converting

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_VALUE = '/.ATTRIBUTES/VARIABLE_VALUE'
_KERNEL = 'resnet/block2/unit01/b/standardized_conv2d/kernel'
_CONFIG = """
from configs import common, vtab_knn

def get_config():
  config = vtab_knn.get_config('dtd')
  config.phases = ('select',)
  config.run.update(evaluation_batch=16, tensorboard=False, embedding_cache='')
  config.tasks = {{'stripes': common.task('images:task', train_images=0, validation_images=8)}}
  config.data_dir = {data!r}
  return config
"""


def _arrays(seed: int, head: bool = False, adapters: bool = False) -> dict[str, np.ndarray]:
  """A network of depth 14 and width 1/16 under BiT's names."""
  rng, found, inputs = np.random.default_rng(seed), {}, 4

  def add(name, *shape, centre=0.0):
    found[name] = (centre + rng.normal(0, 0.3, shape)).astype(np.float32)

  def norm(name, size):
    add(f'{name}/group_norm/gamma', size, centre=1)
    add(f'{name}/group_norm/beta', size)

  add('root_block/standardized_conv2d/kernel', 7, 7, 3, inputs)
  for block in range(1, 5):
    unit, inner = f'block{block}/unit01', 4 * 2 ** (block - 1)
    if adapters:
      for half, a, b in (('a1', inputs, inputs // 2), ('a2', inputs // 2, inputs)):
        norm(f'block{block}/adapter/{half}', a)
        add(f'block{block}/adapter/{half}/conv2d/kernel', 1, 1, a, b)
    for part, size in (('a', inputs), ('b', inner), ('c', inner)):
      norm(f'{unit}/{part}', size)
    add(f'{unit}/a/standardized_conv2d/kernel', 1, 1, inputs, inner)
    add(f'{unit}/b/standardized_conv2d/kernel', 3, 3, inner, inner)
    add(f'{unit}/c/standardized_conv2d/kernel', 1, 1, inner, 4 * inner)
    add(f'{unit}/a/proj/standardized_conv2d/kernel', 1, 1, inputs, 4 * inner)
    inputs = 4 * inner
  norm('', inputs)
  found = {name.removeprefix('/'): value for name, value in found.items()}
  if head:
    add('head/conv2d/kernel', 1, 1, inputs, 7)
    add('head/conv2d/bias', 7)
  return found


def _forward(tf, v, images, activation):
  """Written from [BiT]'s description: images in [0, 1] to embeddings."""

  def conv(x, name, stride=1):
    kernel = v[f'{name}/kernel']
    if 'standardized' in name:
      mean, variance = tf.nn.moments(kernel, (0, 1, 2), keepdims=True)
      kernel = (kernel - mean) / tf.sqrt(variance + 1e-10)
    pad = kernel.shape[0] // 2
    x = tf.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return tf.nn.conv2d(x, kernel, stride, 'VALID')

  def norm(x, name, act=tf.nn.relu):
    size, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    groups = tf.reshape(x, (size, height, width, 2, -1))
    mean, variance = tf.nn.moments(groups, (1, 2, 4), keepdims=True)
    groups = (groups - mean) / tf.sqrt(variance + 1e-5)
    x = tf.reshape(groups, tf.shape(x))
    name = f'{name}/group_norm'.removeprefix('/')
    return act(x * v[f'{name}/gamma'] + v[f'{name}/beta'])

  x = conv(2 * images - 1, 'root_block/standardized_conv2d', 2)
  x = tf.nn.max_pool2d(tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2, 'VALID')
  for block in range(1, 5):
    unit, stride = f'block{block}/unit01', 1 + (block > 1)
    if f'block{block}/adapter/a1/conv2d/kernel' in v:
      y = x
      for half in ('a1', 'a2'):
        y = norm(y, f'block{block}/adapter/{half}')
        y = conv(y, f'block{block}/adapter/{half}/conv2d')
      x += y
    y = norm(x, f'{unit}/a')
    shortcut = conv(y, f'{unit}/a/proj/standardized_conv2d', stride)
    y = norm(conv(y, f'{unit}/a/standardized_conv2d'), f'{unit}/b', activation)
    y = norm(conv(y, f'{unit}/b/standardized_conv2d', stride), f'{unit}/c')
    x = shortcut + conv(y, f'{unit}/c/standardized_conv2d')
  return tf.reduce_mean(norm(x, ''), (1, 2))


def _save(tf, folder, arrays, named=None, activation=None) -> None:
  """Writes a SavedModel; `named` gives its variables names, whose keys say nothing then; else the keys are the names."""

  class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 3])])
    def __call__(self, images):
      return _forward(tf, self.by_name(), images, activation or tf.nn.relu)

  module = Module()
  made = {key: tf.Variable(value, name=named and named(key)) for key, value in arrays.items()}
  module.by_name = lambda: made
  if named:
    module._variables = list(made.values())
  else:
    for key, variable in made.items():
      *path, last = f'resnet/{key}'.split('/')
      below = module
      for step in path:
        if not hasattr(below, step):
          setattr(below, step, tf.Module())
        below = getattr(below, step)
      setattr(below, last, variable)
  tf.saved_model.save(module, str(folder))


def _rewrite(tf, folder, change) -> None:
  """Changes the arrays of a SavedModel's checkpoint, by their keys."""
  prefix = f'{folder}/variables/variables'
  reader = tf.train.load_checkpoint(prefix)
  found = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
  change(found)
  names = sorted(found)
  tf.raw_ops.SaveV2(
    prefix=prefix,
    tensor_names=names,
    shape_and_slices=[''] * len(names),
    tensors=[tf.constant(found[name]) for name in names],
  )


def _without_names(found) -> None:
  """Takes the names of variables out of a checkpoint, which the SavedModel beside it still has."""
  from tensorflow.core.protobuf import trackable_object_graph_pb2

  key = '_CHECKPOINTABLE_OBJECT_GRAPH'
  graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(found[key])
  for node in graph.nodes:
    for attribute in node.attributes:
      attribute.full_name = ''
  found[key] = graph.SerializeToString()


@pytest.fixture(scope='module')
def tf():
  import tensorflow  # 10 s.

  return tensorflow


@pytest.fixture(scope='module')
def modules(tf, tmp_path_factory):
  """A folder of five modules: their variables have names in other places."""
  folder = tmp_path_factory.mktemp('modules')
  _save(tf, folder / 'bird', _arrays(1))
  counted = lambda key: re.sub(r'(standardized_conv2d|group_norm)/', r'\1_12/', f'module/{key}')
  _save(tf, folder / 'animal' / '1', _arrays(2, head=True), counted)
  _save(tf, folder / 'felid', _arrays(3, adapters=True), lambda key: f'resnet/{key}')
  # Both are the same graph with other values, in archives; of the latter, only saved_model.pb has names.
  for name, seed in (('baseline', 4), ('plant', 5)):
    shutil.copytree(folder / 'animal', folder / name)
    values = list(_arrays(seed, head=True).values())
    with_values = {f'_variables/{i}{_VALUE}': value for i, value in enumerate(values)}
    _rewrite(tf, folder / name / '1', lambda found, new=with_values: found.update(new))
    if name == 'plant':
      _rewrite(tf, folder / name / '1', _without_names)
    with tarfile.open(folder / f'{name}.tar.gz', 'w:gz') as tar:
      tar.add(folder / name / '1', '.')
    shutil.rmtree(folder / name)
  (folder / 'README').write_text('no module')
  return folder


@pytest.fixture(scope='module')
def imported(modules, tmp_path_factory):
  """The pool that became of four of them, and the lines that were said."""
  folder, out = tmp_path_factory.mktemp('full'), tmp_path_factory.mktemp('out')
  for name in ('bird', 'animal', 'baseline.tar.gz', 'plant.tar.gz'):
    (folder / name).symlink_to(modules / name)
  said = io.StringIO()
  with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
    patch.setattr(sys, 'argv', ['', f'--modules={folder}', f'--out={out / "hub"}'])
    hub_command.main()
  return out / 'hub' / 'pool.json', said.getvalue().splitlines()


def test_the_pool_has_them_as_they_were_and_they_compute_the_same(modules, imported, tf):
  path, lines = imported
  assert [re.match(r'\d/4 (\w+)', line)[1] for line in lines[:-1]] == [
    'baseline', 'animal', 'bird', 'plant',
  ]  # fmt: skip
  assert lines[-1] == f'{path}: 4 models'
  members = pool.read(path)
  assert [(m.kind, m.slice, m.upstream, m.images, m.dimension, m.size) for m in members] == [
    ('baseline' if name == 'baseline' else 'full', None if name == 'baseline' else name,
     'imagenet21k', 0, 128, 224)
    for name in ('baseline', 'animal', 'bird', 'plant')
  ]  # fmt: skip
  assert pool.read_model(path) == {
    'depth': 14, 'width': 0.0625, 'root': 'imagenet', 'dtype': 'auto', 'size': 224, 'resize': 224,
  }  # fmt: skip
  assert sorted(os.listdir(path.parent)) == ['pool.json', 'weights']
  assert sorted(os.listdir(path.parent / 'weights')) == sorted(f'{m.name}.npz' for m in members)

  images = np.random.default_rng(9).integers(0, 256, (2, 224, 224, 3), np.uint8)
  bird, family = members[2], kinds.KINDS['full'].family
  assert bird.parameters == sum(value.size for value in _arrays(1).values())
  trees = family.load(bird, str(path.parent))
  net = family.build(family.describe(bird, pool.read_model(path), trees))
  theirs = tf.saved_model.load(str(modules / 'bird'))(images.astype(np.float32) / 255)
  np.testing.assert_allclose(net.forward(trees, images)[1], theirs, rtol=1e-3, atol=1e-4)
  head = weights.load(str(path.parent / 'weights/animal.npz'))['head']
  np.testing.assert_array_equal(head['kernel'], _arrays(2, head=True)['head/conv2d/kernel'][0, 0])
  assert set(trees) == {'backbone'}


def test_the_pool_is_ranked_by_the_papers_config(imported, data_dir, run_main, tmp_path):
  # No baseline was published with the experts.
  path = imported[0].parent / 'published.json'
  pool.write(path, pool.read(imported[0])[1:], pool.read_model(imported[0]))
  config = tmp_path / 'config.py'
  config.write_text(_CONFIG.format(data=str(data_dir)))
  done = run_main(config, tmp_path / 'run', f'--config.pool={path}')
  assert done.returncode == 0, done.stderr[-3000:]
  scores = pd.read_csv(tmp_path / 'run' / 'scores.csv')
  assert sorted(scores.model) == ['animal', 'bird', 'plant']
  assert sorted(scores['rank']) == [1, 2, 3]
  assert scores.score.between(0, 1).all()


def test_adapters_become_an_adapter_expert_over_its_backbone(modules, tmp_path, tf):
  (tmp_path / 'modules').mkdir()
  (tmp_path / 'modules' / 'felid').symlink_to(modules / 'felid')
  path = converting.convert(str(tmp_path / 'modules'), str(tmp_path / 'felids.json'))
  (felid,) = pool.read(path)
  assert (felid.kind, felid.slice, felid.weights) == ('adapter', 'felid', 'weights/felid.npz')
  assert felid.backbone == f'weights/backbone.{felid.trained_from[:8]}.npz'
  assert felid.parameters == sum(value.size for value in _arrays(3, adapters=True).values())
  own = weights.load(str(tmp_path / felid.weights))
  assert jax.tree.map(np.shape, own['adapter']['block2']['a2']['conv']['kernel']) == (1, 1, 8, 16)
  found = tmp_path / 'modules'
  (found / 'felid').unlink()
  shutil.copytree(modules / 'felid', found / 'felid')
  lost = 'resnet/block3/adapter/a1/conv2d/kernel'
  key = _key(tf, found / 'felid', lost)
  _rewrite(tf, found / 'felid', lambda arrays: arrays.update({key: np.zeros((1, 1, 3, 3))}))
  with pytest.raises(
    ValueError, match=r'missing: adapter block3/a1/conv/kernel; left over: .*3, 3'
  ):
    converting.convert(str(found), str(tmp_path / 'again' / 'pool.json'))


def _key(tf, folder, name) -> str:
  """The key of a variable that only its name tells."""
  names = [f'resnet/{key}' for key in _arrays(3, adapters=True)]
  return f'_variables/{names.index(name)}{_VALUE}'


def _refused(modules, out) -> str:
  """What the import of a folder says, of which it must leave nothing."""
  with pytest.raises((ValueError, OSError)) as error:
    converting.convert(str(modules), str(out))
  assert not out.exists() or not os.listdir(out)
  assert '\n' not in str(error.value)
  assert entry.is_mendable(error.value)
  return str(error.value)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda found: found.pop(_KERNEL + _VALUE), f'missing: {_KERNEL}$'),
    (
      lambda found: found.update({f'resnet/block1/gate{_VALUE}': np.ones(4, np.float32)}),
      'left over: resnet/block1/gate$',
    ),
    (
      lambda found: found.update({_KERNEL + _VALUE: np.ones((3, 3, 8, 6), np.float32)}),
      rf'of another shape: {_KERNEL} \(3, 3, 8, 6\) instead of \(3, 3, 8, 8\)$',
    ),
    (
      lambda found: found.update({f'v{i}': found.pop(k) for i, k in enumerate(sorted(found))}),
      r'its variables \(v0, v1, v10, …\) have no names of a BiT ResNet$',
    ),
  ],
)
def test_variables_that_do_not_fit_are_named(modules, tmp_path, tf, change, said):
  found = tmp_path / 'modules'
  shutil.copytree(modules / 'bird', found / 'bird')
  _rewrite(tf, found / 'bird', change)
  assert re.fullmatch(f'{found}/bird: .*{said}', _refused(found, tmp_path / 'out'))


def test_a_module_that_computes_otherwise_is_refused(modules, tmp_path, tf):
  planted = tmp_path / 'modules'
  _save(tf, planted / 'wrong', _arrays(1), str, tf.nn.relu6)
  # It comes first, is sound, and is not kept either.
  (planted / 'bird').symlink_to(modules / 'bird')
  message = _refused(planted, tmp_path / 'out')
  assert re.match(r'.*/wrong: with its variables our network computes other embeddings', message)


@pytest.mark.parametrize(
  ('part', 'said'),
  [
    ('variables/variables.data-00000-of-00001', 'its variables cannot be read .*: fetch it again'),
    ('variables/variables.index', 'its variables cannot be read .*: fetch it again'),
    ('saved_model.pb', 'cannot be (read|loaded)'),
    ('', 'cut off or garbled .*: fetch it again'),
  ],
)
def test_a_cut_file_is_named(modules, tmp_path, part, said):
  found = tmp_path / 'modules'
  found.mkdir()
  if part:
    shutil.copytree(modules / 'bird', found / 'bird')
  else:
    shutil.copy(modules / 'plant.tar.gz', found / 'bird.tar.gz')
  file = found / 'bird' / part if part else found / 'bird.tar.gz'
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  message = _refused(found, tmp_path / 'out')
  assert re.search(said, message)
  assert 'bird' in message


def test_folders_without_modules_and_a_pool_that_is_there_are_refused(modules, imported, tmp_path):
  empty = tmp_path / 'modules'
  out = tmp_path / 'out'
  assert _refused(empty, out) == f'no folder of modules at {empty}'
  empty.mkdir()
  assert 'holds no modules: it must have, for each expert, a folder NAME' in _refused(empty, out)
  (empty / 'bird').mkdir()
  assert f'{empty}/bird is no SavedModel: there is no saved_model.pb' in _refused(empty, out)
  for version in '12':
    (empty / 'bird' / version).mkdir()
    (empty / 'bird' / version / 'saved_model.pb').touch()
  assert 'bird holds several SavedModels, 1, 2: leave one' in _refused(empty, out)
  assert 'is a SavedModel itself' in _refused(modules / 'bird', out)
  path, before = imported[0], imported[0].read_bytes()
  with pytest.raises(FileExistsError, match=r'pool\.json is there already: give another --out'):
    converting.convert(str(modules), str(path.parent))
  with pytest.raises(FileExistsError, match='weights is there already'):
    converting.convert(str(modules), str(path.parent / 'other.json'))
  assert path.read_bytes() == before


def test_the_command_ends_in_one_line(tmp_path):
  command = [sys.executable, '-m', 'experts.models.import_hub', '--modules=absent']
  done = subprocess.run(
    [*command, f'--out={tmp_path}'], cwd=_ROOT, capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr == 'error: no folder of modules at absent\n'
  assert os.listdir(tmp_path) == []
