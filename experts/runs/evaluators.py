"""What networks get right of a data set."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experts.data import batches, transforms
from experts.data.dataset import Dataset
from experts.models.kinds import family_of
from experts.runs import objectives, views
from experts.runs.description import Config
from experts.training import evaluate
from experts.training import mesh as meshes

Tree = Any


def evaluator(
  config: Config,
  mesh: jax.sharding.Mesh,
  predict: evaluate.Predict,
  frozen: Tree,
  transform: transforms.Transform | None = None,
) -> Callable[[Tree, Dataset, np.ndarray], evaluate.Counts]:
  """(trained trees [P, …], data set, indices) -> what they got right; by default as upstream evaluates."""
  transform = transform or views.eval_transform(views.of_config(config.image))

  def count(trained, dataset, indices):
    measure = evaluate.make_evaluate(predict, mesh, dataset.num_classes)
    source = batches.eval_batches(
      dataset,
      indices,
      transform,
      evaluation_batch(config, mesh),
      shard=meshes.share(mesh, 1)[1],
      undecodable=config.image.undecodable,
    )
    return measure(trained, frozen, source)

  return count


def evaluation_batch(config: Config, mesh: jax.sharding.Mesh) -> int:
  """The images of one pass over a test set, rounded up to whole shards."""
  shards = mesh.shape['data']
  return -(-config.run.evaluation_batch // shards) * shards


def probabilities(
  network: Mapping[str, Any], params: dict, pixels: np.ndarray, batch_size: int
) -> np.ndarray:
  """Softmax [N, C] of a fine-tuned network for uint8 images [N, S, S, 3], on this process's first device."""
  program = _compiled(json.dumps(dict(network), sort_keys=True))
  parts = []
  for start in range(0, len(pixels), batch_size):
    part = pixels[start : start + batch_size]
    # One shape, one program.
    filled = np.pad(part, ((0, batch_size - len(part)), (0, 0), (0, 0), (0, 0)))
    parts.append(np.asarray(program(params, filled))[: len(part)])
  return np.concatenate(parts)


@functools.cache
def _compiled(network: str) -> Callable:
  described = json.loads(network)
  predict = objectives.predict(family_of(described).build(described))
  return jax.jit(lambda params, images: jax.nn.softmax(predict(params, images)))
