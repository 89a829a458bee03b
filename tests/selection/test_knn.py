"""Both forms against scikit-learn in float64, ties and duplicates as literals, precision, faults by name."""

import collections
import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import neighbors

from experts.selection import knn, neighbours


def _reference(embeddings: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns which samples are correct [N], and each one's least relative gap between its first k + 1 neighbours [N]."""
  search = neighbors.NearestNeighbors(algorithm='brute', metric='euclidean')
  count = min(k + 1, len(embeddings) - 1)
  distances, index = search.fit(embeddings).kneighbors(n_neighbors=count)
  scale = np.linalg.norm(embeddings - embeddings.mean(axis=0), axis=1).max()
  gaps = np.diff(distances**2, axis=1).min(axis=1, initial=np.inf) / scale**2
  # Counter lists equal counts in the order met, which is from near to far.
  votes = [collections.Counter(row).most_common(1)[0][0] for row in labels[index[:, :k]].tolist()]
  return np.array(votes) == labels, gaps


# Few shapes: each is a program to compile.
@hypothesis.given(
  st.sampled_from([(5, 16, 1), (17, 1, 3), (40, 7, 2), (40, 7, 39), (64, 128, 1)]),
  st.integers(2, 5),
  st.integers(0, 2**31),
  st.floats(-8, 8),
)
@hypothesis.settings(deadline=None, max_examples=25)
def test_equals_float64_brute_force(shape, classes, seed, log_scale):
  *shape, k = shape
  rng = np.random.default_rng(seed)
  embeddings = np.float32(rng.normal(size=(3, *shape)) * 10**log_scale)
  labels = rng.integers(classes, size=shape[0])
  labels[:2] = 0, 1
  result = knn.leave_one_out(embeddings, labels, k=k)
  for model, each in enumerate(embeddings.astype(np.float64)):
    correct, gap = _reference(each, labels, k)
    clear = gap > 1e-5
    np.testing.assert_array_equal(result.correct[model][clear], correct[clear])
  np.testing.assert_allclose(result.accuracy, result.correct.mean(axis=1))
  assert (result.pessimistic <= result.accuracy).all()
  assert (result.accuracy <= result.optimistic).all()
  np.testing.assert_array_equal(result.duplicates, 0)
  np.testing.assert_array_equal(result.leave_group_out, result.accuracy)


@pytest.mark.parametrize('metric', knn.METRICS)
# An odd k and two classes: no vote is tied, and scikit-learn, which then takes the least label, agrees.
@pytest.mark.parametrize(('k', 'classes'), [(1, 7), (3, 2), (9, 2)])
def test_accuracies_are_those_of_scikit_learn(metric, k, classes):
  rng = np.random.default_rng(classes)
  labels = rng.integers(classes, size=150)
  means = rng.normal(size=(classes, 32))
  embeddings = np.float32([2 + s * means[labels] + rng.normal(size=(150, 32)) for s in (0.3, 0.6)])
  classifier = neighbors.KNeighborsClassifier(k, algorithm='brute', metric=metric)
  exact = embeddings.astype(np.float64)
  # Of no samples given, scikit-learn predicts each of its own without itself.
  expected = [np.mean(classifier.fit(x, labels).predict(None) == labels) for x in exact]
  result = knn.leave_one_out(embeddings, labels, k=k, metric=metric)
  np.testing.assert_allclose(result.accuracy, expected, atol=1e-6)
  fit, validation = np.split(rng.permutation(150), [110])
  result = knn.hold_out(embeddings, labels, fit, validation, k=k, metric=metric)
  for model, x in enumerate(exact):
    predicted = classifier.fit(x[fit], labels[fit]).predict(x[validation])
    np.testing.assert_array_equal(result.correct[model], predicted == labels[validation])
  np.testing.assert_allclose(result.accuracy, result.correct.mean(axis=1))


def test_accuracies_of_a_vtab_task_are_those_of_scikit_learn():
  rng = np.random.default_rng(0)
  labels = rng.integers(20, size=1000)
  embeddings = rng.normal(size=(2, 1000, 256)).astype(np.float32)
  embeddings += 0.3 * rng.normal(size=(20, 256))[labels]
  result = knn.leave_one_out(embeddings, labels)
  expected = [_reference(each, labels, 1)[0].mean() for each in embeddings.astype(np.float64)]
  np.testing.assert_allclose(result.accuracy, expected, atol=1e-6)


def test_a_tied_vote_goes_to_the_label_of_the_nearest():
  # Seen from 0: labels 2, 1, 1, 2 from near to far; from 100, where they are 1, 3, 2: all alike.
  line = np.array([[[0.0], [1.0], [2.5], [4.5], [7.0], [100.0]]])
  labels = np.array([2, 2, 1, 1, 2, 1])
  assert knn.leave_one_out(line, labels, k=4).correct[0, 0]
  assert not knn.leave_one_out(line, labels, k=3).correct[0, 0]
  assert knn.leave_one_out(line, labels, k=5).correct[0, 5] == np.False_
  assert knn.leave_one_out(line, np.array([3, 3, 1, 2, 1, 1]), k=3).correct[0, 5]


def test_hold_out_asks_the_fit_samples_only():
  # Samples 0 and 1 are each other's nearest; in fit is only one of them. Sample 4 is in neither part.
  embeddings = np.array([[[0.0], [1.0], [5.0], [6.0], [0.5]]])
  labels = np.array([0, 1, 0, 1, 1])
  result = knn.hold_out(embeddings, labels, np.array([0, 2]), np.array([3, 1]))
  np.testing.assert_array_equal(result.correct, [[False, False]])
  result = knn.hold_out(embeddings, labels, np.array([3, 2]), np.array([0, 1]))
  np.testing.assert_array_equal(result.correct, [[True, False]])


def test_hold_out_counts_what_leaks_from_fit():
  embeddings = np.array([[[0.0], [0.0], [1.0], [1.0], [3.0]]])
  result = knn.hold_out(
    embeddings, np.array([0, 0, 1, 1, 0]), np.array([0, 4]), np.array([1, 2, 3])
  )
  # Only sample 1 has a twin in fit; 2 and 3 are twins of each other.
  assert result.duplicates[0] == 1
  assert result.accuracy[0] == pytest.approx(1 / 3)
  assert result.leave_group_out[0] == pytest.approx(1 / 3)


def _near_duplicates(number: int, dimension: int) -> np.ndarray:
  """Embeddings like those of a ReLU network's mean: positive, large, mean cosine .997."""
  rng = np.random.default_rng(0)
  common = rng.uniform(5, 15, size=dimension)
  return (common + rng.normal(scale=0.6, size=(number, dimension))).astype(np.float32)


def test_near_duplicates_keep_their_neighbours():
  embeddings = _near_duplicates(300, 256)
  unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
  cosine = (unit @ unit.T)[np.triu_indices(300, 1)].mean()
  assert cosine == pytest.approx(0.997, abs=5e-4)
  labels = np.arange(300) % 7
  result = knn.leave_one_out(embeddings[None], labels)
  correct, _ = _reference(embeddings.astype(np.float64), labels, 1)
  assert result.accuracy[0] == pytest.approx(correct.mean(), abs=1e-6)
  assert result.ties[0] == 0


def test_rule_keeps_neighbours_in_bfloat16_and_the_naive_form_does_not():
  """A TPU's default precision: the factors of a product are rounded to bfloat16, sums are float32."""
  embeddings = _near_duplicates(1000, 512)

  def product(x):
    rounded = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
    return neighbours.gram(jnp.asarray(rounded))

  def nearest(products, norms):
    everyone = np.ones(1000, bool)
    return neighbours.distances(products, np.arange(1000), norms, everyone).argmin(axis=0)

  exact = embeddings.astype(np.float64)
  search = neighbors.NearestNeighbors(n_neighbors=1, algorithm='brute').fit(exact)
  expected = search.kneighbors(return_distance=False)[:, 0]
  centred = product(embeddings - embeddings.mean(axis=0))
  naive = product(embeddings)
  assert np.mean(nearest(centred, jnp.diagonal(centred)) == expected) >= 0.99
  assert np.mean(nearest(naive, jnp.square(embeddings).sum(axis=1)) == expected) < 0.6
  # Neither half of the rule does it alone.
  assert np.mean(nearest(naive, jnp.diagonal(naive)) == expected) < 0.96
  # What production computes.
  centred = neighbours.gram(jnp.asarray(embeddings - embeddings.mean(axis=0)))
  np.testing.assert_array_equal(nearest(centred, jnp.diagonal(centred)), expected)


def test_gram_is_the_product_and_symmetric():
  x = np.random.default_rng(3).normal(size=(600, 20)).astype(np.float32)
  found = np.asarray(neighbours.gram(jnp.asarray(x)))
  np.testing.assert_allclose(found, x.astype(np.float64) @ x.T, atol=1e-4)
  np.testing.assert_array_equal(found, found.T)


def test_equal_rows_and_no_others_have_equal_fingerprints():
  rng = np.random.default_rng(4)
  rows = rng.integers(-2, 3, size=(3000, 6)).astype(np.float32) * np.float32(
    rng.choice([1, 2.0**20])
  )
  _, expected = np.unique(rows, axis=0, return_inverse=True)
  marks = np.asarray(neighbours.fingerprints(jnp.asarray(rows)))
  _, found = np.unique(marks, axis=1, return_inverse=True)
  np.testing.assert_array_equal(found[:, None] == found, expected[:, None] == expected)


def test_offset_does_not_matter():
  embeddings = np.random.default_rng(1).integers(-50, 50, size=(1, 60, 8)).astype(np.float32)
  labels = np.arange(60) % 3
  np.testing.assert_array_equal(
    knn.leave_one_out(embeddings + 2**16, labels).correct,
    knn.leave_one_out(embeddings, labels).correct,
  )


@pytest.mark.parametrize('k', [1, 3])
def test_strips_equal_the_whole_matrix(monkeypatch, k):
  rng = np.random.default_rng(2)
  # The mean is zero and all products are integers: ties are exact, and whoever comes first must win.
  embeddings = rng.integers(-9, 9, size=(2, 75, 3)).astype(np.float32)
  embeddings[:, 70] = embeddings[:, 3]
  embeddings = np.concatenate([embeddings, -embeddings], axis=1)
  labels = rng.integers(4, size=150)
  whole = knn.leave_one_out(embeddings, labels, k=k)
  assert whole.ties.min() > 0
  monkeypatch.setattr(neighbours, '_WHOLE', 100)
  monkeypatch.setattr(neighbours, '_STRIP', 32)
  knn.make_program.cache_clear()
  strips = knn.leave_one_out(embeddings, labels, k=k)
  knn.make_program.cache_clear()
  for field in dataclasses.fields(whole):
    np.testing.assert_array_equal(
      getattr(strips, field.name), getattr(whole, field.name), err_msg=field.name
    )


def test_large_sets_never_hold_the_whole_matrix():
  number, device = 20_000, jax.devices()[:1]
  program = knn.make_program(tuple(device)).lower(*knn.abstract_arguments(1, number, 8, device))
  assert program.compile().memory_analysis().temp_size_in_bytes < 4 * number**2 / 20


def test_a_device_holds_one_model_at_a_time():
  embeddings, _, _ = knn.abstract_arguments(32, 500, 64, jax.devices()[:8])
  assert embeddings.sharding.shard_shape(embeddings.shape) == (1, 500, 64)


def test_tie_between_labels_is_counted_and_bounded():
  # The middle point has one neighbour of either label at distance 1.
  embeddings = np.array([[[0.0], [1.0], [2.0], [50.0]]])
  result = knn.leave_one_out(embeddings, np.array([0, 0, 1, 1]))
  np.testing.assert_array_equal(result.correct, [[True, True, False, True]])
  assert (result.ties[0], result.accuracy[0]) == (0.25, 0.75)
  assert (result.optimistic[0], result.pessimistic[0]) == (0.75, 0.5)


def test_tie_is_seen_through_the_rounding_of_the_mean():
  # The mean 1e4/3 is no float32, so the two distances of 1 differ in their last bits.
  embeddings = np.zeros((1, 6, 3))
  embeddings[0, :, 0] = [3001, 3002, 3003, 3013, 3024, 3057.1]
  embeddings[0, :, 1] = 0.1
  assert knn.leave_one_out(embeddings, np.array([0, 1, 1, 0, 0, 1])).ties[0] == 1 / 6


def test_tie_within_a_label_changes_no_bound():
  embeddings = np.array([[[0.0], [1.0], [2.0], [50.0], [53.0]]])
  result = knn.leave_one_out(embeddings, np.array([0, 0, 0, 1, 1]))
  assert result.ties[0] == 0.2
  assert result.optimistic[0] == result.pessimistic[0] == result.accuracy[0] == 1


def test_duplicates_leak_and_are_reported():
  # Twins agree with each other; without them each would meet the other label.
  embeddings = np.array([[[0.0], [0.0], [1.0], [1.0], [9.0]]])
  result = knn.leave_one_out(embeddings, np.array([0, 0, 1, 1, 1]))
  assert result.duplicates[0] == 4
  assert result.accuracy[0] == 1
  assert result.leave_group_out[0] == pytest.approx(0.2)


def test_sample_is_masked_by_index_not_as_the_first_neighbour():
  # Three equal embeddings: dropping the first neighbour found could drop a twin and keep the sample itself.
  embeddings = np.array([[[1.0], [1.0], [1.0], [9.0]]])
  result = knn.leave_one_out(embeddings, np.array([0, 1, 2, 3]))
  assert result.accuracy[0] == result.optimistic[0] == 0
  assert result.ties[0] == 1
  assert (result.duplicates[0], result.leave_group_out[0]) == (3, 0)


def test_ties_among_several_neighbours_are_counted_and_bounded():
  # Seen from 0, the second and third of 1, -2 and 2 are at one distance; from the others nothing is.
  line = np.array([[[0.0], [1.0], [-2.0], [2.0], [8.25]]])
  labels = np.array([0, 1, 1, 0, 1])
  result = knn.leave_one_out(line, labels, k=2)
  # From 0: labels 1, 1 (or 1, 0, whose nearest is 1). From 1: 0 and 2, both at 1, of label 0, then nothing near.
  np.testing.assert_array_equal(result.correct, [[False, False, False, False, False]])
  assert result.ties[0] == 0.2
  result = knn.leave_one_out(line, labels, k=3)
  assert result.ties[0] == 0


def test_the_order_of_tied_neighbours_is_bounded_too():
  # Seen from 0, both neighbours are at distance 1, of labels 1 and 0: the vote falls to the one that counts as nearer.
  result = knn.leave_one_out(np.array([[[0.0], [1.0], [-1.0], [9.5]]]), np.array([0, 1, 0, 1]), k=2)
  assert not result.correct[0, 0]
  assert result.ties[0] == 0
  assert result.optimistic[0] - result.accuracy[0] == 0.25
  assert result.pessimistic[0] == result.accuracy[0]


def test_a_group_left_out_leaves_the_votes_of_the_others():
  # Without its two twins a sample at 0 has one neighbour left within the three.
  line = np.array([[[0.0], [0.0], [0.0], [2.0], [9.0]]])
  result = knn.leave_one_out(line, np.array([0, 0, 0, 1, 1]), k=3)
  assert result.accuracy[0] == 0.6
  assert result.leave_group_out[0] == 0


def test_negative_zero_is_zero():
  embeddings = np.array([[[0.0, 1.0], [-0.0, 1.0], [3.0, 3.0]]])
  assert knn.leave_one_out(embeddings, np.array([0, 1, 1])).duplicates[0] == 2


def test_bfloat16_embeddings_are_computed_in_float32():
  embeddings = jnp.asarray(_near_duplicates(50, 32), jnp.bfloat16)[None]
  labels = np.arange(50) % 2
  np.testing.assert_array_equal(
    knn.leave_one_out(embeddings, labels).correct,
    knn.leave_one_out(np.asarray(embeddings, np.float32), labels).correct,
  )


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e30])
def test_model_that_is_not_finite_is_named(value):
  embeddings = np.random.default_rng(0).normal(size=(3, 6, 2))
  embeddings[1, 2, 0] = value
  with pytest.raises(ValueError, match='embeddings of model 1 are not finite'):
    knn.leave_one_out(embeddings, np.array([0, 1, 0, 1, 0, 1]))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_model_that_is_not_finite_is_named_for_cosine(value):
  embeddings = np.random.default_rng(0).normal(size=(3, 6, 2))
  embeddings[1, 2, 0] = value
  with pytest.raises(ValueError, match='embeddings of model 1 are not finite'):
    knn.leave_one_out(embeddings, np.array([0, 1, 0, 1, 0, 1]), metric='cosine')


def test_constant_embeddings_are_named():
  embeddings = np.random.default_rng(0).normal(size=(4, 6, 2))
  embeddings[1] = embeddings[1, 0]
  embeddings[3] = 0
  with pytest.raises(ValueError, match='embeddings of model 1, 3 are the same for all 6 samples'):
    knn.leave_one_out(embeddings, np.array([0, 1, 0, 1, 0, 1]))


def test_cosine_needs_a_direction_and_no_particular_size():
  embeddings = np.random.default_rng(0).normal(size=(2, 20, 3))
  labels = np.arange(20) % 2
  expected = knn.leave_one_out(embeddings, labels, metric='cosine').correct
  sizes = 10.0 ** np.random.default_rng(1).integers(-30, 30, size=(2, 20, 1))
  scaled = knn.leave_one_out(embeddings * sizes, labels, metric='cosine').correct
  np.testing.assert_array_equal(scaled, expected)
  embeddings[1, 7] = 0
  with pytest.raises(ValueError, match='embeddings of model 1 are zero for some samples'):
    knn.leave_one_out(embeddings, labels, metric='cosine')


def test_large_labels_stay_apart():
  embeddings = np.array([[[0.0], [1.0], [5.0], [6.0]]])
  assert knn.leave_one_out(embeddings, np.array([0, 2**32, 1, 1])).accuracy[0] == 0.5


@pytest.mark.parametrize(
  ('shape', 'labels', 'message'),
  [
    ((6, 2), [0, 1, 0, 1, 0, 1], r'not \(6, 2\); for one model add an axis'),
    ((1, 6, 2), [0, 1, 0], r'6 embeddings need 6 labels, not labels of shape \(3,\)'),
    ((1, 3, 2), [4, 4, 4], 'all 3 samples have label 4'),
    ((1, 1, 2), [0], 'with k = 1 needs at least 2 samples, not 1'),
    ((0, 2, 2), [0, 1], 'there are no models'),
    ((1, 2, 2), [0.0, 1.0], 'labels must be integers, not float64'),
  ],
)
def test_unusable_input_is_refused(shape, labels, message):
  with pytest.raises(ValueError, match=message):
    knn.leave_one_out(np.zeros(shape), np.array(labels))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'k': 4}, 'leave-one-out with k = 4 needs at least 5 samples, not 4'),
    ({'k': 0}, 'k must be at least 1, not 0'),
    ({'metric': 'manhattan'}, "unknown metric 'manhattan'; there are: euclidean, cosine"),
  ],
)
def test_unusable_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    knn.leave_one_out(np.eye(4)[None], np.array([0, 1, 0, 1]), **options)


@pytest.mark.parametrize(
  ('fit', 'validation', 'k', 'message'),
  [
    ([0, 1], [2, 3], 3, 'hold-out with k = 3 needs at least 3 samples to fit, not 2'),
    ([0, 0, 1], [2, 3], 3, 'needs at least 3 samples to fit, not 2'),
    ([0, 1, 2], [2, 3], 1, '1 samples are both in fit and in validation, such as 2'),
    ([0, 1], [4], 1, 'validation must name samples 0 to 3, not 4 to 4'),
    ([-1, 1], [2], 1, 'fit must name samples 0 to 3, not -1 to 1'),
    ([0, 1], [], 1, 'validation must be a list of integers'),
    ([True, False], [2], 1, 'fit must be a list of integers, not bool'),
  ],
)
def test_unusable_parts_are_refused(fit, validation, k, message):
  with pytest.raises(ValueError, match=message):
    knn.hold_out(np.eye(4)[None], np.array([0, 1, 0, 1]), np.array(fit), np.array(validation), k=k)


def test_class_with_one_sample_is_logged(caplog):
  knn.leave_one_out(np.array([[[0.0], [1.0], [2.0]]]), np.array([7, 7, 9]))
  assert '1 of 2 classes have a single sample' in caplog.text
  assert ': 9' in caplog.text


def test_class_that_fit_lacks_is_logged(caplog):
  line = np.array([[[0.0], [1.0], [2.0], [3.0]]])
  knn.hold_out(line, np.array([7, 9, 7, 9]), np.array([0]), np.array([1, 2]))
  assert '1 of 2 classes have no sample in fit' in caplog.text
  assert ': 9' in caplog.text
