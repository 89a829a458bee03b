"""One ONNX file, from uint8 images to probabilities."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from experts.models.exporting import by_batches, lowering, need, write_classes
from experts.models.exporting.graph import Shape, Window
from experts.models.tuned import Tuned

TOLERANCE = 1e-4
LIBRARY = 'onnx'
_FILE = 'model.onnx'
# Versions that runtimes of the last years read.
_OPSET, _IR = 18, 10
# A file of Protocol Buffers ends at 2 GiB: larger weights lie beside it.
_MOST_BYTES = 1_900_000_000
# JAX's names to ONNX's, where one operation does it.
_NAMES = {
  'abs': 'Abs', 'add': 'Add', 'and': 'And', 'ceil': 'Ceil', 'cos': 'Cos', 'div': 'Div', 'eq': 'Equal', 'erf': 'Erf',
  'exp': 'Exp', 'floor': 'Floor', 'ge': 'GreaterOrEqual', 'gt': 'Greater', 'le': 'LessOrEqual', 'log': 'Log',
  'logistic': 'Sigmoid', 'lt': 'Less', 'max': 'Max', 'min': 'Min', 'mul': 'Mul', 'neg': 'Neg', 'not': 'Not', 'or': 'Or',
  'pow': 'Pow', 'sign': 'Sign', 'sin': 'Sin', 'sqrt': 'Sqrt', 'sub': 'Sub', 'tanh': 'Tanh', 'where': 'Where',
}  # fmt: skip


def write(tuned: Tuned, folder: str) -> None:
  """Writes model.onnx: `images` uint8 [N, S, S, 3] -> `probabilities` float32 [N, C], normalised within.

  Raises:
    ValueError: onnx is missing, or an operation that is not known.
  """
  onnx = need('onnx', 'onnx')
  need('onnxruntime', 'onnx')
  graph = _Graph(onnx.helper, onnx.numpy_helper)
  out = lowering.lower(tuned, graph, 'images')
  graph.name(out, 'probabilities')
  size, types = tuned.view.size, onnx.TensorProto
  info = onnx.helper.make_tensor_value_info
  made = onnx.helper.make_graph(
    graph.nodes,
    'network',
    [info('images', types.UINT8, ['N', size, size, 3])],
    [info('probabilities', types.FLOAT, ['N', len(tuned.classes)])],
    graph.arrays,
  )
  model = onnx.helper.make_model(
    made, opset_imports=[onnx.helper.make_opsetid('', _OPSET)], ir_version=_IR
  )
  large = sum(len(array.raw_data) for array in graph.arrays) > _MOST_BYTES
  onnx.save_model(
    model, os.path.join(folder, _FILE), save_as_external_data=large, location=f'{_FILE}.data'
  )
  write_classes(tuned, folder)


def run(folder: str, images: np.ndarray) -> tuple[np.ndarray, str]:
  """Probabilities by onnxruntime on a CPU."""
  onnxruntime = need('onnxruntime', 'onnx')
  session = onnxruntime.InferenceSession(
    os.path.join(folder, _FILE), providers=['CPUExecutionProvider']
  )
  found = by_batches(lambda part: session.run(None, {'images': part})[0], images)
  return found, f'onnxruntime {onnxruntime.__version__}'


def usage(tuned: Tuned) -> str:
  """A snippet with onnxruntime."""
  size = tuned.view.size
  return f"""```python
import json
import onnxruntime

session = onnxruntime.InferenceSession('FOLDER/model.onnx')
(probabilities,) = session.run(None, {{'images': pixels}})
classes = json.load(open('FOLDER/classes.json'))
print([classes[i] for i in probabilities.argmax(1)])
```

`pixels` is uint8 [N, {size}, {size}, 3], RGB, for any N; the file normalises them itself. Weights that would make it
larger than 2 GB lie beside it, in model.onnx.data.
"""


class _Graph:
  """`graph.Graph`; tensors are names."""

  def __init__(self, helper: Any, arrays: Any):
    self._helper, self._to_array = helper, arrays
    self.nodes: list[Any] = []
    self.arrays: list[Any] = []
    self._known: dict[Any, str] = {}

  def name(self, tensor: str, name: str) -> None:
    """Calls an output so."""
    self.nodes.append(self._helper.make_node('Identity', [tensor], [name]))

  def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
    out = f't{len(self.nodes)}'
    self.nodes.append(self._helper.make_node(kind, list(inputs), [out], **attributes))
    return out

  def _once(self, key: Any, make) -> str:
    if key not in self._known:
      self._known[key] = make()
    return self._known[key]

  def constant(self, array: np.ndarray) -> str:
    def make():
      self.arrays.append(self._to_array.from_array(np.ascontiguousarray(array), name))
      return name

    name = f'c{len(self.arrays)}'
    small = array.size <= 8
    return self._once((array.dtype.str, array.shape, array.tobytes()) if small else name, make)

  def _numbers(self, values: Sequence[int]) -> str:
    return self.constant(np.array(values, np.int64))

  def apply(self, name: str, *tensors: str) -> str:
    if name == 'rsqrt':
      return self._node('Reciprocal', self._node('Sqrt', *tensors))
    if name == 'ne':
      return self._node('Not', self._node('Equal', *tensors))
    return self._node(_NAMES[name], *tensors)

  def cast(self, x: str, dtype: str) -> str:
    return self._node('Cast', x, to=self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

  def reshape(self, x: str, shape: Shape) -> str:
    return self._node('Reshape', x, self._numbers([max(d, -1) for d in shape]))

  def expand(self, x: str, shape: Shape) -> str:
    return self._node('Expand', x, self._shape(shape))

  def _shape(self, shape: Shape) -> str:
    if min(shape, default=0) >= 0:
      return self._numbers(shape)

    def make():
      number = self._once('N', lambda: self._node('Shape', 'images', start=0, end=1))
      return self._node(
        'Where', self.constant(np.array(shape) < 0),
        self._node('Mul', number, self._numbers(np.negative(shape))), self._numbers(shape),
      )  # fmt: skip

    return self._once(shape, make)

  def transpose(self, x: str, axes: Sequence[int]) -> str:
    return self._node('Transpose', x, perm=list(axes))

  def slice(self, x: str, axis: int, start: int, limit: int, stride: int) -> str:
    return self._node('Slice', x, *(self._numbers([n]) for n in (start, limit, axis, stride)))

  def pad(self, x: str, pads: Sequence[tuple[int, int]], value: float) -> str:
    ends = [low for low, _ in pads] + [high for _, high in pads]
    return self._node('Pad', x, self._numbers(ends), self.constant(np.array(value, np.float32)))

  def concatenate(self, tensors: Sequence[str], axis: int) -> str:
    return self._node('Concat', *tensors, axis=axis)

  def matmul(self, x: str, y: str) -> str:
    return self._node('MatMul', x, y)

  def conv(self, x: str, kernel: np.ndarray, window: Window, groups: int) -> str:
    weight = self.constant(kernel.transpose(3, 2, 0, 1))
    return self._first('Conv', x, weight, window=window, group=groups, dilations=window.dilation)

  def pool(self, name: str, x: str, window: Window) -> str:
    if name == 'max':
      return self._first('MaxPool', x, window=window)
    mean = self._first('AveragePool', x, window=window, count_include_pad=1)
    return self.apply('mul', mean, self.constant(np.array(np.prod(window.size), np.float32)))

  def _first(self, kind: str, x: str, *others: str, window: Window, **attributes: Any) -> str:
    """An operation that has the channels first; runtimes take out the transposes that meet."""
    (top, bottom), (left, right) = window.pads
    out = self._node(
      kind,
      self.transpose(x, (0, 3, 1, 2)),
      *others,
      kernel_shape=window.size,
      strides=window.strides,
      pads=(top, left, bottom, right),
      **attributes,
    )
    return self.transpose(out, (0, 2, 3, 1))

  def reduce(self, name: str, x: str, axes: Sequence[int]) -> str:
    return self._node(f'Reduce{name.capitalize()}', x, self._numbers(axes), keepdims=0)
