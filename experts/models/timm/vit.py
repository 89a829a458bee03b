"""timm's VisionTransformer and VisionTransformerDistilled."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experts.models.timm import tokens
from experts.models.timm.layers import ACTIVATIONS, linear
from experts.models.timm.scope import Scope
from experts.models.timm.vit_architectures import ARCHITECTURES

_CHOICES = {
  'global_pool': ('token', 'avg', 'map'),
  'pos_embed': ('learn', 'none', ''),
  'block_fn': ('Block', 'ResPostBlock', 'ParallelThingsBlock', 'ParallelScalingBlock'),
  'mlp_layer': tuple(tokens.MLPS),
  'act_layer': tuple(ACTIVATIONS),
}
_FIXED = {'in_chans': 3, 'dynamic_img_pad': False, 'attn_layer': 'attn'}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a network is, by timm's arguments and with their defaults.

  `img_size` and `patch_size` are sides in pixels; norms are a name and an epsilon; where classes of torch choose, their
  names stand. `distilled`: it has a second token, whose mean with the class token is the embedding.
  """

  img_size: int = 224
  patch_size: int = 16
  global_pool: str = 'token'
  embed_dim: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_ratio: float = 4.0
  qkv_bias: bool = True
  qk_norm: bool = False
  scale_attn_norm: bool = False
  scale_mlp_norm: bool = False
  proj_bias: bool = True
  init_values: float | None = None
  class_token: bool = True
  pos_embed: str = 'learn'
  no_embed_class: bool = False
  reg_tokens: int = 0
  pre_norm: bool = False
  final_norm: bool = True
  fc_norm: bool | None = None
  pool_include_prefix: bool = False
  embed_norm_layer: tokens.Norm | None = None
  norm_layer: tokens.Norm = ('layernorm', 1e-6)
  act_layer: str = 'gelu'
  block_fn: str = 'Block'
  mlp_layer: str = 'Mlp'
  distilled: bool = False

  @property
  def prefix(self) -> dict[str, int]:
    """The number of each kind of token before those of the patches."""
    single = {'cls_token': int(self.class_token), 'dist_token': int(self.distilled)}
    return {**single, 'reg_token': self.reg_tokens}

  @property
  def hidden(self) -> int:
    """The width of a block's perceptron."""
    return int(self.embed_dim * self.mlp_ratio)

  @property
  def norm_after_pool(self) -> bool:
    return self.final_norm and (self.global_pool == 'avg' if self.fc_norm is None else self.fc_norm)


def head(settings: Settings) -> str:
  """The name of the classifier."""
  return 'head'


def settings(architecture: str, arguments: Mapping[str, Any]) -> Settings:
  """What timm's model of this name is.

  Args:
    architecture: a name of `ARCHITECTURES`.
    arguments: by timm's names; they override the architecture's.

  Raises:
    ValueError: an argument that is unknown, or a value that is not supported.
  """
  known = {field.name for field in dataclasses.fields(Settings)}
  found = tokens.known_arguments({**ARCHITECTURES[architecture], **arguments}, known, _FIXED)
  for name in ('img_size', 'patch_size'):
    if name in found:
      found[name] = tokens.side_of(name, found[name])
  found['norm_layer'] = tokens.norm_kind(found.get('norm_layer'))
  if found.get('embed_norm_layer'):
    found['embed_norm_layer'] = tokens.norm_kind(found['embed_norm_layer'])
  found['act_layer'] = found.get('act_layer') or 'gelu'
  for name, choices in _CHOICES.items():
    if name in found and found[name] not in choices:
      raise ValueError(f'{name}: {found[name]} is not supported')
  made = Settings(**found)
  if not made.class_token and (made.global_pool == 'token' or made.distilled):
    raise ValueError('class_token: without one there is none to pool')
  return made


def fault(settings: Settings, side: int) -> str:
  """Why images of this side (pixels) cannot be taken; empty if they can."""
  return tokens.fault(settings.img_size, settings.patch_size, side)


def resized(
  settings: Settings, backbone: Mapping[str, Any], side: int
) -> tuple[dict[str, Any], Mapping[str, Any]]:
  """The arguments and parameters that a network for images of this side (pixels) has of its own."""
  if 'pos_embed' in backbone:
    prefix = 0 if settings.no_embed_class else sum(settings.prefix.values())
    grid = side // settings.patch_size
    positions = tokens.resample_positions(jnp.asarray(backbone['pos_embed']), prefix, grid)
    backbone = {**backbone, 'pos_embed': np.asarray(positions)}
  return {'img_size': side}, backbone


def embed(settings: Settings, scope: Scope, images: jax.Array) -> jax.Array:
  """Images [B, S, S, 3], normalised, -> embeddings [B, D] float32."""
  x = tokens.patches(
    scope / 'patch_embed' / 'proj',
    images,
    settings.patch_size,
    settings.embed_dim,
    bias=not settings.pre_norm,
  )
  if settings.embed_norm_layer:
    x = tokens.norm(scope / 'patch_embed' / 'norm', x, settings.embed_norm_layer)
  own = settings.img_size // settings.patch_size if settings.pos_embed == 'learn' else None
  x = tokens.place(scope, x, settings.prefix, own, settings.no_embed_class)
  if settings.pre_norm:
    x = tokens.norm(scope / 'norm_pre', x, settings.norm_layer)
  batch, number = x.shape[:2]
  x = tokens.flat(x)
  for index in range(settings.depth):
    x = _BLOCKS[settings.block_fn](settings, scope / 'blocks' / index, x, batch)
  x = x.reshape(batch, number, settings.embed_dim)
  return _pool(settings, scope, x).astype(jnp.float32)


def _pool(settings, scope, x):
  if settings.final_norm and not settings.norm_after_pool:
    x = tokens.norm(scope / 'norm', x, settings.norm_layer)
  if settings.distilled:
    return x[:, :2].astype(jnp.float32).mean(1)
  patches = x if settings.pool_include_prefix else x[:, sum(settings.prefix.values()) :]
  if settings.global_pool == 'token':
    x = x[:, 0]
  elif settings.global_pool == 'avg':
    x = patches.astype(jnp.float32).mean(1)
  else:
    x = tokens.attention_pool(
      scope / 'attn_pool',
      patches,
      settings.num_heads,
      settings.hidden,
      settings.act_layer,
      settings.norm_layer,
    )
  if settings.norm_after_pool:
    x = tokens.norm(scope / 'fc_norm', x, settings.norm_layer)
  return x


# Blocks take and give the tokens of a batch one below the other, see `tokens.flat`.


def _block(settings, scope, x, batch):
  y = _attention(settings, scope / 'attn', _norm(settings, scope / 'norm1', x), batch)
  x = x + _scaled(settings, scope / 'ls1', y)
  y = _mlp(settings, scope / 'mlp', _norm(settings, scope / 'norm2', x))
  return x + _scaled(settings, scope / 'ls2', y)


def _post_norm_block(settings, scope, x, batch):
  x = x + _norm(settings, scope / 'norm1', _attention(settings, scope / 'attn', x, batch))
  return x + _norm(settings, scope / 'norm2', _mlp(settings, scope / 'mlp', x))


def _pairs_block(settings, scope, x, batch):
  """Two attentions beside each other, then two perceptrons."""
  attention = lambda at, y: _attention(settings, at / 'attn', y, batch)
  perceptron = lambda at, y: _mlp(settings, at / 'mlp', y)
  for kind, layer in (('attns', attention), ('ffns', perceptron)):
    places = [scope / kind / index for index in range(2)]
    branches = [layer(at, _norm(settings, at / 'norm', x)) for at in places]
    x = x + sum(_scaled(settings, at / 'ls', y) for at, y in zip(places, branches))
  return x


def _parallel_block(settings, scope, x, batch):
  """Attention and perceptron beside each other, their first products one."""
  features, hidden = settings.embed_dim, settings.hidden
  y = _norm(settings, scope / 'in_norm', x)
  y = linear(scope / 'in_proj', y, hidden + 3 * features, settings.qkv_bias)
  y, *qkv = jnp.split(y, [hidden + index * features for index in range(3)], -1)
  if not settings.qkv_bias:
    y = y + scope.param('mlp_bias', hidden).astype(y.dtype)
  y = ACTIVATIONS[settings.act_layer](y)
  y = linear(scope / 'mlp_out_proj', y, features, settings.proj_bias)
  attended = tokens.attend(*_heads(settings, scope, qkv, batch))
  y = y + linear(scope / 'attn_out_proj', attended, features, settings.proj_bias)
  return x + (y if settings.init_values is None else tokens.layer_scale(scope / 'ls', y))


_BLOCKS = {
  'Block': _block,
  'ResPostBlock': _post_norm_block,
  'ParallelThingsBlock': _pairs_block,
  'ParallelScalingBlock': _parallel_block,
}


def _norm(settings, scope, x):
  return tokens.norm(scope, x, settings.norm_layer)


def _scaled(settings, scope, x):
  return tokens.layer_scale(scope, x) if settings.init_values else x


def _heads(settings, scope, qkv, batch):
  query, key, value = (tokens.split_heads(y, batch, settings.num_heads) for y in qkv)
  if settings.qk_norm:
    query = _norm(settings, scope / 'q_norm', query)
    key = _norm(settings, scope / 'k_norm', key)
  return query, key, value


def _attention(settings, scope, x, batch):
  features = x.shape[-1]
  qkv = jnp.split(linear(scope / 'qkv', x, 3 * features, settings.qkv_bias), 3, -1)
  x = tokens.attend(*_heads(settings, scope, qkv, batch))
  if settings.scale_attn_norm:
    x = _norm(settings, scope / 'norm', x)
  return linear(scope / 'proj', x, features, settings.proj_bias)


def _mlp(settings, scope, x):
  scale_norm = settings.norm_layer if settings.scale_mlp_norm else None
  layer = tokens.MLPS[settings.mlp_layer]
  return layer(scope, x, settings.hidden, settings.act_layer, scale_norm, settings.proj_bias)
