"""Every phase through main.py: what it leaves, and that a second run adds nothing."""

import itertools
import json
import re
import runpy
import shutil

import numpy as np
import pandas as pd
import pytest

from experts import app
from experts.models import weights
from experts.selection import pool

MODELS = {'random', 'baseline', 'full:warm', 'full:cold', 'adapter:warm', 'adapter:cold'}


@pytest.fixture(scope='module')
def workdir(chain):
  folder, finished = chain
  assert finished.returncode == 0, finished.stderr[-3000:]
  return folder


def test_pool_lists_every_model_with_its_slice(workdir):
  members = {member.name: member for member in pool.read(workdir / 'pool.json')}
  assert members.keys() == MODELS
  assert members['full:warm'].images == members['adapter:cold'].images == 36
  assert members['baseline'].images == 72
  assert members['adapter:warm'].backbone == 'weights/baseline.npz'
  # The label priors of label matching: twelve images of each class.
  assert members['full:warm'].labels == dict.fromkeys(members['full:warm'].labels, 12)
  assert {name.split('/')[-1] for name in members['full:warm'].labels} == {'red', 'orange', 'pink'}
  assert len(members['baseline'].labels) == 6
  assert members['random'].labels == {}
  # Width 1/16: block inputs of 4, 16, 32 and 64 channels; norms and two kernels c × c/2 each.
  adapter = sum(c * c + 3 * c for c in (4, 16, 32, 64))
  assert members['adapter:warm'].parameters - members['baseline'].parameters == adapter


def test_experts_start_from_the_baseline_and_leave_what_is_frozen_out(workdir):
  load = lambda name: weights.load(workdir / 'weights' / f'{name}.npz')
  assert load('adapter.warm').keys() == {'adapter'}
  assert load('full.warm').keys() == {'backbone', 'head'}
  # The pool's entry is older than the experts: the backbone and head under the adapters are what they were, to the bit.
  members = {member.name: member for member in pool.read(workdir / 'pool.json')}
  assert weights.content_hash(load('baseline')) == members['baseline'].hash
  assert members['adapter:warm'].trained_from == members['baseline'].hash
  root = lambda name: load(name)['backbone']['root']['kernel']
  near = np.linalg.norm(root('full.warm') - root('baseline'))
  far = np.linalg.norm(root('random') - root('baseline'))
  assert 0 < near < far


def test_scores_have_a_row_for_each_task_and_model(workdir):
  scores = pd.read_csv(workdir / 'scores.csv')
  assert len(scores) == 2 * len(MODELS)
  assert not scores.duplicated(['task', 'model']).any()
  assert (scores.low <= scores.score).all()
  assert (scores.score <= scores.high).all()
  # Two plain colours: any embedding, the untrained one included, tells them apart.
  assert (scores[scores.task == 'held-out'].score > 0.9).all()


def test_trials_hold_sweep_and_retrains_of_every_model(workdir):
  trials = pd.read_csv(workdir / 'trials.csv')
  by_split = trials.groupby(['task', 'model', 'split']).size().unstack()
  assert (by_split.validation == 2).all()
  assert (by_split.test == 2).all()
  assert len(by_split) == 2 * len(MODELS)
  for _, part in trials.groupby(['task', 'model']):
    sweep, test = part[part.split == 'validation'], part[part.split == 'test']
    best = sweep[sweep.accuracy == sweep.accuracy.max()].lr
    assert set(test.lr) == {best.min()}
    assert set(test.seed) == {0, 1}


def test_accuracies_are_of_the_whole_test_split(workdir):
  trials = pd.read_csv(workdir / 'trials.csv')
  test = trials[trials.split == 'test']
  # 18 images of 'stripes'; a fifth of 30, held out, of the other.
  for task, images in (('stripes', 18), ('held-out', 6)):
    correct = test[test.task == task].accuracy * images
    np.testing.assert_allclose(correct, correct.round(), atol=1e-3)


def test_the_chosen_model_is_kept_fine_tuned(workdir):
  scores = pd.read_csv(workdir / 'scores.csv')
  trials = pd.read_csv(workdir / 'trials.csv')
  for task in ('stripes', 'held-out'):
    described = json.loads((workdir / 'transfer' / task / 'model.json').read_text())
    candidates = scores[(scores.task == task) & (scores.kind != 'random')]
    assert described['model'] in set(candidates[candidates.score == candidates.score.max()].model)
    rows = trials[(trials.task == task) & (trials.model == described['model'])]
    assert any(
      np.isclose(rows[rows.split == 'test'].accuracy, described['test_accuracy'], atol=1e-5)
    )
    confusion = pd.read_csv(workdir / 'transfer' / task / 'confusion.csv', index_col=0)
    right, images = np.diag(confusion).sum(), confusion.to_numpy().sum()
    assert images == {'stripes': 18, 'held-out': 6}[task]
    assert right / images == pytest.approx(described['test_accuracy'], abs=1e-5)
    by_class = pd.read_csv(workdir / 'transfer' / task / 'per_class.csv')
    assert by_class.images.sum() == images
    assert by_class.accuracy.mean() == pytest.approx(described['mean_per_class_accuracy'], abs=1e-5)
    params = weights.load(workdir / 'transfer' / task / 'model.npz')
    assert params['head']['bias'].shape == (2,)
    assert described['hash'] == weights.content_hash(params)


def test_report_and_curves(workdir, chain):
  printed = chain[1].stdout
  text = (workdir / 'report' / 'report.md').read_text()
  for task in ('stripes', 'held-out'):
    assert re.search(rf'^\|\s*{task}\s*\|', text, re.MULTILINE)
    assert re.search(rf'^\s*{task}\s', printed, re.MULTILINE)
  assert (workdir / 'report' / 'ranked.png').read_bytes()[:4] == b'\x89PNG'
  page = (workdir / 'report' / 'index.html').read_text()
  assert 'data:image/png;base64' in page
  assert 'held-out' in page


def test_progress_lines_tell_rate_and_time_left(chain):
  assert re.search(r'upstream step 12/12 loss [\d.]+ .*img/s, \d+:\d\d left', chain[1].stderr)


def test_tensorboard_holds_curves_inputs_table_histograms_and_sweeps(workdir):
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  def tags(run):
    events = EventAccumulator(str(workdir / 'tensorboard' / run))
    events.Reload()
    return {
      tag for kind in ('scalars', 'images', 'tensors', 'histograms') for tag in events.Tags()[kind]
    }

  for run in ('upstream/baseline', 'experts/full/warm', 'experts/adapter/cold'):
    assert {'loss', 'accuracy', 'learning_rate', 'test_accuracy', 'input'} <= tags(run)
  assert {'steps_per_second', 'images_per_second'} <= tags('upstream')
  assert {'picks', 'knn/stripes', 'knn/held-out'} <= {
    tag.removesuffix('/text_summary') for tag in tags('select')
  }
  trial = 'transfer/stripes/baseline/validation/lr0.5-steps4-seed0'
  assert (
    '_hparams_/session_start_info' in ''.join(tags(trial))
    or (workdir / 'tensorboard' / trial).exists()
  )
  assert 'accuracy' in tags(trial)


def test_a_second_run_skips_what_is_finished(workdir, config_file):
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob('*.csv')}
  config = runpy.run_path(str(config_file))['get_config']()
  app.run(config, str(workdir))
  assert {path: path.stat().st_mtime_ns for path in workdir.rglob('*.csv')} == before
  config.upstream.learning_rate = 0.25
  with pytest.raises(ValueError, match=r'upstream\.learning_rate \(was 0\.5, is 0\.25\)'):
    app.run(config, str(workdir))


def test_a_changed_weights_file_is_refused(workdir, config_file, tmp_path):
  config = runpy.run_path(str(config_file))['get_config']()
  config.phases = ('select',)
  config.run.update(tensorboard=False, embedding_cache='')
  shutil.copytree(workdir / 'weights', tmp_path / 'weights')
  shutil.copy(workdir / 'pool.json', tmp_path)
  params = weights.load(tmp_path / 'weights' / 'full.cold.npz')
  params['backbone']['root']['kernel'][0, 0, 0, 0] += 1
  weights.save(str(tmp_path / 'weights' / 'full.cold.npz'), params)
  with pytest.raises(ValueError, match=r"full\.cold\.npz.*'full:cold' \(hashes differ\)"):
    app.run(config, str(tmp_path))
  assert not (tmp_path / 'scores.csv').exists()


def test_the_domain_predictor_learns_whose_slice_an_image_is_of(
  chain, config_file, run_main, tmp_path
):
  shutil.copytree(chain[0], tmp_path / 'run')
  flags = (
    "--config.phases=('domain_predictor',)",
    '--config.domain_predictor.batch_size=16',
    '--config.domain_predictor.duration=12 steps',
    '--config.domain_predictor.learning_rate=0.5',
    '--config.domain_predictor.crop=none',
  )
  done = run_main(config_file, tmp_path / 'run', *flags)
  assert done.returncode == 0, done.stderr[-3000:]
  described = json.loads((tmp_path / 'run/domain_predictor.json').read_text())
  assert set(described['nodes']) == {'warm', 'cold'}
  predictor = weights.load(tmp_path / 'run/weights/domain_predictor.npz')
  assert predictor['head']['kernel'].shape[1] == 2
  lines = pd.read_csv(tmp_path / 'run/domain_predictor/metrics.csv')
  # Warm and cold colours, of which any network can tell more than half.
  assert lines[lines.metric == 'test_accuracy'].value.item() > 0.7


def test_checkpoints_and_random_slices_join_the_pool(config_file, run_main, tmp_path):
  workdir = tmp_path / 'run'
  flags = (
    "--config.phases=('upstream', 'experts')",
    '--config.upstream.keep_every=4',
    "--config.experts.kinds=('adapter',)",
    '--config.experts.controls=True',
    '--config.run.tensorboard=False',
  )
  done = run_main(config_file, workdir, *flags)
  assert done.returncode == 0, done.stderr[-3000:]
  members = {member.name: member for member in pool.read(workdir / 'pool.json')}
  assert members.keys() == {
    *('random', 'baseline', 'baseline@4', 'baseline@8'),
    *('adapter:warm', 'adapter:cold', 'adapter:random like warm', 'adapter:random like cold'),
  }
  assert members['adapter:random like warm'].images == members['adapter:warm'].images == 36
  # The baseline on its way: neither where it started nor where it ended.
  roots = [
    weights.load(workdir / members[name].weights)['backbone']['root']['kernel']
    for name in ('random', 'baseline@4', 'baseline@8', 'baseline')
  ]
  steps = [np.linalg.norm(a - b) for a, b in itertools.pairwise(roots)]
  assert min(steps) > 0
  assert members['baseline@4'].kind == 'checkpoint'
  baseline = weights.load(workdir / 'weights/baseline.npz')
  assert members['adapter:cold'].trained_from == weights.content_hash(baseline)
  assert members['adapter:cold'].trained_from == members['baseline'].hash


def test_experts_are_compared_with_the_baseline_on_their_slices(workdir):
  learned = pd.read_csv(workdir / 'slices.csv')
  assert set(zip(learned.kind, learned.slice)) == set(
    itertools.product(('full', 'adapter'), ('warm', 'cold'))
  )
  # Twelve of the 24 test images belong to each group.
  for column in ('accuracy', 'baseline accuracy'):
    np.testing.assert_allclose(learned[column] * 12, (learned[column] * 12).round(), atol=1e-3)
  lines = pd.read_csv(workdir / 'upstream' / 'metrics.csv')
  of_all = lines[lines.metric == 'test_accuracy'].value.item()
  # Two slices that make up the whole.
  halves = learned[learned.kind == 'full']['baseline accuracy']
  assert halves.mean() == pytest.approx(of_all, abs=1e-5)


def test_experts_join_an_existing_pool_and_touch_nothing_of_it(
  chain, config_file, run_main, tmp_path
):
  old, new = tmp_path / 'old', tmp_path / 'elsewhere' / 'new'
  shutil.copytree(chain[0], old)
  before = {path: path.read_bytes() for path in old.rglob('*') if path.is_file()}
  command = (
    f'--config.pool={old}/pool.json',
    "--config.experts.kinds=('adapter',)",
    '--config.run.tensorboard=False',
  )
  nodes = "--config.experts.nodes=('red',)"
  phases = "--config.phases=('experts', 'select')"
  done = run_main(config_file, new, *command, nodes, phases)
  assert done.returncode == 0, done.stderr[-3000:]
  assert {path: path.read_bytes() for path in old.rglob('*') if path.is_file()} == before
  members = {member.name: member for member in pool.read(new / 'pool.json')}
  assert members.keys() == MODELS | {'adapter:red'}
  added = members['adapter:red']
  assert (added.images, added.backbone) == (12, members['baseline'].weights)
  assert (new / added.backbone).samefile(old / 'weights/baseline.npz')
  # Selection has scored the old and the new ones, from their files.
  assert set(pd.read_csv(new / 'scores.csv').model) == members.keys()
  done = run_main(config_file, tmp_path / 'again', *command, "--config.phases=('experts',)")
  assert done.returncode == 1
  assert 'already has adapter:cold, adapter:warm: name other nodes' in done.stderr
  done = run_main(
    config_file, tmp_path / 'again', *command, '--config.model.depth=26', nodes, phases
  )
  assert done.returncode == 1
  assert 'set config.model and config.image to the former' in done.stderr


def test_domain_adaptive_transfer_beside_selection(chain, config_file, run_main, tmp_path):
  shutil.copytree(chain[0], tmp_path / 'run')
  (tmp_path / 'run/phases/report.json').unlink()
  flags = (
    "--config.phases=('dat', 'report')",
    '--config.dat.batch_size=16',
    '--config.dat.duration=6 steps',
    '--config.dat.crop=none',
  )
  done = run_main(config_file, tmp_path / 'run', *flags)
  assert done.returncode == 0, done.stderr[-3000:]
  trials = pd.read_csv(tmp_path / 'run/trials.csv')
  kept = pd.read_csv(chain[0] / 'trials.csv')
  pd.testing.assert_frame_equal(trials[trials.model != 'dat'], kept)
  own = trials[trials.model == 'dat'].groupby(['task', 'split']).size().to_dict()
  assert own == dict.fromkeys(itertools.product(('stripes', 'held-out'), ('validation', 'test')), 2)
  costs = pd.read_csv(tmp_path / 'run/costs.csv').set_index(['task', 'method'])
  # Forty images of 'stripes' are seen by six models; DAT sees them once, and six batches of sixteen.
  assert costs.images['stripes', 'selection'] == 6 * 40
  assert costs.images['stripes', 'dat'] == 40 + 6 * 16
  assert (costs.seconds > 0).all()
  report = (tmp_path / 'run/report/report.md').read_text()
  assert 'Domain-adaptive transfer' in report
  assert 'dat %' in done.stdout


def test_results_from_elsewhere_are_reported(chain, run_main, tmp_path):
  foreign = tmp_path / 'foreign'
  foreign.mkdir()
  for name in ('scores.csv', 'trials.csv', 'tasks.csv'):
    table = pd.read_csv(chain[0] / name)
    columns = (
      ['task', 'model', 'kind', 'strategy', 'score'] if name == 'scores.csv' else table.columns
    )
    table[columns].to_csv(foreign / name, index=False)
  config = 'configs/report.py'
  done = run_main(config, tmp_path / 'out', f'--config.results={foreign}')
  assert done.returncode == 0, done.stderr[-2000:]
  overview = pd.read_csv(tmp_path / 'out/report/table.csv')
  own = pd.read_csv(chain[0] / 'report/table.csv')
  pd.testing.assert_frame_equal(overview, own)
  with open(foreign / 'trials.csv', 'a') as file:
    file.write('stripes,baseline,0,0.5,4,0.0,0.0,9,test,1.5\n')
  done = run_main(config, tmp_path / 'again', f'--config.results={foreign}')
  assert done.returncode == 1
  assert 'accuracy 1.5 is not in [0, 1]' in done.stderr


def test_a_restart_runs_only_the_trials_that_are_missing(chain, config_file, run_main, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(chain[0], workdir)
  for phase in ('transfer', 'report'):
    (workdir / f'phases/{phase}.json').unlink()
  whole = pd.read_csv(workdir / 'trials.csv')
  # As if it had been cut short before the last model's retrains.
  cut = (whole.task == 'held-out') & (whole.model == 'adapter:cold') & (whole.split == 'test')
  assert cut.sum() == 2
  whole[~cut].to_csv(workdir / 'trials.csv', index=False)
  done = run_main(config_file, workdir, '--config.run.tensorboard=False')
  assert done.returncode == 0, done.stderr[-3000:]
  again = pd.read_csv(workdir / 'trials.csv')
  pd.testing.assert_frame_equal(again[: len(whole) - 2], whole[~cut].reset_index(drop=True))
  np.testing.assert_allclose(again.accuracy[-2:], whole[cut].accuracy, atol=1e-6)
  assert done.stderr.count('images/s') + done.stderr.count('img/s') < 20
