"""A function of one member called for all of a device, in chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def largest(members: int, most: int) -> int:
  """The largest chunk of up to `most` that the members divide into."""
  return max(size for size in range(1, min(most, members) + 1) if members % size == 0)


def each_member(
  function: Callable[[Tree, Tree], tuple[Tree, Tree]],
  kept: Tree,
  given: Tree,
  at_once: int,
  unroll: bool,
) -> tuple[Tree, Tree]:
  """Calls (kept, given) -> (new kept, result) for each member; all trees have a leading member axis.

  Args:
    function: of one member.
    kept: its state. In a loop it is updated in place: memory holds one copy of the population's, not two.
    given: its other arguments.
    at_once: most members that one `vmap` computes; the chunks, of one size, run one after the other.
    unroll: whether to write the loop out. For a CPU, where XLA compiles a convolution inside a loop to naive code, 9
      times slower (measured; github.com/jax-ml/jax/issues/12868).
  """
  members = jax.tree.leaves((kept, given))[0].shape[0]
  at_once = largest(members, at_once)

  def chunk(start, kept):
    part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, at_once), (kept, given))
    if at_once > 1:
      return jax.vmap(function)(*part)
    one = function(*jax.tree.map(lambda x: x[0], part))
    return jax.tree.map(lambda x: x[None], one)

  if unroll or members == at_once:
    parts = [chunk(start, kept) for start in range(0, members, at_once)]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

  def body(kept, start):
    part, result = chunk(start, kept)
    update = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
    return jax.tree.map(update, kept, part), result

  kept, results = jax.lax.scan(body, kept, jnp.arange(0, members, at_once))
  return kept, jax.tree.map(lambda x: x.reshape(members, *x.shape[2:]), results)
