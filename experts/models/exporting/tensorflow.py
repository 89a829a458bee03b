"""A SavedModel of plain TensorFlow operations, from uint8 images to probabilities; whoever runs it needs no JAX."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experts.models.exporting import by_batches, lowering, write_classes
from experts.models.exporting.graph import Shape, Window
from experts.models.tuned import Tuned

TOLERANCE = 1e-4
LIBRARY = 'tf-keras'
# Larger constants are variables, for a graph ends at 2 GiB.
_MOST_CONSTANT = 1024
# JAX's names to TensorFlow's, where these differ.
_NAMES = {
  'add': 'math.add', 'and': 'logical_and', 'ceil': 'math.ceil', 'div': 'math.divide', 'eq': 'equal', 'ge': 'greater_equal',
  'gt': 'greater', 'le': 'less_equal', 'log': 'math.log', 'logistic': 'sigmoid', 'lt': 'less', 'max': 'maximum',
  'min': 'minimum', 'mul': 'multiply', 'ne': 'not_equal', 'neg': 'negative', 'not': 'logical_not', 'or': 'logical_or',
  'rsqrt': 'math.rsqrt', 'sub': 'subtract',
}  # fmt: skip
# erf(x) = x P(x²) / Q(x²) in float32 where |x| is below the bound, and ±1 beyond: Eigen's and XLA's, from the highest power on.
_ERF_BOUND = 3.832506856900711
_ERF_P = (
  0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861, 0.18520832239976145, 1.128379143519084,
)  # fmt: skip
_ERF_Q = (
  -1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885, 0.014070470171167667, 0.11098505178285362,
  0.49746925110067538, 1.0,
)  # fmt: skip


def write(tuned: Tuned, folder: str) -> None:
  """Writes a SavedModel: `images` uint8 [N, S, S, 3] -> `probabilities` float32 [N, C], normalised within.

  Raises:
    ValueError: an operation that is not known.
  """
  import tensorflow as tf  # 10 s, for those who need it.

  size, module = tuned.view.size, tf.Module()
  module.parameters = []

  def classify(images):
    graph = _Graph(tf, images, module.parameters)
    return {'probabilities': lowering.lower(tuned, graph, images)}

  # Variables cannot be made where a function is traced: this makes them, one after the other.
  classify(tf.zeros([1, size, size, 3], tf.uint8))
  shown = tf.TensorSpec([None, size, size, 3], tf.uint8, 'images')
  module.classify = tf.function(classify, input_signature=[shown], autograph=False)
  signature = module.classify.get_concrete_function()
  tf.saved_model.save(module, folder, signatures={'serving_default': signature})
  write_classes(tuned, folder)


def run(folder: str, images: np.ndarray) -> tuple[np.ndarray, str]:
  """Probabilities by TensorFlow."""
  import tensorflow as tf  # 10 s, for those who need it.

  classify = tf.saved_model.load(folder).signatures['serving_default']
  found = by_batches(lambda part: classify(images=tf.constant(part))['probabilities'], images)
  return found, f'TensorFlow {tf.__version__}'


def usage(tuned: Tuned) -> str:
  """A snippet with TensorFlow."""
  size = tuned.view.size
  return f"""```python
import json
import tensorflow as tf

loaded = tf.saved_model.load('FOLDER')
probabilities = loaded.signatures['serving_default'](images=tf.constant(pixels))['probabilities'].numpy()
classes = json.load(open('FOLDER/classes.json'))
print([classes[i] for i in probabilities.argmax(1)])
```

`pixels` is uint8 [N, {size}, {size}, 3], RGB, for any N; the network normalises them itself. Its operations are TensorFlow's
own, so that what reads SavedModels can convert it.
"""


class _Graph:
  """`graph.Graph`, within a `tf.function`."""

  def __init__(self, tf: Any, images: Any, parameters: list[Any]):
    """Starts a graph.

    Args:
      tf: TensorFlow.
      images: the input.
      parameters: variables; where there are none they are added, else they are those that the same graph made before.
    """
    self._tf, self._parameters = tf, parameters
    self._known = iter([*parameters])
    self._number = tf.shape(images)[0]

  def constant(self, array: np.ndarray) -> Any:
    if array.size <= _MOST_CONSTANT:
      return self._tf.constant(array)
    variable = next(self._known, None)
    if variable is None:
      variable = self._tf.Variable(array, trainable=False)
      self._parameters.append(variable)
    return variable.read_value()

  def apply(self, name: str, *tensors: Any) -> Any:
    if name == 'erf':
      return self._erf(*tensors)
    function = self._tf
    for part in _NAMES.get(name, name).split('.'):
      function = getattr(function, part)
    return function(*tensors)

  def _erf(self, x: Any) -> Any:
    """Of operations that every converter knows, which erf is none of."""
    tf = self._tf
    x = tf.clip_by_value(x, -_ERF_BOUND, _ERF_BOUND)
    square = x * x
    above = below = None
    for p in _ERF_P:
      above = p if above is None else above * square + p
    for q in _ERF_Q:
      below = q if below is None else below * square + q
    return x * above / below

  def cast(self, x: Any, dtype: str) -> Any:
    return self._tf.cast(x, dtype)

  def reshape(self, x: Any, shape: Shape) -> Any:
    return self._tf.reshape(x, [max(d, -1) for d in shape])

  def expand(self, x: Any, shape: Shape) -> Any:
    shape = [d if d >= 0 else -d * self._number for d in shape]
    return self._tf.broadcast_to(x, shape)

  def transpose(self, x: Any, axes: Sequence[int]) -> Any:
    return self._tf.transpose(x, axes)

  def slice(self, x: Any, axis: int, start: int, limit: int, stride: int) -> Any:
    every = [slice(None)] * len(x.shape)
    every[axis] = slice(start, limit, stride)
    return x[tuple(every)]

  def pad(self, x: Any, pads: Sequence[tuple[int, int]], value: float) -> Any:
    return self._tf.pad(x, pads, constant_values=value)

  def concatenate(self, tensors: Sequence[Any], axis: int) -> Any:
    return self._tf.concat(tensors, axis)

  def matmul(self, x: Any, y: Any) -> Any:
    if len(x.shape) == 2 or len(y.shape) > 2:
      return self._tf.matmul(x, y)
    # One product, not one for each row.
    flat = self._tf.matmul(self._tf.reshape(x, [-1, x.shape[-1]]), y)
    return self._tf.reshape(flat, [-1, *x.shape[1:-1], y.shape[-1]])

  def conv(self, x: Any, kernel: np.ndarray, window: Window, groups: int) -> Any:
    x, tf = self._padded(x, window, 0.0), self._tf
    given, square = x.shape[-1], window.strides[0] == window.strides[1]
    if groups == given and groups > 1 and square:
      kernel = kernel.reshape(*kernel.shape[:2], given, -1)
      strides = (1, *window.strides, 1)
      return tf.nn.depthwise_conv2d(
        x, self.constant(kernel), strides, 'VALID', 'NHWC', window.dilation
      )
    one = lambda part, weight: tf.nn.conv2d(
      part, self.constant(weight), window.strides, 'VALID', dilations=window.dilation
    )
    if groups == 1:
      return one(x, kernel)
    # Not every device and converter knows groups.
    parts = zip(tf.split(x, groups, -1), np.split(kernel, groups, -1))
    return tf.concat([one(part, weight) for part, weight in parts], -1)

  def pool(self, name: str, x: Any, window: Window) -> Any:
    tf = self._tf
    if name == 'max':
      return tf.nn.max_pool2d(
        self._padded(x, window, -np.inf), window.size, window.strides, 'VALID'
      )
    mean = tf.nn.avg_pool2d(self._padded(x, window, 0.0), window.size, window.strides, 'VALID')
    return mean * float(np.prod(window.size))

  def _padded(self, x: Any, window: Window, value: float) -> Any:
    if not np.any(window.pads):
      return x
    return self.pad(x, [(0, 0), *window.pads, (0, 0)], value)

  def reduce(self, name: str, x: Any, axes: Sequence[int]) -> Any:
    return getattr(self._tf, f'reduce_{name}')(x, axes)
