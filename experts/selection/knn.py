"""Nearest-neighbour proxy: leave-one-out accuracy with k = 1, Euclidean ([EXP] §5, App. C)."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Up to this many samples the N x N matrix is held whole (64 MiB); beyond, it is made from square tiles, a row of them
# at a time.
_WHOLE = 4096
_TILE = 1024


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
  """What leave-one-out finds for E models on N samples.

  Attributes:
    accuracy: float64 `[E]`, share of samples whose nearest other sample has their label.
    ties: float64 `[E]`, share of samples with several nearest samples, to float32 rounding.
    optimistic: float64 `[E]`, accuracy if every tie falls to the right label.
    pessimistic: float64 `[E]`, accuracy if every tie falls to a wrong label.
    duplicates: int64 `[E]`, samples whose embedding another sample has too, bit for bit.
    leave_group_out: float64 `[E]`, accuracy with a sample's duplicates left out with it.
    correct: bool `[E, N]`, the samples that `accuracy` counts.
  """

  accuracy: np.ndarray
  ties: np.ndarray
  optimistic: np.ndarray
  pessimistic: np.ndarray
  duplicates: np.ndarray
  leave_group_out: np.ndarray
  correct: np.ndarray


def leave_one_out(embeddings: jax.Array | np.ndarray, labels: np.ndarray) -> LeaveOneOut:
  """Scores E models by the label of each sample's nearest other sample.

  One model at a time, so that memory beyond the inputs does not grow with E, nor with N squared for large N. Of
  several samples at the same distance the first decides.

  Args:
    embeddings: `[E, N, D]`, computed in float32.
    labels: integers `[N]`.

  Returns:
    Scores for each model.

  Raises:
    ValueError: shapes that do not fit, fewer than two samples, a single class, or a model whose embeddings are not
      finite.

  Example:
    >>> leave_one_out(np.array([[[0.0], [1.0], [5.0], [9.0]]]), np.array([0, 0, 1, 1])).accuracy
    array([1.])
  """
  labels = np.asarray(labels)
  _check(embeddings, labels)
  groups = np.stack([_duplicate_groups(np.asarray(one, np.float32)) for one in embeddings])
  duplicates = np.array([np.sum(np.bincount(g)[g] > 1) for g in groups])
  devices = jax.local_devices()
  program = make_program(tuple(devices[: shards(len(embeddings), len(devices))]))
  outcome = jax.device_get(program(np.asarray(embeddings, np.float32), labels, groups))
  broken = np.flatnonzero(~outcome.pop('finite'))
  if broken.size:
    raise ValueError(
      f'embeddings of model {", ".join(map(str, broken))} are not finite; check its weights and its input range'
    )
  means = {name: each.mean(axis=1) for name, each in outcome.items()}
  return LeaveOneOut(
    accuracy=means['correct'],
    ties=means['tied'],
    optimistic=means['optimistic'],
    pessimistic=means['pessimistic'],
    duplicates=duplicates,
    leave_group_out=means['group_out'],
    correct=outcome['correct'],
  )


def _check(embeddings: jax.Array | np.ndarray, labels: np.ndarray) -> None:
  if embeddings.ndim != 3:
    raise ValueError(
      f'embeddings must be [models, samples, dimension], not {embeddings.shape}; for one model add an axis: x[None]'
    )
  number = embeddings.shape[1]
  if labels.shape != (number,):
    raise ValueError(
      f'{number} embeddings need {number} labels, not labels of shape {labels.shape}'
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f'labels must be integers, not {labels.dtype}')
  if number < 2:
    raise ValueError(f'leave-one-out needs at least 2 samples, not {number}')
  classes, counts = np.unique(labels, return_counts=True)
  if len(classes) == 1:
    raise ValueError(
      f'all {number} samples have label {classes[0]}; a score needs at least 2 classes'
    )
  single = classes[counts == 1]
  if single.size:
    logging.warning(
      '%d of %d classes have a single sample, which leave-one-out can never get right: %s%s',
      single.size,
      len(classes),
      ', '.join(map(str, single[:10])),
      ', ...' if single.size > 10 else '',
    )


def _duplicate_groups(embeddings: np.ndarray) -> np.ndarray:
  """Numbers the distinct rows of `[N, D]`: equal rows, equal number."""
  seen = {}
  # Adding zero turns -0.0 into 0.0, which are one value but two bit patterns.
  return np.array([seen.setdefault((row + 0.0).tobytes(), len(seen)) for row in embeddings])


def shards(models: int, devices: int) -> int:
  """Over how many of some devices E models are spread: as many as divide both."""
  return math.gcd(models, devices)


@functools.cache
def make_program(devices: tuple[jax.Device, ...]) -> jax.stages.Wrapped:
  """The scorer: (embeddings [E, N, D], labels [N], groups of duplicates [E, N]) -> bool [E, N] for each result.

  The models are spread over the devices, each of which takes its own one after the other. Nothing crosses between them.
  """
  mesh, (by_model, everywhere) = _placement(devices)

  def score(embeddings, labels, groups):
    return jax.lax.map(lambda model: _score(model[0], labels, model[1]), (embeddings, groups))

  specs = (by_model.spec, everywhere.spec, by_model.spec)
  sharded = jax.shard_map(score, mesh=mesh, in_specs=specs, out_specs=by_model.spec)
  return jax.jit(sharded, in_shardings=(by_model, everywhere, by_model))


def abstract_arguments(
  models: int, samples: int, dimension: int, devices: Sequence[jax.Device]
) -> tuple[jax.ShapeDtypeStruct, ...]:
  """The arguments of `make_program`'s scorer as shapes with their places."""
  _, (by_model, everywhere) = _placement(tuple(devices[: shards(models, len(devices))]))
  return (
    jax.ShapeDtypeStruct((models, samples, dimension), np.float32, sharding=by_model),
    jax.ShapeDtypeStruct((samples,), np.int32, sharding=everywhere),
    jax.ShapeDtypeStruct((models, samples), np.int32, sharding=by_model),
  )


def _placement(devices):
  mesh = Mesh(np.array(devices), ('population',), axis_types=(AxisType.Auto,))
  return mesh, (NamedSharding(mesh, P('population')), NamedSharding(mesh, P()))


def _score(embeddings: jax.Array, labels: jax.Array, groups: jax.Array) -> dict[str, jax.Array]:
  """Scores one model `[N, D]`; every result but `finite` is bool `[N]`."""
  number, dimension = embeddings.shape
  size = number if number <= _WHOLE else _TILE
  tiles = -(-number // size)
  # Distances do not depend on the origin, but their rounding grows with the norms: centre first.
  centred = embeddings - embeddings.mean(axis=0)
  centred = jnp.pad(centred, ((0, tiles * size - number), (0, 0))).reshape(tiles, size, dimension)
  gram = functools.partial(jnp.einsum, 'id,jd->ij', precision=jax.lax.Precision.HIGHEST)
  norms = jax.lax.map(lambda tile: jnp.diagonal(gram(tile, tile)), centred)
  index = jnp.arange(tiles * size)

  def score_rows(row):
    # Tiles of one shape, those of the diagonal included: the norms then round as the products do.
    products = jax.lax.map(lambda tile: gram(row['x'], tile), centred)
    products = products.transpose(1, 0, 2).reshape(size, -1)[:, :number]
    norm_sums = row['norm'][:, None] + norms.reshape(-1)[None, :number]
    distances = norm_sums - 2 * products
    distances = jnp.where(row['index'][:, None] == index[None, :number], jnp.inf, distances)
    own = labels[jnp.minimum(row['index'], number - 1)]
    same = own[:, None] == labels[None]
    slack = 4 * jnp.finfo(jnp.float32).eps * norm_sums
    nearest = distances <= distances.min(axis=1, keepdims=True) + slack
    own_group = groups[jnp.minimum(row['index'], number - 1)]
    others = jnp.where(own_group[:, None] == groups[None], jnp.inf, distances)
    return {
      'correct': labels[distances.argmin(axis=1)] == own,
      'tied': nearest.sum(axis=1) > 1,
      'optimistic': (nearest & same).any(axis=1),
      'pessimistic': ~(nearest & ~same).any(axis=1),
      'group_out': (labels[others.argmin(axis=1)] == own) & jnp.isfinite(others.min(axis=1)),
    }

  rows = {'x': centred, 'norm': norms, 'index': index.reshape(tiles, size)}
  scores = jax.lax.map(score_rows, rows)
  scores = {name: each.reshape(-1)[:number] for name, each in scores.items()}
  return scores | {'finite': jnp.isfinite(norms).all()}
