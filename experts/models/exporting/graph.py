"""What a framework's graph is made by: a few plain operations.

A dimension is a number; or below zero, -k for k times the number of images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Shape = tuple[int, ...]
Tensor = Any


class Graph(Protocol):
  """What a framework's graph is made by; tensors are its own. Shapes may have one dimension below zero."""

  def constant(self, array: np.ndarray) -> Tensor: ...

  def apply(self, name: str, *tensors: Tensor) -> Tensor:
    """An operation of `ELEMENTWISE`, with NumPy's rules of broadcasting."""

  def cast(self, x: Tensor, dtype: str) -> Tensor:
    """To 'float32', 'int32' or 'bool'."""

  def reshape(self, x: Tensor, shape: Shape) -> Tensor: ...

  def expand(self, x: Tensor, shape: Shape) -> Tensor:
    """Broadcasts dimensions of 1."""

  def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor: ...

  def slice(self, x: Tensor, axis: int, start: int, limit: int, stride: int) -> Tensor: ...

  def pad(self, x: Tensor, pads: Sequence[tuple[int, int]], value: float) -> Tensor: ...

  def concatenate(self, tensors: Sequence[Tensor], axis: int) -> Tensor: ...

  def matmul(self, x: Tensor, y: Tensor) -> Tensor: ...

  def conv(self, x: Tensor, kernel: np.ndarray, window: 'Window', groups: int) -> Tensor:
    """[B, H, W, I] and [K, K, I / groups, O] -> [B, H', W', O]."""

  def pool(self, name: str, x: Tensor, window: 'Window') -> Tensor:
    """'max' (nothing lies outside the map) or 'sum' of windows of [B, H, W, C]."""

  def reduce(self, name: str, x: Tensor, axes: Sequence[int]) -> Tensor:
    """'sum', 'max', 'min' or 'prod'; without the axes."""


class Window(NamedTuple):
  """Of height and width each: the size, strides, what is added on both sides, and dilation."""

  size: tuple[int, int]
  strides: tuple[int, int]
  pads: tuple[tuple[int, int], tuple[int, int]]
  dilation: tuple[int, int] = (1, 1)


# JAX's names of what is done to each element, all of which a graph knows.
ELEMENTWISE = (
  'abs', 'add', 'and', 'ceil', 'cos', 'div', 'eq', 'erf', 'exp', 'floor', 'ge', 'gt', 'le', 'log', 'logistic', 'lt', 'max',
  'min', 'mul', 'ne', 'neg', 'not', 'or', 'pow', 'rsqrt', 'sign', 'sin', 'sqrt', 'sub', 'tanh', 'where',
)  # fmt: skip
