"""The model card of an export: what it is, where it comes from, how good it is and on what, and how to use it."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import tabulate

from experts.export.comparison import Check
from experts.export.origin import Origin
from experts.models.tuned import Tuned
from experts.reporting import results, statistics

_UNKNOWN = 'unknown'
# Of more classes, the card shows those pairs only that are taken for each other most often.
_MOST_CLASSES = 12
_PAIRS = 10


def write(one: Tuned, known: Origin, check: Check, library: str, usage: str) -> str:
  """Markdown, with the head that the Hugging Face hub reads.

  Args:
    one: the network.
    known: where it comes from.
    check: of the export.
    library: what the hub calls what opens it.
    usage: how to use it.
  """
  task, model = (one.described.get(name, _UNKNOWN) for name in ('task', 'model'))
  parts = [
    _head(known, library),
    f'# {model}, fine-tuned on {task}',
    f'Classifies images as one of {len(one.classes)}: {_some(one.classes)}.',
    '## How to use it',
    usage.strip(),
    _shown(one),
    '## Where it comes from',
    _base(one, known),
    '## Data',
    _data(known),
    '## How it was chosen',
    _chosen(known),
    '## How good it is',
    _quality(one, known),
    '## Settings',
    _settings(one),
    '## How this export was checked',
    f'{check.runtime} ran these files on {check.images}: its probabilities differ from those of the network that was '
    f'exported, in float32, by {check.difference:.1e} at most ({check.tolerance:g} is allowed).',
  ]
  return '\n\n'.join(parts) + '\n'


def _head(known: Origin, library: str) -> str:
  lines = ['---', f'library_name: {library}', 'pipeline_tag: image-classification']
  if known.member and known.member.licence:
    licence = known.member.licence
    # What is no plain word is one in quotes.
    plain = re.fullmatch(r'[A-Za-z][\w.-]*', licence)
    lines.append(f'license: {licence if plain else json.dumps(licence)}')
  lines += ['tags:', '- image-classification', f'- {library}']
  return '\n'.join([*lines, '---'])


def _shown(one: Tuned) -> str:
  view = one.view
  antialias = 'with antialias' if view.antialias else 'without antialias'
  how = f'{view.interpolation}, {antialias} (uint8 to uint8)'
  if view.cropped:
    of = 'its shorter side' if view.keep_aspect else 'both sides'
    what = (
      f'resized to {view.resize} pixels ({of}), and the central {view.size} × {view.size} taken'
    )
  else:
    what = f'resized to {view.size} × {view.size} pixels, whatever its aspect'
  return f'An image is RGB, {what}: {how}. So were those that the figures below are of.'


def _base(one: Tuned, known: Origin) -> str:
  member, network = known.member, one.network
  said = {
    'model': one.described.get('model', _UNKNOWN),
    'architecture': network.get('architecture') or _resnet(network),
    'trained on': (member and member.upstream) or _UNKNOWN,
    'part of that': (member and member.slice) or '',
    'licence of its weights': (member and member.licence) or _UNKNOWN,
    'hash of its weights': (member and member.hash) or '',
    'hash of the fine-tuned weights': one.described.get('hash', ''),
  }
  text = _list(said)
  if not (member and member.licence):
    text += (
      '\n\nThe licence of the weights that it was fine-tuned from is not known here: ask whoever published them before '
      'you pass this on.'
    )
  return text


def _resnet(network: Mapping[str, Any]) -> str:
  if 'depth' not in network:
    return network.get('kind', _UNKNOWN)
  return (
    f'BiT ResNet v2, depth {network["depth"]}, width {network["width"]:g}, root {network["root"]}'
  )


def _data(known: Origin) -> str:
  data = known.data
  if not data:
    return 'Unknown: the workdir that this network was made in is not beside it.'
  return _list(
    {
      'data': data.get('data', ''),
      'version': data.get('version', ''),
      'classes': data.get('classes', ''),
      'images to train': data.get('fit', ''),
      'to choose settings by, then trained on too': data.get('validation', ''),
      'to test': data.get('test', ''),
      'test images come from': data.get('test_from', ''),
      'notes': data.get('notes', ''),
    }
  )


def _chosen(known: Origin) -> str:
  if not known.scores:
    return 'Unknown: there is no ranking beside it.'
  rows = []
  for row in known.scores:
    low, high = (row.get(name, math.nan) for name in ('low', 'high'))
    interval = '' if math.isnan(low) else f'{low:.4g} to {high:.4g}'
    rows.append(
      [row['strategy'], f'{row["score"]:.4g}', interval, f'{row["place"]} of {row["of"]}']
    )
  return 'Of a pool of models, before any was fine-tuned:\n\n' + _table(
    rows, ['strategy', 'score', '95 % interval', 'place']
  )


def _quality(one: Tuned, known: Origin) -> str:
  said = f'{one.described.get("metric", "accuracy")} on the test images: ' + _number(
    one.described.get('test_accuracy')
  )
  confusion = known.confusion
  if confusion is None:
    return f'{said}.'
  counts = confusion.to_numpy()
  right, number = int(counts.diagonal().sum()), int(counts.sum())
  if not number:
    return f'{said}.'
  low, high = statistics.wilson(right, number)
  text = (
    f'{said}. Of {number} test images it takes {right} for what they are: an accuracy of {right / number:.4f}, 95 % '
    f"interval {low:.4f} to {high:.4f} (Wilson's, which knows of the choice of test images and not of the training's chance)."
  )
  of = counts.sum(1)
  rows = [
    [_cell(name), of[i], '' if not of[i] else f'{counts[i, i] / of[i]:.4f}']
    for i, name in enumerate(confusion.index)
  ]
  text += '\n\n' + _table(rows, ['class', 'test images', 'accuracy'])
  return f'{text}\n\n{_confused(confusion, counts)}'


def _confused(confusion: pd.DataFrame, counts: np.ndarray) -> str:
  names = [_cell(name) for name in confusion.index]
  if len(names) <= _MOST_CLASSES:
    rows = [[name, *row] for name, row in zip(names, counts.tolist())]
    return 'Test images by their class (rows) and what they are taken for:\n\n' + _table(
      rows, ['', *names]
    )
  wrong = counts - np.diag(counts.diagonal())
  order = np.argsort(-wrong, axis=None, kind='stable')[:_PAIRS]
  pairs = [divmod(int(place), len(names)) for place in order]
  rows = [[names[i], names[j], wrong[i, j]] for i, j in pairs if wrong[i, j]]
  return 'The most frequent mistakes:\n\n' + _table(rows, ['class', 'taken for', 'test images'])


def _settings(one: Tuned) -> str:
  named = (*results.SETTINGS, 'optimizer', 'layer_decay')
  found = {name: one.described[name] for name in named if name in one.described}
  return _list(found) or 'Unknown.'


def _some(names: list[str], most: int = 20) -> str:
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(names[:most]) + more


def _number(value: Any) -> str:
  return f'{value:.4f}' if isinstance(value, (int, float)) else _UNKNOWN


def _list(said: Mapping[str, Any]) -> str:
  return '\n'.join(f'- {name}: {value}' for name, value in said.items() if value != '')


def _table(rows: list[list[Any]], columns: list[str]) -> str:
  return tabulate.tabulate(rows, columns, 'github', disable_numparse=True)


def _cell(name: str) -> str:
  return str(name).replace('|', '\\|')
