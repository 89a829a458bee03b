"""The is-a graph and the slices of its nodes."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.data import slices
from experts.data.hierarchy import from_edges

# A diamond: bat is a mammal and a flier, both are animals.
EDGES = [
  ('bat', 'mammal'),
  ('bat', 'flier'),
  ('cow', 'mammal'),
  ('mammal', 'animal'),
  ('flier', 'animal'),
  ('rose', 'plant'),
  ('animal', 'thing'),
  ('plant', 'thing'),
  ('unused', 'thing'),
]
LEAVES = ('rose', 'bat', 'cow')


def test_each_class_has_all_its_ancestors_once():
  tree = from_edges(EDGES, LEAVES)
  assert tree.nodes == ('rose', 'bat', 'cow', 'animal', 'flier', 'mammal', 'plant', 'thing')
  assert tree.num_leaves == 3
  assert tree.ancestors[:3] == ((0, 6, 7), (1, 3, 4, 5, 7), (2, 3, 5, 7))
  assert tree.table.tolist() == [[0, 6, 7, -1, -1], [1, 3, 4, 5, 7], [2, 3, 5, 7, -1]]
  assert tree.table.dtype == np.int32
  assert tree.parents[tree.index('bat')] == (tree.index('flier'), tree.index('mammal'))


def test_a_class_may_be_an_ancestor_of_another():
  tree = from_edges([('kitten', 'cat'), ('cat', 'animal')], ('cat', 'kitten'))
  assert tree.nodes == ('cat', 'kitten', 'animal')
  assert tree.table.tolist() == [[0, 2, -1], [1, 0, 2]]


def test_no_edges_leave_the_classes_alone():
  tree = from_edges([], ('a', 'b'))
  assert tree.table.tolist() == [[0], [1]]


def test_cycle_is_printed():
  with pytest.raises(
    ValueError, match=r'cycle: (b -> c -> d -> b|c -> d -> b -> c|d -> b -> c -> d)'
  ):
    from_edges([('a', 'b'), ('b', 'c'), ('c', 'd'), ('d', 'b')], ('a',))
  with pytest.raises(ValueError, match='cycle: a -> a'):
    from_edges([('a', 'a')], ('a',))


def test_deep_chains_do_not_exhaust_the_stack():
  names = [f'n{i}' for i in range(2000)]
  tree = from_edges(list(itertools.pairwise(names)), (names[0],))
  assert len(tree.ancestors[0]) == 2000


def test_unknown_names_list_the_nearest():
  with pytest.raises(ValueError, match=r"no node 'mamal'.*'mammal'"):
    from_edges(EDGES, LEAVES).index('mamal')
  with pytest.raises(ValueError, match="given twice: 'a'"):
    from_edges([], ('a', 'b', 'a'))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ancestors_are_the_transitive_closure(data):
  number = data.draw(st.integers(2, 9))
  pairs = [(i, j) for i in range(number) for j in range(i + 1, number)]
  edges = data.draw(st.lists(st.sampled_from(pairs), max_size=20))
  leaves = data.draw(st.lists(st.integers(0, number - 1), min_size=1, unique=True))
  tree = from_edges([(str(i), str(j)) for i, j in edges], [str(i) for i in leaves])
  reach = np.eye(number, dtype=int)
  for i, j in edges:
    reach[i, j] = 1
  reach = np.linalg.matrix_power(reach, number) > 0
  for row, leaf in enumerate(leaves):
    above = sorted(tree.nodes[node] for node in tree.ancestors[row])
    assert above == sorted(str(node) for node in np.flatnonzero(reach[leaf]))
    padded = tree.table[row]
    assert tuple(padded[padded >= 0]) == tree.ancestors[row]


LABELS = np.array([0, 1, 2, 1, 0, 1, 2, 1])  # rose 2, bat 4, cow 2


def test_slices_are_the_images_below_a_node():
  tree = from_edges(EDGES, LEAVES)
  assert slices.indices(LABELS, tree, 'mammal').tolist() == [1, 2, 3, 5, 6, 7]
  assert slices.indices(LABELS, tree, 'plant').tolist() == [0, 4]
  assert dict(zip(tree.nodes, slices.counts(LABELS, tree).tolist())) == {
    'rose': 2, 'bat': 4, 'cow': 2, 'animal': 6, 'flier': 4, 'mammal': 6, 'plant': 2, 'thing': 8,
  }  # fmt: skip


def test_largest_slices_leave_out_all_images_and_doubles():
  tree = from_edges(EDGES, LEAVES)
  # thing has every image; mammal and animal the same ones, the more specific is kept; so with bat
  # (a class) and flier, and with rose and plant.
  merged = functools.partial(slices.largest, LABELS, tree, most_share=0.9, merge=True)
  chosen = merged(4)
  assert list(chosen) == ['mammal', 'bat', 'rose', 'cow']
  assert [len(images) for images in chosen.values()] == [6, 4, 2, 2]
  assert list(merged(0)) == list(chosen)
  assert list(merged(1, most_share=0.5)) == ['bat']
  assert list(merged(2, least=4)) == ['mammal', 'bat']
  assert list(slices.largest(LABELS, tree, 9, nodes=['plant', 'animal'])) == ['plant', 'animal']


def test_every_node_is_a_slice_of_its_own_unless_told_otherwise():
  tree = from_edges(EDGES, LEAVES)
  size = dict(zip(tree.nodes, slices.counts(LABELS, tree).tolist()))
  chosen = slices.largest(LABELS, tree, 0)
  assert {name: len(images) for name, images in chosen.items()} == size
  assert list(size.values()) != sorted(size.values(), reverse=True)
  assert [size[name] for name in chosen] == sorted(size.values(), reverse=True)
  assert list(slices.largest(LABELS, tree, 1)) == ['thing']
  assert set(slices.largest(LABELS, tree, 0, least=4)) == {n for n in size if size[n] >= 4}


def test_slices_that_cannot_be_are_refused():
  tree = from_edges(EDGES, LEAVES)
  with pytest.raises(
    ValueError, match=r'3 slices were asked for, but only 2 differing ones of the 8'
  ):
    slices.largest(LABELS, tree, 3, least=4, most_share=0.9, merge=True)
  with pytest.raises(ValueError, match=r"slice 'plant' holds no image"):
    slices.indices(LABELS[LABELS > 0], tree, 'plant')
  with pytest.raises(ValueError, match=r"no node 'plnt'.*'plant'"):
    slices.largest(LABELS, tree, 1, nodes=['plnt'])
