"""Folders of the kinds that people report trouble with, as `../shared/cases/intake/make_cases.py` writes them."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from experts.data.sources import UndecodableImage, open_dataset

SCRIPT = pathlib.Path(__file__).resolve().parents[2].parent / 'shared/cases/intake/make_cases.py'

# Case -> the splits' images, the classes, what is left out, a note, the names of files that cannot be read.
READ = {
  'split_tvt': ({'train': 24, 'validation': 10, 'test': 10}, 'blue red', {}, 'valid/ is taken', ''),
  'one_subfolder': ({'train': 24}, 'blue red', {'in a folder below a class': 3}, 'red/more/: 3', ''),
  'system_folders': ({'train': 24}, 'blue red', {'system files': 2}, '', ''),
  'heic_mixed': (
    {'train': 24}, 'blue red', {'.HEIC (needs pillow-heif)': 30, 'no suffix': 10}, '', '',
  ),
  'latin1_class': ({'train': 24}, r'blue caf\xe9', {}, '', ''),
  'latin1_files': ({'train': 24}, 'blue red', {}, '', ''),
  'broken_link': ({'train': 31}, 'blue red', {}, '', 'red/link.jpg'),
  'broken_test_image': ({'train': 30}, 'blue red', {}, '', 'blue/img7.jpg'),
  'several_broken': (
    {'train': 34}, 'blue red', {}, '', 'blue/cut2.jpg red/cut.jpg red/page.jpg red/zero.jpg',
  ),
  'exif': ({'train': 40, 'turned': 20, 'upright': 20}, 'across along', {}, '', ''),
  'icons_transparent': ({'train': 40}, 'ellipse rectangle', {}, '', ''),
  'grey_12bit': ({'train': 40}, 'coarse fine', {}, 'uint16 samples are scaled alike', ''),
  'float_tiff': ({'train': 16}, 'a b', {}, 'float32 samples are scaled alike', ''),
  'huge_png': ({'train': 25}, 'blue red', {}, '', 'red/map.png'),
  'labels_csv': ({'train': 24}, 'blue red', {}, '', ''),
  'archives/data/flower_photos.tgz': ({'train': 12}, 'blue red', {}, 'flower_photos/ is entered', ''),
  'archives/data/flower_photos.zip': ({'train': 12}, 'blue red', {}, 'flower_photos/ is entered', ''),
}  # fmt: skip


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
  if not SCRIPT.exists():
    pytest.skip('needs ../shared/cases')
  out = tmp_path_factory.mktemp('cases')
  names = {name.partition('/')[0] for name in READ} | {'kaggle_flat'}
  subprocess.run([sys.executable, SCRIPT, out, *sorted(names)], check=True, capture_output=True)
  return out


def _open(cases, name, split='train'):
  return open_dataset(f'images:{cases / name}{"" if "/" in name else "/data"}', split)


@pytest.mark.parametrize('name', READ)
def test_each_case_is_read_as_its_readme_says(cases, name, monkeypatch):
  monkeypatch.setattr('experts.data.pixels.pillow_heif', None)
  splits, classes, left_out, note, unread = READ[name]
  found = []
  for split, number in splits.items():
    data = _open(cases, name, split)
    assert (len(data), ' '.join(data.class_names)) == (number, classes)
    assert (data.intake.splits, data.intake.left_out) == (splits, left_out)
    assert note in ' '.join(data.intake.notes)
    for index in range(len(data)):
      try:
        assert data.image(index).dtype == np.uint8
      except UndecodableImage as error:
        found.append(str(error).partition('/data/')[2].partition(': ')[0])
  assert ' '.join(found) == unread


def test_kaggles_flat_folders_are_refused_with_what_to_do(cases):
  with pytest.raises(ValueError, match=re.escape('"train/cat.0.jpg,cat"')):
    _open(cases, 'kaggle_flat')


def test_turned_photos_are_as_upright_ones(cases):
  upright, turned = (_open(cases, 'exif', split) for split in ('upright', 'turned'))
  for index in range(len(upright)):
    # Compressed in another direction, so not to the bit.
    difference = upright.image(index).astype(int) - turned.image(index)
    assert np.abs(difference).mean() < 3


def test_what_told_the_classes_apart_is_still_there(cases):
  icons = _open(cases, 'icons_transparent')
  assert {icons.image(i).max() for i in range(40)} == {255}
  assert {icons.image(i).min() for i in range(40)} == {0}
  grey = _open(cases, 'grey_12bit')
  # 52 to 519 of 1,023, over more levels than the three that are left of 8 of 16 bits.
  assert all(len(np.unique(grey.image(i))) > 60 for i in range(40))
  floats = _open(cases, 'float_tiff')
  means = [floats.image(i).mean() for i in range(16)]
  assert max(means[:8]) < 80 < 110 < min(means[8:])
