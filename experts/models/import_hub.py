"""Makes a pool of the experts that [EXP] published for TensorFlow Hub, in this project's own form.

python -m experts.models.import_hub --modules=FOLDER --out=POOL
"""

import argparse

from experts import entry


def main() -> None:
  """The command line."""
  from experts.selection import pool
  from experts.selection.pool import converting

  parser = argparse.ArgumentParser(prog='python -m experts.models.import_hub', description=__doc__)
  parser.add_argument(
    '--modules', required=True, help='folder with NAME/, NAME/1/ or NAME.tar.gz for each expert'
  )
  parser.add_argument(
    '--out', required=True, help='the pool file (.json) to make, or the folder of a pool.json'
  )
  given = parser.parse_args()
  path = converting.convert(given.modules, given.out)
  print(f'{path}: {len(pool.read(path))} models')


if __name__ == '__main__':
  with entry.guard():
    main()
