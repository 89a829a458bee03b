"""timm's architectures by name, each with the module that knows its family."""

import difflib
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from experts.models.timm import convnext, efficientnet, eva, resnet, resnetv2, vit

FAMILIES: tuple[ModuleType, ...] = (
  vit, eva, convnext, resnet, resnetv2, efficientnet,
)  # fmt: skip


def names() -> list[str]:
  """All names, in their order."""
  return sorted(name for family in FAMILIES for name in family.ARCHITECTURES)


def find(architecture: str, arguments: Mapping[str, Any]) -> tuple[ModuleType, Any]:
  """The family of an architecture, and its settings of a network.

  Args:
    architecture: timm's name; what follows a dot, the tag of weights, does not count.
    arguments: what timm's class is given besides.

  Raises:
    ValueError: no such architecture, with the nearest names; or an argument that is not known.
  """
  name = architecture.partition('.')[0]
  for family in FAMILIES:
    if name in family.ARCHITECTURES:
      try:
        found = family.settings(name, arguments)
        hash(found)
      except (TypeError, ValueError) as error:
        raise ValueError(f'architecture {name}: {error}') from error
      return family, found
  near = difflib.get_close_matches(name, names(), 4, 0.6)
  raise ValueError(
    f'unknown architecture {name!r}'
    + (f'; near it: {", ".join(near)}' if near else '')
    + '; other networks of timm come in by `python -m experts.models.import_torch`'
  )


def looks_like(state: Mapping[str, np.ndarray]) -> str:
  """What tensors are of, in words, as their names tell."""
  count = lambda pattern: len({m[1] for name in state if (m := re.match(pattern, name))})
  width = lambda name: state[name].shape[0] if name in state else '?'
  if blocks := count(r'blocks\.(\d+)\.attn\.'):
    return f'a Vision Transformer of {blocks} blocks, {width("norm.weight")} wide'
  if 'stages.0.blocks.0.conv_dw.weight' in state:
    depths = [count(rf'stages\.{i}\.blocks\.(\d+)\.') for i in range(4)]
    return f'a ConvNeXt of {depths} blocks, {width("stages.0.blocks.0.conv_dw.weight")} wide'
  if 'layer1.0.conv1.weight' in state:
    depths = [count(rf'layer{i}\.(\d+)\.') for i in range(1, 5)]
    return f'a ResNet of {depths} blocks'
  if 'stages.0.blocks.0.norm3.weight' in state:
    depths = [count(rf'stages\.{i}\.blocks\.(\d+)\.') for i in range(4)]
    return f'a ResNet v2 of {depths} blocks, {width("stem.conv.weight")} wide'
  if 'conv_stem.weight' in state:
    depths = [count(rf'blocks\.{i}\.(\d+)\.') for i in range(7)]
    return f'an EfficientNet or MobileNet of {[n for n in depths if n]} blocks, {width("conv_stem.weight")} wide'
  first = next(iter(state), 'nothing')
  return f'{len(state)} tensors, from {first} on'
