"""Gives a fine-tuned network away, in a form that others open, with a model card.

python -m experts.models.export --model=runs/mine/transfer/mine --format=timm --out=FOLDER
"""

import argparse

from experts import entry


def main() -> None:
  """One export by the command line."""
  from experts.models.exporting import FORMS

  parser = argparse.ArgumentParser(
    prog='python -m experts.models.export',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--model', required=True, help='what a transfer left: its folder')
  parser.add_argument('--format', required=True, choices=FORMS, help='of the export')
  parser.add_argument('--out', required=True, help='folder to make')
  parser.add_argument(
    '--data_dir', default='', help="where relative paths of the task's data start, as in its config"
  )
  given = parser.parse_args()
  entry.quiet_terminal(least=entry.WARNINGS)
  from experts.export import export  # Loads JAX.

  check = export(given.model, given.format, given.out, given.data_dir)
  print(
    f'{given.out}: {check.runtime} gives the same probabilities to {check.difference:.1e} on {check.images}'
  )


if __name__ == '__main__':
  with entry.guard():
    main()
