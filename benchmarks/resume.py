"""Times how long a training run takes to its first step: fresh, resumed early, resumed at step 1,000,000.

    python -m benchmarks.resume

Runs main.py on glyphs, stops it with SIGTERM, and starts it again; then again from the same checkpoint with its step
moved to 1,000,000. The seconds are from the start of the process to the end of compilation and the first step's
dispatch, medians over rounds in turn; the restore itself is named beside them. Below, the time to the first batch from a
data set as large as ImageNet-21k, whose shuffle has to be where a million steps leave it.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import orbax.checkpoint as ocp
from absl import app

from experts.data import batches, transforms
from experts.data.dataset import Dataset

_ROUNDS = 5
_FAR = 1_000_000
_IMAGES, _BATCH = 13_000_000, 64


def _first_step(workdir: pathlib.Path) -> tuple[float, float]:
  """Runs to the first step and stops; returns (seconds to it, of which seconds of restoring)."""
  command = [
    sys.executable, 'main.py', '--config=configs/quickstart.py', f'--workdir={workdir}',
    "--config.phases=('upstream',)", '--config.upstream.duration=2000000 steps',
    '--config.run.log_every=1 step', '--config.run.tensorboard=False',
  ]  # fmt: skip
  started, restored = time.monotonic(), 0.0
  process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
  for line in process.stderr:
    if found := re.search(r'restored in ([\d.]+) s', line):
      restored = float(found[1])
    if 'the step is ready' in line:
      seconds = time.monotonic() - started
    if 'loss' in line:
      process.send_signal(signal.SIGTERM)
  if process.wait():
    raise RuntimeError(f'main.py ended with {process.returncode}')
  return seconds, restored


def _moved(workdir: pathlib.Path, to: pathlib.Path) -> None:
  """Copies a workdir, its checkpoint moved to step 1,000,000."""
  shutil.copytree(workdir, to)
  folder = to / 'upstream' / 'checkpoints'
  options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
  with ocp.CheckpointManager(folder, options=options, item_names=('state',)) as manager:
    last = manager.latest_step()
    state = manager.restore(last, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state
    state['step'] = np.asarray(_FAR, np.int32)
    manager.save(_FAR, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), force=True)


def _first_batch(step: int) -> float:
  """Seconds to the first batch of a data set whose images cost nothing."""
  image = np.zeros((224, 224, 3), np.uint8)
  dataset = Dataset(
    name='simulated',
    class_names=('one', 'two'),
    size=_IMAGES,
    read_image=lambda index: image,
    read_labels=lambda: np.zeros(_IMAGES, np.int32),
    describe=str,
    in_memory=True,
  )
  started = time.monotonic()
  member = batches.Member(dataset, np.arange(_IMAGES), 0)
  transform = transforms.Transform(224, 0, 'none', True)
  next(batches.train_batches([member], transform, _BATCH, range(step, step + 5)))
  return time.monotonic() - started


def main(argv: list[str]) -> None:
  del argv
  times = {'fresh': [], 'early': [], f'step {_FAR:,}': []}
  for number in range(_ROUNDS):
    with tempfile.TemporaryDirectory() as folder:
      here, far = pathlib.Path(folder) / 'run', pathlib.Path(folder) / 'far'
      times['fresh'].append(_first_step(here))
      _moved(here, far)
      times['early'].append(_first_step(here))
      times[f'step {_FAR:,}'].append(_first_step(far))
    print(f'round {number + 1} of {_ROUNDS}', file=sys.stderr)
  print('start              s to the first step    of which restore s')
  for name, pairs in times.items():
    seconds, restored = np.median(pairs, axis=0)
    print(f'{name:17}  {seconds:20.2f}  {restored:21.2f}')
  print(f'\nfirst batch of {_BATCH} out of {_IMAGES:,} images, s')
  for step in (0, 10, _FAR):
    print(f'step {step:9,}  {np.median([_first_batch(step) for _ in range(_ROUNDS)]):.2f}')


if __name__ == '__main__':
  app.run(main)
