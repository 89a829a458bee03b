"""Whether an export computes what our network does."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experts.models import tuned
from experts.runs import evaluators


class Check(NamedTuple):
  """What was found when an export ran.

  Attributes:
    runtime: what ran it, in words.
    images: those that it was shown, in words.
    difference: the largest, of any class's probability of any image.
    tolerance: the largest that is allowed.
  """

  runtime: str
  images: str
  difference: float
  tolerance: float


def compare(module: Any, one: tuned.Tuned, folder: str, images: np.ndarray, said: str) -> Check:
  """Compares an export with our network, both in float32.

  Raises:
    ValueError: they differ.
  """
  # On an accelerator, too, which would round the factors of products.
  with jax.default_matmul_precision('highest'):
    expected = evaluators.probabilities({**one.network, 'dtype': 'float32'}, one.params, images, 16)
  found, runtime = module.run(folder, images)
  if found.shape != expected.shape:
    raise ValueError(
      f'the export is wrong: {runtime} gives probabilities {found.shape}, ours are {expected.shape}: nothing is written'
    )
  difference = float(np.abs(found - expected).max())
  # Not a number is none that is small enough.
  if not difference <= module.TOLERANCE:
    raise ValueError(
      f"the export is wrong: {runtime} gives probabilities that differ from our network's by {difference:.1e} on {said}, "
      f'more than {module.TOLERANCE:g}: nothing is written'
    )
  return Check(runtime, said, difference, module.TOLERANCE)
