"""Strategies that need no embedding, what each strategy needs, and how scores become ranks ([WHICH]).

A strategy gives each model of a pool a score, higher is better, NaN where it has none. Its choice under a budget B is the
models of ranks 1 to B.
"""

import zlib
from collections.abc import Collection, Sequence

import numpy as np

from experts.selection import pool

NEEDS = {
  'embeddings': "the models' embeddings of the task's images",
  'labels': "the task's labels",
  'head': 'models that give class probabilities of their upstream data',
  'predictor': "a domain predictor; the phase 'domain_predictor' trains one",
  'priors': (
    "for each expert, the upstream images it saw of each class (the field 'labels' of the pool file), and beside the "
    "baseline's weights the names of its labels; the phases 'upstream' and 'experts' write both"
  ),
  'metadata': "'imagenet_accuracy' or 'images' of the pool's models",
  'trials': 'test accuracies of fine-tuned models: trials.csv',
}

NAMES = {
  'random': (),
  'epn': ('predictor',),
  'kl': ('head', 'priors'),
  'knn': ('embeddings', 'labels'),
  'knn_holdout': ('embeddings', 'labels'),
  'linear': ('embeddings', 'labels'),
  'task_agnostic': ('metadata',),
  'hybrid': ('embeddings', 'labels', 'metadata'),
  'oracle': ('trials',),
  'oracle_agnostic': ('trials',),
  'h_score': ('embeddings', 'labels'),
  'logme': ('embeddings', 'labels'),
  'leep': ('head', 'labels'),
  'nce': ('head', 'labels'),
  'nleep': ('embeddings', 'labels'),
  'parc': ('embeddings', 'labels'),
  'transrate': ('embeddings', 'labels'),
  'gbc': ('embeddings', 'labels'),
}


def named(text: str) -> tuple[str, ...]:
  """The strategies of a list, each once; the first of them chooses.

  Example:
    >>> named('knn, linear, knn')
    ('knn', 'linear')
  """
  return tuple(dict.fromkeys(name.strip() for name in text.split(',')))


def check(names: Sequence[str], available: Collection[str]) -> None:
  """Says in one line what a strategy needs and does not have.

  Args:
    names: the strategies asked for.
    available: those of `NEEDS` that the pool and the task have.

  Raises:
    ValueError: an unknown strategy, or one that lacks something.
  """
  for name in names:
    if name not in NAMES:
      raise ValueError(f"no strategy '{name}'; there are: {', '.join(NAMES)}")
    lacking = [NEEDS[need] for need in NAMES[name] if need not in available]
    if lacking:
      raise ValueError(f"strategy '{name}' needs {', and '.join(lacking)}")


def rank(members: Sequence[pool.Member], scores: np.ndarray, ties: str = 'order') -> np.ndarray:
  """Ranks models by a score: 1 for the best.

  Args:
    members: M models, in the pool's order.
    scores: `[M]`, higher is better.
    ties: who comes first at equal scores: 'order', the model that the pool lists first (the baseline stands before its
      experts), or 'parameters', the larger model, and of equal sizes the one that is listed first.

  Returns:
    float64 `[M]`: 1, 2, … without gaps; NaN for models without a score and for controls: untrained networks, experts on
    random slices, and checkpoints of the baseline.

  Example:
    >>> baseline, expert = (pool.Member(*each, 'x', None, 9, 5, 2, 'f', 'h') for each in (('b', 'baseline'), ('e', 'full')))
    >>> rank([baseline, expert], np.array([0.5, 0.7]))
    array([2., 1.])
  """
  scores = np.asarray(scores, np.float64)
  if scores.shape != (len(members),):
    raise ValueError(f'{len(members)} models need as many scores, not {scores.shape}')
  second = {'order': lambda m: 0, 'parameters': lambda m: m.parameters}[ties]
  competes = np.array([member.competes for member in members])
  candidates = np.flatnonzero(competes & ~np.isnan(scores))
  best_first = sorted(candidates, key=lambda i: (-scores[i], -second(members[i])))
  return _numbered(best_first, len(members))


def hybrid(agnostic: np.ndarray, aware: np.ndarray, trainable: np.ndarray) -> np.ndarray:
  """Ranks the task-agnostic choice first and goes on with the task-aware ones ([WHICH]).

  Under a budget B that is the top task-agnostic and the top B - 1 task-aware models, all distinct: where the first is
  among the latter, the task-aware list goes on by one. Models that can only be ranked cost no budget: where the
  task-agnostic list begins with some, all of it is put forward up to the first that can be fine-tuned.

  Args:
    agnostic: `[M]`, ranks of a task-agnostic strategy; NaN has none.
    aware: `[M]`, ranks of a task-aware strategy.
    trainable: bool `[M]`, which models can be fine-tuned. Where the task-agnostic strategy ranks none of them, its first
      choice alone comes before the task-aware list.

  Returns:
    float64 `[M]`, ranks; NaN for models that neither puts forward.

  Raises:
    ValueError: the task-agnostic strategy ranks no model.

  Example:
    >>> hybrid(np.array([2.0, 3.0, 1.0, 4.0]), np.array([1.0, 2.0, 3.0, np.nan]), np.full(4, True))
    array([ 2.,  3.,  1., nan])
  """
  agnostic, aware = np.asarray(agnostic, np.float64), np.asarray(aware, np.float64)
  if np.isnan(agnostic).all():
    raise ValueError(
      'the task-agnostic strategy ranks no model, so that a hybrid has no first choice'
    )
  by_rank = lambda ranks: [i for i in np.argsort(ranks, kind='stable') if not np.isnan(ranks[i])]
  listed = by_rank(agnostic)
  end = next((place for place, i in enumerate(listed) if trainable[i]), 0)
  first = listed[: end + 1]
  return _numbered([*first, *(i for i in by_rank(aware) if i not in first)], len(aware))


def random(members: Sequence[pool.Member], task: str, seed: int) -> np.ndarray:
  """Scores `[M]` drawn uniformly from [0, 1); other draws for each task and seed."""
  return np.random.default_rng([seed, zlib.crc32(task.encode())]).random(len(members))


def task_agnostic(members: Sequence[pool.Member]) -> np.ndarray:
  """Scores models by their ImageNet accuracy or, if it is known for none, by the number of their upstream images.

  To be ranked with ties='parameters'. Models whose accuracy is not known, in a pool where others' is, have no score, nor
  have those whose number of images is 0 (unknown).

  Returns:
    float64 `[M]`.

  Raises:
    ValueError: neither is known for any model.
  """
  accuracies = [m.imagenet_accuracy for m in members]
  if any(accuracy is not None for accuracy in accuracies):
    return np.array(accuracies, np.float64)
  images = np.array([m.images or np.nan for m in members], np.float64)
  if np.isnan(images).all():
    raise ValueError(f"strategy 'task_agnostic' needs {NEEDS['metadata']}")
  return images


def oracle_agnostic(test_accuracy: np.ndarray) -> np.ndarray:
  """Scores `[M]` for all tasks: means of the fine-tuned test accuracies `[T, M]`, NaN for a model that one task lacks.

  The task-aware oracle's scores of a task are its test accuracies themselves.
  """
  return np.asarray(test_accuracy, np.float64).mean(axis=0)


def _numbered(best_first: Sequence[int], number: int) -> np.ndarray:
  ranks = np.full(number, np.nan)
  ranks[list(best_first)] = np.arange(1, len(best_first) + 1)
  return ranks
