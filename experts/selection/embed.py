"""Embeddings of a whole pool, model by model; memory does not grow with the pool."""

import dataclasses
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from experts.devices import make_mesh
from experts.models import kinds, network
from experts.selection import ahead, cache, networks, pool

# Of weights that are read ahead; the next unit's are in any case.
_AHEAD_BYTES = 2**30


class Images:
  """A task's images, decoded only when a model that is not cached wants them.

  Attributes:
    name: the task's.
    count: their number N.
  """

  def __init__(
    self,
    name: str,
    count: int,
    decode: Callable[[network.View], np.ndarray],
    fingerprint: str = '',
    rows: np.ndarray | None = None,
    whole: int = 0,
    folder: str = '',
  ):
    """Describes images.

    Args:
      name: of the task; precomputed embeddings are found by it.
      count: how many.
      decode: a network's view -> uint8 [N, size, size, 3], as it wants to see the images.
      fingerprint: of the data source and the images' indices: another one for other images. Without it they are told
        apart by their pixels, and so decoded even if every model is cached.
      rows: where they are among all images of the task, which tables of embeddings hold; None: they are all of them.
      whole: with `rows`, how many the task has.
      folder: where decoded images wait on disk for the next model, so that memory holds those of one task; empty: they
        wait in memory.
    """
    self.name, self.count = name, count
    self.rows, self.whole = rows, whole or count
    self._decode, self._fingerprint, self._folder = decode, fingerprint, folder
    self._held = {}

  def pixels(self, view: network.View) -> np.ndarray:
    """uint8 [N, size, size, 3]; those of the last view are held."""
    if view not in self._held:
      self._held = {}
      pixels = self._decode(view)
      expected = self.count, view.size, view.size, 3
      if pixels.shape != expected or pixels.dtype != np.uint8:
        raise ValueError(
          f'images of {self.name!r} are {pixels.dtype} {pixels.shape}, not uint8 {expected}'
        )
      self._held[view] = self._keep(pixels) if self._folder else pixels
    return self._held[view]

  def _keep(self, pixels: np.ndarray) -> np.ndarray:
    """The same, in a file; a file of before is another one, which may still be read."""
    with tempfile.NamedTemporaryFile(dir=self._folder) as file:
      np.save(file, pixels)
      file.flush()
      return np.load(file.name, mmap_mode='r')

  def identity(self, view: network.View) -> str:
    """Equal for equal images."""
    if self._fingerprint:
      return f'{self._fingerprint} {self.count}'
    return hashlib.sha256(np.ascontiguousarray(self.pixels(view))).hexdigest()

  def take(self, indices: np.ndarray) -> 'Images':
    """Some of the images, in this order; these and all of them are decoded once."""
    indices = np.asarray(indices)
    known = (
      f'{self._fingerprint} {self.count} {hashlib.sha256(indices.astype(np.int64)).hexdigest()}'
    )
    return Images(
      self.name,
      len(indices),
      lambda view: self.pixels(view)[indices],
      known if self._fingerprint else '',
      indices if self.rows is None else self.rows[indices],
      self.whole,
    )


@dataclasses.dataclass(frozen=True)
class Embedded:
  """What the models of a unit make of a task's images.

  Attributes:
    members: E models whose embeddings are of one dimension.
    images: the task's.
    embeddings: float32 [E, N, D].
    logits: float32 [N, C] of each model over its upstream classes; None of one without a head, or if not asked for. Our
      own networks' are of their leaf classes first and then of the nodes above.
    unfit: of each model, why its embeddings tell nothing of the images: not finite, or all the same; else empty.
  """

  members: list[pool.Member]
  images: Images
  embeddings: np.ndarray
  logits: list[np.ndarray | None]
  unfit: list[str]

  def sound(self) -> 'Embedded':
    """The same of those models alone whose embeddings tell something; there may be none."""
    if not any(self.unfit):
      return self
    left = [i for i, why in enumerate(self.unfit) if not why]
    part = lambda values: [values[i] for i in left]
    return Embedded(
      part(self.members), self.images, self.embeddings[left], part(self.logits), part(self.unfit)
    )

  def source(self, model: int, leaves: int | None = None) -> np.ndarray | None:
    """Probabilities [N, C] of a model's upstream classes, its softmax over the first `leaves` of them."""
    if self.logits[model] is None:
      return None
    return np.asarray(jax.nn.softmax(self.logits[model][:, :leaves]))


def embed_pool(
  members: Sequence[pool.Member],
  folder: str,
  tasks: Sequence[Images],
  settings: Mapping[str, Any],
  batch_size: int,
  kept: cache.Cache | None = None,
  with_logits: bool = False,
) -> Iterator[Embedded]:
  """Embeds the images of every task with every model: model outer, task inner.

  Networks are spread over this process's devices. While a unit of models computes, a thread, or for accelerators
  several, read the weights of the next ones and copy them to the devices.

  Args:
    members: this process's share of the pool.
    folder: of the pool file.
    tasks: images.
    settings: the pool's 'model'.
    batch_size: most images of one pass.
    kept: where embeddings are looked up, and kept. Where all of a model's are there, neither its weights nor images are
      read.
    with_logits: whether to give the logits, too; see `Embedded`.

  Yields:
    Units of models by task; of a unit all tasks in turn; of the models that take images of one size the cached ones
    first.

  Raises:
    FileNotFoundError: missing weights.
    ValueError: weights that differ from the pool's hash, a model that fails, or whose embeddings have a wrong shape;
      one line that names the model.
  """
  by_view = {}
  for member in members:
    by_view.setdefault(preprocessing(member, settings), []).append(member)
  for view, part in by_view.items():
    run = _Run(folder, view, settings, batch_size, kept, with_logits)
    yield from run.embed(part, tasks)
  if kept:
    logging.info(
      'cache: %d embeddings read, %d written (%.1f MB, float32)',
      kept.found, kept.written, kept.bytes / 1e6,
    )  # fmt: skip


def preprocessing(member: pool.Member, settings: Mapping[str, Any]) -> network.View:
  """How a model wants to see images; of size 0 if it takes none."""
  if member.kind == 'embeddings':
    return network.View(0)
  # A pool's own networks were all shown images alike.
  said = dict(settings) if member.size is None else dataclasses.asdict(member)
  view = network.View(**{name: said[name] for name in network.View._fields if name in said})
  view = view._replace(resize=view.resize or 0)
  return view if view.cropped else view._replace(resize=0)


@dataclasses.dataclass(frozen=True)
class _Loaded:
  """A unit's models: images -> embeddings [E, N, D] and what logits come with them, and their heads on the host."""

  embed: Callable[[Images], tuple[np.ndarray, list[np.ndarray | None]]]
  heads: list[Any]


@dataclasses.dataclass(frozen=True)
class _Run:
  """Embeds with models that take images of one size.

  Attributes:
    placed: {task: its images on the devices}, where they lie for all models.
  """

  folder: str
  view: network.View
  settings: Mapping[str, Any]
  batch_size: int
  kept: cache.Cache | None
  with_logits: bool
  placed: dict[Images, list[jax.Array]] = dataclasses.field(default_factory=dict)

  def embed(self, members: list[pool.Member], tasks: Sequence[Images]) -> Iterator[Embedded]:
    keys = self._keys(members, tasks)
    keys_of = lambda unit, i: [keys[member.name][i] for member in unit]
    wanted = 'logits' if self.with_logits else 'embeddings'
    cached = [m for m in members if all(k and self.kept.has(k, wanted) for k in keys[m.name])]
    names = {member.name for member in cached}
    fresh = [member for member in members if member.name not in names]
    number = jax.local_device_count()
    for unit in networks.units(cached, number):
      # Only where an entry turns out to be damaged.
      load = functools.cache(functools.partial(self._load, unit))
      for i, task in enumerate(tasks):
        yield self._of_task(unit[0], task, keys_of(unit[0], i), load)
    computed = self._compute(networks.units(fresh, number), tasks, keys_of)
    # On a CPU it would take from what is done with the embeddings.
    yield from computed if jax.default_backend() == 'cpu' else ahead.one_ahead(computed)

  def _compute(self, units, tasks, keys_of) -> Iterator[Embedded]:
    for unit, loaded in ahead.read_ahead(self._load, units, _readers(units)):
      for i, task in enumerate(tasks):
        yield self._of_task(unit[0], task, keys_of(unit[0], i), lambda loaded=loaded: loaded)
      # Before a thread goes on: of the weights, at most this unit's and those read ahead are there.
      del loaded

  def _keys(self, members, tasks) -> dict[str, list[str | None]]:
    """The cache's names of each member's embeddings of the tasks; none for what is not kept."""
    contents = {member.name: self._content(member) for member in members}
    if not any(contents.values()):
      return {name: [None] * len(tasks) for name in contents}
    images = [task.identity(self.view) for task in tasks]
    # The usual way to resize is not named, as it was not when there was no other.
    size, resize, *how = self.view
    how = how if how != [*network.View(0)[2:]] else []
    return {
      name: [content and cache.key(*content, size, resize, *how, one) for one in images]
      for name, content in contents.items()
    }

  def _content(self, member) -> tuple | None:
    """What a member computes its embeddings with; None if that is not known, or needs no cache."""
    if not self.kept or not member.hash:
      return None
    if not kinds.KINDS[member.kind].trains:
      return kinds.KINDS[member.kind].family.identity(member)
    if networks.is_bank(member) and not member.trained_from:
      return None
    backbone = member.trained_from if networks.is_bank(member) else ''
    dtype = network.compute_dtype(self.settings.get('dtype', 'auto'))
    return 'network', member.hash, backbone, jnp.dtype(dtype).name

  def _load(self, unit: tuple[list[pool.Member], int]) -> _Loaded:
    members, groups = unit
    first = members[0]
    kind = kinds.KINDS[first.kind]
    if not kind.trains:
      compute = kind.family.load(first, self.folder, self.batch_size)

      def by_itself(task):
        embeddings, logits = compute(task, self.view)
        return embeddings[None], [logits]

      return _Loaded(by_itself, [None])
    mesh = make_mesh(groups, jax.local_devices())
    one, params, heads = networks.load_unit(members, self.folder, mesh, self.settings)

    def by_network(task):
      images = self._place(task, mesh)
      return networks.embed(one, mesh, params, images, task.count), [None] * len(members)

    return _Loaded(by_network, heads if self.with_logits else [])

  def _place(self, task: Images, mesh: jax.sharding.Mesh) -> Iterable[jax.Array]:
    """A task's images on the devices: copied once for all models that find them there, if there is room."""
    held = self.placed.get(task)
    if held and held[0].sharding.mesh == mesh:
      return held
    self.placed.pop(task, None)
    batches = networks.batches(mesh, task.pixels(self.view), self.batch_size)
    each = self.view.size**2 * 3 / mesh.shape['data']
    if (sum(one.count for one in self.placed) + task.count) * each > _room():
      return batches
    self.placed[task] = list(batches)
    return self.placed[task]

  def _of_task(self, members, task, keys, load) -> Embedded:
    entries = [self.kept.read(key) if key else None for key in keys]
    before = [set(entry or ()) for entry in entries]
    fresh, unfit = all(entry is None for entry in entries), [''] * len(members)
    if None in entries:
      embeddings, logits = load().embed(task)
      found = [_check(*each, task) for each in zip(members, embeddings)]
      # What is cached was found sound before.
      unfit = [why if entry is None else '' for entry, why in zip(entries, found)]
      computed = [
        {'embeddings': own} | ({} if scores is None else {'logits': scores})
        for own, scores in zip(embeddings, logits)
      ]
      entries = [new if entry is None else entry for entry, new in zip(entries, computed)]
    if self.with_logits and not all('logits' in entry for entry in entries):
      for entry, head in zip(entries, load().heads):
        entry.setdefault('logits', _logits(entry['embeddings'], head))
    for key, entry, known, why in zip(keys, entries, before, unfit):
      if key and not why and set(entry) != known:
        self.kept.write(key, entry)
    logits = [entry.get('logits') if self.with_logits else None for entry in entries]
    return Embedded(
      members,
      task,
      # Those that were just computed are one array, and not copied.
      embeddings if fresh else np.stack([entry['embeddings'] for entry in entries]),
      [None if scores is None or not scores.size else scores for scores in logits],
      unfit,
    )


def _room() -> float:
  """Bytes of a device that a search's images may take; none on a CPU, which has them anyway."""
  stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != 'cpu' else None
  return stats['bytes_limit'] / 8 if stats and 'bytes_limit' in stats else 0


def _readers(units: Sequence[tuple[list[pool.Member], int]]) -> int:
  """How many units are read at a time.

  An accelerator computes faster than one thread reads and checks: a hundred megabytes take a quarter of a second. On a
  CPU reading takes from computing.
  """
  if jax.default_backend() == 'cpu' or not units:
    return 1
  # Those of a bank have their backbone in common.
  counted = [members[: 1 if networks.is_bank(members[0]) else None] for members, _ in units]
  if not all(member.parameters for members in counted for member in members):
    return 1
  largest = max(4 * sum(member.parameters for member in members) for members in counted)
  return max(1, min(_AHEAD_BYTES // largest, (os.cpu_count() or 1) // 2))


def _logits(embeddings: np.ndarray, head: Mapping[str, np.ndarray] | None) -> np.ndarray:
  """[N, C]; C = 0 says in the cache that there is no head."""
  if head is None:
    return np.zeros((len(embeddings), 0), np.float32)
  return np.asarray(_scores(embeddings, head['kernel'], head['bias']))


@jax.jit
def _scores(embeddings, kernel, bias):
  return jnp.matmul(embeddings, kernel, precision=jax.lax.Precision.HIGHEST) + bias


def _check(member: pool.Member, own: np.ndarray, task: Images) -> str:
  """Why embeddings of the right shape tell nothing; empty where they may."""
  label = f'model {member.name!r} on the images of {task.name!r}'
  if own.shape != (task.count, member.dimension):
    raise ValueError(
      f'{label}: embeddings have shape {own.shape}; {task.count} images and the pool file make it '
      f'({task.count}, {member.dimension})'
    )
  # Of a sum first, which takes no time from the device that waits: an infinite one may have finite parts.
  with np.errstate(over='ignore', invalid='ignore'):
    total = own.sum()
  bad = 0 if np.isfinite(total) else int(np.sum(~np.isfinite(own).all(axis=1)))
  if bad:
    return f'{label}: {bad} of {task.count} embeddings are not finite; check its weights and its input range'
  if task.count > 1 and (own[-1] == own[0]).all() and (own == own[0]).all():
    return f'{label}: all embeddings are the same; check its weights and its input range'
  return ''
