"""A workdir knows what its phases read: other content is refused by name, another path to the same is not."""

import json
import os
import pathlib
import shutil
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from configs import common, predict
from experts import lock
from experts.models import weights
from experts.runs import records
from experts.selection import pool


def _draw(folder: pathlib.Path, names, seed: int) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for i, name in enumerate(names):
    image = np.random.default_rng([seed, i]).integers(0, 255, (8, 8, 3), np.uint8)
    cv2.imwrite(str(folder / name), image)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  for seed, name in enumerate(('blue', 'red')):
    _draw(tmp_path / 'photos' / name, [f'img{i}.png' for i in range(6)], seed)
  return tmp_path / 'photos'


def _config(data: str, pool_path: str = '', phases=('select',)):
  config = common.get_config()
  config.phases = phases
  config.tasks = {'mine': common.task(f'images:{data}', test='', train_images=0)}
  config.pool = pool_path
  return config


@pytest.fixture
def workdir(tmp_path) -> pathlib.Path:
  (tmp_path / 'run' / 'phases').mkdir(parents=True)
  return tmp_path / 'run'


def _begin(config, workdir, phase='select'):
  records.Records(config, str(workdir)).begin(phase)


def _check(config, workdir) -> str:
  """What is refused, without what all refusals share; empty where nothing is."""
  try:
    records.Records(config, str(workdir)).check()
  except ValueError as error:
    start = f"{workdir} holds the phase 'select' of other data: "
    end = '. Take another --workdir, or put back what was there'
    text = str(error)
    assert text.startswith(start)
    assert text.endswith(end)
    return text.removeprefix(start).removesuffix(end)
  return ''


def _edit(path: pathlib.Path, at: int = -20) -> None:
  """Another byte, of a file of the same size and time."""
  status = path.stat()
  data = bytearray(path.read_bytes())
  data[at] ^= 1
  path.write_bytes(data)
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


_CHANGES = {
  'a class more': (
    lambda at: _draw(at / 'green', [f'{i}.png' for i in range(12)], 5),
    "12 images of 'green' are new",
  ),
  'two photos more': (
    lambda at: _draw(at / 'red', ['new0.png', 'new1.png'], 6),
    "2 images of 'red' are new",
  ),
  'both': (
    lambda at: (_draw(at / 'green', ['a.png'], 5), _draw(at / 'red', ['b.png', 'c.png'], 6)),
    "1 image of 'green' is new, 2 images of 'red' are new",
  ),
  'relabelled': (
    lambda at: (at / 'red' / 'img3.png').rename(at / 'blue' / 'other.png'),
    "1 image of 'blue' is new, 1 image of 'red' is gone",
  ),
  'exchanged': (
    lambda at: (
      (at / 'red' / 'img3.png').rename(at / 'x.png'),
      (at / 'blue' / 'img3.png').rename(at / 'red' / 'img3.png'),
      (at / 'x.png').rename(at / 'blue' / 'img3.png'),
    ),
    "images of 'blue' are others, images of 'red' are others",
  ),
  'edited': (lambda at: _edit(at / 'red' / 'img3.png'), "images of 'red' are others"),
  'renamed': (
    lambda at: (at / 'red' / 'img3.png').rename(at / 'red' / 'img9.png'),
    "images of 'red' are others",
  ),
  'a class renamed': (
    lambda at: (at / 'red').rename(at / 'crimson'),
    "6 images of 'crimson' are new, 6 images of 'red' are gone",
  ),
  'an empty class': (lambda at: (at / 'void').mkdir(), "the class 'void' is new"),
}


def test_a_phase_that_reads_no_data_itself_takes_a_copy_of_it_for_the_same(folder, workdir):
  phases = ('select', 'transfer', 'report')
  for phase in phases:
    _begin(_config(folder, phases=phases), workdir, phase)
  copy = folder.with_name('copy')
  shutil.copytree(folder, copy)
  assert _check(_config(copy, phases=phases), workdir) == ''
  assert _check(_config(copy, phases=('report',)), workdir) == ''
  _draw(copy / 'red', ['new.png'], 7)
  for asked in (phases, ('report',)):
    assert (
      _check(_config(copy, phases=asked), workdir) == "tasks.mine.data: 1 image of 'red' is new"
    )


def test_a_split_that_a_task_takes_without_being_told_is_known_too(folder, workdir):
  splits = folder.with_name('splits')
  for split in ('train', 'valid', 'Testing'):
    shutil.copytree(folder, splits / split)
  config = _config(splits)
  _begin(config, workdir)
  assert _check(config, workdir) == ''
  _draw(splits / 'valid' / 'red', ['new.png'], 7)
  assert _check(config, workdir) == "tasks.mine.data: validation: 1 image of 'red' is new"
  os.remove(splits / 'valid' / 'red' / 'new.png')
  _edit(splits / 'Testing' / 'blue' / 'img1.png')
  assert _check(config, workdir) == "tasks.mine.data: test: images of 'blue' are others"


@pytest.fixture
def three(folder) -> pathlib.Path:
  """The same images as splits of their own."""
  for split in ('train', 'validation', 'test'):
    shutil.copytree(folder, folder.with_name('splits') / split)
  return folder.with_name('splits')


@pytest.mark.parametrize(
  ('unread', 'validation', 'test'),
  [('test', 'train', 'train'), ('validation', 'train', ''), ('validation', 'test', '')],
)
def test_a_split_that_a_task_does_not_read_may_change(three, workdir, unread, validation, test):
  config = _config(three)
  config.tasks.mine.update(validation=validation, test=test)
  _begin(config, workdir)
  _draw(three / unread / 'red', ['new.png'], 7)
  assert _check(config, workdir) == ''
  _draw(three / 'train' / 'red', ['new.png'], 8)
  assert "1 image of 'red' is new" in _check(config, workdir)


def test_upstream_reads_the_splits_that_are_configured(three, workdir):
  config = common.get_config()
  config.phases = ('upstream',)
  config.upstream.update(data=f'images:{three}', train='train', test='test')
  _begin(config, workdir, 'upstream')
  _draw(three / 'validation' / 'red', ['new.png'], 7)
  records.Records(config, str(workdir)).check()
  _draw(three / 'test' / 'red', ['new.png'], 8)
  with pytest.raises(ValueError, match=r"upstream\.data: test: 1 image of 'red' is new"):
    records.Records(config, str(workdir)).check()


def test_the_parts_of_a_published_split_are_read_with_it_and_not_again(three, workdir, tmp_path):
  (tmp_path / 'natural6').mkdir()
  three.rename(tmp_path / 'natural6' / 'pets')
  config = _config('unused')
  config.data_dir = str(tmp_path)
  config.tasks.mine.update(data='natural6:pets', train='train_validation', test='test')
  _begin(config, workdir)
  found = json.loads((workdir / 'phases' / 'select.json').read_text())['content']
  parts = {split: sorted(each) for split, each in found['tasks.mine.data'].items()}
  assert parts == {'train_validation': ['blue', 'red'], 'test': ['blue', 'red']}


@pytest.mark.parametrize(('change', 'said'), _CHANGES.values(), ids=_CHANGES)
def test_other_data_is_refused_naming_what_changed(folder, workdir, change, said):
  config = _config(folder)
  _begin(config, workdir)
  assert _check(config, workdir) == ''
  change(folder)
  assert _check(config, workdir) == f'tasks.mine.data: {said}'


def test_of_many_changes_the_first_are_named(folder, workdir):
  config = _config(folder)
  _begin(config, workdir)
  for i in range(8):
    _draw(folder / f'class{i}', ['a.png'], i)
  assert _check(config, workdir).endswith("1 image of 'class4' is new and 3 more")


def test_splits_are_named_where_there_are_several(tmp_path, workdir):
  for split in ('train', 'test'):
    for seed, name in enumerate(('blue', 'red')):
      _draw(tmp_path / 'd' / split / name, ['0.png', '1.png'], seed)
  config = _config(tmp_path / 'd')
  config.tasks.mine.test = 'test'
  _begin(config, workdir)
  _draw(tmp_path / 'd' / 'test' / 'red', ['2.png'], 8)
  assert _check(config, workdir) == "tasks.mine.data: test: 1 image of 'red' is new"


def test_another_label_in_a_table_is_refused(tmp_path, workdir):
  _draw(tmp_path / 't' / 'images', ['a.png', 'b.png', 'c.png', 'd.png'], 1)
  table = tmp_path / 't' / 'labels.csv'
  table.write_text(
    'file,label\n' + ''.join(f'images/{n}.png,{label}\n' for n, label in zip('abcd', 'xxyy'))
  )
  config = _config(tmp_path / 't')
  _begin(config, workdir)
  table.write_text(table.read_text().replace('b.png,x', 'b.png,y'))
  assert _check(config, workdir) == (
    "tasks.mine.data: 1 image of 'x' is gone, 1 image of 'y' is new"
  )


def _spellings(folder: pathlib.Path, home: pathlib.Path):
  link = home / 'link'
  link.symlink_to(folder)
  return (
    f'{folder}/', f'{folder}/.', f'{folder.parent}/./{folder.name}', link,
    os.path.relpath(folder), f'~/{folder.name}', f'{folder}/../{folder.name}',
  )  # fmt: skip


def test_another_spelling_of_a_path_is_the_same_data(folder, workdir, monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  _begin(_config(folder), workdir)
  for spelled in (*_spellings(folder, tmp_path), 'photos'):
    assert _check(_config(spelled), workdir) == ''
  config = _config('photos')
  config.data_dir = str(tmp_path)
  assert _check(config, workdir) == ''


def test_the_same_files_elsewhere_and_at_another_time_are_the_same_data(folder, workdir, tmp_path):
  _begin(_config(folder), workdir)
  for path in folder.rglob('*.png'):
    os.utime(path, (10**9, 10**9))
  assert _check(_config(folder), workdir) == ''
  shutil.copytree(folder, tmp_path / 'copy')
  assert _check(_config(tmp_path / 'copy'), workdir) == ''
  with tarfile.open(tmp_path / 'photos.tar.gz', 'w:gz') as archive:
    archive.add(folder, '.')
  assert _check(_config(tmp_path / 'photos.tar.gz'), workdir) == ''
  with zipfile.ZipFile(tmp_path / 'photos.zip', 'w') as archive:
    for path in sorted(folder.rglob('*.png')):
      archive.write(path, path.relative_to(folder))
  assert _check(_config(tmp_path / 'photos.zip'), workdir) == ''
  # And of a workdir that was moved.
  moved = workdir.rename(tmp_path / 'moved')
  assert _check(_config(folder), moved) == ''


def test_a_phase_before_speaks_for_those_behind_it(folder, workdir):
  config = _config(folder)
  _begin(config, workdir)
  _draw(folder / 'red', ['new.png'], 9)
  config.phases = ('transfer',)
  assert _check(config, workdir) == "tasks.mine.data: 1 image of 'red' is new"


def test_data_that_has_gone_does_not_undo_what_was_made(folder, workdir):
  config = _config(folder)
  _begin(config, workdir)
  shutil.rmtree(folder)
  assert _check(config, workdir) == ''


def test_of_much_data_names_and_sizes_tell(folder, workdir, monkeypatch):
  monkeypatch.setattr('experts.data.contents.WHOLE_BYTES', 100)
  config = _config(folder)
  _begin(config, workdir)
  _edit(folder / 'red' / 'img3.png')
  assert _check(config, workdir) == ''
  with open(folder / 'red' / 'img3.png', 'ab') as file:
    file.write(b'.')
  assert _check(config, workdir) == "tasks.mine.data: images of 'red' are others"


@pytest.fixture
def pool_path(tmp_path) -> pathlib.Path:
  folder = tmp_path / 'old'
  folder.mkdir()
  members = []
  for number, name in enumerate(('a', 'b')):
    tree = {'head': {'kernel': np.full((4, 2), number, np.float32)}}
    weights.save(str(folder / f'{name}.npz'), tree)
    members.append(
      pool.Member(
        name, 'embeddings', '', None, 0, 8, 4, f'{name}.npz', weights.content_hash(tree), size=8
      )
    )
  pool.write(folder / 'pool.json', members, {})
  return folder / 'pool.json'


def test_other_weights_behind_the_same_path_are_refused_by_name(folder, workdir, pool_path):
  config = _config(folder, str(pool_path))
  _begin(config, workdir)
  assert _check(config, workdir) == ''
  weights.save(
    str(pool_path.parent / 'b.npz'), {'head': {'kernel': np.full((4, 2), 7, np.float32)}}
  )
  assert _check(config, workdir) == 'pool: the model b is another'


def test_a_model_more_or_less_is_refused_by_name(folder, workdir, pool_path):
  config = _config(folder, str(pool_path))
  _begin(config, workdir)
  members = pool.read(pool_path)
  pool.write(pool_path, members[:1], {})
  assert _check(config, workdir) == 'pool: the model b is gone'
  pool.write(pool_path, [*members, members[0].__class__(**{**vars(members[0]), 'name': 'c'})], {})
  assert _check(config, workdir) == 'pool: the model c is new'


def test_the_same_pool_elsewhere_or_spelled_otherwise_is_the_same(
  folder, workdir, pool_path, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  _begin(_config(folder, str(pool_path)), workdir)
  for spelled in ('old/pool.json', './old/pool.json', '~/old/pool.json', 'old/../old/pool.json'):
    assert _check(_config(folder, spelled), workdir) == ''
  pool_path.parent.rename(tmp_path / 'moved')
  assert _check(_config(folder, 'moved/pool.json'), workdir) == ''


def test_another_network_to_start_from_is_refused(tmp_path, workdir):
  config = common.get_config()
  config.phases = ('upstream',)
  path = tmp_path / 'start.npz'
  weights.save(str(path), {'head': {'kernel': np.zeros((4, 2), np.float32)}})
  config.upstream.init_from = str(path)
  records.Records(config, str(workdir)).begin('upstream')
  records.Records(config, str(workdir)).check()
  weights.save(str(path), {'head': {'kernel': np.ones((4, 2), np.float32)}})
  with pytest.raises(ValueError, match=r'other data: upstream\.init_from: its content is another'):
    records.Records(config, str(workdir)).check()


def test_other_images_to_predict_are_refused(folder, workdir):
  config = predict.get_config()
  config.update(phases=('predict',), images=str(folder), model='nowhere')
  records.Records(config, str(workdir)).begin('predict')
  _draw(folder, ['more.png'], 3)
  with pytest.raises(ValueError, match='other data: images: 1 image is new'):
    records.Records(config, str(workdir)).check()


def test_a_record_without_content_goes_on_by_its_config(folder, workdir, monkeypatch, tmp_path):
  config = _config(folder)
  _begin(config, workdir)
  path = workdir / 'phases' / 'select.json'
  record = json.loads(path.read_text())
  del record['content']
  record['config']['pool content'] = '0123456789ab'
  path.write_text(json.dumps(record))
  records.Records(config, str(workdir)).check()
  monkeypatch.chdir(tmp_path)
  records.Records(_config('photos/'), str(workdir)).check()
  with pytest.raises(ValueError, match=r'tasks\.mine\.data \(was'):
    records.Records(_config(tmp_path), str(workdir)).check()


def test_a_damaged_record_is_named(folder, workdir):
  path = workdir / 'phases' / 'select.json'
  path.write_text('{"config": ')
  with pytest.raises(ValueError) as error:
    records.Records(_config(folder), str(workdir)).check()
  assert str(error.value) == (f"{path} is damaged: remove it to have the phase 'select' done again")


def test_what_a_run_reads_is_looked_at_once(folder, workdir, monkeypatch):
  read = []
  look = records.sources.open_dataset
  monkeypatch.setattr(
    records.sources, 'open_dataset', lambda *args: read.append(args) or look(*args)
  )
  config = _config(folder, phases=('select', 'transfer'))
  made = records.Records(config, str(workdir))
  made.check()
  for phase in config.phases:
    made.begin(phase)
    made.finish(phase, 1.0)
  assert len(read) == 1


def test_what_the_program_draws_is_not_drawn_to_be_compared(workdir, monkeypatch):
  monkeypatch.setattr(records.sources, 'open_dataset', lambda *args: pytest.fail(f'{args}'))
  config = _config('unused', phases=('upstream', 'select'))
  config.upstream.data = 'glyphs:upstream'
  config.tasks.mine.data = 'glyphs:digits'
  made = records.Records(config, str(workdir))
  made.check()
  made.begin('select')
  assert made.read('select')['content'] == {}


def test_other_results_to_report_are_refused(tmp_path, workdir):
  config = common.get_config()
  config.phases = ('report',)
  config.results = str(workdir)
  (workdir / 'scores.csv').write_text('task,model,score\n')
  records.Records(config, str(workdir)).begin('report')
  # What every run writes is none of them.
  (workdir / 'log.txt').write_text('a line more')
  (workdir / lock.NAME).write_text('{}')
  records.Records(config, str(workdir)).check()
  (workdir / 'scores.csv').write_text('task,model,score\na,b,1\n')
  with pytest.raises(ValueError, match=r'other data: results: the file scores\.csv is another'):
    records.Records(config, str(workdir)).check()


def _all_phases(folder, workdir):
  """A workdir in which every phase has begun, for one config."""
  config = _config(folder)
  for phase in records._CHAIN:
    _begin(config, workdir, phase)
  return config


@pytest.mark.parametrize(
  ('phase', 'change', 'first', 'said'),
  [
    ('transfer', {'seed': 1}, 'upstream', 'seed (was 0, is 1)'),
    ('dat', {'strategy': 'logme'}, 'select', "strategy (was 'knn', is 'logme')"),
    ('dat', {'trials': '1x2'}, 'transfer', "trials (was '10x3', is '1x2')"),
    ('report', {'select.budget': 9}, 'select', 'select.budget (was 1, is 9)'),
    ('select', {'model.depth': 26}, 'upstream', 'model.depth (was 50, is 26)'),
    ('experts', {'upstream.learning_rate': 0.5}, 'upstream', 'upstream.learning_rate (was'),
  ],
)
def test_a_phase_run_alone_goes_on_from_the_same_config_only(
  folder, workdir, phase, change, first, said
):
  config = _all_phases(folder, workdir)
  for later in records._CHAIN[records._CHAIN.index(phase) :]:
    os.remove(workdir / 'phases' / f'{later}.json')
  config.phases = (phase,)
  records.Records(config, str(workdir)).check()
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError) as error:
    records.Records(config, str(workdir)).check()
  start = f'{workdir} holds the phase {first!r} of another config; these fields differ: '
  assert str(error.value).startswith(start)
  assert said in str(error.value)
  assert str(error.value).endswith('. Take another --workdir, or the old values')


@pytest.mark.parametrize(
  ('phase', 'change'),
  [
    # What only a phase behind it, or beside it, reads.
    ('select', {'trials': '1x2', 'transfer.mixups': (0.5,), 'dat.batch_size': 8}),
    ('transfer', {'dat.batch_size': 8, 'domain_predictor.batch_size': 8, 'paper': 'other.csv'}),
    ('report', {'dat.batch_size': 8}),
    ('upstream', {'strategy': 'logme', 'experts.count': 3}),
  ],
)
def test_what_a_phase_does_not_rest_on_may_change(folder, workdir, phase, change):
  config = _all_phases(folder, workdir)
  for later in records._CHAIN[records._CHAIN.index(phase) :]:
    if later == phase or phase == 'upstream':
      os.remove(workdir / 'phases' / f'{later}.json')
  config.phases = (phase,)
  config.update_from_flattened_dict(change)
  records.Records(config, str(workdir)).check()


def test_a_phase_run_alone_knows_data_that_has_moved_by_its_content(folder, workdir, tmp_path):
  config = _config(folder)
  config.upstream.update(data=f'images:{folder}', test='')
  _begin(config, workdir, 'upstream')
  moved = shutil.copytree(folder, tmp_path / 'moved')
  config.upstream.data = f'images:{moved}'
  records.Records(config, str(workdir)).check()
  _draw(moved / 'red', ['new.png'], 3)
  with pytest.raises(ValueError, match=r"upstream' of other data: upstream\.data: .*'red' is new"):
    records.Records(config, str(workdir)).check()


def test_another_pool_or_other_results_stand_in_for_what_is_in_the_workdir(
  folder, workdir, pool_path
):
  config = _config(folder)
  for phase in ('upstream', 'experts'):
    _begin(config, workdir, phase)
  (workdir / 'pool.json').write_bytes(pool_path.read_bytes())
  config.model.depth = 26
  with pytest.raises(ValueError) as error:
    records.Records(config, str(workdir)).check()
  assert str(error.value).endswith(
    f'. Take another --workdir with --config.pool={workdir}/pool.json, or the old values'
  )
  config.pool = str(pool_path)
  records.Records(config, str(workdir)).check()
  _begin(config, workdir, 'select')
  config.phases = ('transfer',)
  records.Records(config, str(workdir)).check()
  config.seed = 1
  with pytest.raises(ValueError, match=r"'select' of another config; .*: seed \(was 0, is 1\)"):
    records.Records(config, str(workdir)).check()
  config.update(phases=('report',), results=str(pool_path.parent))
  records.Records(config, str(workdir)).check()


def test_undecodable_images_of_a_task_may_be_skipped_after_the_pool_is_made(folder, workdir):
  """As the message on them says; the same chain, or selection alone, then goes on."""
  config = _config(folder)
  _begin(config, workdir, 'upstream')
  config.image.undecodable = 'skip'
  for config.phases in (('upstream', 'select'), ('select',)):
    with pytest.raises(ValueError, match=r"image\.undecodable \(was 'raise', is 'skip'\)"):
      records.Records(config, str(workdir)).check()
  config.image.undecodable = 'raise'
  records.Records(config, str(workdir)).finish('upstream', 1.0)
  config.image.undecodable = 'skip'
  for config.phases in (('upstream', 'select'), ('select',)):
    records.Records(config, str(workdir)).check()
  records.Records(config, str(workdir)).finish('upstream', 1.0)
  config.image.undecodable = 'raise'
  with pytest.raises(ValueError, match=r"image\.undecodable \(was 'skip', is 'raise'\)"):
    records.Records(config, str(workdir)).check()
