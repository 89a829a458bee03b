"""Files: BiT's names and shapes, the faults a file can have, and the project's own form."""

import os

import jax
import numpy as np
import pytest

from experts.models import resnet, weights

MODEL = resnet.ResNet(14, 1 / 16)
UNIT = 'resnet/block1/unit01'


@pytest.fixture
def params():
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda key: resnet.init(MODEL, key, 7), jax.random.key(0))
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def bit_arrays(units=(1, 1, 1, 1), channels=4, classes=7) -> dict[str, np.ndarray]:
  """A BiT file's arrays, written from the format's description and not by our own mapping."""
  rng = np.random.default_rng(1)
  arrays = {}

  def add(name, *shape):
    arrays[name] = rng.normal(size=shape).astype(np.float32)

  def norm(name, size):
    add(f'{name}/group_norm/gamma', size)
    add(f'{name}/group_norm/beta', size)

  add('resnet/root_block/standardized_conv2d/kernel', 7, 7, 3, channels)
  inputs = channels
  for block, count in enumerate(units, 1):
    inner = channels * 2 ** (block - 1)
    for number in range(1, count + 1):
      unit = f'resnet/block{block}/unit{number:02d}'
      norm(f'{unit}/a', inputs)
      norm(f'{unit}/b', inner)
      norm(f'{unit}/c', inner)
      add(f'{unit}/a/standardized_conv2d/kernel', 1, 1, inputs, inner)
      add(f'{unit}/b/standardized_conv2d/kernel', 3, 3, inner, inner)
      add(f'{unit}/c/standardized_conv2d/kernel', 1, 1, inner, 4 * inner)
      if number == 1:
        add(f'{unit}/a/proj/standardized_conv2d/kernel', 1, 1, inputs, 4 * inner)
      inputs = 4 * inner
  norm('resnet', inputs)
  add('resnet/head/conv2d/kernel', 1, 1, inputs, classes)
  add('resnet/head/conv2d/bias', classes)
  return arrays


def write(path, arrays) -> str:
  np.savez(path, **arrays)
  return str(path)


def test_bit_file_is_read_by_name(tmp_path):
  arrays = bit_arrays(units=(3, 4, 6, 3))
  params = weights.load_bit(write(tmp_path / 'bit.npz', arrays))
  assert weights.infer(params) == resnet.ResNet(50, 1 / 16)
  backbone = params['backbone']
  for got, name in (
    (backbone['root']['kernel'], 'resnet/root_block/standardized_conv2d/kernel'),
    (backbone['block1']['unit01']['a']['conv']['kernel'], f'{UNIT}/a/standardized_conv2d/kernel'),
    (backbone['block1']['unit01']['proj']['kernel'], f'{UNIT}/a/proj/standardized_conv2d/kernel'),
    (backbone['block1']['unit01']['b']['norm']['scale'], f'{UNIT}/b/group_norm/gamma'),
    (backbone['block1']['unit01']['b']['norm']['bias'], f'{UNIT}/b/group_norm/beta'),
    (backbone['norm']['scale'], 'resnet/group_norm/gamma'),
    (params['head']['bias'], 'resnet/head/conv2d/bias'),
  ):
    np.testing.assert_array_equal(got, arrays[name])
  np.testing.assert_array_equal(params['head']['kernel'], arrays['resnet/head/conv2d/kernel'][0, 0])
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  assert sum(sizes) == sum(value.size for value in arrays.values())


def test_numbered_layers_are_read_alike(tmp_path):
  arrays = bit_arrays()
  numbered = {
    key.replace('standardized_conv2d/', f'standardized_conv2d_{i}/').replace(
      'group_norm/', f'group_norm_{i}/'
    ): value
    for i, (key, value) in enumerate(arrays.items())
  }
  plain = weights.load_bit(write(tmp_path / 'plain.npz', arrays))
  same = weights.load_bit(write(tmp_path / 'numbered.npz', numbered))
  assert weights.content_hash(plain) == weights.content_hash(same)


@pytest.mark.parametrize(
  ('fault', 'said'),
  [
    (lambda a: a.pop(f'{UNIT}/b/group_norm/beta'), f'missing: {UNIT}/b/group_norm/beta'),
    (lambda a: a.pop('resnet/head/conv2d/bias'), 'missing: resnet/head/conv2d/bias'),
    (lambda a: a.update(momentum=np.zeros(2)), 'left over: momentum'),
    (
      lambda a: a.update({f'{UNIT}/d/group_norm/beta': a.pop(f'{UNIT}/c/group_norm/beta')}),
      f'missing: {UNIT}/c/group_norm/beta; left over: {UNIT}/d/group_norm/beta',
    ),
    (
      lambda a: a.update({f'{UNIT}/a/group_norm/beta': np.zeros(3)}),
      rf'of another shape: {UNIT}/a/group_norm/beta \(3,\) instead of \(4,\)',
    ),
    (
      lambda a: a.update({'resnet/root_block/standardized_conv2d/kernel': np.zeros((7, 7, 3, 5))}),
      r'resnet/root_block/standardized_conv2d/kernel has shape \(7, 7, 3, 5\)',
    ),
    (
      lambda a: a.update({'resnet/root_block/standardized_conv2d/kernel': np.zeros((5, 5, 3, 4))}),
      r'resnet/root_block/standardized_conv2d/kernel has shape \(5, 5, 3, 4\).*imagenet.*small',
    ),
    (
      lambda a: a.update({f'{UNIT}/a/group_norm_3/beta': np.zeros(4)}),
      f'two entries are both {UNIT}/a/group_norm/beta',
    ),
    (lambda a: a.clear(), 'missing: resnet/block1'),
  ],
)
def test_faulty_bit_file_is_refused_by_name(tmp_path, fault, said):
  arrays = bit_arrays()
  fault(arrays)
  with pytest.raises(ValueError, match=said) as error:
    weights.load_bit(write(tmp_path / 'faulty.npz', arrays))
  assert 'faulty.npz' in str(error.value)


def test_bit_export_reads_back(tmp_path, params):
  path = str(tmp_path / 'bit.npz')
  weights.save_bit(path, params)
  with np.load(path) as file:
    assert set(file.files) == set(bit_arrays())
    assert file['resnet/head/conv2d/kernel'].shape == (1, 1, 128, 7)
  assert weights.content_hash(weights.load_bit(path)) == weights.content_hash(params)


def test_bit_export_refuses_an_adapter(tmp_path, params):
  params['adapter'] = {'block1': {'a1': {'conv': {'kernel': np.zeros((1, 1, 4, 2))}}}}
  with pytest.raises(ValueError, match='left over: adapter/block1/a1/conv/kernel'):
    weights.save_bit(str(tmp_path / 'bit.npz'), params)
  assert os.listdir(tmp_path) == []


def test_own_form_reads_back(tmp_path, params):
  path = str(tmp_path / 'params.npz')
  weights.save(path, params)
  jax.tree.map(np.testing.assert_array_equal, weights.load(path), params)
  assert os.listdir(tmp_path) == ['params.npz']
  with np.load(path) as file:
    assert 'backbone/block1/unit01/a/conv/kernel' in file.files


def test_failed_save_keeps_the_old_file_and_leaves_nothing(tmp_path, params):
  path = str(tmp_path / 'params.npz')
  weights.save(path, params)

  class Unreadable:
    def __array__(self, *_, **__):
      raise OSError('device lost')

  with pytest.raises(OSError, match='device lost'):
    weights.save(path, {**params, 'head': {'bias': Unreadable()}})
  with pytest.raises(FileNotFoundError):
    weights.save(str(tmp_path / 'absent' / 'params.npz'), params)
  assert os.listdir(tmp_path) == ['params.npz']
  assert weights.content_hash(weights.load(path)) == weights.content_hash(params)


@pytest.mark.parametrize('kept', [0, 10, 2000])
def test_truncated_file_is_named(tmp_path, params, kept):
  path = tmp_path / 'params.npz'
  weights.save(str(path), params)
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(ValueError, match=r'params\.npz: not a complete \.npz'):
    weights.load(str(path))


def test_what_is_no_file_of_weights_is_not_advised_to_be_trusted(tmp_path):
  path = tmp_path / 'pool.json'
  path.write_text('{"members": []}')
  with pytest.raises(ValueError, match=r'pool\.json is no file of weights \(\.npz\)$'):
    weights.load(str(path))
  np.savez(tmp_path / 'objects.npz', a=np.array([{}], object))
  with pytest.raises(ValueError, match=r'objects\.npz: .* \(an entry is no array of numbers\)$'):
    weights.load(str(tmp_path / 'objects.npz'))


def test_absent_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'absent\.npz'):
    weights.load_bit(str(tmp_path / 'absent.npz'))


def test_hash_sees_values_names_and_shapes_but_not_order(params):
  reference = weights.content_hash(params)
  assert weights.content_hash({'head': params['head'], 'backbone': params['backbone']}) == reference
  changed = [
    {**params, 'head': {**params['head'], 'bias': params['head']['bias'] + 1e-6}},
    {**params, 'head': {**params['head'], 'offset': params['head']['bias']}},
    {**params, 'head': {**params['head'], 'bias': params['head']['bias'][None]}},
  ]
  assert len({reference, *map(weights.content_hash, changed)}) == 4
