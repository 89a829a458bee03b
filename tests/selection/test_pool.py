"""The pool file: what it holds, how it is written, and which faults it names."""

import dataclasses
import json

import pytest

from experts.selection import pool

_BASELINE = pool.Member(
  name='baseline',
  kind='baseline',
  upstream='glyphs:upstream',
  slice=None,
  images=20_000,
  parameters=23_500_352,
  dimension=2048,
  weights='weights/baseline.npz',
  hash='ab12',
)
_ADAPTER = dataclasses.replace(
  _BASELINE,
  name='adapter:ελληνικά',
  kind='adapter',
  slice='greek',
  weights='weights/adapter.npz',
  backbone='weights/baseline.npz',
  definition='of Greece',
  labels={'α': 7},
  imagenet_accuracy=0.768,
)
_MODEL = {'depth': 50, 'width': 1, 'root': 'imagenet'}


def test_what_is_written_is_read(tmp_path):
  pool.write(tmp_path / 'pool.json', [_BASELINE, _ADAPTER], _MODEL)
  assert pool.read(tmp_path / 'pool.json') == [_BASELINE, _ADAPTER]
  assert pool.read_model(tmp_path / 'pool.json') == _MODEL


def test_file_is_json_that_a_person_can_open(tmp_path):
  pool.write(tmp_path / 'pool.json', [_BASELINE], _MODEL)
  text = (tmp_path / 'pool.json').read_text()
  assert text.startswith('{\n  "model": {\n    "depth": 50,')
  assert json.loads(text)['members'][0] == {
    'name': 'baseline',
    'kind': 'baseline',
    'upstream': 'glyphs:upstream',
    'slice': None,
    'images': 20000,
    'parameters': 23500352,
    'dimension': 2048,
    'weights': 'weights/baseline.npz',
    'hash': 'ab12',
    'backbone': None,
    'trained_from': None,
    'definition': None,
    'labels': None,
    'imagenet_accuracy': None,
  }


@pytest.mark.parametrize('bad', [{'depth': object()}, {'depth': {1, 2}}])
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, bad):
  pool.write(tmp_path / 'pool.json', [_BASELINE], _MODEL)
  with pytest.raises(TypeError):
    pool.write(tmp_path / 'pool.json', [_ADAPTER], bad)
  assert pool.read(tmp_path / 'pool.json') == [_BASELINE]
  assert [path.name for path in tmp_path.iterdir()] == ['pool.json']


def test_failed_rename_leaves_nothing_behind(tmp_path):
  (tmp_path / 'pool.json').mkdir()
  with pytest.raises(OSError):
    pool.write(tmp_path / 'pool.json', [_BASELINE], _MODEL)
  assert [path.name for path in tmp_path.iterdir()] == ['pool.json']


def test_missing_file_says_what_makes_it(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no pool at .*nowhere.json; the phases 'upstream'"):
    pool.read(tmp_path / 'nowhere.json')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'kind': 'expert'},
      "unknown kind 'expert'; known: random, baseline, checkpoint, full, adapter, bit",
    ),
    ({'kind': 'adapter'}, 'adapters need one, others none'),
    ({'backbone': 'b.npz'}, 'adapters need one, others none'),
    ({'images': '20k'}, "images '20k' must be int"),
  ],
)
def test_inconsistent_members_are_neither_written_nor_read(tmp_path, change, message):
  path = tmp_path / 'pool.json'
  entry = dataclasses.asdict(_BASELINE) | change
  text = json.dumps({'model': {}, 'members': [entry]})
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    pool.read(path)
  with pytest.raises(ValueError, match=message):
    pool.write(path, [dataclasses.replace(_BASELINE, **change)], {})
  assert path.read_text() == text


def test_names_must_differ(tmp_path):
  with pytest.raises(ValueError, match='several members named baseline'):
    pool.write(tmp_path / 'pool.json', [_BASELINE, _ADAPTER, _BASELINE], {})
  assert not (tmp_path / 'pool.json').exists()


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    ({'weight': 'x'}, r'member 0 \(baseline\) has unknown fields weight; known: name, kind, upstr'),
    ({'hash': ...}, r'member 0 \(baseline\) lacks the fields hash'),
  ],
)
def test_fields_must_be_the_known_ones(tmp_path, entry, message):
  entry = {k: v for k, v in (dataclasses.asdict(_BASELINE) | entry).items() if v is not ...}
  (tmp_path / 'pool.json').write_text(json.dumps({'model': {}, 'members': [entry]}))
  with pytest.raises(ValueError, match=message):
    pool.read(tmp_path / 'pool.json')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"model": {', 'is no JSON file'),
    ('[]', "must hold an object 'model' and a list 'members'"),
    ('{"members": []}', "must hold an object 'model'"),
    ('{"model": {}, "members": [3]}', 'member 0 must be an object, not 3'),
  ],
)
def test_other_files_are_refused(tmp_path, text, message):
  (tmp_path / 'pool.json').write_text(text)
  with pytest.raises(ValueError, match=message):
    pool.read(tmp_path / 'pool.json')


def test_an_expert_of_another_baseline_is_refused(tmp_path):
  own = dataclasses.replace(_ADAPTER, trained_from='ab12')
  pool.write(tmp_path / 'pool.json', [_BASELINE, own], _MODEL)
  foreign = dataclasses.replace(_ADAPTER, trained_from='cd34')
  with pytest.raises(
    ValueError, match=r'adapter:ελληνικά was trained from .* cd34, .* baseline \(ab12\)'
  ):
    pool.write(tmp_path / 'pool.json', [_BASELINE, foreign], _MODEL)
