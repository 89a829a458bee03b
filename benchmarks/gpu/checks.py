"""Part 7: tests that need an accelerator, and those of what an accelerator rounds otherwise.

    python -m benchmarks.gpu.checks

The tests that skip on a CPU, and those that compare with float64: neighbours, and the network in float32, with products at
full precision as they expect. Tests that want several devices are left out.
"""

import os
import re
import subprocess
import sys

import jax
from absl import app

from benchmarks.gpu import measure

_PART = 'tests'
_TESTS = {
  'only on an accelerator': ['tests/training/test_loop.py', '-k', 'copied_to_the_device'],
  'neighbours against float64': ['tests/selection/test_knn.py'],
  'network against float64': [
    'tests/models/test_resnet.py',
    'tests/models/test_adapters.py',
    '-k',
    'float64 or bfloat16 or bank or max_pool',
  ],
}


def main(_):
  platform = jax.default_backend()
  environment = {
    **os.environ, 'JAX_PLATFORMS': {'gpu': 'cuda'}.get(platform, platform),
    'JAX_DEFAULT_MATMUL_PRECISION': 'highest',
  }  # fmt: skip
  for name, tests in _TESTS.items():
    command = [sys.executable, '-m', 'pytest', '-rfEs', '--no-header', '--tb=short', *tests]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    print(done.stdout, file=sys.stderr, flush=True)
    last = (done.stdout.splitlines() or [''])[-1]
    counts = {word: int(number) for number, word in re.findall(r'(\d+) ([a-z]+)', last)}
    wrong = re.findall(r'^(?:FAILED|ERROR) (\S+)', done.stdout, re.M)
    measure.record(_PART, name, code=done.returncode, counts=counts, wrong=wrong)


if __name__ == '__main__':
  app.run(main)
