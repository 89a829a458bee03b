"""Data sets that TFDS has prepared, read from real files."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experts.data import prepared
from experts.data.sources import UndecodableImage, open_dataset

# Image i of train is (5 + i) x 4 and i all over, of class i % 3; of test, 100 + i.
WRITER = """
import sys
import numpy as np
import tensorflow_datasets as tfds

class ToySet(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({
        'image': tfds.features.Image(shape=(None, None, 1)),
        'label': tfds.features.ClassLabel(names=['x', 'y', 'z']),
      }),
    )

  def _split_generators(self, manager):
    return {'train': self._generate_examples(30, 0), 'test': self._generate_examples(9, 100)}

  def _generate_examples(self, number, first):
    for i in range(number):
      yield i, {'image': np.full((5 + i, 4, 1), first + i, np.uint8), 'label': i % 3}

for form in ('array_record', 'tfrecord'):
  ToySet(data_dir=f'{sys.argv[1]}/{form}', file_format=form).download_and_prepare()
"""


@pytest.fixture(scope='module')
def written(tmp_path_factory) -> Path:
  root = tmp_path_factory.mktemp('tfds')
  # In a process of its own: only writing needs TensorFlow.
  subprocess.run([sys.executable, '-c', WRITER, str(root)], check=True, capture_output=True)
  return root


@pytest.mark.parametrize(
  ('split', 'number'), [('train', 30), ('test', 9), ('train[:10]+train[20:25]', 15)]
)
def test_files_are_read_at_random(written, split, number):
  data = open_dataset('tfds:toy_set:1.*.*', split, str(written / 'array_record'))
  assert len(data) == number
  assert data.class_names == ('x', 'y', 'z')
  values = [int(data.image(i)[0, 0, 0]) for i in range(number)]
  assert len(set(values)) == number
  for i in reversed(range(number)):
    image = data.image(i)
    assert image.shape == (5 + values[i] % 100, 4, 3)
    assert (image == values[i]).all()
    assert data.label(i) == values[i] % 100 % 3


def test_parts_of_a_split_are_its_parts(written):
  values = {}
  for split in ('train', 'train[:10]', 'train[20:25]', 'train[:10]+train[20:25]'):
    data = open_dataset('tfds:toy_set', split, str(written / 'array_record'))
    values[split] = [int(data.image(i)[0, 0, 0]) for i in range(len(data))]
  assert values['train[:10]'] == values['train'][:10]
  assert values['train[:10]+train[20:25]'] == values['train'][:10] + values['train'][20:25]


def test_unknown_split_lists_the_known(written):
  with pytest.raises(ValueError, match="no split 'valid'; it has train, test"):
    open_dataset('tfds:toy_set', 'valid', str(written / 'array_record'))


@pytest.mark.parametrize('name', ['toy_set', 'toy_set:1.*.*'])
def test_tfrecord_files_are_read_at_random_too(written, name):
  split = 'test+train[20:25]+train[:10]'
  expected = open_dataset(f'tfds:{name}', split, str(written / 'array_record'))
  data = open_dataset(f'tfds:{name}', split, str(written / 'tfrecord'))
  assert len(data) == len(expected) == 24
  assert (data.labels == expected.labels).all()
  for i in reversed(range(24)):
    assert (data.image(i) == expected.image(i)).all()
  with pytest.raises(ValueError, match="no split 'valid'; it has train, test"):
    open_dataset(f'tfds:{name}', 'valid', str(written / 'tfrecord'))


def test_another_file_format_says_what_to_do(written, tmp_path):
  folder = tmp_path / 'riegeli'
  shutil.copytree(written / 'tfrecord', folder)
  info = folder / 'toy_set' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('"tfrecord"', '"riegeli"'))
  with pytest.raises(FileNotFoundError, match=r"prepared as riegeli.*tfds\.builder\('toy_set"):
    open_dataset('tfds:toy_set', 'train', str(folder))


def test_undecodable_bytes_are_named():
  with pytest.raises(UndecodableImage, match='example 4 of x'):
    prepared.rgb(b'\x89PNG broken', 'example 4 of x')
  with pytest.raises(UndecodableImage, match=r'example 4 of x: uint8 \(5, 4, 2\)'):
    prepared.rgb(np.zeros((5, 4, 2), np.uint8), 'example 4 of x')


def test_any_tfds_data_set_opens_by_name():
  with tfds.testing.mock_data(num_examples=4):
    data = open_dataset('tfds:mnist', 'train[:800]')
    assert data.class_names == tuple('0123456789')
    assert data.image(0).shape == (28, 28, 3)
    assert data.where(2) == 'example 2 of tfds:mnist train[:800]'
    with pytest.raises(ValueError, match='no image with one class label'):
      open_dataset('tfds:kitti', 'train')


def test_what_is_not_prepared_says_how_to_prepare_it(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    open_dataset('vtab:sun397', 'train800', str(tmp_path))
  message = str(caught.value)
  assert '\n' not in message
  assert 'sun397/tfds/4.0.0 is not prepared' in message
  assert f"tfds.builder('sun397/tfds:4.0.0', data_dir='{tmp_path}'" in message
  assert "file_format='array_record').download_and_prepare()" in message
  with pytest.raises(FileNotFoundError, match='by hand'):
    open_dataset('vtab:resisc45', 'train800', str(tmp_path))


def test_size_of_what_is_not_prepared_is_told(tmp_path):
  pytest.importorskip('importlib_resources', reason='TFDS reads its checksums with it')
  with pytest.raises(FileNotFoundError, match=r'at most 36\.41 GiB to download'):
    open_dataset('vtab:sun397', 'train800', str(tmp_path))


def test_unknown_data_set_names_the_nearest():
  with pytest.raises(ValueError, match=r"no data set 'mnst'; the nearest: .*mnist"):
    open_dataset('tfds:mnst', 'train')
