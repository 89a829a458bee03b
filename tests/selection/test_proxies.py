"""Proxies against the papers' formulas written out, their invariances, a pool of rising separation, faults by name."""

import numpy as np
import pytest
from scipy import linalg, optimize, special, stats
from scipy.linalg import lapack
from sklearn import covariance, decomposition, mixture

from experts.selection import logme
from experts.selection.evidence import Evidence
from experts.selection.proxies import PROXIES

_SHAPES = {'tall': (90, 12), 'wide': (40, 70)}
# LogME is refused for wide embeddings, see below.
_CASES = [
  (name, shape) for shape in _SHAPES for name in PROXIES if (name, shape) != ('logme', 'wide')
]


def _task(
  shape: str = 'tall', seed: int = 0, separation: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns embeddings [N, D], labels [N] of 4 classes of unlike sizes, source probabilities [N, 7]."""
  number, dimension = _SHAPES[shape]
  rng = np.random.default_rng(seed)
  labels = np.repeat([0, 1, 2, 3], [number // 2, number // 4, number // 5, number // 20])
  labels = np.r_[labels, np.zeros(number - len(labels), int)]
  rng.shuffle(labels)
  embeddings = rng.normal(size=(number, dimension)) * rng.uniform(0.2, 3, size=dimension)
  embeddings += separation * rng.normal(size=(4, dimension))[labels] + 2
  embeddings = embeddings.astype(np.float32)
  logits = embeddings @ rng.normal(size=(dimension, 7)) / dimension**0.5
  return embeddings, labels, special.softmax(logits.astype(np.float64), axis=1)


def _score(name: str, embeddings, labels, source=None) -> float:
  return PROXIES[name](Evidence(embeddings, labels, source))


def _h_score(embeddings, labels):
  number, dimension = embeddings.shape
  sigma = np.cov(embeddings, rowvar=False, bias=True)
  shrinkage = covariance.ledoit_wolf_shrinkage(embeddings)
  shrunk = (1 - shrinkage) * sigma + shrinkage * np.trace(sigma) / dimension * np.eye(dimension)
  means = np.stack([embeddings[labels == label].mean(axis=0) for label in labels])
  return np.trace(np.linalg.inv(shrunk) @ ((1 - shrinkage) * np.cov(means.T, bias=True)))


def _logme(embeddings, labels):
  """The evidence as what it is: the density of the labels, a Gaussian vector, at its best alpha and beta."""
  number = len(labels)
  products = embeddings @ embeddings.T
  total = 0
  for label in np.unique(labels):
    target = np.float64(labels == label)

    def loss(log, target=target):
      deviation = np.eye(number) / np.exp(log[1]) + products / np.exp(log[0])
      factor = linalg.cho_factor(deviation, lower=True)
      logs = np.log(2 * np.pi * np.diagonal(factor[0]) ** 2).sum()
      return (target @ linalg.cho_solve(factor, target) + logs) / 2

    options = {'xatol': 1e-7, 'fatol': 1e-11, 'maxiter': 2000}
    total -= optimize.minimize(loss, [0, 0], method='Nelder-Mead', options=options).fun
  return total / len(np.unique(labels)) / number


def _leep(source, labels):
  number, classes = source.shape
  total = 0
  for i in range(number):
    likelihood = 0
    for z in range(classes):
      joint = sum(source[j, z] for j in range(number) if labels[j] == labels[i]) / number
      likelihood += joint / (sum(source[:, z]) / number) * source[i, z]
    total += np.log(likelihood)
  return total / number


def _nce(source, labels):
  best = [int(np.argmax(row)) for row in source]
  total = 0
  for y in np.unique(labels):
    for z in set(best):
      both = np.mean([a == y and b == z for a, b in zip(labels, best)])
      if both:
        total += both * np.log(both / np.mean([b == z for b in best]))
  return total


def _nleep(embeddings, labels):
  coordinates = decomposition.PCA(0.8).fit_transform(embeddings)
  coordinates /= np.sqrt(np.mean(coordinates**2))
  components = min(5 * len(np.unique(labels)), len(labels) // 5)
  model = mixture.GaussianMixture(components, covariance_type='diag', random_state=0)
  return _leep(model.fit(coordinates).predict_proba(coordinates), labels)


def _parc(embeddings, labels):
  standard = (embeddings - embeddings.mean(axis=0)) / embeddings.std(axis=0)
  one_hot = np.float64(labels[:, None] == np.unique(labels))
  pairs = np.triu_indices(len(labels), 1)
  return stats.spearmanr(
    1 - np.corrcoef(standard)[pairs], np.round(1 - np.corrcoef(one_hot)[pairs], 9)
  )[0]


def _transrate(embeddings, labels):
  def rate(rows):
    rows = rows.T @ rows / (len(rows) * 0.1)
    return 0.5 * np.linalg.slogdet(np.eye(len(rows)) + rows)[1]

  centred = embeddings - embeddings.mean(axis=0)
  centred = centred / np.sqrt(np.mean(np.sum(centred**2, axis=1)))
  return rate(centred) - sum(
    np.mean(labels == label) * rate(centred[labels == label]) for label in np.unique(labels)
  )


def _gbc(embeddings, labels):
  size = min(64, *embeddings.shape)
  coordinates = decomposition.PCA(size).fit_transform(embeddings)
  gaussians = []
  for label in np.unique(labels):
    rows = coordinates[labels == label]
    gaussians.append((rows.mean(axis=0), rows.var(axis=0).mean() * np.eye(size)))
  total = 0
  for i, (mean, sigma) in enumerate(gaussians):
    for j, (other_mean, other_sigma) in enumerate(gaussians):
      if i != j:
        middle, gap = (sigma + other_sigma) / 2, mean - other_mean
        logs = [np.linalg.slogdet(each)[1] for each in (middle, sigma, other_sigma)]
        apart = gap @ np.linalg.inv(middle) @ gap / 8 + (logs[0] - (logs[1] + logs[2]) / 2) / 2
        total += np.exp(-apart)
  return -total


_REFERENCES = {
  'h_score': _h_score,
  'logme': _logme,
  'nleep': _nleep,
  'parc': _parc,
  'transrate': _transrate,
  'gbc': _gbc,
}


@pytest.mark.parametrize(('name', 'shape'), [each for each in _CASES if each[0] in _REFERENCES])
def test_equals_the_formula_written_out(name, shape):
  for seed, separation in enumerate((0.0, 0.5, 2.0)):
    embeddings, labels, _ = _task(shape, seed, separation)
    expected = _REFERENCES[name](embeddings.astype(np.float64), labels)
    # A mixture stops within a tolerance of its own.
    tolerance = 1e-6 if name != 'nleep' else 1e-4
    assert _score(name, embeddings, labels) == pytest.approx(expected, rel=tolerance, abs=1e-9)


@pytest.mark.parametrize(('name', 'reference'), [('leep', _leep), ('nce', _nce)])
def test_of_a_head_equals_the_formula_written_out(name, reference):
  for seed in range(3):
    embeddings, labels, source = _task(seed=seed)
    assert _score(name, embeddings, labels, source) == pytest.approx(
      reference(source, labels), rel=1e-12
    )


def test_perfect_and_useless_heads():
  labels = np.arange(40) % 4
  embeddings = np.random.default_rng(0).normal(size=(40, 3))
  for name in ('leep', 'nce'):
    # A third of the upstream classes is never predicted.
    assert _score(name, embeddings, labels, np.eye(6)[labels + 1]) == pytest.approx(0, abs=1e-12)
    useless = np.full((40, 6), 1 / 6)
    assert _score(name, embeddings, labels, useless) == pytest.approx(-np.log(4))


def _rotation(dimension: int) -> np.ndarray:
  return np.linalg.qr(np.random.default_rng(5).normal(size=(dimension, dimension)))[0]


@pytest.mark.parametrize(('name', 'shape'), _CASES)
def test_invariances(name, shape):
  embeddings, labels, source = _task(shape)
  embeddings = embeddings.astype(np.float64)
  same = {
    # A proxy that lets one class begin where another ended depends on their order.
    'classes renamed': (embeddings, np.array([40, -3, 7, 1])[labels], source),
    'scale': (embeddings / 1024, labels, source),
  }
  if name != 'parc':
    same['rotation'] = (embeddings @ _rotation(embeddings.shape[1]), labels, source)
  if name != 'logme':
    same['translation'] = (embeddings + 100, labels, source)
  if name != 'nleep':
    order = np.random.default_rng(3).permutation(len(labels))
    same['order'] = (embeddings[order], labels[order], source[order])
  score = _score(name, embeddings, labels, source)
  for what, arguments in same.items():
    assert _score(name, *arguments) == pytest.approx(score, rel=1e-7), what


@pytest.mark.parametrize(('name', 'shape'), _CASES)
def test_ranks_a_pool_of_rising_separation(name, shape):
  dimension, separations = {'tall': (24, (0, 0.4, 0.8, 1.6)), 'wide': (300, (0, 0.2, 0.3, 0.4))}[
    shape
  ]
  rng = np.random.default_rng(0)
  labels = np.arange(200) % 5
  means = rng.normal(size=(5, dimension))
  # Upstream classes each somewhere between those of the task.
  head = means.T @ rng.normal(size=(5, 12)) / dimension
  scores = []
  for separation in separations:
    embeddings = rng.normal(size=(200, dimension)) + separation * means[labels]
    source = np.exp(embeddings @ head)
    source /= source.sum(axis=1, keepdims=True)
    # The scale of a model's embeddings says nothing about it: here it falls as the separation rises.
    scores.append(_score(name, np.float32(embeddings / (1 + separation)), labels, source))
  assert (np.diff(scores) > 0).all(), scores


def test_logme_of_labels_fitted_exactly_and_not_at_all_is_finite():
  labels = np.arange(60) % 3
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(60, 5))
  # Orthogonal to all classes and to the constant, so that the best alpha is infinite.
  one_hot = np.eye(3)[labels]
  useless = noise - one_hot @ np.linalg.lstsq(one_hot, noise)[0]
  scores = [_score('logme', each, labels) for each in (useless, noise, one_hot)]
  assert np.isfinite(scores).all()
  assert scores == sorted(scores)
  # Without any weight on the embeddings: y ~ N(0, |y|²/N).
  assert scores[0] == pytest.approx(-0.5 * (np.log(2 * np.pi / 3) + 1), abs=1e-9)


@pytest.mark.parametrize('separation', [0.0, 1.0, 1e4])
def test_logme_of_repeated_dimensions_is_that_of_longer_ones(separation):
  # The evidence depends on the embeddings' inner products alone.
  embeddings, labels, _ = _task(separation=separation)
  score = _score('logme', embeddings.astype(np.float64) * 2, labels)
  assert _score('logme', np.tile(embeddings, 4), labels) == pytest.approx(score, rel=1e-8)


def test_logme_that_does_not_converge_says_so(caplog, monkeypatch):
  monkeypatch.setattr(logme, '_ITERATIONS', 2)
  embeddings, labels, _ = _task()
  PROXIES['logme'](Evidence(embeddings, labels, model='bird'))
  assert 'LogME of bird: alpha/beta of 4 of 4 classes still changes after 2' in caplog.text


def test_logme_survives_a_mean_much_longer_than_the_spread():
  embeddings, labels, _ = _task()
  exact = (embeddings / 64).astype(np.float64) + 4096
  score = _score('logme', exact, labels)
  # A column of ones spans the mean as well, and is far better conditioned: the two agree to the prior on one weight.
  with_ones = np.column_stack([exact - 4096, np.full(len(labels), 4096.0)])
  assert score == pytest.approx(_score('logme', with_ones, labels), abs=0.05)
  assert _score('logme', exact[:, ::-1], labels) == pytest.approx(score, rel=1e-8)


def test_proxies_share_one_decomposition(monkeypatch):
  calls = []
  reduce = lapack.dsytrd
  monkeypatch.setattr(
    lapack, 'dsytrd', lambda matrix, **kw: calls.append(matrix.shape) or reduce(matrix, **kw)
  )
  for shape, size in (('tall', 12), ('wide', 40)):
    calls.clear()
    evidence = Evidence(*_task(shape))
    for name in (name for name, its_shape in _CASES if its_shape == shape):
      PROXIES[name](evidence)
    assert calls == [(size, size)]


def test_dead_dimensions_and_duplicate_images_do_no_harm():
  embeddings, labels, source = _task()
  padded = np.zeros((len(labels), 15), np.float32)
  padded[:, :12] = embeddings
  padded[1], labels[1] = padded[0], labels[0]
  for name in ('logme', 'nleep', 'transrate'):
    assert _score(name, padded, labels) == pytest.approx(
      _score(name, padded[:, :12], labels), rel=1e-6
    )
  for name, proxy in PROXIES.items():
    assert np.isfinite(proxy(Evidence(padded, labels, source))), name


def _broken(what: str):
  embeddings, labels, source = _task()
  match what:
    case 'nan':
      embeddings[3, 2] = np.nan
    case 'constant':
      embeddings[:] = embeddings[0]
    case 'one class':
      labels[:] = 9
    case 'labels short':
      labels = labels[:-1]
    case 'labels not whole':
      labels = labels.astype(np.float32)
    case 'no matrix':
      embeddings = embeddings[None]
    case 'no head':
      source = None
    case 'logits':
      source = source.copy()
      source[4] = np.log(source[4])
    case 'negative':
      source = source.copy()
      source[5] = [1.5, -0.5, 0, 0, 0, 0, 0]
    case 'head nan':
      source[2, 1] = np.nan
    case 'head short':
      source = source[:-1]
    case 'single':
      labels = np.r_[labels[:-1], 77]
    case 'twins':
      labels = np.r_[labels[:-2], 77, 77]
      embeddings[-1] = embeddings[-2]
    case 'all single':
      labels = np.arange(len(labels))
    case 'wide':
      embeddings, labels, _ = _task('wide')
    case 'as wide':
      embeddings, labels = embeddings[:12], labels[:12]
    case 'one dimension':
      embeddings = embeddings[:, :1]
    case 'two dimensions rising':
      embeddings = np.tile(np.arange(len(labels), dtype=np.float32), (2, 1)).T
    case 'many':
      embeddings = np.zeros((5001, 2), np.float32)
      embeddings[0], labels = 1, np.arange(5001) % 2
  return embeddings, labels, source


@pytest.mark.parametrize(
  ('name', 'what', 'message'),
  [
    ('logme', 'nan', 'embeddings of bird are not finite'),
    ('h_score', 'constant', 'embeddings of bird are the same for all 90 samples'),
    ('parc', 'one class', r'at least 2 classes; all 90 samples have label \[9\]'),
    ('parc', 'labels short', r'90 embeddings of bird need 90 integer labels, not int64 \(89,\)'),
    ('parc', 'labels not whole', r'integer labels, not float32 \(90,\)'),
    ('gbc', 'no matrix', r'of bird must be \[samples, dimension\], not \(1, 90, 12\)'),
    ('leep', 'no head', 'bird has no upstream head'),
    ('nce', 'no head', 'bird has no upstream head'),
    ('leep', 'logits', 'source row 4 of bird holds no probabilities'),
    ('leep', 'negative', 'source row 5 of bird holds no probabilities'),
    ('nce', 'head nan', 'source row 2 of bird holds no probabilities'),
    ('nce', 'head short', r'source probabilities of bird must be \[90, classes\], not \(89, 7\)'),
    ('gbc', 'single', r'class 77 of 1 image\(s\) has none in bird'),
    ('gbc', 'twins', r'class 77 of 2 image\(s\) has none in bird'),
    ('parc', 'all single', 'every class has one image'),
    ('parc', 'one dimension', 'those of bird have one dimension'),
    ('parc', 'two dimensions rising', 'all pairs of embeddings of bird are equally far apart'),
    ('parc', 'many', '5001 samples are too many, give at most 5000'),
    ('logme', 'wide', 'not well-posed for bird: its dimension 70 is not below the 40 samples'),
    ('logme', 'as wide', 'dimension 12 is not below the 12 samples'),
  ],
)
def test_unusable_input_is_refused_in_one_line(name, what, message):
  with pytest.raises(ValueError, match=message) as error:
    PROXIES[name](Evidence(*_broken(what), model='bird'))
  assert '\n' not in str(error.value)


def test_plain_h_score_would_not_tell_wide_models_apart():
  scores, plain = [], []
  for separation in (0.0, 2.0):
    embeddings, labels, _ = _task('wide', separation=separation)
    scores.append(_score('h_score', embeddings, labels))
    means = np.stack([embeddings[labels == label].mean(axis=0) for label in labels])
    sigma = np.cov(embeddings, rowvar=False, bias=True)
    plain.append(np.trace(np.linalg.pinv(sigma, rcond=1e-6) @ np.cov(means.T, bias=True)))
  assert plain == pytest.approx([3, 3], rel=1e-3)
  assert scores[1] > 1.2 * scores[0]
