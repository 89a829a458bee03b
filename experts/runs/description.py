"""What is trained, said once: to train it, to plan its memory, and to compile it for devices that are not there."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from experts.models import adapters
from experts.models.network import Network
from experts.training import costs, evaluate, optim, population
from experts.training import mesh as meshes

if TYPE_CHECKING:
  import ml_collections

Tree = Any
Config: TypeAlias = 'ml_collections.ConfigDict'


class Setting(NamedTuple):
  """What members of one population may differ in, besides their data."""

  learning_rate: float  # for the whole batch
  weight_decay: float
  mixup: float


@dataclasses.dataclass(frozen=True)
class Run:
  """Members that a phase trains side by side, all for as many steps.

  Attributes:
    name: of the run.
    field: of the config, which holds the section.
    section: the fields of `experts.config.TRAINING`.
    names: one a member.
    network: that they are.
    trained: trees that train, with a leading member axis; host arrays, or their shapes.
    frozen: trees that do not, without a member axis.
    objective: loss and accuracy of one member.
    predict: what a test set is evaluated with.
    steps: of every member, whatever the size of its data.
    settings: one a member.
    warmup: a duration; the section's if empty.
  """

  name: str
  field: str
  section: Config
  names: Sequence[str]
  network: Network
  trained: Tree
  frozen: Tree
  objective: population.Objective
  predict: evaluate.Predict
  steps: int
  settings: Sequence[Setting]
  warmup: str = ''

  def __len__(self) -> int:
    return len(self.names)

  def part(self, one: meshes.Round) -> 'Run':
    """The members of a round."""
    part = slice(one.start, one.start + one.members)
    cut = lambda leaf: (
      jax.ShapeDtypeStruct((one.members, *leaf.shape[1:]), leaf.dtype)
      if isinstance(leaf, jax.ShapeDtypeStruct)
      else leaf[part]
    )
    return dataclasses.replace(
      self,
      names=self.names[part],
      settings=self.settings[part],
      trained=jax.tree.map(cut, self.trained),
    )

  def population(self, at_once: int) -> population.Population:
    """How the members train, so many of a device group in one `vmap`."""
    section = self.section
    warmup = optim.steps(self.warmup or section.warmup, section.batch_size, total_steps=self.steps)
    return population.Population(
      names=self.names,
      objective=self.objective,
      learning_rate=[one.learning_rate for one in self.settings],
      weight_decay=[one.weight_decay for one in self.settings],
      schedule=optim.staircase(self.steps, warmup, tuple(section.decay_at)),
      members_at_once=at_once,
      optimizer=self.optimizer,
      gradient_dtype=self.network.dtype,
    )

  @property
  def optimizer(self) -> optim.Optimizer:
    """A fine-tune's may be another than the papers' SGD."""
    section = self.section
    decay = section.get('layer_decay', 1.0)
    return optim.Optimizer(
      section.get('optimizer', 'sgd'),
      section.momentum,
      _layer_factor(self.network, decay) if decay < 1 else None,
    )

  def at_once(self, platform: str) -> int:
    """Most members that one `vmap` computes: one where their backbones differ, see `population.Population`."""
    return adapters_at_once(platform) if 'backbone' in self.frozen else 1

  def plan(
    self, size: int, devices: Sequence[jax.Device], limit: int, loop: bool, most: int = 0
  ) -> list[meshes.Round]:
    """The rounds in which the members train; see `mesh.plan`.

    Args:
      size: of the images.
      devices: all of the job's.
      limit: bytes of memory of one of them.
      loop: whether a device may train several members, one after the other.
      most: members of a round, if not all.
    """
    at_once, most = self.at_once(devices[0].platform), most or len(self)
    batch, needed = self.section.batch_size, self.need(size)
    return [
      dataclasses.replace(one, start=start + one.start)
      for start in range(0, len(self), max(most, 1))
      for one in meshes.plan(
        min(most, len(self) - start), batch, len(devices), needed, limit, at_once, loop
      )
    ]

  def plan_whole(
    self, members: int, size: int, devices: Sequence[jax.Device], limit: int
  ) -> meshes.Round:
    """A round of so many of the members."""
    at_once, batch = self.at_once(devices[0].platform), self.section.batch_size
    return meshes.plan_whole(members, batch, len(devices), self.need(size), limit, at_once)

  def need(self, size: int) -> meshes.Need:
    """The device memory that training on images of this size takes."""
    return need(self.network, size, self.trained, self.frozen, self.optimizer.slots)


def adapters_at_once(platform: str | None = None) -> int:
  """Adapter experts that one `vmap` trains on this machine or the named platform.

  A CPU gains by the larger batch. On a TPU the products with a kernel for each expert cost more than that: 0.92 ms of a
  v3 core an image with two at once, 0.78 one after the other (estimates of its compiler, R50, 32 images each).
  """
  return adapters.AT_ONCE if (platform or jax.default_backend()) == 'cpu' else 1


def same(section: Config, members: int) -> list[Setting]:
  """The setting of a section, for all of its members."""
  rate = optim.scaled(section.learning_rate, section.batch_size)
  return [Setting(rate, section.weight_decay, section.mixup)] * members


@functools.cache
def _layer_factor(network: Network, decay: float) -> Callable[[tuple[str, ...]], float]:
  """Less for what is nearer the image: 1 for the head, then `decay` to the number of blocks between."""

  def factor(names):
    behind = 0 if names[0] == 'head' else network.blocks + 1 - network.layer(names[1:])
    return decay**behind

  return factor


def need(network: Network, size: int, trained: Tree, frozen: Tree, slots: int = 1) -> meshes.Need:
  """The device memory of members whose trees [P, …] train on images of this size, with so many optimiser slots."""
  one = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(trained)) * 4
  shared = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(frozen)) * 4
  # What the optimiser keeps is as many as the parameters in each slot.
  return meshes.Need(
    member=(1 + slots) * one,
    gradient=one,
    image=_image_bytes(network, size),
    shared=shared,
    input=3 * size**2,
  )


@functools.cache
def _image_bytes(network, size):
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
  return costs.activation_bytes(network.forward, network.shapes(1), images)
