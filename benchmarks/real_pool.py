"""Chooses among published image classifiers for eight small tasks, by every strategy that needs no training run.

    python -m benchmarks.real_pool --shared=../shared --workdir=runs/real_pool

The folder holds pool/*.tflite, data/NAME/*.tar.gz and data/wordnet. The pool is made of the files; two tasks are made of
those classes of tiny-imagenet that WordNet calls birds and insects. main.py embeds the images and scores the models; a second
run, by all strategies, takes the embeddings from its cache; a third halves the pool. A logistic regression on the embeddings,
tested on each task's test split, says which model was the best to choose. Tables are printed and left in the workdir.

Needs ai-edge-litert. Half an hour on two CPU cores that had other work. Figures: docs/real_pool.md.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import time

import numpy as np
import pandas as pd
import threadpoolctl
from absl import app, flags, logging
from sklearn import linear_model, pipeline, preprocessing

from benchmarks import litert, real_pool_config
from experts.data import hierarchy, sources, splits, wordnet
from experts.models import opaque
from experts.reporting import files, statistics
from experts.runs import candidates, tasks
from experts.selection import cache, embed, evaluation, knn, pool

_SHARED = flags.DEFINE_string('shared', '../shared', 'Folder of the models and the images.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/real_pool', 'Folder for the results.')

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_NATURE = {'birds': 'n01503061', 'insects': 'n02159955'}
_STRATEGIES = (
  'knn', 'knn_holdout', 'linear', 'h_score', 'logme', 'leep', 'nce', 'nleep', 'parc', 'transrate', 'gbc', 'task_agnostic',
  'hybrid', 'random',
)  # fmt: skip
# File -> name in the tables, and top-1 as published: tensorflow.org/lite/guide/hosted_models; the float model's,
# tensorflow/models' slim/nets/mobilenet_v1.md.
_KNOWN = {
  'mobilenet_v1_0.25_128_quant': ('v1-0.25-128', 0.395),
  'mobilenet_v1_0.25_224_1_default_1': ('v1-0.25-224', 0.498),
  'mobilenet_v1_0.5_160_quant': ('v1-0.5-160', 0.572),
  'mobilenet_v1_0.75_192_quant': ('v1-0.75-192', 0.661),
  'mobilenet_v1_1.0_224_quant_embedding_extractor': ('v1-1.0-224', None),
  'mobilenet_v2_1.0_224_quant': ('v2-1.0-224', 0.708),
  'tf2_mobilenet_v2_1.0_224_ptq': ('v2-1.0-224-tf2', None),
  'mobilenet_edgetpu_0.75_224_post_training_quant': ('edgetpu-0.75-224', None),
  'mobilenet_v2_1.0_224_inat_bird_quant': ('v2-birds', None),
  'mobilenet_v2_1.0_224_inat_insect_quant': ('v2-insects', None),
}
_GENERAL = 'ImageNet'
_REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1)


def make_pool(models: pathlib.Path, path: pathlib.Path) -> list[pool.Member]:
  """Writes a pool of the .tflite files of a folder."""
  members = []
  for file in sorted(models.glob('*.tflite')):
    graph = litert.read(file)
    upstream = next(
      (f'iNaturalist {name}s' for name in ('bird', 'insect') if f'inat_{name}' in file.name),
      _GENERAL,
    )
    name, accuracy = _KNOWN.get(file.stem, (file.stem, None))
    members.append(
      pool.Member(
        name=name,
        kind='callable',
        upstream=upstream,
        slice=None,
        images=0,
        parameters=graph.parameters,
        dimension=graph.dimension,
        weights=f'benchmarks.litert:{file.stem}',
        hash=opaque.content_hash(str(file)),
        imagenet_accuracy=accuracy,
        size=graph.size,
      )
    )
  if not members:
    raise FileNotFoundError(f'{models}: no .tflite file is there')
  pool.write(path, members, {})
  return members


def make_nature(shared: pathlib.Path, folder: pathlib.Path) -> dict[str, tuple[str, ...]]:
  """Writes birds.tar and insects.tar with those classes of tiny-imagenet; returns what these are."""
  archive = shared / 'data/tiny-imagenet/tiny-imagenet-sub.tar.gz'
  nouns = wordnet.load(str(shared / 'data/wordnet'))
  classes = sources.open_dataset(f'images:{archive}', 'train').class_names
  tree = hierarchy.from_edges(nouns.edges, classes)
  chosen = {
    task: tuple(name for name, own in zip(classes, tree.ancestors) if tree.index(node) in own)
    for task, node in _NATURE.items()
  }
  with contextlib.ExitStack() as stack:
    parts = {
      task: stack.enter_context(tarfile.open(folder / f'{task}.tar', 'w')) for task in chosen
    }
    images = stack.enter_context(tarfile.open(archive))
    for entry in images:
      for task, names in chosen.items():
        if entry.isfile() and pathlib.PurePath(entry.name).parts[-2] in names:
          parts[task].addfile(entry, images.extractfile(entry))
  return {
    task: tuple(nouns.definitions[name].partition(',')[0].partition(':')[0] for name in names)
    for task, names in chosen.items()
  }


def overrides(shared: pathlib.Path, workdir: pathlib.Path) -> dict[str, str]:
  """The places, as fields of the config."""
  return {
    'data_dir': str(shared / 'data'),
    'pool': str(workdir / 'pool.json'),
    'run.embedding_cache': str(workdir / 'embeddings'),
    **{f'tasks.{task}.data': f'images:{workdir / task}.tar' for task in _NATURE},
  }


def _run(name: str, fields: dict[str, str]) -> float:
  """Runs main.py, whose lines go to a file of the workdir; returns the seconds that it took, now or when it first ran."""
  folder = _folder() / name
  folder.mkdir(exist_ok=True)
  command = [sys.executable, 'main.py', '--config=benchmarks/real_pool_config.py']
  command += [f'--workdir={folder}', *(f'--config.{key}={value}' for key, value in fields.items())]
  with open(folder / 'log.txt', 'w', encoding='utf-8') as log:
    done = subprocess.run(command, cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT)
  if done.returncode:
    lines = (folder / 'log.txt').read_text(encoding='utf-8').splitlines()
    raise RuntimeError('\n'.join([f'{name}: main.py failed:', *lines[-5:]]))
  return json.loads((folder / 'phases/select.json').read_text(encoding='utf-8'))['seconds']


def _folder() -> pathlib.Path:
  return pathlib.Path(_WORKDIR.value).resolve()


@dataclasses.dataclass(frozen=True)
class Probe:
  """What a model's embeddings of a task are good for.

  Attributes:
    task, model: names.
    knn: bool [N], training images whose nearest neighbour among the others is of their class.
    test: bool [T], test images that a logistic regression on the training images gets right.
  """

  task: str
  model: str
  knn: np.ndarray
  test: np.ndarray


def probe(config, task: splits.Task, members: list[pool.Member]) -> list[Probe]:
  """Trains a logistic regression on each model's embeddings, its regularisation chosen on the validation images."""
  nothing = np.arange(0)
  test = dataclasses.replace(
    task, name=f'{task.name} test', train=task.test, fit=task.test_indices, validation=nothing
  )
  embedded = embed.embed_pool(
    members,
    '',
    [candidates.images_of(candidates.show(config, each)) for each in (task, test)],
    {},
    256,
    cache.Cache(config.run.embedding_cache),
  )
  of_model = {}
  for unit in embedded:
    of_model.setdefault(unit.members[0].name, []).append(unit.embeddings[0])
  fit = len(task.fit)
  found = []
  for name, (train, held_out) in of_model.items():
    # Small products: threads would mostly wait for each other.
    with threadpoolctl.threadpool_limits(1):
      chosen = max(
        _REGULARISATION,
        key=lambda strength, train=train: (
          _regression(strength)
          .fit(train[:fit], task.labels[:fit])
          .score(train[fit:], task.labels[fit:])
        ),
      )
      right = _regression(chosen).fit(train, task.labels).predict(held_out) == test.labels
    (neighbours,) = knn.leave_one_out(train[None], task.labels).correct
    found.append(Probe(task.name, name, neighbours, right))
    logging.warning('probe: %s, %s: %.3f', task.name, name, right.mean())
  return found


def _regression(strength: float) -> pipeline.Pipeline:
  return pipeline.make_pipeline(
    preprocessing.StandardScaler(), linear_model.LogisticRegression(C=strength, max_iter=300)
  )


def results(
  workdir: pathlib.Path,
  members: list[pool.Member],
  probes: list[Probe],
  seconds: dict[str, float],
) -> dict[str, pd.DataFrame]:
  """Makes the tables of docs/real_pool.md, by their titles."""
  scores = files.read(workdir / 'all/scores.csv')
  trials = pd.DataFrame(
    [{'task': p.task, 'model': p.model, 'split': 'test', 'accuracy': p.test.mean()} for p in probes]
  )
  joined = evaluation.join(scores, trials)
  order = list(dict.fromkeys(scores.task))
  names = [member.name for member in members]
  wide = lambda frame, value: frame.pivot(index='model', columns='task', values=value).loc[
    names, order
  ]
  percent = lambda table: (100 * table).round(1)
  knn_scores = wide(scores[scores.strategy == 'knn'], 'score')
  first = scores[scores['rank'] == 1].pivot(index='strategy', columns='task', values='model')
  regrets = evaluation.regrets(joined)
  at_one = regrets[regrets.budget == 1].pivot(index='strategy', columns='task', values='regret')
  correlations = evaluation.correlations(joined).pivot(
    index='strategy', columns='task', values='spearman'
  )
  mean = lambda table: table.reindex([*_STRATEGIES, 'oracle_agnostic'])[order].assign(
    mean=lambda t: t.mean(axis=1)
  )
  budgets = evaluation.by_budget(regrets).pivot(index='strategy', columns='budget', values='regret')
  return {
    'pool': pd.DataFrame(members).set_index('name')[
      ['upstream', 'parameters', 'dimension', 'size', 'imagenet_accuracy']
    ],
    'knn: leave-one-out accuracy, %': percent(knn_scores),
    'test: accuracy of a logistic regression, %': percent(wide(trials, 'accuracy')),
    'choices: of each strategy': first.reindex(_STRATEGIES)[order],
    'correlation: Spearman, of scores with test accuracies': mean(correlations)
    .drop('hybrid')
    .round(2),
    'regret: test accuracy that the first choice leaves behind, points': percent(
      mean(at_one).assign(**{'mean of 2': budgets[2]})
    ),
    'paired: McNemar, pick of kNN and specialists against the default': _against_default(
      members, probes
    ),
    'halving: against the full ranking by kNN': _halving(workdir, knn_scores),
    'seconds': pd.DataFrame({'seconds': seconds}).round(0),
  }


def _against_default(members: list[pool.Member], probes: list[Probe]) -> pd.DataFrame:
  """The pick of kNN and, on birds and insects, the specialists, against the model of the best published accuracy.

  That one is also the specialists' twin: the same network, trained on ImageNet.
  """
  default = max(members, key=lambda member: member.imagenet_accuracy or 0).name
  special = [member.name for member in members if member.upstream != _GENERAL]
  rows = []
  for task in dict.fromkeys(p.task for p in probes):
    of_task = {p.model: p for p in probes if p.task == task}
    pick = max(of_task, key=lambda name, of_task=of_task: of_task[name].knn.mean())
    pairs = [(pick, default)]
    if task in _NATURE:
      pairs += [(name, other) for name in special for other in (default, pick)]
    rows += [_paired(task, of_task[one], of_task[other]) for one, other in pairs]
  return pd.DataFrame(rows).set_index('task')


def _paired(task: str, one: Probe, other: Probe) -> dict[str, object]:
  shown = lambda values: f'{100 * values.mean():.1f}'
  return {
    'task': task,
    'model': one.model,
    'against': other.model,
    'knn': shown(one.knn),
    'its knn': shown(other.knn),
    'p': f'{statistics.mcnemar(one.knn, other.knn):.2g}',
    'test': shown(one.test),
    'its test': shown(other.test),
    'p test': f'{statistics.mcnemar(one.test, other.test):.2g}',
  }


def _halving(workdir: pathlib.Path, full: pd.DataFrame) -> pd.DataFrame:
  found = files.read(workdir / 'halving/scores.csv')
  cost = {
    name: files.read(workdir / name / 'costs.csv').set_index('task')
    for name in ('first', 'halving')
  }
  picks = found[found['rank'] == 1].set_index('task').model
  rows = {
    task: {
      'images': cost['halving'].images[task],
      'of': cost['first'].images[task],
      'seconds': cost['halving'].seconds[task],
      'full': cost['first'].seconds[task],
      'pick': picks[task],
      'regret': f'{100 * (full[task].max() - full[task][picks[task]]):.1f}',
    }
    for task in full
  }
  return pd.DataFrame(rows).T


def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)
  shared, workdir = pathlib.Path(_SHARED.value).resolve(), _folder()
  workdir.mkdir(parents=True, exist_ok=True)
  os.environ['LITERT_MODELS'] = str(shared / 'pool')
  members = make_pool(shared / 'pool', workdir / 'pool.json')
  nature = make_nature(shared, workdir)
  for task, names in nature.items():
    print(f'{task}: {len(names)} classes of tiny-imagenet: {", ".join(names)}')
  fields = overrides(shared, workdir)
  strategies = ','.join(_STRATEGIES)
  seconds = {
    'embed all images, knn and leep': _run('first', fields),
    'all strategies, from the cache': _run('all', {**fields, 'strategy': strategies}),
    'knn by halving, without the cache': _run(
      'halving',
      {**fields, 'strategy': 'knn', 'select.first_images': '64', 'run.embedding_cache': ''},
    ),
  }
  config = real_pool_config.get_config()
  config.update_from_flattened_dict(fields)
  began = time.monotonic()
  probes = [found for task in tasks.load_all(config) for found in probe(config, task, members)]
  seconds['embed the test images, logistic regressions'] = time.monotonic() - began
  for title, table in results(workdir, members, probes, seconds).items():
    print(f'\n{title}\n\n{table.to_markdown(floatfmt=".3g")}', flush=True)
    table.to_csv(workdir / f'{title.partition(":")[0].replace(" ", "_")}.csv')


if __name__ == '__main__':
  app.run(main)
