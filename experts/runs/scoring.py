"""Scores of models on a task by each strategy that looks at embeddings."""

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import threadpoolctl

from experts.data import splits
from experts.reporting import statistics
from experts.runs.description import Config
from experts.selection import embed, evidence, knn, linear, pool, proxies, strategies

Row = dict[str, Any]

# Those whose scores do not come from embeddings of the pool's models.
_ELSEWHERE = ('random', 'epn', 'kl', 'task_agnostic', 'hybrid', 'oracle', 'oracle_agnostic')


def of_embeddings(names: Sequence[str]) -> list[str]:
  """The strategies among these, and what these rest on, that score embeddings."""
  wanted = [name for name in names if name not in _ELSEWHERE]
  # A hybrid's later choices are kNN's.
  return wanted if 'hybrid' not in names or 'knn' in wanted else [*wanted, 'knn']


def score(
  config: Config,
  names: Sequence[str],
  task: splits.Task,
  embedded: embed.Embedded,
  leaves: Callable[[pool.Member], int | None],
) -> list[Row]:
  """Scores a unit of models on a task.

  Args:
    config: the whole config.
    names: from `of_embeddings`.
    task: whose images were embedded, in the order of `task.all`.
    embedded: what the models make of them.
    leaves: member -> outputs of its head that are classes, None for all of them.

  Returns:
    For each strategy and model: task, model, strategy, score (not a number where the strategy has none, and in one line
    `why`, or `unfit` where the model's embeddings tell nothing), and what else is known: low, high, ties, duplicates, and the images that kNN got right.
  """
  rows = [
    {'task': task.name, 'model': member.name, 'strategy': name, **nothing(reason)}
    for member, reason in zip(embedded.members, embedded.unfit)
    for name in names
    if reason
  ]
  embedded = embedded.sound()
  if not embedded.members:
    return rows
  shared = _Shared(task, embedded, leaves)
  for name in names:
    try:
      every = _SCORERS.get(name, _by_proxy(name))(config, shared)
    except ValueError as error:
      every = [{'score': float('nan'), 'why': why(task, error)} for _ in embedded.members]
    for member, found in zip(embedded.members, every, strict=True):
      rows.append({'task': task.name, 'model': member.name, 'strategy': name, **found})
  return rows


def nothing(unfit: str) -> Row:
  """What a row has in place of a score of a model whose embeddings tell nothing."""
  return {'score': float('nan'), 'unfit': unfit}


def why(task: splits.Task, error: Exception) -> str:
  """What to say where a strategy has no score."""
  return f'task {task.name!r}: {error}'


def undefined(config: Config, name: str, task: splits.Task, member: pool.Member) -> str:
  """Why a strategy surely has no score of a model on a task, known before any embedding; empty if it may have one."""
  if name == 'knn':
    return knn.undefined(len(task.all), config.select.k)
  if name in ('knn_holdout', 'linear') and (reason := _nothing_held_out(task)):
    return reason
  if name == 'knn_holdout':
    return knn.undefined(len(task.fit), config.select.k, held_out=True)
  if name == 'linear':
    return linear.undefined(task.train.labels[task.fit])
  return proxies.undefined(name, task.labels, member.dimension, f'model {member.name!r}')


def _nothing_held_out(task: splits.Task) -> str:
  if len(task.validation):
    return ''
  return f'{len(task.all)} images leave none to score by: raise config.select.images'


class _Shared:
  """A unit of models on a task, and what several proxies look at, computed once."""

  def __init__(self, task: splits.Task, embedded: embed.Embedded, leaves):
    self.task, self.members = task, embedded.members
    self.labels, self.embeddings = task.labels, embedded.embeddings
    self.fit = np.arange(len(task.fit))
    self.validation = np.arange(len(task.fit), len(task.all))
    self._embedded, self._leaves = embedded, leaves
    self._evidence = {}

  def evidence(self, index: int) -> evidence.Evidence:
    if index not in self._evidence:
      member = self.members[index]
      self._evidence[index] = evidence.Evidence(
        self.embeddings[index],
        self.labels,
        self._embedded.source(index, self._leaves(member)),
        f'model {member.name!r}',
      )
    return self._evidence[index]


def by_knn(config: Config, embeddings: np.ndarray, labels: np.ndarray) -> list[Row]:
  """Leave-one-out rows of E models without their names; embeddings [E, N, D]."""
  return _rows(
    knn.leave_one_out(embeddings, labels, k=config.select.k, metric=config.select.metric)
  )


def _knn(config: Config, shared: _Shared) -> list[Row]:
  return by_knn(config, shared.embeddings, shared.labels)


def _knn_holdout(config: Config, shared: _Shared) -> list[Row]:
  if reason := _nothing_held_out(shared.task):
    raise ValueError(reason)
  return _rows(
    knn.hold_out(
      shared.embeddings,
      shared.labels,
      shared.fit,
      shared.validation,
      k=config.select.k,
      metric=config.select.metric,
    )
  )


def _rows(found: knn.Scores) -> list[Row]:
  rows = []
  for i, correct in enumerate(found.correct):
    low, high = statistics.wilson(int(correct.sum()), len(correct))
    rows.append(
      {
        'score': float(found.accuracy[i]),
        'low': low,
        'high': high,
        'ties': float(found.ties[i]),
        'duplicates': int(found.duplicates[i]),
        # As text, for it may have to cross hosts.
        'correct': base64.b64encode(np.packbits(correct)).decode(),
        'images': len(correct),
      }
    )
  return rows


def correct(row: Row) -> np.ndarray:
  """Which images kNN got right, bool [N], of a row that `score` made."""
  bits = np.frombuffer(base64.b64decode(row['correct']), np.uint8)
  return np.unpackbits(bits, count=int(row['images'])).astype(bool)


def _linear(config: Config, shared: _Shared) -> list[Row]:
  if reason := _nothing_held_out(shared.task):
    raise ValueError(reason)
  found = linear.linear_accuracy(
    shared.embeddings, shared.labels, shared.fit, shared.validation, seed=config.seed
  )
  rows = []
  for right, accuracy in zip(found.correct, found.accuracy):
    low, high = statistics.wilson(int(right), len(shared.validation))
    images = len(shared.validation)
    rows.append({'score': float(accuracy), 'low': low, 'high': high, 'images': images})
  return rows


def _by_proxy(name: str) -> Callable[[Config, _Shared], list[Row]]:
  def scores(_, shared: _Shared) -> list[Row]:
    rows = []
    for index in range(len(shared.members)):
      row = {'images': len(shared.labels)}
      try:
        # Matrices of this size gain nothing by threads, which beside other work wait for each other (60 times slower).
        with threadpoolctl.threadpool_limits(1, 'blas'):
          value = float(proxies.PROXIES[name](shared.evidence(index)))
        if math.isnan(value):
          raise ValueError(f'{name} of model {shared.members[index].name!r} is not a number')
        row |= {'score': value}
      except ValueError as error:
        row |= {'score': float('nan'), 'why': why(shared.task, error)}
      rows.append(row)
    return rows

  return scores


_SCORERS = {'knn': _knn, 'knn_holdout': _knn_holdout, 'linear': _linear}

# Every name that a config may ask for is either scored here or known to `select`.
assert {*_SCORERS, *proxies.PROXIES, *_ELSEWHERE} == set(strategies.NAMES)
