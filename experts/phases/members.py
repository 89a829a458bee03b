"""What the phases that train share: from a config's section and the members' data to trained parameters."""

import contextlib
import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experts.data import batches, transforms
from experts.data.dataset import Dataset
from experts.models import resnet
from experts.training import checkpoints, loop, optim, population
from experts.training.board import Board
from experts.training.evaluate import make_evaluate
from experts.training.lines import Lines

Tree = Any
Config = ml_collections.ConfigDict


@dataclasses.dataclass(frozen=True)
class Stream:
  """The data of one member: the examples it sees, and the seed of their order and augmentation."""

  name: str
  dataset: Dataset
  indices: np.ndarray
  seed: int


def seed_of(config: Config, *names: str) -> int:
  """A seed that depends on what it is for, never on the place in a list."""
  digests = [zlib.crc32(name.encode()) for name in names]
  return int(np.random.SeedSequence([config.seed, *digests]).generate_state(1)[0])


def make_model(settings: Mapping[str, Any]) -> resnet.ResNet:
  """The backbone that `config.model`, or a pool's 'model', describes."""
  dtype = settings['dtype']
  if dtype == 'auto':
    dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
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
  """Resize and central crop (EXP §6.1)."""
  return transforms.Transform(size, resize, 'central' if resize > size else 'none')


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
  predict_fn: Callable[[Tree, jax.Array], jax.Array],
  frozen: Tree,
) -> Callable[[Tree, Dataset, np.ndarray], np.ndarray]:
  """(trained trees [P, …], data set, indices) -> accuracy [P] under central crops."""
  measure = make_evaluate(predict_fn, mesh)
  shards = mesh.shape['data']
  batch_size = -(-config.run.evaluation_batch // shards) * shards

  def evaluate(trained, dataset, indices):
    source = batches.eval_batches(
      dataset,
      indices,
      eval_transform(config.image.size, config.image.resize),
      batch_size,
      undecodable=config.image.undecodable,
    )
    return measure(trained, frozen, source)

  return evaluate


def train(
  config: Config,
  section: Config,
  board: Board,
  run: str,
  streams: Sequence[Stream],
  trained: Tree,
  frozen: Tree,
  objective: population.Objective,
  steps: int,
  members_at_once: int = 1,
  learning_rates: Sequence[float] = (),
  folder: str = '',
  evaluate: Callable[[jax.sharding.Mesh, Tree], Mapping[str, np.ndarray]] | None = None,
) -> population.State:
  """Trains one member for each stream, by the section's settings.

  Args:
    config: the whole config.
    section: the fields of `experts.config.TRAINING`.
    board: TensorBoard.
    run: name of the run.
    streams: the members' data.
    trained: host arrays with a leading member axis.
    frozen: trees that do not train, without a member axis.
    objective: loss and accuracy of one member.
    steps: of every member, whatever the size of its data.
    members_at_once: see `population.Population`.
    learning_rates: one a member, for a batch of 256; the section's for all if empty.
    folder: where checkpoints and metric lines go. Without one the run keeps none, starts again after a crash, and takes
      a loss that diverges as a result.
    evaluate: (mesh, trained trees) -> metrics at the end.
  """
  members = len(streams)
  rates = learning_rates or [section.learning_rate] * members
  members_population = population.Population(
    names=[stream.name for stream in streams],
    objective=objective,
    learning_rate=[optim.scaled(rate, section.batch_size) for rate in rates],
    weight_decay=[section.weight_decay] * members,
    schedule=optim.staircase(
      steps,
      optim.steps(section.warmup, section.batch_size, total_steps=steps),
      tuple(section.decay_at),
    ),
    momentum=section.momentum,
    members_at_once=members_at_once,
    log_every=config.run.log_every,
  )
  mesh = population.make_mesh(members, section.batch_size)
  state = population.create_state(members_population, mesh, trained)
  frozen = jax.device_put(frozen, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))

  def source(start):
    return batches.train_batches(
      [batches.Member(stream.dataset, stream.indices, stream.seed) for stream in streams],
      train_transform(config.image, section),
      section.batch_size,
      start_step=start,
      num_steps=steps - start,
      mixup=section.mixup,
      undecodable=config.image.undecodable,
    )

  with contextlib.ExitStack() as stack:
    records = loop.Records(board, run)
    if folder:
      os.makedirs(folder, exist_ok=True)
      saved = checkpoints.Checkpoints(f'{folder}/checkpoints', config.run.keep_checkpoints)
      stack.callback(saved.close)
      lines = Lines(f'{folder}/metrics.csv')
      records = loop.Records(board, run, lines, saved, config.run.checkpoint_every)
    return loop.train(
      members_population,
      mesh,
      state,
      frozen,
      source,
      steps,
      records,
      evaluate=functools.partial(evaluate, mesh) if evaluate else None,
      may_diverge=not folder,
    )


def unstack(trained: Tree, member: int) -> Tree:
  """One member's trees, on the host."""
  return jax.tree.map(lambda leaf: np.asarray(leaf[member]), trained)
