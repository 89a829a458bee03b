"""Preparing ImageNet-21k and private sets: what comes out, restarts, faults."""

import collections
import csv
import fcntl
import io
import os
import signal
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from experts.data import archives, hierarchy, slices
from experts.data.imagenet21k import Images, build
from experts.data.sources import open_dataset

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / 'shared' / 'data'
needs_data = pytest.mark.skipif(not SHARED.exists(), reason='needs ../shared/data')


def _jpeg(value: int) -> bytes:
  return cv2.imencode('.jpg', np.full((6, 5, 3), value, np.uint8))[1].tobytes()


def _tar(files: dict[str, bytes]) -> bytes:
  """A tar; a value that is a header stands for itself, such as a link."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as tar:
    for name, data in files.items():
      if isinstance(data, tarfile.TarInfo):
        tar.addfile(data)
        continue
      header = tarfile.TarInfo(name)
      header.size = len(data)
      tar.addfile(header, io.BytesIO(data))
  return buffer.getvalue()


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
  header = tarfile.TarInfo(name)
  header.type, header.linkname = kind, target
  return header


def _write(root: Path, classes: dict[str, dict[str, bytes]], kind: str) -> Path:
  """Classes as a tar of tars, as a folder of tars, or as folders."""
  path = root / kind
  if kind == 'tar of tars':
    path.write_bytes(_tar({f'whole/{name}.tar': _tar(files) for name, files in classes.items()}))
    return path
  for name, files in classes.items():
    if kind == 'folder of tars':
      path.mkdir(exist_ok=True)
      (path / f'{name}.tar').write_bytes(_tar(files))
    else:
      (path / 'group' / name).mkdir(parents=True)
      for file, data in files.items():
        (path / 'group' / name / file).write_bytes(data)
  return path


def _toy(number: int = 8) -> dict[str, dict[str, bytes]]:
  return {
    name: {f'{name}_{i}.JPEG': _jpeg(40 * c + i) for i in range(number)}
    for c, name in enumerate(('ant', 'bee', 'cow'))
  }


@pytest.fixture
def edges(tmp_path) -> str:
  (tmp_path / 'is-a.txt').write_text('ant\tinsect\nbee\tinsect\ninsect\tanimal\n\ncow\tanimal\n')
  return str(tmp_path / 'is-a.txt')


def _examples(folder: Path, split: str) -> list[dict]:
  """The examples as TFDS gives them, images as they are stored."""
  source = tfds.builder_from_directory(str(folder)).as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  return [source[i] for i in range(len(source))]


def _content(folder: Path) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


# ImageNet's own form, from real images.


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> tuple[Path, dict[str, dict[str, bytes]]]:
  """Twelve images of every class of tiny-imagenet, as a tar of tars."""
  if not SHARED.exists():
    pytest.skip('needs ../shared/data')
  classes = collections.defaultdict(dict)
  with tarfile.open(SHARED / 'tiny-imagenet' / 'tiny-imagenet-sub.tar.gz') as tar:
    for member in tar:
      split, *rest = member.name.split('/')
      if member.isfile() and split == 'train' and len(classes[rest[0]]) < 12:
        classes[rest[0]][rest[1]] = tar.extractfile(member).read()
  classes = dict(sorted(classes.items()))
  return _write(tmp_path_factory.mktemp('tiny'), classes, 'tar of tars'), classes


@pytest.fixture(scope='module')
def built(tiny, tmp_path_factory) -> Path:
  return build(
    Images(str(tiny[0]), nouns=str(SHARED / 'wordnet')),
    str(tmp_path_factory.mktemp('built')),
    validation=0.2,
    processes=2,
    number_of_shards=24,
  )


def test_tiny_imagenet_opens_by_name_with_its_hierarchy(built, tiny):
  data_dir = str(built.parents[1])
  train, test = (open_dataset('tfds:imagenet21k', s, data_dir) for s in ('train', 'validation'))
  assert len(train) + len(test) == 2400
  assert 0.16 < len(test) / 2400 < 0.24
  assert train.class_names == test.class_names == tuple(tiny[1])
  tree = hierarchy.from_edges(train.edges, train.class_names)
  assert tree.num_leaves == 200
  assert len(tree.nodes) - tree.num_leaves == 343
  assert (tree.table >= 0).sum(1).mean() - 1 == pytest.approx(10.7, abs=0.05)
  assert slices.counts(train.labels, tree)[tree.index('n00001740')] == len(train)
  assert train.definitions['n02124075'] == 'Egyptian cat: a domestic cat of Egypt'
  assert set(train.definitions) == set(tree.nodes)
  assert train.image(0).shape == (64, 64, 3)


def test_every_image_is_stored_once_as_it_was_with_the_labels_that_training_sees(built, tiny):
  data_dir, classes = str(built.parents[1]), tiny[1]
  seen = set()
  for split in ('train', 'validation'):
    dataset = open_dataset('tfds:imagenet21k', split, data_dir)
    tree = hierarchy.from_edges(dataset.edges, dataset.class_names)
    for i, example in enumerate(_examples(built, split)):
      _, wnid, file = example['file_name'].decode().split('/')
      wnid = wnid.removesuffix('.tar')
      seen.add((wnid, file))
      assert example['image'] == classes[wnid][file]
      assert dataset.class_names[example['label']] == wnid
      assert dataset.label(i) == example['label']
      assert example['labels'] == [node for node in tree.table[example['label']] if node >= 0]
  assert seen == {(wnid, file) for wnid, files in classes.items() for file in files}


def test_parts_of_a_split_have_their_labels(built):
  data_dir = str(built.parents[1])
  whole = open_dataset('tfds:imagenet21k', 'train', data_dir).labels
  part = open_dataset('tfds:imagenet21k', 'train[300:900]+train[5:10]', data_dir)
  assert part.labels.tolist() == [*whole[300:900], *whole[5:10]]


def test_plain_tfds_reads_it_without_tensorflow(built):
  program = (
    'import sys, tensorflow_datasets as tfds\n'
    "source = tfds.data_source('imagenet21k', split='validation', data_dir=sys.argv[1])\n"
    "print(source[0]['image'].shape, len(source[0]['labels']) > 1, 'tensorflow' in sys.modules)"
  )
  data_dir = str(built.parents[1])
  run = subprocess.run([sys.executable, '-c', program, data_dir], capture_output=True, text=True)
  assert run.stdout.strip() == '(64, 64, 3) True False', run.stderr


KILLED = """
import sys
from experts.data.imagenet21k import Images, build
if __name__ == '__main__':
  archive, out, nouns = sys.argv[1:]
  build(Images(archive, nouns=nouns), out, validation=0.2, processes=1, number_of_shards=24)
"""


def test_killed_and_restarted_gives_the_same_bytes(built, tiny, tmp_path):
  (tmp_path / 'killed.py').write_text(KILLED)
  command = [sys.executable, 'killed.py', str(tiny[0]), 'out', str(SHARED / 'wordnet')]
  begun = tmp_path / 'out' / 'imagenet21k' / '1.0.0.incomplete'
  records = lambda: sorted((begun / 'shards').glob('*.json'))
  for complete in (1, 3):
    process = subprocess.Popen(
      command, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}, stderr=subprocess.DEVNULL
    )
    while len(records()) < complete and process.poll() is None:
      pass
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert 3 <= len(records()) < 24
  with pytest.raises(FileNotFoundError, match=r'incomplete is unfinished\); run: python -m'):
    open_dataset('tfds:imagenet21k', 'train', str(tmp_path / 'out'))
  # Left by a stopped process, and by an attempt with other settings.
  (begun / 'imagenet21k-train.array_record-00000-of-00009.writing').write_text('left over')
  (begun / 'imagenet21k-train.array_record-00000-of-00009').write_text('left over')
  build(
    Images(str(tiny[0]), nouns=str(SHARED / 'wordnet')),
    str(tmp_path / 'out'),
    validation=0.2,
    processes=2,
    number_of_shards=24,
  )
  assert _content(begun.with_name('1.0.0')) == _content(built)


# Any images with an is-a file.


@needs_data
def test_grocery_photographs_by_an_is_a_file(tmp_path):
  ids, top = {}, {}
  with tarfile.open(SHARED / 'grocery64' / 'grocery64.tar.gz') as tar:
    for member in tar:
      if member.isfile() and member.name.startswith('train/'):
        *folders, file = member.name.split('/')
        (tmp_path / 'images' / Path(*folders[1:])).mkdir(parents=True, exist_ok=True)
        (tmp_path / 'images' / Path(*folders[1:]) / file).write_bytes(
          tar.extractfile(member).read()
        )
  for line in (SHARED / 'grocery64' / 'train.txt').read_text().splitlines():
    path, fine, coarse = line.split(', ')
    ids[path.split('/')[-1]] = int(fine)
    top[coarse] = path.split('/')[1]
  lines = set()
  with open(SHARED / 'grocery64' / 'classes.csv') as file:
    for fine, _, _, coarse, *_ in list(csv.reader(file))[1:]:
      lines |= {f'{fine}\tcoarse {coarse}\n', f'coarse {coarse}\ttop {top[coarse]}\n'}
  (tmp_path / 'is-a.txt').write_text(''.join(sorted(lines)))
  run = subprocess.run(
    [
      *(sys.executable, '-m', 'experts.data.imagenet21k', '--archive=images', '--out=out'),
      *('--name=grocery', '--edges=is-a.txt', '--validation=0.1', '--processes=1'),
    ],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout == 'out/grocery/1.0.0\n'
  train, test = (
    open_dataset('tfds:grocery', s, str(tmp_path / 'out')) for s in ('train', 'validation')
  )
  assert len(train) + len(test) == 2640
  tree = hierarchy.from_edges(train.edges, train.class_names)
  assert tree.num_leaves == 81
  # classes.csv numbers them from 0 to 42, although 42 are announced.
  assert sum(name.startswith('coarse ') for name in tree.nodes) == 43
  assert sum(name.startswith('top ') for name in tree.nodes) == 3
  assert len(tree.nodes) == 127
  # The published class numbers give the same partition of the images.
  pairs = {
    (ids[example['file_name'].decode().split('/')[-1]], example['label'])
    for example in _examples(tmp_path / 'out' / 'grocery' / '1.0.0', 'train')
  }
  assert len(pairs) == len(dict(pairs)) == 81


@pytest.mark.parametrize('kind', ['tar of tars', 'folder of tars', 'folder of folders'])
def test_every_form_of_the_source_gives_the_same_images(tmp_path, edges, kind):
  path = _write(tmp_path, _toy(), kind)
  folder = build(Images(str(path), edges=edges), str(tmp_path), validation=0.3, processes=1)
  held_out = {e['file_name'].decode().split('/')[-1] for e in _examples(folder, 'validation')}
  assert held_out == {'ant_2.JPEG', 'bee_2.JPEG', 'bee_7.JPEG', 'cow_2.JPEG'}
  examples = _examples(folder, 'train') + _examples(folder, 'validation')
  names = ('ant', 'bee', 'cow', 'animal', 'insect')
  assert sorted((e['image'], [names[node] for node in e['labels']]) for e in examples) == sorted(
    (image, [name, 'animal', *(['insect'] if name != 'cow' else [])])
    for name, files in _toy().items()
    for image in files.values()
  )


def test_every_class_trains_whatever_is_held_out(tmp_path, edges):
  path = _write(tmp_path, _toy(), 'tar of tars')
  build(Images(str(path), edges=edges), str(tmp_path), validation=0.999, processes=1)
  assert open_dataset('tfds:imagenet21k', 'train', str(tmp_path)).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize('kind', ['folder of tars', 'folder of folders'])
def test_large_class_is_dealt_to_several_shards(tmp_path, edges, kind):
  files = {f'{i}.png': _jpeg(i) for i in range(50)}
  path = _write(tmp_path, {'ant': files, 'cow': {'0.png': _jpeg(200)}}, kind)
  folder = build(
    Images(str(path), edges=edges), str(tmp_path), validation=0, processes=1, number_of_shards=7
  )
  sizes = tfds.builder_from_directory(str(folder)).info.splits['train'].shard_lengths
  assert len(sizes) == 7
  assert sum(sizes) == 51
  assert max(sizes) < 40
  assert sorted(e['image'] for e in _examples(folder, 'train')) == sorted(
    [*files.values(), _jpeg(200)]
  )


def test_reading_a_tar_takes_no_memory_for_its_members(tmp_path):
  (tmp_path / 'ant.tar').write_bytes(_tar({f'{i}.txt': b'x' for i in range(4000)}))
  source = archives.find(tmp_path)['ant'][0]
  tracemalloc.start()
  assert sum(member.data == b'x' for member in source.read()) == 4000
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  # Their headers are some 5 MB.
  assert peak < 500_000


# What is wrong.


def test_what_is_no_image_is_listed_and_left_out(tmp_path, edges):
  classes = _toy(3)
  classes['ant'] |= {
    'notes.txt': b'no image',
    'cut.JPEG': _jpeg(9)[:-80],
    'empty.JPEG': b'',
    'link.JPEG': _link('link.JPEG', '/etc/passwd'),
    'hard.JPEG': _link('hard.JPEG', 'ant_0.JPEG', tarfile.LNKTYPE),
    '../../up.JPEG': _jpeg(9),
    '/abs.JPEG': _jpeg(9),
  }
  path = _write(tmp_path, classes, 'tar of tars')
  folder = build(Images(str(path), edges=edges), str(tmp_path), validation=0, processes=1)
  assert len(open_dataset('tfds:imagenet21k', 'train', str(tmp_path))) == 9
  assert (folder / 'skipped.txt').read_text().splitlines() == [
    'whole/ant.tar/notes.txt is no image, or a damaged one (8 bytes)',
    f'whole/ant.tar/cut.JPEG is no image, or a damaged one ({len(_jpeg(9)) - 80} bytes)',
    'whole/ant.tar/empty.JPEG is no image, or a damaged one (0 bytes)',
    "whole/ant.tar/link.JPEG is a link (to '/etc/passwd'): refused",
    "whole/ant.tar/hard.JPEG is a link (to 'ant_0.JPEG'): refused",
    'whole/ant.tar/../../up.JPEG is a path that leaves the archive: refused',
    'whole/ant.tar//abs.JPEG is a path that leaves the archive: refused',
  ]


def _outer(**other) -> bytes:
  return _tar({**{f'{name}.tar': _tar(files) for name, files in _toy(2).items()}, **other})


BAD = {
  'unknown class': (_outer(**{'gnu.tar': _tar({'1.JPEG': _jpeg(1)})}), r'class gnu of the archive: not in .*is-a\.txt: add a line .*--without=gnu'),
  'no image': (_outer(**{'animal.tar': _tar({})}), 'class animal: has no image: add one, .*--without=animal'),
  'no good image': (_outer(**{'animal.tar': _tar({'1.JPEG': b'x'})}), 'class animal: has no image'),
  'link': (_outer(a=_link('x/cow.tar', 'ant.tar')), r"member 'x/cow\.tar' is a link \(to 'ant\.tar'\): such archives are refused"),
  'traversal': (_outer(**{'../dog.tar': b''}), r"member '\.\./dog\.tar' is a path that leaves"),
  'absolute': (_outer(**{'/dog.tar': b''}), r"member '/dog\.tar' is a path that leaves"),
  'twice': (_outer(**{'more/ant.tar': _tar({})}), r"class 'ant' is there twice, as ant\.tar and more/ant\.tar"),
  'no tars': (_tar({'ant/1.JPEG': _jpeg(1)}), r"'ant/1\.JPEG' is no tar of a class: unpack"),
  'compressed': (b'\x1f\x8b\x08', r'is compressed.*unpack it once \(tar xf archive\)'),
  'cut outer': (_outer()[:8000], r'archive: cut off or garbled: fetch it again'),
  'no end': (_outer()[:512], r'archive: cut off or garbled: fetch it again'),
  'no tar': (b'<html>' * 300, r'archive: cut off or garbled: fetch it again'),
  'empty': (b'', r'archive: cut off or garbled: fetch it again'),
  'cut inner': (_outer(**{'animal.tar': _tar({'1.JPEG': _jpeg(1)})[:700]}), r'animal\.tar: cut off or garbled: fetch it again'),
}  # fmt: skip


@pytest.mark.parametrize(('data', 'message'), BAD.values(), ids=BAD.keys())
def test_bad_archive_is_one_clear_line_before_anything_is_written(tmp_path, edges, data, message):
  (tmp_path / 'archive').write_bytes(data)
  with pytest.raises(ValueError, match=message) as caught:
    build(Images(str(tmp_path / 'archive'), edges=edges), str(tmp_path / 'out'), processes=1)
  assert '\n' not in str(caught.value)
  assert not list(tmp_path.rglob('*array_record*'))


def test_bad_is_a_graph_or_setting_is_one_clear_line(tmp_path, edges):
  path = _write(tmp_path, _toy(2), 'tar of tars')
  make = lambda text, without=(), **options: build(
    Images(str(path), edges=_file(tmp_path / 'graph', text), without=without),
    str(tmp_path / 'out'),
    **options,
  )
  with pytest.raises(
    ValueError, match=r'cycle: (ant -> x -> y -> ant|x -> y -> ant -> x|y -> ant)'
  ):
    make('ant\tx\nx\ty\ny\tant\nbee\tx\ncow\tx\n')
  with pytest.raises(ValueError, match=r"graph, line 2: 'bee insect\\tx\\ty' is not child<TAB>"):
    make('ant\tx\nbee insect\tx\ty\n')
  with pytest.raises(ValueError, match='class bee, cow of the archive: not in'):
    make('ant\tinsect\n')
  with pytest.raises(ValueError, match=r'--without=dog: .* has no such class'):
    make('ant\nbee\ncow\n', without=['dog'])
  with pytest.raises(ValueError, match='--name=My-Set: TFDS wants'):
    make('ant\nbee\ncow\n', name='My-Set')
  with pytest.raises(ValueError, match='--validation=1: a share'):
    make('ant\nbee\ncow\n', validation=1)
  with pytest.raises(FileNotFoundError, match='nowhere: no such archive'):
    build(Images(str(tmp_path / 'nowhere'), edges=edges), str(tmp_path / 'out'))
  with pytest.raises(FileNotFoundError, match=r'is not prepared in .*out; run: python -m'):
    open_dataset('tfds:imagenet21k', 'train', str(tmp_path / 'out'))
  (tmp_path / 'both' / 'ant').mkdir(parents=True)
  (tmp_path / 'both' / 'ant' / '1.png').write_bytes(_jpeg(1))
  (tmp_path / 'both' / 'ant.tar').write_bytes(_tar({}))
  with pytest.raises(ValueError, match=r"both: class 'ant' is there twice, as ant\.tar and ant:"):
    build(Images(str(tmp_path / 'both'), edges=edges), str(tmp_path / 'out'))
  (tmp_path / 'hollow' / 'ant').mkdir(parents=True)
  (tmp_path / 'hollow' / 'bee').mkdir()
  (tmp_path / 'hollow' / 'bee' / '1.jpg').write_bytes(_jpeg(1))
  with pytest.raises(ValueError, match=r'class ant: has no image: add one, .*--without=ant'):
    build(Images(str(tmp_path / 'hollow'), edges=edges), str(tmp_path / 'hollow-out'))
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='empty: holds no class'):
    build(Images(str(tmp_path / 'empty'), edges=edges), str(tmp_path / 'out'))


def _file(path: Path, text: str) -> str:
  path.write_text(text)
  return str(path)


def test_class_may_be_below_nothing_or_be_left_out(tmp_path):
  path = _write(tmp_path, {**_toy(2), 'empty': {}}, 'folder of tars')
  graph = _file(tmp_path / 'graph', 'ant\nbee\tinsect\ncow\nempty\n')
  build(Images(str(path), edges=graph, without=['empty', 'cow']), str(tmp_path), processes=1)
  train = open_dataset('tfds:imagenet21k', 'train', str(tmp_path))
  assert train.class_names == ('ant', 'bee')
  assert train.edges == (('bee', 'insect'),)


def test_damaged_tar_stops_it_and_once_mended_it_goes_on(tmp_path, edges):
  path = _write(tmp_path, _toy(30), 'folder of tars')
  images = Images(str(path), edges=edges)
  options = {'validation': 0.2, 'processes': 1, 'number_of_shards': 3}
  whole = build(images, str(tmp_path / 'whole'), **options)
  good = (path / 'bee.tar').read_bytes()
  begun = tmp_path / 'out' / 'imagenet21k' / '1.0.0.incomplete'
  # A header in its middle; its length and end are as they were.
  middle = len(good) // 2 // 1024 * 1024
  (path / 'bee.tar').write_bytes(good[:middle] + b'\xff' * 1024 + good[middle + 1024 :])
  with pytest.raises(ValueError, match=r'bee\.tar: cut off or garbled: fetch it again'):
    build(images, str(tmp_path / 'out'), **options)
  kept = list((begun / 'shards').iterdir())
  assert 0 < len(kept) < 3
  written = {p.name: p.stat().st_mtime_ns for p in begun.glob('*.array_record-*-of-00003')}
  (path / 'bee.tar').write_bytes(good[:5000])
  with pytest.raises(ValueError, match=r'bee\.tar: cut off or garbled'):
    build(images, str(tmp_path / 'out'), **options)
  (path / 'bee.tar').write_bytes(good)
  mended = build(images, str(tmp_path / 'out'), **options)
  assert _content(mended) == _content(whole)
  # What was complete has not been written again.
  assert len(written) == 2 * len(kept)
  assert written.items() <= {p.name: p.stat().st_mtime_ns for p in mended.iterdir()}.items()


def test_finished_set_is_kept_and_another_one_refused(tmp_path, edges):
  path = _write(tmp_path, _toy(2), 'folder of tars')
  folder = build(Images(str(path), edges=edges), str(tmp_path), processes=1)
  before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
  assert build(Images(str(path), edges=edges), str(tmp_path), processes=1) == folder
  with pytest.raises(ValueError, match=r'is there already, made with another validation: give'):
    build(Images(str(path), edges=edges), str(tmp_path), validation=0.5)
  with pytest.raises(ValueError, match=r'made with another classes, is-a graph, archive: give'):
    build(Images(str(path), edges=edges, without=['ant']), str(tmp_path))
  assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_begun_set_is_not_mixed_with_one_of_other_settings(tmp_path, edges):
  path = _write(tmp_path, _toy(30), 'folder of tars')
  good = (path / 'cow.tar').read_bytes()
  (path / 'cow.tar').write_bytes(good[:512] + b'x' * 2048 + good[2560:])
  images = Images(str(path), edges=edges)
  options = {'processes': 1, 'number_of_shards': 3}
  with pytest.raises(ValueError, match='cut off'):
    build(images, str(tmp_path / 'out'), validation=0.5, **options)
  (path / 'cow.tar').write_bytes(good)
  assert _content(build(images, str(tmp_path / 'out'), **options)) == _content(
    build(images, str(tmp_path / 'fresh'), **options)
  )


def test_two_processes_do_not_write_one_set(tmp_path, edges):
  path = _write(tmp_path, _toy(2), 'tar of tars')
  begun = tmp_path / 'imagenet21k' / '1.0.0.incomplete'
  begun.mkdir(parents=True)
  with open(begun / 'lock', 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match='incomplete: another process is writing it'):
      build(Images(str(path), edges=edges), str(tmp_path), processes=1)
  assert len(list(begun.iterdir())) == 2
  assert build(Images(str(path), edges=edges), str(tmp_path), processes=1).exists()


FULL = """
import resource, runpy
# Stands for a full disk: no file may grow beyond this.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
if __name__ == '__main__':
  runpy.run_module('experts.data.imagenet21k', run_name='__main__', alter_sys=True)
"""


def test_full_disk_is_one_line_and_goes_on_later(tmp_path, edges):
  files = {f'{i}.png': np.random.default_rng(i).bytes(8000) + _jpeg(i) for i in range(30)}
  files |= {f'{i}.JPEG': _jpeg(i) + bytes(8000) for i in range(30)}
  path = _write(tmp_path, {'ant': files}, 'folder of tars')
  (tmp_path / 'full.py').write_text(FULL)
  options = [f'--archive={path}', '--out=out', f'--edges={edges}', '--validation=0']
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, 'full.py', *options]
  run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
  assert run.returncode == 1
  assert run.stderr.splitlines()[-1].startswith('error: write() failed: File too large')
  assert 'Traceback' not in run.stderr
  command[1:2] = ['-m', 'experts.data.imagenet21k']
  subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
  assert len(open_dataset('tfds:imagenet21k', 'train', str(tmp_path / 'out'))) == 30


def test_error_of_the_command_is_one_line(tmp_path):
  run = subprocess.run(
    [sys.executable, '-m', 'experts.data.imagenet21k', '--archive=nowhere', '--out=out'],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert run.returncode == 1
  assert run.stderr.splitlines()[-1] == 'error: nowhere: no such archive or folder'
  assert 'Traceback' not in run.stderr
