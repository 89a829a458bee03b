"""The models that a task may choose from, what is known of them, and the images that they are shown."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experts.data import batches, splits
from experts.data import hierarchy as hierarchies
from experts.models import fitting, ours
from experts.models.kinds import KINDS
from experts.models.network import own
from experts.runs import tasks, views
from experts.runs.description import Config
from experts.runs.streams import seed_of
from experts.selection import cache, embed, networks, pool


def pool_path(config: Config, workdir: str) -> str:
  """The pool that the config names, or the workdir's own, which experts make of it."""
  own = not config.pool or 'experts' in config.phases
  return f'{workdir}/pool.json' if own else os.path.expanduser(config.pool)


def labels_file(weights: str) -> str:
  """Where the names of the outputs of a baseline's head are, and the is-a graph over them."""
  return f'{os.path.splitext(weights)[0]}.labels.json'


class Candidates:
  """A pool's models that pass the config's filters."""

  def __init__(self, config: Config, workdir: str):
    """Reads the pool.

    Raises:
      FileNotFoundError: no pool.
      ValueError: it is damaged, no model passes the filters, or only controls do.
    """
    path, section = pool_path(config, workdir), config.select
    self.folder = os.path.dirname(path)
    self.settings = pool.read_model(path)
    known = pool.read(path)
    if self.settings:
      # What is no network ends all processes alike, before any data is read.
      cost = _gflops(self.settings)
      known = [
        dataclasses.replace(member, gflops=cost) if KINDS[member.kind].shared else member
        for member in known
      ]
    self.members = pool.filter(
      known,
      section.max_parameters,
      section.max_dimension,
      section.upstream,
      section.kinds,
      section.max_gflops,
      section.licences,
    )
    if not self.competing:
      kinds = ', '.join(sorted({member.role for member in self.members}))
      raise ValueError(
        f'pool {path}: the {len(self.members)} models that pass config.select are controls ({kinds}), which are compared '
        'with, but never chosen'
      )
    # Upstream data -> the hierarchy of its labels, in the order of the heads' outputs.
    self.labels = {}
    for member in self.members:
      file = os.path.join(self.folder, labels_file(member.weights))
      if member.kind == 'baseline' and os.path.exists(file):
        with open(file, encoding='utf-8') as source:
          written = json.load(source)
        self.labels[member.upstream] = hierarchies.from_edges(written['edges'], written['classes'])

  @property
  def competing(self) -> list[pool.Member]:
    """Those that may be chosen."""
    return [member for member in self.members if member.competes]

  def nothing(self) -> np.ndarray:
    """Scores [M] of which none is known."""
    return np.full(len(self.members), np.nan)

  def offers(self, workdir: str) -> set[str]:
    """What strategies may need that is there."""
    found, able = {'embeddings', 'labels'}, self.competing
    if any(m.imagenet_accuracy is not None or m.images for m in able):
      found.add('metadata')
    # A callable may give probabilities too: it turns out when it is called.
    if any(m.kind not in ('embeddings', 'saved_model') for m in able):
      found.add('head')
    if self.labels and any(m.labels for m in able):
      found.add('priors')
    if os.path.exists(f'{self.folder}/domain_predictor.json'):
      found.add('predictor')
    if os.path.exists(f'{workdir}/trials.csv'):
      found.add('trials')
    return found

  def mine(self) -> list[pool.Member]:
    """The share of this process, which is empty where there are fewer models than processes."""
    return networks.share(self.members, jax.process_count())[jax.process_index()]

  def leaves(self, member: pool.Member) -> int | None:
    """Outputs of a head that are classes; those of the nodes above them come behind."""
    tree = self.labels.get(member.upstream)
    return tree.num_leaves if tree and KINDS[member.kind].shared else None

  def embed(
    self,
    config: Config,
    models: Sequence[pool.Member],
    images: Sequence[embed.Images],
    kept: cache.Cache | None,
    with_logits: bool = False,
  ) -> Iterable[embed.Embedded]:
    return embed.embed_pool(
      models, self.folder, images, self.settings,
      config.run.evaluation_batch, kept, with_logits,
    )  # fmt: skip


def _gflops(settings: Mapping[str, Any]) -> float:
  """Of one image's embedding by a pool's own networks; adapters add little."""
  network = ours.build({**settings, 'dtype': 'float32'})
  return fitting.gflops(network, own(network.shapes(1)), settings['size'])


class Shown(NamedTuple):
  """What the models are shown of a task, to choose among them.

  Attributes:
    task: with the images that are shown as its training images.
    rows: which they are of all of the task's; None: all.
    whole: how many the task has.
  """

  task: splits.Task
  rows: np.ndarray | None
  whole: int


def show(config: Config, task: splits.Task) -> Shown:
  """All of a task's training images, or `config.select.images` of them, evenly at random ([EXP] App. C.1).

  Strategies that hold images out fit on four fifths of what is drawn, wherever the task's own validation images are.
  """
  number, whole = config.select.images, len(task.all)
  if not number or number >= whole:
    return Shown(task, None, whole)
  rng = np.random.default_rng(seed_of(config, 'select', task.name))
  rows = np.sort(rng.choice(whole, number, replace=False))
  taken, rows = tasks.take(task, rows, seed_of(config, 'hold out', task.name))
  return Shown(taken, rows, whole)


def images_of(shown: Shown, folder: str = '') -> embed.Images:
  """A task's images, decoded when a model wants them; between models they wait in `folder`, if given, else in memory."""
  task = shown.task

  def decode(view):
    pixels, at = np.empty((len(task.all), view.size, view.size, 3), np.uint8), 0
    transform = views.eval_transform(view)
    for part in batches.eval_batches(task.train, task.all, transform, min(len(task.all), 256)):
      found = part['image'][part['mask']]
      pixels[at : at + len(found)] = found
      at += len(found)
    return pixels

  known = task.train.identify()
  indices = hashlib.sha256(task.all.astype(np.int64)).hexdigest()
  return embed.Images(
    task.name,
    len(task.all),
    decode,
    known and f'{known} {indices}',
    shown.rows,
    shown.whole,
    folder,
  )


def open_cache(config: Config) -> cache.Cache | None:
  """Where embeddings are kept between runs, if anywhere."""
  folder = config.run.embedding_cache
  return cache.Cache(os.path.expanduser(folder)) if folder else None
