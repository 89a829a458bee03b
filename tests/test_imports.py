"""What is measured on an accelerator imports without the packages that only reading data and TensorBoard need."""

import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_ABSENT = (
  'array_record',
  'clu',
  'grain',
  'ml_collections',
  'tensorflow',
  'tensorflow_datasets',
)
_BLOCK = """
import importlib, sys

class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in {absent!r}:
      raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Blocker())
for name in {names!r}:
  importlib.import_module(name)
"""
_MODULES = (
  'benchmarks.gpu.__main__',
  'benchmarks.gpu.ceilings',
  'benchmarks.gpu.checks',
  'benchmarks.gpu.embedding',
  'benchmarks.gpu.finetunes',
  'benchmarks.gpu.memory',
  'benchmarks.gpu.scorer',
  'benchmarks.gpu.steps',
  'experts.models.adapters',
  'experts.models.layers',
  'experts.models.kinds',
  'experts.models.network',
  'experts.models.opaque',
  'experts.models.ours',
  'experts.models.resnet',
  'experts.models.weights',
  'experts.runs.description',
  'experts.runs.objectives',
  'experts.selection.cache',
  'experts.selection.embed',
  'experts.selection.evidence',
  'experts.selection.knn',
  'experts.selection.linear',
  'experts.selection.networks',
  'experts.selection.pool',
  'experts.selection.proxies',
  'experts.selection.strategies',
  'experts.training.board',
  'experts.training.checkpoints',
  'experts.training.costs',
  'experts.training.evaluate',
  'experts.training.hosts',
  'experts.training.lines',
  'experts.training.loop',
  'experts.training.mesh',
  'experts.training.optim',
  'experts.training.population',
  'experts.training.profile',
  'experts.training.progress',
)


def _run(names) -> subprocess.CompletedProcess:
  code = _BLOCK.format(absent=_ABSENT, names=names)
  command = [sys.executable, '-c', code]
  return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)


def test_measured_modules_import_without_the_packages_for_data_and_events():
  # All in one process: it is one import of JAX.
  done = _run(_MODULES)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', _ABSENT)
def test_the_blocker_blocks(name):
  done = _run((name,))
  assert done.returncode == 1
  assert f"No module named '{name}'" in done.stderr
