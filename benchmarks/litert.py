"""LiteRT (TensorFlow Lite) image classifiers as members of a pool, of the kind 'callable'.

    LITERT_MODELS=FOLDER python main.py ... --config.pool=pool.json

where a member's weights in pool.json are `benchmarks.litert:NAME` for FOLDER/NAME.tflite. The embedding is the output of the
last pooling over space, brought back from its quantised form; class probabilities are the softmax of the logits, where the
model has a classifier. What else a pool says of a model, it reads from the file, too.

Needs ai-edge-litert.
"""

import dataclasses
import math
import os
import pathlib
import warnings
from typing import Any

import numpy as np
from ai_edge_litert import interpreter
from ai_edge_litert import schema_py_generated as schema
from scipy import special

_FOLDER = 'LITERT_MODELS'
_POOLING = ('AVERAGE_POOL_2D', 'MEAN')
_WITH_WEIGHTS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED')
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}


@dataclasses.dataclass(frozen=True)
class Graph:
  """What the file of a model says.

  Attributes:
    size: side of its images, pixels.
    embedding: index of the tensor of embeddings.
    logits: index of the tensor that the softmax takes; None of a model without a classifier.
    dimension: of the embedding.
    parameters: number of weights and biases before the embedding; the classifier's are left out.
  """

  size: int
  embedding: int
  logits: int | None
  dimension: int
  parameters: int


def read(path: str | os.PathLike) -> Graph:
  """Finds the embedding and the classifier in a file.

  Raises:
    ValueError: the images are not square with three channels, or nothing pools them.
  """
  model = schema.ModelT.InitFromPackedBuf(pathlib.Path(path).read_bytes(), 0)
  (graph,) = model.subgraphs
  shape = lambda tensor: tuple(int(side) for side in graph.tensors[tensor].shape)
  operators = [(_name(model.operatorCodes[op.opcodeIndex]), op) for op in graph.operators]
  (images,) = graph.inputs
  if shape(images)[1:] != (shape(images)[1], shape(images)[1], 3):
    raise ValueError(f'{path}: takes {shape(images)}, not square images [1, S, S, 3]')
  pooling = [i for i, (name, _) in enumerate(operators) if name in _POOLING]
  if not pooling:
    raise ValueError(
      f'{path}: has none of {", ".join(_POOLING)}, whose output would be the embedding'
    )
  last = pooling[-1]
  (embedding,) = operators[last][1].outputs
  classifiers = [op.inputs[0] for name, op in operators[last:] if name == 'SOFTMAX']
  parameters = sum(
    math.prod(shape(tensor))
    for name, op in operators[:last]
    if name in _WITH_WEIGHTS
    for tensor in op.inputs[1:]
  )
  return Graph(
    shape(images)[1],
    int(embedding),
    int(classifiers[-1]) if classifiers else None,
    math.prod(shape(embedding)),
    parameters,
  )


class Model:
  """A model of a file: uint8 images [B, S, S, 3] -> embeddings [B, D], and class probabilities [B, C] if it has them."""

  def __init__(self, path: str | os.PathLike):
    """Loads a model, for one thread.

    Raises:
      ValueError: see `read`, or not a model.
    """
    self._graph = read(path)
    with warnings.catch_warnings():
      # That keeping all tensors takes memory: those of one image.
      warnings.simplefilter('ignore', UserWarning)
      self._run = interpreter.Interpreter(
        str(path), num_threads=1, experimental_preserve_all_tensors=True
      )
    self._run.allocate_tensors()
    self._tensors = {tensor['index']: tensor for tensor in self._run.get_tensor_details()}
    (self._input,) = self._run.get_input_details()

  def __call__(self, images: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    embeddings, logits = [], []
    for image in images:
      self._run.set_tensor(self._input['index'], self._quantised(image[None]))
      self._run.invoke()
      embeddings.append(self._real(self._graph.embedding))
      if self._graph.logits is not None:
        logits.append(self._real(self._graph.logits))
    if not logits:
      return np.stack(embeddings)
    # The model's own probabilities are rounded to 1/256 and do not sum to 1.
    return np.stack(embeddings), special.softmax(np.stack(logits), axis=1)

  def _quantised(self, pixels: np.ndarray) -> np.ndarray:
    """Pixels as the input takes them: all of these models were trained on values from -1 to 1."""
    real = (pixels.astype(np.float32) - 128) / 128
    scale, zero = self._input['quantization']
    if not scale:
      return real
    limits = np.iinfo(self._input['dtype'])
    return np.clip(np.round(real / scale + zero), limits.min, limits.max).astype(limits.dtype)

  def _real(self, index: int) -> np.ndarray:
    """A tensor's values for one image, float32 [D]."""
    values = self._run.get_tensor(index).reshape(-1).astype(np.float32)
    scale, zero = self._tensors[index]['quantization']
    return (values - zero) * scale if scale else values


def __getattr__(name: str) -> Any:
  """A model by its name, when the pool asks for it as an attribute of this module."""
  if name.startswith('__'):
    raise AttributeError(name)
  folder = os.environ.get(_FOLDER)
  path = pathlib.Path(folder or '', f'{name}.tflite')
  if not folder or not path.exists():
    raise AttributeError(f'{path} is not there; {_FOLDER} must name the folder of the models')
  return Model(path)


def _name(code: schema.OperatorCodeT) -> str:
  # Older files know only the one-byte field.
  return _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
