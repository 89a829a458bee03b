"""Images classified with what a transfer left."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import cv2
import jax
import numpy as np
import pandas as pd
import pytest

from configs import predict as predict_config
from experts import entry
from experts.models import ours, resnet, weights
from experts.phases import predict
from experts.runs import evaluators

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _predict(workdir, *flags):
  return subprocess.run(
    [sys.executable, 'main.py', '--config=configs/predict.py', f'--workdir={workdir}', *flags],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': '', 'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True,
    text=True,
    check=False,
  )


def test_predictions_are_the_transfers_own(chain, data_dir, tmp_path):
  images = tmp_path / 'images'
  shutil.copytree(data_dir / 'task' / 'test', images)
  (images / 'broken.jpg').write_bytes(b'no image')
  (images / 'notes.txt').write_text('no image either')
  model = chain[0] / 'transfer' / 'stripes'
  done = _predict(tmp_path / 'out', f'--config.model={model}', f'--config.images={images}')
  assert done.returncode == 0, done.stderr[-2000:]
  found = pd.read_csv(tmp_path / 'out' / 'predictions.csv').set_index('file')
  assert len(found) == 19
  assert np.isnan(found.probability['broken.jpg'])
  assert 'broken.jpg: cannot be decoded' in done.stderr
  found = found.drop('broken.jpg')
  np.testing.assert_allclose(found.probability + found.probability_2, 1, atol=1e-5)
  # The folders' names are the classes, which the transfer's confusion matrix counts.
  confusion = pd.read_csv(model / 'confusion.csv', index_col=0)
  true = [pathlib.Path(file).parts[0] for file in found.index]
  counted = pd.crosstab(pd.Series(true), pd.Series(found['class'].to_numpy()))
  counted = counted.reindex(index=confusion.index, columns=confusion.columns, fill_value=0)
  np.testing.assert_array_equal(counted, confusion)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((), 'config.model is empty: name what a transfer left: runs/mine/transfer/mine'),
    (('--config.model={model}',), 'config.images is empty: name an image, a folder or an archive'),
    (('--config.model=nowhere', '--config.images=x'), 'nowhere'),
    (('--config.model={model}', '--config.images=nowhere'), 'nowhere: no such folder'),
    (('--config.model={model}', '--config.images={empty}'), 'holds no image'),
  ],
)
def test_what_cannot_be_predicted_is_one_line(chain, tmp_path, flags, message):
  (tmp_path / 'empty').mkdir()
  model = chain[0] / 'transfer' / 'stripes'
  done = _predict(
    tmp_path / 'out', *(flag.format(model=model, empty=tmp_path / 'empty') for flag in flags)
  )
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr


_CLASSES = ['dark', 'light', 'middle']


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> pathlib.Path:
  """A network that nobody trained, as a transfer leaves one."""
  folder = tmp_path_factory.mktemp('model')
  network = {'depth': 14, 'width': 0.03125, 'root': 'small', 'dtype': 'float32'}
  params = resnet.init(ours.build(network).resnet, jax.random.key(0), len(_CLASSES))
  # Its head is zero as it begins.
  kernel = np.random.default_rng(0).normal(size=params['head']['kernel'].shape)
  params['head']['kernel'] = kernel.astype(np.float32)
  weights.save(str(folder / 'model.npz'), params)
  described = {
    'classes': _CLASSES,
    'network': {**network, 'size': 16, 'resize': 16},
    'ranges': {},
    'hash': weights.content_hash(params),
  }
  (folder / 'model.json').write_text(json.dumps(described))
  return folder


def _draw(path: pathlib.Path, seed: int, shape=(20, 24, 3)) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 40, shape, np.uint8)
  pixels[: shape[0] // 2] += np.uint8(40 * (seed % 6))
  done, data = cv2.imencode('.png', pixels)
  assert done
  path.write_bytes(data.tobytes())


def _config(model, images, **changes):
  config = predict_config.get_config()
  config.update(model=str(model), images=str(images))
  config.run.evaluation_batch = 4
  config.update(changes)
  return config


def _run(config, workdir) -> list[list[str]]:
  workdir.mkdir(exist_ok=True)
  predict.run(config, str(workdir), None)
  assert os.listdir(workdir) == ['predictions.csv']
  with open(workdir / 'predictions.csv', encoding='utf-8', newline='') as file:
    header, *rows = csv.reader(file)
  assert header == [
    'file', 'class', 'probability', 'class_2', 'probability_2', 'class_3', 'probability_3',
  ]  # fmt: skip
  return rows


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """Eleven images, at several depths, also below what is a split elsewhere."""
  folder = tmp_path_factory.mktemp('images')
  for number in range(11):
    inner = ('', 'train/red', 'test')[number % 3]
    _draw(folder / inner / f'{number}.png', number)
  return folder


@pytest.fixture(scope='module')
def expected(model, folder, tmp_path_factory) -> list[list[str]]:
  return _run(_config(model, folder), tmp_path_factory.mktemp('out'))


def test_a_row_is_what_the_network_says_of_the_image(model, folder, expected):
  assert [row[0] for row in expected] == sorted(
    str(path.relative_to(folder)) for path in folder.rglob('*.png')
  )
  network = json.loads((model / 'model.json').read_text())['network']
  images = [cv2.imread(str(folder / row[0]))[..., ::-1] for row in expected]
  pixels = np.stack([cv2.resize(image, (16, 16)) for image in images])
  scores = evaluators.probabilities(network, weights.load(str(model / 'model.npz')), pixels, 11)
  for row, score in zip(expected, scores, strict=True):
    order = np.argsort(-score)
    assert row[1::2] == [_CLASSES[i] for i in order]
    # Another batch is another program: a logit of 10 differs by some of its roundings of 1e-6, and its probability by as
    # much of itself (1.4e-5 with AVX2); six digits are written. Another image's differ in the second.
    np.testing.assert_allclose(np.array(row[2::2], float), score[order], rtol=1e-4)


@pytest.mark.parametrize('suffix', ['.tar', '.tar.gz', '.zip'])
def test_an_archive_is_classified_like_its_folder(model, folder, expected, tmp_path, suffix):
  path = tmp_path / f'images{suffix}'
  if suffix == '.zip':
    with zipfile.ZipFile(path, 'w') as archive:
      for file in folder.rglob('*.png'):
        archive.write(file, file.relative_to(folder))
  else:
    with tarfile.open(path, 'w:gz' if suffix.endswith('gz') else 'w') as archive:
      archive.add(folder, '.')
  assert sorted(_run(_config(model, path), tmp_path / 'out')) == sorted(expected)


def test_a_file_is_classified_whatever_its_name(model, folder, expected, tmp_path):
  for name in ('0.png', 'photo', 'photo.dat'):
    shutil.copy(folder / '0.png', tmp_path / name)
    (row,) = _run(_config(model, tmp_path / name), tmp_path / f'out {name}')
    assert row == [name, *expected[[r[0] for r in expected].index('0.png')][1:]]


def test_what_cannot_be_read_is_counted_apart(model, folder, expected, tmp_path, capsys):
  images = tmp_path / 'images'
  shutil.copytree(folder, images)
  (images / 'cut.jpg').write_bytes(b'\xff\xd8\xff')
  (images / 'empty.png').write_bytes(b'')
  (images / 'link.png').symlink_to('/nowhere/photo.png')
  (images / 'notes.txt').write_text('no image')
  (images / 'photo').write_bytes(b'no suffix')
  (images / 'x.cr2').write_bytes(b'raw')
  rows = _run(_config(model, images), tmp_path / 'out')
  assert [row for row in rows if row[1]] == expected
  assert [row for row in rows if not row[1]] == [
    [name, *[''] * 6] for name in ('cut.jpg', 'empty.png', 'link.png')
  ]
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith('11 of 14 images classified as one of 3; 3 cannot be read; left out: ')
  assert '1 .cr2 (not read)' in line
  assert '1 no suffix' in line
  assert '1 not an image: .txt' in line


def test_names_that_are_no_utf_8_are_escaped(model, folder, expected, tmp_path):
  images = tmp_path / 'images'
  images.mkdir()
  shutil.copy(folder / '0.png', os.fsencode(images) + b'/caf\xe9.png')
  shutil.copy(folder / '0.png', images / 'a, "b"\nc.png')
  rows = _run(_config(model, images), tmp_path / 'out')
  assert [row[0] for row in rows] == ['a, "b"\\nc.png', 'caf\\xe9.png']
  assert rows[0][1:] == rows[1][1:] == expected[[r[0] for r in expected].index('0.png')][1:]


class _Killed(Exception):
  pass


@pytest.mark.parametrize('torn', [b'', b'10.png,dar', b'"10.'])
def test_an_interrupted_run_leaves_its_rows_and_goes_on(
  model, folder, expected, tmp_path, monkeypatch, torn
):
  def stop(*args):
    raise _Killed

  unfinished = tmp_path / 'predictions-unfinished.csv'
  seen = []
  original = predict.image_files.open_unlabelled

  def opened(*args, **kwargs):
    dataset = original(*args, **kwargs)
    read = dataset.read_image
    return dataclasses.replace(
      dataset, read_image=lambda i: seen.append(i) or (read(i) if len(seen) < 10 else stop())
    )

  with monkeypatch.context() as patch:
    patch.setattr(predict.image_files, 'open_unlabelled', opened)
    with pytest.raises(_Killed):
      predict.run(_config(model, folder), str(tmp_path), None)
  assert os.listdir(tmp_path) == ['predictions-unfinished.csv']
  lines = unfinished.read_text().splitlines()
  # Two batches of four, and a header.
  assert len(lines) == 9
  with open(unfinished, 'ab') as file:
    file.write(torn)
  seen.clear()
  monkeypatch.setattr(predict.image_files, 'open_unlabelled', opened)
  assert _run(_config(model, folder), tmp_path) == expected
  assert seen == [8, 9, 10]


def test_rows_of_other_images_are_not_gone_on_with(model, folder, expected, tmp_path):
  (tmp_path / 'predictions-unfinished.csv').write_text(
    'file,class,probability,class_2,probability_2,class_3,probability_3\n'
    'elsewhere.png,dark,1,light,0,middle,0\n'
  )
  assert _run(_config(model, folder), tmp_path) == expected


@pytest.mark.parametrize(
  ('ranges', 'same'),
  [
    # Of a model of people's images, with this range: what was white there is white here.
    ({'uint16': (0, 1020)}, 'scaled'),
    # Of published data, which knows neither ranges nor orientation.
    (None, 'published'),
  ],
)
def test_images_are_decoded_as_those_that_the_model_learnt_from(model, tmp_path, ranges, same):
  other = tmp_path / 'model'
  shutil.copytree(model, other)
  described = json.loads((other / 'model.json').read_text())
  if ranges is None:
    del described['ranges']
  else:
    described['ranges'] = ranges
  (other / 'model.json').write_text(json.dumps(described))
  grey = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint16)
  (tmp_path / 'deep').mkdir()
  (tmp_path / 'plain').mkdir()
  cv2.imwrite(str(tmp_path / 'deep' / 'a.png'), grey * 4)
  shown = grey if same == 'scaled' else (grey * 4) >> 8
  cv2.imwrite(str(tmp_path / 'plain' / 'a.png'), shown.astype(np.uint8))
  deep = _run(_config(other, tmp_path / 'deep'), tmp_path / 'out deep')
  assert deep == _run(_config(other, tmp_path / 'plain'), tmp_path / 'out plain')


def test_a_damaged_description_is_named(model, folder, tmp_path):
  shutil.copytree(model, tmp_path / 'model')
  (tmp_path / 'model' / 'model.json').write_text('{"classes": [')
  with pytest.raises(ValueError, match=r'model/model\.json is damaged'):
    predict.run(_config(tmp_path / 'model', folder), str(tmp_path), None)


def _change_description(change):
  def apply(folder):
    described = json.loads((folder / 'model.json').read_text())
    (folder / 'model.json').write_text(json.dumps(change(described)))

  return apply


def _save_other(classes=3, **network):
  def apply(folder):
    described = {'depth': 14, 'width': 0.03125, 'root': 'small', 'dtype': 'float32', **network}
    params = resnet.init(ours.build(described).resnet, jax.random.key(1), classes)
    weights.save(str(folder / 'model.npz'), params)

  return apply


def _headless(folder):
  params = weights.load(str(folder / 'model.npz'))
  del params['head']
  weights.save(str(folder / 'model.npz'), params)


_NONE = 'describes no fine-tuned network: name what a transfer left: runs/mine/transfer/mine'
_BOTH = 'take both files of one run'


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (_save_other(8), f'{{model}}.json names 3 classes, {{model}}.npz has 8 outputs: {_BOTH}'),
    (_change_description(lambda held: held | {'classes': [*'abcdefgh']}), f'{{model}}.json names 8 classes, {{model}}.npz has 3 outputs: {_BOTH}'),
    (_save_other(), f'{{model}}.json is of other weights than {{model}}.npz: {_BOTH}'),
    (_change_description(lambda held: {**held, 'hash': '', 'network': held['network'] | {'depth': 26}}), '{model}.json and {model}.npz do not go together: described is a ResNet of depth 26, width 0.03125, root small, these are of depth 14, width 0.03125, root small: ' + _BOTH),
    (_change_description(lambda held: {}), f'{{model}}.json {_NONE}'),
    (_change_description(lambda held: []), f'{{model}}.json {_NONE}'),
    (_change_description(lambda held: held | {'classes': 3}), f'{{model}}.json {_NONE}'),
    (_change_description(lambda held: held | {'ranges': [1]}), f'{{model}}.json {_NONE}'),
    (_change_description(lambda held: held | {'network': {}}), f'{{model}}.json {_NONE}'),
    (_change_description(lambda held: held | {'network': held['network'] | {'size': '16'}}), f'{{model}}.json {_NONE}'),
    (_change_description(lambda held: held | {'network': held['network'] | {'depth': 15}}), f'{{model}}.json {_NONE}'),
    (_headless, '{model}.npz has no backbone and head, as a fine-tuned network has: name what a transfer left: runs/mine/transfer/mine'),
    (lambda folder: (folder / 'model.json').unlink(), 'config.model: {model}.npz was not fine-tuned on a task (there is no {model}.json beside it): name what a transfer left: runs/mine/transfer/mine'),
    (lambda folder: (folder / 'model.npz').unlink(), 'config.model: there is no {model}.npz: name what a transfer left: runs/mine/transfer/mine'),
    (lambda folder: (folder / 'model.npz').write_text('{}'), '{model}.npz is no file of weights (.npz)'),
  ],
)  # fmt: skip
def test_what_is_no_network_with_its_description_is_a_line(model, folder, tmp_path, change, said):
  shutil.copytree(model, tmp_path / 'model')
  change(tmp_path / 'model')
  with pytest.raises((ValueError, OSError)) as raised:
    predict.run(_config(tmp_path / 'model', folder), str(tmp_path), None)
  assert str(raised.value) == said.format(model=tmp_path / 'model' / 'model')
  assert entry.is_mendable(raised.value)


def test_a_description_of_before_hashes_serves(model, folder, expected, tmp_path):
  shutil.copytree(model, tmp_path / 'model')
  _change_description(lambda held: {k: v for k, v in held.items() if k != 'hash'})(
    tmp_path / 'model'
  )
  assert _run(_config(tmp_path / 'model', folder), tmp_path / 'out') == expected
