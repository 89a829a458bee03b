"""One LiteRT file (.tflite) for phones and small devices: the SavedModel, converted; float32."""

import os
import tempfile

import numpy as np

from experts.models.exporting import by_batches, need, tensorflow, write_classes
from experts.models.tuned import Tuned

# Its kernels round otherwise.
TOLERANCE = 1e-3
LIBRARY = 'litert'
_FILE = 'model.tflite'


def write(tuned: Tuned, folder: str) -> None:
  """Writes model.tflite: `images` uint8 [N, S, S, 3] -> `probabilities` float32 [N, C], normalised within.

  Raises:
    ValueError: ai-edge-litert is missing, or an operation that is not known to us or to the converter.
  """
  import tensorflow as tf  # 10 s, for those who need it.

  need('ai_edge_litert.interpreter', 'litert')
  with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as scratch:
    tensorflow.write(tuned, scratch)
    converter = tf.lite.TFLiteConverter.from_saved_model(scratch)
    try:
      content = converter.convert()
    except Exception as error:  # The converter's are of many kinds.
      why = ' '.join(str(error).split())[:200]
      raise ValueError(f'TensorFlow cannot convert this network for LiteRT: {why}') from error
  with open(os.path.join(folder, _FILE), 'wb') as file:
    file.write(content)
  write_classes(tuned, folder)


def run(folder: str, images: np.ndarray) -> tuple[np.ndarray, str]:
  """Probabilities by LiteRT's interpreter."""
  litert = need('ai_edge_litert.interpreter', 'litert')
  interpreter = litert.Interpreter(os.path.join(folder, _FILE))
  (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

  def predict(part):
    interpreter.resize_tensor_input(taken['index'], part.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken['index'], part)
    interpreter.invoke()
    return interpreter.get_tensor(given['index'])

  return by_batches(predict, images), "LiteRT's interpreter"


def usage(tuned: Tuned) -> str:
  """A snippet with LiteRT's interpreter."""
  size = tuned.view.size
  return f"""```python
import json
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter('FOLDER/model.tflite')
(taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
interpreter.resize_tensor_input(taken['index'], pixels.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(taken['index'], pixels)
interpreter.invoke()
probabilities = interpreter.get_tensor(given['index'])
classes = json.load(open('FOLDER/classes.json'))
print([classes[i] for i in probabilities.argmax(1)])
```

`pixels` is uint8 [N, {size}, {size}, 3], RGB; the network normalises them itself. Weights and activations are float32.
"""
