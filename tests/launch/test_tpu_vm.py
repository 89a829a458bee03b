"""The commands for TPU VMs: as printed, and as they reach a gcloud that answers like the real one."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile

import pytest

from launch import commands, tpu_vm
from launch.tpu_vm import Target

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MAIN_ARGS = ('--config=configs/upstream.py', '--workdir=/gcs/runs/up')
_WHERE = ('exp', '--zone=europe-west4-a', '--project=p')
_V3 = (*_WHERE, '--accelerator=v3-32')
_RUN = ('run', *_V3, '--bucket=b', '--poll_seconds=0')

# Writes down what it is called with, and answers from files, a line a call.
_GCLOUD = r"""#!/bin/bash
printf '%s\x1f' gcloud "$@" >> "$ANSWERS/calls"
printf '\x1e' >> "$ANSWERS/calls"
answer() { line=$(head -n 1 "$ANSWERS/$1" 2> /dev/null); sed -i 1d "$ANSWERS/$1" 2> /dev/null; echo "${line:-$2}"; }
case "$*" in
  *queued-resources\ describe*)
    state=$(answer describe $'ACTIVE\tv3-32')
    if [[ $state == none ]]; then echo 'ERROR: NOT_FOUND: no such resource' >&2; exit 1; fi
    if [[ $state == denied ]]; then echo 'ERROR: PERMISSION_DENIED: no' >&2; exit 1; fi
    echo "$state" ;;
  *queued-resources\ create*) exit "$(answer create 0)" ;;
  *host.sh\ running*) exit "$(answer running 10)" ;;
  *host.sh\ follow*) exit "$(answer follow 0)" ;;
esac
"""


class _Cloud:
  """A repository to start from, and a gcloud on the PATH."""

  def __init__(self, folder: pathlib.Path):
    self.repository = folder / 'my repository'
    self.repository.mkdir()
    (self.repository / 'main.py').touch()
    self.git('init', '-q')
    self.git('add', 'main.py')
    self.answers = folder / 'answers'
    self.answers.mkdir()
    self.programs = folder / 'programs'
    self.programs.mkdir()
    (self.programs / 'gcloud').write_text(_GCLOUD)
    (self.programs / 'gcloud').chmod(0o755)
    self.environment = {
      **os.environ,
      'PATH': f'{self.programs}:{os.environ["PATH"]}',
      'PYTHONPATH': str(_ROOT),
      'ANSWERS': str(self.answers),
    }

  def git(self, *args: str) -> None:
    subprocess.run(['git', *args], cwd=self.repository, check=True)

  def answer(self, **lines: list) -> None:
    for name, each in lines.items():
      (self.answers / name).write_text(''.join(f'{line}\n' for line in each))

  def launch(self, *args: str, main_args=_MAIN_ARGS) -> subprocess.CompletedProcess[str]:
    behind = ['--', *main_args] if args[0] == 'run' else []
    return self.execute([sys.executable, '-m', 'launch.tpu_vm', *args, *behind])

  def execute(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
      argv,
      cwd=self.repository,
      env=self.environment,
      capture_output=True,
      text=True,
      check=False,
    )

  def calls(self) -> list[tuple[str, ...]]:
    path = self.answers / 'calls'
    calls = path.read_text().split('\x1e')[:-1] if path.exists() else []
    path.unlink(missing_ok=True)
    return [tuple(call.split('\x1f')[:-1]) for call in calls]


@pytest.fixture
def cloud(tmp_path):
  return _Cloud(tmp_path)


def _words(calls) -> list[str]:
  """What each call is, in a word."""
  verbs = {'scp': 'copy', 'running': 'running', 'install': 'install', 'start': 'start'}
  words = []
  for call in calls:
    line = call[-1].partition('host.sh ')[2].split(' ')[0]
    words.append(line or verbs.get(call[4], call[4]))
  return words


_DESCRIBE = (
  'gcloud compute tpus queued-resources describe exp --zone=europe-west4-a --project=p '
  "'--format=value(state.state,tpu.nodeSpec[0].node.acceleratorType.basename())'"
)
_CREATE = (
  'gcloud compute tpus queued-resources create exp --zone=europe-west4-a --project=p --node-id=exp '
  '--accelerator-type=v3-32 --runtime-version=tpu-ubuntu2204-base'
)
_SSH = 'gcloud compute tpus tpu-vm ssh exp --zone=europe-west4-a --project=p'
_HOST = 'bash ~/experts/code/launch/host.sh'
_SESSION = f"""\
# Does it run there already? Then only the last command follows
{_SSH} --worker=0 '--command={_HOST} running --config=configs/upstream.py --workdir=/gcs/runs/up'
# Pack the files that git tracks, as they are now
bash -c 'set -euo pipefail; mkdir -p build; git ls-files -z | while IFS= read -r -d "" f; do if [ -e "$f" ]; then \
printf "%s\\0" "$f"; fi; done | tar -czf build/experts.tar.gz --null -T -'
# Copy them to all hosts
gcloud compute tpus tpu-vm scp build/experts.tar.gz exp:experts.tar.gz --zone=europe-west4-a --project=p --worker=all
# Install on all hosts: Python, the packages of constraints.txt, the bucket
{_SSH} --worker=all '--command=mkdir -p ~/experts && cd ~/experts && rm -rf code && mkdir code && \
tar -xzf ~/experts.tar.gz -C code && {_HOST} install b'
# Start main.py on all hosts
{_SSH} --worker=all '--command={_HOST} start --config=configs/upstream.py --workdir=/gcs/runs/up'
# Show the log of host 0 until the job ends
{_SSH} --worker=0 '--command={_HOST} follow'
"""


@pytest.mark.parametrize('spot', [False, True])
def test_dry_run_of_create(cloud, spot):
  flag = ['--spot'] * spot
  result = cloud.launch('create', *_V3, *flag, '--dry_run')
  assert result.stdout == (
    f'# Is there such a request? Then none is made\n{_DESCRIBE}\n'
    f'# Ask for a v3-32: 4 hosts with 4 chips each\n{shlex.join([*shlex.split(_CREATE), *flag])}\n'
    f'# Again and again, until it is ACTIVE\n{_DESCRIBE}\n'
  )
  assert cloud.calls() == []


def test_dry_run_of_a_spot_run(cloud):
  result = cloud.launch(*_RUN, '--spot', '--dry_run')
  created = cloud.launch('create', *_V3, '--spot', '--dry_run').stdout
  assert result.stdout == (
    f'{created}{_SESSION}# If it was preempted (SUSPENDED): then anew\n'
    'gcloud compute tpus queued-resources delete exp --zone=europe-west4-a --project=p --force --quiet\n'
  )
  assert cloud.calls() == []
  assert not (cloud.repository / 'build').exists()


@pytest.mark.parametrize(
  ('action', 'lines'),
  [
    (
      ('delete',),
      [
        'gcloud compute tpus queued-resources delete exp --zone=europe-west4-a --project=p --force --quiet'
      ],
    ),
    (('logs', '--worker=3'), [f"{_SSH} --worker=3 '--command={_HOST} follow'"]),
    (('stop',), [f"{_SSH} --worker=all '--command={_HOST} stop'"]),
    (
      ('status',),
      [
        'gcloud compute tpus queued-resources describe exp --zone=europe-west4-a --project=p',
        f"{_SSH} --worker=all '--command={_HOST} status'",
      ],
    ),
  ],
)
def test_dry_run_of_the_small_actions_and_their_execution(cloud, action, lines):
  verb, *flags = action
  result = cloud.launch(verb, *_WHERE, *flags, '--dry_run')
  assert [line for line in result.stdout.splitlines() if line[0] != '#'] == lines
  assert cloud.launch(verb, *_WHERE, *flags).returncode == 0
  assert cloud.calls() == [tuple(shlex.split(line)) for line in lines]


_HARD = ['--config=my configs/a b.py', '--workdir=/gcs/it\'s "here"', '--config.note=$HOME `id` ;é']


@pytest.mark.parametrize('main_args', [_MAIN_ARGS, _HARD])
def test_a_run_executes_what_the_dry_run_prints(cloud, main_args):
  printed = cloud.launch(*_RUN, '--dry_run', main_args=main_args).stdout
  cloud.answer(describe=['none', 'ACTIVE\tv3-32'])
  cloud.execute(['bash', '-c', printed])
  by_hand = cloud.calls()
  (cloud.repository / 'build/experts.tar.gz').unlink()

  cloud.answer(describe=['none', 'ACTIVE\tv3-32'])
  assert cloud.launch(*_RUN, main_args=main_args).returncode == 0
  assert cloud.calls() == by_hand
  assert _words(by_hand) == [
    *('describe', 'create', 'describe', 'running', 'copy', 'install', 'start', 'follow')
  ]
  assert (cloud.repository / 'build/experts.tar.gz').exists()
  # The host's shell takes the quotes off: main.py gets what was typed.
  start = by_hand[-2][-1].removeprefix('--command=')
  assert shlex.split(start)[3:] == list(main_args)


def test_a_preempted_slice_is_requested_again_and_the_same_command_run(cloud):
  printed = cloud.launch(*_RUN, '--spot', '--dry_run').stdout
  cloud.answer(
    describe=['none', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE\tv3-32']
    # The job has ended; the slice vanishes a little later.
    + ['ACTIVE\tv3-32', 'SUSPENDING', 'SUSPENDING', 'SUSPENDED']
    + ['WAITING_FOR_RESOURCES', 'ACTIVE\tv3-32'],
    follow=[143, 0],
  )
  result = cloud.launch(*_RUN, '--spot')
  assert result.returncode == 0, result.stderr
  calls = cloud.calls()
  session = ['running', 'copy', 'install', 'start', 'follow']
  assert _words(calls) == [
    *['describe', 'create', 'describe', 'describe', 'describe', *session],
    *['describe', 'describe', 'describe', 'describe', 'delete', 'create'],
    *['describe', 'describe', *session],
  ]
  shown = {tuple(shlex.split(line)) for line in printed.splitlines() if line[0] != '#'}
  assert set(calls) <= shown
  assert 'exp was preempted: requested again' in result.stderr


def test_a_slice_that_vanishes_during_the_installation_is_requested_again(cloud):
  # ssh itself ends with 255.
  cloud.answer(describe=['ACTIVE', 'SUSPENDED', 'SUSPENDED', 'ACTIVE'], running=[255, 10])
  assert cloud.launch(*_RUN, '--spot').returncode == 0
  assert _words(cloud.calls()) == [
    *('describe', 'running', 'describe', 'describe', 'delete', 'create', 'describe'),
    *('running', 'copy', 'install', 'start', 'follow'),
  ]


def test_a_job_that_runs_already_is_only_shown(cloud):
  cloud.answer(running=[0])
  assert cloud.launch(*_RUN).returncode == 0
  assert _words(cloud.calls()) == ['describe', 'running', 'follow']


def test_another_job_on_the_slice_is_left_alone(cloud):
  cloud.answer(running=[11])
  result = cloud.launch(*_RUN)
  assert (result.returncode, result.stderr.splitlines()[-1]) == (
    1,
    'error: exp runs something else; see `logs`, end it with `stop`',
  )
  assert _words(cloud.calls()) == ['describe', 'running']


@pytest.mark.parametrize(('spot', 'looks'), [(False, 0), (True, 3)])
def test_a_job_that_fails_on_a_slice_that_stays_ends_the_run_and_keeps_the_slice(
  cloud, spot, looks
):
  cloud.answer(follow=[1])
  result = cloud.launch(*_RUN, *['--spot'] * spot)
  assert result.returncode == 1
  assert 'error: ended with 1' in result.stderr
  words = _words(cloud.calls())
  assert words[words.index('follow') + 1 :] == ['describe'] * looks


def test_a_request_that_someone_deletes_is_not_made_again(cloud):
  cloud.answer(describe=['ACTIVE', 'none'], follow=[255])
  assert cloud.launch(*_RUN, '--spot').returncode == 1
  cloud.answer(describe=['none', 'WAITING_FOR_RESOURCES', 'DELETING', 'none'])
  result = cloud.launch('create', *_V3, '--poll_seconds=0')
  assert 'error: the request exp is deleted' in result.stderr
  assert _words(cloud.calls()).count('create') == 1


def test_a_slice_of_another_kind_under_that_name_is_refused(cloud):
  cloud.answer(describe=['ACTIVE\tv3-8'])
  result = cloud.launch(*_RUN)
  assert result.stderr.splitlines()[-1] == (
    'error: exp is a v3-8, not a v3-32: take another name, or `delete` it'
  )
  assert _words(cloud.calls()) == ['describe']


def test_what_gcloud_refuses_is_said_and_ends_the_run(cloud):
  cloud.answer(describe=['none'], create=[1])
  result = cloud.launch(*_RUN)
  assert result.stderr.splitlines()[-1] == f'error: this ended with 1: {_CREATE}'
  assert _words(cloud.calls()) == ['describe', 'create']
  cloud.answer(describe=['denied'])
  assert 'gcloud cannot describe exp: ERROR: PERMISSION_DENIED' in cloud.launch(*_RUN).stderr


def test_a_missing_gcloud_is_one_line(cloud):
  (cloud.programs / 'gcloud').unlink()
  cloud.environment['PATH'] = str(cloud.programs)
  result = cloud.launch('stop', *_WHERE)
  assert result.stderr.splitlines()[-1] == (
    "error: 'gcloud' is not installed; launch/README.md says from where"
  )


def test_an_unknown_accelerator_is_answered_with_those_there_are(cloud):
  result = cloud.launch('create', *_WHERE, '--accelerator=v3-33', '--dry_run')
  assert result.returncode == 1
  assert result.stderr.startswith("error: unknown accelerator 'v3-33'; known are v2-{8,32,")
  assert 'v3-{8,32,64,128,256,512,1024,2048}' in result.stderr


def test_a_workdir_outside_the_bucket_ends_a_run_before_it_begins(cloud):
  result = cloud.launch(*_RUN, main_args=['--workdir=runs/up'])
  assert 'take --workdir=/gcs/runs/NAME' in result.stderr
  assert cloud.calls() == []


def test_what_travels_is_what_git_tracks_as_it_is_on_disk(cloud):
  for name in ('a b.txt', 'line\nbreak', 'gone', 'secret'):
    (cloud.repository / name).write_text('old')
  cloud.git('add', 'a b.txt', 'line\nbreak', 'gone')
  (cloud.repository / 'a b.txt').write_text('new')
  (cloud.repository / 'gone').unlink()
  assert cloud.execute(list(commands.pack().argv)).returncode == 0
  with tarfile.open(cloud.repository / commands.ARCHIVE) as archive:
    assert sorted(archive.getnames()) == ['a b.txt', 'line\nbreak', 'main.py']
    assert archive.extractfile('a b.txt').read() == b'new'


@pytest.mark.parametrize(
  ('state', 'on_demand', 'spot'),
  [
    (None, 'create', 'create'),
    ('WAITING_FOR_RESOURCES', 'wait', 'wait'),
    ('PROVISIONING', 'wait', 'wait'),
    ('ACTIVE', 'use', 'use'),
    ('SUSPENDING', 'wait', 'wait'),
    ('SUSPENDED', 'replace', 'replace'),
    ('FAILED', 'fail', 'replace'),
    ('DELETING', 'wait', 'wait'),
    ('A_STATE_OF_TOMORROW', 'fail', 'fail'),
  ],
)
def test_next_action(state, on_demand, spot):
  assert tpu_vm.next_action(state, spot=False) == on_demand
  assert tpu_vm.next_action(state, spot=True) == spot


def _all_gcloud_commands() -> list[commands.Command]:
  made = []
  for accelerator in ('v2-8', 'v3-32', 'v4-8', 'v5litepod-8', 'v5p-8', 'v6e-8'):
    target = Target('exp', 'z', 'p', accelerator, spot=True, bucket='b')
    made += tpu_vm.queue(target)
  made += [*tpu_vm.session(target, _HARD), tpu_vm.stop(target), tpu_vm.delete(target)]
  made += tpu_vm.status(target)
  return [command for command in made if command.argv[0] == 'gcloud']


def _lines(file: str, program: str) -> list[str]:
  """The commands of a program that a manual shows; those that go on in the next line are joined."""
  text = re.sub(r'\\\n#?\s*', '', (_ROOT / 'launch' / file).read_text())
  shown = [line.lstrip('# ') for line in text.replace('[--spot]', '--spot').splitlines()]
  return [line for line in shown if line.startswith(program)]


@pytest.mark.parametrize('file', ['README.md', 'tpu_vm.py'])
def test_the_commands_of_the_manuals_are_understood(file, cloud, capsys, monkeypatch):
  monkeypatch.chdir(cloud.repository)
  lines = _lines(file, 'python -m launch.tpu_vm')
  assert lines
  for line in lines:
    own, behind = commands.split(shlex.split(line)[3:])
    tpu_vm.main([*own, '--dry_run', '--', *behind])
    assert 'queued-resources' in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which('gcloud'), reason='gcloud is not installed')
def test_the_real_gcloud_knows_every_command_and_flag(tmp_path):
  manuals = _lines('README.md', 'gcloud ') + _lines('gke.yaml', 'gcloud ')
  assert len(manuals) == 13
  lines = sorted({*map(str, _all_gcloud_commands()), *manuals})
  unknown = 'gcloud compute tpus tpu-vm ssh exp --zone=z --workers=all'
  file = tmp_path / 'commands.json'
  file.write_text(json.dumps([{'command_string': line} for line in [*lines, unknown]]))
  result = subprocess.run(
    ['gcloud', 'meta', 'lint-gcloud-commands', f'--commands-file={file}'],
    env={**os.environ, 'CLOUDSDK_CONFIG': str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  if 'Invalid choice' in result.stderr:
    pytest.skip('this gcloud has no linter')
  verdicts = json.loads(result.stdout)
  refused = {each['command_string']: each['error_type'] for each in verdicts if not each['success']}
  assert len(verdicts) == len(lines) + 1
  assert refused == {unknown: 'UnrecognizedArgumentsError'}
