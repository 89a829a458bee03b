"""Plans use every device, hold every member once, and stay within memory; the paper's slices literally."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.devices import make_mesh
from experts.training import mesh as meshes

GIB = 2**30
# TPU v3: what the compiler lets a program have of a core's 16 GiB.
V3 = int(15.48 * GIB)
# R50 with ImageNet-21k's head at 224 × 224 in bfloat16: 68 M parameters of 4 bytes, as many momenta; 22 MB an image.
_NETWORK = 68_256_659 * 4
FULL = meshes.Need(member=2 * _NETWORK, gradient=_NETWORK, image=22_200_000)
ADAPTER = meshes.Need(2 * 5_560_000, 5_560_000, 22_200_000, shared=_NETWORK)


def _shape(rounds):
  return [(r.members, r.groups, r.shards) for r in rounds]


def test_the_baseline_takes_all_of_a_v3_512():
  (only,) = meshes.plan(1, 4096, 512, FULL, V3)
  assert (only.groups, only.shards, only.at_once) == (1, 512, 1)
  assert '8 images each' in only.reason


def test_fifty_full_experts_on_a_v3_32_train_in_two_rounds():
  # 50 sets of parameters and momenta, 25 GiB, do not fit a core of 15 with its share of any batch.
  rounds = meshes.plan(50, 1024, 32, FULL, V3)
  assert _shape(rounds) == [(48, 16, 2), (2, 2, 16)]
  assert [r.start for r in rounds] == [0, 48]
  assert '3 members a device' in rounds[0].reason


def test_fifty_adapter_experts_on_a_v3_32_train_at_once():
  (only,) = meshes.plan(50, 1024, 32, ADAPTER, V3, at_once=8)
  assert (only.groups, only.shards, only.at_once) == (2, 16, 5)


def test_more_devices_bring_groups_of_few_members_rather_than_tiny_batches():
  # Two groups would hold 25 members each, in one round, at 4 images a device: as many reductions of all gradients.
  for need in (FULL, ADAPTER):
    rounds = meshes.plan(50, 1024, 512, need, V3)
    assert _shape(rounds) == [(48, 16, 32), (2, 2, 256)]


def test_batches_on_their_way_count_as_each_members():
  # On one device 30 fine-tunes of a small head fit by their parameters, but not with three batches of 512 images each.
  small = meshes.Need(member=2 * 94_000_000, gradient=94_000_000, image=10_000_000)
  assert _shape(meshes.plan(30, 512, 1, small, V3)) == [(30, 1, 1)]
  fed = dataclasses.replace(small, input=3 * 224**2)
  rounds = meshes.plan(30, 512, 1, fed, V3)
  assert sum(one.members for one in rounds) == 30
  assert len(rounds) == 2
  for one in rounds:
    assert one.members * (small.member + 3 * 512 * fed.input) + 512 * small.image < V3


@settings(deadline=None, max_examples=150)
@given(
  members=st.integers(1, 60),
  batch=st.sampled_from([64, 512, 1024]),
  devices=st.sampled_from([1, 2, 8, 32, 64]),
  member=st.integers(1, 4 * GIB),
  image=st.integers(1, 50_000_000),
  at_once=st.sampled_from([1, 8]),
)
def test_every_plan_holds_each_member_once_on_all_devices(
  members, batch, devices, member, image, at_once
):
  need = meshes.Need(member, member // 2 + 1, image)
  rounds = meshes.plan(members, batch, devices, need, V3, at_once)
  assert [r.start for r in rounds] == list(np.cumsum([0, *(r.members for r in rounds)])[:-1])
  assert sum(r.members for r in rounds) == members
  for one in rounds:
    assert one.groups * one.shards == devices
    assert one.members % one.groups == 0
    assert batch % one.shards == 0
    each = one.members // one.groups
    assert each % one.at_once == 0
    images = batch // one.shards * image
    used = each * member + one.at_once * (need.gradient + images)
    assert used <= V3 or each == 1
    again = meshes.plan_whole(one.members, batch, devices, need, V3, at_once)
    assert again.members == one.members


def test_too_large_a_network_is_planned_for_least_and_said_to_be_too_large():
  (only,) = meshes.plan(1, 8, 8, dataclasses.replace(FULL, member=20 * GIB), V3)
  assert 'more than there is' in only.reason


@pytest.mark.parametrize(
  ('members', 'batch', 'message'),
  [
    (1, 100, 'a batch of 100 does not divide over 8 devices a member .* 96 and 104$'),
    (2, 30, 'a batch of 30 does not divide over 4 devices a member .* 28 and 32$'),
    (1, 5, 'a batch of 5 does not divide over 8 devices a member .*nearest .* is 8$'),
  ],
)
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest(members, batch, message):
  with pytest.raises(ValueError, match=message):
    meshes.plan(members, batch, 8, FULL, V3)


def test_a_population_larger_than_the_devices_may_be_forbidden_to_loop():
  assert meshes.plan(8, 64, 8, ADAPTER, V3, loop=False)[0].groups == 8
  with pytest.raises(ValueError, match=r'9 members .* on 8 devices, and config.run.loop=False'):
    meshes.plan(9, 64, 8, ADAPTER, V3, loop=False)


def test_one_process_feeds_all_members_whole_batches():
  mesh = make_mesh(2)
  assert meshes.share(mesh, 6) == (slice(0, 6), (0, 1))
  marks = meshes.mark(mesh, True)
  assert marks.shape == (2, 4)
  assert (marks == 1).all()


def test_a_member_is_fetched_whole(toy):
  mesh = toy.make_mesh(2, 2)
  tree = {'a': np.arange(24, dtype=np.float32).reshape(4, 2, 3)}
  placed = meshes.place(tree, mesh, meshes.MEMBER)
  for member in range(4):
    got = meshes.fetch_member(placed, member)
    np.testing.assert_array_equal(got['a'], tree['a'][member])
  assert len(placed['a'].addressable_shards) == 4
  assert placed['a'].addressable_shards[0].data.shape == (2, 2, 3)
