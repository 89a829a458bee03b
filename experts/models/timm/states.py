"""State dicts in files: safetensors, and with torch its own."""

import os
import pickle
from collections.abc import Mapping

import numpy as np

# Where training scripts put the state dict among what else they keep; the average is the better one.
_INNER = ('state_dict_ema', 'model_ema', 'state_dict', 'model')


def read(path: str) -> dict[str, np.ndarray]:
  """Reads arrays by timm's names.

  Raises:
    FileNotFoundError: no such file.
    ValueError: it is damaged, no state dict, or one that torch must read, which is not there.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f'there is no file {path}')
  if path.endswith('.safetensors'):
    return _safetensors(path)
  if path.endswith(('.bin', '.pth', '.pt')):
    return _torch(path)
  raise ValueError(
    f'{path}: weights of a timm network are a file .safetensors, or with torch .bin or .pth; others, such as pickles, are '
    'not read'
  )


def write(path: str, state: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  """Writes a .safetensors file."""
  from safetensors import numpy

  numpy.save_file(dict(state), path, dict(metadata))


def _safetensors(path):
  import safetensors
  from safetensors import numpy

  try:
    return numpy.load_file(path)
  # Of a dtype that NumPy has not it says so in its own way.
  except (safetensors.SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
    raise ValueError(f'{path}: no complete .safetensors file ({error})') from error


def _torch(path):
  try:
    import torch
  except ImportError:
    raise ValueError(
      f"{path} is a file of torch: install it (pip install 'experts[torch]'), or bring the .safetensors"
    ) from None
  try:
    content = torch.load(path, map_location='cpu', weights_only=True)
  except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
    raise ValueError(
      f'{path}: no state dict of torch, or one that would run code when it is read ({" ".join(str(error).split())[:200]})'
    ) from error
  for name in _INNER:
    if isinstance(content, dict) and isinstance(content.get(name), dict):
      content = content[name]
      break
  if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
    raise ValueError(f'{path}: holds no state dict, which is tensors by name')
  # As DataParallel writes it.
  return {key.removeprefix('module.'): value.float().numpy() for key, value in content.items()}
