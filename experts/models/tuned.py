"""A fine-tuned network as a transfer leaves it: parameters in an .npz, and beside them what they are of."""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from experts.models import weights
from experts.models.kinds import family_of
from experts.models.network import Params, View

EXAMPLE = 'what a transfer left: runs/mine/transfer/mine'


class Tuned(NamedTuple):
  """A network, and its parameters.

  Attributes:
    described: model.json: 'network' for `kinds.family_of`, with the fields of `View`; 'classes'; and how it came about.
    params: its trees.
    path: of the .npz file.
  """

  described: Mapping[str, Any]
  params: Params
  path: str

  @property
  def network(self) -> Mapping[str, Any]:
    return self.described['network']

  @property
  def classes(self) -> list[str]:
    return self.described['classes']

  @property
  def view(self) -> View:
    """How its images are shown to it."""
    return View(**{name: self.network[name] for name in View._fields if name in self.network})


def read(path: str, flag: str) -> Tuned:
  """Reads what a transfer wrote of a network.

  Args:
    path: its folder, or the .npz in it.
    flag: by which the user names it, for messages.

  Raises:
    OSError: one of the two files is not there.
    ValueError: one is damaged or something else, or they are of two networks.
  """
  path = os.path.expanduser(path)
  path = f'{path}/model.npz' if os.path.isdir(path) else path
  if not os.path.exists(path):
    raise FileNotFoundError(f'{flag}: there is no {path}: name {EXAMPLE}')
  params, file = weights.load(path), f'{path.removesuffix(".npz")}.json'
  described = _read_description(file, path, flag)
  _check_pair(described, params, file, path)
  return Tuned(described, params, path)


def _read_description(file: str, path: str, flag: str) -> dict[str, Any]:
  try:
    with open(file, encoding='utf-8') as opened:
      described = json.load(opened)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'{flag}: {path} was not fine-tuned on a task (there is no {file} beside it): name {EXAMPLE}'
    ) from error
  except ValueError as error:
    raise ValueError(f'{file} is damaged ({error}): take the model of another run') from error
  try:
    classes, network = described['classes'], described['network']
    family_of(network).build(network)
    whole = isinstance(described.get('ranges') or {}, dict) and all(
      isinstance(network[name], int) and network[name] > 0 for name in ('size', 'resize')
    )
    whole = whole and isinstance(classes, list) and all(isinstance(name, str) for name in classes)
  except (AttributeError, KeyError, TypeError, ValueError):
    whole = False
  if not whole:
    raise ValueError(f'{file} describes no fine-tuned network: name {EXAMPLE}')
  return described


def _check_pair(described: Mapping[str, Any], params: Params, file: str, path: str) -> None:
  advice = 'take both files of one run'
  head = params.get('head', {}) if isinstance(params.get('backbone'), dict) else {}
  if not isinstance(head, dict) or {*head} != {'kernel', 'bias'}:
    raise ValueError(
      f'{path} has no backbone and head, as a fine-tuned network has: name {EXAMPLE}'
    )
  number, outputs = len(described['classes']), head['bias'].size
  if number != outputs or head['kernel'].shape[1:] != (outputs,):
    raise ValueError(f'{file} names {number} classes, {path} has {outputs} outputs: {advice}')
  # A model that was made before this was kept is known by its shapes alone.
  if described.get('hash', '') not in ('', weights.content_hash(params)):
    raise ValueError(f'{file} is of other weights than {path}: {advice}')
  network = described['network']
  if why := family_of(network).mismatch(network, params):
    raise ValueError(f'{file} and {path} do not go together: {why}: {advice}')
