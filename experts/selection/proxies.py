"""Scores of an embedding for a task, other than kNN's; higher is better for all.

A proxy is a function of `Evidence`. It raises a ValueError, in one line, when the evidence lacks what it needs.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.spatial import distance
from sklearn import mixture

from experts.selection import logme as logmes
from experts.selection.evidence import Evidence
from experts.selection.logme import logme

Proxy = Callable[[Evidence], float]

# PARC compares all pairs; 5,000 samples make 12.5 million, about 1 GB.
_MOST_FOR_PAIRS = 5_000
_DISTORTION = 0.1


def undefined(name: str, labels: np.ndarray, dimension: int, model: str) -> str:
  """Why a proxy has no value of a model on a task, whatever the embeddings are: known before there are any.

  Args:
    name: of `PROXIES`.
    labels: integers `[N]`.
    dimension: of the embeddings.
    model: the model's name, for the message.

  Returns:
    One line, or an empty one if it may have a value.
  """
  return _UNDEFINED[name](labels, dimension, model) if name in _UNDEFINED else ''


def _refuse_undefined(name: str, evidence: Evidence) -> None:
  labels = evidence.classes[evidence.labels]
  if reason := undefined(name, labels, evidence.embeddings.shape[1], evidence.model):
    raise ValueError(reason)


def h_score(evidence: Evidence) -> float:
  """Returns the regularised H-score ([Ibrahim et al. 2021], "Newer is not always better").

  tr(Σ_a⁻¹ (1-a) Σ_means): Σ_a = (1-a) Σ + a tr(Σ)/D, a the shrinkage of Ledoit and Wolf, Σ_means the covariance of the class
  means, each weighted by its samples. Covariances are divided by N. Without shrinkage the score would be C-1 for every model
  with D >= N.
  """
  number, dimension = evidence.embeddings.shape
  variances = evidence.eigenvalues / number
  mean = variances.sum() / dimension
  shrinkage = _ledoit_wolf(variances, evidence.square_norms, dimension)
  between = evidence.counts @ np.square(evidence.class_means) / number
  shrunk = (1 - shrinkage) * variances + shrinkage * mean
  # Where the variance is 0 and nothing shrinks, the class means do not differ either.
  ratio = np.divide(between, shrunk, out=np.zeros_like(between), where=shrunk > 0)
  return float((1 - shrinkage) * ratio.sum())


def _ledoit_wolf(variances: np.ndarray, square_norms: np.ndarray, dimension: int) -> float:
  """The shrinkage that `sklearn.covariance.ledoit_wolf_shrinkage` finds, from eigenvalues and norms."""
  squares = np.square(variances).sum()
  spread = squares - variances.sum() ** 2 / dimension
  noise = (np.square(square_norms).mean() - squares) / len(square_norms)
  return float(min(noise / spread, 1)) if spread > 0 else 0.0


def leep(evidence: Evidence) -> float:
  """Returns LEEP ([Nguyen et al. 2020]): the mean log likelihood of the labels through the model's own upstream classes.

  (1/N) Σ_i log Σ_z P(y_i given z) θ_z(x_i), with θ the head's probabilities and P(y, z) their mean over the images of y.
  """
  return _leep(evidence, evidence.source)


def _leep(evidence: Evidence, source: np.ndarray) -> float:
  joint = evidence.class_sums(source)
  marginal = joint.sum(axis=0)
  # An upstream class without any probability contributes nothing.
  conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
  likelihood = np.einsum('nz,nz->n', conditional[evidence.labels], source)
  return float(np.log(likelihood).mean())


def nce(evidence: Evidence) -> float:
  """Returns the negative conditional entropy -H(Y given Z) ([Tran et al. 2019]), Z the head's most probable class."""
  best = evidence.source.argmax(axis=1)
  _, best = np.unique(best, return_inverse=True)
  joint = evidence.class_sums(np.eye(best.max() + 1)[best]) / len(best)
  conditional = joint / joint.sum(axis=0)
  return float(joint[joint > 0] @ np.log(conditional[joint > 0]))


def nleep(evidence: Evidence) -> float:
  """Returns N-LEEP ([Li et al. 2021], "Ranking Neural Checkpoints"): LEEP with a Gaussian mixture in the head's place.

  The mixture is of the principal coordinates that hold 80 % of the variance and has five components a class, but at most one
  for five images. Their covariances are diagonal: full ones have more parameters than 1,000 images can tell. Its random
  start is the same for every model.
  """
  shares = np.cumsum(evidence.eigenvalues) / evidence.eigenvalues.sum()
  coordinates = evidence.coordinates(int(np.searchsorted(shares, 0.8, side='right')) + 1)
  number = len(coordinates)
  components = max(2, min(5 * len(evidence.classes), number // 5))
  # The mixture's floor of the variance, 1e-6, is meant for data of unit scale.
  coordinates = coordinates / np.sqrt(np.square(coordinates).mean())
  model = mixture.GaussianMixture(components, covariance_type='diag', random_state=0)
  return _leep(evidence, model.fit(coordinates).predict_proba(coordinates))


def parc(evidence: Evidence) -> float:
  """Returns PARC ([Bolya et al. 2021]): Spearman's correlation, over pairs of images, of how far apart embeddings and labels are.

  Both distances are 1 - Pearson's correlation, of standardised embeddings (as the authors compute it) and of one-hot labels.
  The second has two values, one for pairs of a class and one for the others.

  Raises:
    ValueError: a single dimension, too many pairs, or all pairs alike.
  """
  _refuse_undefined('parc', evidence)
  deviation = np.sqrt(np.square(evidence.centred).mean(axis=0))
  rows = evidence.centred / np.where(deviation > 0, deviation, 1)
  rows -= rows.mean(axis=1, keepdims=True)
  norms = np.linalg.norm(rows, axis=1, keepdims=True)
  rows /= np.where(norms > 0, norms, 1)
  ranks = stats.rankdata(distance.squareform(-(rows @ rows.T), checks=False))
  apart = distance.pdist(evidence.labels[:, None], 'hamming')
  if np.ptp(ranks) == 0:
    raise ValueError(f'PARC: all pairs of embeddings of {evidence.model} are equally far apart')
  return float(np.corrcoef(ranks, apart)[0, 1])


def _parc_undefined(labels: np.ndarray, dimension: int, model: str) -> str:
  number = len(labels)
  if dimension < 2:
    return f'PARC correlates embeddings; those of {model} have one dimension'
  if number > _MOST_FOR_PAIRS:
    return f'PARC compares all pairs; {number} samples are too many, give at most {_MOST_FOR_PAIRS}'
  if len(np.unique(labels)) == number:
    return 'PARC compares pairs within a class with others; every class has one image'
  return ''


def transrate(evidence: Evidence) -> float:
  """Returns TransRate ([Huang et al. 2022]): R(Z) - Σ_c n_c/N R(Z_c), with R the coding rate.

  R(Z) = ½ log det(1 + ZᵀZ / (n ε)) of the n rows Z. Here Z is X scaled to a mean square norm of 1, as the authors' code does
  with the eigenvalues: else the score would measure the embeddings' scale. The distortion ε is 0.1: at the paper's 1e-4 the
  rates count dimensions where classes have fewer images than that, and better separated classes score lower.
  """
  number = len(evidence.labels)
  factor = number / evidence.eigenvalues.sum() / _DISTORTION
  whole = np.log1p(factor / number * evidence.eigenvalues).sum()
  classes = 0.0
  for index, count in enumerate(evidence.counts):
    gram = evidence.class_gram(index)
    rate = np.linalg.slogdet(np.eye(len(gram)) + factor / count * gram).logabsdet
    classes += count / number * rate
  return float((whole - classes) / 2)


def gbc(evidence: Evidence) -> float:
  """Returns GBC ([Pándy et al. 2022]): minus the sum of the Bhattacharyya coefficients of all ordered pairs of classes.

  Classes are spherical Gaussians in the first 64 principal coordinates, as in the authors' experiments.

  Raises:
    ValueError: a class has one image, or images of the same embedding, and so no variance.
  """
  _refuse_undefined('gbc', evidence)
  coordinates = evidence.coordinates(64)
  size = coordinates.shape[1]
  means = evidence.class_means[:, :size]
  variances = evidence.class_sums(np.square(coordinates - means[evidence.labels])).sum(axis=1)
  variances /= evidence.counts * size
  flat = variances <= 1e-12 * evidence.eigenvalues[0] / len(coordinates)
  if flat.any():
    index = int(np.argmax(flat))
    raise ValueError(_no_variance(evidence.classes[index], evidence.counts[index], evidence.model))
  pair = (variances[:, None] + variances) / 2
  apart = distance.cdist(means, means, 'sqeuclidean') / (8 * pair)
  apart += size / 2 * np.log(pair / np.sqrt(variances[:, None] * variances))
  np.fill_diagonal(apart, np.inf)
  return -float(np.exp(-apart).sum())


def _gbc_undefined(labels: np.ndarray, dimension: int, model: str) -> str:
  classes, counts = np.unique(labels, return_counts=True)
  index = int(np.argmin(counts))
  return '' if counts[index] > 1 else _no_variance(classes[index], 1, model)


def _no_variance(label: int, images: int, model: str) -> str:
  return (
    f'GBC needs the variance of each class; class {label} of {images} image(s) has none in {model}'
  )


def _logme_undefined(labels: np.ndarray, dimension: int, model: str) -> str:
  return logmes.undefined(len(labels), dimension, model)


_UNDEFINED = {'logme': _logme_undefined, 'parc': _parc_undefined, 'gbc': _gbc_undefined}

PROXIES: dict[str, Proxy] = {
  'h_score': h_score,
  'logme': logme,
  'leep': leep,
  'nce': nce,
  'nleep': nleep,
  'parc': parc,
  'transrate': transrate,
  'gbc': gbc,
}
