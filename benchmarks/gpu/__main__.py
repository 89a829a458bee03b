"""Measures on one GPU what this project does there, in one run of about five minutes.

    python -m benchmarks.gpu --out=FOLDER
    python -m benchmarks.gpu --out=FOLDER --parts=embedding,scorer
    python -m benchmarks.gpu --out=/tmp/gpu --small

Parts: `ceilings` (what the device can do at most, which the others give their share of), `embedding` (a search with 240
experts), `scorer`, `steps` (upstream and experts, batch 256) and `large-steps` (1,024), `finetunes` (eight as one
population), `memory` (what the plan says fits), `tests` (those that need an accelerator); see the modules beside this one.
Each runs in a process of its own with a limit of time, so that one that fails or hangs costs the others nothing. Every
result is appended to FOLDER/results.jsonl as it comes, what else is printed to FOLDER/log.txt; at the end there are a
table and FOLDER/summary.json.

Images and weights are random. Compilation is counted apart; figures are medians after a warm-up, and what is compared runs
in turn. Needs no data, no network, and none of TensorFlow, tfds, clu, grain, array_record and ml_collections; `torch` and
`timm` for what is compared with them. `--small` rehearses it on a CPU, where nothing of
PyTorch is compiled.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks.gpu import measure


# JAX's share of the device's memory. PyTorch may be beside it.
def _share(of: float) -> dict[str, str]:
  return {'XLA_PYTHON_CLIENT_MEM_FRACTION': str(of)}


# Name -> (module, flags, environment, seconds at most).
_PARTS = {
  'ceilings': ('ceilings', [], {}, 60),
  'tests': ('checks', [], {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}, 90),
  'embedding': ('embedding', [], _share(0.45), 200),
  'scorer': ('scorer', [], _share(0.45), 80),
  'steps': ('steps', ['--batch=256'], _share(0.45), 180),
  'finetunes': ('finetunes', [], {}, 120),
  'large-steps': ('steps', ['--batch=1024', '--apart'], _share(0.92), 180),
  # A small share: what just does not fit it is still a batch that the libraries can count in 32 bits.
  'memory': ('memory', [], _share(0.25), 180),
}

_CHOSEN = flags.DEFINE_list('parts', list(_PARTS), f'Of {", ".join(_PARTS)}, in this order.')
_LIMIT = flags.DEFINE_integer(
  'limit', 570, 'Seconds in all; what has not begun by then is left out.'
)


def _run(name: str, seconds: float, folder: str) -> str:
  """Runs a part; what went wrong, in one line."""
  module, options, environment, most = _PARTS[name]
  if measure.SMALL.value:
    options = ['--batch=8' if option.startswith('--batch') else option for option in options]
    most = 3600
  command = [
    sys.executable, '-m', f'benchmarks.gpu.{module}', f'--out={measure.OUT.value}',
    f'--small={measure.SMALL.value}', *options,
  ]  # fmt: skip
  environment = {
    **os.environ,
    # Programs that a part compiles ahead, to time that, are not compiled again when they are called.
    'JAX_COMPILATION_CACHE_DIR': f'{folder}/programs',
    # What a part that is killed leaves is removed at the end.
    'TMPDIR': folder,
    **environment,
  }
  with open(f'{measure.OUT.value}/log.txt', 'a+', encoding='utf-8') as log:
    log.write(f'==== {name}\n')
    log.flush()
    begin = log.tell()
    # A session of its own: its children end with it.
    process = subprocess.Popen(command, stderr=log, env=environment, start_new_session=True)
    try:
      code = process.wait(min(seconds, most))
    except subprocess.TimeoutExpired:
      code = f'not done after {min(seconds, most):.0f} s'
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    log.seek(begin)
    last = ([''] + log.read().strip().splitlines())[-1]
  if not code:
    return ''
  return f'{code if isinstance(code, str) else f"ended with {code}"}: {last}'[:300]


def _short(value) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def main(_):
  unknown = set(_CHOSEN.value) - set(_PARTS)
  if unknown:
    sys.exit(f'error: unknown parts {", ".join(sorted(unknown))}; known: {", ".join(_PARTS)}')
  os.makedirs(measure.OUT.value, exist_ok=True)
  began = time.monotonic()
  with tempfile.TemporaryDirectory(prefix='experts-gpu-', ignore_cleanup_errors=True) as folder:
    for name in _CHOSEN.value:
      started = time.monotonic()
      left = math.inf if measure.SMALL.value else _LIMIT.value - (started - began)
      wrong = _run(name, left, folder) if left > 20 else 'left out: no time'
      measure.record(
        'run', name, seconds=time.monotonic() - started, **({'error': wrong} if wrong else {})
      )
  found = measure.read()
  with open(f'{measure.OUT.value}/summary.json', 'w', encoding='utf-8') as file:
    json.dump(found, file, indent=1)
  rows = [
    [
      one.pop('part'),
      one.pop('form'),
      ', '.join(f'{key} {_short(value)}' for key, value in one.items()),
    ]
    for one in found
  ]
  # Not padded: where only the end of the output is kept, the table is.
  for row in (['part', 'form', 'found'], ['---'] * 3, *rows):
    print(f'| {" | ".join(row)} |')


if __name__ == '__main__':
  app.run(main)
