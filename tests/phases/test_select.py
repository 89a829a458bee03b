"""Selection by each strategy through main.py, on the models of one small run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from experts.models import weights
from experts.selection import pool, strategies
from experts.selection.pool import joining

EVERY = [name for name in strategies.NAMES if name not in ('logme',)]


@pytest.fixture(scope='module')
def made(chain, config_file, run_main, tmp_path_factory):
  """A copy of the run with a domain predictor beside its pool."""
  folder = tmp_path_factory.mktemp('made') / 'run'
  shutil.copytree(chain[0], folder)
  flags = (
    "--config.phases=('domain_predictor',)",
    '--config.run.tensorboard=False',
    '--config.domain_predictor.batch_size=16',
    '--config.domain_predictor.duration=12 steps',
    '--config.domain_predictor.learning_rate=0.5',
    '--config.domain_predictor.crop=none',
  )
  done = run_main(config_file, folder, *flags)
  assert done.returncode == 0, done.stderr[-3000:]
  return folder


@pytest.fixture
def select(config_file, run_main, tmp_path):
  """(strategy, *flags) -> main.py's selection in a workdir of its own, and its scores."""

  def run(pool_file, strategy, *flags, workdir=tmp_path / 'selected'):
    done = run_main(
      config_file,
      workdir,
      "--config.phases=('select',)",
      '--config.run.tensorboard=False',
      f'--config.pool={pool_file}',
      f'--config.strategy={strategy}',
      *flags,
    )
    scores = workdir / 'scores.csv'
    return done, pd.read_csv(scores) if scores.exists() else None

  return run


def test_every_strategy_in_one_run(made, select, tmp_path):
  workdir = tmp_path / 'all'
  workdir.mkdir()
  shutil.copy(made / 'trials.csv', workdir)
  done, scores = select(made / 'pool.json', ','.join(EVERY), workdir=workdir)
  assert done.returncode == 0, done.stderr[-3000:]
  models = [member.name for member in pool.read(made / 'pool.json')]
  assert set(scores.strategy) == set(EVERY)
  assert len(scores) == len(EVERY) * 2 * len(models)
  for (_, strategy), part in scores.groupby(['task', 'strategy']):
    ranks = part['rank'].dropna()
    assert sorted(ranks) == list(range(1, len(ranks) + 1))
    # A random network is a control; only experts have a slice that could be predicted.
    expected = 4 if strategy == 'epn' else 5
    assert len(ranks) == expected, strategy
    assert part[part.kind == 'random']['rank'].isna().all()
  of = lambda name: scores[(scores.strategy == name) & (scores.task == 'stripes')].set_index(
    'model'
  )
  # All experts of a slice have what the predictor says of it.
  assert of('epn').score['full:warm'] == of('epn').score['adapter:warm']
  # The hybrid begins with the largest of those that have seen most, and goes on as kNN does.
  assert of('hybrid')['rank'].idxmin() == of('task_agnostic')['rank'].idxmin() == 'baseline'
  first = of('hybrid')['rank'].idxmin()
  by_knn = [m for m in of('knn')['rank'].dropna().sort_values().index if m != first]
  assert of('hybrid')['rank'].dropna().sort_values().index.tolist() == [first, *by_knn]
  pd.testing.assert_series_equal(
    of('hybrid').score.sort_index(), of('knn').score.sort_index(), check_names=False
  )
  trials = pd.read_csv(made / 'trials.csv')
  tested = trials[(trials.split == 'test') & (trials.task == 'stripes')]
  medians = tested.groupby('model').accuracy.median()
  pd.testing.assert_series_equal(
    of('oracle').score.sort_index(), medians.sort_index(), check_names=False, rtol=1e-5
  )
  # Each baseline's own label priors are nearest to themselves only if its predictions were perfect; all are finite.
  assert np.isfinite(of('kl').score.drop('random')).all()
  assert of('knn').p_value.drop(['baseline', 'random']).between(0, 1).all()
  picks = pd.read_csv(workdir / 'picks.csv')
  assert set(picks.pool) == {'full', 'adapter', 'all'}
  costs = pd.read_csv(workdir / 'costs.csv').set_index('task')
  assert costs.images['stripes'] == 40 * len(models)


def test_another_query_embeds_nothing_and_reads_no_weight(made, select, tmp_path):
  cache = f'--config.run.embedding_cache={tmp_path}/cache'
  shutil.copytree(made / 'weights', tmp_path / 'pool' / 'weights')
  shutil.copy(made / 'pool.json', tmp_path / 'pool')
  first = tmp_path / 'first'
  done, knn = select(tmp_path / 'pool/pool.json', 'knn', cache, workdir=first)
  assert done.returncode == 0, done.stderr[-3000:]
  # From now on whoever reads a weight fails.
  for path in (tmp_path / 'pool/weights').glob('*.npz'):
    path.write_bytes(b'')
  done, both = select(
    tmp_path / 'pool/pool.json', 'h_score,knn', cache, workdir=tmp_path / 'second'
  )
  assert done.returncode == 0, done.stderr[-3000:]
  again = both[both.strategy == 'knn'].reset_index(drop=True)
  pd.testing.assert_frame_equal(again, knn, check_dtype=False)
  # The time of a look-up is not the price of an embedding.
  assert pd.read_csv(tmp_path / 'second/costs.csv').seconds.isna().all()
  # A damaged entry is said aloud; what it held would have to be read again.
  entry = next((tmp_path / 'cache').rglob('*.npz'))
  entry.write_bytes(entry.read_bytes()[:-40])
  done, _ = select(tmp_path / 'pool/pool.json', 'knn', cache, workdir=tmp_path / 'third')
  assert done.returncode == 1
  assert 'is damaged' in done.stderr


def test_halving_finds_the_same_best_and_keeps_the_baseline(made, select, tmp_path):
  done, scores = select(made / 'pool.json', 'knn', '--config.select.first_images=4')
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'images embedded' in done.stderr
  part = scores[scores.task == 'stripes'].set_index('model')
  assert part.images['baseline'] == 40
  assert part.images[part['rank'].idxmin()] == 40
  assert part.images.min() < 40
  assert (part.sort_values('rank').images.dropna().diff().dropna() <= 0).all()
  done, _ = select(
    made / 'pool.json', 'linear', '--config.select.first_images=4', workdir=tmp_path / 'other'
  )
  assert done.returncode == 1
  assert 'halves the pool by kNN; linear would need all models on all images' in done.stderr


def test_foreign_models_are_ranked_beside_our_own(made, select, tmp_path, monkeypatch):
  folder = tmp_path / 'foreign'
  shutil.copytree(made / 'weights', folder / 'weights')
  shutil.copy(made / 'pool.json', folder)
  (folder / 'own_models.py').write_text(
    'import numpy as np\n'
    'def stripes(images):\n'
    '  rows = images.astype(np.float32).std(axis=1).mean(axis=(1, 2))\n'
    '  columns = images.astype(np.float32).std(axis=2).mean(axis=(1, 2))\n'
    '  return np.stack([rows, columns, rows - columns], axis=1)\n'
  )
  monkeypatch.setenv('PYTHONPATH', str(folder))
  monkeypatch.syspath_prepend(str(folder))
  rng = np.random.default_rng(0)
  # Of one of the two tasks only.
  np.savez(folder / 'table.npz', stripes=rng.normal(size=(40, 7)))
  path = str(folder / 'pool.json')
  joining.add(path, 'by hand', 'callable', 'own_models:stripes', None, 3, size=16, hash='1')
  done, scores = select(path, 'knn', workdir=tmp_path / 'one')
  assert done.returncode == 0, done.stderr[-3000:]
  by_hand = scores[(scores.model == 'by hand') & (scores.task == 'stripes')].iloc[0]
  assert by_hand.score == 1.0
  assert by_hand['rank'] == 1
  done, scores = select(
    path, 'leep,knn', "--config.select.kinds=('callable',)", workdir=tmp_path / 'two'
  )
  assert done.returncode == 1
  assert 'the strategy leep can score no model of the pool on task' in done.stderr
  joining.add(path, 'table', 'embeddings', str(folder / 'table.npz'), None, 7)
  done, _ = select(path, 'knn', workdir=tmp_path / 'three')
  assert done.returncode == 1
  assert "has no embeddings of the task 'held-out'" in done.stderr


@pytest.mark.parametrize(
  ('strategy', 'flags', 'message'),
  [
    ('epn', (), "strategy 'epn' needs a domain predictor; the phase 'domain_predictor' trains one"),
    ('oracle', (), "strategy 'oracle' needs test accuracies"),
    ('knn', ('--config.select.max_dimension=2',), 'no model of 6 is left by max_dimension=2'),
    ('knn', ('--config.select.k=40',), 'needs at least 41 samples, not 24'),
    ('knn,best', (), 'one, or several with commas between, of random'),
  ],
)
def test_what_a_pool_lacks_is_one_line(chain, select, strategy, flags, message):
  done, scores = select(chain[0] / 'pool.json', strategy, *flags)
  assert done.returncode == 1
  assert scores is None
  (line,) = [line for line in done.stderr.splitlines() if line.startswith('error:')]
  assert message in line
  assert 'Traceback' not in done.stderr


def test_the_predictor_is_checked_against_its_hash(made, select, tmp_path):
  folder = tmp_path / 'changed'
  shutil.copytree(made, folder)
  described = json.loads((folder / 'domain_predictor.json').read_text())
  params = weights.load(folder / described['weights'])
  params['head']['bias'][0] += 1
  weights.save(str(folder / described['weights']), params)
  done, _ = select(folder / 'pool.json', 'epn', '--config.run.embedding_cache=')
  assert done.returncode == 1
  assert "'domain_predictor' (hashes differ)" in done.stderr
