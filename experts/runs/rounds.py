"""Trains what a phase describes: all its members at the same time where memory allows, else in rounds."""

import contextlib
import dataclasses
import functools
import json
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from experts.data import batches
from experts.models import resnet
from experts.reporting import files
from experts.runs import description, views
from experts.runs.description import Config
from experts.runs.streams import Stream
from experts.training import cadence, checkpoints, hosts, loop, population, profile
from experts.training import mesh as meshes
from experts.training.board import Board
from experts.training.lines import Lines

Tree = Any
# (mesh, streams of a round, their trained trees [P, …]) -> {metric: [P]} at the end.
Evaluate = Callable[[jax.sharding.Mesh, Sequence[Stream], Tree], Mapping[str, np.ndarray]]

# Members with kernels of their own in one evaluation program for a CPU.
_WRITTEN_OUT = 8


@dataclasses.dataclass(frozen=True)
class Run:
  """What a phase trains: one member for each stream, by the settings of a section of the config.

  Attributes:
    name: of the run.
    section: the fields of `experts.config.TRAINING`.
    streams: the members' data.
    model: the network, for its memory.
    trained: host arrays with a leading member axis.
    frozen: trees that do not train, without a member axis.
    objective: loss and accuracy of one member.
    steps: of every member, whatever the size of its data.
    folder: where checkpoints and metric lines go.
    passing: whether nobody reads the folder but the run that goes on from it: it is then made only if the run is long,
      and without metric lines. Whoever started the run removes it.
    members_at_once: most members that one `vmap` computes; see `population.Population`.
    settings: one a member; the section's for all if empty.
    warmup: a duration; the section's if empty.
    evaluate: see `Evaluate`. Not called of a round all of whose members have diverged.
    keep: called with each member's number and trained trees, on the host of the process that writes; not of those that
      diverged.
    snapshot: called with the step and the first member's trees every `snapshot_every` steps, 0 for never, on that host.
  """

  name: str
  section: Config
  streams: Sequence[Stream]
  model: resnet.ResNet
  trained: Tree
  frozen: Tree
  objective: population.Objective
  steps: int
  folder: str
  passing: bool = False
  members_at_once: int = 1
  settings: Sequence[description.Setting] = ()
  warmup: str = ''
  evaluate: Evaluate | None = None
  keep: Callable[[int, Tree], None] | None = None
  snapshot: Callable[[int, Tree], None] | None = None
  snapshot_every: int = 0


def train(config: Config, board: Board, run: Run) -> np.ndarray:
  """Trains the members of a run.

  Returns:
    The step at which each member diverged, or -1, int [P].

  Raises:
    loop.Diverged: all have, unless the run is a passing one, of which that is a result.
  """
  run = dataclasses.replace(
    run, settings=run.settings or [description.setting(run.section)] * len(run.streams)
  )
  layouts, remember = _plan(config, run)
  diverged = []
  for number, layout in enumerate(layouts, 1):
    several = f'/round-{number}' if len(layouts) > 1 else ''
    # A passing run is one of hundreds.
    level = logging.DEBUG if run.passing else logging.INFO
    logging.log(level, '%s%s: %s', run.name, several, layout.reason)
    part = _part(run, layout, several)
    mesh = meshes.make(layout.groups, layout.shards)
    meshes.meet(mesh)
    described = description.describe(
      part.section,
      [stream.name for stream in part.streams],
      part.model,
      part.objective,
      part.steps,
      part.settings,
      layout.at_once,
      part.warmup,
    )
    try:
      state = _train_round(config, board, part, described, mesh, len(layouts), remember)
    except loop.Diverged as error:
      if len(layouts) == 1 and not run.passing:
        raise
      logging.warning('%s%s: all %d members have diverged', run.name, several, layout.members)
      diverged += [*error.steps]
      continue
    steps = meshes.fetch(state.bad_step)
    diverged += [*steps]
    if run.keep:
      _keep(run, layout.start, state, steps)
    # Else its memory would not be there for the next round.
    del state
  if min(diverged) >= 0 and not run.passing:
    raise loop.Diverged(run.name, [stream.name for stream in run.streams], np.array(diverged))
  return np.array(diverged)


def _part(run: Run, layout: meshes.Round, several: str) -> Run:
  """The members of one round."""
  part = slice(layout.start, layout.start + layout.members)
  return dataclasses.replace(
    run,
    streams=run.streams[part],
    settings=run.settings[part],
    trained=jax.tree.map(operator.itemgetter(part), run.trained),
    folder=f'{run.folder}{several}',
  )


def _keep(run, start, state, diverged):
  for number in np.flatnonzero(diverged < 0):
    tree = meshes.fetch_member(state.trained, int(number))
    if hosts.first():
      run.keep(start + int(number), tree)


@functools.cache
def _memory_limit() -> int:
  """Bytes of memory of the device that has the least, for all processes plan alike."""
  return min(hosts.gather(meshes.memory_limit(jax.local_devices()[0])))


def _plan(config, run) -> tuple[list[meshes.Round], Callable[[], None]]:
  """The rounds of a run, those of one that was interrupted as they were then; and what writes them down."""
  section, number, at_once = run.section, len(run.streams), run.members_at_once
  needed = description.need(run.model, config.image.size, run.trained, run.frozen)
  devices = jax.device_count()
  limit = _memory_limit()
  path = f'{run.folder}/rounds.json'
  sizes = None
  if hosts.first() and os.path.exists(path):
    with open(path) as file:
      sizes = json.load(file)
  # On any number of devices: checkpoints are of whole rounds.
  if sizes := hosts.from_first(sizes):
    layouts = [
      meshes.plan_whole(size, section.batch_size, devices, needed, limit, at_once) for size in sizes
    ]
    starts = np.cumsum([0, *sizes])
    return [
      dataclasses.replace(one, start=int(at)) for one, at in zip(layouts, starts)
    ], lambda: None
  # On a CPU the evaluation is written out for each member of a device, and takes as long to compile.
  most = _WRITTEN_OUT * at_once * devices if jax.default_backend() == 'cpu' else number
  layouts = [
    dataclasses.replace(one, start=start + one.start)
    for start in range(0, number, most)
    for one in meshes.plan(
      min(most, number - start),
      section.batch_size,
      devices,
      needed,
      limit,
      at_once,
      config.run.loop,
    )
  ]

  def remember():
    if hosts.first():
      os.makedirs(run.folder, exist_ok=True)
      files.write_json([one.members for one in layouts], path)

  if run.passing:
    return layouts, remember
  remember()
  return layouts, lambda: None


def _train_round(config, board, part, described, mesh, rounds, remember) -> population.State:
  """Trains the members of one round; `remember` is called before its first checkpoint."""
  if not part.passing:
    if hosts.first():
      os.makedirs(part.folder, exist_ok=True)
    hosts.wait(f'{part.folder} is there')
  with contextlib.ExitStack() as stack:
    saved = checkpoints.Checkpoints(
      f'{part.folder}/checkpoints', config.run.keep_checkpoints, remember
    )
    stack.callback(saved.close)
    lines = hosts.first() and not part.passing
    records = loop.Records(
      board,
      part.name,
      cadence.parse(config.run.log_every),
      cadence.parse(config.run.checkpoint_every),
      Lines(f'{part.folder}/metrics.csv') if lines else None,
      saved,
      part.passing,
      rounds,
      profile.NONE if part.passing else profile.parse(config.profile_steps),
      part.snapshot,
      part.snapshot_every,
    )
    return loop.train(
      described,
      mesh,
      part.trained,
      meshes.place(part.frozen, mesh, jax.sharding.PartitionSpec()),
      functools.partial(_batches, config, part, mesh),
      part.steps,
      records,
      functools.partial(part.evaluate, mesh, part.streams) if part.evaluate else None,
    )


def _batches(config, part, mesh, start) -> batches.Batches:
  """This process's share of the batches from a step on."""
  mine, shard = meshes.share(mesh, len(part.streams))
  return batches.train_batches(
    [
      batches.Member(stream.dataset, stream.indices, stream.seed, stream.order, one.mixup)
      for stream, one in zip(part.streams[mine], part.settings[mine], strict=True)
    ],
    views.train_transform(config.image, part.section),
    part.section.batch_size,
    start_step=start,
    num_steps=part.steps - start,
    shard=shard,
    undecodable=config.image.undecodable,
  )
