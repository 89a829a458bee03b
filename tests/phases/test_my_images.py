"""People's folders from end to end: each image is decoded once, and a network is tested on what it was trained on."""

import collections
import json
import pathlib
import threading

import cv2
import numpy as np
import pandas as pd
import pytest

from configs import my_images
from experts import app
from experts.runs import tasks


@pytest.fixture
def pool(chain, tmp_path) -> pathlib.Path:
  """The chain's models, whose images are larger before a central crop."""
  described = json.loads((chain[0] / 'pool.json').read_text())
  described['model']['resize'] = 32
  for model in described['members']:
    for name in ('weights', 'backbone'):
      if model.get(name):
        model[name] = str(chain[0] / model[name])
  path = tmp_path / 'pool.json'
  path.write_text(json.dumps(described))
  return path


def _framed(folder, number):
  """Classes that a frame tells apart, which a central crop of half the side cuts off."""
  rng = np.random.default_rng(0)
  for name, colour in {'dark': 20, 'light': 235}.items():
    (folder / name).mkdir(parents=True)
    for i in range(number):
      image = np.full((64, 96, 3), colour, np.uint8)
      image[16:48, 24:72] = rng.integers(0, 256, (32, 48, 3))
      cv2.imwrite(str(folder / name / f'{i}.png'), image)


def _config(folder, pool, tmp_path):
  config = my_images.get_config()
  config.pool = str(pool)
  config.tasks.mine.data = f'images:{folder}'
  config.run.update(
    tensorboard=False, embedding_cache=str(tmp_path / 'embeddings'), evaluation_batch=16
  )
  config.select.kinds = ('baseline',)
  config.trials = '1x1'
  config.transfer.update(batch_size=8, durations=('25 steps',), learning_rates=(0.3,))
  return config


def test_each_image_is_decoded_once_in_a_run_and_seen_whole(pool, tmp_path, monkeypatch):
  folder = tmp_path / 'photos'
  _framed(folder, 12)
  decoded, lock, decode = collections.Counter(), threading.Lock(), cv2.imdecode

  def counted(data, *flags):
    with lock:
      decoded[bytes(data)] += 1
    return decode(data, *flags)

  monkeypatch.setattr(cv2, 'imdecode', counted)
  app.run(_config(folder, pool, tmp_path), str(tmp_path / 'run'))
  assert set(decoded.values()) == {1}
  assert len(decoded) == 24
  trials = pd.read_csv(tmp_path / 'run/trials.csv')
  assert trials[trials.split == 'test'].accuracy.tolist() == [1.0]
  described = json.loads((tmp_path / 'run/transfer/mine/model.json').read_text())
  assert (described['network']['size'], described['network']['resize']) == (16, 16)
  assert pd.read_csv(tmp_path / 'run/transfer/mine/per_class.csv').accuracy.tolist() == [1.0, 1.0]
  # What was opened is let go of with the run: another one finds the folder as it is then.
  (folder / 'dark/more.png').write_bytes((folder / 'dark/0.png').read_bytes())
  (task,) = tasks.load_all(_config(folder, pool, tmp_path))
  assert len(task.all) + len(task.test_indices) == 25
  tasks.forget()


def test_a_cut_image_of_the_test_part_ends_the_run_before_anything_is_ranked(pool, tmp_path):
  folder = tmp_path / 'photos'
  _framed(folder / 'train', 6)
  _framed(folder / 'test', 3)
  file = folder / 'test/dark/1.png'
  file.write_bytes(file.read_bytes()[:200])
  config = _config(folder, pool, tmp_path)
  with pytest.raises(ValueError, match=f'{file}: .*config.image.undecodable=skip'):
    app.run(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run/scores.csv').exists()
