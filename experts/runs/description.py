"""Which members a population has, with which settings, and the device memory that they take."""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from experts.models import resnet
from experts.training import costs, optim, population
from experts.training import mesh as meshes

if TYPE_CHECKING:
  import ml_collections

Tree = Any
Config: TypeAlias = 'ml_collections.ConfigDict'

# Adapter experts share the backbone: up to that many at once make one large batch of it.
ADAPTERS_AT_ONCE = 8


def adapters_at_once(platform: str | None = None) -> int:
  """Adapter experts that one `vmap` trains on this machine or the named platform.

  A CPU gains by the larger batch. On a TPU the products with a kernel for each expert cost more than that: 0.92 ms of a
  v3 core an image with two at once, 0.78 one after the other (estimates of its compiler, R50, 32 images each).
  """
  return ADAPTERS_AT_ONCE if (platform or jax.default_backend()) == 'cpu' else 1


class Setting(NamedTuple):
  """What members of one population may differ in, besides their data."""

  learning_rate: float  # for the whole batch
  weight_decay: float
  mixup: float


def describe(
  section: Config,
  names: Sequence[str],
  model: resnet.ResNet,
  objective: population.Objective,
  steps: int,
  settings: Sequence[Setting],
  members_at_once: int = 1,
  warmup: str = '',
) -> population.Population:
  """The population that a section of the config describes; see `rounds.Run` for the arguments."""
  return population.Population(
    names=names,
    objective=objective,
    learning_rate=[one.learning_rate for one in settings],
    weight_decay=[one.weight_decay for one in settings],
    schedule=optim.staircase(
      steps,
      optim.steps(warmup or section.warmup, section.batch_size, total_steps=steps),
      tuple(section.decay_at),
    ),
    momentum=section.momentum,
    members_at_once=members_at_once,
    gradient_dtype=model.dtype,
  )


def setting(section: Config) -> Setting:
  """The one of a section, for all its members."""
  rate = optim.scaled(section.learning_rate, section.batch_size)
  return Setting(rate, section.weight_decay, section.mixup)


def need(model: resnet.ResNet, size: int, trained: Tree, frozen: Tree) -> meshes.Need:
  """The device memory of members whose trees [P, …] train on images of this size."""
  one = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(trained)) * 4
  shared = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(frozen)) * 4
  # The momenta are as many as the parameters.
  return meshes.Need(
    member=2 * one,
    gradient=one,
    image=_image_bytes(model, size),
    shared=shared,
    input=3 * size**2,
  )


@functools.cache
def _image_bytes(model, size):
  params = jax.eval_shape(lambda: resnet.init(model, jax.random.key(0), 1))
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return costs.activation_bytes(lambda *args: resnet.forward(model, *args), params, images)
