"""Nearest neighbours of one model's embeddings, and whether their vote is right: what runs on a device.

The rule of the distances: embeddings less the mean of all samples, one product G = XXᵀ at the highest precision, and the
square norms from the diagonal of G. Norms that are computed apart do not round as the products do, and among embeddings
that all look alike the difference decides who is nearest. The cosine metric is the same rule on embeddings of length 1.

The rule of the vote: the label that most of the k nearest have; of labels with equally many the one that has the nearest
of them all. Of several samples at the same distance the first counts as nearer.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Up to this many samples the N x N matrix is held whole (64 MiB), from products of panels of its lower triangle; beyond,
# a strip of columns is made at a time. On a CPU wider strips leave the cache before they are scored.
_WHOLE = 4096
_PANEL = 256
_STRIP = 128

_EPS = float(np.finfo(np.float32).eps)
_TINY = float(np.finfo(np.float32).tiny)


def score(
  embeddings: jax.Array, labels: jax.Array, fit: jax.Array, k: int, metric: str
) -> dict[str, jax.Array]:
  """Scores one model `[N, D]`: bool `[N]` for each result, and bool scalars that say whether it can be scored."""
  number = len(embeddings)
  marks = fingerprints(embeddings)
  directed = jnp.array(True)
  if metric == 'cosine':
    largest = jnp.abs(embeddings).max(axis=1, keepdims=True)
    directed = (largest != 0).all()
    embeddings = embeddings / largest
    embeddings = embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)
  centred = embeddings - embeddings.mean(axis=0)
  if number <= _WHOLE:
    whole = gram(centred)
    norms = jnp.diagonal(whole)
    results = score_columns(whole, jnp.arange(number), norms, labels, fit, marks, k)
  else:
    # The last strip overlaps the one before, so that all are of one shape.
    starts = jnp.minimum(jnp.arange(0, number, _STRIP), number - _STRIP)
    strip = lambda start: jax.lax.dynamic_slice_in_dim(centred, start, _STRIP)
    own = lambda start: start + jnp.arange(_STRIP)
    join = lambda parts: jnp.zeros(number, parts.dtype).at[own(starts[:, None])].set(parts)
    square = lambda start: jnp.diagonal(_product(strip(start), strip(start)))
    norms = join(jax.lax.map(square, starts))

    def score_strip(start):
      products = _product(centred, strip(start))
      return score_columns(products, own(start), norms, labels, fit, marks, k)

    results = jax.tree.map(join, jax.lax.map(score_strip, starts))
  return results | {
    'finite': jnp.isfinite(norms).all() | ~directed,
    'directed': directed,
    'varied': (marks != marks[:, :1]).any(),
  }


def fingerprints(embeddings: jax.Array) -> jax.Array:
  """Hashes the rows of `[N, D]` to uint32 `[2, N]`: equal rows alike, and others, for certain enough, not."""
  # The zeros -0.0 and 0.0 are one value but two bit patterns.
  bits = jax.lax.bitcast_convert_type(jnp.where(embeddings == 0, 0, embeddings), jnp.uint32)
  place = jnp.arange(embeddings.shape[1], dtype=jnp.uint32)
  # Places are told apart by what is added; MurmurHash3's finaliser then mixes the bits.
  bits = bits + place * jnp.uint32(0x9E3779B9)
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
  bits = bits ^ (bits >> 16)
  # One pass for both sums.
  add = lambda one, other: (one[0] + other[0], one[1] + other[1])
  zero = jnp.uint32(0)
  return jnp.stack(jax.lax.reduce((bits, bits * (2 * place + 1)), (zero, zero), add, (1,)))


def gram(centred: jax.Array) -> jax.Array:
  """XXᵀ of X `[N, D]`, `[N, N]`."""
  # On an H200 panels took 1.2 times what PyTorch took for the whole (docs/gpu.md): each has few tiles for many processors.
  whole = lambda centred: _product(centred, centred)
  return jax.lax.platform_dependent(centred, cuda=whole, default=_by_panels)


def _by_panels(centred: jax.Array) -> jax.Array:
  """The products of the lower triangle's panels, mirrored."""
  number = len(centred)
  whole = jnp.zeros((number, number), jnp.float32)
  for start in range(0, number, _PANEL):
    stop = min(start + _PANEL, number)
    below = _product(centred[start:], centred[start:stop])
    # Not `.at[].set`, a scatter, which jaxlib 0.11.2 dies of in a program for several CPU devices.
    whole = jax.lax.dynamic_update_slice(whole, below, (start, start))
    whole = jax.lax.dynamic_update_slice(whole, below[stop - start :].T, (start, stop))
  return whole


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.einsum('id,jd->ij', left, right, precision=jax.lax.Precision.HIGHEST)


def score_columns(
  products: jax.Array,
  own: jax.Array,
  norms: jax.Array,
  labels: jax.Array,
  fit: jax.Array,
  marks: jax.Array,
  k: int,
) -> dict[str, jax.Array]:
  """Scores S of N samples by their products with all.

  Args:
    products: float32 `[N, S]`, columns of the Gram matrix of the centred embeddings.
    own: integers `[S]`, which columns.
    norms: `[N]`, the whole diagonal of that matrix.
    labels: integers `[N]`.
    fit: bool `[N]`, the samples that may be neighbours.
    marks: `[2, N]`, see `fingerprints`.
    k: neighbours that vote.

  Returns:
    bool `[S]` for each result.
  """
  apart = distances(products, own, norms, fit)
  twin = jnp.isfinite(apart) & (marks[:, :, None] == marks[:, None, own]).all(axis=0)
  least, places = _nearest(apart, k)
  # What rounding may do to these distances; never zero, so that it can break a tie of zeros.
  slack = 4 * _EPS * (norms[own] + norms[places[-1]]) + _TINY
  vote = lambda least, places: _vote(least, places, labels, labels[own])
  results = {
    'correct': vote(least, places),
    'tied': (apart <= least[-1] + slack).sum(axis=0) > k,
    'duplicate': twin.any(axis=0),
  }

  def other_rules():
    shift = jnp.where(labels[:, None] == labels[own], slack, 0)
    return {
      'optimistic': vote(*_nearest(apart - shift, k)),
      'pessimistic': vote(*_nearest(apart + shift, k)),
      'group_out': vote(*_nearest(jnp.where(twin, jnp.inf, apart), k)),
    }

  # Where no order is in doubt and nothing is there twice, these rules change nothing.
  doubt = results['tied'] | results['duplicate'] | (jnp.diff(least, axis=0) <= slack).any(axis=0)
  same = dict.fromkeys(('optimistic', 'pessimistic', 'group_out'), results['correct'])
  return results | jax.lax.cond(doubt.any(), other_rules, lambda: same)


def distances(products: jax.Array, own: jax.Array, norms: jax.Array, fit: jax.Array) -> jax.Array:
  """Square distances `[N, S]` of all samples to S of them, infinite where one is no neighbour; see `score_columns`."""
  # A sample is left out by its index: dropping the first found could drop its twin instead.
  may = fit[:, None] & (jnp.arange(len(norms))[:, None] != own)
  return jnp.where(may, norms[:, None] + norms[own] - 2 * products, jnp.inf)


def _nearest(distances: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """The k least of each column of `[N, S]`, rising, and their places: `[k, S]` each; of equal ones the first."""
  if k > 1:
    values, places = jax.lax.top_k(-distances.T, k)
    return -values.T, places.T
  # Two passes that XLA vectorises, on a CPU a fifth of the time of argmin.
  least = distances.min(axis=0, keepdims=True)
  number = len(distances)
  places = jnp.where(distances == least, jnp.arange(number)[:, None], number - 1)
  return least, places.min(axis=0, keepdims=True)


def _vote(distances: jax.Array, places: jax.Array, labels: jax.Array, own: jax.Array) -> jax.Array:
  """Whether the vote of the neighbours `[k, S]` is the label `[S]`; those at infinite distance have none."""
  exists = jnp.isfinite(distances)
  votes = labels[places]
  counts = ((votes[:, None] == votes) & exists).sum(axis=1)
  first = jnp.where(exists, counts, 0).argmax(axis=0)
  winner = jnp.take_along_axis(votes, first[None], axis=0)[0]
  return (winner == own) & exists[0]
