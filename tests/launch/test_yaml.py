"""launch/gke.yaml and launch/sky.yaml against the schemas of those who read them, as they are and as filled in."""

import copy
import os
import pathlib
import shlex
import subprocess
import sys
from typing import Literal

import pydantic
import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from launch import cluster, commands, slices

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_GKE = yaml.safe_load((_ROOT / 'launch/gke.yaml').read_text())
_SKY = yaml.safe_load((_ROOT / 'launch/sky.yaml').read_text())
_MAIN_ARGS = ['--config=a b.py', '--workdir=/gcs/it\'s "here"', '--config.note=$HOME: `id` #é']


def _filled(system, accelerator='v3-32', spot=True) -> dict:
  plan = getattr(cluster, system)('exp', slices.find(accelerator), 'my.bucket', spot, _MAIN_ARGS)
  (text,) = [command.stdin for command in plan if command.stdin]
  return yaml.safe_load(text)


def _at(document, path):
  for key in path:
    document = document[key]
  return document


# JobSet and all of Kubernetes beneath it: Kubeflow's models are generated from the published OpenAPI documents. They check
# types and required fields, and forget fields they do not know: so a document is right where it survives them unchanged.
def _check_jobset(document: dict) -> None:
  assert JobsetV1alpha2JobSet.from_dict(document).to_dict() == document


# The fields of a SkyPilot task that are used here: docs.skypilot.co/en/latest/reference/yaml-spec.html.
class _Strict(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(extra='forbid', strict=True)


class _AcceleratorArgs(_Strict):
  runtime_version: str


class _JobRecovery(_Strict):
  max_restarts_on_errors: pydantic.NonNegativeInt


class _Resources(_Strict):
  infra: str
  accelerators: str
  accelerator_args: _AcceleratorArgs
  use_spot: bool
  job_recovery: _JobRecovery


class _Bucket(_Strict):
  source: str = pydantic.Field(pattern='^gs://')
  mode: Literal['MOUNT', 'COPY', 'MOUNT_CACHED']


class _Task(_Strict):
  name: str
  workdir: str
  resources: _Resources
  envs: dict[str, str]
  file_mounts: dict[str, _Bucket]
  setup: str
  run: str


@pytest.mark.parametrize('document', [_GKE, _filled('gke'), _filled('gke', 'v6e-8', False)])
def test_jobset_keeps_to_its_schema(document):
  _check_jobset(document)


_JOB = ('spec', 'replicatedJobs', 0, 'template', 'spec')
_POD = (*_JOB, 'template', 'spec')


@pytest.mark.parametrize(
  ('path', 'key', 'value'),
  [
    (('spec', 'failurePolicy'), 'maxRestart', 3),
    (('spec', 'failurePolicy'), 'maxRestarts', 'many'),
    (_JOB, 'completion', 8),
    (_POD, 'terminationGracePeriod', 30),
    (_POD, 'nodeSelector', ['a']),
    ((*_POD, 'containers', 0), 'volumeMount', []),
    ((*_POD, 'volumes', 0, 'csi'), 'attributes', {}),
  ],
)
def test_a_fault_in_the_jobset_is_noticed(path, key, value):
  broken = copy.deepcopy(_GKE)
  _at(broken, path)[key] = value
  with pytest.raises((AssertionError, pydantic.ValidationError)):
    _check_jobset(broken)


@pytest.mark.parametrize('document', [_SKY, _filled('sky'), _filled('sky', 'v6e-8', False)])
def test_task_keeps_to_its_schema(document):
  _Task.model_validate(document)


def test_task_keeps_to_the_schema_that_skypilot_carries():
  schemas = pytest.importorskip('sky.utils.schemas', reason='skypilot is not installed')
  common = pytest.importorskip('sky.utils.common_utils')
  for task in (_SKY, _filled('sky')):
    common.validate_schema(task, schemas.get_task_schema(), 'task: ')
    common.validate_schema(task['resources'], schemas.get_resources_schema(), 'resources: ')
    common.validate_schema(task['file_mounts']['/gcs'], schemas.get_storage_schema(), 'mount: ')


@pytest.mark.parametrize(
  ('path', 'key', 'value'),
  [((), 'steup', 'x'), (('resources',), 'use_spot', 'yes'), (('resources',), 'zones', 'a')],
)
def test_a_fault_in_the_task_is_noticed(path, key, value):
  broken = copy.deepcopy(_SKY)
  _at(broken, path)[key] = value
  with pytest.raises(pydantic.ValidationError):
    _Task.model_validate(broken)


@pytest.mark.parametrize(
  ('accelerator', 'label', 'grid', 'hosts', 'chips'),
  [
    # cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
    ('v3-8', 'tpu-v3-device', '2x2', 1, 4),
    ('v3-32', 'tpu-v3-slice', '4x4', 4, 4),
    ('v3-512', 'tpu-v3-slice', '16x16', 64, 4),
    ('v4-16', 'tpu-v4-podslice', '2x2x2', 2, 4),
    ('v5litepod-8', 'tpu-v5-lite-podslice', '2x4', 1, 8),
    ('v5litepod-32', 'tpu-v5-lite-podslice', '4x8', 8, 4),
    ('v5p-8', 'tpu-v5p-slice', '2x2x1', 1, 4),
    ('v6e-256', 'tpu-v6e-slice', '16x16', 64, 4),
  ],
)
def test_jobset_has_one_pod_for_each_host_of_the_slice(accelerator, label, grid, hosts, chips):
  document = _filled('gke', accelerator)
  job, pod = _at(document, _JOB), _at(document, _POD)
  assert (job['completions'], job['parallelism'], job['backoffLimit']) == (hosts, hosts, 0)
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': label,
    'cloud.google.com/gke-tpu-topology': grid,
    'cloud.google.com/gke-spot': 'true',
  }
  assert pod['containers'][0]['resources']['limits'] == {'google.com/tpu': chips}
  assert pod['volumes'][0]['csi']['volumeAttributes']['bucketName'] == 'my.bucket'


def test_the_files_stand_for_the_slices_that_they_name():
  # Of the fields that get filled in, none is forgotten in the file: filled in with the file's own values, nothing changes.
  args = ['--config=configs/upstream.py', '--workdir=/gcs/runs/upstream']
  for system, accelerator, spot, document in (
    ('gke', 'v5litepod-32', False, _GKE),
    ('sky', 'v3-32', True, _SKY),
  ):
    plan = getattr(cluster, system)('experts', slices.find(accelerator), 'my-bucket', spot, args)
    (text,) = [command.stdin for command in plan if command.stdin]
    assert yaml.safe_load(text) == document


@pytest.mark.parametrize('system', ['gke', 'sky'])
def test_arguments_reach_the_job_as_typed(system, tmp_path):
  """Runs the file's own last line, with a python that prints its arguments, as a host would."""
  document = _filled(system)
  if system == 'gke':
    container = _at(document, _POD)['containers'][0]
    variables = {each['name']: each['value'] for each in container['env']}
    line = container['args'][0].splitlines()[-1]
    program = tmp_path / 'python'
  else:
    variables, line = document['envs'], document['run']
    program = tmp_path / 'experts/venv/bin/python'
  program.parent.mkdir(parents=True, exist_ok=True)
  program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
  program.chmod(0o755)
  result = subprocess.run(
    ['bash', '-euo', 'pipefail', '-c', line],
    env={
      **os.environ,
      **variables,
      'HOME': str(tmp_path),
      'PATH': f'{tmp_path}:{os.environ["PATH"]}',
    },
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.splitlines() == ['-m', 'launch.worker', *_MAIN_ARGS]


# Writes down its arguments and what it is fed.
_PEER = r"""#!/bin/bash
{ printf '%s\x1f' "$(basename "$0")" "$@"; if [[ $* == *' -' ]]; then cat; fi; printf '\x1e'; } >> "$CALLS"
"""


@pytest.mark.parametrize(
  ('system', 'expected'),
  [
    (
      'gke',
      [
        'gcloud storage cp build/experts.tar.gz gs://my.bucket/code/exp.tar.gz',
        'kubectl apply -f -',
      ],
    ),
    ('sky', ['sky jobs launch --yes build/exp.sky.yaml']),
  ],
)
def test_a_run_executes_what_the_dry_run_prints(system, expected, tmp_path):
  programs, repository, calls = tmp_path / 'programs', tmp_path / 'repository', tmp_path / 'calls'
  for folder in (programs, repository):
    folder.mkdir()
  for name in ('gcloud', 'kubectl', 'sky'):
    (programs / name).write_text(_PEER)
    (programs / name).chmod(0o755)
  subprocess.run(['git', 'init', '-q'], cwd=repository, check=True)
  environment = {
    **os.environ,
    'PATH': f'{programs}:{os.environ["PATH"]}',
    'PYTHONPATH': str(_ROOT),
    'CALLS': str(calls),
  }

  def execute(argv):
    result = subprocess.run(
      argv, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    received = calls.read_text().split('\x1e')[:-1] if calls.exists() else []
    calls.unlink(missing_ok=True)
    files = {each.name: each.read_bytes() for each in repository.glob('build/*.yaml')}
    return result.stdout, received, files

  launch = [sys.executable, '-m', 'launch.cluster', system, 'exp', '--accelerator=v3-32']
  launch += ['--bucket=my.bucket', '--spot']
  printed, received, files = execute([*launch, '--dry_run', '--', *_MAIN_ARGS])
  assert (received, files) == ([], {})
  _, by_hand, written = execute(['bash', '-euo', 'pipefail', '-c', printed])
  _, received, files = execute([*launch, '--', *_MAIN_ARGS])
  assert (received, files) == (by_hand, written)
  assert [call.rpartition('\x1f')[0].replace('\x1f', ' ') for call in received] == expected
  fed = files['exp.sky.yaml'] if system == 'sky' else received[-1].rpartition('\x1f')[2]
  assert yaml.safe_load(fed) == _filled(system)


@pytest.mark.parametrize(
  ('args', 'problem'),
  [
    (['Exp', '--accelerator=v3-32', '--bucket=b'], "'Exp' is no name"),
    (['exp', '--accelerator=v9-8', '--bucket=b'], "unknown accelerator 'v9-8'; known are"),
    (['exp', '--accelerator=v2-8', '--bucket=b'], 'GKE has no v2-8; it has v3'),
  ],
)
def test_bad_input_is_one_line(args, problem):
  with pytest.raises(ValueError, match=problem):
    cluster.main(['gke', *args, '--', '--workdir=/gcs/a'])


def test_a_workdir_outside_the_bucket_is_refused():
  with pytest.raises(ValueError, match='take --workdir=/gcs/runs/NAME'):
    cluster.main(['sky', 'exp', '--accelerator=v3-32', '--bucket=b', '--', '--workdir=runs/a'])


@pytest.mark.parametrize('file', ['gke.yaml', 'sky.yaml'])
def test_the_commands_at_the_head_of_the_file_are_understood(file, capsys):
  """Those of this project: with --dry_run they print a plan."""
  head = [line[1:].strip() for line in (_ROOT / 'launch' / file).read_text().splitlines()]
  at = next(i for i, line in enumerate(head) if line.startswith('python -m launch.cluster'))
  line = f'{head[at].rstrip(chr(92))} {head[at + 1]}'.replace('[--spot]', '--spot --dry_run')
  argv = shlex.split(line.replace('NAME', 'exp').replace('BUCKET', 'b'))
  cluster.main(argv[3:])
  assert 'name: exp' in capsys.readouterr().out


def test_what_is_shown_of_a_command_is_a_shell_line():
  command = commands.Command('Say it', ('echo', "it's"), 'a\n$b\n')
  assert commands.script([command]) == "# Say it\necho 'it'\"'\"'s' <<'END'\na\n$b\nEND"
