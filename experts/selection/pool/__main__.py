"""Adds models to a pool file, and lists one.

python -m experts.selection.pool add --pool=pool.json --weights=hf-hub:timm/vit_small_patch14_dinov2.lvd142m
python -m experts.selection.pool add --pool=pool.json --list=small
python -m experts.selection.pool add --pool=pool.json --name=BiT-M --kind=bit --weights=BiT-M-R50x1.npz --size=224
python -m experts.selection.pool list --pool=pool.json
"""

import argparse
import json
import os
from typing import Any

from experts import entry

_COLUMNS = (
  'name', 'kind', 'upstream', 'slice', 'parameters', 'gflops', 'dimension', 'imagenet_accuracy', 'licence',
)  # fmt: skip
_HUB = 'hf-hub:'


def main() -> None:
  """`add` or `list` on the command line."""
  import tabulate

  from experts.selection import pool

  given = vars(_parser().parse_args())
  path, command = given.pop('pool'), given.pop('command')
  if command == 'list':
    rows = [[getattr(member, column) for column in _COLUMNS] for member in pool.read(path)]
    print(tabulate.tabulate(rows, _COLUMNS, 'github', intfmt=','))
    return
  add(path, given)


def add(path: str, given: dict[str, Any]) -> None:
  """Adds the models that a command line says to a pool file, and tells of them."""
  from experts.selection.pool import joining, lists  # Reads weights.

  listed, named = given.pop('list'), given.pop('weights')
  if (listed is None) == (named is None):
    raise ValueError("say either the --weights of a model, or a --list of models' names")
  if listed:
    if said := [f'--{name}' for name, value in given.items() if value is not None]:
      raise ValueError(
        f'with --list, {", ".join(said)} cannot be said: a list says it of each model'
      )
    models = lists.read(listed, os.path.dirname(path))
  else:
    hub = named.startswith(_HUB)
    given['kind'] = given['kind'] or ('timm' if hub else None)
    given['name'] = given['name'] or (named.rpartition('/')[2] if hub else None)
    if missing := [f'--{name}' for name in ('name', 'kind') if not given[name]]:
      raise ValueError(f'say its {" and ".join(missing)}')
    models = [dict(given, source=named)]
  tell = lambda member: print(f'{member.name}: {_words(member)}', flush=True)
  found = joining.add_all(path, models, tell, again=bool(listed))
  again = [member.name for member, same in found if same]
  print(
    f'{path}: added {len(found) - len(again)}' + (f', {len(again)} were there' if again else '')
  )


def _words(member) -> str:
  said = f'{member.kind}, {member.parameters:,} parameters, dimension {member.dimension}'
  if member.gflops:
    said += f', {member.gflops:.3g} GFLOPs an image'
  said += f', licence {member.licence}' if member.licence else ''
  said += '' if member.commercial else ' (forbids commercial use)'
  return said


def fields() -> argparse.ArgumentParser:
  """What every command that adds a model is told: where, and what may not be known of it otherwise."""
  from experts.selection import pool

  parser = argparse.ArgumentParser(add_help=False)
  parser.add_argument('--pool', default='pool.json', help='the pool file (%(default)s)')
  parser.add_argument('--name', help='of the model; that of the hub, if not given')
  parser.add_argument(
    '--architecture_args',
    dest='arguments',
    type=_object,
    help='JSON, for what makes the network',
  )
  parser.add_argument('--upstream', help='data set that it was trained on')
  parser.add_argument('--images', type=int, help='images that it was trained on, if known')
  parser.add_argument('--imagenet_accuracy', type=float, help='top-1 in [0, 1], if known')
  parser.add_argument('--licence', help='of its weights')
  parser.add_argument('--size', type=int, help="side of its images, pixels; else the pool's")
  parser.add_argument('--resize', type=int, help='side before the central crop')
  parser.add_argument('--mean', type=float, nargs=3, help='of the channels of images in [0, 1]')
  parser.add_argument('--std', type=float, nargs=3, help='of the channels of images in [0, 1]')
  parser.add_argument('--interpolation', choices=pool.INTERPOLATIONS, help='when resizing')
  parser.add_argument('--antialias', action=argparse.BooleanOptionalAction, help='when resizing')
  return parser


def _parser() -> argparse.ArgumentParser:
  from experts.models import kinds
  from experts.selection.pool import lists

  parser = argparse.ArgumentParser(
    prog='python -m experts.selection.pool',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  shown = commands.add_parser('list', help='prints the models of a pool file')
  shown.add_argument('--pool', default='pool.json', help='the pool file (%(default)s)')
  made = commands.add_parser(
    'add',
    help='adds a model to a pool file, which is made if it is not there',
    parents=[fields()],
  )
  made.add_argument('--kind', choices=kinds.KINDS, help='of the model')
  made.add_argument(
    '--weights',
    help=f'file or folder; module:function of a callable; {_HUB}OWNER/NAME of a network of timm',
  )
  made.add_argument(
    '--list', help=f'all models of a JSON file, or of a list: {", ".join(lists.shipped())}'
  )
  made.add_argument(
    '--architecture', help='of a network of timm: its name there, where its files do not tell'
  )
  made.add_argument('--backbone', help="file of an adapter expert's baseline")
  made.add_argument('--parameters', type=int, help='where its weights do not tell')
  made.add_argument('--hash', help='of a callable: a word for its version, to cache by')
  return parser


def _object(text: str) -> dict:
  try:
    found = json.loads(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(f'{text!r} is no JSON ({error})') from None
  if not isinstance(found, dict):
    raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"pad_type": "same"}}')
  return found


if __name__ == '__main__':
  with entry.guard():
    main()
