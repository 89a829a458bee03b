"""A serialised program of JAX, for whoever has JAX and not this project, and its parameters beside it."""

import datetime
import os

import jax
import numpy as np
from flax import traverse_util
from jax import export

from experts.models import exporting, weights
from experts.models.kinds import family_of
from experts.models.tuned import Tuned

TOLERANCE = 1e-4
LIBRARY = 'jax'
_PROGRAM, _WEIGHTS = 'program.bin', 'weights.npz'
_PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(tuned: Tuned, folder: str) -> None:
  """Writes program.bin: (parameters, uint8 [N, S, S, 3]) -> probabilities float32 [N, C], and weights.npz.

  Raises:
    ValueError: a network that JAX cannot export for any number of images.
  """
  one = family_of(tuned.network).build({**tuned.network, 'dtype': 'float32'})

  def classify(flat, images):
    return jax.nn.softmax(one.forward(traverse_util.unflatten_dict(flat, sep='/'), images)[0])

  flat = traverse_util.flatten_dict(dict(tuned.params), sep='/')
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), flat)
  (number,) = export.symbolic_shape('n')
  size = tuned.view.size
  images = jax.ShapeDtypeStruct((number, size, size, 3), np.uint8)
  try:
    program = export.export(jax.jit(classify), platforms=_PLATFORMS)(shapes, images)
  except Exception as error:  # What cannot be done with an unknown number is said in many ways.
    why = ' '.join(str(error).split())[:200]
    raise ValueError(f'JAX cannot export this network for any number of images: {why}') from error
  with open(os.path.join(folder, _PROGRAM), 'wb') as file:
    file.write(program.serialize())
  weights.save(os.path.join(folder, _WEIGHTS), tuned.params)
  exporting.write_classes(tuned, folder)


def run(folder: str, images: np.ndarray) -> tuple[np.ndarray, str]:
  """Probabilities by the program, read back."""
  with open(os.path.join(folder, _PROGRAM), 'rb') as file:
    program = export.deserialize(bytearray(file.read()))
  with np.load(os.path.join(folder, _WEIGHTS)) as file:
    params = dict(file)
  found = exporting.by_batches(lambda part: program.call(params, part), images)
  return found, f'jax {jax.__version__}'


def usage(tuned: Tuned) -> str:
  """A snippet with JAX, and how long the program can be read."""
  size, today = tuned.view.size, datetime.date.today()
  return f"""```python
import json
import numpy as np
from jax import export

program = export.deserialize(bytearray(open('FOLDER/program.bin', 'rb').read()))
parameters = dict(np.load('FOLDER/weights.npz'))
probabilities = np.asarray(program.call(parameters, pixels))
classes = json.load(open('FOLDER/classes.json'))
print([classes[i] for i in probabilities.argmax(1)])
```

`pixels` is uint8 [N, {size}, {size}, 3], RGB, for any N; the program normalises them itself. It runs on {', '.join(_PLATFORMS)};
accelerators round the factors of its products, as JAX does there by default.

It was made on {today} by jax {jax.__version__} (calling convention {export.maximum_supported_calling_convention_version}). JAX promises that its
versions of the six months after that, until about {today + datetime.timedelta(182)}, read it; those older than three weeks before need not.
Keep what it was exported from, to export it anew.
"""
