"""Adds a network of torch to a pool file, if torchax computes it as torch does.

python -m experts.models.import_torch --module=nets:embedder --weights=nets.safetensors --pool=pool.json --size=224
  --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225
python -m experts.models.import_torch --timm=levit_128s --weights=hf-hub:timm/levit_128s.fb_dist_in1k --pool=pool.json
"""

import argparse

from experts import entry


def main() -> None:
  """The command line."""
  from experts.selection.pool import __main__ as command

  parser = argparse.ArgumentParser(
    prog='python -m experts.models.import_torch',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    parents=[command.fields()],
  )
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument(
    '--module',
    dest='architecture',
    metavar='MODULE:FUNCTION',
    help='function() -> torch.nn.Module, which makes embeddings [N, D] of normalised images [N, 3, S, S]',
  )
  which.add_argument('--timm', dest='architecture', metavar='NAME', help='an architecture of timm')
  parser.add_argument(
    '--weights',
    required=True,
    help='a state dict (.safetensors, .pth), or with --timm hf-hub:OWNER/NAME or a folder as of the hub',
  )
  given = vars(parser.parse_args())
  named = given['weights'].rpartition('/')[2] if given['weights'].startswith('hf-hub:') else None
  given['name'] = given['name'] or named or given['architecture'].rpartition(':')[2]
  command.add(given.pop('pool'), {**given, 'kind': 'torch', 'list': None})


if __name__ == '__main__':
  with entry.guard():
    main()
