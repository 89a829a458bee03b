"""Successive halving against the full search, on simulated models."""

import threading
from concurrent import futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.selection import halving


def _regret(found, full, budget=1) -> float:
  """How much better the full search's choice is, by its scores [E], than the best of the first `budget` found."""
  full = np.asarray(full, float)
  return float(full.max() - full[found.ranking[:budget]].max())


def _simulate(models, images, classes, seed):
  """Models that tell classes apart more or less well, and an embedder that counts what it is asked."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, images)
  labels[: 2 * classes] = np.arange(2 * classes) % classes
  centres = rng.normal(size=(models, classes, 4))
  strength = rng.uniform(0, 3, (models, 1, 1))
  noise = rng.normal(size=(models, images, 4))
  embeddings = strength * centres[:, labels] + noise
  counts = np.zeros((models, images), int)

  def embed(chosen, indices):
    for model in chosen[::-1]:
      counts[model, indices] += 1
      yield model, embeddings[model, indices]

  return labels, embeddings, embed, counts


def _score(model: int, embeddings: np.ndarray, labels: np.ndarray) -> float:
  del model
  return _nearest(embeddings[None], labels)[0]


def _nearest(embeddings, labels):
  """Leave-one-out accuracy of the nearest neighbour."""
  distances = np.square(embeddings[:, :, None] - embeddings[:, None]).sum(-1)
  distances[:, np.arange(len(labels)), np.arange(len(labels))] = np.inf
  return (labels[distances.argmin(-1)] == labels).mean(-1)


@settings(max_examples=40, deadline=None)
@given(
  models=st.integers(1, 20),
  images=st.integers(12, 60),
  classes=st.integers(2, 4),
  start=st.integers(1, 80),
  keep=st.sampled_from([0.25, 0.5, 0.9, 1]),
  seed=st.integers(0, 99),
)
def test_what_holds_of_every_search(models, images, classes, start, keep, seed):
  labels, embeddings, embed, counts = _simulate(models, images, classes, seed)
  baseline = seed % models
  found = halving.search(models, labels, embed, _score, [baseline], start, keep, seed)
  full = _nearest(embeddings, labels)
  assert sorted(found.ranking) == list(range(models))
  # No image twice, and the report counts what was asked for.
  assert counts.max() == 1
  np.testing.assert_array_equal(counts.sum(1), found.seen)
  assert found.embedded == counts.sum() <= models * images
  # The baseline and the first choice have seen all images, and are scored as by the full search.
  assert found.seen[baseline] == found.seen[found.ranking[0]] == images
  whole = found.seen == images
  np.testing.assert_allclose(found.scores[whole], full[whole])
  # Nobody is ranked before one that went further.
  assert (np.diff(found.seen[found.ranking]) <= 0).all()
  assert 0 <= _regret(found, full, models) == 0 <= _regret(found, full)
  if keep == 1:
    assert _regret(found, full) == 0
    np.testing.assert_array_equal(found.ranking, np.argsort(-full, kind='stable'))


def test_a_fifth_of_the_images_finds_the_best_of_fifty():
  regrets = []
  for seed in range(5):
    labels, embeddings, embed, _ = _simulate(50, 500, 5, seed)
    found = halving.search(50, labels, embed, _score, [0], start=32, seed=seed)
    assert found.rounds[0] == (32, 50)
    assert [images for images, _ in found.rounds] == [32, 64, 128, 256, 500]
    assert found.embedded < 50 * 500 / 4
    full = np.concatenate([_nearest(embeddings[i : i + 1], labels) for i in range(50)])
    regrets.append(_regret(found, full, budget=2))
  assert max(regrets) < 0.02


@pytest.mark.parametrize('lost', [0, 3, 7])
def test_a_model_without_a_score_goes_on_least(lost):
  labels, _, embed, _ = _simulate(8, 60, 2, 1)
  score = lambda model, *rest: np.nan if model == lost else _score(model, *rest)
  found = halving.search(8, labels, embed, score, start=8)
  assert not np.isnan(found.scores[found.ranking[0]])
  assert found.seen[lost] == found.rounds[0][0]


def test_it_does_not_matter_which_process_has_which_models():
  labels, _, embed, _ = _simulate(12, 60, 3, 0)
  alone = halving.search(12, labels, embed, _score, [0], start=8)
  # All of the best, some, one, and none.
  best = alone.ranking.tolist()
  shares = [set(best[:6]), set(best[6:11]), set(best[11:]), set()]
  told, everyone = [{} for _ in shares], threading.Barrier(len(shares))

  def search(process):
    def embed_own(chosen, indices):
      return embed([model for model in chosen if model in shares[process]], indices)

    def exchange(scores):
      told[process] = scores
      everyone.wait(60)
      found = {model: score for one in told for model, score in one.items()}
      everyone.wait(60)
      return found

    return halving.search(12, labels, embed_own, _score, [0], start=8, exchange=exchange)

  with futures.ThreadPoolExecutor(len(shares)) as processes:
    for found in processes.map(search, range(len(shares))):
      np.testing.assert_array_equal(found.ranking, alone.ranking)
      np.testing.assert_array_equal(found.scores, alone.scores)
      np.testing.assert_array_equal(found.seen, alone.seen)
      assert found.rounds == alone.rounds == [(8, 12), (16, 6), (32, 4), (60, 3)]


def test_regret_is_what_the_full_search_would_have_gained():
  found = halving.Halving(np.array([2, 0, 1]), np.zeros(3), np.zeros(3, int), [], 0)
  full = np.array([0.5, 0.9, 0.7])
  assert [round(_regret(found, full, b), 9) for b in (1, 2, 3)] == [0.2, 0.2, 0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 9))
def test_beginnings_have_the_classes_in_proportion(labels, seed):
  labels = np.array(labels)
  order = halving.stratified(labels, seed)
  assert sorted(order) == list(range(len(labels)))
  whole = np.bincount(labels, minlength=4)
  for number in range(1, len(labels) + 1):
    part = np.bincount(labels[order[:number]], minlength=4)
    assert np.abs(part - whole * number / len(labels)).max() <= 2


def test_the_first_round_has_two_images_a_class():
  labels, _, embed, _ = _simulate(4, 60, 10, 0)
  assert halving.search(4, labels, embed, _score, start=3).rounds[0] == (20, 4)


@pytest.mark.parametrize('change', [{'models': 0}, {'keep': 0}, {'keep': 1.5}])
def test_a_search_that_keeps_nobody_is_refused(change):
  labels, _, embed, _ = _simulate(4, 60, 3, 0)
  arguments = {'models': 4, 'labels': labels, 'embed': embed, 'score': _score}
  with pytest.raises(ValueError, match='there must be some'):
    halving.search(**arguments | change)


def test_an_embedder_that_leaves_something_out_is_refused():
  labels, _, embed, _ = _simulate(4, 60, 3, 0)
  with pytest.raises(ValueError, match=r'no embeddings of models \[3\]'):
    halving.search(4, labels, lambda models, i: embed(models[:3], i), _score)
  with pytest.raises(ValueError, match='model 3: 59 embeddings of 60 images'):
    halving.search(4, labels, lambda models, i: embed(models, i[1:]), _score)
