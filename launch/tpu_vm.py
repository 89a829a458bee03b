r"""Trains on a Cloud TPU slice made of TPU VMs, in one command, from nothing or from where it was interrupted.

  python -m launch.tpu_vm run NAME --accelerator=v3-32 --zone=europe-west4-a --bucket=BUCKET --spot -- \
      --config=configs/upstream.py --workdir=/gcs/runs/upstream

asks for the slice (a queued resource; one of that name that is there already is used), waits until it is granted, copies
the files that git tracks to all its hosts, brings Python there and installs the project as constraints.txt has it, mounts
the bucket at /gcs on every host, starts `main.py` with the arguments behind `--` on all of them, and shows the log of host
0 until it ends. Nothing depends on this terminal: Ctrl-C leaves the job running, and the same command shows it again.

With --spot the slice is cheap and can be taken away at any time. Its queued resource is then SUSPENDED, for good: it is
deleted, requested again, and the same command run on the new slice; main.py goes on from its last checkpoint. For this the
terminal has to stay open: start it in tmux or screen on a machine that stays on.

  run      all of the above                            --accelerator --zone --bucket [--spot] -- ARGUMENTS OF main.py
  create   only ask for the slice, wait till granted   --accelerator --zone [--spot]
  logs     show a host's log until the job ends        --zone [--worker=3]
  status   the request, and the job on every host      --zone
  stop     SIGTERM to the job on all hosts: it saves and ends; wait for that          --zone
  delete   give the slice back: what is not in the bucket is gone, and so is the bill --zone

All take --project (else gcloud's own default) and --dry_run, which prints the commands, as a shell script, and executes
nothing. A run executes those very commands; which of them, and how often, depends on what gcloud answers.

The workdir must be in the bucket, so under /gcs: all hosts write to it, and it outlives the slice. gs://… is no folder, and
main.py does not know it. Data can lie there too: --config.data_dir=/gcs/data.

What goes wrong
  * "ssh-add": gcloud needs its key in an agent to reach many hosts: ssh-add ~/.ssh/google_compute_engine. The file is there
    after the first `gcloud compute tpus tpu-vm ssh NAME --zone=ZONE`.
  * WAITING_FOR_RESOURCES for hours: no capacity. Another zone, a smaller slice or --spot; the queue costs nothing.
  * FAILED: `status` says why (often a quota of 0 for this type, zone, and spot or not). `delete`, then another request.
  * An old JAX, or "requires a different Python": something ran the image's own Python 3.10. Use ~/experts/venv/bin/python.
  * "The TPU is already in use" or /tmp/libtpu_lockfile: a process from before holds the chips. `stop`, then `run`, which
    ends what is left of an earlier job on every host and removes the file.
  * 403 or "Permission denied" in /gcs: give the service account of the VMs (by default the Compute Engine one) the role
    Storage Object User on the bucket. Make the bucket as the README of this folder says.
  * One host dies: the others end within two minutes with an error, and so does `run`; the same command resumes.
"""

import argparse
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence

from experts import entry
from launch import commands, slices, worker
from launch.commands import Command

# What host.sh answers to `running`; 127 where it is not there yet.
_NOT_RUNNING, _RUNS_OTHER = (10, 127), 11
# How often the state is looked up after a job on spot capacity has failed, before that is put down to the job.
_LOOKS = 3


@dataclasses.dataclass(frozen=True)
class Target:
  """The slice in question; a queued resource and its only node bear the same name."""

  name: str
  zone: str
  project: str
  accelerator: str = ''
  spot: bool = False
  bucket: str = ''


def create(target: Target) -> Command:
  kind = slices.find(target.accelerator)
  note = f'Ask for a {kind.name}: {kind.hosts} hosts with {kind.chips_per_host} chips each'
  flags = [f'--accelerator-type={kind.name}', f'--runtime-version={kind.image}']
  return _queue(
    note, 'create', target, f'--node-id={target.name}', *flags, *['--spot'] * target.spot
  )


def describe(target: Target, note: str = 'How is the request?') -> Command:
  wanted = 'value(state.state,tpu.nodeSpec[0].node.acceleratorType.basename())'
  return _queue(note, 'describe', target, f'--format={wanted}')


def delete(target: Target) -> Command:
  # --force: the node too.
  return _queue('Delete the request and its hosts', 'delete', target, '--force', '--quiet')


def copy(target: Target) -> Command:
  return Command(
    'Copy them to all hosts',
    _gcloud('tpu-vm', 'scp', target, commands.ARCHIVE, f'{target.name}:experts.tar.gz')
    + ('--worker=all',),
  )


def install(target: Target) -> Command:
  fresh = 'cd ~/experts && rm -rf code && mkdir code && tar -xzf ~/experts.tar.gz -C code'
  return _ssh(
    'Install on all hosts: Python, the packages of constraints.txt, the bucket',
    target,
    'all',
    f'mkdir -p ~/experts && {fresh} && {_host("install", target.bucket)}',
  )


def is_running(target: Target, main_args: Sequence[str]) -> Command:
  note = 'Does it run there already? Then only the last command follows'
  return _ssh(note, target, '0', _host('running', *main_args))


def start(target: Target, main_args: Sequence[str]) -> Command:
  return _ssh('Start main.py on all hosts', target, 'all', _host('start', *main_args))


def follow(target: Target, host: str = '0') -> Command:
  return _ssh(f'Show the log of host {host} until the job ends', target, host, _host('follow'))


def stop(target: Target) -> Command:
  return _ssh('Let the job save and end, on all hosts', target, 'all', _host('stop'))


def status(target: Target) -> list[Command]:
  return [
    _queue('The request', 'describe', target),
    _ssh('The job, on every host', target, 'all', _host('status')),
  ]


def session(target: Target, main_args: Sequence[str]) -> list[Command]:
  """What is done on a slice that has been granted, in this order."""
  return [
    is_running(target, main_args),
    commands.pack(),
    copy(target),
    install(target),
    start(target, main_args),
    follow(target),
  ]


def queue(target: Target) -> list[Command]:
  """What gets a slice where there is none yet, in this order."""
  return [
    describe(target, 'Is there such a request? Then none is made'),
    create(target),
    describe(target, 'Again and again, until it is ACTIVE'),
  ]


def next_action(state: str | None, spot: bool) -> str:
  """What to do about a request in a state: 'use', 'wait', 'create', 'replace' (delete, then create) or 'fail'.

  States: cloud.google.com/tpu/docs/queued-resources; None where there is no request.
  """
  if state in ('SUSPENDED', 'FAILED'):
    # Spot capacity that vanishes while it is handed out is FAILED too. Otherwise a person has to look.
    return 'replace' if spot or state == 'SUSPENDED' else 'fail'
  return {
    None: 'create',
    'ACTIVE': 'use',
    'CREATING': 'wait',
    'ACCEPTED': 'wait',
    'PROVISIONING': 'wait',
    'WAITING_FOR_RESOURCES': 'wait',
    'SUSPENDING': 'wait',
    'DELETING': 'wait',
  }.get(state, 'fail')


def acquire(target: Target, poll_seconds: float) -> None:
  """Returns when the slice can be used."""
  requested = False
  while True:
    state = _state(target)
    action = next_action(state, target.spot)
    if action == 'use':
      return
    if action == 'fail' or (requested and action == 'create'):
      raise RuntimeError(
        f'the request {target.name} is {state or "deleted"}; look with `status`, remove it with `delete`'
      )
    if action == 'replace':
      commands.check(delete(target))
    if action in ('create', 'replace'):
      commands.check(create(target))
      requested = True
    print(f'# {target.name}: {state or "requested"}', file=sys.stderr, flush=True)
    time.sleep(poll_seconds)


def run(target: Target, main_args: Sequence[str], poll_seconds: float) -> None:
  """Trains until main.py has finished, on as many slices as it takes."""
  while True:
    acquire(target, poll_seconds)
    code = _train(target, main_args)
    if code == 0:
      print(
        f'# finished; the slice {target.name} costs money until you `delete` it', file=sys.stderr
      )
      return
    # Only what Google took is requested again: a request that someone deleted stays deleted.
    if not (target.spot and _taken(target, poll_seconds)):
      raise RuntimeError(
        f'ended with {code} (143: interrupted before the end). The same command resumes; the slice {target.name} '
        'is kept, and costs money until you `delete` it'
      )
    print(f'# {target.name} was preempted: requested again', file=sys.stderr, flush=True)


def _train(target, main_args):
  first, *others, last = session(target, main_args)
  code = commands.call(first).returncode
  if code == _RUNS_OTHER:
    raise RuntimeError(f'{target.name} runs something else; see `logs`, end it with `stop`')
  if code not in (0, *_NOT_RUNNING):
    return code
  for command in [*(others if code else []), last]:
    code = commands.call(command).returncode
    if code:
      return code
  return 0


def _taken(target, poll_seconds):
  for _ in range(_LOOKS):
    state = _state(target)
    if state != 'ACTIVE':
      return state in ('SUSPENDING', 'SUSPENDED')
    time.sleep(poll_seconds)
  return False


def _state(target):
  result = commands.call(describe(target), capture=True)
  if result.returncode:
    if 'NOT_FOUND' in result.stderr:
      return None
    raise RuntimeError(f'gcloud cannot describe {target.name}: {result.stderr.strip()}')
  state, _, accelerator = result.stdout.strip().partition('\t')
  if target.accelerator and accelerator not in ('', target.accelerator):
    raise ValueError(
      f'{target.name} is a {accelerator}, not a {target.accelerator}: take another name, or `delete` it'
    )
  return state


def _gcloud(group, verb, target, *args):
  where = [f'--zone={target.zone}'] + [f'--project={target.project}'] * bool(target.project)
  return ('gcloud', 'compute', 'tpus', group, verb, *args, *where)


def _queue(note, verb, target, *flags):
  return Command(note, _gcloud('queued-resources', verb, target, target.name) + flags)


def _ssh(note, target, hosts, line):
  flags = (f'--worker={hosts}', f'--command={line}')
  return Command(note, _gcloud('tpu-vm', 'ssh', target, target.name) + flags)


def _host(*args):
  # Not quoted: the host's shell knows its home.
  return f'bash ~/experts/code/launch/host.sh {shlex.join(args)}'


def _plan(action, target, main_args, host):
  if action == 'run':
    again = dataclasses.replace(delete(target), note='If it was preempted (SUSPENDED): then anew')
    return queue(target) + session(target, main_args) + [again] * target.spot
  return {
    'create': lambda: queue(target),
    'logs': lambda: [follow(target, host)],
    'status': lambda: status(target),
    'stop': lambda: [stop(target)],
    'delete': lambda: [delete(target)],
  }[action]()


def _arguments(argv):
  parser = argparse.ArgumentParser(
    prog='python -m launch.tpu_vm',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
  for action in ('run', 'create', 'logs', 'status', 'stop', 'delete'):
    flags = actions.add_parser(action, allow_abbrev=False)
    flags.add_argument('name')
    flags.add_argument('--zone', required=True)
    flags.add_argument('--project', default='')
    flags.add_argument('--dry_run', action='store_true')
    if action in ('run', 'create'):
      flags.add_argument('--accelerator', required=True)
      flags.add_argument('--spot', action='store_true')
      flags.add_argument(
        '--poll_seconds', type=float, default=60, help='between looks at the queue'
      )
    if action == 'run':
      flags.add_argument('--bucket', required=True, help='its name, without gs://')
    if action == 'logs':
      flags.add_argument('--worker', default='0')
  return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
  own, main_args = commands.split(list(argv))
  flags = _arguments(own)
  names = {field.name for field in dataclasses.fields(Target)}
  target = Target(**{name: value for name, value in vars(flags).items() if name in names})
  if flags.action == 'run':
    worker.check_workdir(main_args)
    if not os.path.exists('main.py'):
      raise FileNotFoundError('no main.py here: start this at the root of the repository')
  plan = _plan(flags.action, target, main_args, getattr(flags, 'worker', '0'))
  if flags.dry_run:
    print(commands.script(plan))
  elif flags.action == 'run':
    run(target, main_args, flags.poll_seconds)
  elif flags.action == 'create':
    acquire(target, flags.poll_seconds)
  else:
    for command in plan:
      commands.check(command)


if __name__ == '__main__':
  with entry.guard('# left; what runs on the slice goes on'):
    main(sys.argv[1:])
