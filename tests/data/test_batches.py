"""What reaches training and evaluation: a function of (member, step), every example once."""

import dataclasses
import itertools
import threading
import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.data import orders
from experts.data.batches import Member, eval_batches, in_memory, train_batches
from experts.data.dataset import UndecodableImage, from_arrays
from experts.data.transforms import Transform

PLAIN = Transform(4)
RANDOM = Transform(4, 6, 'random', flip=True)


def _data(number: int = 40, name: str = 'data'):
  """Image i is i all over, of class i % 5."""
  images = np.empty((number, 4, 4, 3), np.uint8)
  images[:] = np.arange(number)[:, None, None, None]
  return from_arrays(name, images, np.arange(number) % 5, tuple('abcde'))


def _textured(number: int = 40):
  images = np.random.default_rng(0).integers(0, 256, (number, 8, 8, 3), np.uint8)
  return from_arrays('textured', images, np.arange(number) % 5, tuple('abcde'))


def _broken(data, bad: set[int]):
  def read(index: int) -> np.ndarray:
    if index in bad:
      raise UndecodableImage(f'{data.where(index)}: cannot be decoded')
    return data.image(index)

  return dataclasses.replace(data, read_image=read)


def _equal(first, second):
  assert len(first) == len(second)
  for one, other in zip(first, second):
    assert one.keys() == other.keys()
    for key in one:
      assert one[key].dtype == other[key].dtype
      np.testing.assert_array_equal(one[key], other[key])


def _members(data, *seeds, mixup=0.0):
  return [Member(data, np.arange(len(data)), seed, mixup=mixup) for seed in seeds]


def test_batch_has_the_promised_form():
  found = list(train_batches(_members(_textured(), 0, 1, 2, mixup=0.2), RANDOM, 8, range(3)))
  assert len(found) == 3
  assert {key: (value.shape, str(value.dtype)) for key, value in found[0].items()} == {
    'image': ((3, 8, 4, 4, 3), 'uint8'),
    'label': ((3, 8), 'int32'),
    'partner': ((3, 8), 'int32'),
    'weight': ((3, 8), 'float32'),
  }
  plain = next(train_batches(_members(_data(), 0), PLAIN, 8, range(1)))
  assert plain.keys() == {'image', 'label'}


@pytest.mark.parametrize('batch_size', [4, 10, 13])
def test_an_epoch_is_a_shuffle_without_replacement(batch_size):
  data = _data()
  chosen = np.arange(3, 33)
  steps = -(-4 * len(chosen) // batch_size)
  found = list(train_batches([Member(data, chosen, 5)], PLAIN, batch_size, range(steps)))
  seen = np.concatenate([b['image'][0, :, 0, 0, 0] for b in found])
  np.testing.assert_array_equal(np.concatenate([b['label'][0] for b in found]), seen % 5)
  epochs = [seen[first : first + 30] for first in range(0, 120, 30)]
  for epoch in epochs:
    assert sorted(epoch) == chosen.tolist()
  for one, other in itertools.combinations(epochs, 2):
    assert not np.array_equal(one, other)
  assert not np.array_equal(epochs[0], chosen)


def test_an_epoch_of_one_seed_is_no_epoch_of_another():
  met = set()
  for seed in range(20):
    row = orders.shuffled(16, seed)
    for epoch in range(20):
      met.add(tuple(row(16 * epoch + place) for place in range(16)))
  assert len(met) == 400


@pytest.mark.parametrize('size', [1, 2, 1000, 2**16 + 1])
def test_shuffle_of_any_size_is_a_permutation_that_moves(size):
  row = orders.shuffled(size, 3)
  first = np.array([row(position) for position in range(size)])
  np.testing.assert_array_equal(np.sort(first), np.arange(size))
  if size >= 1000:
    # The expected number of fixed points is 1, neighbours are as likely to rise as to fall.
    assert (first == np.arange(size)).sum() < 10
    assert abs((np.diff(first) > 0).mean() - 0.5) < 4 * (12 * size) ** -0.5
    assert abs(np.corrcoef(first, np.arange(size))[0, 1]) < 5 * size**-0.5


@pytest.mark.parametrize('mixup', [0.0, 0.3])
@pytest.mark.parametrize('start', [1, 7, 23])
def test_any_step_is_made_by_itself(start, mixup):
  members = _members(_textured(), 0, 9, mixup=mixup)
  whole = list(train_batches(members, RANDOM, 6, range(25)))
  _equal(list(train_batches(members, RANDOM, 6, range(start, start + 2))), whole[start : start + 2])


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_threads_change_nothing(threads):
  members = _members(_textured(), 0, 9, mixup=0.2)
  one = list(train_batches(members, RANDOM, 70, range(4), threads=1))
  _equal(list(train_batches(members, RANDOM, 70, range(4), threads=threads)), one)


class _CountedGenerator(np.random.Generator):
  """Counts shuffles, and lets other threads in while one is made."""

  made: typing.ClassVar[list] = []

  def permutation(self, values):
    self.made.append(len(values))
    threading.Event().wait(0.01)
    return super().permutation(values)


# One epoch of 600; then the ends of three epochs of 200; then epochs that are shorter than a batch.
@pytest.mark.parametrize(('size', 'epochs'), [(600, 1), (200, 3), (6, 100)])
def test_an_epoch_is_shuffled_once_whatever_the_number_of_threads(monkeypatch, size, epochs):
  monkeypatch.setattr(np.random, 'Generator', _CountedGenerator)
  monkeypatch.setattr(_CountedGenerator, 'made', [])
  reads = []
  data = dataclasses.replace(
    _data(size), read_labels=lambda: reads.append(1) or np.zeros(size, int)
  )
  found = list(train_batches([Member(data, np.arange(size), 0)], PLAIN, 300, range(2), threads=8))
  assert sum(len(batch['label'][0]) for batch in found) == 600
  assert _CountedGenerator.made == [size] * epochs
  assert reads == [1]


@pytest.mark.parametrize('hosts', [2, 3, 6])
@pytest.mark.parametrize('mixup', [0.0, 0.3])
def test_hosts_share_the_very_same_batch(hosts, mixup):
  members = _members(_textured(), 0, 9, mixup=mixup)
  whole = list(train_batches(members, RANDOM, 12, range(3, 6)))
  parts = [
    list(train_batches(members, RANDOM, 12, range(3, 6), shard=(i, hosts))) for i in range(hosts)
  ]
  joined = [
    {key: np.concatenate([host[key] for host in step], axis=1) for key in step[0]}
    for step in zip(*parts)
  ]
  _equal(joined, whole)


def test_a_member_sees_the_same_whoever_trains_beside_it():
  data, other = _textured(), _textured(17)
  member = Member(data, np.arange(5, 30), 4, mixup=0.1)
  alone = list(train_batches([member], RANDOM, 8, range(6)))
  crowd = [Member(other, np.arange(17), 4, mixup=0.3), member, Member(data, np.arange(40), 4)]
  together = list(train_batches(crowd, RANDOM, 8, range(6)))
  _equal([{key: value[1:2] for key, value in batch.items()} for batch in together], alone)


def test_a_member_without_mixup_keeps_its_images_beside_one_with():
  data, rows = _textured(), np.arange(40)
  plain = list(train_batches([Member(data, rows, 4)], RANDOM, 8, range(3)))
  pair = [Member(data, rows, 4, mixup=0.2), Member(data, rows, 4)]
  for alone, both in zip(plain, train_batches(pair, RANDOM, 8, range(3)), strict=True):
    np.testing.assert_array_equal(both['image'][1], alone['image'][0])
    np.testing.assert_array_equal(both['label'][1], alone['label'][0])
    assert (both['weight'][1] == 1).all()
    assert not (both['weight'][0] == 1).all()
    assert not np.array_equal(both['image'][0], alone['image'][0])


def test_members_that_see_the_same_are_made_once_and_in_their_places():
  data, rows = _textured(), np.arange(40)
  reads = []
  counted = dataclasses.replace(
    data, read_image=lambda index: reads.append(index) or data.image(index)
  )
  a, b = Member(counted, rows, 4), Member(counted, rows, 5)
  found = list(train_batches([a, b, a, a], RANDOM, 8, range(2, 5)))
  assert len(reads) == 2 * 8 * 3
  apart = [
    list(train_batches([Member(data, rows, seed)], RANDOM, 8, range(2, 5))) for seed in (4, 5)
  ]
  for step, batch in enumerate(found):
    for place, which in enumerate((0, 1, 0, 0)):
      for key, value in batch.items():
        np.testing.assert_array_equal(value[place], apart[which][step][key][0])


def test_augmentation_differs_between_epochs_and_seeds():
  data = _textured(1)
  found = next(train_batches(_members(data, 0, 1), RANDOM, 12, range(1)))['image']
  assert len(np.unique(found[0].reshape(12, -1), axis=0)) > 4
  assert not np.array_equal(found[0], found[1])


def test_no_steps_are_no_batches():
  assert list(train_batches(_members(_data(), 0), PLAIN, 8, range(5, 5))) == []


def test_slice_smaller_than_the_batch_wraps_around():
  found = next(train_batches([Member(_data(), np.array([7, 8, 9]), 0)], PLAIN, 9, range(1)))
  values, counts = np.unique(found['image'][0, :, 0, 0, 0], return_counts=True)
  assert values.tolist() == [7, 8, 9]
  assert counts.tolist() == [3, 3, 3]


def test_mixup_blends_neighbours_by_the_given_weight():
  pure = next(train_batches(_members(_textured(), 0), RANDOM, 8, range(2, 3)))
  mixed = next(train_batches(_members(_textured(), 0, mixup=0.4), RANDOM, 8, range(2, 3)))
  np.testing.assert_array_equal(mixed['label'], pure['label'])
  swap = np.arange(8) ^ 1
  np.testing.assert_array_equal(mixed['partner'], pure['label'][:, swap])
  weight = mixed['weight'].astype(np.float64)[..., None, None, None]
  expected = weight * pure['image'] + (1 - weight) * pure['image'][:, swap]
  assert np.abs(mixed['image'] - expected).max() <= 0.5 + 1e-3


def test_mixup_weights_follow_the_beta_distribution():
  found = list(train_batches(_members(_data(), 3, mixup=0.4), PLAIN, 100, range(40)))
  weight = np.concatenate([b['weight'][0] for b in found])
  assert abs(weight.mean() - 0.5) < 0.03
  # Var Beta(a, a) = 1 / (4 (2a + 1)).
  assert abs(weight.var() - 1 / (4 * 1.8)) < 0.01


def test_order_can_be_replaced():
  backwards = lambda size, seed: lambda position: size - 1 - position % size
  members = [member._replace(order=backwards) for member in _members(_data(6), 0)]
  found = next(train_batches(members, PLAIN, 6, range(1)))
  assert found['image'][0, :, 0, 0, 0].tolist() == [5, 4, 3, 2, 1, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.sampled_from([1, 2, 4]), st.integers(0, 99))
def test_evaluation_counts_every_example_once(number, per_host, hosts, seed):
  data = _data()
  chosen = np.random.default_rng(seed).permutation(40)[:number]
  batch_size = per_host * hosts
  parts = [
    list(eval_batches(data, chosen, PLAIN, batch_size, shard=(i, hosts))) for i in range(hosts)
  ]
  assert {len(part) for part in parts} == {-(-number // batch_size)}
  joined = [np.concatenate([h[key] for step in zip(*parts) for h in step]) for key in ('image', 'label', 'mask')]  # fmt: skip
  image, label, mask = joined
  assert mask.tolist() == [True] * number + [False] * (len(mask) - number)
  np.testing.assert_array_equal(image[mask][:, 0, 0, 0], chosen)
  np.testing.assert_array_equal(label[mask], chosen % 5)
  assert not image[~mask].any()


def test_undecodable_image_stops_both_pipelines_and_is_named():
  data = _broken(_data(), {7})
  with pytest.raises(UndecodableImage, match='image 7 of data'):
    list(train_batches(_members(data, 0), PLAIN, 8, range(5)))
  with pytest.raises(UndecodableImage, match='image 7 of data'):
    list(eval_batches(data, np.arange(40), PLAIN, 8))


def _skipped(caplog) -> list[str]:
  """The images that were logged as skipped, whose numbers rise by one."""
  numbers, images = zip(*(line.split(' so far): ') for line in caplog.messages))
  assert list(numbers) == [f'skipped ({number}' for number in range(1, len(numbers) + 1)]
  return sorted(images)


def test_skipped_image_is_replaced_by_the_next_and_logged_once(caplog):
  good, bad = _data(), _broken(_data(), {7, 8, 20})
  chosen = np.arange(5, 25)
  plain = list(train_batches([Member(good, chosen, 1)], PLAIN, 10, range(4)))
  found = train_batches([Member(bad, chosen, 1)], PLAIN, 10, range(4), undecodable='skip')
  instead = {7: 9, 8: 9, 20: 21}
  for one, other in zip(plain, found, strict=True):
    expected = [instead.get(v, v) for v in one['image'][0, :, 0, 0, 0].tolist()]
    assert other['image'][0, :, 0, 0, 0].tolist() == expected
    assert other['label'][0].tolist() == [v % 5 for v in expected]
  assert _skipped(caplog) == ['image 20 of data', 'image 7 of data', 'image 8 of data']


def test_skipped_image_is_masked_out_of_evaluation_and_logged(caplog):
  found = eval_batches(_broken(_data(), {2, 11}), np.arange(12), PLAIN, 8, undecodable='skip')
  mask = np.concatenate([batch['mask'] for batch in found])
  assert np.flatnonzero(mask).tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
  assert _skipped(caplog) == ['image 11 of data', 'image 2 of data']


def test_slice_without_a_decodable_image_is_an_error_even_when_skipping():
  data = _broken(_data(), {1, 2})
  with pytest.raises(UndecodableImage, match='none of the 2 images of the slice'):
    list(train_batches([Member(data, np.array([1, 2]), 0)], PLAIN, 4, range(1), undecodable='skip'))


def test_in_memory_keeps_order_and_leaves_out_the_undecodable():
  data = _broken(_textured(), {3})
  kept = in_memory(data, np.array([5, 3, 1]), Transform(4, 6, 'central'), 'skip')
  assert kept.labels.tolist() == [0, 1]
  np.testing.assert_array_equal(kept.image(1), Transform(4, 6, 'central')(data.image(1)))


def test_requests_that_cannot_be_met_are_refused():
  data = _data()
  with pytest.raises(ValueError, match='batch of 10 cannot be shared equally by 4 hosts'):
    train_batches(_members(data, 0), PLAIN, 10, range(1), shard=(0, 4))
  with pytest.raises(ValueError, match='shard 4 of 4 does not exist'):
    eval_batches(data, np.arange(4), PLAIN, 8, shard=(4, 4))
  with pytest.raises(ValueError, match='data: the slice holds no image'):
    train_batches([Member(data, np.array([], int), 0)], PLAIN, 4, range(1))
  with pytest.raises(ValueError, match='index 40 is outside its 40 images'):
    eval_batches(data, np.array([0, 40]), PLAIN, 8)
  with pytest.raises(ValueError, match="unknown policy 'ignore'"):
    train_batches(_members(data, 0), PLAIN, 4, range(1), undecodable='ignore')
  with pytest.raises(ValueError, match='transform without chance'):
    eval_batches(data, np.arange(4), RANDOM, 8)
  with pytest.raises(ValueError, match='even number of examples on each host, not 3'):
    train_batches(_members(data, 0, mixup=0.1), PLAIN, 6, range(1), shard=(0, 2))
  with pytest.raises(ValueError, match='mixup must be 0 or more'):
    train_batches(_members(data, 0, mixup=-0.1), PLAIN, 6, range(1))
  with pytest.raises(ValueError, match='at least one member'):
    train_batches([], PLAIN, 4, range(1))


def test_balanced_order_shows_every_class_equally_often_and_each_image_once_an_epoch():
  labels = np.repeat([0, 1, 2], [2, 5, 13])
  np.random.default_rng(0).shuffle(labels)
  row = orders.balanced(labels)(20, 7)
  rows = np.array([row(position) for position in range(3 * 130)])
  # Every three positions hold each class once.
  np.testing.assert_array_equal(np.sort(labels[rows].reshape(-1, 3)), np.tile([0, 1, 2], (130, 1)))
  for label, size in enumerate((2, 5, 13)):
    drawn = rows[labels[rows] == label].reshape(-1, size)
    for epoch in drawn:
      np.testing.assert_array_equal(np.sort(epoch), np.flatnonzero(labels == label))
  other = orders.balanced(labels)(20, 8)
  assert [other(p) for p in range(60)] != list(rows[:60])


def test_weighted_order_draws_classes_by_weight_times_size():
  labels = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
  np.random.default_rng(0).shuffle(labels)
  weights = np.array([0.0, 1.0, 2.0, 8.0])
  row = orders.weighted(labels, weights)(100, 3)
  rows = np.array([row(position) for position in range(20_000)])
  share = np.bincount(labels[rows], minlength=4) / len(rows)
  # 30 x 1, 15 x 2, 5 x 8 of 100; four standard deviations.
  np.testing.assert_allclose(share, [0, 0.3, 0.3, 0.4], atol=4 * np.sqrt(0.24 / len(rows)))
  # Within a class every image alike: 2,000 draws of each of the 5 of class 3 would be 1,600 each.
  drawn = np.bincount(rows[labels[rows] == 3], minlength=100)[labels == 3]
  np.testing.assert_allclose(drawn / drawn.sum(), 0.2, atol=4 * np.sqrt(0.16 / drawn.sum()))
  # A position by itself is what it is in the row of all.
  again = orders.weighted(labels, weights)(100, 3)
  assert [again(p) for p in (77, 3, 19_999)] == rows[[77, 3, 19_999]].tolist()


@pytest.mark.parametrize(
  ('weights', 'message'),
  [
    ([1.0, -1.0], '0 or more'),
    ([np.nan, 1.0], '0 or more'),
    ([1.0, np.inf], 'finite'),
    ([0.0, 0.0], 'no class that has an image'),
    ([0.0, 0.0, 1.0], 'no class that has an image'),
  ],
)
def test_weights_that_draw_nothing_are_refused(weights, message):
  with pytest.raises(ValueError, match=message):
    orders.weighted(np.array([0, 1, 1]), np.array(weights))
