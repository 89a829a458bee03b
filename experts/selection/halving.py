"""Successive halving: finds the best of many models without showing all images to all of them.

Every model is scored on a few images, the better part on twice as many, and so on up to all images (Jamieson and
Talwalkar, 2016, with images for the budget).
"""

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence

import numpy as np

# (models, indices of images) -> (model, its embeddings [n, D]) of each of them that is this process's, in any order
Embed = Callable[[Sequence[int], np.ndarray], Iterable[tuple[int, np.ndarray]]]
# (model, its embeddings [n, D], labels [n]) -> its score, higher is better
Score = Callable[[int, np.ndarray, np.ndarray], float]
# {model: score} of this process -> those of all processes, on each of them
Exchange = Callable[[dict[int, float]], dict[int, float]]


@dataclasses.dataclass(frozen=True)
class Halving:
  """What a search over E models and N images found.

  Attributes:
    ranking: int `[E]`, models, best first: by the round that they reached, then by their score there.
    scores: float64 `[E]`, each on the images of the last round it reached.
    seen: int `[E]`, the number of these.
    rounds: (images, models) of each round.
    embedded: images embedded, over all models; a full search embeds E·N.
  """

  ranking: np.ndarray
  scores: np.ndarray
  seen: np.ndarray
  rounds: list[tuple[int, int]]
  embedded: int


def search(
  models: int,
  labels: np.ndarray,
  embed: Embed,
  score: Score,
  always: Sequence[int] = (),
  start: int = 64,
  keep: float = 0.5,
  seed: int = 0,
  exchange: Exchange = dict,
) -> Halving:
  """Ranks models by successive halving.

  No image is embedded twice by a model. Embeddings wait on disk, so that memory holds those of one model. Of a job's
  processes each embeds and scores its own models in every round, while who goes on is decided by the scores of all: the
  result does not depend on how the models are shared out, and a process whose models are dropped waits.

  Args:
    models: their number E, over all processes.
    labels: int `[N]`.
    embed: embeds some images with some models.
    score: scores models; not a number is the least.
    always: models that are never dropped: the baseline.
    start: images of the first round; more where that is less than two a class.
    keep: share of the models that go on, and of their images that are not new.
    seed: of the order of the images.
    exchange: how processes tell each other their scores; each calls it once a round, with or without scores of its own.

  Raises:
    ValueError: no models, or a `keep` outside (0, 1].
  """
  if models < 1 or not 0 < keep <= 1:
    raise ValueError(f'{models} models of which {keep:g} go on: there must be some')
  labels = np.asarray(labels)
  order = stratified(labels, seed)
  scores, seen = np.zeros(models), np.zeros(models, int)
  left, rounds = list(range(models)), []
  before = 0
  number = first_round(labels, start) if keep < 1 else len(labels)
  with tempfile.TemporaryDirectory() as folder:
    while True:
      number = min(number, len(labels))
      rounds.append((number, len(left)))
      mine = {}
      for model, new in embed(left, order[before:number]):
        own = _append(f'{folder}/{model}.npy', new)
        if len(own) != number:
          raise ValueError(f'model {model}: {len(new)} embeddings of {number - before} images')
        mine[model] = score(model, own, labels[order[:number]])
      found = exchange(mine)
      if found.keys() != set(left):
        raise ValueError(f'no embeddings of models {sorted(set(left) - found.keys())}')
      scores[left], seen[left] = [found[model] for model in left], number
      if number == len(labels):
        break
      best = sorted(left, key=lambda model: -_worth(scores[model]))[: math.ceil(keep * len(left))]
      dropped = set(left) - {*best, *always}
      for model in dropped & mine.keys():
        os.unlink(f'{folder}/{model}.npy')
      left = [model for model in left if model not in dropped]
      before, number = number, math.ceil(number / keep)
  ranking = sorted(range(models), key=lambda model: (-seen[model], -_worth(scores[model])))
  return Halving(np.array(ranking), scores, seen, rounds, int(seen.sum()))


def first_round(labels: np.ndarray, start: int) -> int:
  """Images of the first round: at least two a class, as far as there are so many."""
  return min(max(start, 2 * len(np.unique(labels))), len(labels))


def stratified(labels: np.ndarray, seed: int = 0) -> np.ndarray:
  """An order of the images of which every beginning has the classes in their proportions, to within one or two."""
  rng = np.random.default_rng(seed)
  place = np.empty(len(labels))
  for label in np.unique(labels):
    mine = rng.permutation(np.flatnonzero(labels == label))
    place[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
  return np.argsort(place, kind='stable')


def _worth(score: float) -> float:
  return -math.inf if math.isnan(score) else score


def _append(path: str, new: np.ndarray) -> np.ndarray:
  own = np.concatenate([np.load(path), new]) if os.path.exists(path) else np.asarray(new)
  np.save(path, own)
  return own
