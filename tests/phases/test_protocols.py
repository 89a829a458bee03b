"""The papers' protocols of transfer: sweeps and draws, schedules, official splits, and the mean per-class accuracy."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from configs import natural6, vtab_knn
from experts.data import splits
from experts.models import ours, resnet
from experts.runs import fine_tuning, sweeps, views
from experts.training import optim
from tests.conftest import _draw

_COLOURS = {'red': (220, 40, 40), 'green': (40, 170, 60), 'blue': (40, 60, 220)}
_IMAGES = {'train': (8, 8, 8), 'validation': (4, 4, 4), 'test': (12, 6, 2)}


def test_36_draws_of_the_papers_ranges_that_only_the_seed_decides():
  config = natural6.get_config('pets')
  points = sweeps.points(config, 0)
  assert len(points) == 36
  assert points == sweeps.points(natural6.get_config('cars'), 0)
  assert len(set(points + sweeps.points(config, 1))) == 72
  rates = np.array([point.learning_rate for point in points])
  decays = np.array([point.weight_decay for point in points])
  for values, low, high in ((rates, 2e-4, 2e-1), (decays, 1e-6, 1e-2)):
    assert low <= values.min() < values.max() <= high
    # Even in the logarithm: half are below the geometric mean, which of an even draw next to none were.
    assert 9 <= (values < (low * high) ** 0.5).sum() <= 27
  assert {point.duration for point in points} == {f'{n}000 steps' for n in (2, 4, 8, 16, 32)}
  assert {point.mixup for point in points} == {0.0, 0.05, 0.1, 0.2, 0.4}
  config.seed = 1
  assert not set(points) & set(sweeps.points(config, 0))


def test_vtab_tries_all_four_points():
  points = sweeps.points(vtab_knn.get_config('dtd'), 3)
  assert [point[:2] for point in points] == [
    (0.1, '2500 steps'),
    (0.1, '10000 steps'),
    (0.01, '2500 steps'),
    (0.01, '10000 steps'),
  ]
  assert {point[2:] for point in points} == {(0.0, 0.0, 'all')}


@pytest.mark.parametrize(
  ('config', 'steps', 'warmup', 'drops'),
  [
    (vtab_knn.get_config('dtd'), 2500, 200, (833, 1667, 2250)),
    (vtab_knn.get_config('dtd'), 10000, 500, (3333, 6667, 9000)),
    (natural6.get_config('pets'), 2000, 200, (600, 1200, 1800)),
    (natural6.get_config('pets'), 32000, 3200, (9600, 19200, 28800)),
  ],
)
def test_schedules_are_the_papers(config, steps, warmup, drops):
  section = config.transfer
  text = sweeps.warmup(config, steps, 800)
  trial = sweeps.Trial(0, 0.1, steps, 0.0, 0.0, 0)
  run = fine_tuning.describe(
    section, 'a transfer', ours.Network(resnet.ResNet(14)), [trial], {}, text
  )
  population = run.population(1)
  factor = lambda step: float(population.schedule(np.int32(step)))
  assert factor(0) == 0
  assert factor(warmup // 2) == pytest.approx(0.5)
  assert factor(warmup - 1) < 1
  assert factor(warmup) == 1
  for number, step in enumerate(drops):
    assert factor(step - 2) == pytest.approx(0.1**number, rel=1e-5)
    assert factor(step + 2) == pytest.approx(0.1 ** (number + 1), rel=1e-5)
  assert section.batch_size == 512
  assert section.momentum == 0.9


def test_learning_rates_are_those_of_the_protocols_batch():
  for config, rate in ((vtab_knn.get_config('dtd'), 0.2), (natural6.get_config('pets'), 0.1)):
    section = config.transfer
    assert optim.scaled(0.1, section.batch_size, section.base_batch_size) == pytest.approx(rate)


def test_natural_six_are_cropped_as_in_the_paper():
  config = natural6.get_config()
  assert {name: (task.resize, task.size) for name, task in config.tasks.items()} == {
    **dict.fromkeys(('aircraft', 'birdsnap', 'cars', 'food101', 'pets'), (512, 480)),
    'cifar10': (160, 128),
  }
  assert {name for name, task in config.tasks.items() if task.metric == 'mean_per_class'} == {
    'pets'
  }
  assert (config.transfer.crop, config.transfer.flip) == ('random', True)
  assert config.select.images == 1000
  assert (sweeps.numbers(config), sweeps.numbers(vtab_knn.get_config())) == ((1, 30), (10, 3))


def test_a_task_is_trained_and_tested_on_the_whole_image_however_upstream_was_cropped():
  image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
  config = vtab_knn.get_config('dtd')
  config.image.update(size=16, resize=20)
  trained = views.train_transform(config.image, config.transfer)(image)
  np.testing.assert_array_equal(trained, cv2.resize(image, (16, 16)))
  np.testing.assert_array_equal(trained, views.task_transform(config.image)(image))
  assert not np.array_equal(trained, views.eval_transform(views.of_config(config.image))(image))
  # Chance crops in training, of natural six, but not where they are tested.
  section = natural6.get_config('pets').transfer
  assert views.train_transform(config.image, section).random
  np.testing.assert_array_equal(views.task_transform(config.image)(image), trained)


def test_trials_read_back_are_those_that_were_written(tmp_path):
  table = sweeps.Trials(str(tmp_path / 'trials.csv'))
  row = {'task': 't', 'model': 'm', 'selection': 0, 'lr': 0.1, 'steps': 3, 'weight_decay': 1.234e-5}
  row |= {'mixup': 0.05, 'trained': 'head', 'seed': 0, 'split': 'validation', 'accuracy': 1 / 3}
  table.add([row, {**row, 'lr': 2 / 3, 'accuracy': 2 / 3}])
  # Equal accuracies stay equal, whether they were read or have just been measured.
  again = sweeps.Trials(str(tmp_path / 'trials.csv'))
  assert again.find() == table.find()
  again.add([{**row, 'steps': 5}])
  assert again.find(steps=5)[0]['accuracy'] == again.find(steps=3)[0]['accuracy']
  # One of before says not what was trained: all was.
  pd.DataFrame([{**row, 'trained': None}]).dropna(axis=1).to_csv(tmp_path / 'old.csv', index=False)
  assert sweeps.Trials(str(tmp_path / 'old.csv')).find(trained='all')


@pytest.fixture(scope='module')
def pets(tmp_path_factory):
  folder = tmp_path_factory.mktemp('natural6')
  seed = 100
  for split, numbers in _IMAGES.items():
    for (name, colour), number in zip(_COLOURS.items(), numbers, strict=True):
      _draw(folder / 'natural6' / 'pets' / split / name, colour, True, number, seed)
      seed += 1
  return folder


def test_the_official_validation_split_is_kept(pets):
  config = natural6.get_config('pets')
  task = splits.load('pets', config.tasks.pets, str(pets), seed=5)
  assert task.metric == 'mean_per_class'
  for indices, split in ((task.fit, 'train'), (task.validation, 'validation')):
    assert all(f'pets/{split}/' in task.train.where(i) for i in indices)
  assert np.bincount(task.train.labels[task.fit]).tolist() == [8, 8, 8]
  assert np.bincount(task.train.labels[task.validation]).tolist() == [4, 4, 4]
  assert len(task.test_indices) == 20
  # Fewer images than there are: a share of all, by the seed.
  config.tasks.pets.train_images = 20
  smaller = splits.load('pets', config.tasks.pets, str(pets), seed=5)
  assert (len(smaller.fit), len(smaller.validation)) == (16, 4)


def test_draws_are_trained_chosen_from_and_retrained(pets, chain, run_main, tmp_path):
  flags = (
    f'--config.pool={chain[0]}/pool.json',
    f'--config.data_dir={pets}',
    f'--config.run.embedding_cache={tmp_path}/embeddings',
    '--config.tasks.pets.size=16',
    '--config.tasks.pets.resize=20',
    '--config.transfer.draws=6',
    '--config.transfer.batch_size=8',
    "--config.transfer.durations=('3 steps', '5 steps')",
    '--config.transfer.mixups=(0.0, 0.4)',
    '--config.trials=1x2',
  )
  done = run_main('configs/natural6.py:pets', tmp_path / 'run', *flags)
  assert done.returncode == 0, done.stderr[-3000:]
  trials = pd.read_csv(tmp_path / 'run/trials.csv')
  hyper = ['lr', 'steps', 'weight_decay', 'mixup']
  for model, part in trials.groupby('model'):
    sweep, tested = (part[part.split == split] for split in ('validation', 'test'))
    assert (len(sweep), len(tested)) == (6, 2), model
    assert set(sweep.steps) == {3, 5}
    assert set(sweep.mixup) == {0, 0.4}
    assert sweep.lr.between(2e-4, 2e-1).all()
    best = sweep[sweep.accuracy == sweep.accuracy.max()]
    chosen = tested[hyper].drop_duplicates()
    assert len(chosen) == 1
    assert len(chosen.merge(best[hyper])) == 1
    assert tested.seed.nunique() == 2
  # All models try the same.
  tried = (
    trials[trials.split == 'validation']
    .groupby('model')[hyper]
    .apply(lambda part: part.to_numpy().tolist())
  )
  assert len(tried) >= 1
  assert all(rows == tried.iloc[0] for rows in tried)
  folder = tmp_path / 'run/transfer/pets'
  described = json.loads((folder / 'model.json').read_text())
  by_class = pd.read_csv(folder / 'per_class.csv')
  assert by_class.images.tolist() == [6, 12, 2] or by_class.images.tolist() == [2, 6, 12]
  assert described['metric'] == 'mean_per_class'
  assert described['test_accuracy'] == pytest.approx(by_class.accuracy.mean(), abs=1e-6)
  assert described['network']['size'] == 16
  # Training crops 16 out of 20; evaluation, and so the prediction, takes the whole image (F.1).
  assert described['network']['resize'] == 16
  about = pd.read_csv(tmp_path / 'run/tasks.csv').iloc[0]
  assert about[['task', 'data', 'classes', 'fit', 'validation', 'test']].tolist() == [
    'pets', 'natural6:pets', 3, 24, 12, 20,
  ]  # fmt: skip
  assert about[['metric', 'statistic', 'drift']].tolist() == ['mean_per_class', 'mean', False]
  table = pd.read_csv(tmp_path / 'run/report/table.csv')
  means = trials[trials.split == 'test'].groupby('model').accuracy.mean()
  row = table[table.task == 'pets'].iloc[0]
  assert row['baseline accuracy'] == pytest.approx(means['baseline'], abs=1e-6)
