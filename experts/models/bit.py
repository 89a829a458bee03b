"""BiT's published ResNets as networks of a pool: each brings its own depth and width, told by its weights."""

from collections.abc import Mapping
from typing import Any

from experts.models import network, ours, weights

# A description is that of a ResNet, which it is from then on.
find, build, mismatch = ours.find, ours.build, ours.mismatch


def load(member: Any, folder: str) -> network.Params:
  """Reads {'backbone', 'head'}, and checks them against the pool's hash; errors as `ours.load`."""
  return ours.read(member.weights, folder, member.hash, member.name, weights.load_bit)


def describe(member: Any, settings: Mapping[str, Any], params: network.Params) -> dict[str, Any]:
  """What `build` needs, by the shapes of the parameters; activations are of the dtype that the settings name, if any."""
  del member
  return {**ours.fields(weights.infer(params)), 'dtype': settings.get('dtype', 'auto')}


def examine(
  member: Any, folder: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What its weights tell of a member that joins a pool, whose 'model' stays as it is."""
  found, _ = ours.measured(member, folder, load(member, folder), weights.load_bit)
  return found, dict(settings)
