"""TFRecord files by hand-made bytes."""

import os
import struct
import types

import pytest

from experts.data import tfrecords


def _file(path, records):
  # The two checksums are read by nothing here.
  path.write_bytes(b''.join(struct.pack('<Q', len(r)) + b'len!' + r + b'sum!' for r in records))
  return str(path)


def _part(filename, skip, take):
  return types.SimpleNamespace(filename=filename, skip=skip, take=take)


@pytest.fixture
def parts(tmp_path):
  first = _file(tmp_path / 'a', [b'zero', b'', b'two' * 1000, b'three'])
  second = _file(tmp_path / 'b', [b'four', b'five'])
  return [_part(second, 1, 1), _part(first, 1, 2), _part(first, 0, 0), _part(second, 0, 2)]


def test_records_of_parts_follow_each_other(parts):
  records = tfrecords.Records(parts)
  assert len(records) == 5
  expected = [b'five', b'', b'two' * 1000, b'four', b'five']
  assert [records[i] for i in (4, 3, 2, 1, 0)] == expected[::-1]
  assert list(records) == expected
  for index in (5, -1):
    with pytest.raises(IndexError, match=f'record {index} of 5'):
      records[index]


def test_none_is_none():
  assert len(tfrecords.Records([])) == 0


@pytest.mark.parametrize('cut', [1, 4, 9, 20, 23])
def test_a_file_cut_short_is_named(tmp_path, cut):
  path = _file(tmp_path / 'cut', [b'whole', b'cut off'])
  os.truncate(path, os.path.getsize(path) - cut)
  records = tfrecords.Records([_part(path, 0, 2)])
  with pytest.raises(ValueError, match=r'cut: ends within record 1 of 2') as caught:
    records[0]
  assert '\n' not in str(caught.value)


def test_records_before_the_cut_are_read_where_no_more_is_asked(tmp_path):
  path = _file(tmp_path / 'cut', [b'whole', b'cut off'])
  os.truncate(path, os.path.getsize(path) - 3)
  assert tfrecords.Records([_part(path, 0, 1)])[0] == b'whole'


def test_a_damaged_length_is_an_error(tmp_path):
  path = tmp_path / 'bad'
  _file(path, [b'one', b'two'])
  data = bytearray(path.read_bytes())
  data[5] = 7
  path.write_bytes(data)
  with pytest.raises(ValueError, match='bad: ends within record 0 of 2, or is damaged'):
    tfrecords.Records([_part(str(path), 0, 2)])[1]
