"""Leave-one-out against scikit-learn in float64, ties and duplicates as literals, faults by name."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import neighbors

from experts.selection import knn


def _reference(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns which samples are correct [N], and each one's relative gap from first to second neighbour [N]."""
  search = neighbors.NearestNeighbors(algorithm='brute', metric='euclidean')
  distances, index = search.fit(embeddings).kneighbors(n_neighbors=min(2, len(embeddings) - 1))
  scale = np.linalg.norm(embeddings - embeddings.mean(axis=0), axis=1).max()
  return labels[index[:, 0]] == labels, (distances[:, -1] ** 2 - distances[:, 0] ** 2) / scale**2


# Few shapes: each is a program to compile.
@hypothesis.given(
  st.sampled_from([(3, 2), (5, 16), (17, 1), (40, 7), (64, 128)]),
  st.integers(2, 5),
  st.integers(0, 2**31),
  st.floats(-8, 8),
)
@hypothesis.settings(deadline=None, max_examples=40)
def test_equals_float64_brute_force(shape, classes, seed, log_scale):
  rng = np.random.default_rng(seed)
  embeddings = np.float32(rng.normal(size=(3, *shape)) * 10**log_scale)
  labels = rng.integers(classes, size=shape[0])
  labels[:2] = 0, 1
  result = knn.leave_one_out(embeddings, labels)
  for model, each in enumerate(embeddings.astype(np.float64)):
    correct, gap = _reference(each, labels)
    clear = gap > 1e-5
    np.testing.assert_array_equal(result.correct[model][clear], correct[clear])
  np.testing.assert_allclose(result.accuracy, result.correct.mean(axis=1))
  assert (result.pessimistic <= result.accuracy).all()
  assert (result.accuracy <= result.optimistic).all()
  np.testing.assert_array_equal(result.duplicates, 0)
  np.testing.assert_array_equal(result.leave_group_out, result.accuracy)


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
  correct, _ = _reference(embeddings.astype(np.float64), labels)
  assert result.accuracy[0] == pytest.approx(correct.mean(), abs=1e-6)
  assert result.ties[0] == 0


def test_offset_does_not_matter():
  embeddings = np.random.default_rng(1).integers(-50, 50, size=(1, 60, 8)).astype(np.float32)
  labels = np.arange(60) % 3
  np.testing.assert_array_equal(
    knn.leave_one_out(embeddings + 2**16, labels).correct,
    knn.leave_one_out(embeddings, labels).correct,
  )


def test_tiles_equal_the_whole_matrix(monkeypatch):
  rng = np.random.default_rng(2)
  embeddings = rng.normal(size=(2, 150, 5)).astype(np.float32)
  embeddings[:, 140] = embeddings[:, 3]
  labels = rng.integers(4, size=150)
  whole = knn.leave_one_out(embeddings, labels)
  monkeypatch.setattr(knn, '_WHOLE', 100)
  monkeypatch.setattr(knn, '_TILE', 32)
  knn.make_program.cache_clear()
  tiled = knn.leave_one_out(embeddings, labels)
  knn.make_program.cache_clear()
  for name in ('correct', 'ties', 'optimistic', 'pessimistic', 'duplicates', 'leave_group_out'):
    np.testing.assert_array_equal(getattr(tiled, name), getattr(whole, name), err_msg=name)


def test_large_sets_never_hold_the_whole_matrix():
  number = 20_000
  program = (
    knn.make_program((jax.devices()[0],))
    .lower(
      jnp.zeros((2, number, 8)), jnp.zeros(number, jnp.int32), jnp.zeros((2, number), jnp.int32)
    )
    .compile()
  )
  assert program.memory_analysis().temp_size_in_bytes < 4 * number**2 / 2


def test_memory_does_not_grow_with_models():
  def temporary(models):
    program = knn.make_program((jax.devices()[0],)).lower(
      jnp.zeros((models, 500, 64)), jnp.zeros(500, jnp.int32), jnp.zeros((models, 500), jnp.int32)
    )
    return program.compile().memory_analysis().temp_size_in_bytes

  results = 5 * 500  # bytes of five boolean results for each further model
  assert temporary(32) - temporary(2) <= 30 * results + 4096


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
  result = knn.leave_one_out(np.ones((1, 3, 4)), np.array([0, 1, 2]))
  assert result.accuracy[0] == result.optimistic[0] == 0
  assert result.ties[0] == 1
  assert (result.duplicates[0], result.leave_group_out[0]) == (3, 0)


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


@pytest.mark.parametrize(
  ('shape', 'labels', 'message'),
  [
    ((6, 2), [0, 1, 0, 1, 0, 1], r'not \(6, 2\); for one model add an axis'),
    ((1, 6, 2), [0, 1, 0], r'6 embeddings need 6 labels, not labels of shape \(3,\)'),
    ((1, 3, 2), [4, 4, 4], 'all 3 samples have label 4'),
    ((1, 1, 2), [0], 'at least 2 samples, not 1'),
    ((1, 2, 2), [0.0, 1.0], 'labels must be integers, not float64'),
  ],
)
def test_unusable_input_is_refused(shape, labels, message):
  with pytest.raises(ValueError, match=message):
    knn.leave_one_out(np.zeros(shape), np.array(labels))


def test_class_with_one_sample_is_logged(caplog):
  knn.leave_one_out(np.array([[[0.0], [1.0], [2.0]]]), np.array([7, 7, 9]))
  assert '1 of 2 classes have a single sample' in caplog.text
  assert ': 9' in caplog.text
