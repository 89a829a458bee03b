"""Times LogME through the Gram matrix against the published algorithm.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.logme

The references follow the paper and its extension. `fixed point` decomposes the embeddings by singular values and updates alpha and
beta class by class with the posterior mean; `fast` decomposes the embeddings' Gram matrix by singular values and updates
alpha/beta class by class in that basis. Both stop as published (relative change of alpha/beta below 1e-3, at most 11 steps) or run
to convergence. All forms run in turn on the same data with the same BLAS and its threads; ours, which always converges, includes
the Gram matrix and its eigen-decomposition. `ratio` is the reference's median time by ours. `difference` is the largest, over the
data sets, between the two values.
"""

import functools
import time

import numpy as np
import threadpoolctl
from absl import app

from experts.selection.evidence import Evidence
from experts.selection.logme import logme

_REPEATS = 7
_SHAPES = ((1000, 512, 10), (1000, 512, 100), (1000, 128, 10))


def _ours(embeddings: np.ndarray, labels: np.ndarray) -> float:
  return logme(Evidence(embeddings, labels))


def _fixed_point(embeddings: np.ndarray, labels: np.ndarray, tolerance: float, steps: int) -> float:
  features = embeddings.astype(np.float64)
  number, dimension = features.shape
  _, singular, basis = np.linalg.svd(features, full_matrices=False)
  squares = singular**2
  total = 0.0
  classes = np.unique(labels)
  for label in classes:
    target = np.float64(labels == label)
    product = basis @ (features.T @ target)
    alpha = beta = 1.0
    for _ in range(steps):
      gamma = (beta * squares / (alpha + beta * squares)).sum()
      mean = basis.T @ (beta * product / (alpha + beta * squares))
      size = mean @ mean
      residual = np.square(features @ mean - target).sum()
      before = alpha / beta
      alpha, beta = gamma / size, (number - gamma) / residual
      if abs(alpha / beta - before) <= tolerance * before:
        break
    total += _log_evidence(number, squares, alpha, beta, residual, size)
  return total / len(classes) / number


def _fast(embeddings: np.ndarray, labels: np.ndarray, tolerance: float, steps: int) -> float:
  features = embeddings.astype(np.float64)
  number = len(features)
  _, squares, basis = np.linalg.svd(features.T @ features)
  left = features @ basis.T / np.sqrt(squares)
  total = 0.0
  classes = np.unique(labels)
  for label in classes:
    target = np.float64(labels == label)
    parts = np.square(left.T @ target)
    outside = target @ target - parts.sum()
    alpha = beta = 1.0
    for _ in range(steps):
      before = alpha / beta
      gamma = (squares / (squares + before)).sum()
      size = (squares * parts / np.square(before + squares)).sum()
      residual = (parts / np.square(1 + squares / before)).sum() + outside
      alpha, beta = gamma / size, (number - gamma) / residual
      if abs(alpha / beta - before) <= tolerance * before:
        break
    total += _log_evidence(number, squares, alpha, beta, residual, size)
  return total / len(classes) / number


def _log_evidence(number, squares, alpha, beta, residual, size):
  return 0.5 * (
    len(squares) * np.log(alpha)
    + number * np.log(beta / (2 * np.pi))
    - beta * residual
    - alpha * size
    - np.log(alpha + beta * squares).sum()
  )


_FORMS = {
  'ours': _ours,
  'fixed point, as published': functools.partial(_fixed_point, tolerance=1e-3, steps=11),
  'fixed point, converged': functools.partial(_fixed_point, tolerance=1e-9, steps=10_000),
  'fast, as published': functools.partial(_fast, tolerance=1e-3, steps=11),
  'fast, converged': functools.partial(_fast, tolerance=1e-9, steps=10_000),
}


def _data(seed: int, number: int, dimension: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Embeddings like those of a network's pooled ReLU: positive, unequal variances; classes of one size."""
  rng = np.random.default_rng(seed)
  labels = np.arange(number) % classes
  noise = rng.normal(size=(number, dimension)) * rng.gamma(1, size=dimension)
  means = 0.5 * rng.normal(size=(classes, dimension))
  return np.float32(np.maximum(noise + means[labels] + 0.5, 0)), labels


def _run(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
  """Returns times in ms and values, both `[repeats, forms]`; each repeat has its own data."""
  times, values = [], []
  for repeat in range(_REPEATS + 1):
    data = _data(repeat, *shape)
    for form in _FORMS.values():
      start = time.perf_counter()
      values.append(form(*data))
      times.append(1e3 * (time.perf_counter() - start))
  # The first repeat warms up.
  return np.reshape(times, (-1, len(_FORMS)))[1:], np.reshape(values, (-1, len(_FORMS)))


def main(_) -> None:
  threads = {pool['num_threads'] for pool in threadpoolctl.threadpool_info()}
  print(f'medians of {_REPEATS}, threads {", ".join(map(str, sorted(threads)))}')
  print(f'{"N":>5s} {"D":>4s} {"C":>4s}  {"form":26s} {"ms":>8s} {"ratio":>6s} {"difference":>10s}')
  for shape in _SHAPES:
    times, values = _run(shape)
    medians = np.median(times, axis=0)
    difference = np.abs(values - values[:, :1]).max(axis=0)
    number, dimension, classes = shape
    for name, median, gap in zip(_FORMS, medians, difference):
      print(
        f'{number:5d} {dimension:4d} {classes:4d}  {name:26s} {median:8.1f} {median / medians[0]:6.1f} {gap:10.1e}',
        flush=True,
      )


if __name__ == '__main__':
  app.run(main)
