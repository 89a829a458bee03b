"""Counts every example of a test set exactly once, on any number of devices."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from experts.training import chunks
from experts.training import mesh as meshes
from experts.training.mesh import MEMBER

Tree = Any
# (parameters, uint8 images [B, H, W, 3]) -> logits [B, C].
Predict = Callable[[Tree, jax.Array], jax.Array]


class Counts(NamedTuple):
  """What P members got right of a set of C classes.

  Attributes:
    correct: int32 [P, C], examples of each class that were recognised.
    seen: int32 [C], examples of each class.
  """

  correct: np.ndarray
  seen: np.ndarray

  def accuracy(self, classes: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Share of the examples of these classes (a mask, indices or a slice) that were right, float64 [P].

    Raises:
      ValueError: there is no such example.
    """
    seen = self.seen[classes].sum()
    if not seen:
      raise ValueError('there is no example to evaluate on')
    return self.correct[:, classes].sum(axis=1) / seen

  def mean_per_class(self) -> np.ndarray:
    """Mean over the classes of their accuracies, float64 [P]; a class without examples has none."""
    there = self.seen > 0
    return (self.correct[:, there] / self.seen[there]).mean(axis=1)


def make_evaluate(
  predict: Predict, mesh: jax.sharding.Mesh, classes: int
) -> Callable[[Tree, Tree, Iterable[Mapping[str, np.ndarray]]], Counts]:
  """Compiles the evaluation of all members on one shared set.

  Args:
    predict: see `Predict`.
    mesh: from `mesh.make`.
    classes: labels are in [0, classes).

  Returns:
    (trained trees [P, …], frozen trees, batches of image, label and mask) -> `Counts`. A process hands in its share of
    each batch. Rows with a false mask, which pad the last batch, count nothing.
  """
  program = make_program(predict, mesh)

  def evaluate(trained: Tree, frozen: Tree, batches: Iterable[Mapping[str, np.ndarray]]) -> Counts:
    members = jax.tree.leaves(trained)[0].shape[0]
    totals = (
      meshes.place(np.zeros((members, classes), np.int32), mesh, MEMBER),
      meshes.place(np.zeros(classes, np.int32), mesh, P()),
    )
    for batch in batches:
      totals = program(totals, trained, frozen, meshes.put_shared_batch(mesh, batch))
    return Counts(*meshes.fetch(totals))

  return evaluate


@functools.cache
def make_program(predict: Predict, mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
  """The pass over one batch: (totals, trained, frozen, batch) -> totals: (correct [P, C], seen [C])."""
  unroll = mesh.devices.flat[0].platform == 'cpu'

  def count(totals, trained, frozen, batch):
    def by_class(rows):
      counts = jnp.zeros_like(totals[1]).at[batch['label']].add(rows.astype(jnp.int32))
      return jax.lax.psum(counts, 'data')

    def member(_, trained):
      predicted = predict({**frozen, **trained}, batch['image']).argmax(-1)
      return (), by_class((predicted == batch['label']) & batch['mask'])

    seen = by_class(batch['mask'])
    _, correct = chunks.each_member(member, (), trained, 1, unroll)
    return totals[0] + correct, totals[1] + seen

  return jax.jit(
    jax.shard_map(
      count,
      mesh=mesh,
      in_specs=((MEMBER, P()), MEMBER, P(), P('data')),
      out_specs=(MEMBER, P()),
    ),
    donate_argnums=0,
  )


def abstract_arguments(
  mesh: jax.sharding.Mesh, classes: int, trained: Tree, frozen: Tree, batch: Tree
) -> tuple[Tree, ...]:
  """The arguments of `make_program`'s pass as shapes with their places, from shapes without."""
  members = jax.tree.leaves(trained)[0].shape[0]
  totals = (
    meshes.abstract(jax.ShapeDtypeStruct((members, classes), np.int32), mesh, MEMBER),
    meshes.abstract(jax.ShapeDtypeStruct((classes,), np.int32), mesh, P()),
  )
  return (
    totals,
    meshes.abstract(trained, mesh, MEMBER),
    meshes.abstract(frozen, mesh, P()),
    meshes.abstract(batch, mesh, P('data')),
  )
