"""Counts the operations that a traced program's convolutions and matrix products need."""

import math
from typing import Any

import numpy as np
from jax.extend import core


def flops(jaxpr: Any) -> int:
  """Floating-point operations of the convolutions and matrix products in a program, on all devices together.

  A multiplication and an addition count as two. Multiplications with padding, or with the zeros between the entries of
  a dilated input, count as none, so that a convolution and each of its two gradients count the same. Loops count as
  often as they run, and of the branches of a condition the largest.

  Args:
    jaxpr: of `jax.jit(f).trace(…).jaxpr` or `jax.make_jaxpr(f)(…)`.
  """
  jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
  return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation):
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    return _product(equation)
  if name == 'conv_general_dilated':
    return _convolution(equation)
  if name == 'cond':
    return max(flops(branch) for branch in params['branches'])
  inside = sum(flops(inner) for inner in core.jaxprs_in_params(params))
  if name == 'scan':
    return params['length'] * inside
  if name == 'shard_map':
    # Its body is the work of one device.
    return math.prod(params['mesh'].shape[axis] for axis in params['newly_manual_axes']) * inside
  return inside


def _product(equation):
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  depth = math.prod(left[axis] for axis in contracted)
  return 2 * depth * equation.outvars[0].aval.size


def _convolution(equation):
  params = equation.params
  numbers = params['dimension_numbers']
  image, kernel = (operand.aval.shape for operand in equation.invars)
  out = equation.outvars[0].aval.shape
  positions = 1
  for axis, (low, _) in enumerate(params['padding']):
    length = image[numbers.lhs_spec[2 + axis]]
    taps = np.arange(kernel[numbers.rhs_spec[2 + axis]]) * params['rhs_dilation'][axis] - low
    starts = np.arange(out[numbers.out_spec[2 + axis]]) * params['window_strides'][axis]
    index = starts[:, None] + taps
    spread = params['lhs_dilation'][axis]
    inside = (index >= 0) & (index <= (length - 1) * spread) & (index % spread == 0)
    positions *= int(inside.sum())
  batch, features = (out[axis] for axis in numbers.out_spec[:2])
  depth = kernel[numbers.rhs_spec[1]]
  return 2 * batch * features * depth * positions
