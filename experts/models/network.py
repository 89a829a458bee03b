"""The contract of a network: all that embedding, fine-tuning, prediction, the dry run and the pool know of one."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Params = Mapping[str, Any]

# The trees that no gradient trains.
FROZEN = ('statistics',)


class View(NamedTuple):
  """How a network was shown the images that it was trained on, and wants to be shown others.

  Attributes:
    size: side, pixels.
    resize: side before the central crop; 0 for no crop.
    interpolation: of `data.transforms.INTERPOLATIONS`.
    antialias: whether a pixel of a smaller image is made of all that it covers.
    keep_aspect: whether the shorter side becomes `resize`, instead of both.
  """

  size: int
  resize: int = 0
  interpolation: str = 'bilinear'
  antialias: bool = False
  keep_aspect: bool = False

  @property
  def cropped(self) -> bool:
    """Whether the centre alone of the resized image is shown."""
    return self.keep_aspect or self.resize > self.size


class Network(Protocol):
  """Pure functions over parameter trees. Hashable and equal where they compute the same: programs are kept by it.

  The trees are `backbone`, for a fine-tuned network or one with classes of its own `head` (see `head`), for an adapter
  expert `adapter`, and `statistics` for what no gradient trains: the moments of batch normalisation.

  Attributes:
    dimension: D of its embeddings.
    dtype: of its activations.
    blocks: how many blocks it has one after the other; 0 where it has no such parts.
  """

  @property
  def dimension(self) -> int: ...

  @property
  def dtype(self) -> Any: ...

  @property
  def blocks(self) -> int: ...

  def layer(self, path: tuple[str, ...]) -> int:
    """Where in its depth a parameter is, by its names in its tree: 0 before the blocks, then 1 to `blocks`, then one more."""

  def fault(self, side: int) -> str:
    """Why images of this side, pixels, cannot be taken; empty if they can, or if that is not known."""

  def forward(self, params: Params, images: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    """uint8 images [B, S, S, 3] -> float32 logits [B, C], None without a head, and float32 embeddings [B, D]."""

  def shapes(self, classes: int) -> Params:
    """The shapes of `backbone`, a head of so many classes, and `statistics` where there are any."""


class Family(Protocol):
  """The module of networks that are pure functions: it is what `kinds.KINDS` names, and does what follows."""

  def find(self, source: str) -> tuple[str, dict[str, Any]]:
    """Where the weights of a source are, and what fields of a `selection.pool.Member` are published with them."""

  def load(self, member: Any, folder: str) -> Params:
    """Reads the host arrays of a `selection.pool.Member` and checks that they are those that it lists.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is damaged, or not the one that the pool lists.
    """

  def describe(self, member: Any, settings: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """What `build` needs of a member, as JSON; `settings` are the pool's 'model'."""

  def build(self, description: Mapping[str, Any], platform: str | None = None) -> Network:
    """The network that a description stands for, on this machine or the named platform."""

  def mismatch(self, description: Mapping[str, Any], params: Params) -> str:
    """Why parameters are not of the described network; empty if they are."""

  def examine(
    self, member: Any, folder: str, settings: Mapping[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the weights tell of a member that joins a pool: fields of it, and the pool's 'model' from then on."""


def as_given(source: str) -> tuple[str, dict[str, Any]]:
  """A `Family.find` of weights that lie where their source says, and of which nothing is published beside them."""
  return source, {}


def own(params: Params) -> Params:
  """What a network is without a head: what embeds."""
  return {name: tree for name, tree in params.items() if name != 'head'}


def head(dimension: int, classes: int) -> Params:
  """Returns a zero dense layer {'kernel': [D, C], 'bias': [C]}."""
  return {'kernel': jnp.zeros((dimension, classes)), 'bias': jnp.zeros(classes)}


def compute_dtype(name: str, platform: str | None = None) -> Any:
  """The dtype that a name stands for; 'auto' is float32 on a CPU and bfloat16 elsewhere."""
  if name == 'auto':
    name = 'float32' if (platform or jax.default_backend()) == 'cpu' else 'bfloat16'
  return jnp.dtype(name)
