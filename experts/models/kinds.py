"""The kinds of networks that a pool may hold, each with the module that knows it. A new kind is a module and a line here."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kind:
  """What is known of a kind without loading what computes it.

  Attributes:
    module: a `network.Family`; of networks that only embed, one with `find`, `examine` and `load`, see `models.opaque`.
    trains: whether its networks are pure functions, which can be fine-tuned; of the others only embeddings are known.
    shared: whether all of a pool are one network with different parameters: the pool's 'model'.
  """

  module: str
  trains: bool = True
  shared: bool = False

  @property
  def family(self) -> Any:
    return importlib.import_module(self.module)


_OURS = Kind('experts.models.ours', shared=True)
_OPAQUE = Kind('experts.models.opaque', trains=False)
KINDS = {
  'random': _OURS,
  'baseline': _OURS,
  'checkpoint': _OURS,
  'full': _OURS,
  'adapter': _OURS,
  'bit': Kind('experts.models.bit'),
  'timm': Kind('experts.models.timm'),
  'torch': Kind('experts.models.torch_modules'),
  'saved_model': _OPAQUE,
  'callable': _OPAQUE,
  'embeddings': _OPAQUE,
}

# Those that can only be ranked.
OPAQUE = tuple(name for name, kind in KINDS.items() if not kind.trains)


def family_of(description: Mapping[str, Any]) -> Any:
  """The module of the network that a description stands for: our ResNet, if it names no kind."""
  return KINDS[description.get('kind', 'baseline')].family
