"""Counts every example of a test set exactly once, on any number of devices."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experts.training import population

Tree = Any


@functools.cache
def make_evaluate(
  predict: Callable[[Tree, jax.Array], jax.Array], mesh: jax.sharding.Mesh
) -> Callable[[Tree, Tree, Iterable[Mapping[str, np.ndarray]]], np.ndarray]:
  """Compiles the accuracy of all members on one shared set.

  Args:
    predict: (parameters, uint8 images [B, H, W, 3]) -> logits [B, C].
    mesh: from `population.make_mesh`.

  Returns:
    (trained trees [P, …], frozen trees, batches of image, label and mask) -> accuracy [P]. Rows with a false mask,
    which pad the last batch, count nothing.
  """

  def count(totals, trained, frozen, batch):
    def member(trained):
      predicted = predict({**frozen, **trained}, batch['image']).argmax(-1)
      correct = jnp.sum((predicted == batch['label']) & batch['mask'])
      return jax.lax.psum(correct, 'data')

    seen = jax.lax.psum(jnp.sum(batch['mask']), 'data')
    correct = population.each_member(member, trained)
    return totals[0] + correct, totals[1] + seen

  by_member, by_example = P('population'), P('data')
  step = jax.jit(
    jax.shard_map(
      count,
      mesh=mesh,
      in_specs=((by_member, P()), by_member, P(), by_example),
      out_specs=(by_member, P()),
    ),
    donate_argnums=0,
  )
  sharding = NamedSharding(mesh, by_example)

  def evaluate(trained: Tree, frozen: Tree, batches: Iterable[Mapping[str, np.ndarray]]):
    members = jax.tree.leaves(trained)[0].shape[0]
    totals = (
      jax.device_put(np.zeros(members, np.int32), NamedSharding(mesh, by_member)),
      jax.device_put(np.int32(0), NamedSharding(mesh, P())),
    )
    for batch in batches:
      placed = {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
      totals = step(totals, trained, frozen, placed)
    correct, seen = population.fetch(totals)
    if not seen:
      raise ValueError('there is no example to evaluate on')
    return correct / seen

  return evaluate
