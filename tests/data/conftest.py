"""Data sets of TFDS in a few tiny images, written once for the tests that read real files."""

import subprocess
import sys
from pathlib import Path

import pytest

# Of kitti, image i of train has its closest car at i / 40 m, and its pixels are i % 251.
_WRITER = """
import sys
import numpy as np
import tensorflow_datasets as tfds

def write(name, version, folder, form, sizes, example):
  class Small(tfds.builder_cls(name), skip_registration=True):
    VERSION = tfds.core.Version(version)
    SUPPORTED_VERSIONS = []
    def _split_generators(self, manager, *unused):
      return {split: self._examples(size) for split, size in sizes.items()}
    def _examples(self, size):
      for i in range(size):
        yield str(i), example(i)
  Small.name = name
  Small(data_dir=f'{sys.argv[1]}/{folder}', file_format=form, version=version).download_and_prepare()

def kitti(i):
  thing = lambda kind, z: {
    'type': kind, 'truncated': 0.0, 'occluded': 0, 'alpha': 0.0, 'bbox': tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
    'dimensions': [1, 1, 1], 'location': [0, 0, z], 'rotation_y': 0.0}
  return {'image': np.full((4, 5, 3), i % 251, np.uint8), 'image/file_name': str(i),
          'objects': [thing(7, -50.0), thing(0, i / 40), thing(2, 500.0)]}

def pet(i):
  return {'image': np.full((4, 5, 3), 60 * i, np.uint8), 'label': i, 'species': 0, 'file_name': str(i),
          'segmentation_mask': np.ones((4, 5, 1), np.uint8), 'head_bbox': tfds.features.BBox(0.0, 0.0, 0.0, 0.0)}

sizes = {'train': 800, 'validation': 200, 'test': 9}
for form in ('tfrecord', 'array_record'):
  write('kitti', '3.2.0', form, form, sizes, kitti)
for version in ('3.2.0', '4.0.0'):
  write('oxford_iiit_pet', version, 'pets' + version[0], 'array_record', {'train': 4, 'test': 3}, pet)
"""


@pytest.fixture(scope='session')
def small_tfds(tmp_path_factory) -> Path:
  """Folders with kitti 3.2.0 (tfrecord, array_record) and with oxford_iiit_pet 3.2.0 (pets3) and 4.0.0 (pets4)."""
  root = tmp_path_factory.mktemp('small_tfds')
  # In a process of its own: only writing needs TensorFlow.
  done = subprocess.run(
    [sys.executable, '-c', _WRITER, str(root)], check=False, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return root
