"""Adds models to a pool file, and lists one.

python -m experts.selection.pool add --pool=pool.json --name=BiT-M --kind=bit --weights=BiT-M-R50x1.npz --size=224
python -m experts.selection.pool list --pool=pool.json
"""

import argparse

from experts import entry


def main() -> None:
  """`add` or `list` on the command line."""
  import tabulate

  from experts.models import kinds
  from experts.selection import pool
  from experts.selection.pool import joining  # Reads weights.

  parser = argparse.ArgumentParser(prog='python -m experts.selection.pool', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  shown = commands.add_parser('list', help='prints the models of a pool file')
  made = commands.add_parser(
    'add', help='adds a model to a pool file, which is made if it is not there'
  )
  for one in (shown, made):
    one.add_argument('--pool', default='pool.json', help='the pool file (%(default)s)')
  made.add_argument('--name', required=True, help='of the model')
  made.add_argument('--kind', required=True, choices=kinds.KINDS, help='of the model')
  made.add_argument(
    '--weights', required=True, help='file or folder; module:function of a callable'
  )
  made.add_argument('--backbone', help="file of an adapter expert's baseline")
  made.add_argument('--upstream', default='', help='data set that it was trained on')
  made.add_argument(
    '--images', type=int, default=0, help='images that it was trained on; 0 if unknown'
  )
  made.add_argument('--imagenet_accuracy', type=float, help='top-1 in [0, 1], if known')
  made.add_argument('--size', type=int, help="side of its images, pixels; else the pool's")
  made.add_argument('--resize', type=int, help='side before the central crop')
  made.add_argument('--parameters', type=int, help='where its weights do not tell')
  made.add_argument('--hash', default='', help='of a callable: a word for its version, to cache by')
  given = vars(parser.parse_args())
  path, command = given.pop('pool'), given.pop('command')
  if command == 'list':
    columns = (
      'name', 'kind', 'upstream', 'slice', 'parameters', 'dimension', 'imagenet_accuracy',
    )  # fmt: skip
    rows = [[getattr(m, column) for column in columns] for m in pool.read(path)]
    print(tabulate.tabulate(rows, columns, 'github', intfmt=','))
    return
  member = joining.add(path, source=given.pop('weights'), **given)
  print(
    f'{path}: added {member.name} ({member.kind}, {member.parameters:,} parameters, dimension '
    f'{member.dimension})'
  )


if __name__ == '__main__':
  with entry.guard():
    main()
