"""What the phases that train share: from a config's section and the members' data to trained parameters."""

import contextlib
import dataclasses
import functools
import json
import math
import operator
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from absl import logging

from experts.data import batches, transforms
from experts.data.dataset import Dataset
from experts.models import resnet
from experts.reporting.files import read as read_csv
from experts.reporting.files import write as write_csv
from experts.training import checkpoints, costs, evaluate, hosts, loop, optim, population, profile
from experts.training import mesh as meshes
from experts.training.board import Board
from experts.training.lines import Lines

if TYPE_CHECKING:
  import ml_collections

Tree = Any
Config: TypeAlias = 'ml_collections.ConfigDict'

COSTS = ('task', 'method', 'images', 'seconds')

# (mesh, streams of a round, their trained trees [P, …]) -> {metric: [P]} at the end.
Evaluate = Callable[[jax.sharding.Mesh, Sequence['Stream'], Tree], Mapping[str, np.ndarray]]

# Adapter experts share the backbone: up to that many at once make one large batch of it.
ADAPTERS_AT_ONCE = 8
# Members with kernels of their own in one evaluation program for a CPU.
_WRITTEN_OUT = 8


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


def write_json(path: str, content: Any) -> None:
  """Writes a file that appears under its name only when it is complete."""
  with open(f'{path}.tmp', 'w', encoding='utf-8') as file:
    json.dump(content, file, indent=2, ensure_ascii=False)
  os.replace(f'{path}.tmp', path)


def write_costs(workdir: str, method: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Enters in costs.csv what a way to a network for each task took, in place of what was known of it.

  Args:
    workdir: of the run.
    method: such as 'selection'.
    rows: task, images (every look at an image counts), seconds (not a number where unknown).
  """
  path = f'{workdir}/costs.csv'
  known = read_csv(path) if os.path.exists(path) else pd.DataFrame(columns=COSTS)
  fresh = pd.DataFrame([{'method': method, **row} for row in rows], columns=COSTS)
  others = known[known.method != method]
  write_csv(pd.concat([others, fresh]) if len(others) else fresh, path)


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
  config: Config,
  section: Config,
  names: Sequence[str],
  model: resnet.ResNet,
  objective: population.Objective,
  steps: int,
  settings: Sequence[Setting],
  members_at_once: int = 1,
  warmup: str = '',
) -> population.Population:
  """The population that a section of the config describes; see `train` for the arguments."""
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
    log_every=config.run.log_every,
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


def train(
  config: Config,
  section: Config,
  board: Board,
  run: str,
  streams: Sequence[Stream],
  model: resnet.ResNet,
  trained: Tree,
  frozen: Tree,
  objective: population.Objective,
  steps: int,
  members_at_once: int = 1,
  settings: Sequence[Setting] = (),
  warmup: str = '',
  folder: str = '',
  evaluate: Evaluate | None = None,
  keep: Callable[[int, Tree], None] | None = None,
  snapshot: Callable[[int, Tree], None] | None = None,
  snapshot_every: int = 0,
) -> None:
  """Trains one member for each stream, by the section's settings.

  All at the same time where memory allows, else in rounds.

  Args:
    config: the whole config.
    section: the fields of `experts.config.TRAINING`.
    board: TensorBoard.
    run: name of the run.
    streams: the members' data.
    model: the network, for its memory.
    trained: host arrays with a leading member axis.
    frozen: trees that do not train, without a member axis.
    objective: loss and accuracy of one member.
    steps: of every member, whatever the size of its data.
    members_at_once: most members that one `vmap` computes; see `population.Population`.
    settings: one a member; the section's for all if empty.
    warmup: a duration; the section's if empty.
    folder: where checkpoints and metric lines go. Without one the run keeps none, starts again after a crash, and takes
      a loss that diverges as a result.
    evaluate: see `Evaluate`.
    snapshot: called with the step and the first member's trees every `snapshot_every` steps, 0 for never, on that host.
    keep: called with each member's number and trained trees, on the host of the process that writes.
  """
  settings = settings or [setting(section)] * len(streams)
  needed = need(model, config.image.size, trained, frozen)
  rounds = _rounds(config, section, needed, len(streams), members_at_once, folder)
  for number, layout in enumerate(rounds, 1):
    part = slice(layout.start, layout.start + layout.members)
    several = f'/round-{number}' if len(rounds) > 1 else ''
    # A run that keeps nothing is one of hundreds.
    logging.log(logging.INFO if folder else logging.DEBUG, '%s%s: %s', run, several, layout.reason)
    described = describe(
      config,
      section,
      [stream.name for stream in streams[part]],
      model,
      objective,
      steps,
      settings[part],
      layout.at_once,
      warmup,
    )
    mesh = meshes.make(layout.groups, layout.shards)
    meshes.meet(mesh)
    state = _train_round(
      config,
      section,
      board,
      run,
      streams[part],
      [one.mixup for one in settings[part]],
      described,
      mesh,
      jax.tree.map(operator.itemgetter(part), trained),
      meshes.place(frozen, mesh, jax.sharding.PartitionSpec()),
      steps,
      f'{folder}{several}' if folder else '',
      functools.partial(evaluate, mesh, streams[part]) if evaluate else None,
      snapshot,
      snapshot_every,
    )
    if keep:
      for member in range(layout.members):
        tree = meshes.fetch_member(state.trained, member)
        if hosts.first():
          keep(layout.start + member, tree)
    # Else its memory would not be there for the next round.
    del state


@functools.cache
def _memory_limit() -> int:
  """Bytes of memory of the device that has the least, for all processes plan alike."""
  return min(hosts.gather(meshes.memory_limit(jax.local_devices()[0])))


def _rounds(config, section, needed, members, at_once, folder) -> list[meshes.Round]:
  """The rounds of a run; those of a run that was interrupted are the same on any number of devices."""
  devices = jax.device_count()
  limit = _memory_limit()
  path = f'{folder}/rounds.json'
  sizes = None
  if folder:
    if hosts.first() and os.path.exists(path):
      with open(path) as file:
        sizes = json.load(file)
    sizes = hosts.gather(sizes)[0]
  if sizes:
    rounds = [
      meshes.plan_whole(size, section.batch_size, devices, needed, limit, at_once) for size in sizes
    ]
    starts = np.cumsum([0, *sizes])
    return [dataclasses.replace(one, start=int(at)) for one, at in zip(rounds, starts)]
  # On a CPU the evaluation is written out for each member of a device, and takes as long to compile.
  most = _WRITTEN_OUT * at_once * devices if jax.default_backend() == 'cpu' else members
  rounds = [
    dataclasses.replace(one, start=start + one.start)
    for start in range(0, members, most)
    for one in meshes.plan(
      min(most, members - start),
      section.batch_size,
      devices,
      needed,
      limit,
      at_once,
      config.run.loop,
    )
  ]
  if folder and hosts.first():
    os.makedirs(folder, exist_ok=True)
    write_json(path, [one.members for one in rounds])
  return rounds


def _train_round(
  config, section, board, run, streams, mixups, described, mesh, trained, frozen, steps, folder,
  evaluate, snapshot, snapshot_every,
):  # fmt: skip
  mine, shard = meshes.share(mesh, len(streams))

  def source(start):
    return batches.train_batches(
      [
        batches.Member(stream.dataset, stream.indices, stream.seed, stream.order, mixup)
        for stream, mixup in zip(streams[mine], mixups[mine], strict=True)
      ],
      train_transform(config.image, section),
      section.batch_size,
      start_step=start,
      num_steps=steps - start,
      shard=shard,
      undecodable=config.image.undecodable,
    )

  with contextlib.ExitStack() as stack:
    records = loop.Records(board, run)
    if folder:
      if hosts.first():
        os.makedirs(folder, exist_ok=True)
      hosts.wait(f'{folder} is there')
      saved = checkpoints.Checkpoints(f'{folder}/checkpoints', config.run.keep_checkpoints)
      stack.callback(saved.close)
      records = loop.Records(
        board,
        run,
        Lines(f'{folder}/metrics.csv') if hosts.first() else None,
        saved,
        config.run.checkpoint_every,
        profile.parse(config.profile_steps),
        snapshot,
        snapshot_every,
      )
    return loop.train(
      described,
      mesh,
      population.create_state(described, mesh, trained),
      frozen,
      source,
      steps,
      records,
      evaluate=evaluate,
      may_diverge=not folder,
    )
