"""What the phases share of a config: its files, seeds, models, objectives and populations."""

import dataclasses
import functools
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from experts.data import batches, transforms
from experts.data.dataset import Dataset
from experts.models import resnet
from experts.reporting import files
from experts.training import costs, evaluate, optim, population
from experts.training import mesh as meshes

if TYPE_CHECKING:
  import ml_collections

Tree = Any
Config: TypeAlias = 'ml_collections.ConfigDict'

COSTS = ('task', 'method', 'images', 'seconds')

# Adapter experts share the backbone: up to that many at once make one large batch of it.
ADAPTERS_AT_ONCE = 8


def adapters_at_once(platform: str | None = None) -> int:
  """Adapter experts that one `vmap` trains on this machine or the named platform.

  A CPU gains by the larger batch. On a TPU the products with a kernel for each expert cost more than that: 0.92 ms of a
  v3 core an image with two at once, 0.78 one after the other (estimates of its compiler, R50, 32 images each).
  """
  return ADAPTERS_AT_ONCE if (platform or jax.default_backend()) == 'cpu' else 1


class Setting(NamedTuple):
  """What members of one population may differ in, besides their data."""

  learning_rate: float  # for the whole batch
  weight_decay: float
  mixup: float


@dataclasses.dataclass(frozen=True)
class Stream:
  """The data of one member: the examples it sees, in which order, and the seed of that and of their augmentation."""

  name: str
  dataset: Dataset
  indices: np.ndarray
  seed: int
  order: batches.Order = batches.shuffled


def write_costs(workdir: str, method: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Enters in costs.csv what a way to a network for each task took, in place of what was known of it.

  Args:
    workdir: of the run.
    method: such as 'selection'.
    rows: task, images (every look at an image counts), seconds (not a number where unknown).
  """
  path = f'{workdir}/costs.csv'
  known = files.read(path) if os.path.exists(path) else pd.DataFrame(columns=COSTS)
  fresh = pd.DataFrame([{'method': method, **row} for row in rows], columns=COSTS)
  others = known[known.method != method]
  files.write(pd.concat([others, fresh]) if len(others) else fresh, path)


def seed_of(config: Config, *names: str) -> int:
  """A seed that depends on what it is for, never on the place in a list."""
  digests = [zlib.crc32(name.encode()) for name in names]
  return int(np.random.SeedSequence([config.seed, *digests]).generate_state(1)[0])


def make_model(settings: Mapping[str, Any], platform: str | None = None) -> resnet.ResNet:
  """The backbone that `config.model`, or a pool's 'model', describes; for this machine or the named platform."""
  dtype = settings['dtype']
  if dtype == 'auto':
    dtype = 'float32' if (platform or jax.default_backend()) == 'cpu' else 'bfloat16'
  return resnet.ResNet(
    depth=settings['depth'],
    width=settings['width'],
    root=settings['root'],
    dtype=jnp.dtype(dtype),
  )


def train_transform(image: Config, section: Config) -> transforms.Transform:
  """How a phase varies its images; a random crop is cut out of the resized image, an Inception one out of the whole."""
  resize = image.resize if section.crop == 'random' else 0
  return transforms.Transform(image.size, resize, section.crop, section.flip)


def eval_transform(size: int, resize: int) -> transforms.Transform:
  """Resize and central crop: upstream, and to embed for selection (EXP §6.1, App. C.1)."""
  return transforms.Transform(size, resize, 'central' if resize > size else 'none')


def task_transform(size: int) -> transforms.Transform:
  """Resize only: how the images of a task are evaluated, as it trains on the whole of them (EXP App. E.2, F.1)."""
  return transforms.Transform(size)


def multi_label(model: resnet.ResNet, table: np.ndarray, leaves: int) -> population.Objective:
  """Sigmoid cross-entropy against a label and all its ancestors (EXP §4).

  Args:
    model: the backbone.
    table: int32 [leaves, A], the nodes that are true of each label, padded with -1.
    leaves: labels in the data; accuracy compares these nodes only.
  """

  def targets(labels, classes):
    nodes = jnp.asarray(table)[labels]
    rows = jnp.arange(labels.shape[0])[:, None]
    # -1 would address the last node: send it past the end, where 'drop' ignores it.
    nodes = jnp.where(nodes < 0, classes, nodes)
    return jnp.zeros((labels.shape[0], classes)).at[rows, nodes].set(1.0, mode='drop')

  return _objective(
    model,
    lambda logits, truth: optax.sigmoid_binary_cross_entropy(logits, truth).sum(-1),
    targets,
    leaves,
  )


@functools.cache
def single_label(model: resnet.ResNet) -> population.Objective:
  """Softmax cross-entropy, for a task."""
  return _objective(
    model,
    optax.softmax_cross_entropy,
    lambda labels, classes: jax.nn.one_hot(labels, classes),
    None,
  )


def _objective(model, loss, targets, leaves):
  def objective(params, batch):
    logits, _ = resnet.forward(model, params, resnet.normalise(batch['image']))
    truth = targets(batch['label'], logits.shape[-1])
    if 'partner' in batch:
      weight = batch['weight'][:, None]
      truth = weight * truth + (1 - weight) * targets(batch['partner'], logits.shape[-1])
    accuracy = jnp.mean(logits[:, :leaves].argmax(-1) == batch['label'])
    return loss(logits, truth).mean(), {'accuracy': accuracy}

  return objective


@functools.cache
def predict(
  model: resnet.ResNet, leaves: int | None = None
) -> Callable[[Tree, jax.Array], jax.Array]:
  """(parameters, uint8 images) -> logits of the labels, without the ancestors' behind them."""

  def logits(params, images):
    return resnet.forward(model, params, resnet.normalise(images))[0][:, :leaves]

  return logits


def evaluator(
  config: Config,
  mesh: jax.sharding.Mesh,
  predict_fn: evaluate.Predict,
  frozen: Tree,
  transform: transforms.Transform | None = None,
) -> Callable[[Tree, Dataset, np.ndarray], evaluate.Counts]:
  """(trained trees [P, …], data set, indices) -> what they got right; by default as upstream evaluates."""
  transform = transform or eval_transform(config.image.size, config.image.resize)

  def count(trained, dataset, indices):
    measure = evaluate.make_evaluate(predict_fn, mesh, dataset.num_classes)
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


def describe(
  section: Config,
  names: Sequence[str],
  model: resnet.ResNet,
  objective: population.Objective,
  steps: int,
  settings: Sequence[Setting],
  members_at_once: int = 1,
  warmup: str = '',
) -> population.Population:
  """The population that a section of the config describes; see `rounds.Run` for the arguments."""
  return population.Population(
    names=names,
    objective=objective,
    learning_rate=[one.learning_rate for one in settings],
    weight_decay=[one.weight_decay for one in settings],
    schedule=optim.staircase(
      steps,
      optim.steps(warmup or section.warmup, section.batch_size, total_steps=steps),
      tuple(section.decay_at),
    ),
    momentum=section.momentum,
    members_at_once=members_at_once,
    gradient_dtype=model.dtype,
  )


def setting(section: Config) -> Setting:
  """The one of a section, for all its members."""
  rate = optim.scaled(section.learning_rate, section.batch_size)
  return Setting(rate, section.weight_decay, section.mixup)


def need(model: resnet.ResNet, size: int, trained: Tree, frozen: Tree) -> meshes.Need:
  """The device memory of members whose trees [P, …] train on images of this size."""
  one = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(trained)) * 4
  shared = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(frozen)) * 4
  # The momenta are as many as the parameters.
  return meshes.Need(
    member=2 * one,
    gradient=one,
    image=_image_bytes(model, size),
    shared=shared,
    input=3 * size**2,
  )


@functools.cache
def _image_bytes(model, size):
  params = jax.eval_shape(lambda: resnet.init(model, jax.random.key(0), 1))
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return costs.activation_bytes(lambda *args: resnet.forward(model, *args), params, images)
