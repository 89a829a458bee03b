"""The six natural data sets: sizes as published, splits, and folders that stand in for TFDS."""

import logging

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from experts.data import natural6
from experts.data.sources import open_dataset

# name: (classes, images to train and validate with, test images, metric, resize, crop). The sizes are those that the data
# sets' authors give: Birdsnap's 49,829 images, Cars' 16,185, Aircraft's 10,000, Food's 101,000, the lists of Pets.
EXPECTED = {
  'aircraft': (100, 6667, 3333, 'accuracy', 512, 480),
  'birdsnap': (500, 47386, 2443, 'accuracy', 512, 480),
  'cars': (196, 8144, 8041, 'accuracy', 512, 480),
  'cifar10': (10, 50000, 10000, 'accuracy', 160, 128),
  'food101': (101, 75750, 25250, 'accuracy', 512, 480),
  'pets': (37, 3680, 3669, 'mean_per_class', 512, 480),
}
# name: (in TFDS, its versions, images to train and to validate with, test split, sizes of TFDS's own splits).
TFDS = {
  'cars': ('cars196', ('2.*.*',), 7330, 814, 'test', {'train': 8144, 'test': 8041}),
  'cifar10': ('cifar10', ('3.*.*',), 45000, 5000, 'test', {'train': 50000, 'test': 10000}),
  'food101': ('food101', ('2.*.*',), 68175, 7575, 'validation', {'train': 75750, 'validation': 25250}),
  'pets': ('oxford_iiit_pet', ('3.*.*', '4.*.*'), 2944, 736, 'test', {'train': 3680, 'test': 3669}),
}  # fmt: skip


def test_there_are_six():
  assert list(natural6.TASKS) == list(EXPECTED)


@pytest.mark.parametrize('name', EXPECTED)
def test_sizes_and_images(name):
  task = natural6.TASKS[name]
  assert task.num_classes == EXPECTED[name][0]
  assert (task.counts['train_validation'], task.counts['test']) == EXPECTED[name][1:3]
  assert (task.metric, task.resize, task.crop) == EXPECTED[name][3:]
  assert task.page.startswith('https://')


def test_aircraft_has_an_official_validation_split():
  counts = natural6.TASKS['aircraft'].counts
  assert (counts['train'], counts['validation']) == (3334, 3333)


@pytest.mark.parametrize('name', TFDS)
def test_tfds_splits(name):
  task = natural6.TASKS[name]
  data_set, versions, train, validation, test, sizes = TFDS[name]
  assert (task.tfds, task.versions) == (data_set, versions)
  splits = tfds.core.SplitDict(
    [
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[size],
        num_bytes=0,
        filename_template=tfds.core.ShardedFileTemplate(
          data_dir='.', dataset_name='x', split=split, filetype_suffix='array_record'
        ),
      )
      for split, size in sizes.items()
    ]
  )
  assert {key: splits[expression].num_examples for key, expression in task.splits.items()} == {
    'train': train,
    'validation': validation,
    'train_validation': train + validation,
    'test': sizes[test],
  }
  assert task.counts == {key: splits[value].num_examples for key, value in task.splits.items()}
  assert task.splits['test'] == test


@pytest.mark.parametrize('name', TFDS)
def test_opens_from_tfds(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # no folder natural6 here
  with tfds.testing.mock_data(num_examples=4):
    for split in ('train', 'validation', 'train_validation', 'test'):
      data = open_dataset(f'natural6:{name}', split)
      assert data.num_classes == EXPECTED[name][0]
      assert 0 <= data.labels.min() <= data.labels.max() < data.num_classes
      assert data.image(3).dtype == np.uint8
      assert data.image(3).shape[-1] == 3
      assert data.where(3) == f'example 3 of natural6:{name} {split}'


def test_any_version_of_pets_will_do(small_tfds):
  for folder in ('pets3', 'pets4'):
    data = open_dataset('natural6:pets', 'test', str(small_tfds / folder))
    assert data.labels.tolist() == [int(data.image(i)[0, 0, 0]) // 60 for i in range(3)]


@pytest.fixture
def folder(tmp_path):
  """Aircraft in two classes: 3 images to train with, 2 to validate, 1 to test; all of different grey."""
  files = ['train/b/1', 'train/a/1', 'train/a/2', 'validation/b/1', 'validation/a/1', 'test/b/1']
  for value, file in enumerate(files):
    path = tmp_path / 'natural6' / 'aircraft' / f'{file}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((3, 4, 3), value, np.uint8))
  return tmp_path


def test_a_folder_is_read(folder, caplog):
  with caplog.at_level(logging.WARNING):
    whole = open_dataset('natural6:aircraft', 'train_validation', str(folder))
  assert 'aircraft train_validation has 2 classes, the papers had 100' in caplog.text
  assert 'has 5 images, the papers had 6667' in caplog.text
  assert whole.class_names == ('a', 'b')
  assert whole.labels.tolist() == [0, 0, 1, 0, 1]
  # Train in the order of its paths, then validation.
  assert [int(whole.image(i)[0, 0, 0]) for i in range(5)] == [1, 2, 0, 4, 3]
  assert whole.where(4).endswith('natural6/aircraft/validation/b/1.png')
  parts = [open_dataset('natural6:aircraft', s, str(folder)) for s in ('train', 'validation')]
  assert [len(part) for part in parts] == [3, 2]
  assert len({data.identify() for data in (whole, *parts)}) == 3
  assert whole.published
  assert not open_dataset(f'images:{folder}/natural6/aircraft', 'train').published
  test = open_dataset('natural6:aircraft', 'test', str(folder))
  assert test.labels.tolist() == [1]


def test_a_folder_stands_in_for_tfds(folder):
  (folder / 'natural6' / 'aircraft').rename(folder / 'natural6' / 'cars')
  assert len(open_dataset('natural6:cars', 'train', str(folder))) == 3


def test_mistakes_are_told_in_a_line(tmp_path, folder):
  with pytest.raises(ValueError, match=r"no task 'pet' in natural6 \(did you mean pets\?\); there"):
    open_dataset('natural6:pet', 'test')
  with pytest.raises(
    ValueError, match="no split 'val'; it has train, validation, train_validation"
  ):
    open_dataset('natural6:pets', 'val')
  with pytest.raises(FileNotFoundError) as caught:
    open_dataset('natural6:birdsnap', 'test', str(tmp_path))
  assert str(caught.value) == (
    'natural6:birdsnap is not in TFDS: download it from https://thomasberg.org/ and lay it out as'
    f' {tmp_path}/natural6/birdsnap/{{train,validation,test}}/CLASS/FILE'
  )
  with pytest.raises(FileNotFoundError, match=r'food101/2\.0\.0 is not prepared.*tfds\.builder\('):
    open_dataset('natural6:food101', 'test', str(tmp_path))
  with pytest.raises(
    FileNotFoundError, match=r'cars has gone from where TFDS downloads it: .*kaggle'
  ):
    open_dataset('natural6:cars', 'test', str(tmp_path / 'nothing'))
  (folder / 'natural6' / 'aircraft' / 'test').rename(folder / 'natural6' / 'aircraft' / 'eval')
  with pytest.raises(ValueError, match="no split 'test'; it has eval, train, validation"):
    open_dataset('natural6:aircraft', 'test', str(folder))
