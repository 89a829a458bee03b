"""Linear proxy: validation accuracy of a logistic regression on frozen embeddings ([WHICH])."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experts.selection import knn

_BATCH = 512
_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Linear:
  """What logistic regressions on E models' embeddings reach on the validation samples.

  Attributes:
    accuracy: float64 `[E]`, median over the runs; a run counts its better learning rate.
    correct: int64 `[E]`, validation samples behind `accuracy`.
    by_run: int64 `[E, R, L]`, validation samples that each run got right with each learning rate.
  """

  accuracy: np.ndarray
  correct: np.ndarray
  by_run: np.ndarray


def linear_accuracy(
  embeddings: jax.Array | np.ndarray,
  labels: np.ndarray,
  fit: np.ndarray,
  validation: np.ndarray,
  *,
  learning_rates: Sequence[float] = (0.1, 0.01),
  steps: int = 2500,
  runs: int = 5,
  seed: int = 0,
) -> Linear:
  """Scores E models by SGD on a softmax regression with a bias that starts at zero.

  Batches of 512 (all, if there are fewer), momentum 0.9, a constant learning rate, no weight decay. Runs differ in the
  order of the samples, which all models and learning rates share. Embeddings are taken as they are, neither centred nor
  scaled: a model whose embeddings are much shorter than those of others learns slower.

  Args:
    embeddings: `[E, N, D]`, computed in float32.
    labels: integers `[N]`.
    fit: indices of the samples to fit; 800 in the paper.
    validation: indices of the samples to score; 200 in the paper.
    learning_rates: L of them; each run takes its best on `validation`.
    steps: of each fit.
    runs: R of them, an odd number so that their median is one of them.
    seed: of the orders.

  Returns:
    Scores for each model.

  Raises:
    ValueError: shapes or indices that do not fit, samples both fitted and scored, a single class to fit, an even number
      of runs, or a model whose embeddings are not finite.
  """
  labels, fit, validation = np.asarray(labels), np.asarray(fit), np.asarray(validation)
  _check(embeddings, labels, fit, validation, runs)
  # Labels that only the validation samples have keep a class of their own, which no fit predicts.
  classes = np.unique(labels[np.concatenate([fit, validation])], return_inverse=True)[1]
  targets = np.eye(classes.max() + 1, dtype=np.float32)[classes[: len(fit)]]
  devices = jax.local_devices()
  devices = tuple(devices[: knn.shards(len(embeddings), len(devices))])
  _, (by_model, everywhere) = knn.placement(devices)
  samples = (
    np.asarray(embeddings[:, fit], np.float32),
    np.asarray(embeddings[:, validation], np.float32),
  )
  shared = (
    targets,
    classes[len(fit) :].astype(np.int32),
    batch_order(len(fit), steps, runs, seed),
    np.asarray(learning_rates, np.float32),
  )
  program = _make_program(devices)
  counts, finite = jax.device_get(
    program(*jax.device_put(samples, by_model), *jax.device_put(shared, everywhere))
  )
  broken = np.flatnonzero(~finite)
  if broken.size:
    raise ValueError(
      f'embeddings of model {", ".join(map(str, broken))} are not finite; check its weights and its input range'
    )
  correct = np.median(counts.max(axis=2), axis=1).astype(np.int64)
  return Linear(correct / len(validation), correct, counts.astype(np.int64))


def batch_order(number: int, steps: int, runs: int, seed: int) -> np.ndarray:
  """Which samples each step sees: int32 `[runs, steps, batch]`.

  A run passes through all samples again and again, each time in a new order; batches go on across the passes.
  """
  batch = min(_BATCH, number)
  passes = -(-steps * batch // number)
  each = np.tile(np.arange(number, dtype=np.int32), (runs, passes, 1))
  orders = np.random.default_rng(seed).permuted(each, axis=2).reshape(runs, -1)
  return orders[:, : steps * batch].reshape(runs, steps, batch)


@functools.cache
def _make_program(devices: tuple[jax.Device, ...]) -> jax.stages.Wrapped:
  """The scorer of models that are spread over devices: their correct counts int32 [E, R, L], and whether finite."""
  mesh, (by_model, everywhere) = knn.placement(devices)

  def score(fit, validation, *shared):
    return jax.lax.map(lambda model: _score(*model, *shared), (fit, validation))

  specs = (by_model.spec, by_model.spec, *[everywhere.spec] * 4)
  return jax.jit(jax.shard_map(score, mesh=mesh, in_specs=specs, out_specs=by_model.spec))


def _score(fit, validation, targets, labels, order, learning_rates):
  """One model: fits `[N, D]`, scores `[V, D]`; returns counts [R, L] and whether the embeddings are finite.

  SGD from zero keeps the weights in the span of the samples, W = fitᵀ A, and its steps on W are steps on A with the
  samples' products in place of the samples. Where N < D that is less work by a factor of 2 D / N.
  """
  product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  # A bias is the weight of a feature that is always 1.
  gram = product(fit, fit.T) + 1
  across = product(validation, fit.T) + 1
  shape = (len(fit), len(learning_rates), targets.shape[1])

  def logits(rows, weights):
    return product(rows, weights.reshape(len(weights), -1)).reshape(len(rows), *shape[1:])

  def step(carry, batch):
    weights, velocity = carry
    residual = jax.nn.softmax(logits(gram[batch], weights)) - targets[batch, None]
    velocity = (_MOMENTUM * velocity).at[batch].add(residual / len(batch))
    return (weights - learning_rates[:, None] * velocity, velocity), None

  def run(batches):
    zeros = jax.lax.pcast(jnp.zeros(shape), ('population',), to='varying')
    (weights, _), _ = jax.lax.scan(step, (zeros, zeros), batches)
    predicted = logits(across, weights).argmax(axis=2)
    return (predicted == labels[:, None]).sum(axis=0)

  return jax.lax.map(run, order), jnp.isfinite(gram).all() & jnp.isfinite(across).all()


def undefined(labels: np.ndarray) -> str:
  """Why nothing can be fitted on samples of these labels `[F]`; empty if it can."""
  if len(np.unique(labels)) > 1:
    return ''
  return (
    f'all {len(labels)} samples to fit have label {labels[0]}; a score needs at least 2 classes'
  )


def _check(embeddings, labels, fit, validation, runs) -> None:
  if embeddings.ndim != 3 or labels.shape != embeddings.shape[1:2]:
    raise ValueError(
      f'embeddings must be [models, samples, dimension] and labels [samples], not {embeddings.shape} and {labels.shape}'
    )
  number = len(labels)
  for name, indices in (('fit', fit), ('validation', validation)):
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer) or not indices.size:
      raise ValueError(f'{name} must be a list of sample indices, not {indices.tolist()}')
    if indices.min() < 0 or indices.max() >= number:
      raise ValueError(f'{name} has indices outside 0 to {number - 1}')
    if len(np.unique(indices)) < len(indices):
      raise ValueError(f'{name} names a sample twice')
  both = np.intersect1d(fit, validation)
  if both.size:
    raise ValueError(f'{both.size} samples are in fit and in validation, such as {both[0]}')
  if reason := undefined(labels[fit]):
    raise ValueError(reason)
  if runs % 2 == 0:
    raise ValueError(f'runs must be odd for a median, not {runs}')
