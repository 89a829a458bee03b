"""The 19 tasks, by literal expectations, and data sets that TFDS has prepared."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experts.data import vtab
from experts.data.sources import open_dataset

# name: (classes, validation cut from train at S, or None: own split; full sizes; test split)
EXPECTED = {
  'caltech101': (102, 2754, (2754, 306, 3060, 6084), 'test'),
  'cifar100': (100, 45000, (45000, 5000, 50000, 10000), 'test'),
  'dtd': (47, None, (1880, 1880, 3760, 1880), 'test'),
  'oxford_flowers102': (102, None, (1020, 1020, 2040, 6149), 'test'),
  'oxford_iiit_pet': (37, 2944, (2944, 736, 3680, 3669), 'test'),
  'sun397': (397, None, (76128, 10875, 87003, 21750), 'test'),
  'svhn': (10, 65931, (65931, 7326, 73257, 26032), 'test'),
  'patch_camelyon': (2, None, (262144, 32768, 294912, 32768), 'test'),
  'eurosat': (10, 16200, (16200, 5400, 21600, 5400), 'train[21600:]'),
  'resisc45': (45, 18900, (18900, 6300, 25200, 6300), 'train[25200:]'),
  'diabetic_retinopathy': (5, None, (35126, 10906, 46032, 42670), 'test'),
  'clevr_count_all': (8, 63000, (63000, 7000, 70000, 15000), 'validation'),
  'clevr_closest_object_distance': (6, 63000, (63000, 7000, 70000, 15000), 'validation'),
  'dmlab': (6, None, (65550, 22628, 88178, 22735), 'test'),
  'kitti_closest_vehicle_distance': (4, None, (6347, 423, 6770, 711), 'test'),
  'dsprites_label_x_position': (16, 589824, (589824, 73728, 663552, 73728), 'train[663552:]'),
  'dsprites_label_orientation': (16, 589824, (589824, 73728, 663552, 73728), 'train[663552:]'),
  'smallnorb_label_azimuth': (18, 'test', (24300, 12150, 36450, 12150), 'test[50%:]'),
  'smallnorb_label_elevation': (9, 'test', (24300, 12150, 36450, 12150), 'test[50%:]'),
}


def test_there_are_19_tasks_in_three_groups():
  assert set(vtab.TASKS) == set(EXPECTED)
  groups = [task.group for task in vtab.TASKS.values()]
  assert [groups.count(group) for group in vtab.GROUPS] == [7, 4, 8]


@pytest.mark.parametrize('name', EXPECTED)
def test_splits_and_counts(name):
  task = vtab.TASKS[name]
  classes, cut, counts, test = EXPECTED[name]
  assert task.num_classes == classes
  assert (
    tuple(task.counts[s] for s in ('train', 'validation', 'train_validation', 'test')) == counts
  )
  assert task.splits['train800'] == 'train[:800]'
  val200 = f'train[{cut}:{cut + 200}]' if isinstance(cut, int) else f'{cut or "validation"}[:200]'
  assert task.splits['val200'] == val200
  assert task.splits['train800val200'] == f'train[:800]+{val200}'
  assert task.splits['test'] == test


# Sizes of TFDS's own splits, as its catalogue gives them.
TFDS = {
  'caltech101': {'train': 3060, 'test': 6084},
  'eurosat': {'train': 27000},
  'resisc45': {'train': 31500},
  'clevr_count_all': {'train': 70000, 'validation': 15000, 'test': 15000},
  'dsprites_label_orientation': {'train': 737280},
  'smallnorb_label_azimuth': {'train': 24300, 'test': 24300},
  'dtd': {'train': 1880, 'validation': 1880, 'test': 1880},
  'svhn': {'train': 73257, 'test': 26032, 'extra': 531131},
}


@pytest.mark.parametrize('name', TFDS)
def test_split_expressions_select_the_counted_examples(name):
  info = tfds.core.SplitDict(
    [
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[size],
        num_bytes=0,
        filename_template=tfds.core.ShardedFileTemplate(
          data_dir='.', dataset_name='x', split=split, filetype_suffix='array_record'
        ),
      )
      for split, size in TFDS[name].items()
    ]
  )
  task = vtab.TASKS[name]
  for split, expression in task.splits.items():
    assert info[expression].num_examples == task.counts[split], split


def _clevr(depths):
  return {'objects': {'pixel_coords': np.array([[1, 2, d] for d in depths], np.float32)}}


@pytest.mark.parametrize(
  ('depth', 'label'),
  [(0.1, 0), (8, 0), (8.01, 1), (8.5, 1), (8.6, 2), (9, 2), (9.1, 3), (9.5, 3), (9.6, 4), (10, 4), (10.1, 5), (99, 5)],
)  # fmt: skip
def test_clevr_distance_is_that_of_the_closest_and_strict(depth, label):
  assert vtab.TASKS['clevr_closest_object_distance'].label(_clevr([120, depth, 101])) == label


def test_clevr_count_starts_at_three():
  label = vtab.TASKS['clevr_count_all'].label
  assert [label({'objects': {'size': np.zeros(n)}}) for n in (3, 4, 10)] == [0, 1, 7]


def _kitti(*objects):
  kinds, depths = zip(*objects) if objects else ((), ())
  place = np.array([[0, 0, d] for d in depths], np.float32).reshape(-1, 3)
  return {'objects': {'type': np.array(kinds, int), 'location': place}}


@pytest.mark.parametrize(
  ('objects', 'label'),
  [
    ([(0, -3.0)], 0),
    ([(0, 8.0)], 0),
    ([(2, 8.5)], 1),
    ([(1, 20.0)], 1),
    ([(1, 20.5)], 2),
    ([(0, 70.0), (2, 12.0)], 1),
    ([(3, 2.0), (0, 30.0)], 2),  # a pedestrian is no vehicle
    ([(3, 2.0), (7, 1.0)], 3),
    ([], 3),
  ],
)
def test_kitti_distance_is_that_of_the_closest_vehicle(objects, label):
  assert vtab.TASKS['kitti_closest_vehicle_distance'].label(_kitti(*objects)) == label


def test_dsprites_bins():
  x = vtab.TASKS['dsprites_label_x_position']
  turn = vtab.TASKS['dsprites_label_orientation']
  assert [x.label({'label_x_position': i}) for i in (0, 1, 2, 30, 31)] == [0, 0, 1, 15, 15]
  assert [turn.label({'label_orientation': i}) for i in (0, 2, 3, 4, 5, 7, 8, 37, 38, 39)] == [
    0, 0, 1, 1, 2, 2, 3, 14, 15, 15,
  ]  # fmt: skip
  counts = np.bincount([turn.label({'label_orientation': i}) for i in range(40)])
  assert counts.tolist() == [3, 2] * 8


def test_images_become_rgb():
  mask = np.array([[[0], [1]]], np.uint8)
  image = vtab.TASKS['dsprites_label_x_position'].image({'image': mask})
  assert image.tolist() == [[[0, 0, 0], [255, 255, 255]]]
  grey = vtab.TASKS['smallnorb_label_azimuth'].image({'image': mask * 7})
  assert grey.tolist() == [[[0, 0, 0], [7, 7, 7]]]
  assert image.dtype == grey.dtype == np.uint8


@pytest.mark.parametrize('name', EXPECTED)
def test_every_task_opens(name):
  with tfds.testing.mock_data(num_examples=4):
    for split in ('train800', 'val200', 'test'):
      data = open_dataset(f'vtab:{name}', split)
      assert data.num_classes == EXPECTED[name][0]
      assert data.labels.shape == (4,)
      assert data.image(3).dtype == np.uint8
      assert data.image(3).shape[-1] == 3


def test_reading_does_not_import_tensorflow():
  code = (
    'import sys; import tensorflow_datasets as tfds; from experts.data.sources import open_dataset\n'
    'with tfds.testing.mock_data(num_examples=2):\n'
    "  data = open_dataset('vtab:clevr_count_all', 'train800')\n"
    '  data.labels, data.image(1)\n'
    "sys.exit('tensorflow' in sys.modules)"
  )
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_unknown_names_list_the_known():
  with pytest.raises(
    ValueError, match=r'did you mean caltech101\?.*there are caltech101, cifar100'
  ):
    open_dataset('vtab:caltech', 'train800')
  with pytest.raises(ValueError, match=r"no split 'train1000'; it has train800, val200"):
    open_dataset('vtab:dtd', 'train1000')
