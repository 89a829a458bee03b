"""Trains what a phase describes: all its members at the same time where memory allows, else in rounds."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from experts.data import batches
from experts.devices import make_mesh
from experts.reporting import files
from experts.runs import views
from experts.runs.description import Config, Run
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
class Job:
  """A run that is carried out: on which data, where, and what is done with what comes of it.

  Attributes:
    streams: the members' data.
    folder: where checkpoints and metric lines go.
    passing: whether nobody reads the folder but the run that goes on from it: it is then made only if the run is long,
      and without metric lines. Whoever started the run removes it.
    evaluate: see `Evaluate`. Not called of a round all of whose members have diverged.
    keep: called with each member's number and trained trees, on the host of the process that writes; not of those that
      diverged.
    snapshot: called with the step and the first member's trees every `snapshot_every` steps, 0 for never, on that host.
  """

  streams: Sequence[Stream]
  folder: str
  passing: bool = False
  evaluate: Evaluate | None = None
  keep: Callable[[int, Tree], None] | None = None
  snapshot: Callable[[int, Tree], None] | None = None
  snapshot_every: int = 0

  def part(self, one: meshes.Round, folder: str) -> 'Job':
    """The members of a round."""
    streams = self.streams[one.start : one.start + one.members]
    return dataclasses.replace(self, streams=streams, folder=folder)


def train(config: Config, board: Board, run: Run, job: Job) -> np.ndarray:
  """Trains the members of a run.

  Returns:
    The step at which each member diverged, or -1, int [P].

  Raises:
    loop.Diverged: all have, unless the run is a passing one, of which that is a result.
  """
  rounds, remember = _plan(config, run, job)
  diverged = []
  for number, one in enumerate(rounds, 1):
    several = f'/round-{number}' if len(rounds) > 1 else ''
    # A passing run is one of hundreds.
    level = logging.DEBUG if job.passing else logging.INFO
    logging.log(level, '%s%s: %s', run.name, several, one.reason)
    mesh = make_mesh(one.groups)
    meshes.meet(mesh)
    part = _Part(
      config, run.part(one), job.part(one, f'{job.folder}{several}'), mesh, one.at_once, len(rounds)
    )
    try:
      state = part.train(board, remember)
    except loop.Diverged as error:
      if len(rounds) == 1 and not job.passing:
        raise
      logging.warning('%s%s: all %d members have diverged', run.name, several, one.members)
      diverged += [*error.steps]
      continue
    steps = meshes.fetch(state.bad_step)
    diverged += [*steps]
    if job.keep:
      _keep(job.keep, one.start, state, steps)
    # Else its memory would not be there for the next round.
    del state
  if min(diverged) >= 0 and not job.passing:
    raise loop.Diverged(run.name, run.names, np.array(diverged))
  return np.array(diverged)


def _keep(keep, start, state, diverged):
  for number in np.flatnonzero(diverged < 0):
    tree = meshes.fetch_member(state.trained, int(number))
    if hosts.first():
      keep(start + int(number), tree)


@functools.cache
def _memory_limit() -> int:
  """Bytes of memory of the device that has the least, for all processes plan alike."""
  return min(hosts.gather(meshes.memory_limit(jax.local_devices()[0])))


def _plan(config, run: Run, job: Job) -> tuple[list[meshes.Round], Callable[[], None]]:
  """The rounds of a run, those of one that was interrupted as they were then; and what writes them down."""
  path = f'{job.folder}/rounds.json'
  sizes = None
  if hosts.first() and os.path.exists(path):
    with open(path) as file:
      sizes = json.load(file)
  size, devices, limit = config.image.size, jax.devices(), _memory_limit()
  # On any number of devices: checkpoints are of whole rounds.
  if sizes := hosts.from_first(sizes):
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [
      dataclasses.replace(run.plan_whole(number, size, devices, limit), start=start)
      for number, start in zip(sizes, starts, strict=True)
    ], lambda: None
  # On a CPU the evaluation is written out for each member of a device, and takes as long to compile.
  on_cpu = devices[0].platform == 'cpu'
  most = _WRITTEN_OUT * run.at_once('cpu') * len(devices) if on_cpu else len(run)
  rounds = run.plan(size, devices, limit, config.run.loop, most)

  def remember():
    if hosts.first():
      os.makedirs(job.folder, exist_ok=True)
      files.write_json([one.members for one in rounds], path)

  if job.passing:
    return rounds, remember
  remember()
  return rounds, lambda: None


@dataclasses.dataclass(frozen=True)
class _Part:
  """The members of one round, on its mesh."""

  config: Config
  run: Run
  job: Job
  mesh: jax.sharding.Mesh
  at_once: int
  rounds: int

  def train(self, board: Board, remember: Callable[[], None]) -> population.State:
    """Trains them; `remember` is called before the first checkpoint."""
    config, run, job = self.config, self.run, self.job
    if not job.passing:
      if hosts.first():
        os.makedirs(job.folder, exist_ok=True)
      hosts.wait(f'{job.folder} is there')
    with contextlib.ExitStack() as stack:
      saved = checkpoints.Checkpoints(
        f'{job.folder}/checkpoints', config.run.keep_checkpoints, remember
      )
      stack.callback(saved.close)
      lines = hosts.first() and not job.passing
      records = loop.Records(
        board,
        run.name,
        cadence.parse(config.run.log_every),
        cadence.parse(config.run.checkpoint_every),
        Lines(f'{job.folder}/metrics.csv') if lines else None,
        saved,
        job.passing,
        self.rounds,
        profile.NONE if job.passing else profile.parse(config.profile_steps),
        job.snapshot,
        job.snapshot_every,
      )
      return loop.train(
        run.population(self.at_once),
        self.mesh,
        run.trained,
        meshes.place(run.frozen, self.mesh, jax.sharding.PartitionSpec()),
        self._batches,
        run.steps,
        records,
        functools.partial(job.evaluate, self.mesh, job.streams) if job.evaluate else None,
      )

  def _batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the batches from a step on."""
    run = self.run
    mine, shard = meshes.share(self.mesh, len(run))
    return batches.train_batches(
      [
        batches.Member(stream.dataset, stream.indices, stream.seed, stream.order, one.mixup)
        for stream, one in zip(self.job.streams[mine], run.settings[mine], strict=True)
      ],
      views.train_transform(self.config.image, run.section),
      run.section.batch_size,
      range(start, run.steps),
      shard=shard,
      undecodable=self.config.image.undecodable,
    )
