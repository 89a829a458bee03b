"""Nearest-neighbour proxy: the accuracy of k nearest neighbours, leave-one-out or on held-out samples ([EXP] §5, App. C).

How: `experts.selection.neighbours`.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experts.selection import neighbours

METRICS = ('euclidean', 'cosine')


@dataclasses.dataclass(frozen=True)
class Scores:
  """What is found for E models on N samples; of a hold-out, N are the validation samples.

  Attributes:
    accuracy: float64 `[E]`, share of samples whose neighbours vote for their label.
    ties: float64 `[E]`, share of samples for which another is as near as the last of the k, to float32 rounding.
    optimistic: float64 `[E]`, accuracy if of samples at the same distance those of the right label were nearer.
    pessimistic: float64 `[E]`, accuracy if they were farther.
    duplicates: int64 `[E]`, samples whose embedding a possible neighbour has too, bit for bit.
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


def leave_one_out(
  embeddings: jax.Array | np.ndarray,
  labels: np.ndarray,
  *,
  k: int = 1,
  metric: str = 'euclidean',
) -> Scores:
  """Scores E models by the labels of each sample's nearest other samples.

  One model a device at a time, so that memory beyond the inputs does not grow with E, nor with N squared for large N.

  Args:
    embeddings: `[E, N, D]`, computed in float32.
    labels: integers `[N]`.
    k: neighbours that vote.
    metric: 'euclidean' or 'cosine'.

  Returns:
    Scores for each model.

  Raises:
    ValueError: shapes that do not fit, no more than k samples, a single class, or a model whose embeddings are not finite
      or all the same.

  Example:
    >>> leave_one_out(np.array([[[0.0], [1.0], [5.0], [9.0]]]), np.array([0, 0, 1, 1])).accuracy
    array([1.])
  """
  labels = np.asarray(labels)
  _check(embeddings, labels, k, metric)
  number = len(labels)
  if reason := undefined(number, k):
    raise ValueError(reason)
  classes, counts = np.unique(labels, return_counts=True)
  _warn('have a single sample, which leave-one-out', classes[counts == 1], len(classes))
  return _scores(embeddings, labels, np.ones(number, bool), slice(None), k, metric)


def undefined(number: int, k: int, held_out: bool = False) -> str:
  """Why so many samples, or samples to fit of a hold-out, do not suffice for k neighbours; empty if they do."""
  name, what, needed = (
    ('hold-out', 'samples to fit', k) if held_out else ('leave-one-out', 'samples', k + 1)
  )
  return (
    '' if number >= needed else f'{name} with k = {k} needs at least {needed} {what}, not {number}'
  )


def hold_out(
  embeddings: jax.Array | np.ndarray,
  labels: np.ndarray,
  fit: np.ndarray,
  validation: np.ndarray,
  *,
  k: int = 1,
  metric: str = 'euclidean',
) -> Scores:
  """Scores E models by the labels of each validation sample's nearest samples among others ([WHICH] §4: 800 and 200).

  The distances are those of `leave_one_out`, centred by the mean of all N samples.

  Args:
    embeddings: `[E, N, D]`, computed in float32.
    labels: integers `[N]`.
    fit: integers, the samples that may be neighbours.
    validation: integers `[V]`, other samples, which are scored.
    k: neighbours that vote.
    metric: 'euclidean' or 'cosine'.

  Returns:
    Scores for each model, of the validation samples in the order given.

  Raises:
    ValueError: as `leave_one_out`, and for places that are not of N, shared, or fewer than k.
  """
  labels = np.asarray(labels)
  _check(embeddings, labels, k, metric)
  fit, validation = np.asarray(fit), np.asarray(validation)
  for name, places in (('fit', fit), ('validation', validation)):
    if places.ndim != 1 or not places.size or not np.issubdtype(places.dtype, np.integer):
      raise ValueError(f'{name} must be a list of integers, not {places.dtype} {places.shape}')
    if places.min() < 0 or places.max() >= len(labels):
      raise ValueError(
        f'{name} must name samples 0 to {len(labels) - 1}, not {places.min()} to {places.max()}'
      )
  shared = np.intersect1d(fit, validation)
  if shared.size:
    raise ValueError(
      f'{shared.size} samples are both in fit and in validation, such as {shared[0]}'
    )
  may = np.zeros(len(labels), bool)
  may[fit] = True
  if reason := undefined(int(may.sum()), k, held_out=True):
    raise ValueError(reason)
  classes = np.unique(labels[validation])
  _warn('have no sample in fit, which a hold-out', np.setdiff1d(classes, labels[fit]), len(classes))
  return _scores(embeddings, labels, may, validation, k, metric)


def _check(embeddings, labels: np.ndarray, k: int, metric: str) -> None:
  if embeddings.ndim != 3:
    raise ValueError(
      f'embeddings must be [models, samples, dimension], not {embeddings.shape}; for one model add an axis: x[None]'
    )
  if not len(embeddings):
    raise ValueError('there are no models to score')
  number = embeddings.shape[1]
  if labels.shape != (number,):
    raise ValueError(
      f'{number} embeddings need {number} labels, not labels of shape {labels.shape}'
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f'labels must be integers, not {labels.dtype}')
  if k < 1:
    raise ValueError(f'k must be at least 1, not {k}')
  if metric not in METRICS:
    raise ValueError(f'unknown metric {metric!r}; there are: {", ".join(METRICS)}')
  if number > 1 and (labels == labels[0]).all():
    raise ValueError(
      f'all {number} samples have label {labels[0]}; a score needs at least 2 classes'
    )


def _warn(what: str, classes: np.ndarray, number: int) -> None:
  if classes.size:
    logging.warning(
      '%d of %d classes %s can never get right: %s%s',
      classes.size,
      number,
      what,
      ', '.join(map(str, classes[:10])),
      ', ...' if classes.size > 10 else '',
    )


def _scores(embeddings, labels, fit, rows, k, metric) -> Scores:
  devices = jax.local_devices()
  at_once = shards(len(embeddings), len(devices))
  program = make_program(tuple(devices[:at_once]), k, metric)
  _, (by_model, everywhere) = placement(tuple(devices[:at_once]))
  labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)
  labels, fit = jax.device_put((labels, fit), everywhere)
  started = []
  for first in range(0, len(embeddings), at_once):
    # The next models are copied to the devices while these are scored, and no more than those.
    part = np.asarray(embeddings[first : first + at_once], np.float32)
    started.append(program(jax.device_put(part, by_model), labels, fit))
    jax.block_until_ready(started[-2:-1])
  found = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(started))
  _refuse(~found.pop('finite'), 'not finite')
  _refuse(~found.pop('directed'), 'zero for some samples, which then have no cosine')
  _refuse(~found.pop('varied'), f'the same for all {len(labels)} samples')
  found = {name: each[:, rows] for name, each in found.items()}
  means = {name: each.mean(axis=1) for name, each in found.items()}
  return Scores(
    accuracy=means['correct'],
    ties=means['tied'],
    optimistic=means['optimistic'],
    pessimistic=means['pessimistic'],
    duplicates=found['duplicate'].sum(axis=1),
    leave_group_out=means['group_out'],
    correct=found['correct'],
  )


def _refuse(broken: np.ndarray, what: str) -> None:
  if broken.any():
    models = ', '.join(map(str, np.flatnonzero(broken)))
    raise ValueError(
      f'embeddings of model {models} are {what}; check its weights and its input range'
    )


def shards(models: int, devices: int) -> int:
  """Over how many of some devices E models are spread: as many as divide both."""
  return math.gcd(models, devices)


@functools.cache
def make_program(
  devices: tuple[jax.Device, ...], k: int = 1, metric: str = 'euclidean'
) -> jax.stages.Wrapped:
  """The scorer: (embeddings [devices, N, D], labels [N], fit bool [N]) -> bool [devices, N] for each result.

  Only samples of `fit` are neighbours. Each device takes one model, and nothing crosses between them. The arguments lie
  where `placement` says: in a job of several processes JAX spreads no array of the host by itself.
  """
  mesh, (by_model, everywhere) = placement(devices)

  def score(embeddings, labels, fit):
    return jax.tree.map(
      lambda each: each[None], neighbours.score(embeddings[0], labels, fit, k, metric)
    )

  specs = (by_model.spec, everywhere.spec, everywhere.spec)
  return jax.jit(jax.shard_map(score, mesh=mesh, in_specs=specs, out_specs=by_model.spec))


def abstract_arguments(
  models: int, samples: int, dimension: int, devices: Sequence[jax.Device]
) -> tuple[jax.ShapeDtypeStruct, ...]:
  """The arguments of `make_program`'s scorer as shapes with their places: `shards` of the models."""
  devices = devices[: shards(models, len(devices))]
  _, (by_model, everywhere) = placement(tuple(devices))
  return (
    jax.ShapeDtypeStruct((len(devices), samples, dimension), np.float32, sharding=by_model),
    jax.ShapeDtypeStruct((samples,), np.int32, sharding=everywhere),
    jax.ShapeDtypeStruct((samples,), np.bool_, sharding=everywhere),
  )


def placement(
  devices: tuple[jax.Device, ...],
) -> tuple[Mesh, tuple[NamedSharding, NamedSharding]]:
  """A mesh of some of this process's devices, and on it where arrays lie: a model each, and all of it everywhere."""
  mesh = Mesh(np.array(devices), ('population',), axis_types=(AxisType.Auto,))
  return mesh, (NamedSharding(mesh, P('population')), NamedSharding(mesh, P()))
