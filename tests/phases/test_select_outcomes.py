"""What selection makes of a pool and of tasks on which some strategies have no score: a table of input and outcome."""

import dataclasses
import pathlib

import cv2
import numpy as np
import pandas as pd
import pytest
from absl import logging

from configs import common
from experts import app
from experts.data import splits
from experts.models import opaque
from experts.reporting import files
from experts.selection import pool

_CLASSES = {'even': (12, 12), 'single': (12, 11, 1), 'twins': (11, 11, 2)}
_NUMBER = 24


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> pathlib.Path:
  """Three tasks of 24 images each: of two classes, with a class of one image, and with one of two."""
  root = tmp_path_factory.mktemp('images')
  rng = np.random.default_rng(0)
  for task, counts in _CLASSES.items():
    for label, number in enumerate(counts):
      for split, some in (('train', number), ('test', 2)):
        folder = root / task / split / f'class{label}'
        folder.mkdir(parents=True)
        for i in range(some):
          cv2.imwrite(str(folder / f'{i}.png'), rng.integers(0, 255, (8, 8, 3), np.uint8))
  return root


@dataclasses.dataclass
class _Maker:
  """Makes pools of tables of embeddings, and selects from them."""

  images: pathlib.Path
  folder: pathlib.Path

  def pool(self, tables: dict[str, dict[str, np.ndarray]], **fields) -> pathlib.Path:
    members = []
    for i, (name, of_tasks) in enumerate(tables.items()):
      path = self.folder / f'{i}.npz'
      np.savez(path, **of_tasks)
      members.append(
        pool.Member(
          name=name, kind='embeddings', upstream='', slice=None, images=0, parameters=1,
          dimension=next(iter(of_tasks.values())).shape[1], weights=path.name,
          hash=opaque.content_hash(str(path)), **fields,
        )
      )  # fmt: skip
    pool.write(self.folder / 'pool.json', members, {})
    return self.folder / 'pool.json'

  def config(self, tasks: dict[str, str], strategy: str, phases=('select',)):
    config = common.get_config()
    config.phases = phases
    config.pool = str(self.folder / 'pool.json')
    config.data_dir = str(self.images)
    config.run.update(tensorboard=False, embedding_cache='', compilation_cache='')
    config.strategy = strategy
    config.tasks = {
      name: common.task(f'images:{data}', train_images=0, validation_images=6)
      for name, data in tasks.items()
    }
    return config

  def run(self, config) -> pd.DataFrame:
    workdir = self.folder / 'run'
    app.run(config, str(workdir))
    return files.read(workdir / 'scores.csv')


@pytest.fixture
def make(images, tmp_path) -> _Maker:
  return _Maker(images, tmp_path)


def _random(dimension: int, tasks, seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {task: rng.normal(size=(_NUMBER, dimension)).astype(np.float32) for task in tasks}


@pytest.mark.parametrize(
  ('strategy', 'tasks', 'dimension', 'empty'),
  [
    # D >= N: LogME is not defined for any model.
    ('knn,linear,logme', ('even',), 24, {('logme', 'even')}),
    ('knn,logme', ('even', 'single'), 30, {('logme', 'even'), ('logme', 'single')}),
    # A class of one image, on one of two tasks.
    ('knn,gbc', ('even', 'single'), 5, {('gbc', 'single')}),
    ('linear,parc', ('even',), 1, {('parc', 'even')}),
    # What the pool has not: heads, a predictor, priors, metadata, trials.
    ('knn,leep,nce', ('even',), 5, {('leep', 'even'), ('nce', 'even')}),
    ('knn,epn,kl', ('even',), 5, {('epn', 'even'), ('kl', 'even')}),
    ('knn,task_agnostic,hybrid', ('even',), 5, {('task_agnostic', 'even'), ('hybrid', 'even')}),
    ('knn,oracle', ('even',), 5, {('oracle', 'even')}),
    # More neighbours than the hold-out has images to fit, but not than there are in all.
    ('knn,knn_holdout', ('even',), 5, {('knn_holdout', 'even')}),
  ],
)
def test_what_a_strategy_lacks_costs_its_own_column(
  make, caplog, strategy, tasks, dimension, empty
):
  make.pool({name: _random(dimension, tasks, i) for i, name in enumerate('abc')})
  config = make.config({task: task for task in tasks}, strategy)
  if 'holdout' in strategy:
    config.select.k = 20
  with caplog.at_level(logging.WARNING):
    scores = make.run(config)
  ranks = scores.groupby(['strategy', 'task'])['rank'].count()
  assert set(ranks[ranks == 0].index) == empty
  assert set(ranks[ranks > 0]) == {3}
  # One warning for each strategy that lacks something, whatever the number of models and tasks.
  said = [r.getMessage() for r in caplog.records if 'no score' in r.getMessage()]
  assert len(said) == len({name for name, _ in empty}), said
  assert all(any(name in line for line in said) for name, _ in empty)
  assert (make.folder / 'run/picks.csv').exists()


@pytest.mark.parametrize(
  ('strategy', 'tasks', 'dimension', 'message'),
  [
    ('logme,knn', ('even',), 24, "logme can score no model of the pool on task 'even' (LogME"),
    ('gbc,knn', ('even', 'single'), 5, "gbc can score no model of the pool on task 'single' (GBC"),
    ('parc', ('even',), 1, "parc can score no model of the pool on task 'even' (PARC"),
    ('leep,knn', ('even',), 5, "strategy 'leep' needs models that give class probabilities"),
    ('epn,knn', ('even',), 5, "strategy 'epn' needs a domain predictor"),
    ('hybrid', ('even',), 5, "strategy 'hybrid' needs 'imagenet_accuracy' or 'images'"),
    ('oracle,knn', ('even',), 5, "strategy 'oracle' needs test accuracies"),
  ],
)
def test_a_strategy_that_cannot_choose_is_refused_before_anything_is_embedded(
  make, strategy, tasks, dimension, message
):
  make.pool({name: _random(dimension, tasks, i) for i, name in enumerate('abc')})
  # Whoever embeds fails by this.
  (make.folder / '0.npz').write_bytes(b'')
  with pytest.raises(ValueError) as error:
    make.run(make.config({task: task for task in tasks}, strategy))
  assert message in str(error.value)
  assert '\n' not in str(error.value)
  assert not (make.folder / 'run/scores.csv').exists()
  # Nothing was made, so that the mended config is no other one.
  assert not list((make.folder / 'run/phases').glob('select.json'))


def test_a_strategy_that_turns_out_to_choose_nothing_on_one_task_leaves_the_scores(make):
  tables = {name: _random(5, ('even', 'twins'), i) for i, name in enumerate('abc')}
  # Of the class of two images, both are the same to every model.
  make.pool(tables)
  config = make.config({'even': 'even', 'twins': 'twins'}, 'gbc,knn')
  # The order of a task's images is the split's: equal rows for all of the class.
  task = splits.load('twins', config.tasks.twins, config.data_dir, config.seed)
  for table in tables.values():
    table['twins'][task.labels == 2] = 1.0
  make.pool(tables)
  with pytest.raises(ValueError, match="can score no model of the pool on task 'twins' ") as error:
    make.run(config)
  assert 'scores.csv has what the others found' in str(error.value)
  scores = files.read(make.folder / 'run/scores.csv')
  ranks = scores.groupby(['strategy', 'task'])['rank'].count().to_dict()
  assert ranks == {
    ('gbc', 'even'): 3, ('gbc', 'twins'): 0, ('knn', 'even'): 3, ('knn', 'twins'): 3,
  }  # fmt: skip


def _unfit(table, fault):
  table['even'][...] = np.inf if fault == 'infinite' else 1.0


@pytest.mark.parametrize('fault', ['infinite', 'constant'])
@pytest.mark.parametrize(
  ('strategy', 'first_images'),
  [('knn,linear,logme', 0), ('task_agnostic,knn,hybrid,random', 0), ('knn', 8)],
)
def test_a_model_that_tells_nothing_of_the_images_is_left_out(
  make, caplog, fault, strategy, first_images
):
  tables = {name: _random(5, ('even', 'twins'), i) for i, name in enumerate('abc')}
  _unfit(tables['a'], fault)
  make.pool(tables, imagenet_accuracy=0.5)
  config = make.config({'even': 'even', 'twins': 'twins'}, strategy)
  config.select.first_images = first_images
  with caplog.at_level(logging.WARNING):
    scores = make.run(config)
  of_a = scores[(scores.task == 'even') & (scores.model == 'a')]
  assert len(of_a) >= len(strategy.split(','))
  assert of_a.score.isna().all()
  assert of_a['rank'].isna().all()
  others = scores[(scores.task == 'twins') | (scores.model != 'a')]
  assert others['rank'].notna().all()
  said = [r.getMessage() for r in caplog.records if "'a'" in r.getMessage()]
  assert len(said) == 1, said
  assert said[0].startswith("select: model 'a' on the images of 'even': ")
  picks = files.read(make.folder / 'run/picks.csv')
  assert 'a' not in picks[picks.task == 'even'].to_numpy()


def test_where_all_models_tell_nothing_that_ends_the_run(make):
  tables = {name: _random(5, ('even',), i) for i, name in enumerate('abc')}
  for table in tables.values():
    _unfit(table, 'constant')
  make.pool(tables)
  with pytest.raises(ValueError, match='all embeddings are the same') as error:
    make.run(make.config({'even': 'even'}, 'knn'))
  assert str(error.value).startswith(
    "task 'even': no model of the pool tells its images apart; of the first: model "
  )


# In the order in which a config keeps them.
_TASKS = ('$x$ and $y', '1e5', '2024', 'NA', 'True', 'a b', 'größe', 'nan')
_MODELS = ('007', '1e5', 'True', 'NA', 'nan', 'None', '-1', 'org/model-b', 'with, comma')


def test_names_that_look_like_something_else_go_through_all_phases(make, capsys, caplog):
  make.pool({name: _random(5, _TASKS, i) for i, name in enumerate(_MODELS)})
  config = make.config(dict.fromkeys(_TASKS, 'even'), 'knn', ('select', 'transfer', 'report'))
  with caplog.at_level(logging.WARNING):
    scores = make.run(config)
  assert scores.task.drop_duplicates().tolist() == list(_TASKS)
  assert set(scores.model) == set(_MODELS)
  # A pool of which nothing can be fine-tuned: the ranking is the answer, on the screen and in the report.
  said = [r.getMessage() for r in caplog.records if 'nothing is fine-tuned' in r.getMessage()]
  assert len(said) == len(_TASKS)
  assert not (make.folder / 'run/trials.csv').exists()
  printed = capsys.readouterr().out
  page = (make.folder / 'run/report/report.md').read_text()
  for task, part in scores.groupby('task'):
    best = part.loc[part['rank'].idxmin()].model
    assert any(line.split('  ')[0] == task for line in printed.splitlines()), task
    assert best in page
  table = files.read(make.folder / 'run/report/table.csv')
  assert table.task.tolist() == [*_TASKS, 'mean']
  first = scores[scores['rank'] == 1].set_index('task').model
  assert table.chosen[:-1].tolist() == first[list(_TASKS)].tolist()
  # And from elsewhere, without the pool.
  for path in (make.folder / 'run').glob('*.csv'):
    (make.folder / 'results').mkdir(exist_ok=True)
    (make.folder / 'results' / path.name).write_bytes(path.read_bytes())
  config.phases = ('report',)
  config.update(results=str(make.folder / 'results'), pool='', tasks={})
  app.run(config, str(make.folder / 'elsewhere'))
  again = files.read(make.folder / 'elsewhere/report/table.csv')
  pd.testing.assert_frame_equal(again, table)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('', "the name '' is empty"),
    ('a/b', "the name 'a/b' has a slash"),
    # ml_collections' own.
    ('v1.5', 'dots in field names (when `allow_dotted_keys=False`), but the key v1.5 contains one'),
    ('a\nb', r"the name 'a\nb' has characters that cannot be printed"),
    ('x' * 201, 'is longer than 200 bytes'),
    ('method', "cannot be named 'method': a column of the report is"),
    (2024, "the name 2024 is no text; write '2024' with quotes"),
  ],
)
def test_names_of_tasks_that_cannot_be_kept_are_refused(make, name, message):
  make.pool({'a': _random(5, ('even',), 0)})
  with pytest.raises(ValueError) as error:
    app.run(make.config({name: 'even'}, 'knn'), str(make.folder / 'run'))
  assert message in str(error.value)
  assert not (make.folder / 'run').exists()


@pytest.mark.parametrize('name', ['', 'dat', '../up', 'a//b', 'a\tb'])
def test_names_of_models_that_cannot_be_kept_are_refused(make, name):
  with pytest.raises(ValueError, match=repr(name).replace('\\', r'\\')):
    make.pool({name: _random(5, ('even',), 0)})


@pytest.mark.parametrize('strategy', ['knn_holdout', 'linear'])
def test_images_that_leave_none_to_score_by_end_before_any_is_embedded(make, strategy):
  # A table of another number of rows would be the error, were it read.
  make.pool({'a': {'even': np.zeros((3, 5), np.float32)}})
  config = make.config({'even': 'even'}, strategy)
  config.select.images = 4
  message = '4 images leave none to score by: raise config.select.images'
  with pytest.raises(ValueError, match=message):
    make.run(config)


def test_selection_looks_at_so_many_images_evenly_at_random(make):
  make.pool({name: _random(5, ('even', 'single'), i) for i, name in enumerate('abc')})
  config = make.config({'even': 'even', 'single': 'single'}, 'knn,linear,h_score')
  config.select.images = 16
  scores = make.run(config)
  by_strategy = scores.groupby('strategy').images.agg(['min', 'max'])
  assert by_strategy.loc['knn'].tolist() == [16, 16]
  assert by_strategy.loc['h_score'].tolist() == [16, 16]
  # A fifth of the 16; the tasks themselves have 6 of 24.
  assert by_strategy.loc['linear'].tolist() == [3, 3]
  assert files.read(make.folder / 'run/costs.csv').images.tolist() == [48, 48]
  # The same ones for the same seed, and for another seed others.
  app.run(config, str(make.folder / 'again'))
  pd.testing.assert_frame_equal(files.read(make.folder / 'again/scores.csv'), scores)
  config.select.images = 24
  app.run(config, str(make.folder / 'whole'))
  config.select.images = 0
  app.run(config, str(make.folder / 'all'))
  whole, every = (files.read(make.folder / name / 'scores.csv') for name in ('whole', 'all'))
  pd.testing.assert_frame_equal(whole, every)
  assert set(every[every.strategy == 'knn'].images) == {24}
