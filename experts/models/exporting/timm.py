"""timm's own files, as the Hugging Face hub has them: config.json and model.safetensors."""

import json
import os
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experts.models import timm as networks
from experts.models import weights
from experts.models.exporting import by_batches
from experts.models.timm import architectures, published, resnetv2, states, tensors
from experts.models.tuned import Tuned

TOLERANCE = 1e-4
LIBRARY = 'timm'
_CONFIG, _WEIGHTS = 'config.json', 'model.safetensors'
_OTHERWISE = 'export it as onnx, saved_model, litert or jax'
# Images of one pass.


def write(tuned: Tuned, folder: str) -> None:
  """Writes config.json and model.safetensors.

  Raises:
    ValueError: timm has no such network.
  """
  described, backbone = _in_timm(tuned)
  family, settings = architectures.find(described['architecture'], described['arguments'])
  # The size is an argument of some networks, with parameters of its own.
  if hasattr(family, 'resized'):
    arguments, backbone = family.resized(settings, backbone, tuned.view.size)
    described = {**described, 'arguments': {**described['arguments'], **arguments}}
  head = family.head(settings)
  trees = {**tuned.params, 'backbone': backbone}
  state = tensors.to_state(trees, head)
  if family is resnetv2:
    state[f'{head}.weight'] = state[f'{head}.weight'][:, :, None, None]
  if getattr(settings, 'distilled', False):
    # timm takes the mean of two classifiers, ours classifies the mean.
    state |= {f'{head}_dist.{leaf}': state[f'{head}.{leaf}'] for leaf in ('weight', 'bias')}
  # Counters of training, whose absence makes others warn.
  counted = [name.rpartition('.')[0] for name in state if name.endswith('running_mean')]
  state |= {f'{module}.num_batches_tracked': np.array(0) for module in counted}
  states.write(os.path.join(folder, _WEIGHTS), state, {'format': 'pt'})
  with open(os.path.join(folder, _CONFIG), 'w', encoding='utf-8') as file:
    json.dump(_config(tuned, described, head), file, indent=2, ensure_ascii=False)


def run(folder: str, images: np.ndarray) -> tuple[np.ndarray, str]:
  """Probabilities by timm and torch; by this project's own networks where these are not there."""
  try:
    import timm
    import torch
  except Exception as error:  # What is installed may not go together, which is said in many ways.
    why = ' '.join(str(error).split())[:100]
    return _own(folder, images), f"this project's own reading of the files (no timm here: {why})"
  model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
  shown = timm.data.resolve_model_data_config(model)

  def predict(part):
    pixels = (part / np.float32(255) - np.array(shown['mean'])) / np.array(shown['std'])
    pixels = torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
      return model(pixels).softmax(-1).numpy()

  return by_batches(predict, images), f'timm {timm.__version__} with torch {torch.__version__}'


def usage(tuned: Tuned) -> str:
  """A snippet with timm's transforms."""
  classic = not tuned.view.antialias
  return """```python
import json
import timm, torch
from PIL import Image

model = timm.create_model('local-dir:FOLDER', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
classes = json.load(open('FOLDER/config.json'))['label_names']
with torch.inference_mode():
  probabilities = model(transform(Image.open('IMAGE').convert('RGB'))[None]).softmax(-1)[0]
print(classes[probabilities.argmax()])
```

`timm.create_model(architecture, num_classes=..., checkpoint_path='FOLDER/model.safetensors', **model_args)`, with what
config.json says, makes the same network; Transformers opens the folder with `AutoModelForImageClassification`; and
`python -m experts.selection.pool add --kind=timm --name=NAME --weights=FOLDER` makes it a model of a pool.
""" + (
    "timm's transforms resize with antialias, which this network was tested without: its figures hold for images that are "
    'resized as said below.\n'
    if classic
    else ''
  )


def _in_timm(tuned: Tuned) -> tuple[dict[str, Any], Mapping[str, Any]]:
  """The description of timm's network that computes the same, and its backbone."""
  described, params = tuned.network, tuned.params
  kind = described.get('kind')
  if kind == 'timm':
    return dict(described), params['backbone']
  if kind is not None:
    raise ValueError(f'a network of the kind {kind!r} is none of timm: {_OTHERWISE}')
  if 'adapter' in params:
    raise ValueError(f'timm has no network with adapters: {_OTHERWISE}')
  model = weights.infer(params)
  if model.root != 'imagenet':
    raise ValueError(f'timm has no ResNet with a root for small images: {_OTHERWISE}')
  name = f'resnetv2_{model.depth}x{model.width:g}_bit'
  if name not in resnetv2.ARCHITECTURES:
    raise ValueError(
      f'timm has no ResNet of depth {model.depth}, width {model.width:g}, only {", ".join(resnetv2.ARCHITECTURES)}: '
      f'{_OTHERWISE}'
    )
  shown = {'mean': [0.5] * 3, 'std': [0.5] * 3}
  return {'architecture': name, 'arguments': {}, **shown}, resnetv2.from_ours(params['backbone'])


def _config(tuned: Tuned, described: Mapping[str, Any], head: str) -> dict[str, Any]:
  view, classes = tuned.view, tuned.classes
  return {
    'architecture': described['architecture'],
    'num_classes': len(classes),
    'num_features': tuned.params['head']['kernel'].shape[0],
    'model_args': {
      name: value for name, value in described['arguments'].items() if name != 'num_classes'
    },
    'label_names': list(classes),
    'pretrained_cfg': {
      'tag': 'tuned',
      'custom_load': False,
      'input_size': [3, view.size, view.size],
      'interpolation': view.interpolation,
      'crop_pct': view.size / (view.resize or view.size),
      'crop_mode': 'center' if view.keep_aspect else 'squash',
      'mean': list(described['mean']),
      'std': list(described['std']),
      'num_classes': len(classes),
      'classifier': head,
    },
  }


def _own(folder: str, images: np.ndarray) -> np.ndarray:
  file, fields = published.find(folder)
  named = ('architecture', 'arguments', 'mean', 'std')
  member = types.SimpleNamespace(
    name=folder, weights=file, hash='', **{name: fields[name] for name in named}
  )
  params = networks.load(member, '')
  one = networks.build(networks.describe(member, {'dtype': 'float32'}, params))
  predict = jax.jit(lambda pixels: jax.nn.softmax(one.forward(params, pixels)[0]))
  return by_batches(predict, images)
