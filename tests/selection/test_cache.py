"""The cache of embeddings: what is kept is found, and damage is never believed."""

import logging

import numpy as np
import pytest

from experts.selection import cache

_ENTRY = {'embeddings': np.arange(6, dtype=np.float32).reshape(3, 2), 'logits': np.ones((3, 4))}


@pytest.fixture
def kept(tmp_path):
  kept = cache.Cache(tmp_path / 'cache')
  kept.write('ab12', _ENTRY)
  return kept


def _file(tmp_path):
  (path,) = (tmp_path / 'cache').rglob('*.npz')
  return path


def test_what_is_kept_is_found_in_float32(kept, tmp_path):
  found = cache.Cache(tmp_path / 'cache').read('ab12')
  assert found.keys() == _ENTRY.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array, _ENTRY[name])
    assert array.dtype == np.float32
  assert (kept.written, kept.bytes) == (1, _file(tmp_path).stat().st_size)


def test_has_tells_entries_and_their_arrays(kept):
  kept.write('cd', {'embeddings': np.ones((2, 2))})
  found = [
    (kept.has(name, 'embeddings'), kept.has(name, 'logits')) for name in ('ab12', 'cd', 'ef')
  ]
  assert found == [(True, True), (True, False), (False, False)]
  assert kept.read('ef') is None


def test_any_flipped_byte_is_noticed_or_harmless(kept, tmp_path, caplog):
  path = _file(tmp_path)
  whole = path.read_bytes()
  refused = 0
  for place in range(len(whole)):
    damaged = bytearray(whole)
    damaged[place] ^= 0x55
    path.write_bytes(damaged)
    assert kept.has('ab12', 'embeddings') in (True, False)
    found = kept.read('ab12')
    refused += found is None
    for name, array in (found or {}).items():
      # A damaged name hides its array: the entry then lacks it.
      if name in _ENTRY:
        np.testing.assert_array_equal(array, _ENTRY[name])
  assert refused > 0.5 * len(whole)
  warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
  assert len(warnings) == refused
  assert 'ab12.npz is damaged' in warnings[0].getMessage()
  assert 'computing it anew' in warnings[0].getMessage()


@pytest.mark.parametrize('length', [0, 1, 100, -1])
def test_a_file_cut_short_is_computed_anew(kept, tmp_path, length):
  path = _file(tmp_path)
  path.write_bytes(path.read_bytes()[:length])
  assert kept.has('ab12', 'logits')
  assert kept.read('ab12') is None
  kept.write('ab12', _ENTRY)
  assert kept.read('ab12').keys() == _ENTRY.keys()


def test_a_folder_that_cannot_be_written_is_said_and_nothing_else(tmp_path, caplog):
  (tmp_path / 'file').write_text('')
  kept = cache.Cache(tmp_path / 'file')
  kept.write('ab12', _ENTRY)
  assert kept.written == 0
  assert 'cannot be written' in caplog.text


def test_failed_write_leaves_no_file(kept, tmp_path):
  (tmp_path / 'cache' / 'cd' / 'cd34.npz').mkdir(parents=True)
  kept.write('cd34', _ENTRY)
  assert [path.name for path in (tmp_path / 'cache' / 'cd').iterdir()] == ['cd34.npz']


def test_keys_differ_with_any_part_of_the_content():
  parts = ['network', 'hash', '', 'float32', 224, 256, 'images']
  keys = {cache.key(*parts)}
  for i in range(len(parts)):
    keys.add(cache.key(*parts[:i], 'other', *parts[i + 1 :]))
  assert len(keys) == len(parts) + 1
  assert cache.key('a', 'bc') != cache.key('ab', 'c')
  assert cache.key(*parts) == cache.key(*parts)
