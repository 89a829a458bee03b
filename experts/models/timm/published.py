"""What is published of a network of timm: where its weights are, how its images were prepared, its licence."""

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

HUB = 'hf-hub:'
_CONFIG, _WEIGHTS, _CARD = 'config.json', 'model.safetensors', 'README.md'
# The upstream data of timm's tags, by the words in them.
_UPSTREAM = (
  ('in21k', 'ImageNet-21k'),
  ('in22k', 'ImageNet-22k'),
  ('in12k', 'ImageNet-12k'),
  ('lvd142m', 'LVD-142M'),
  ('lvd1689m', 'LVD-1689M'),
  ('laion2b', 'LAION-2B'),
  ('laion400m', 'LAION-400M'),
  ('openai', 'WebImageText'),
  ('webli', 'WebLI'),
  ('inat21', 'iNaturalist 2021'),
  ('in1k', 'ImageNet (ILSVRC-2012)'),
)


def find(source: str) -> tuple[str, dict[str, Any]]:
  """Where the weights of a source are, and fields of `selection.pool.Member` that are published with them.

  Args:
    source: a file; a folder with config.json and model.safetensors, as the hub and our own export write them; or
      hf-hub:OWNER/NAME, optionally @REVISION.

  Raises:
    ValueError: nothing can be had from the hub, or a config.json that describes no network of timm; one line.
    FileNotFoundError: a folder that lacks a file.
  """
  if source.startswith(HUB):
    config, weights, card = _from_hub(source.removeprefix(HUB))
  elif os.path.isdir(source):
    config, weights, card = (os.path.join(source, name) for name in (_CONFIG, _WEIGHTS, _CARD))
    for file in (config, weights):
      if not os.path.exists(file):
        raise FileNotFoundError(
          f'{source} has no {os.path.basename(file)}: a folder must hold {_CONFIG} and {_WEIGHTS}'
        )
  else:
    return source, {}
  try:
    with open(config, encoding='utf-8') as file:
      fields = read_config(json.load(file))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{config} describes no network of timm: {error}') from error
  if 'licence' not in fields and card and os.path.exists(card):
    fields |= _licence(card)
  return weights, fields


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a member from what the hub's config.json of a timm network says.

  Raises:
    KeyError: it does not say the architecture.
    ValueError: a way to crop that is not known.
  """
  shown = config.get('pretrained_cfg', config)
  channels, height, size = shown.get('input_size') or (3, 224, 224)
  if channels != 3 or height != size or not isinstance(size, int):
    raise ValueError(f'images of shape {shown["input_size"]}, not square ones of three channels')
  mode = shown.get('crop_mode') or 'center'
  # 'border' fills up with a colour, which nothing here does.
  if mode not in ('center', 'squash'):
    raise ValueError(f'crop_mode {mode!r} is not supported')
  resize = math.floor(size / (shown.get('crop_pct') or 0.875))
  interpolation = shown.get('interpolation') or 'bicubic'
  fields = {
    'architecture': config['architecture'],
    'arguments': dict(config.get('model_args') or {}),
    'size': size,
    'resize': resize,
    # A random one is of training.
    'interpolation': 'bicubic' if interpolation == 'random' else interpolation,
    'antialias': True,
    'keep_aspect': mode != 'squash',
    'mean': list(shown.get('mean') or (0.485, 0.456, 0.406)),
    'std': list(shown.get('std') or (0.229, 0.224, 0.225)),
    'upstream': upstream(shown.get('tag') or ''),
  }
  licence = shown.get('license') or config.get('license')
  if licence and licence != 'other':
    fields['licence'] = licence
  return fields


def upstream(tag: str) -> str:
  """The data that weights were trained on first, as timm's tag tells; empty where it does not."""
  # A tag says what it was tuned on after that.
  found = [(tag.index(word), name) for word, name in _UPSTREAM if word in tag]
  return min(found, default=(0, ''))[1]


def _licence(card: str) -> dict[str, str]:
  """From the head of a model card."""
  with open(card, encoding='utf-8', errors='replace') as file:
    head = file.read(1_000_000).partition('\n---')[0]
  # 'other' has its name beside it; several are a list.
  for field in ('license_name', 'license'):
    if found := re.search(rf'^{field}:(?:[ \t]+|[ \t]*\n- )(\S+)', head, re.MULTILINE):
      return {'licence': found[1].strip('"\'')}
  return {}


def _from_hub(name: str) -> tuple[str, str, str | None]:
  try:
    import huggingface_hub
    from huggingface_hub import errors
  except ImportError:
    raise ValueError(
      f"{HUB}{name} needs huggingface_hub: pip install 'experts[hub]', or bring its {_CONFIG} and {_WEIGHTS} in a folder "
      'and name that'
    ) from None
  repository, _, revision = name.partition('@')

  def fetch(file):
    return huggingface_hub.hf_hub_download(repository, file, revision=revision or None)

  try:
    config, weights = fetch(_CONFIG), fetch(_WEIGHTS)
  except errors.RepositoryNotFoundError:
    raise ValueError(f'the hub has no {repository}, or it is not public') from None
  except errors.LocalEntryNotFoundError:
    raise ValueError(_bring(repository)) from None
  except errors.EntryNotFoundError:
    raise ValueError(
      f'{repository} has no {_CONFIG} or no {_WEIGHTS}: it is no network of timm in safetensors'
    ) from None
  except OSError as error:  # The library's own errors of connections are such.
    raise ValueError(f'{_bring(repository)} ({type(error).__name__})') from None
  except ValueError as error:
    raise ValueError(f'{HUB}{name}: {error}') from None
  try:
    card = fetch(_CARD)
  except (OSError, errors.EntryNotFoundError):  # A licence is known from it, or not.
    card = None
  return config, weights, card


def _bring(repository: str) -> str:
  return (
    f'{repository} is not in the cache of the hub, which cannot be reached: bring {_CONFIG} and {_WEIGHTS} of '
    f'https://huggingface.co/{repository} in a folder, and name it as --weights=FOLDER; for a --list put it, and those of '
    f'its other networks, where the pool file is, as {repository}'
  )
