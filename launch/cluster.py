r"""Trains on a TPU slice of a GKE cluster, or on one that SkyPilot rents.

  python -m launch.cluster gke NAME --accelerator=v5litepod-32 --bucket=BUCKET --spot -- \
      --config=configs/upstream.py --workdir=/gcs/runs/upstream
  python -m launch.cluster sky NAME --accelerator=v3-32 --bucket=BUCKET --spot -- \
      --config=configs/upstream.py --workdir=/gcs/runs/upstream

Fills in launch/gke.yaml or launch/sky.yaml and submits it. With --dry_run it prints the commands, as a shell script, and
executes nothing; a run executes those very commands. What has to be there before, how to watch the job and to end it, and
what goes wrong is at the head of the two files. The workdir must be in the bucket, which is mounted at /gcs.

What goes wrong here: 'kubectl' or 'sky' is not installed, or knows no cluster; the accelerator is not one that Google
rents; NAME is not made of lower-case letters, digits and hyphens.
"""

import argparse
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from experts import entry
from launch import commands, slices, worker
from launch.commands import Command
from launch.slices import Slice

_HERE = pathlib.Path(__file__).parent


def gke(name: str, kind: Slice, bucket: str, spot: bool, main_args: Sequence[str]) -> list[Command]:
  """Packs and uploads the code, and submits the JobSet."""
  if not kind.gke:
    raise ValueError(f'GKE has no {kind.name}; it has v3, v4, v5litepod, v5p and v6e')
  jobset = _template('gke.yaml')
  jobset['metadata']['name'] = name
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  job['completions'] = job['parallelism'] = kind.hosts
  pod = job['template']['spec']
  pod['nodeSelector'] = {
    'cloud.google.com/gke-tpu-accelerator': kind.gke,
    'cloud.google.com/gke-tpu-topology': kind.grid,
    **({'cloud.google.com/gke-spot': 'true'} if spot else {}),
  }
  (container,) = pod['containers']
  container['env'] = [
    {'name': 'NAME', 'value': name},
    {'name': 'ARGUMENTS', 'value': shlex.join(main_args)},
  ]
  container['resources']['limits']['google.com/tpu'] = kind.chips_per_host
  pod['volumes'][0]['csi']['volumeAttributes']['bucketName'] = bucket
  uploaded = f'gs://{bucket}/code/{name}.tar.gz'
  return [
    commands.pack(),
    Command('Upload them', ('gcloud', 'storage', 'cp', commands.ARCHIVE, uploaded)),
    Command('Submit the JobSet', ('kubectl', 'apply', '-f', '-'), _dump(jobset)),
  ]


def sky(name: str, kind: Slice, bucket: str, spot: bool, main_args: Sequence[str]) -> list[Command]:
  """Writes the task, and submits it."""
  task = _template('sky.yaml')
  task['name'] = name
  task['resources']['accelerators'] = f'tpu-{kind.name}'
  task['resources']['accelerator_args']['runtime_version'] = kind.image
  task['resources']['use_spot'] = spot
  task['envs']['ARGUMENTS'] = shlex.join(main_args)
  task['file_mounts'][worker.BUCKET_FOLDER]['source'] = f'gs://{bucket}'
  path = f'build/{name}.sky.yaml'
  return [
    Command('A folder that git ignores', ('mkdir', '-p', 'build')),
    Command('Write the task', ('tee', path), _dump(task)),
    Command('Submit it', ('sky', 'jobs', 'launch', '--yes', path)),
  ]


class _Dumper(yaml.SafeDumper):
  """Writes scripts as blocks of lines."""


def _text(dumper, value):
  style = '|' if '\n' in value else None
  return dumper.represent_scalar('tag:yaml.org,2002:str', value, style=style)


_Dumper.add_representer(str, _text)


def _template(name) -> dict[str, Any]:
  return yaml.safe_load((_HERE / name).read_text())


def _dump(document):
  return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000)


def main(argv: Sequence[str]) -> None:
  own, main_args = commands.split(list(argv))
  parser = argparse.ArgumentParser(
    prog='python -m launch.cluster',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  systems: dict[str, Callable[..., list[Command]]] = {'gke': gke, 'sky': sky}
  parser.add_argument('system', choices=systems)
  parser.add_argument('name')
  parser.add_argument('--accelerator', required=True)
  parser.add_argument('--bucket', required=True, help='its name, without gs://')
  parser.add_argument('--spot', action='store_true')
  parser.add_argument('--dry_run', action='store_true')
  flags = parser.parse_args(own)
  worker.check_workdir(main_args)
  # Kubernetes makes host names of it.
  if not re.fullmatch(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?', flags.name):
    raise ValueError(
      f'{flags.name!r} is no name: at most 40 lower-case letters, digits, hyphens, a letter first'
    )
  kind = slices.find(flags.accelerator)
  plan = systems[flags.system](flags.name, kind, flags.bucket, flags.spot, main_args)
  if flags.dry_run:
    print(commands.script(plan))
    return
  for command in plan:
    commands.check(command)


if __name__ == '__main__':
  with entry.guard():
    main(sys.argv[1:])
