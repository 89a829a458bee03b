"""What the pool says of networks that are trained here, and the pool that experts join."""

import dataclasses
import os

import jax
import numpy as np

from experts.data.dataset import Dataset
from experts.models import resnet, weights
from experts.runs.description import Config
from experts.selection import pool


def settings(config: Config) -> dict[str, object]:
  """What the pool says of all its networks."""
  return {**config.model.to_dict(), 'size': config.image.size, 'resize': config.image.resize}


def describe(
  workdir: str,
  model: resnet.ResNet,
  name: str,
  kind: str,
  path: str,
  upstream: str,
  train: Dataset,
  indices: np.ndarray,
  node: str | None = None,
  backbone: str | None = None,
  trained_from: str | None = None,
) -> pool.Member:
  """Describes a network whose weights lie in `path`, relative to the workdir, trained on these images."""
  number = np.bincount(train.labels[indices], minlength=train.num_classes)
  params = weights.load(f'{workdir}/{path}')
  trees = (
    {'backbone': {}, **params}
    if not backbone
    else {**weights.load(f'{workdir}/{backbone}'), **params}
  )
  counted = {k: v for k, v in trees.items() if k != 'head'}
  return pool.Member(
    name=name,
    kind=kind,
    upstream=upstream,
    slice=node,
    images=len(indices),
    parameters=sum(leaf.size for leaf in jax.tree.leaves(counted)),
    dimension=model.embedding_dim,
    weights=path,
    backbone=backbone,
    trained_from=trained_from,
    definition=train.definitions.get(node),
    labels={train.class_names[label]: int(number[label]) for label in np.flatnonzero(number)},
    hash=weights.content_hash(params),
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
