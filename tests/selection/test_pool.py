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
_MODEL = {'depth': 50, 'width': 1, 'root': 'imagenet', 'size': 224, 'resize': 256}


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
    'size': None,
    'resize': None,
  }


@pytest.mark.parametrize('bad', [_MODEL | {'depth': object()}, _MODEL | {'depth': {1, 2}}])
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
      "unknown kind 'expert'; known: random, baseline, checkpoint, full, adapter, bit, timm, torch, ",
    ),
    ({'kind': 'adapter'}, 'adapters need one, others none'),
    ({'backbone': 'b.npz'}, 'adapters need one, others none'),
    ({'images': '20k'}, "images '20k' must be int"),
    ({}, "kind 'baseline' needs the pool's 'model', which is empty"),
    ({'kind': 'bit'}, "no image size: give it one, or the pool's 'model'"),
    ({'kind': 'bit', 'hash': '', 'size': 224}, 'no hash; only a callable may go without'),
    ({'kind': 'bit', 'size': 224, 'resize': 200}, 'resize 200 is below size 224'),
    ({'kind': 'bit', 'resize': 200}, 'resize 200 without a size'),
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
    pool.write(tmp_path / 'pool.json', [_BASELINE, _ADAPTER, _BASELINE], _MODEL)
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


_OTHERS = [
  dataclasses.replace(_BASELINE, name=name, kind=kind, upstream=upstream, parameters=p, dimension=d, size=96)
  for name, kind, upstream, p, d in (
    ('R50x3', 'bit', 'imagenet21k', 211_000_000, 6144),
    ('mobile', 'callable', 'imagenet2012', 3_500_000, 1280),
    ('bird', 'full', 'glyphs:upstream', 23_500_352, 2048),
  )
]  # fmt: skip


def test_members_of_any_kind_need_no_model_of_ours(tmp_path):
  foreign = [
    dataclasses.replace(_OTHERS[1], name=kind, kind=kind, resize=128)
    for kind in ('bit', 'saved_model', 'callable', 'embeddings')
  ]
  foreign[2] = dataclasses.replace(foreign[2], hash='')
  foreign[3] = dataclasses.replace(foreign[3], size=None, resize=None)
  pool.write(tmp_path / 'pool.json', foreign, {})
  assert pool.read(tmp_path / 'pool.json') == foreign
  assert pool.read_model(tmp_path / 'pool.json') == {}


@pytest.mark.parametrize(
  ('limits', 'names'),
  [
    ({}, 'baseline adapter:ελληνικά R50x3 mobile bird'),
    ({'max_parameters': 23_500_352}, 'baseline adapter:ελληνικά mobile bird'),
    ({'max_dimension': 2048}, 'baseline adapter:ελληνικά mobile bird'),
    ({'max_dimension': 2047}, 'mobile'),
    ({'kinds': ('full', 'adapter')}, 'adapter:ελληνικά bird'),
    ({'upstream': 'imagenet2012'}, 'mobile'),
    ({'upstream': 'glyphs:upstream', 'kinds': ['full']}, 'bird'),
  ],
)
def test_filters_keep_the_members_within_all_limits_in_order(limits, names):
  members = [_BASELINE, _ADAPTER, *_OTHERS]
  assert [member.name for member in pool.filter(members, **limits)] == names.split()


def test_an_empty_pool_is_refused_with_what_emptied_it():
  with pytest.raises(ValueError) as error:
    pool.filter(_OTHERS, max_dimension=2000, kinds=['full', 'bit'])
  assert str(error.value) == (
    'no model of 3 is left by max_dimension=2000 (passes 1), kinds=full,bit (passes 2); '
    "upstreams: 'glyphs:upstream', 'imagenet2012', 'imagenet21k'; kinds: 'bit', 'callable', 'full'"
  )
  with pytest.raises(ValueError, match='unknown kinds expert; known: random, baseline'):
    pool.filter(_OTHERS, kinds=['expert'])
