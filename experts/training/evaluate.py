"""Counts every example of a test set exactly once, on any number of devices."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from experts.training import mesh as meshes
from experts.training import population
from experts.training.mesh import MEMBER

Tree = Any
# (parameters, uint8 images [B, H, W, 3]) -> logits [B, C].
Predict = Callable[[Tree, jax.Array], jax.Array]


def make_evaluate(
  predict: Predict, mesh: jax.sharding.Mesh
) -> Callable[[Tree, Tree, Iterable[Mapping[str, np.ndarray]]], np.ndarray]:
  """Compiles the accuracy of all members on one shared set.

  Args:
    predict: see `Predict`.
    mesh: from `mesh.make`.

  Returns:
    (trained trees [P, …], frozen trees, batches of image, label and mask) -> accuracy [P]. A process hands in its share
    of each batch. Rows with a false mask, which pad the last batch, count nothing.
  """
  program = make_program(predict, mesh)

  def evaluate(trained: Tree, frozen: Tree, batches: Iterable[Mapping[str, np.ndarray]]):
    members = jax.tree.leaves(trained)[0].shape[0]
    totals = (
      meshes.place(np.zeros(members, np.int32), mesh, MEMBER),
      meshes.place(np.int32(0), mesh, P()),
    )
    for batch in batches:
      totals = program(totals, trained, frozen, meshes.put_shared_batch(mesh, batch))
    correct, seen = meshes.fetch(totals)
    if not seen:
      raise ValueError('there is no example to evaluate on')
    return correct / seen

  return evaluate


@functools.cache
def make_program(predict: Predict, mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
  """The pass over one batch: (totals, trained, frozen, batch) -> totals, which are (correct [P], examples [])."""
  unroll = mesh.devices.flat[0].platform == 'cpu'

  def count(totals, trained, frozen, batch):
    def member(_, trained):
      predicted = predict({**frozen, **trained}, batch['image']).argmax(-1)
      correct = jnp.sum((predicted == batch['label']) & batch['mask'])
      return (), jax.lax.psum(correct, 'data')

    seen = jax.lax.psum(jnp.sum(batch['mask']), 'data')
    _, correct = population.each_member(member, (), trained, 1, unroll)
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
  mesh: jax.sharding.Mesh, trained: Tree, frozen: Tree, batch: Tree
) -> tuple[Tree, ...]:
  """The arguments of `make_program`'s pass as shapes with their places, from shapes without."""
  members = jax.tree.leaves(trained)[0].shape[0]
  count = jax.ShapeDtypeStruct((), np.int32)
  totals = (
    meshes.abstract(jax.ShapeDtypeStruct((members,), np.int32), mesh, MEMBER),
    meshes.abstract(count, mesh, P()),
  )
  return (
    totals,
    meshes.abstract(trained, mesh, MEMBER),
    meshes.abstract(frozen, mesh, P()),
    meshes.abstract(batch, mesh, P('data')),
  )
