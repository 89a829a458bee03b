"""Lists of networks that join a pool together: a JSON file of people's own, or one that is shipped."""

import importlib.resources
import json
import math
import os
from collections.abc import Mapping
from typing import Any

# Fields of `pool.Member` that an entry may give as they are.
_AS_THEY_ARE = (
  'name', 'kind', 'architecture', 'upstream', 'images', 'mean', 'std', 'size', 'resize', 'interpolation',
  'antialias', 'keep_aspect', 'imagenet_accuracy', 'licence',
)  # fmt: skip
# What an entry says for its reader, or to be checked.
_BESIDES = (
  'file', 'hub', 'kwargs', 'crop', 'sha256', 'parameters', 'dimension', 'gflops', 'parameters_with_head',
  'num_classes', 'labels', 'source', 'dtype', 'notes',
)  # fmt: skip


def shipped() -> list[str]:
  """The names of the lists that come with the project."""
  folder = importlib.resources.files(__package__) / 'shipped'
  return sorted(
    file.name.removesuffix('.json') for file in folder.iterdir() if file.name.endswith('.json')
  )


def read(source: str, brought: str | os.PathLike = '') -> list[dict[str, Any]]:
  """The models of a list, as arguments of `joining.add`.

  Args:
    source: a JSON file, a list of objects: `name`, `file` (beside it) or `hub` (a repository of the Hugging Face hub), and
      what else is known, `architecture` and `kwargs` (of timm's class), `mean`, `std`, `size`, `crop` (the share of the
      resized image that is kept), `interpolation`, `antialias`, `upstream`, `images`, `imagenet_accuracy`, `licence`, `kind`
      (timm, if not given), `sha256` (of the file); or the name of a list that is shipped.
    brought: a folder, in which the folder OWNER/NAME is taken instead of that repository, where it is there.

  Raises:
    FileNotFoundError: no such list.
    ValueError: no list of such objects, or a file that is not the one whose sha256 is given.
  """
  if source in shipped():
    text = (importlib.resources.files(__package__) / 'shipped' / f'{source}.json').read_text(
      'utf-8'
    )
    folder = ''
  else:
    try:
      with open(source, encoding='utf-8') as file:
        text, folder = file.read(), os.path.dirname(os.path.abspath(source))
    except FileNotFoundError:
      raise FileNotFoundError(
        f'no list {source}: a JSON file, or one of {", ".join(shipped())}'
      ) from None
    except UnicodeDecodeError as error:
      raise ValueError(f'{source} is no text in UTF-8: {error}') from None
  try:
    entries = json.loads(text)
  except ValueError as error:
    raise ValueError(f'{source} is no JSON file: {error}') from None
  if (
    not entries
    or not isinstance(entries, list)
    or not all(isinstance(entry, dict) for entry in entries)
  ):
    raise ValueError(f'{source} must hold a list of objects, one a model')
  return [
    _arguments(f'{source}: entry {i}', entry, folder, brought) for i, entry in enumerate(entries)
  ]


def _arguments(label, entry: Mapping[str, Any], folder, brought) -> dict[str, Any]:
  label = f'{label} ({entry.get("name", "without name")})'
  if unknown := sorted({*entry} - {*_AS_THEY_ARE, *_BESIDES}):
    raise ValueError(
      f'{label} has unknown fields {", ".join(unknown)}; known: {", ".join((*_AS_THEY_ARE, *_BESIDES))}'
    )
  texts = [entry.get(name) for name in ('name', 'file', 'hub') if name in entry]
  whole = len(texts) == 2 and 'name' in entry and all(isinstance(x, str) and x for x in texts)
  if not whole:
    raise ValueError(f"{label} needs a name, and either 'file' or 'hub', each a text")
  given = {name: entry[name] for name in _AS_THEY_ARE if entry.get(name) is not None}
  given.setdefault('kind', 'timm')
  if 'kwargs' in entry:
    given['arguments'] = entry['kwargs']
  if 'crop' in entry:
    if not isinstance(entry['crop'], float | int) or not 0 < entry['crop'] <= 1:
      raise ValueError(f'{label}: crop {entry["crop"]!r} must be a share above 0, at most 1')
    if not isinstance(given.get('size'), int):
      raise ValueError(f'{label}: crop {entry["crop"]} without a size')
    given.update(resize=math.floor(given['size'] / entry['crop']), keep_aspect=True)
  if 'hub' in entry:
    if 'sha256' in entry:
      raise ValueError(
        f'{label}: a sha256 is that of a file; of the hub name a revision, OWNER/NAME@REVISION'
      )
    here = os.path.join(brought, entry['hub'].partition('@')[0])
    return given | {'source': here if os.path.isdir(here) else f'hf-hub:{entry["hub"]}'}
  path = os.path.join(folder, entry['file'])
  if not os.path.exists(path):
    raise FileNotFoundError(f'{label}: there is no {path}')
  if (wanted := entry.get('sha256')) and _content_hash(path) != wanted:
    raise ValueError(f'{label}: {path} is not the file that the list means (sha256 differs)')
  return given | {'source': path}


def _content_hash(path: str) -> str:
  from experts.models import opaque  # JAX, for those who need it.

  return opaque.content_hash(path)
