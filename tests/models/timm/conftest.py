"""timm's own networks, in torch, to compare with."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts.models.timm import tensors
from experts.models.timm.scope import Scope

torch = pytest.importorskip(
  'torch', reason='timm and torch are what the networks are compared with'
)


def _timm():
  """timm, whose import wants torchvision's operators; the build on PyPI may not load beside a CPU build of torch."""
  if not hasattr(torch.ops.torchvision, 'nms'):
    _timm.library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
      _timm.library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
  return pytest.importorskip('timm', reason='timm is what the networks are compared with')


def _randomise(model, seed: int = 0) -> None:
  """Random values of the usual sizes for all that a network holds, so that none can be left out unseen."""
  generator = torch.Generator().manual_seed(seed)
  normal = lambda like, scale: scale * torch.randn(like.shape, generator=generator)
  with torch.no_grad():
    for parameter in model.parameters():
      fan = parameter[0].numel() if parameter.ndim > 1 else 1
      parameter.copy_(
        normal(parameter, fan**-0.5) if parameter.ndim > 1 else 1 + normal(parameter, 0.2)
      )
    for name, buffer in model.named_buffers():
      if name.endswith('running_mean'):
        buffer.copy_(normal(buffer, 0.2))
      elif name.endswith('running_var'):
        buffer.copy_(1 + normal(buffer, 0.2).abs())


def _create(architecture: str, seed: int = 0, **arguments):
  model = _timm().create_model(architecture, pretrained=False, **arguments)
  _randomise(model, seed)
  return model.eval()


def _meta_state(architecture: str, **arguments) -> dict[str, tuple[int, ...]]:
  """The names and shapes of a network's parameters and statistics, without making them."""
  with torch.device('meta'):
    model = _timm().create_model(architecture, pretrained=False, **arguments)
  return {
    name: tuple(value.shape)
    for name, value in model.state_dict().items()
    if not name.endswith('num_batches_tracked')
  }


def _shapes(family, settings, side: int) -> dict[str, tuple[int, ...]]:
  """The names and shapes, as timm has them, that a family's network asks for, the classifier's left out."""
  scope = Scope(None)
  jax.eval_shape(lambda x: family.embed(settings, scope, x), jnp.zeros((1, side, side, 3)))
  make = lambda leaf: np.broadcast_to(np.int8(0), leaf.shape)
  state = tensors.to_state(jax.tree.map(make, scope.noted), 'head')
  return {name: value.shape for name, value in state.items()}


def _compare(family, architecture: str, side: int, **arguments) -> tuple[float, float]:
  """Relative differences between timm's network and ours: of embeddings, and of gradients of their squares' sum."""
  model = _create(architecture, **arguments)
  settings = family.settings(architecture, arguments)
  head = family.head(settings)
  trees = tensors.to_trees({k: v.numpy() for k, v in model.state_dict().items()}, head)
  trees.pop('head', None)
  images = np.random.default_rng(1).normal(0, 1, (2, side, side, 3)).astype(np.float32)

  def ours(backbone):
    embedding = family.embed(settings, Scope({**trees, 'backbone': backbone}), jnp.asarray(images))
    return jnp.square(embedding).sum(), embedding

  # To compile takes longer than all else.
  quick = {'xla_backend_optimization_level': 0}
  both = jax.jit(jax.value_and_grad(ours, has_aux=True), compiler_options=quick)
  (_, found), gradient = both(trees['backbone'])
  theirs = model.forward_head(
    model.forward_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())), pre_logits=True
  )
  theirs.square().sum().backward()
  expected = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
  found_gradient = tensors.to_state({'backbone': jax.device_get(gradient)}, head)
  relative = lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(b))
  whole = lambda tree: np.concatenate([tree[name].ravel() for name in sorted(expected)])
  assert set(expected) <= set(found_gradient)
  return (
    relative(np.asarray(found), theirs.detach().numpy()),
    relative(whole(found_gradient), whole(expected)),
  )


@pytest.fixture(scope='session')
def timm_peer():
  """`create`, `randomise`, `meta_state`, `shapes` and `compare`, see there."""
  return types.SimpleNamespace(
    create=_create,
    randomise=_randomise,
    meta_state=_meta_state,
    shapes=_shapes,
    compare=_compare,
  )
