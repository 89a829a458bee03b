"""Part 6: does what `mesh.plan` says fits, fit, and what it says does not, not?

    python -m benchmarks.gpu.memory
    python -m benchmarks.gpu.memory --try_batch=1024

Upstream training of ResNet-50 with the largest batch that the plan takes to fit, with half of it, and with one that by
its estimate needs half as much again as there is. Each takes two steps in a process of its own, since the most that a
process has had does not fall. `holds` says whether the plan was right; what does not fit has to end in one line.
"""

import json
import subprocess
import sys

import jax
from absl import app, flags

from benchmarks.gpu import measure, steps
from experts.training import mesh as meshes

_TRY = flags.DEFINE_integer('try_batch', 0, 'Takes two steps with this batch, and nothing else.')

_PART = 'memory'
_STEP = 16


def _try() -> None:
  """Prints a line of JSON: what two steps took, or the error."""
  try:
    trained = steps.Trained('upstream', 1, _TRY.value)
    seconds, compiled = trained.compile()
    trained.place()
    trained.steps(2).block_until_ready()
    found = {'fitted': True, 'compile_s': seconds, **steps.memory(trained, compiled)}
  except jax.errors.JaxRuntimeError as error:
    found = {
      'fitted': False, 'error': measure.one_line(error),
      'said_memory': 'RESOURCE_EXHAUSTED' in str(error).splitlines()[0],
    }  # fmt: skip
  print(json.dumps(found), flush=True)


def _batches() -> dict[int, bool]:
  """Batches and whether they fit by the plan; in a process of its own, since the device's memory is to be free."""
  trained = steps.Trained('upstream', 1, _STEP)
  largest = meshes.largest_batch(1, trained.need, trained.limit) // _STEP * _STEP
  if measure.SMALL.value:
    return {_STEP: True}
  return {largest // 2: True, largest: True, int(1.5 * largest) // _STEP * _STEP: False}


def main(_):
  if _TRY.value > 0:
    _try()
    return
  if _TRY.value < 0:
    print(json.dumps(_batches()), flush=True)
    return
  for batch, fits in _child(-1).items():
    form = f'ResNet-50, batch {batch}, {"fits" if fits else "does not fit"} by the plan'
    with measure.guarded(_PART, form):
      found = _child(int(batch))
      measure.record(_PART, form, holds=found['fitted'] == fits, **found)


def _child(batch: int) -> dict:
  command = [
    sys.executable, '-m', 'benchmarks.gpu.memory', f'--try_batch={batch}', f'--out={measure.OUT.value}',
    f'--small={measure.SMALL.value}',
  ]  # fmt: skip
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
  if not done.stdout.strip():
    raise RuntimeError(f'ended with {done.returncode} and said nothing: see the log')
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == '__main__':
  app.run(main)
