"""Every phase on several hosts leaves what it leaves on one, and goes on where it was killed.

Two processes of two devices stand for hosts of a TPU v3 slice, of which each has eight: as there, a training run's mesh
spans all hosts, members and batches are cut across them, while selection and the scorers put different models on each of a
host's own devices, which no other host can address. With one device a process, or one process, much of that hides: JAX
places an array anywhere if there is only one place. By hand the same holds with SHAPE = (4, 4) and (2, 8).
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from concurrent import futures

import cv2
import numpy as np
import pandas as pd
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Processes, and devices in all.
SHAPE = (2, 4)
VALIDATION, TEST = 16, {'stripes': 30, 'colours': 20}
STRATEGIES = (
  'knn', 'knn_holdout', 'linear', 'hybrid', 'epn', 'kl', 'task_agnostic', 'random', 'h_score', 'logme', 'leep', 'nce', 'nleep',
  'parc', 'transrate', 'gbc',
)  # fmt: skip
# Those that count images, one of which may fall to the other side.
COUNTED = {'knn', 'knn_holdout', 'linear', 'hybrid', 'oracle', 'oracle_agnostic'}

_CONFIG = """
from configs import common

def get_config():
  config = common.get_config()
  config.phases = ('upstream', 'experts', 'domain_predictor', 'select', 'transfer', 'dat', 'report')
  config.data_dir = {folder!r}
  config.model.update(depth=14, width=0.03125, root='small', dtype='float32')
  config.image.update(size=16, resize=16)
  config.run.update(
    log_every='4 steps', checkpoint_every='8 steps', evaluation_batch=16, tensorboard=False, embedding_cache=''
  )
  small = {{'batch_size': 16, 'warmup': '10 %', 'crop': 'none', 'flip': False}}
  config.upstream.update(small, data='images:upstream', duration='12 steps', learning_rate=0.5)
  config.experts.update(count=2, min_images=10)
  for section in (config.experts.full, config.experts.adapter, config.domain_predictor, config.dat):
    section.update(small, duration='4 steps', learning_rate=0.1)
  config.tasks = {{
    'stripes': common.task('images:stripes', train_images=0, validation_images={validation}),
    'colours': common.task('images:colours', test='', train_images=0, validation_images={validation}),
  }}
  config.strategy = {strategy!r}
  config.select.budget = 2
  config.transfer.update(
    models='all', batch_size=16, durations=('4 steps',), learning_rates=(0.5, 0.1), warmups=('8 %',)
  )
  config.trials = '1x2'
  return config
"""

_UPSTREAM = {
  'warm': {'red': (220, 40, 40), 'orange': (220, 140, 30)},
  'cold': {'blue': (40, 60, 220), 'cyan': (40, 200, 210)},
}


def _draw(folder, colour, number, seed, across=False):
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True)
  for i in range(number):
    image = np.clip(rng.normal(colour, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
    image[::4] //= 2
    cv2.imwrite(str(folder / f'{i}.png'), image.transpose(1, 0, 2) if across else image)


@pytest.fixture(scope='module')
def config_file(tmp_path_factory) -> pathlib.Path:
  data = tmp_path_factory.mktemp('data')
  for group, classes in _UPSTREAM.items():
    for name, colour in classes.items():
      _draw(data / 'upstream' / 'train' / group / name, colour, 12, 1)
      _draw(data / 'upstream' / 'test' / group / name, colour, 4, 2)
  for split, number, seed in (('train', 40, 3), ('test', TEST['stripes'] // 2, 4)):
    _draw(data / 'stripes' / split / 'along', (128, 128, 128), number, seed)
    _draw(data / 'stripes' / split / 'across', (128, 128, 128), number, seed + 2, across=True)
  # A fifth is held out.
  _draw(data / 'colours' / 'reddish', (160, 100, 100), 50, 7)
  _draw(data / 'colours' / 'bluish', (100, 100, 160), 50, 8)
  path = data / 'config.py'
  strategy = ','.join(STRATEGIES)
  path.write_text(_CONFIG.format(folder=str(data), strategy=strategy, validation=VALIDATION))
  return path


class Pod:
  """main.py on some processes, whose output can be read as it comes."""

  def __init__(self, processes, config, workdir, *flags):
    command = ['main.py', f'--config={config}', f'--workdir={workdir}', *flags]
    pod = ['launch.local_pod', f'--processes={processes}', f'--devices={SHAPE[1]}', '--', *command]
    # The network is tiny and compiled a hundred times: a fifth of the time is spent with less care for its speed.
    fast = {
      'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
      'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false',
    }
    self._process = subprocess.Popen(
      [sys.executable, '-m', *pod],
      cwd=ROOT,
      env=os.environ | fast,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    self.lines = []

  def read_until(self, text):
    for line in self._process.stdout:
      self.lines.append(line)
      if text in line:
        return
    pytest.fail(f'no {text!r} in:\n{"".join(self.lines[-40:])}')

  def kill(self):
    """All of its processes at once, as a machine room does; nobody can save anything."""
    started = [line for line in self.lines if 'started as process' in line]
    for line in started:
      os.kill(int(line.split()[-1]), 9)

  def finish(self) -> tuple[int, str]:
    self.lines += self._process.stdout
    return self._process.wait(timeout=600), ''.join(self.lines)


def _run(*arguments) -> str:
  code, output = Pod(*arguments).finish()
  assert code == 0, output[-6000:]
  return output


def _on_both(config, folder, *flags) -> dict[str, str]:
  """main.py on one process and on several, side by side, in `folder`/alone and `folder`/pod; what it printed."""
  number = {'alone': 1, 'pod': SHAPE[0]}
  with futures.ThreadPoolExecutor(2) as threads:
    run = lambda name: _run(number[name], config, folder / name, *flags)
    return dict(zip(number, threads.map(run, number), strict=True))


@pytest.fixture(scope='module')
def folder(config_file, tmp_path_factory) -> pathlib.Path:
  """The whole chain on one process, in `alone`, and on several, killed in the middle and started again, in `pod`."""
  folder = tmp_path_factory.mktemp('pods')
  with futures.ThreadPoolExecutor(1) as thread:
    alone = thread.submit(_run, 1, config_file, folder / 'alone')
    _run_killed_and_started_again(config_file, folder / 'pod')
    alone.result()
  return folder


def _run_killed_and_started_again(config_file, workdir):
  first = Pod(SHAPE[0], config_file, workdir)
  # The second task's sweep has begun; the first one is through, and its chosen model is kept.
  first.read_until('transfer: stripes, model 2 of')
  first.kill()
  code, output = first.finish()
  assert code == 128 + 9, output[-4000:]
  # And as if it had come before the last model was retrained, and between a model's rows and its file.
  before = pd.read_csv(workdir / 'trials.csv')
  before = before.drop(before.index[before.split == 'test'][-2:]).reset_index(drop=True)
  assert set(before.split) == {'validation', 'test'}
  before.to_csv(workdir / 'trials.csv', index=False)
  (workdir / 'transfer' / 'colours' / 'model.json').unlink()
  output = _run(SHAPE[0], config_file, workdir)
  assert 'select: finished here before' in output
  after = pd.read_csv(workdir / 'trials.csv')
  pd.testing.assert_frame_equal(after[: len(before)], before)


@pytest.fixture(scope='module')
def alone(folder) -> pathlib.Path:
  return folder / 'alone'


@pytest.fixture(scope='module')
def pod(folder) -> pathlib.Path:
  return folder / 'pod'


def _scores(workdir) -> pd.DataFrame:
  return pd.read_csv(workdir / 'scores.csv').set_index(['task', 'strategy', 'model']).sort_index()


def _assert_same_scores(workdir, other):
  """The same rows, and scores as near as rounding lets them be.

  Weights differ by what the order of a sum across devices does to float32, 1e-6 of their norm
  (below), and embeddings by what another batch a device does to a convolution. What counts images is the same
  but for ties and, with rank and interval, one image more that lies so near to a boundary; sums over images vary smoothly.
  """
  one, two = _scores(workdir), _scores(other)
  assert one.index.equals(two.index)
  assert (one.kind == two.kind).all()
  assert (one.images.fillna(0) == two.images.fillna(0)).all()
  assert (one['rank'].isna() == two['rank'].isna()).all()
  counted = one.index.get_level_values('strategy').isin(COUNTED)
  slack = two.ties.fillna(0) + 1 / two.images.fillna(min(TEST.values()))
  assert (one.score.isna() == two.score.isna()).all()
  apart = (one.score - two.score).abs().fillna(0)
  assert (apart[counted] <= slack[counted] + 1e-6).all()
  np.testing.assert_allclose(one.score[~counted], two.score[~counted], rtol=1e-3, atol=1e-3)
  # Ranks, too, up to what is as good.
  by_rank = lambda frame: frame.reset_index().set_index(['task', 'strategy', 'rank']).score
  ranked = lambda frame: by_rank(frame[frame['rank'].notna() & counted]).sort_index()
  apart = (ranked(one) - ranked(two)).abs()
  assert apart.max() <= slack[counted].max() + 1e-6


def test_selection_ranks_as_on_one_host(alone, pod):
  _assert_same_scores(pod, alone)
  found = _scores(pod)
  assert set(found.index.get_level_values('strategy')) == set(STRATEGIES)
  # Each strategy scored some model by itself, on each host.
  assert found.score.notna().groupby(['task', 'strategy']).any().all()


def test_transfers_are_those_of_one_host(alone, pod):
  key = ['task', 'model', 'selection', 'steps', 'weight_decay', 'mixup', 'seed', 'split']
  read = lambda workdir: pd.read_csv(workdir / 'trials.csv')
  # What was missing at the restart came last.
  one, two = (
    read(workdir).sort_values([*key, 'lr'], ignore_index=True) for workdir in (pod, alone)
  )
  pd.testing.assert_frame_equal(one[key], two[key])
  sweep = two.split == 'validation'
  assert (one.lr[sweep] == two.lr[sweep]).all()
  # One image whose two classes are as likely, to rounding (see above), falls either way.
  images = two.task.map(TEST).where(~sweep, VALIDATION)
  same = one.lr == two.lr
  assert ((one.accuracy - two.accuracy).abs()[same] <= 1 / images[same] + 1e-6).all()
  # Such an image may choose between learning rates that are as good.
  for row in one[~same].itertuples():
    tried = two[sweep & (two.task == row.task) & (two.model == row.model)]
    best, chosen = tried.accuracy.max(), tried[tried.lr == row.lr].accuracy.item()
    assert chosen >= best - 2 / VALIDATION - 1e-6


def _vector(path) -> np.ndarray:
  with np.load(path) as arrays:
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


def test_networks_are_those_of_one_host(alone, pod):
  """To what the order of a sum across devices does to float32; see test_local_pod.py."""
  names = [path.name for path in (alone / 'weights').glob('*.npz')]
  # The baseline and its untrained control, four experts, the predictor, and a network for each task.
  assert len(names) == 2 + 4 + 1 + len(TEST)
  for name in names:
    one, two = _vector(pod / 'weights' / name), _vector(alone / 'weights' / name)
    assert np.linalg.norm(one - two) <= 1e-6 * np.linalg.norm(two), name


def test_everything_else_is_there(alone, pod):
  # A checkpoint has a folder for each process, and each process a log.
  files = lambda workdir: {
    str(path.relative_to(workdir))
    for path in workdir.rglob('*')
    if path.is_file() and 'checkpoints' not in path.parts and not path.match('log*.txt')
  }
  assert files(pod) == files(alone)
  for task in TEST:
    described = json.loads((pod / 'transfer' / task / 'model.json').read_text())
    confusion = pd.read_csv(pod / 'transfer' / task / 'confusion.csv', index_col=0).to_numpy()
    assert confusion.sum() == TEST[task]
    assert np.trace(confusion) == pytest.approx(described['test_accuracy'] * TEST[task], abs=1e-3)
  tasks = [pd.read_csv(workdir / 'tasks.csv') for workdir in (pod, alone)]
  pd.testing.assert_frame_equal(*tasks)
  slices = [pd.read_csv(workdir / 'slices.csv') for workdir in (pod, alone)]
  pd.testing.assert_frame_equal(*slices, atol=1 / 8)
  costs = [pd.read_csv(workdir / 'costs.csv').drop(columns='seconds') for workdir in (pod, alone)]
  pd.testing.assert_frame_equal(*costs)


def test_halving_and_oracles(config_file, alone, pod, tmp_path):
  """Of a copy of the one host's results, so that both start from the same weights and trials."""
  strategies = 'knn,hybrid,oracle,oracle_agnostic,epn,task_agnostic,random'
  flags = (
    "--config.phases=('select',)", f'--config.strategy={strategies}', '--config.select.first_images=12',
  )  # fmt: skip
  for name in ('alone', 'pod'):
    shutil.copytree(alone, tmp_path / name)
    (tmp_path / name / 'phases' / 'select.json').unlink()
  for output in _on_both(config_file, tmp_path, *flags).values():
    # The halving is one of all candidates, wherever they are.
    assert output.count(': 5 models on 12 images, ') == len(TEST)
  _assert_same_scores(tmp_path / 'pod', tmp_path / 'alone')
  found = _scores(tmp_path / 'pod')
  assert found.xs('knn', level='strategy').images.nunique() > 1


def test_prediction(config_file, alone, tmp_path):
  flags = (
    f'--config.model={alone}/transfer/colours',
    f'--config.images={config_file.parent}/colours',
    '--config.run.evaluation_batch=64',
    '--config.run.tensorboard=False',
  )
  _on_both('configs/predict.py', tmp_path, *flags)
  one, two = (pd.read_csv(tmp_path / name / 'predictions.csv') for name in ('pod', 'alone'))
  # The same program on one device.
  pd.testing.assert_frame_equal(one, two)
  assert len(one) == 100
