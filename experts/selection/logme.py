"""LogME: the evidence of a Bayesian linear model of the labels ([You et al. 2021], "LogME: Practical Assessment")."""

import numpy as np
from absl import logging

from experts.selection.evidence import Evidence

_TOLERANCE = 1e-8
_ITERATIONS = 10_000


def undefined(number: int, dimension: int, model: str) -> str:
  """Why LogME has no value of so many samples of a dimension, whatever they are; empty if it has."""
  if dimension < number:
    return ''
  return (
    f'LogME is not well-posed for {model}: its dimension {dimension} is not below the {number} samples; '
    'give more samples or take another proxy'
  )


def logme(evidence: Evidence) -> float:
  """Returns the log evidence per sample, its hyper-parameters maximised, averaged over one-against-rest labels y.

  With F the embeddings as they are, y ~ N(F w, 1/β), w ~ N(0, 1/α). The published fixed point α ← γ/|m|²,
  β ← (N-γ)/|y - F m|², where m is the posterior mean and γ = tr(FᵀF (FᵀF + α/β)⁻¹), depends on t = α/β alone; it is run for
  all classes at once, each from α = β = 1, until no t changes. The evidence is stationary there, so that its error is of
  the order of the tolerance squared.

  FᵀF is XᵀX plus N times the outer product of the mean embedding. In the eigenbasis of XᵀX it is diagonal plus rank one,
  so that a step costs O(C D) and needs no decomposition of its own.

  Raises:
    ValueError: D >= N; a linear model then fits any labels, and the value is one of the regularisation.
  """
  number, dimension = evidence.embeddings.shape
  if reason := undefined(number, dimension, evidence.model):
    raise ValueError(reason)
  state = _State(evidence)
  spread = evidence.eigenvalues[0] + number * np.square(evidence.mean).sum()
  # Labels that F fits exactly drive t to 0, labels that it does not explain to infinity; the evidence is flat there.
  bounds = np.log(spread * np.array([1e-12, 1e12]))
  log_t = np.zeros(len(evidence.counts))
  active = np.arange(len(log_t))
  for _ in range(_ITERATIONS):
    new = np.clip(np.log(state.step(np.exp(log_t[active]), active)), *bounds)
    moving = np.abs(new - log_t[active]) >= _TOLERANCE
    log_t[active] = new
    active = active[moving]
    if not active.size:
      break
  else:
    logging.warning(
      'LogME of %s: alpha/beta of %d of %d classes still changes after %d iterations',
      evidence.model,
      active.size,
      log_t.size,
      _ITERATIONS,
    )
  return float(state.log_evidence(np.exp(log_t), np.arange(log_t.size)).mean() / number)


class _State:
  """The linear model's posterior as a function of some classes' t = α/β, in the eigenbasis of XᵀX."""

  def __init__(self, evidence: Evidence):
    self.number = len(evidence.labels)
    self.values = evidence.eigenvalues
    self.mean = evidence.mean_coordinates
    self.counts = evidence.counts
    # Xᵀy of each class, [C, D].
    self.products = evidence.counts[:, None] * evidence.class_means

  def _posterior(self, t, classes):
    """Returns 1/(λ+t) and N times the mean's share of (FᵀF + t)⁻¹'s rank-one term, |m|² and |y - F m|²."""
    counts, products = self.counts[classes], self.products[classes]
    inverse = 1 / (self.values + t[:, None])
    scaled = self.mean * inverse
    rank_one = self.number / (1 + self.number * (scaled @ self.mean))
    # Sherman and Morrison's formula, with the mean's part of Fᵀy = Xᵀy + counts * mean worked out beforehand: else it
    # cancels where the mean is long.
    share = rank_one * (counts / self.number - np.einsum('cd,cd->c', products, scaled))
    m = products * inverse + share[:, None] * scaled
    # X has mean zero, so that what is left of y splits into a part about the mean and one of the mean.
    about = (
      counts * (1 - counts / self.number)
      - 2 * np.einsum('cd,cd->c', m, products)
      + np.square(m) @ self.values
    )
    of_mean = self.number * np.square(counts / self.number - m @ self.mean)
    return inverse, rank_one, np.square(m).sum(axis=1), np.maximum(about, 0) + of_mean

  def step(self, t: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the next t of some classes."""
    inverse, rank_one, size, residual = self._posterior(t, classes)
    gamma = inverse @ self.values + t * rank_one * (np.square(inverse) @ np.square(self.mean))
    # A class without any residual: the smallest number instead of zero, for the logarithm.
    return gamma / (self.number - gamma) * np.maximum(residual, 1e-300) / size

  def log_evidence(self, t: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the log evidence of some classes, with the β that is best for t."""
    _, rank_one, size, residual = self._posterior(t, classes)
    beta = self.number / (residual + t * size)
    # log det(FᵀF + t) - D log t.
    determinant = np.log1p(self.values / t[:, None]).sum(axis=1) + np.log(self.number / rank_one)
    return 0.5 * (self.number * (np.log(beta / (2 * np.pi)) - 1) - determinant)
