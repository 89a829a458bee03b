"""The training loop, one for every phase."""

import collections
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from experts.training import hosts, profile
from experts.training import mesh as meshes
from experts.training import population as pop
from experts.training.board import Board
from experts.training.checkpoints import Checkpoints
from experts.training.lines import Lines
from experts.training.progress import Progress

Tree = Any

# Steps that may wait on the device behind the one that runs, their batches copied there meanwhile: enough to keep it
# busy. Each holds its batch and, on a CPU, its temporaries.
_IN_FLIGHT = 1


@dataclasses.dataclass(frozen=True)
class Records:
  """Where a run leaves its traces.

  Attributes:
    board: TensorBoard.
    run: name of the run, such as 'experts/full'; its members are runs below it.
    lines: the metric lines, or None for a run too small to keep any.
    checkpoints: None for a run that is rather started again than resumed.
    checkpoint_every: steps.
    traced: steps to trace.
    snapshot: what takes the first member's trees, on the host of the process that writes, and when: every so many steps,
      the last one left out.
    snapshot_every: steps; 0 for never.
  """

  board: Board
  run: str
  lines: Lines | None = None
  checkpoints: Checkpoints | None = None
  checkpoint_every: int = 0
  traced: profile.Steps = profile.NONE
  snapshot: Callable[[int, Tree], None] | None = None
  snapshot_every: int = 0


def train(
  population: pop.Population,
  mesh: jax.sharding.Mesh,
  state: pop.State,
  frozen: Tree,
  batches: Callable[[int], Iterable[Mapping[str, np.ndarray]]],
  steps: int,
  records: Records,
  evaluate: Callable[[Tree], Mapping[str, np.ndarray]] | None = None,
  may_diverge: bool = False,
) -> pop.State:
  """Trains all members to `steps`, from their last good checkpoint if there is one.

  Args:
    population: the members.
    mesh: from `mesh.make`.
    state: where to start without a checkpoint.
    frozen: parameter trees that do not train, without a member axis.
    batches: first step -> this process's share of that step's batch and of all later ones.
    steps: in all.
    records: where to write.
    evaluate: trained trees -> {metric: [P]}; called once, at the end, and written as metric lines.
    may_diverge: whether a loss that is not finite is a result like another (a sweep's learning rate) or an error.

  Returns:
    The state after the last step.

  Raises:
    FloatingPointError: a loss, or a parameter to be saved, is not finite; names member and step. No checkpoint is made
      after it.
    OSError: a checkpoint cannot be written.
    SystemExit: with code 0 after SIGTERM; a checkpoint of the last step is on disk.
  """
  checkpoints = records.checkpoints
  began = time.monotonic()
  if checkpoints and (restored := checkpoints.restore_last_good(state)) is not None:
    state = restored
    seconds = time.monotonic() - began
    step = int(meshes.fetch(state.step))
    logging.info('%s: goes on from step %d, restored in %.2f s', records.run, step, seconds)
  start = int(meshes.fetch(state.step))
  if start >= steps:
    # The last checkpoint is made when all else is written; what came after this run was cut short.
    return state
  if records.lines:
    records.lines.start(start)
  step_fn = pop.make_step(population, mesh)
  queued = collections.deque()
  clock = _Clock()
  done = start
  with (
    Progress(steps, description=records.run, start=start) as progress,
    hosts.training() as asked_to_stop,
    records.traced.trace(records.board.folder(records.run)) as trace,
  ):
    for done, batch in enumerate(batches(start), start + 1):
      if done == start + 1:
        _show_inputs(records, population, done, batch)
      trace.before(done)
      placed = meshes.put_batch(mesh, {**batch, pop.STOP: meshes.mark(mesh, asked_to_stop())})
      began = time.monotonic()
      # Nothing moves between host and device inside a step, not by oversight either. The first call also compiles, and
      # may place the program's constants.
      with (
        jax.transfer_guard('allow' if done == start + 1 else 'disallow'),
        jax.profiler.StepTraceAnnotation('train', step_num=done),
      ):
        state, loss, stops = step_fn(state, frozen, placed)
      if done == start + 1:
        _log_compilation(records, done, time.monotonic() - began)
      queued.append(stops)
      stop = False
      if len(queued) > _IN_FLIGHT:
        # Of all processes: they stop at the same step.
        stop = jax.device_get(queued.popleft()) > 0
        clock.tick()
      trace.after(done, loss)
      images = len(population) * placed['label'].shape[1]
      shown = None
      if done % population.log_every == 0 or done == steps:
        shown = _log(population, records, state, done, progress, clock, may_diverge)
      # A run that keeps no metric lines is one of many: its last line says enough.
      progress.update(done, images, shown if records.lines or done == steps else None)
      if done == steps:
        break
      if records.snapshot_every and done % records.snapshot_every == 0:
        tree = meshes.fetch_member(state.trained, 0)
        if hosts.first():
          records.snapshot(done, tree)
      if checkpoints and (stop or done % records.checkpoint_every == 0):
        _save(population, records, state, done)
      if stop:
        _exit(records, done)
    if done < steps:
      raise ValueError(f'{records.run}: the data ended at step {done} of {steps}')
    if evaluate:
      metrics = evaluate(state.trained)
      if records.lines:
        records.lines.append(steps, population.names, metrics)
      _write_scalars(population, records, steps, metrics)
    if checkpoints:
      _save(population, records, state, steps)
      checkpoints.wait()
    late = asked_to_stop() and not hosts.several()
    if late or any(jax.device_get(stops) > 0 for stops in queued):
      _exit(records, steps)
  return state


class _Clock:
  """Times between the ends of steps."""

  def __init__(self):
    self._last = None
    self._seconds = []

  def tick(self) -> None:
    now = time.monotonic()
    if self._last is not None:
      self._seconds.append(now - self._last)
    self._last = now

  def percentiles(self) -> dict[str, float]:
    """Milliseconds since the last call; empty before the second step."""
    if not self._seconds:
      return {}
    values = np.percentile(1e3 * np.array(self._seconds), (50, 90, 99))
    self._seconds = []
    return {f'step_ms/p{p}': float(value) for p, value in zip((50, 90, 99), values)}


def _log_compilation(records, step, seconds):
  # Tracing, and compiling or reading the program from the cache: the call returns before the step has run.
  if records.lines or seconds > 1:
    logging.info('%s: the step is ready after %.1f s of compilation', records.run, seconds)
  records.board.scalars(records.run, step, {'compile_seconds': seconds})


def _save(population, records, state, step):
  """Saves what can be gone on from: after a finite loss the update may still have been too large."""
  _check_finite(population, state, records)
  for member, finite in zip(population.names, meshes.fetch(pop.finite(state.trained)), strict=True):
    if not finite:
      raise _not_finite(records, 'parameters', 'are', member, step)
  records.checkpoints.save(step, state)


def _exit(records, step):
  if records.checkpoints:
    records.checkpoints.wait()
  logging.warning('%s: stopped by SIGTERM at step %d', records.run, step)
  sys.exit(0)


def _log(population, records, state, step, progress, clock, may_diverge) -> dict[str, float]:
  if not may_diverge:
    _check_finite(population, state, records)
  # The sums restart after each log line; at the end of the run the last stretch may be a short one.
  stretch = (step - 1) % population.log_every + 1
  means = {name: total / stretch for name, total in meshes.fetch(state.sums).items()}
  if records.lines:
    records.lines.append(step, population.names, means)
  _write_scalars(population, records, step, means)
  if rates := {**progress.rates(), **clock.percentiles()}:
    records.board.scalars(records.run, step, rates)
  if records.checkpoints:
    records.checkpoints.check()
  return {name: float(np.mean(means[name])) for name in ('loss', 'accuracy')}


def _write_scalars(population, records, step, metrics):
  for i, member in enumerate(population.names):
    values = {name: float(value[i]) for name, value in metrics.items()}
    records.board.scalars(f'{records.run}/{member}', step, values)


def _show_inputs(records, population, step, batch):
  for member, images in zip(population.names, batch['image'], strict=False):
    records.board.images(f'{records.run}/{member}', step, {'input': images[:16]})


def _check_finite(population, state, records):
  for member, step in zip(population.names, meshes.fetch(state.bad_step), strict=True):
    if step >= 0:
      raise _not_finite(records, 'loss', 'is', member, step)


def _not_finite(records, what, verb, member, step):
  return FloatingPointError(
    f'{records.run}: the {what} of member {member!r} {verb} not finite at step {step}; '
    'lower its learning rate or lengthen its warm-up, in another workdir (earlier checkpoints are kept)'
  )
