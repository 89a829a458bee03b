"""Whether a module computes in JAX what it does in torch: the check before it joins a pool."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experts.models import fitting
from experts.models.torch_modules import bridge

# Of an embedding, as a part of its norm; and of the gradient of all parameters.
EMBEDDING, GRADIENT = 1e-4, 1e-3
# Of the compiler for a CPU: to compile takes longer than all else of the check.
_QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}

Arrays = Mapping[str, np.ndarray]


def check(
  architecture: str, arguments: str, arrays: Arrays, size: int, mean: Any, std: Any
) -> None:
  """Compares embeddings of two images, and the gradients of their squares' sum, with torch's.

  torch's module is made anew for it, so that what differs from one to the next shows too.

  Args:
    architecture: see `bridge.construct`.
    arguments: as JSON.
    arrays: of its parameters and stored buffers.
    size: of the images, pixels.
    mean: of the channels of images in [0, 1].
    std: of those.

  Raises:
    ValueError: it computes something else, or what it computes depends on chance or on the batch; one line.
  """
  one = bridge.skeleton(architecture, arguments)
  images = _images(size, mean, std)
  theirs, gradient = _of_torch(architecture, arguments, one, arrays, images)
  found, own = _of_jax(architecture, one, arrays, images[:2])
  for what, ours, expected, most in (
    ('embeddings', found, theirs, EMBEDDING),
    ('gradients', _flat(own), _flat(gradient), GRADIENT),
  ):
    error = _difference(ours, expected)
    # Also what is not finite.
    if not error <= most:
      raise ValueError(
        f'{architecture}: torchax computes other {what} than torch: they differ by {error:.1e} of their norm, more than '
        f'{most:g}'
      )


def _of_torch(architecture, arguments, one, arrays, images):
  """Embeddings [2, D] and gradients by name, of a module that was made for it."""
  torch, _ = bridge.libraries()
  module = bridge.construct(architecture, json.loads(arguments))
  bridge.fill(module, one, arrays)
  call = lambda batch: module(torch.from_numpy(batch))
  try:
    theirs = call(images[:2])
    with torch.no_grad():
      beside = call(images)
  except Exception as error:
    raise ValueError(f'{architecture}: it fails in torch itself: {error}') from error
  if fault := bridge.shape_fault(theirs, 2):
    raise ValueError(f'{architecture}: {fault}')
  differs = lambda other: _difference(other.numpy(), theirs.detach().numpy()) > EMBEDDING
  if differs(beside[:2]):
    with torch.no_grad():
      by_chance = differs(call(images[:2]))
    raise ValueError(
      f'{architecture}: the embedding of an image depends '
      + (
        'on chance: dropout or the like is on in eval mode'
        if by_chance
        else 'on the other images of the batch, such as by batch statistics in eval mode'
      )
    )
  theirs.square().sum().backward()
  parameters = dict(module.named_parameters())
  gradient = {
    name: np.zeros(slot.shape, np.float32)
    if parameters[name].grad is None
    else parameters[name].grad.numpy()
    for name, slot in one.trained.items()
  }
  return theirs.detach().numpy(), gradient


def _of_jax(architecture, one, arrays, images):
  """The same by torchax."""
  frozen = {name: arrays[name] for name in one.frozen}

  def loss(trained, frozen, images):
    embedding = bridge.embed(architecture, one, {**trained, **frozen}, images)
    return jnp.square(embedding).sum(), embedding

  # Accelerators would round the factors of each product, by more than the tolerance.
  options = _QUICK if jax.default_backend() == 'cpu' else None
  with jax.default_matmul_precision('highest'):
    both = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)
    (_, found), gradient = both({name: arrays[name] for name in one.trained}, frozen, images)
  return np.asarray(found), jax.device_get(gradient)


def _images(size: int, mean: Any, std: Any) -> np.ndarray:
  """Three images float32 [3, 3, S, S], normalised."""
  images = fitting.probe(3, size).transpose(0, 3, 1, 2) / 255
  by_channel = lambda values: np.reshape(values, (3, 1, 1))
  return ((images - by_channel(mean)) / by_channel(std)).astype(np.float32)


def _flat(tree: Arrays) -> np.ndarray:
  """All values as one row."""
  return np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])[None]


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
  """The largest distance of a row from the expected one, as a part of its norm."""
  if found.shape != expected.shape:
    return float('inf')
  distances = np.linalg.norm(found - expected, axis=1)
  with np.errstate(invalid='ignore', divide='ignore'):
    return float(np.max(np.where(distances == 0, 0, distances / np.linalg.norm(expected, axis=1))))
