"""Times 8 fine-tunes as one population against the same 8 one after the other, in images/s.

    python -m benchmarks.transfer
    python -m benchmarks.transfer --topology=v3-8

On this machine: the quickstart's network, images and batch, trained as the transfer phase trains it, input included. Four
seeds with two learning rates each, as in a sweep. The sides run in turn, compiled before; those that run one after the
other share their program. `with compilation` is a first run of 100 steps. On a CPU the members of a population have
one program too, and take turns at each step.

With --topology: the sweep of configs/vtab_knn.py, compiled for a TPU slice that need not be there (pip install -e
'.[tpu]'; some minutes). The times are the compiler's estimates, as in the dry run, and a lower bound: an exchange
between cores counts with its memory traffic only, and input not at all.
"""

import itertools
import os
import statistics
import time
from collections.abc import Sequence

import jax
import tabulate
from absl import app, flags

from configs import quickstart, vtab_knn
from experts import programs
from experts.data import batches
from experts.devices import make_mesh
from experts.models import ours, resnet
from experts.runs import description, fine_tuning, objectives, views
from experts.training import mesh as meshes
from experts.training import optim, population
from launch.dry_run import measure, topologies

_TOPOLOGY = flags.DEFINE_string('topology', '', 'Estimates for a TPU slice, such as v3-8, instead.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Medians are of so many.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 40, 'Of each fine-tune.', lower_bound=2)

_SEEDS, _PER_SEED = 4, 2
_TRIALS, _FIRST_RUN = _SEEDS * _PER_SEED, 100
_SIDES = {f'{_TRIALS} as one population': _TRIALS, 'one after the other': 1}


def main(argv):
  del argv
  _estimate(_TOPOLOGY.value) if _TOPOLOGY.value else _measure()


class _FineTune:
  """The quickstart's sweep on one task, in parts of any size."""

  def __init__(self):
    config = quickstart.get_config()
    self._config, self.section = config, config.transfer
    self._task = fine_tuning.open_task(config, 'digits')
    self._network = ours.build(config.model)
    classes = self._task.train.num_classes
    self._params = jax.device_get(resnet.init(self._network.resnet, jax.random.key(0), classes))
    self.trials = list(itertools.product(self.section.learning_rates, range(_SEEDS)))

  def train(self, trials: Sequence[tuple[float, int]], steps: int) -> float:
    """Trains some trials at the same time; returns the seconds that the first call of the step took."""
    section, size = self.section, self._config.image.size
    trained = population.repeat(self._params, len(trials))
    need = description.need(self._network, size, trained, {})
    limit = meshes.memory_limit(jax.local_devices()[0])
    layout = meshes.plan_whole(len(trials), section.batch_size, jax.device_count(), need, limit)
    mesh = make_mesh(layout.groups)
    described = population.Population(
      names=[f'lr{rate:g}-seed{seed}' for rate, seed in trials],
      objective=objectives.single_label(self._network),
      learning_rate=[optim.scaled(rate, section.batch_size) for rate, _ in trials],
      weight_decay=[0.0] * len(trials),
      schedule=optim.staircase(_FIRST_RUN, 0, tuple(section.decay_at)),
      optimizer=optim.Optimizer(momentum=section.momentum),
      members_at_once=layout.at_once,
      gradient_dtype=self._network.dtype,
    )
    step = population.make_step(described, mesh)
    state, first, last = population.create_state(described, mesh, trained), None, None
    source = batches.train_batches(
      [batches.Member(self._task.train, self._task.fit, seed=seed) for _, seed in trials],
      views.train_transform(self._config.image, section),
      section.batch_size,
      range(steps),
    )
    for batch in source:
      placed = population.put_batch(mesh, batch, population.Word())
      started = time.perf_counter()
      state, _, words = step(state, {}, placed)
      first = first or time.perf_counter() - started
      # As the training loop does: one step waits behind the one that runs.
      jax.block_until_ready(last)
      last = words
    jax.block_until_ready(state)
    return first


def _measure() -> None:
  # A program from the cache would not tell what its compilation takes.
  jax.config.update('jax_enable_compilation_cache', False)
  sweep = _FineTune()
  parts = {
    side: [sweep.trials[at : at + n] for at in range(0, _TRIALS, n)] for side, n in _SIDES.items()
  }
  compilation = {}
  for side, part in parts.items():
    # On a CPU both sides have the same program.
    jax.clear_caches()
    compilation[side] = sweep.train(part[0], 2)
  seconds = {side: [] for side in parts}
  for _ in range(_ROUNDS.value):
    for side, runs in parts.items():
      started = time.perf_counter()
      for trials in runs:
        sweep.train(trials, _STEPS.value)
      seconds[side].append(time.perf_counter() - started)
  images = _TRIALS * sweep.section.batch_size
  medians = {side: statistics.median(taken) for side, taken in seconds.items()}
  whole = lambda side: compilation[side] + medians[side] / _STEPS.value * _FIRST_RUN
  apart = list(parts)[-1]
  rows = [
    [
      side,
      images * _STEPS.value / medians[side],
      images * _STEPS.value / max(taken),
      images * _STEPS.value / min(taken),
      statistics.median(other / own for other, own in zip(seconds[apart], taken)),
      compilation[side],
      images * _FIRST_RUN / whole(side),
      whole(apart) / whole(side),
    ]
    for side, taken in seconds.items()
  ]
  print(
    f'{jax.devices()[0].device_kind}, {jax.device_count()} devices, {os.cpu_count()} cores, load '
    f'{os.getloadavg()[0]:.1f}; {_STEPS.value} steps of {_TRIALS} × {sweep.section.batch_size} images\n'
  )
  heads = 'images/s', 'slowest', 'fastest', 'ratio', 'compilation, s', 'with compilation', 'ratio'
  forms = '', ',.0f', ',.0f', ',.0f', '.3f', '.1f', ',.0f', '.3f'
  print(tabulate.tabulate(rows, ['trials', *heads], 'github', floatfmt=forms))


def _estimate(topology: str) -> None:
  # As the dry run: this process takes the CPU, the compiler looks for no TPU host around it, and another process may
  # compile at the same time; what is compiled for devices that are not there can be cached, but not read.
  os.environ |= {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v3-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
  }
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)
  limit = int(topologies.generation(topology).memory_gib * 2**30)
  devices = topologies.devices(topology)
  rows, speeds, reasons = [], [], []
  for side, size in _SIDES.items():
    images = seconds = 0
    for program in _steps(size, devices, limit):
      costs = measure.costs(program.function, program.arguments)
      share = program.images / len(devices)
      exchanged = sum(each.bytes for each in costs.collectives)
      rows.append(
        [
          side,
          ' × '.join(map(str, program.mesh.devices.shape)),
          share,
          1e3 * costs.seconds,
          program.images / costs.seconds,
          1e3 * costs.seconds / share,
          costs.bytes / share / 1e6,
          exchanged / share / 1e6,
          costs.temporary_gib,
        ]
      )
      images += program.calls * program.images
      seconds += program.calls * costs.seconds
      reasons.append(f'{side}: {program.reason}')
    speeds.append(images / seconds)
  heads = (
    'population\n× data', 'images\na core', 'ms a\nstep', 'images/s', 'core ms\nan image',
    'MB moved\nan image', 'MB exchanged\nan image', 'temporaries\nGiB',
  )  # fmt: skip
  print(f'{topology}, ResNet-50, 224×224, batch {vtab_knn.get_config().transfer.batch_size}\n')
  forms = '', '', ',.0f', '.1f', ',.0f', '.3f', '.1f', '.2f', '.2f'
  print(tabulate.tabulate(rows, ['trials', *heads], floatfmt=forms))
  print(f'\nimages/s: {speeds[0]:,.0f} against {speeds[1]:,.0f}, ratio {speeds[0] / speeds[1]:.3f}')
  print('\n'.join(reasons))


def _steps(trials: int, devices: Sequence[jax.Device], limit: int) -> list[programs.Program]:
  """The step of so many trials, or those of its rounds."""
  config = vtab_knn.get_config('caltech101')
  config.phases = ('transfer',)
  config.trials = f'{-(-trials // _PER_SEED)}x1'
  config.transfer.learning_rates = config.transfer.learning_rates[: min(trials, _PER_SEED)]
  found = programs.programs(config, devices, limit)
  return [program for program in found if program.name.startswith('transfer sweep step')]


if __name__ == '__main__':
  app.run(main)
