"""Times the kNN scorer against others on the same embeddings, and against the speed of one matrix product.

    python -m benchmarks.knn

The work: leave-one-out accuracy, k = 1, of 50 models on 1,000 samples of dimension 2048, float32. All forms run in turn,
round after round, with equal threads, and medians are printed. `GFLOP/s` counts 2·N·N·D for each model, whoever does less
or more; `of GEMM` is that over the best rate at which JAX, NumPy or PyTorch make the product of an [N, D] by a [D, N]
matrix here. We can pass it, since of a symmetric matrix half the products suffice. `ours/` is our speed over that form's.
faiss, PyTorch and scikit-learn return neighbours only; ours also finds ties, their bounds and duplicates.

Then 50,000 samples, once, in a process of its own, whose peak memory is printed, against float64 on some of the samples.

Needs faiss-cpu and torch.
"""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl
from absl import app, flags
from sklearn import neighbors

from experts.selection import knn

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Medians are of so many.', lower_bound=5)

_MODELS, _NUMBER, _DIMENSION, _CLASSES = 50, 1000, 2048, 20
_LARGE, _CHECKED = 50_000, 200
_THREADS = len(os.sched_getaffinity(0))  # as many as XLA takes

# -> the samples that are right, of all models
Form = Callable[[], int]


def _data(models: int, number: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  labels = rng.integers(_CLASSES, size=number)
  embeddings = rng.standard_normal((models, number, _DIMENSION), dtype=np.float32)
  embeddings += 0.2 * rng.standard_normal((_CLASSES, _DIMENSION), dtype=np.float32)[labels]
  return embeddings, labels


def _scorers(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, Form]:
  # Here, so that the process that measures memory does not hold them.
  import faiss
  import torch

  faiss.omp_set_num_threads(_THREADS)
  torch.set_num_threads(_THREADS)
  classes = torch.from_numpy(labels)
  number = len(labels)
  repeated = embeddings.copy()
  repeated[:, -1] = repeated[:, 0]
  fit, validation = np.split(np.arange(number), [number * 4 // 5])

  def with_faiss(x: np.ndarray) -> int:
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    _, found = index.search(x, 2)
    own = found[:, 0] == np.arange(number)
    return np.sum(labels[np.where(own, found[:, 1], found[:, 0])] == labels)

  def with_torch(x: np.ndarray) -> int:
    x = torch.from_numpy(x)
    products = torch.mm(x, x.T)
    norms = products.diagonal().clone()
    distances = products.mul_(-2).add_(norms).add_(norms[:, None])
    distances.fill_diagonal_(torch.inf)
    return int((classes[distances.argmin(1)] == classes).sum())

  def with_sklearn(x: np.ndarray) -> int:
    search = neighbors.NearestNeighbors(n_neighbors=1, algorithm='brute').fit(x)
    return np.sum(labels[search.kneighbors(return_distance=False)[:, 0]] == labels)

  def each(score: Callable[[np.ndarray], int]) -> Form:
    return lambda: sum(map(score, embeddings))

  return {
    'ours': lambda: knn.leave_one_out(embeddings, labels).correct.sum(),
    'faiss IndexFlatL2': each(with_faiss),
    'PyTorch mm': each(with_torch),
    'scikit-learn brute': each(with_sklearn),
    'ours, duplicates': lambda: knn.leave_one_out(repeated, labels).correct.sum(),
    'ours, k = 5': lambda: knn.leave_one_out(embeddings, labels, k=5).correct.sum(),
    'ours, cosine': lambda: knn.leave_one_out(embeddings, labels, metric='cosine').correct.sum(),
    'ours, 800 to 200': lambda: knn.hold_out(embeddings, labels, fit, validation).correct.sum(),
  }


def _products(embeddings: np.ndarray) -> dict[str, Form]:
  """Plain products of one model, as often as there are models."""
  import torch

  one = embeddings[0]
  other = np.ascontiguousarray(one.T)  # another array, so that none sees a symmetric product
  jax_product = jax.jit(lambda a, b: jnp.matmul(a, b, precision='highest'))
  jax_factors = jnp.asarray(one), jnp.asarray(other)
  torch_factors = torch.from_numpy(one), torch.from_numpy(other)

  def each(product: Callable[[], object]) -> Form:
    return lambda: [product() for _ in embeddings] and 0

  return {
    'product, JAX': each(lambda: jax_product(*jax_factors).block_until_ready()),
    'product, NumPy': each(lambda: one @ other),
    'product, PyTorch': each(lambda: torch.mm(*torch_factors)),
  }


def _medians(forms: dict[str, Form]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """Seconds and seconds of processor time of each form, and what it found; the first round warms up."""
  times, found = {name: [] for name in forms}, {}
  for _ in range(_ROUNDS.value + 1):
    for name, form in forms.items():
      wall, processor = time.perf_counter(), time.process_time()
      found[name] = int(form())
      times[name].append((time.perf_counter() - wall, time.process_time() - processor))
  return {name: np.median(each[1:], axis=0) for name, each in times.items()}, found


def _large() -> tuple[float, float, int]:
  """Seconds and peak memory in GB for `_LARGE` samples, and how many of `_CHECKED` differ from float64."""
  embeddings, labels = _data(1, _LARGE)
  start = time.perf_counter()
  correct = knn.leave_one_out(embeddings, labels).correct[0]
  seconds = time.perf_counter() - start
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
  some = np.random.default_rng(1).choice(_LARGE, _CHECKED, replace=False)
  distances = np.empty((_CHECKED, _LARGE))
  for part in np.array_split(np.arange(_LARGE), 50):
    exact = embeddings[0, part].astype(np.float64)
    own = embeddings[0, some].astype(np.float64)
    distances[:, part] = np.square(exact).sum(axis=1) - 2 * own @ exact.T
  distances[np.arange(_CHECKED), some] = np.inf
  expected = labels[distances.argmin(axis=1)] == labels[some]
  return seconds, memory, int(np.sum(expected != correct[some]))


def main(_) -> None:
  embeddings, labels = _data(_MODELS, _NUMBER)
  with threadpoolctl.threadpool_limits(_THREADS):
    products = _products(embeddings)
    times, found = _medians(_scorers(embeddings, labels) | products)
  print(
    f'{_MODELS} models, {_NUMBER} samples, dimension {_DIMENSION}; medians of {_ROUNDS.value},'
    f' {_THREADS} threads, load {os.getloadavg()[0]:.1f}'
  )
  gemm = min(times[name][0] for name in products)
  operations = 2 * _NUMBER**2 * _DIMENSION * _MODELS / 1e9
  print(
    f'{"form":20s} {"ms a model":>11s} {"processor":>10s} {"GFLOP/s":>8s} {"of GEMM":>8s}'
    f' {"ours/":>6s} {"right":>6s}'
  )
  for name, (wall, processor) in times.items():
    print(
      f'{name:20s} {1e3 * wall / _MODELS:11.2f} {1e3 * processor / _MODELS:10.2f}'
      f' {operations / wall:8.0f} {gemm / wall:8.0%} {wall / times["ours"][0]:6.2f}'
      f' {found[name] or "":>6}'
    )
  del embeddings
  with multiprocessing.get_context('spawn').Pool(1) as pool:
    seconds, memory, different = pool.apply(_large)
  rate = 2 * _LARGE**2 * _DIMENSION / 1e9 / seconds
  print(
    f'{_LARGE} samples, dimension {_DIMENSION}: {seconds:.1f} s with compilation, {rate:.0f} GFLOP/s,'
    f' {rate * gemm / operations:.0%} of GEMM, peak memory {memory:.2f} GB, {different} of'
    f' {_CHECKED} samples differ from float64'
  )


if __name__ == '__main__':
  app.run(main)
