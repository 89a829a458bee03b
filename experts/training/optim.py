"""Optimisers, schedule and durations; by default as in BiT and both papers."""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax
import optax

_DURATION = re.compile(r'^\s*(\d+(?:\.\d*)?(?:e\d\d?)?)\s*(steps|epochs|examples|%)\s*$')


def parse_duration(text: str) -> tuple[float, str]:
  """Splits '30 epochs' into (30.0, 'epochs'); units are steps, epochs, examples and %.

  Raises:
    ValueError: if the text is no positive number (or zero) followed by a unit.
  """
  match = _DURATION.match(text)
  if not match:
    raise ValueError(f"{text!r} is no duration: write a number and a unit, such as '30 epochs'")
  return float(match[1]), match[2]


def steps(text: str, batch_size: int, num_examples: int = 0, total_steps: int = 0) -> int:
  """Turns a duration into optimiser steps.

  Args:
    text: '900 steps', '30 epochs', '1e6 examples' or, of `total_steps`, '10 %'.
    batch_size: examples a step.
    num_examples: examples of an epoch; only epochs need it.
    total_steps: steps of the whole; only percents need it.

  Returns:
    Whole steps, rounded up, so that no promised example is left out.
  """
  amount, unit = parse_duration(text)
  exact = {
    'steps': amount,
    'epochs': amount * num_examples / batch_size,
    'examples': amount / batch_size,
    '%': amount / 100 * total_steps,
  }[unit]
  # Decimal fractions such as 0.1 * 30 land a hair above the whole number they mean.
  return int(-(-exact // 1)) if abs(exact - round(exact)) > 1e-6 else round(exact)


@functools.cache
def staircase(
  total_steps: int, warmup_steps: int, decay_at: tuple[float, ...]
) -> Callable[[jax.Array], jax.Array]:
  """Linear warm-up, then ×0.1 at each of the given fractions of training (EXP §4, App. E).

  Returns:
    Step (int32 scalar) to a factor in [0, 1] for the learning rate. The same function for the same arguments, so that
    programs built with it are shared.
  """
  boundaries = {round(fraction * total_steps): 0.1 for fraction in decay_at}
  decay = optax.piecewise_constant_schedule(1.0, boundaries)
  if not warmup_steps:
    return decay
  warmup = optax.linear_schedule(0.0, 1.0, warmup_steps)
  return lambda step: warmup(step) * decay(step)


def scaled(learning_rate: float, batch_size: int, base: int = 256) -> float:
  """Learning rate for a batch, given the one for `base` images (EXP §4: 'lr × batch size / 256')."""
  return learning_rate * batch_size / base


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """What turns gradients into updates; weight decay touches kernels only.

  Attributes:
    name: 'sgd', where weight decay is part of the gradient, as in both papers; or 'adamw', where it is not.
    momentum: of SGD; of AdamW the decay of the first moment.
    factor: (names of a parameter from the tree on) -> what its learning rate is multiplied by; None for 1.
  """

  name: str = 'sgd'
  momentum: float = 0.9
  factor: Callable[[tuple[str, ...]], float] | None = None

  @property
  def slots(self) -> int:
    """Numbers that it keeps of each parameter."""
    return {'sgd': 1, 'adamw': 2}[self.name]

  def transform(
    self, learning_rate: jax.Array, weight_decay: jax.Array
  ) -> optax.GradientTransformation:
    """The transformation for one member's rates."""
    decayed = optax.add_decayed_weights(weight_decay, mask=_kernels)
    rate = optax.scale_by_learning_rate(learning_rate)
    moments = {
      'sgd': lambda: (decayed, optax.trace(decay=self.momentum)),
      'adamw': lambda: (optax.scale_by_adam(b1=self.momentum), decayed),
    }[self.name]()
    return optax.chain(*moments, *([_scaled(self.factor)] if self.factor else []), rate)


# That of both papers.
SGD = Optimizer()


def _scaled(factor):
  names = lambda path: tuple(key.key for key in path)

  def update(updates, params):
    del params
    return jax.tree_util.tree_map_with_path(lambda path, u: u * factor(names(path)), updates)

  return optax.stateless(update)


def _kernels(params):
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
