"""What the proxies look at: one model's embeddings of one task, with the matrices that several proxies share."""

import functools

import numpy as np
from scipy import linalg, sparse
from scipy.linalg import lapack

# Workspace of LAPACK, in columns: its blocks are at most so wide.
_BLOCK = 64


class Evidence:
  """One model on one task.

  The matrices below are computed when first asked for, once, in float64. With N samples of dimension D, X denotes the
  embeddings less their mean, and R = min(N, D).

  Attributes:
    embeddings: `[N, D]`, as given.
    labels: int `[N]`, 0 to C-1 in the order of `classes`.
    classes: `[C]`, the distinct labels as given, sorted.
    counts: int `[C]`, samples of each class.
    model: the model's name, for messages.
  """

  def __init__(
    self,
    embeddings: np.ndarray,
    labels: np.ndarray,
    source: np.ndarray | None = None,
    model: str = 'the model',
  ):
    """Checks and keeps the data.

    Args:
      embeddings: `[N, D]`, finite.
      labels: integers `[N]`, at least two distinct ones.
      source: `[N, S]`, the probabilities that the model's own head gives its S upstream classes; None without a head.
      model: its name, for messages.

    Raises:
      ValueError: shapes that do not fit, embeddings that are not finite or all the same, or a single class.
    """
    self.model = model
    self.embeddings = np.asarray(embeddings)
    self._source = source
    labels = np.asarray(labels)
    if self.embeddings.ndim != 2:
      raise ValueError(
        f'embeddings of {model} must be [samples, dimension], not {self.embeddings.shape}'
      )
    number = len(self.embeddings)
    if labels.shape != (number,) or not np.issubdtype(labels.dtype, np.integer):
      raise ValueError(
        f'{number} embeddings of {model} need {number} integer labels, not {labels.dtype} {labels.shape}'
      )
    self.classes, self.labels, self.counts = np.unique(
      labels, return_inverse=True, return_counts=True
    )
    if len(self.classes) < 2:
      raise ValueError(
        f'a score needs at least 2 classes; all {number} samples have label {labels[:1].tolist()}'
      )
    if not np.isfinite(self.embeddings).all():
      raise ValueError(
        f'embeddings of {model} are not finite; check its weights and its input range'
      )
    if (self.embeddings == self.embeddings[0]).all():
      raise ValueError(
        f'embeddings of {model} are the same for all {number} samples; check its weights and its input range'
      )

  @property
  def wide(self) -> bool:
    """Whether D >= N: the smaller Gram matrix is then XXᵀ, and the embeddings can fit any labels."""
    return self.embeddings.shape[1] >= len(self.embeddings)

  @functools.cached_property
  def mean(self) -> np.ndarray:
    """The mean embedding, `[D]`."""
    return self.embeddings.mean(axis=0, dtype=np.float64)

  @functools.cached_property
  def centred(self) -> np.ndarray:
    """X, `[N, D]`."""
    return self.embeddings - self.mean

  @functools.cached_property
  def gram(self) -> np.ndarray:
    """XᵀX if D < N, else XXᵀ: `[R, R]`, the one product of that size that a model needs."""
    return self.centred @ self.centred.T if self.wide else self.centred.T @ self.centred

  @functools.cached_property
  def square_norms(self) -> np.ndarray:
    """Of the rows of X, `[N]`."""
    return np.diagonal(self.gram) if self.wide else np.square(self.centred).sum(axis=1)

  @functools.cached_property
  def _eigen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The Gram matrix as Q W diag(values) Wᵀ Qᵀ: (reflectors of Q, their factors, values [R], W [R, R]).

    Q makes the matrix tridiagonal. To multiply it out with W takes as long as all the rest, and most proxies need it times a few
    vectors only.
    """
    size = len(self.gram)
    reflectors, diagonal, beside, factors, _ = lapack.dsytrd(
      self.gram.T, lower=1, lwork=_BLOCK * size
    )
    values, vectors = linalg.eigh_tridiagonal(diagonal, beside)
    values, vectors = values[::-1], vectors[:, ::-1]
    # Below this, eigenvalues are rounding errors of zero.
    noise = max(self.embeddings.shape) * np.finfo(np.float64).eps * values[0]
    return reflectors, factors, np.where(values > noise, values, 0.0), vectors

  def _reflect(self, columns: np.ndarray, transpose: bool) -> np.ndarray:
    """Returns Q or Qᵀ times columns `[R, K]`."""
    reflectors, factors, _, _ = self._eigen
    if len(columns) == 1:
      return columns
    # Q leaves the first row alone; of the others it is like the Q of a QR decomposition.
    rest, _, _ = lapack.dormqr(
      'L',
      'T' if transpose else 'N',
      reflectors[1:, :-1],
      factors,
      columns[1:],
      lwork=_BLOCK * columns.shape[1],
    )
    return np.concatenate([columns[:1], rest])

  def _rotate(self, rows: np.ndarray) -> np.ndarray:
    """Returns rows `[K, R]` in the eigenbasis of the Gram matrix."""
    return self._reflect(rows.T, transpose=True).T @ self._eigen[3]

  @property
  def eigenvalues(self) -> np.ndarray:
    """Of the Gram matrix, `[R]`, falling; divided by N, the variances of the principal coordinates."""
    return self._eigen[2]

  def coordinates(self, number: int) -> np.ndarray:
    """Returns the first principal coordinates of X, `[N, number]`."""
    vectors = self._reflect(self._eigen[3][:, :number], transpose=False)
    return vectors * np.sqrt(self.eigenvalues[:number]) if self.wide else self.centred @ vectors

  @functools.cached_property
  def class_means(self) -> np.ndarray:
    """Mean of each class in principal coordinates, `[C, R]`."""
    if self.wide:
      shares = self.class_sums(np.eye(len(self.labels))) / self.counts[:, None]
      return self._rotate(shares) * np.sqrt(self.eigenvalues)
    return self._rotate(self.class_sums(self.centred) / self.counts[:, None])

  @functools.cached_property
  def mean_coordinates(self) -> np.ndarray:
    """The mean embedding in the basis of the principal coordinates, `[D]`; for D < N."""
    return self._rotate(self.mean[None])[0]

  def class_sums(self, rows: np.ndarray) -> np.ndarray:
    """Sums rows `[N, K]` by class: `[C, K]`."""
    number = len(self.labels)
    ones = sparse.csr_array((np.ones(number), (self.labels, np.arange(number))))
    return ones @ rows

  def class_gram(self, index: int) -> np.ndarray:
    """Returns the smaller Gram matrix of the rows of X of one class (not less the class's mean)."""
    members = np.flatnonzero(self.labels == index)
    if self.wide:
      return self.gram[np.ix_(members, members)]
    rows = self.centred[members]
    return rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows

  @functools.cached_property
  def source(self) -> np.ndarray:
    """What the model's own head predicts, float64 `[N, S]`.

    Raises:
      ValueError: the model has no head, or its rows are no probabilities.
    """
    if self._source is None:
      raise ValueError(f'{self.model} has no upstream head, whose class probabilities this needs')
    source = np.asarray(self._source, np.float64)
    if source.ndim != 2 or len(source) != len(self.labels):
      raise ValueError(
        f'source probabilities of {self.model} must be [{len(self.labels)}, classes], not {source.shape}'
      )
    # The comparisons are false for NaN.
    good = (source >= 0).all(axis=1) & (np.abs(source.sum(axis=1) - 1) < 1e-3)
    if not good.all():
      row = int(np.argmin(good))
      raise ValueError(
        f'source row {row} of {self.model} holds no probabilities (minimum {source[row].min():.3g}, '
        f'sum {source[row].sum():.6g}); give softmax outputs'
      )
    return source
