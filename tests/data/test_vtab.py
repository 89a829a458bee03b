"""The 19 tasks, by literal expectations, and data sets that TFDS has prepared."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experts.data import vtab
from experts.data.batches import eval_batches
from experts.data.sources import open_dataset
from experts.data.transforms import Transform

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


# NAME[/CONFIG], the versions that will do, and sizes of TFDS's own splits as its catalogue gives them.
TFDS = {
  'caltech101': ('caltech101', ('3.*.*',), {'train': 3060, 'test': 6084}),
  'cifar100': ('cifar100', ('3.*.*',), {'train': 50000, 'test': 10000}),
  'dtd': ('dtd', ('3.*.*',), {'train': 1880, 'validation': 1880, 'test': 1880}),
  'oxford_flowers102': (
    'oxford_flowers102',
    ('2.*.*',),
    {'train': 1020, 'validation': 1020, 'test': 6149},
  ),
  'oxford_iiit_pet': ('oxford_iiit_pet', ('3.*.*',), {'train': 3680, 'test': 3669}),
  'sun397': ('sun397/tfds', ('4.*.*',), {'train': 76128, 'validation': 10875, 'test': 21750}),
  'svhn': ('svhn_cropped', ('3.*.*',), {'train': 73257, 'test': 26032, 'extra': 531131}),
  'patch_camelyon': (
    'patch_camelyon',
    ('2.*.*',),
    {'train': 262144, 'validation': 32768, 'test': 32768},
  ),
  'eurosat': ('eurosat/rgb', ('2.*.*',), {'train': 27000}),
  'resisc45': ('resisc45', ('3.*.*',), {'train': 31500}),
  'diabetic_retinopathy': (
    'diabetic_retinopathy_detection/btgraham-300',
    ('3.*.*',),
    {'train': 35126, 'validation': 10906, 'test': 42670},
  ),
  'clevr_count_all': ('clevr', ('3.*.*',), {'train': 70000, 'validation': 15000, 'test': 15000}),
  'clevr_closest_object_distance': (
    'clevr',
    ('3.*.*',),
    {'train': 70000, 'validation': 15000, 'test': 15000},
  ),
  'dmlab': ('dmlab', ('2.0.1',), {'train': 65550, 'validation': 22628, 'test': 22735}),
  'kitti_closest_vehicle_distance': (
    'kitti',
    ('3.3.0', '3.2.0', '3.1.0'),
    {'train': 6347, 'validation': 423, 'test': 711},
  ),
  'dsprites_label_x_position': ('dsprites', ('2.*.*',), {'train': 737280}),
  'dsprites_label_orientation': ('dsprites', ('2.*.*',), {'train': 737280}),
  'smallnorb_label_azimuth': ('smallnorb', ('2.*.*',), {'train': 24300, 'test': 24300}),
  'smallnorb_label_elevation': ('smallnorb', ('2.*.*',), {'train': 24300, 'test': 24300}),
}


@pytest.mark.parametrize('name', EXPECTED)
def test_data_set_and_versions(name):
  task = vtab.TASKS[name]
  assert (task.tfds, task.versions) == TFDS[name][:2]


def _splits(name):
  """TFDS's splits of a task's data set, in one file each."""
  splits = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[size],
      num_bytes=0,
      filename_template=tfds.core.ShardedFileTemplate(
        data_dir='.', dataset_name='x', split=split, filetype_suffix='array_record'
      ),
    )
    for split, size in TFDS[name][2].items()
  ]
  return tfds.core.SplitDict(splits)


@pytest.mark.parametrize('name', EXPECTED)
def test_split_expressions_select_the_counted_examples(name):
  task = vtab.TASKS[name]
  splits = _splits(name)
  train, validation, both, test = EXPECTED[name][2]
  assert {key: splits[expression].num_examples for key, expression in task.splits.items()} == {
    'train800': 800,
    'val200': 200,
    'train800val200': 1000,
    'train': train,
    'validation': validation,
    'train_validation': both,
    'test': test,
  }


@pytest.mark.parametrize('name', EXPECTED)
def test_no_test_image_is_among_the_thousand(name):
  splits = _splits(name)

  def places(split):
    parts = splits[vtab.TASKS[name].splits[split]].file_instructions
    return [(p.filename, row) for p in parts for row in range(p.skip, p.skip + p.take)]

  chosen = places('train800') + places('val200')
  assert places('train800val200') == chosen
  assert len(set(chosen)) == 1000
  assert not set(chosen) & set(places('test'))


def _clevr(depths):
  return {'objects': {'pixel_coords': np.array([[1, 2, d] for d in depths], np.float32)}}


@pytest.mark.parametrize(
  ('depth', 'label'),
  [(0.1, 0), (8, 0), (8.01, 1), (8.5, 1), (8.6, 2), (9, 2), (9.1, 3), (9.5, 3), (9.6, 4), (10, 4), (10.1, 5), (99, 5)],
)  # fmt: skip
def test_clevr_distance_is_that_of_the_closest_and_strict(depth, label):
  assert vtab.TASKS['clevr_closest_object_distance'].label(_clevr([120, depth, 101])) == label


def test_clevr_distance_beyond_the_bins_is_the_last():
  label = vtab.TASKS['clevr_closest_object_distance'].label
  assert label(_clevr([100])) == 5  # not below 100


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
    ([(0, 7.99)], 0),
    ([(0, 8.0)], 0),
    ([(2, 8.01)], 1),
    ([(2, 8.5)], 1),
    ([(1, 20.0)], 1),
    ([(1, 20.01)], 2),
    ([(0, 999.0)], 2),
    ([(0, 999.5)], 3),
    ([(0, 70.0), (2, 12.0)], 1),
    ([(3, 2.0), (0, 30.0)], 2),  # a pedestrian is no vehicle
    ([(3, 2.0), (7, 1.0)], 3),
    ([], 3),
  ],
)
def test_kitti_distance_is_that_of_the_closest_vehicle(objects, label):
  assert vtab.TASKS['kitti_closest_vehicle_distance'].label(_kitti(*objects)) == label


def test_dsprites_bins():
  x = vtab.TASKS['dsprites_label_x_position'].label
  turn = vtab.TASKS['dsprites_label_orientation'].label
  assert [x({'label_x_position': i, 'label_orientation': 9}) for i in range(32)] == [
    0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15,
  ]  # fmt: skip
  assert [turn({'label_orientation': i, 'label_x_position': 9}) for i in range(40)] == [
    0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7, 7, 8, 8, 8, 9, 9, 10, 10, 10, 11, 11,
    12, 12, 12, 13, 13, 14, 14, 14, 15, 15,
  ]  # fmt: skip


def test_smallnorb_labels_are_those_named():
  example = {'label_azimuth': 17, 'label_elevation': 8, 'label_category': 1, 'label_lighting': 2}
  assert vtab.TASKS['smallnorb_label_azimuth'].label(example) == 17
  assert vtab.TASKS['smallnorb_label_elevation'].label(example) == 8


PLAIN = {
  'caltech101', 'cifar100', 'dtd', 'oxford_flowers102', 'oxford_iiit_pet', 'sun397', 'svhn',
  'patch_camelyon', 'eurosat', 'resisc45', 'diabetic_retinopathy', 'dmlab',
}  # fmt: skip


def test_the_others_have_the_label_of_the_data_set():
  assert {name for name, task in vtab.TASKS.items() if not task.derived} == PLAIN
  # cifar100 has two.
  example = {'label': 3, 'coarse_label': 1}
  assert {vtab.TASKS[name].label(example) for name in PLAIN} == {3}


def test_images_become_rgb():
  mask = np.array([[[0], [1]]], np.uint8)
  image = vtab.TASKS['dsprites_label_x_position'].image({'image': mask})
  assert image.tolist() == [[[0, 0, 0], [255, 255, 255]]]
  grey = vtab.TASKS['smallnorb_label_azimuth'].image({'image': mask * 7})
  assert grey.tolist() == [[[0, 0, 0], [7, 7, 7]]]
  assert image.dtype == grey.dtype == np.uint8


@pytest.mark.parametrize('name', EXPECTED)
def test_every_task_opens(name):
  spec = f'vtab:{name}' + ('@4.0.0' if name == 'oxford_iiit_pet' else '')
  with tfds.testing.mock_data(num_examples=4):
    for split in vtab.TASKS[name].splits:
      data = open_dataset(spec, split)
      assert data.num_classes == EXPECTED[name][0]
      assert data.labels.shape == (4,)
      if name in PLAIN:
        assert 0 <= data.labels.min() <= data.labels.max() < EXPECTED[name][0]
      assert data.image(3).dtype == np.uint8
      assert data.image(3).shape[-1] == 3


def test_a_version_that_is_not_the_protocols_has_to_be_named(small_tfds, tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    open_dataset('vtab:oxford_iiit_pet', 'test', str(tmp_path))
  assert str(caught.value) == (
    'vtab:oxford_iiit_pet wants version 3.* of oxford_iiit_pet, but this TFDS builds only 4.0.0: write'
    ' vtab:oxford_iiit_pet@4.0.0 to use that, with results that may differ from published ones'
  )
  with pytest.raises(FileNotFoundError, match=r'but prepared is 4\.0\.0: write vtab:oxford_iiit'):
    open_dataset('vtab:oxford_iiit_pet', 'test', str(small_tfds / 'pets4'))
  named = open_dataset('vtab:oxford_iiit_pet@4.0.0', 'test', str(small_tfds / 'pets4'))
  assert named.labels.tolist() == [int(named.image(i)[0, 0, 0]) // 60 for i in range(3)]
  assert named.class_names[:2] == ('Abyssinian', 'american_bulldog')
  with pytest.raises(FileNotFoundError, match=r'wants version 3\.1\.0 .*prepared is 4\.0\.0'):
    open_dataset('vtab:oxford_iiit_pet@3.1.0', 'test', str(small_tfds / 'pets4'))
  # An older one that the protocol allows is read although TFDS builds it no longer.
  assert len(open_dataset('vtab:oxford_iiit_pet', 'test', str(small_tfds / 'pets3'))) == 3


def test_another_version_there_does_not_hide_how_to_prepare_the_right_one(small_tfds, tmp_path):
  made = small_tfds / 'array_record' / 'kitti' / '3.2.0'
  shutil.copytree(made, tmp_path / 'kitti' / '3.0.0')
  with pytest.raises(FileNotFoundError) as caught:
    open_dataset('vtab:kitti_closest_vehicle_distance', 'test', str(tmp_path))
  message = str(caught.value)
  assert '\n' not in message
  assert 'wants version 3.3.0 or 3.2.0 or 3.1.0 of kitti, but prepared is 3.0.0' in message
  assert 'write vtab:kitti_closest_vehicle_distance@3.0.0' in message
  assert "tfds.builder('kitti:3.3.0'" in message


@pytest.mark.parametrize('name', ['svhn@4', 'svhn@', 'svhn@3.*.*', 'svhn@latest'])
def test_what_is_no_version_is_refused(name):
  with pytest.raises(ValueError, match=r'is no version such as svhn@3\.0\.0'):
    open_dataset(f'vtab:{name}', 'test')


@pytest.mark.parametrize('form', ['array_record', 'tfrecord'])
def test_prepared_files_of_either_format_are_read(small_tfds, form):
  name = 'vtab:kitti_closest_vehicle_distance'
  train = open_dataset(name, 'train800val200', str(small_tfds / form))
  both = [open_dataset(name, split, str(small_tfds / form)) for split in ('train800', 'val200')]
  assert [len(data) for data in (train, *both)] == [1000, 800, 200]
  joined = np.concatenate([data.labels for data in both])
  assert (train.labels == joined).all()
  # i / 40 m, strictly above 8 from the 321st on, and below 20 to the end.
  assert np.bincount(both[0].labels).tolist() == [321, 479]
  assert np.bincount(both[1].labels).tolist() == [200]
  for index in (999, 0, 500):
    image = train.image(index)
    assert image.shape == (4, 5, 3)
    assert (image == image[0, 0, 0]).all()


def test_both_formats_hold_the_same_in_the_same_order(small_tfds):
  name = 'vtab:kitti_closest_vehicle_distance'
  first, second = (
    open_dataset(name, 'train800val200', str(small_tfds / form))
    for form in ('array_record', 'tfrecord')
  )
  assert (first.labels == second.labels).all()
  assert all((first.image(i) == second.image(i)).all() for i in range(1000))


def test_tfrecord_test_splits_evaluate_in_order_from_several_threads(small_tfds):
  data = open_dataset(
    'vtab:kitti_closest_vehicle_distance', 'train800', str(small_tfds / 'tfrecord')
  )
  expected = [int(data.image(i)[0, 0, 0]) for i in range(800)]
  seen = []
  for batch in eval_batches(data, np.arange(800), Transform(size=4), 64, threads=8):
    seen += batch['image'][batch['mask']][:, 0, 0, 0].tolist()
  assert seen == expected
  assert len(set(seen)) == 251


@pytest.mark.parametrize('form', ['mock', 'array_record', 'tfrecord'])
def test_reading_does_not_import_tensorflow(small_tfds, form):
  code = f"""
import contextlib, sys
import tensorflow_datasets as tfds
from experts.data.sources import open_dataset
mock = {form!r} == 'mock'
with tfds.testing.mock_data(num_examples=2) if mock else contextlib.nullcontext():
  name = 'vtab:kitti_closest_vehicle_distance'
  data = open_dataset(name, 'train800', '' if mock else {str(small_tfds / form)!r})
  data.labels, data.image(1)
sys.exit('tensorflow' in sys.modules)
"""
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_unknown_names_list_the_known():
  with pytest.raises(
    ValueError, match=r'did you mean caltech101\?.*there are caltech101, cifar100'
  ):
    open_dataset('vtab:caltech', 'train800')
  with pytest.raises(ValueError, match=r"no split 'train1000'; it has train800, val200"):
    open_dataset('vtab:dtd', 'train1000')
