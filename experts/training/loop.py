"""The training loop, one for every phase."""

import collections
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from experts.training import hosts, profile
from experts.training import mesh as meshes
from experts.training import population as pop
from experts.training.board import Board
from experts.training.cadence import Cadence, Turn
from experts.training.checkpoints import Checkpoints
from experts.training.lines import Lines
from experts.training.progress import Progress

Tree = Any

# Steps that may wait on the device behind the one that runs, their batches copied there meanwhile: enough to keep it
# busy. Each holds its batch and, on a CPU, its temporaries.
_IN_FLIGHT = 1


@dataclasses.dataclass(frozen=True)
class Records:
  """Where a run leaves its traces, and how often.

  Attributes:
    board: TensorBoard.
    run: name of the run, such as 'experts/full'; its members are runs below it.
    log_every: how often there is a line.
    checkpoint_every: how often there is a checkpoint, if there are any.
    lines: the metric lines, where this process writes them and the run keeps any.
    checkpoints: None for a run that is rather started again than resumed.
    passing: whether what the run leaves is only to be resumed from: it keeps its end only if it is long, and is
      evaluated again if it was cut short after that.
    rounds: how many runs of this length this one is one of, for whether it is long.
    traced: steps to trace.
    snapshot: what takes the first member's trees, on the host of the process that writes, and when: every so many steps,
      the last one left out.
    snapshot_every: steps; 0 for never.
    clock: seconds now.
  """

  board: Board
  run: str
  log_every: Cadence
  checkpoint_every: Cadence
  lines: Lines | None = None
  checkpoints: Checkpoints | None = None
  passing: bool = False
  rounds: int = 1
  traced: profile.Steps = profile.NONE
  snapshot: Callable[[int, Tree], None] | None = None
  snapshot_every: int = 0
  clock: Callable[[], float] = time.monotonic


class Diverged(FloatingPointError):
  """No member is left to train.

  Attributes:
    steps: int [P], at which they diverged.
  """

  def __init__(self, run: str, names: Sequence[str], steps: np.ndarray):
    self.steps = np.asarray(steps)
    first = int(self.steps.argmin())
    who = f'member {names[first]!r}'
    if len(names) > 1:
      who = f'all {len(names)} members have diverged: {who}'
    super().__init__(
      f'{run}: {who} has a loss or a parameter that is not finite at step {self.steps[first]}; '
      'lower its learning rate or lengthen its warm-up, in another workdir (earlier checkpoints are kept)'
    )


class _Parts(NamedTuple):
  """What stays the same from step to step."""

  population: pop.Population
  mesh: jax.sharding.Mesh
  records: Records


def train(
  population: pop.Population,
  mesh: jax.sharding.Mesh,
  trained: Tree,
  frozen: Tree,
  batches: Callable[[int], Iterable[Mapping[str, np.ndarray]]],
  steps: int,
  records: Records,
  evaluate: Callable[[Tree], Mapping[str, np.ndarray]] | None = None,
) -> pop.State:
  """Trains all members to `steps`, from their last good checkpoint if there is one.

  A member whose loss or parameters stop being finite is left as it is at that step and named; the others go on.

  Args:
    population: the members.
    mesh: from `mesh.make`.
    trained: where to start without a checkpoint: host arrays with a leading member axis.
    frozen: parameter trees that do not train, without a member axis.
    batches: first step -> this process's share of that step's batch and of all later ones.
    steps: in all.
    records: where to write.
    evaluate: trained trees -> {metric: [P]}; called once, at the end, and written as metric lines.

  Returns:
    The state after the last step.

  Raises:
    Diverged: all members have. No checkpoint is made after it.
    OSError: a checkpoint cannot be written, or not be read at present.
    SystemExit: with code 0 after SIGTERM; a checkpoint of the last step is on disk.
  """
  parts = _Parts(population, mesh, records)
  checkpoints = records.checkpoints
  state, start = _start(parts, trained)
  if start >= steps:
    # The last checkpoint is made when all else is written; what came after this run was cut short.
    if records.passing and evaluate:
      evaluate(state.trained)
    return state
  if records.lines:
    records.lines.start(start)
  step_fn = pop.make_step(population, mesh)
  queued = collections.deque()
  times, said = _Times(), _Said(parts, state)
  done, began = start, records.clock()
  line = Turn(records.log_every, records.clock)
  save = Turn(records.checkpoint_every, records.clock)
  with (
    Progress(steps, description=records.run, start=start) as progress,
    hosts.training() as asked_to_stop,
    records.traced.trace(records.board.folder(records.run)) as trace,
  ):
    for done, batch in enumerate(batches(start), start + 1):
      if done == start + 1:
        _show_inputs(parts, done, batch)
      trace.before(done)
      # One clock decides for all processes.
      due = (save.call(), line.call()) if hosts.first() else ()
      placed = pop.put_batch(mesh, batch, pop.Word(asked_to_stop(), *due))
      called = time.monotonic()
      # Nothing moves between host and device inside a step, not by oversight either. The first call also compiles, and
      # may place the program's constants.
      with (
        jax.transfer_guard('allow' if done == start + 1 else 'disallow'),
        jax.profiler.StepTraceAnnotation('train', step_num=done),
      ):
        state, loss, words = step_fn(state, frozen, placed)
      if done == start + 1:
        _log_compilation(records, done, time.monotonic() - called)
      queued.append(words)
      heard = pop.Word()
      if len(queued) > _IN_FLIGHT:
        # Of all processes: they act at the same step.
        heard = _heard(queued.popleft())
        times.tick()
      trace.after(done, loss)
      images = len(population) * placed['label'].shape[1]
      shown = None
      if line.now(done, heard.log) or done == steps:
        state = pop.mark_spoilt(state, mesh)
        shown = _log(parts, state, done, said, {**progress.rates(), **times.percentiles()})
        state = pop.restart_sums(state, mesh)
      # A run that keeps no metric lines is one of many: its last line says enough.
      progress.update(done, images, shown if records.lines or done == steps else None)
      if done == steps:
        break
      if records.snapshot_every and done % records.snapshot_every == 0:
        tree = meshes.fetch_member(state.trained, 0)
        if hosts.first():
          records.snapshot(done, tree)
      if checkpoints and (heard.stop or save.now(done, heard.save)):
        state = pop.mark_spoilt(state, mesh)
        said.check(state)
        checkpoints.save(done, state)
      if heard.stop:
        _exit(records, done)
    if done < steps:
      raise ValueError(f'{records.run}: the data ended at step {done} of {steps}')
    if evaluate:
      metrics = evaluate(state.trained)
      if records.lines:
        records.lines.append(steps, population.names, metrics)
      _write_scalars(parts, steps, metrics)
    if checkpoints and _keeps_end(records, steps - start, records.clock() - began):
      checkpoints.save(steps, state)
      checkpoints.wait()
    late = asked_to_stop() and not hosts.several()
    if late or any(_heard(words).stop for words in queued):
      _exit(records, steps)
  return state


def _start(parts, trained):
  """The state to go on from, and how many steps it has seen."""
  records = parts.records
  began = time.monotonic()
  if records.checkpoints:
    # By its shapes: the first state is not made before it is known that it is needed, for there is room for one.
    like = pop.abstract_state(parts.population, parts.mesh, trained)
    if (restored := records.checkpoints.restore_last_good(like)) is not None:
      step, seconds = int(meshes.fetch(restored.step)), time.monotonic() - began
      logging.info('%s: goes on from step %d, restored in %.2f s', records.run, step, seconds)
      return restored, step
  return pop.create_state(parts.population, parts.mesh, trained), 0


def _keeps_end(records, steps, seconds) -> bool:
  if not records.passing or records.checkpoints.there():
    return True
  # Rounds that are short by themselves may be long together, and then each is worth keeping.
  seconds = hosts.from_first(seconds)
  return records.checkpoint_every.over(records.rounds * steps, records.rounds * seconds)


def _heard(words: jax.Array) -> pop.Word:
  return pop.Word(*(bool(number > 0) for number in jax.device_get(words)))


class _Times:
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


class _Said:
  """Which members have diverged, each named once."""

  def __init__(self, parts: _Parts, state: pop.State):
    self._parts, self._named = parts, set()
    self.check(state)

  def check(self, state: pop.State) -> None:
    """Names those that are new; raises Diverged where none is left."""
    steps, names = meshes.fetch(state.bad_step), self._parts.population.names
    run = self._parts.records.run
    if (steps >= 0).all():
      raise Diverged(run, names, steps)
    for number in np.flatnonzero(steps >= 0):
      if number not in self._named:
        self._named.add(number)
        logging.warning(
          '%s: member %r has diverged: its loss or a parameter is not finite at step %d; it stays as it is, the others go on',
          run, names[number], steps[number],
        )  # fmt: skip


def _log_compilation(records, step, seconds):
  # Tracing, and compiling or reading the program from the cache: the call returns before the step has run.
  if records.lines or seconds > 1:
    logging.info('%s: the step is ready after %.1f s of compilation', records.run, seconds)
  records.board.scalars(records.run, step, {'compile_seconds': seconds})


def _exit(records, step):
  if records.checkpoints:
    records.checkpoints.wait()
  logging.warning('%s: stopped by SIGTERM at step %d', records.run, step)
  sys.exit(0)


def _log(parts, state, step, said, rates) -> dict[str, float]:
  said.check(state)
  records = parts.records
  means = pop.means(meshes.fetch(state.sums))
  if records.lines:
    records.lines.append(step, parts.population.names, means)
  _write_scalars(parts, step, means)
  if rates:
    records.board.scalars(records.run, step, rates)
  if records.checkpoints:
    records.checkpoints.check()
  going = np.isfinite(means['loss'])
  # Of all members that have gone on to this line, if any has.
  return (
    {name: float(means[name][going].mean()) for name in ('loss', 'accuracy')} if going.any() else {}
  )


def _write_scalars(parts, step, metrics):
  for i, member in enumerate(parts.population.names):
    values = {name: float(value[i]) for name, value in metrics.items()}
    parts.records.board.scalars(f'{parts.records.run}/{member}', step, values)


def _show_inputs(parts, step, batch):
  records = parts.records
  for member, images in zip(parts.population.names, batch['image'], strict=False):
    records.board.images(f'{records.run}/{member}', step, {'input': images[:16]})
