"""Experts by what they were trained on: domain prediction and label matching ([EXP] App. A and B)."""

import numpy as np
from scipy import special

# A sigmoid in float32 can be 0 or 1 exactly, which would make the divergence infinite however small its part in P.
_CLAMP = 1e-6


def epn(log_probabilities: np.ndarray) -> np.ndarray:
  """Scores experts by the domain predictor: the mean over the task's images of log Q(e given x).

  Args:
    log_probabilities: `[N, E]`, the predictor's log-softmax over E experts for each of N images.

  Returns:
    float64 `[E]`, higher is better.

  Raises:
    ValueError: another shape, no images, or values that are no log-probabilities.

  Example:
    >>> epn(np.log([[0.5, 0.5], [0.125, 0.875]])).round(4)
    array([-1.3863, -0.4133])
  """
  values = np.asarray(log_probabilities, np.float64)
  if values.ndim != 2 or not values.size:
    raise ValueError(f'log-probabilities must be [images, experts], not {values.shape}')
  # Rounding may lift the logarithm of a sure prediction a little above 0.
  if not (values <= 1e-3).all():
    raise ValueError('log-probabilities must be at most 0 and not NaN; pass a log-softmax')
  return values.mean(axis=0)


def label_matching(target: np.ndarray, priors: np.ndarray) -> np.ndarray:
  """Scores experts by their labels: minus the sum over labels of KL(Bernoulli(P_e,y) || Bernoulli(Q_y)).

  Q is the mean over the task's images, kept within [1e-6, 1 - 1e-6]. P may be 0 or 1 exactly.

  Args:
    target: `[N, Y]`, the baseline's sigmoid outputs for Y upstream labels on each of N images.
    priors: `[E, Y]`, share of the images of each expert's slice that have a label.

  Returns:
    float64 `[E]`, at most 0, higher is better.

  Raises:
    ValueError: shapes that do not fit, or values outside [0, 1].

  Example:
    >>> label_matching(np.array([[0.5, 0.25]]), np.array([[0.5, 0.25], [1.0, 0.0]])).round(4) + 0.0
    array([ 0.    , -0.9808])
  """
  target, priors = np.asarray(target, np.float64), np.asarray(priors, np.float64)
  if target.ndim != 2 or priors.ndim != 2 or target.shape[1] != priors.shape[1] or not len(target):
    raise ValueError(
      f'target [images, labels] and priors [experts, labels] do not fit: {target.shape}, {priors.shape}'
    )
  for name, values in (('target', target), ('priors', priors)):
    if not ((values >= 0) & (values <= 1)).all():
      raise ValueError(f'{name} must be probabilities in [0, 1]; pass sigmoid outputs, not logits')
  q = target.mean(axis=0).clip(_CLAMP, 1 - _CLAMP)
  return -(special.rel_entr(priors, q) + special.rel_entr(1 - priors, 1 - q)).sum(axis=1)
