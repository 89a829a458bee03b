"""Fine-tunes one model on one task: a sweep, then retraining of what it chose (EXP App. E)."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import logging

from experts import config as configs
from experts.data import batches, look, splits
from experts.models import partial, weights
from experts.models.kinds import KINDS, family_of
from experts.models.network import Network, head
from experts.reporting import files, outcomes
from experts.runs import (
  evaluators,
  objectives,
  rounds,
  sweeps,
  tasks,
  unfinished,
  views,
)
from experts.runs.description import Config, Run, Setting
from experts.runs.streams import Stream, seed_of
from experts.selection import networks, pool
from experts.training import hosts, optim, population
from experts.training.board import Board

Tree = Any

_SWEEP, _TEST = 'validation', 'test'


def check(config: Config, settings: Mapping[str, Any], member: pool.Member, folder: str) -> None:
  """Refuses what a model cannot be fine-tuned with, by the config for it, before anything is.

  Raises:
    ValueError: images of a side that it cannot take, or some of its last blocks where it has none.
  """
  described = networks.described(member, folder, settings)
  network = family_of(described).build(described)
  if why := network.fault(config.image.size):
    raise ValueError(
      f'model {member.name!r} cannot take images of {config.image.size} pixels: {why}'
    )
  for part in config.transfer.trained:
    if part not in (partial.ALL, partial.HEAD) and partial.blocks(part) > network.blocks:
      raise ValueError(
        f'config.transfer.trained: {part!r} of the model {member.name!r}, which has {network.blocks or "no"} blocks that are '
        f'known: {partial.ALL!r} and {partial.HEAD!r} are trained of any'
      )


def open_task(config: Config, name: str) -> splits.Task:
  """A task of the config, its images in memory where they fit, since every trial reads all of them many times."""
  task, whole = tasks.find(config, name), views.task_transform(config.image).first
  for size in {views.train_transform(config.image, config.transfer).first, whole}:
    look.hold(task.train, task.all, size)
  look.hold(task.test, task.test_indices, whole)
  return task


def describe(
  section: Config,
  name: str,
  network: Network,
  trials: Sequence[sweeps.Trial],
  start: Tree,
  warmup: str,
) -> Run:
  """How trials of one length that train the same part of a network do so, by the config's section `transfer`.

  Args:
    section: that.
    name: of the run.
    network: that is fine-tuned.
    trials: one a member.
    start: the network's trees, or their shapes, without a member axis.
    warmup: a duration.
  """
  network, trained, frozen = partial.split(network, start, trials[0].trained)
  return Run(
    name=name,
    field='transfer',
    section=section,
    names=[
      f'lr{one.lr:g}-steps{one.steps}'
      + (f'-{one.trained.replace(":", "")}' if one.trained != partial.ALL else '')
      + (f'-decay{one.weight_decay:g}' if one.weight_decay else '')
      + (f'-mixup{one.mixup:g}' if one.mixup else '')
      + f'-seed{one.seed}'
      for one in trials
    ],
    network=network,
    trained=population.repeat(trained, len(trials)),
    frozen=frozen,
    objective=objectives.single_label(network),
    predict=objectives.predict(network),
    steps=trials[0].steps,
    settings=[
      Setting(
        optim.scaled(one.lr, section.batch_size, section.base_batch_size),
        one.weight_decay,
        one.mixup,
      )
      for one in trials
    ],
    warmup=warmup,
  )


def _populations(trials: Sequence[sweeps.Trial]) -> list[list[sweeps.Trial]]:
  """Those of one length that train the same part of a network are one population."""
  found = {}
  for trial in trials:
    found.setdefault((trial.steps, partial.blocks(trial.trained)), []).append(trial)
  return [found[key] for key in sorted(found)]


class Trainer:
  """Fine-tunes one model on one task."""

  def __init__(
    self,
    config: Config,
    board: Board,
    settings: Mapping[str, Any],
    task: splits.Task,
    member: pool.Member,
    folder: str,
    trials: sweeps.Trials,
  ):
    self._config, self._board, self._trials = config, board, trials
    self._task, self._member = task, member
    self._settings, self._folder = settings, folder
    self._key = {'task': task.name, 'model': member.name}

  def sweep(self) -> list[sweeps.Trial]:
    """Trains every point of the sweep on the fit images; returns each selection's best on validation."""
    config, section = self._config, self._config.transfer
    selections, _ = sweeps.numbers(config)
    tried = [
      sweeps.Trial(
        number,
        float(point.learning_rate),
        optim.steps(point.duration, section.batch_size, len(self._task.fit)),
        float(point.weight_decay),
        float(point.mixup),
        config.seed + number,
        point.trained,
      )
      for number in range(selections)
      for point in sweeps.points(config, number)
    ]
    for trials in _populations(tried):
      alike = {'steps': trials[0].steps, 'trained': trials[0].trained}
      if len(self._trials.find(**self._key, split=_SWEEP, **alike)) < len(trials):
        accuracy, _ = self._train(self._task.fit, trials, _SWEEP)
        self._record(trials, _SWEEP, accuracy)
    unfinished.forget(self._unfinished(_SWEEP))
    best = []
    for number in range(selections):
      rows = self._trials.find(**self._key, split=_SWEEP, selection=number)
      rows = [row for row in rows if not math.isnan(row['accuracy'])]
      if not rows:
        logging.warning(
          'transfer: %s on %s: all trials of selection %d diverged; there is nothing to retrain',
          self._member.name, self._task.name, number,
        )  # fmt: skip
        continue
      # Of equals the gentler: the smaller learning rate, then fewer steps, then less that is trained.
      row = max(
        rows,
        key=lambda row: (
          row['accuracy'], -row['lr'], -row['steps'], -partial.blocks(row['trained']),
        ),
      )  # fmt: skip
      best.append(sweeps.Trial(**{name: row[name] for name in sweeps.Trial._fields}))
    return best

  def retrain(self, chosen: list[sweeps.Trial], folder: str) -> None:
    """Trains each selection's choice on all images from several seeds and tests; keeps one in `folder`, if given."""
    _, retrains = sweeps.numbers(self._config)
    trials = [
      trial._replace(seed=self._config.seed + retrains * trial.selection + i)
      for trial in chosen
      for i in range(retrains)
    ]
    # All processes train alike, whether they hold the result, as the first does, or not.
    keep = bool(folder) and not hosts.from_first(os.path.exists(f'{folder}/model.json'))
    kept = []
    for part in _populations(trials):
      alike = {'steps': part[0].steps, 'trained': part[0].trained}
      missing = len(self._trials.find(**self._key, split=_TEST, **alike)) < len(part)
      if not (missing or keep):
        continue
      accuracy, trees = self._train(self._task.all, part, _TEST, keep)
      if missing:
        self._record(part, _TEST, accuracy)
      kept += zip(part, map(float, accuracy), trees, strict=True)
    if keep and hosts.first():
      self._save(folder, kept)
    unfinished.forget(self._unfinished(_TEST))

  def _load(self) -> tuple[dict[str, Any], dict]:
    """What network it is, and its parameters without a head; not held, for there may be hundreds."""
    kind = KINDS[self._member.kind]
    params = {**kind.family.load(self._member, self._folder)}
    params.pop('head', None)
    # The pool's settings are of the network that its own models share.
    settings = self._settings if kind.shared else {}
    return kind.family.describe(self._member, settings, params), params

  def _train(self, indices, trials, split, keep=False) -> tuple[np.ndarray, list[dict | None]]:
    """Trains a member for each trial, all of one length.

    Returns:
      Their accuracies, and the trees of those that did not diverge, if they are to be kept and this process writes.
    """
    config, task = self._config, self._task
    described, params = self._load()
    network = family_of(described).build(described)
    params['head'] = jax.device_get(head(network.dimension, task.train.num_classes))
    run = describe(
      config.transfer,
      f'transfer/{task.name}/{self._member.name}/{split}',
      network,
      trials,
      params,
      sweeps.warmup(config, trials[0].steps, len(task.fit)),
    )
    streams = [
      # The same seed, the same order of images: learning rates are compared on equal terms.
      Stream(name, task.train, indices, seed_of(config, task.name, str(one.seed)))
      for name, one in zip(run.names, trials)
    ]
    accuracy, trees = np.full(len(trials), np.nan), {}

    def evaluate(mesh, part, trained):
      whole = views.task_transform(config.image)
      count = evaluators.evaluator(config, mesh, run.predict, run.frozen, whole)
      on_test = split == _TEST
      dataset = task.test if on_test else task.train
      counts = count(trained, dataset, task.test_indices if on_test else task.validation)
      by_metric = {'accuracy': counts.accuracy, 'mean_per_class': counts.mean_per_class}
      found = by_metric[task.metric]()
      accuracy[[place[id(stream)] for stream in part]] = found
      return {f'{split}_accuracy': found}

    place = {id(stream): number for number, stream in enumerate(streams)}
    folder = unfinished.trials(
      self._unfinished(split), trials[0].steps, self._decides(trials, indices)
    )

    def kept(number, tree):
      trees[number] = partial.join({**run.frozen, **tree})

    job = rounds.Job(streams, folder, passing=True, evaluate=evaluate, keep=kept if keep else None)
    # Not a number for a trial that diverged: it is no result to choose by.
    accuracy[rounds.train(config, self._board, run, job) >= 0] = np.nan
    for name, row in zip(run.names, self._rows(trials, split, accuracy)):
      reached = row.pop('accuracy')
      self._board.hparams(f'{run.name}/{name}', row, {'accuracy': reached})
    return accuracy, [trees.get(number) for number in range(len(trials))]

  def _unfinished(self, split) -> str:
    names = self._task.name, self._member.name, split
    return unfinished.folder(self._trials.folder, *names)

  def _decides(self, trials, indices) -> dict[str, Any]:
    """All that decides what trials come to."""
    task, member = self._task, self._member
    return {
      'seed': self._config.seed,
      'transfer': _told(self._config.transfer.to_dict(), 'transfer'),
      'image': _told(self._config.image.to_dict(), 'image'),
      # A competitor's is its name, as in workdirs of before.
      'network': [
        dict(self._settings),
        member.name,
        pool.COMPETITOR if member.name == pool.COMPETITOR else member.kind,
        member.hash,
      ],
      'task': [task.name, task.train.name, task.train.version, task.train.identify()],
      'indices': np.asarray(indices).tolist(),
      'labels': task.train.labels[indices].tolist(),
      # As before there was a choice of what is trained.
      'trials': [one[:-1] if one.trained == partial.ALL else one for one in trials],
    }

  def _record(self, trials, split, accuracy):
    self._trials.add(self._rows(trials, split, accuracy))

  def _rows(self, trials, split, accuracy) -> list[dict]:
    return [
      {
        **self._key,
        **one._asdict(),
        'split': split,
        'accuracy': value,
      }
      for one, value in zip(trials, map(float, accuracy))
    ]

  def _save(self, folder, kept):
    """Keeps the retrained model of median accuracy, so that the file is as good as the table says."""
    number = outcomes.middle([accuracy for _, accuracy, _ in kept])
    if number is None:
      logging.warning('transfer: %s: all retrained models diverged; none is kept', folder)
      return
    trial, accuracy, params = kept[number]
    os.makedirs(folder, exist_ok=True)
    weights.save(f'{folder}/model.npz', params)
    described = {
      **self._key,
      'lr': trial.lr,
      'steps': trial.steps,
      'weight_decay': trial.weight_decay,
      'mixup': trial.mixup,
      'trained': trial.trained,
      'optimizer': self._config.transfer.optimizer,
      'layer_decay': self._config.transfer.layer_decay,
      'metric': self._task.metric,
      'test_accuracy': accuracy,
      'classes': list(self._task.train.class_names),
      # How deep samples of people's images were scaled; none of data that is decoded as papers did.
      'ranges': self._ranges(),
      'hash': weights.content_hash(params),
      'network': {
        **self._load()[0],
        # As it was tested: a random crop in training is none here.
        **views.of_config(self._config.image)._replace(resize=self._config.image.size)._asdict(),
      },
    }
    confusion = self._confusion(described['network'], params)
    by_class = pd.DataFrame(
      {
        'class': confusion.index,
        'images': confusion.sum(axis=1).to_numpy(),
        # Not a number for a class without test images.
        'accuracy': (confusion.to_numpy().diagonal() / confusion.sum(axis=1)).to_numpy(),
      }
    )
    files.write(confusion.rename_axis('true class').reset_index(), f'{folder}/confusion.csv')
    files.write(by_class, f'{folder}/per_class.csv')
    described['mean_per_class_accuracy'] = float(by_class.accuracy.mean())
    files.write_json(described, f'{folder}/model.json')

  def _ranges(self) -> dict[str, tuple[float, float]] | None:
    train = self._task.train
    return None if train.published else dict(train.ranges)

  def _confusion(self, network, params) -> pd.DataFrame:
    """Test images by their class (rows) and the class that the model takes them for (columns)."""
    task, config = self._task, self._config
    transform = views.task_transform(config.image)
    batch, classes = config.run.evaluation_batch, task.test.num_classes
    counts = np.zeros((classes, classes), int)
    for part in batches.eval_batches(
      task.test, task.test_indices, transform, batch, undecodable=config.image.undecodable
    ):
      guess = evaluators.probabilities(network, params, part['image'], batch).argmax(axis=1)
      np.add.at(counts, (part['label'][part['mask']], guess[part['mask']]), 1)
    return pd.DataFrame(counts, task.test.class_names, task.test.class_names)


def _told(section: Mapping[str, Any], name: str) -> dict[str, Any]:
  """A section of the config without what came later and is as it was before."""
  as_json = lambda value: list(value) if isinstance(value, tuple) else value
  return {
    key: value
    for key, value in section.items()
    if configs.SINCE.get(f'{name}.{key}', object()) != as_json(value)
  }
