"""Modules of torch as pure functions of JAX: torchax computes each of torch's operators with JAX's."""

import contextlib
import copy
import dataclasses
import functools
import importlib
import json
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# torchax's modes, and the copies that are filled with arrays, are of one thread at a time.
_LOCK = threading.RLock()


@dataclasses.dataclass(frozen=True, eq=False)
class Skeleton:
  """A module of torch in eval mode that holds no parameters.

  Attributes:
    module: the torch.nn.Module; where its parameters were are tensors without values.
    trained: those by their names.
    frozen: the same for what no gradient trains: parameters that ask for none, and stored floating-point buffers.
    constants: tensors that are as the module made them, with their values.
    stored: the names of those constants that a state dict has, and the tensors.
    aliases: other names that a state dict has for the same tensor, and the first one.
  """

  module: Any
  trained: Mapping[str, Any]
  frozen: Mapping[str, Any]
  constants: tuple[Any, ...]
  stored: Mapping[str, Any]
  aliases: Mapping[str, str]

  @property
  def classifiers(self) -> tuple[str, ...]:
    """Where timm's classifiers are in a whole network, of which this one embeds."""
    said = (getattr(self.module, 'pretrained_cfg', None) or {}).get('classifier') or ()
    return (said,) if isinstance(said, str) else tuple(said)


@functools.cache
def libraries() -> tuple[Any, Any]:
  """torch, and torchax's environment.

  Raises:
    ValueError: they are not installed.
  """
  try:
    import torch

    with _LOCK, _overloads_of_before(torch):
      import torchax

      return torch, torchax.default_env()
  except ImportError as error:
    raise ValueError(
      f"networks of torch need torch and torchax ({error}): pip install 'experts[torch]'"
    ) from None


def construct(architecture: str, arguments: Mapping[str, Any]) -> Any:
  """The torch.nn.Module that a name stands for, as it is made: float32, in eval mode.

  Args:
    architecture: module:function, which is imported and called; else the name of an architecture of timm.
    arguments: what it is called with.

  Raises:
    ValueError: there is no such thing, it fails, or makes no module, or one that does not leave training mode; one line.
  """
  torch, _ = libraries()
  make = _function(architecture) if ':' in architecture else _of_timm(architecture)
  try:
    module = make(**arguments)
  except Exception as error:
    raise ValueError(f'{architecture} cannot be made: {_words(error)}') from error
  if not isinstance(module, torch.nn.Module):
    raise ValueError(f'{architecture} gives {type(module).__name__}, no torch.nn.Module')
  module = module.float().eval()
  left = [
    f'{name or "itself"} ({type(m).__name__})' for name, m in module.named_modules() if m.training
  ]
  if left:
    raise ValueError(
      f'{architecture} stays in training mode after eval(): {", ".join(left[:3])}; its embeddings would be random, or '
      'depend on the batch'
    )
  return module


def file_of(architecture: str) -> str | None:
  """The file whose code a module:function is; None of timm's."""
  if ':' not in architecture:
    return None
  return importlib.import_module(architecture.partition(':')[0]).__file__


@functools.cache
def skeleton(architecture: str, arguments: str) -> Skeleton:
  """What `construct` makes, without its parameters; the arguments as JSON."""
  torch, _ = libraries()
  module = construct(architecture, json.loads(arguments))
  parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
  state = {k: v for k, v in module.state_dict(keep_vars=True).items() if torch.is_tensor(v)}
  trained = {name: one for name, one in parameters.items() if one.requires_grad}
  frozen = {name: one for name, one in parameters.items() if not one.requires_grad}
  frozen |= {k: v for k, v in buffers.items() if k in state and v.is_floating_point()}
  first = {id(one): name for name, one in (trained | frozen).items()}
  if not trained:
    raise ValueError(f'{architecture} has no parameters that train')
  if odd := [name for name in (*trained, *frozen) if '/' in name]:
    raise ValueError(
      f'{architecture}: {odd[0]} has a slash in its name, which files keep for trees'
    )
  # Also those that are a module's attributes, and no buffers.
  around = [*buffers.values(), *(v for m in module.modules() for v in vars(m).values())]
  constants = [one for one in around if torch.is_tensor(one) and id(one) not in first]
  empty = lambda one: torch.empty_like(one, device='meta', requires_grad=False)
  slots = {name: empty(one) for name, one in (trained | frozen).items()}
  # A copy has these in the places of those, where they are tied in all of them.
  memo = {key: slots[name] for key, name in first.items()} | {id(one): one for one in constants}
  return Skeleton(
    copy.deepcopy(module, memo),
    {name: slots[name] for name in trained},
    {name: slots[name] for name in frozen},
    tuple(constants),
    {name: one for name, one in state.items() if id(one) not in first},
    {k: first[id(v)] for k, v in state.items() if id(v) in first and first[id(v)] != k},
  )


def embed(
  architecture: str, one: Skeleton, arrays: Mapping[str, jax.Array], images: jax.Array
) -> jax.Array:
  """What a module makes of images.

  Args:
    architecture: for messages.
    one: the module.
    arrays: of all its `trained` and `frozen`, by name.
    images: float32 [B, 3, S, S], as the module takes them.

  Returns:
    float32 [B, D].

  Raises:
    ValueError: torchax cannot compute it, or it gives no such array; one line.
  """
  torch, env = libraries()
  with _LOCK:
    wrap = env.j2t_iso
    memo = {id(slot): wrap(arrays[name]) for name, slot in (one.trained | one.frozen).items()}
    memo |= {id(t): wrap(jnp.asarray(t.detach().numpy())) for t in one.constants}
    try:
      # What a module keeps of a call, such as an embedding of positions, is kept by a copy that ends with it.
      module = copy.deepcopy(one.module, memo)
      # Tensors that it makes on the way must be torchax's too; no draw may leave its mark in the environment.
      with env.override_property(prng=jax.random.key(0)), env, torch.device('jax'):
        found = module(wrap(images))
      found = env.t2j_iso(found)
    except Exception as error:
      raise ValueError(f'{architecture}: torchax cannot compute it: {_words(error)}') from error
  if fault := shape_fault(found, len(images)):
    raise ValueError(f'{architecture}: {fault}')
  return found.astype(jnp.float32)


def shape_fault(found: Any, count: int) -> str:
  """Why something is no array of embeddings of so many images, of JAX or torch; empty if it is."""
  shape = getattr(found, 'shape', None)
  if shape is None:
    return f'it returns {type(found).__name__}, and must return one tensor of embeddings [N, D]'
  if len(shape) != 2 or shape[0] != count or 'float' not in str(found.dtype):
    return (
      f'it returns {str(found.dtype).removeprefix("torch.")} {[*shape]} for {count} images, and must return embeddings, '
      f'float [{count}, D]'
    )
  return ''


def fill(module: Any, one: Skeleton, arrays: Mapping[str, np.ndarray]) -> None:
  """Gives a module that `construct` made the values of its parameters and stored buffers."""
  torch, _ = libraries()
  with torch.no_grad():
    for name, tensor in module.state_dict(keep_vars=True).items():
      name = one.aliases.get(name, name)
      if name in arrays:
        tensor.copy_(torch.tensor(arrays[name]))


@contextlib.contextmanager
def _overloads_of_before(torch) -> Iterator[None]:
  """Inside, overloads that torch has dropped have a name still.

  torchax 0.0.13 lists them in tables, as it does some hundred others that nothing calls, and does not load without them.
  """
  packet = torch._ops.OpOverloadPacket
  found = packet.__getattr__

  def find(self, name):
    try:
      # Which also keeps it: of each there must be one, as tables find operators by identity.
      return found(self, name)
    except AttributeError:
      if name.startswith('_'):
        raise
      return f'{self}.{name}'

  packet.__getattr__ = find
  try:
    yield
  finally:
    packet.__getattr__ = found


def _function(architecture):
  name, _, attribute = architecture.partition(':')
  try:
    return getattr(importlib.import_module(name), attribute)
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'{architecture} cannot be imported ({error}); is its folder in PYTHONPATH?'
    ) from error


def _of_timm(architecture):
  try:
    import timm
  except ImportError as error:
    raise ValueError(
      f"{architecture} needs timm ({error}): pip install 'experts[torch]'; for a module of your own say module:function"
    ) from None
  except RuntimeError as error:
    raise ValueError(
      f'{architecture}: timm cannot be imported ({_words(error)}): install the torchvision that is made for this torch'
    ) from error

  def make(**arguments):
    # The classes are the head's, which is none of its trees.
    return timm.create_model(architecture.partition('.')[0], **{**arguments, 'num_classes': 0})

  return make


def _words(error: BaseException) -> str:
  """An error in one line, and at what operator it arose."""
  text = str(error).strip().partition('\n')[0][:300]
  if type(error).__name__ == 'OperatorNotFound':
    return f'it has no operator {text.removeprefix("Operator with name ").partition(" ")[0]}'
  if isinstance(error, jax.errors.ConcretizationTypeError):
    text = 'what it does depends on the values in a tensor, which a compiled program cannot'
  operators = [
    frame.f_locals['func']
    for frame, _ in traceback.walk_tb(error.__traceback__)
    if frame.f_code.co_name == 'dispatch' and 'func' in frame.f_locals
  ]
  name = lambda one: one.name() if hasattr(one, 'name') else getattr(one, '__name__', str(one))
  at = f'at the operator {name(operators[-1])}: ' if operators else ''
  return f'{at}{type(error).__name__}: {text}'
