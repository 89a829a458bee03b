"""Networks as graphs of a few plain operations, whatever the framework: a walk over what JAX traces of them.

What depends on parameters alone is computed on the way. The network is traced in float64, and written in float32: on a CPU,
whose dtype float32 is, networks take forms that XLA runs fast there, of many more operations; and constants are exact.

Which dimensions are multiples of the number of images two traces of different numbers tell.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experts.models.exporting.graph import ELEMENTWISE, Graph, Shape, Tensor, Window
from experts.models.kinds import family_of
from experts.models.tuned import Tuned

# Numbers of images of the two traces.
_FEW, _MORE = 2, 3


class _Value(NamedTuple):
  """A tensor, or where it is an array a constant, of this shape.

  `own` is the shape of the tensor itself: 1 where it is yet to be broadcast.
  """

  tensor: Any
  shape: Shape
  own: Shape

  @property
  def constant(self) -> bool:
    return isinstance(self.tensor, np.ndarray)


def lower(tuned: Tuned, graph: Graph, images: Tensor) -> Tensor:
  """Writes a network into a graph.

  Args:
    tuned: the network.
    graph: to write to.
    images: its input, uint8 [B, S, S, 3].

  Returns:
    Probabilities, float32 [B, C].

  Raises:
    ValueError: an operation that is not known; names it.
  """
  size = tuned.view.size
  one = family_of(tuned.network).build({**tuned.network, 'dtype': 'float64'})
  function = lambda pixels: jax.nn.softmax(one.forward(tuned.params, pixels)[0])
  shown = lambda number: jax.ShapeDtypeStruct((number, size, size, 3), np.uint8)
  with jax.enable_x64():
    few, more = (jax.make_jaxpr(function)(shown(number)) for number in (_FEW, _MORE))
    shape = (-1, size, size, 3)
    walk = _Walk(graph)
    (out,) = walk.run((few.jaxpr, more.jaxpr), few.consts, [_Value(images, shape, shape)])
    return walk.whole(out)


class _Walk:
  """Through the equations of both traces side by side."""

  def __init__(self, graph: Graph):
    self.graph = graph

  def run(self, pair, consts, arguments: Sequence[_Value]) -> list[_Value]:
    few, more = pair
    known = dict(zip(few.constvars, map(_constant, consts)))
    known |= dict(zip(few.invars, arguments))
    find = lambda atom: _constant(atom.val) if hasattr(atom, 'val') else known[atom]
    if len(few.eqns) != len(more.eqns):
      raise ValueError('cannot be exported: what it computes depends on the number of images')
    for one, other in zip(few.eqns, more.eqns):
      shapes = [_merged(a.aval.shape, b.aval.shape) for a, b in zip(one.outvars, other.outvars)]
      found = self._equation(one, other, [find(atom) for atom in one.invars], shapes)
      known.update(zip(one.outvars, found))
    return [find(atom) for atom in few.outvars]

  def _equation(self, one, other, values, shapes) -> list[_Value]:
    name = one.primitive.name
    if inner := _inner(one):
      closed = [(getattr(p, 'jaxpr', p), getattr(p, 'consts', [])) for p in (inner, _inner(other))]
      return self.run([jaxpr for jaxpr, _ in closed], closed[0][1], values)
    fixed = all(dimension >= 0 for shape in shapes for dimension in shape)
    if fixed and all(value.constant for value in values):
      return _computed(one, values)
    if rule := _RULES.get(name):
      found = rule(self, one.params, values, shapes)
      return found if isinstance(found, list) else [found]
    if name in ELEMENTWISE:
      return [self.apply(name, *values)]
    raise ValueError(f'cannot be exported: the operation {name!r} is not known to graphs')

  def put(self, value: _Value) -> Tensor:
    """As a tensor of the graph, perhaps yet to be broadcast."""
    return self.graph.constant(_plain(value.tensor)) if value.constant else value.tensor

  def whole(self, value: _Value) -> Tensor:
    """As a tensor of its full shape."""
    if value.own == value.shape:
      return self.put(value)
    return self.graph.expand(self.put(value), value.shape)

  def apply(self, name: str, *values: _Value) -> _Value:
    own = _broadcast([value.own for value in values])
    shape = _broadcast([value.shape for value in values])
    return _Value(self.graph.apply(name, *map(self.put, values)), shape, own)

  def reshape(self, value: _Value, shape: Shape) -> _Value:
    """A constant stays one."""
    if value.shape == value.own == shape:
      return value
    if value.constant and value.own == value.shape:
      return _constant(value.tensor.reshape(shape))
    return _Value(self.graph.reshape(self.whole(value), shape), shape, shape)

  def transpose(self, value: _Value, axes: Sequence[int]) -> _Value:
    axes = tuple(axes)
    if axes == tuple(range(len(axes))):
      return value
    shape, own = (tuple(dims[axis] for axis in axes) for dims in (value.shape, value.own))
    if value.constant:
      return _Value(value.tensor.transpose(axes), shape, own)
    return _Value(self.graph.transpose(value.tensor, axes), shape, own)

  def slice(self, value: _Value, axis: int, start: int, limit: int, stride: int = 1) -> _Value:
    size = value.shape[axis]
    if (start, limit, stride) == (0, size, 1):
      return value
    if size < 0:
      raise ValueError('cannot be exported: it takes some of the images')
    length = -(-(limit - start) // stride)
    shape = (*value.shape[:axis], length, *value.shape[axis + 1 :])
    return _Value(self.graph.slice(self.whole(value), axis, start, limit, stride), shape, shape)


def _inner(equation) -> Any:
  """The program that an equation calls, if it does nothing but that."""
  names = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
  calls = ('jit', 'pjit', 'closed_call', 'core_call', 'remat', 'checkpoint', 'remat2')
  name = equation.primitive.name
  if name in calls or name.startswith(('custom_jvp_call', 'custom_vjp_call')):
    return next(equation.params[key] for key in names if key in equation.params)
  return None


def _merged(few: Shape, more: Shape) -> Shape:
  found = []
  for a, b in zip(few, more, strict=True):
    if a != b and (a, b) != (_FEW * (b - a), _MORE * (b - a)):
      raise ValueError('cannot be exported: a dimension is no multiple of the number of images')
    found.append(a if a == b else a - b)
  return tuple(found)


def _constant(array: Any) -> _Value:
  array = np.asarray(array)
  return _Value(array, array.shape, array.shape)


def _plain(array: np.ndarray) -> np.ndarray:
  """In the dtype that graphs compute in."""
  kind = array.dtype.kind
  return array if kind == 'b' else array.astype(np.int32 if kind in 'iu' else np.float32)


def _computed(equation, values: Sequence[_Value]) -> list[_Value]:
  given = [np.broadcast_to(value.tensor, value.shape) for value in values]
  found = equation.primitive.bind(*given, **equation.params)
  return [_constant(each) for each in (found if equation.primitive.multiple_results else [found])]


def _broadcast(shapes: Sequence[Shape]) -> Shape:
  rank = max(map(len, shapes))
  aligned = [(1,) * (rank - len(shape)) + shape for shape in shapes]
  return tuple(next((d for d in dims if d != 1), 1) for dims in zip(*aligned))


def _broadcast_in_dim(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  value, (shape,) = values[0], shapes
  own = [1] * len(shape)
  for place, dimension in zip(params['broadcast_dimensions'], value.own):
    own[place] = dimension
  if value.constant:
    return _Value(value.tensor.reshape(own), shape, tuple(own))
  narrow = value._replace(shape=value.own)
  return _Value(walk.reshape(narrow, tuple(own)).tensor, shape, tuple(own))


def _dot_general(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  contracted, batched = params['dimension_numbers']
  sides, frees = [], []
  for number, value in enumerate(values):
    batch, summed = batched[number], contracted[number]
    free = [axis for axis in range(len(value.shape)) if axis not in (*batch, *summed)]
    shape = lambda axes, value=value: tuple(value.shape[axis] for axis in axes)
    inner, outer = math.prod(shape(summed)), math.prod(shape(free))
    # Rows before what is summed, and columns behind it. Rows of a product with one matrix may be of several axes.
    order = (*batch, *free, *summed) if number == 0 else (*batch, *summed, *free)
    rows = shape(free) if number == 0 and not batch and len(free) > 1 else (outer,)
    ends = (*rows, inner) if number == 0 else (inner, outer)
    sides.append(walk.reshape(walk.transpose(value, order), (*shape(batch), *ends)))
    frees.append(rows if number == 0 else (outer,))
  tensor = walk.graph.matmul(*map(walk.whole, sides))
  made = (*sides[0].shape[: len(batched[0])], *frees[0], *frees[1])
  return walk.reshape(_Value(tensor, made, made), shapes[0])


def _conv(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  numbers = params['dimension_numbers']
  last = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
  if tuple(map(tuple, numbers)) != last or not values[1].constant:
    raise ValueError(
      'cannot be exported: a convolution with channels that are not last, or no fixed kernel'
    )
  if set(params['lhs_dilation']) != {1} or params['batch_group_count'] != 1:
    raise ValueError('cannot be exported: a transposed convolution')
  kernel = _plain(values[1].tensor)
  window = Window(
    kernel.shape[:2],
    tuple(params['window_strides']),
    tuple(params['padding']),
    tuple(params['rhs_dilation']),
  )
  groups = params['feature_group_count']
  return _Value(
    walk.graph.conv(walk.whole(values[0]), kernel, window, groups), shapes[0], shapes[0]
  )


def _pool(name: str) -> Callable:
  def rule(walk: _Walk, params: Mapping, values, shapes) -> _Value:
    sizes, strides, pads = (
      tuple(params[key]) for key in ('window_dimensions', 'window_strides', 'padding')
    )
    dilated = {*params['base_dilation'], *params['window_dilation']} != {1}
    beside = [sizes[0], sizes[3], strides[0], strides[3]] if len(sizes) == 4 else []
    if dilated or beside != [1] * 4:
      raise ValueError('cannot be exported: windows of other than height and width')
    window = Window(sizes[1:3], strides[1:3], pads[1:3])
    return _Value(walk.graph.pool(name, walk.whole(values[0]), window), shapes[0], shapes[0])

  return rule


def _reduce(name: str) -> Callable:
  def rule(walk: _Walk, params: Mapping, values, shapes) -> _Value:
    return _Value(
      walk.graph.reduce(name, walk.whole(values[0]), params['axes']), shapes[0], shapes[0]
    )

  return rule


def _slice(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  value = values[0]
  starts, limits = params['start_indices'], params['limit_indices']
  strides = params['strides'] or (1,) * len(starts)
  for axis, (start, limit, stride) in enumerate(zip(starts, limits, strides)):
    # All images, of the few.
    whole = value.shape[axis] < 0 and limit - start == -_FEW * value.shape[axis]
    value = walk.slice(value, axis, start, value.shape[axis] if whole else limit, stride)
  return value


def _dynamic_slice(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  value, *starts = values
  if not all(start.constant for start in starts):
    raise ValueError('cannot be exported: it takes a part that depends on the images')
  for axis, (start, size) in enumerate(zip(starts, shapes[0])):
    at = 0 if size < 0 else min(max(int(start.tensor), 0), value.shape[axis] - size)
    value = walk.slice(value, axis, at, size if size < 0 else at + size)
  return value


def _split(walk: _Walk, params: Mapping, values, shapes) -> list[_Value]:
  ends = np.cumsum(params['sizes']).tolist()
  starts = [0, *ends[:-1]]
  return [walk.slice(values[0], params['axis'], at, end) for at, end in zip(starts, ends)]


def _rev(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  value = values[0]
  for axis in params['dimensions']:
    parts = [walk.slice(value, axis, at, at + 1) for at in reversed(range(value.shape[axis]))]
    if len(parts) > 1:
      tensor = walk.graph.concatenate([walk.whole(part) for part in parts], axis)
      value = _Value(tensor, value.shape, value.shape)
  return value


def _pad(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  pads = params['padding_config']
  if any(low < 0 or high < 0 or inner for low, high, inner in pads) or not values[1].constant:
    raise ValueError('cannot be exported: what is padded within, or cut off')
  tensor = walk.graph.pad(
    walk.whole(values[0]), [(low, high) for low, high, _ in pads], float(values[1].tensor)
  )
  return _Value(tensor, shapes[0], shapes[0])


def _concatenate(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  tensor = walk.graph.concatenate([walk.whole(value) for value in values], params['dimension'])
  return _Value(tensor, shapes[0], shapes[0])


def _cast(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  kind = np.dtype(params['new_dtype']).kind
  dtype = {'b': 'bool', 'i': 'int32', 'u': 'int32'}.get(kind, 'float32')
  return values[0]._replace(tensor=walk.graph.cast(walk.put(values[0]), dtype))


def _integer_pow(walk: _Walk, params: Mapping, values, shapes) -> _Value:
  if params['y'] == 2:
    return walk.apply('mul', values[0], values[0])
  return walk.apply('pow', values[0], _constant(float(params['y'])))


def _compose(*steps: tuple[str, Any]) -> Callable:
  """Operations one after the other, each with a constant to its left, or none."""

  def rule(walk: _Walk, params: Mapping, values, shapes) -> _Value:
    value = values[0]
    for name, left in steps:
      value = walk.apply(name, *([] if left is None else [_constant(left)]), value)
    return value

  return rule


_same: Callable = lambda walk, params, values, shapes: values[0]
_to_shape: Callable = lambda walk, params, values, shapes: walk.reshape(values[0], shapes[0])
# JAX's name of an operation -> what is made of it.
_RULES: dict[str, Callable] = {
  'broadcast_in_dim': _broadcast_in_dim,
  'clamp': lambda walk, params, values, shapes: walk.apply('min', walk.apply('max', values[1], values[0]), values[2]),
  'concatenate': _concatenate,
  'conv_general_dilated': _conv,
  'convert_element_type': _cast,
  'copy': _same,
  'copy_p': _same,
  'dot_general': _dot_general,
  'dynamic_slice': _dynamic_slice,
  'erfc': _compose(('erf', None), ('sub', 1.0)),
  'exp2': _compose(('mul', math.log(2)), ('exp', None)),
  'expm1': _compose(('exp', None), ('add', -1.0)),
  'integer_pow': _integer_pow,
  'is_finite': _compose(('abs', None), ('gt', math.inf)),
  'log1p': _compose(('add', 1.0), ('log', None)),
  'pad': _pad,
  'reduce_max': _reduce('max'),
  'reduce_min': _reduce('min'),
  'reduce_prod': _reduce('prod'),
  'reduce_sum': _reduce('sum'),
  'reduce_window_max': _pool('max'),
  'reduce_window_sum': _pool('sum'),
  'reshape': _to_shape,
  'rev': _rev,
  'select_n': lambda walk, params, values, shapes: walk.apply('where', values[0], values[2], values[1]),
  'slice': _slice,
  'split': _split,
  'square': lambda walk, params, values, shapes: walk.apply('mul', values[0], values[0]),
  'squeeze': _to_shape,
  'stop_gradient': _same,
  'transpose': lambda walk, params, values, shapes: walk.transpose(values[0], params['permutation']),
}  # fmt: skip
