"""What the doctor says of data that is there, in part there, and not there."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from experts.data import doctor, natural6, vtab

# Of the six, those that TFDS cannot download.
BY_HAND = ('aircraft', 'birdsnap', 'cars')


def _row(name, data_dir):
  return doctor.examine([name], str(data_dir))[0]


def _resize(folder, sizes):
  """Has dataset_info.json claim other sizes."""
  path = folder / 'dataset_info.json'
  info = json.loads(path.read_text())
  for split in info['splits']:
    split['shardLengths'] = [str(sizes[split['name']])]
  path.write_text(json.dumps(info))


@pytest.fixture
def kitti(small_tfds, tmp_path):
  """A data_dir with kitti of the right size, as far as its description goes; and its version's folder."""
  shutil.copytree(small_tfds / 'tfrecord', tmp_path, dirs_exist_ok=True)
  folder = tmp_path / 'kitti' / '3.2.0'
  _resize(folder, {'train': 6347, 'validation': 423, 'test': 711})
  return folder


def test_all_25_tasks_are_listed(tmp_path):
  rows = doctor.examine(data_dir=str(tmp_path))
  assert [row.task for row in rows] == [f'vtab:{name}' for name in vtab.TASKS] + [
    f'natural6:{name}' for name in natural6.TASKS
  ]
  assert {row.state for row in rows} == {'missing'}
  for row in rows:
    assert row.bytes == 0
    assert (f"data_dir='{tmp_path}'" in row.command) != (row.task[9:] in BY_HAND)
  assert {row.task: row.manual for row in rows if row.manual} == {
    'vtab:resisc45': 'https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs',
    'vtab:diabetic_retinopathy': 'https://www.kaggle.com/c/diabetic-retinopathy-detection/data',
    'natural6:aircraft': 'https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/',
    'natural6:birdsnap': 'https://thomasberg.org/',
    'natural6:cars': 'https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset',
  }
  for row in rows:
    if row.task[9:] in BY_HAND:
      assert f'lay it out as {tmp_path}/{row.task.replace(":", "/")}/{{train,val' in row.note


def test_what_is_prepared(kitti):
  row = _row('kitti_closest_vehicle_distance', kitti.parents[1])
  assert (row.state, row.version, row.format) == ('prepared', '3.2.0', 'tfrecord')
  assert row.folder == str(kitti)
  assert row.bytes == sum(path.stat().st_size for path in kitti.iterdir())
  assert (row.command, row.note) == ('', '')
  assert '1 of 1 tasks are prepared' in doctor.render([row])


def test_other_sizes_than_the_papers(small_tfds):
  row = _row('kitti_closest_vehicle_distance', small_tfds / 'array_record')
  assert (row.state, row.format) == ('other sizes', 'array_record')
  assert row.note == 'train has 800 images, the papers had 6347'


def test_files_that_are_gone_or_empty(kitti):
  gone = kitti / 'kitti-test.tfrecord-00000-of-00001'
  gone.unlink()
  (kitti / 'kitti-train.tfrecord-00000-of-00001').write_bytes(b'')
  row = _row('kitti_closest_vehicle_distance', kitti.parents[1])
  assert row.state == 'damaged'
  assert row.note.startswith('2 of 3 files, ')
  assert f'remove {kitti}' in row.note
  assert "tfds.builder('kitti:3.2.0'" in row.command


def test_a_description_that_cannot_be_read(kitti):
  (kitti / 'dataset_info.json').write_text('{"name": ')
  rows = doctor.examine(['dtd', 'kitti_closest_vehicle_distance'], str(kitti.parents[1]))
  assert [row.state for row in rows] == ['missing', 'damaged']
  assert rows[1].note
  assert '\n' not in rows[1].note


def test_what_was_broken_off(tmp_path):
  begun = tmp_path / 'dtd' / 'incomplete.QXYZAB_3.0.1'
  begun.mkdir(parents=True)
  (begun / 'part').write_bytes(b'x' * 100)
  row = _row('dtd', tmp_path)
  assert (row.state, row.bytes) == ('unfinished', 100)
  assert str(begun) in row.note
  assert "tfds.builder('dtd:3.0.1'" in row.command


def test_another_version_than_the_protocols(small_tfds, tmp_path):
  note = 'the protocol has 3.*: write vtab:oxford_iiit_pet@4.0.0 to use 4.0.0'
  row = _row('oxford_iiit_pet', tmp_path)
  assert (row.state, row.version, row.note) == ('missing', '4.0.0', note)
  there = tmp_path / 'there'
  shutil.copytree(small_tfds / 'pets4', there)
  _resize(there / 'oxford_iiit_pet' / '4.0.0', {'train': 3680, 'test': 3669})
  row, six = doctor.examine(['vtab:oxford_iiit_pet', 'natural6:pets'], str(there))
  assert (row.state, row.version, row.note) == ('other version', '4.0.0', note)
  assert (six.state, six.version, six.note) == ('prepared', '4.0.0', '')
  assert note in doctor.render([row, six])


def test_folders_of_the_six(tmp_path):
  folder = tmp_path / 'natural6' / 'aircraft'
  for split, number in {'train': 3334, 'validation': 3333, 'test': 3333}.items():
    (folder / split / 'a').mkdir(parents=True)
    for i in range(number):
      (folder / split / 'a' / f'{i}.jpg').touch()
  (folder / 'test' / 'a' / '0.jpg').write_bytes(b'x' * 7)
  row = _row('aircraft', tmp_path)
  assert (row.state, row.format, row.bytes) == ('prepared', 'folder', 7)
  (folder / 'test' / 'a' / '1.jpg').unlink()
  row = _row('aircraft', tmp_path)
  assert row.state == 'other sizes'
  assert row.note == 'test has 3332 images, the papers had 3333'
  shutil.rmtree(folder / 'validation')
  row = _row('aircraft', tmp_path)
  assert row.state == 'damaged'
  assert row.note == f'{folder} holds no validation/CLASS/FILE'


def test_shared_data_sets_are_told_once(tmp_path):
  text = doctor.render(doctor.examine(data_dir=str(tmp_path)))
  assert text.count("tfds.builder('clevr:") == 1
  assert 'vtab:clevr_count_all, vtab:clevr_closest_object_distance: not there (at most' in text
  assert '0 of 25 tasks are prepared' in text
  assert text.splitlines()[-1].startswith('Next: ')


def test_what_to_do_next(small_tfds, kitti):
  rows = doctor.examine(['kitti_closest_vehicle_distance'], str(kitti.parents[1]))
  assert 'Next: python main.py --config=configs/vtab_knn.py' in doctor.render(rows)
  rows += doctor.examine(['dtd'], str(kitti.parents[1]))
  assert '--config=configs/vtab_knn.py:kitti_closest_vehicle_distance' in doctor.render(rows)


def _run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experts.data.doctor', *arguments],
    check=False,
    capture_output=True,
    text=True,
  )


def test_the_command_line(kitti):
  done = _run(f'--data_dir={kitti.parents[1]}', '--tasks=vtab,pets')
  assert done.returncode == 0
  assert re.search(
    r'^vtab:kitti_closest_vehicle_distance +structured +prepared +3\.2\.0 +tfrecord +0\.\d MiB$',
    done.stdout,
    re.MULTILINE,
  )
  assert '1 of 20 tasks are prepared' in done.stdout
  done = _run(f'--data_dir={kitti.parents[1]}', '--json')
  rows = json.loads(done.stdout)
  assert len(rows) == 25
  assert [row['task'] for row in rows if row['state'] == 'prepared'] == [
    'vtab:kitti_closest_vehicle_distance'
  ]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--tasks=caltech'], "no task 'caltech' (did you mean caltech101?); there are vtab, natural6"),
    ([f'--data_dir={__file__}'], 'test_doctor.py is a file: --data_dir is the folder'),
    (['dtd'], "'dtd' is no flag; did you mean --tasks=dtd?"),
  ],
)
def test_mistyped(arguments, message):
  done = _run(*arguments)
  assert done.returncode == 1
  assert message in done.stderr
  assert done.stderr.count('\n') == 1


def test_tensorflow_is_not_imported(kitti):
  code = (
    'import sys; from experts.data import doctor\n'
    f'doctor.render(doctor.examine(data_dir={str(kitti.parents[1])!r}))\n'
    "sys.exit('tensorflow' in sys.modules)"
  )
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
