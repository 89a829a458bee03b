"""What the pool says of networks that are trained here, and the pool that experts join."""

import dataclasses
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from experts.data.dataset import Dataset
from experts.models import weights
from experts.models.network import View
from experts.runs.description import Config
from experts.selection import pool

Tree = Any


def settings(config: Config) -> dict[str, object]:
  """What the pool says of all its networks."""
  shown = {name: config.image[name] for name in ('interpolation', 'antialias')}
  # The usual way is not named, as it was not when there was no other.
  unusual = {name: value for name, value in shown.items() if value != View._field_defaults[name]}
  return {
    **config.model.to_dict(),
    'size': config.image.size,
    'resize': config.image.resize,
    **unusual,
  }


class Seen(NamedTuple):
  """What a network was trained on: these images of upstream data, which the config names so."""

  upstream: str
  data: Dataset
  indices: np.ndarray


def describe(
  name: str, kind: str, path: str, trees: Tree, seen: Seen, shared: Tree | None = None, **known: Any
) -> pool.Member:
  """Describes a network that was trained here.

  Args:
    name: in the pool.
    kind: of those that share the pool's 'model'.
    path: of its weights, relative to the workdir.
    trees: that lie there.
    seen: what it was trained on.
    shared: what an adapter expert computes with besides, from the baseline's file.
    **known: other fields of `pool.Member`.
  """
  data, indices = seen.data, seen.indices
  number = np.bincount(data.labels[indices], minlength=data.num_classes)
  whole = {**(shared or {}), **trees}
  counted = [tree for tree in whole if tree != 'head']
  return pool.Member(
    name=name,
    kind=kind,
    upstream=seen.upstream,
    images=len(indices),
    parameters=sum(leaf.size for tree in counted for leaf in jax.tree.leaves(whole[tree])),
    dimension=len(whole['head']['kernel']),
    weights=path,
    definition=data.definitions.get(known.get('slice')),
    labels={data.class_names[label]: int(number[label]) for label in np.flatnonzero(number)},
    hash=weights.content_hash(trees),
    **{'slice': None} | known,
  )


def open_for_experts(
  config: Config, workdir: str, names: list[str]
) -> tuple[list[pool.Member], str]:
  """The models that the experts join, and the baseline's weights file; paths relative to the workdir.

  Raises:
    ValueError: the pool's network is not the config's, it has no baseline, or already an expert of such a name.
  """
  if not config.pool:
    # A run that was cut short, or that goes on, makes these experts again.
    known = [m for m in pool.read(f'{workdir}/pool.json') if m.kind not in pool.EXPERTS]
    return known, 'weights/baseline.npz'
  source = os.path.abspath(os.path.expanduser(config.pool))
  if (theirs := pool.read_model(source)) != settings(config):
    raise ValueError(
      f'pool {source} has networks of {theirs}, the config one of {settings(config)}: set config.model and '
      'config.image to the former'
    )
  folder = os.path.relpath(os.path.dirname(source), workdir)

  def here(path):
    return path and os.path.normpath(os.path.join(folder, path))

  known = [
    dataclasses.replace(member, weights=here(member.weights), backbone=here(member.backbone))
    for member in pool.read(source)
  ]
  if twice := sorted({member.name for member in known} & set(names)):
    raise ValueError(f'pool {source} already has {", ".join(twice)}: name other nodes')
  baselines = [member.weights for member in known if member.kind == 'baseline']
  if len(baselines) != 1:
    raise ValueError(
      f'pool {source} has {len(baselines)} baselines; experts need one to start from'
    )
  return known, baselines[0]
