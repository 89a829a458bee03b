"""timm's Eva: Vision Transformers whose attention turns queries and keys by where they are. EVA-02, DINOv3, PE."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experts.models.timm import tokens
from experts.models.timm.eva_architectures import ARCHITECTURES
from experts.models.timm.layers import linear
from experts.models.timm.scope import Scope

_CHOICES = {
  'global_pool': ('token', 'avg', 'map'),
  'attn_type': ('eva', 'rope'),
  'rope_type': ('cat', 'dinov3'),
  'rope_grid_indexing': ('ij', 'xy'),
}
_FIXED = {
  'in_chans': 3,
  'dynamic_img_pad': False,
  'num_kv_heads': None,
  'qk_norm': False,
  'attn_only_layer_scale': False,
  'rope_mrope_section': None,
}
# Positions that are shaken in training only.
_TRAINING = {'rope_shift_coords', 'rope_jitter_coords', 'rope_rescale_coords'}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a network is, by timm's arguments and with their defaults.

  `img_size` and `patch_size` are sides in pixels, `ref_feat_shape` is one in patches; norms are a name and an epsilon.
  """

  img_size: int = 224
  patch_size: int = 16
  global_pool: str = 'avg'
  embed_dim: int = 768
  depth: int = 12
  num_heads: int = 12
  qkv_bias: bool = True
  qkv_fused: bool = True
  mlp_ratio: float = 4.0
  swiglu_mlp: bool = False
  swiglu_align_to: int = 0
  scale_mlp: bool = False
  scale_attn_inner: bool = False
  attn_type: str = 'eva'
  norm_layer: tokens.Norm = ('layernorm', 1e-6)
  init_values: float | None = None
  class_token: bool = True
  num_reg_tokens: int = 0
  no_embed_class: bool = False
  use_abs_pos_emb: bool = True
  use_rot_pos_emb: bool = False
  rope_type: str = 'cat'
  rope_grid_offset: float = 0.0
  rope_grid_indexing: str = 'ij'
  rope_temperature: float = 10000.0
  rope_rotate_half: bool = False
  use_post_norm: bool = False
  use_pre_transformer_norm: bool = False
  use_post_transformer_norm: bool | None = None
  use_fc_norm: bool | None = None
  attn_pool_num_heads: int | None = None
  attn_pool_mlp_ratio: float | None = None
  ref_feat_shape: int | None = None

  @property
  def prefix(self) -> dict[str, int]:
    """The number of each kind of token before those of the patches."""
    return {'cls_token': int(self.class_token), 'reg_token': self.num_reg_tokens}

  @property
  def norm_after_pool(self) -> bool:
    return self.global_pool == 'avg' if self.use_fc_norm is None else self.use_fc_norm

  @property
  def norm_before_pool(self) -> bool:
    told = self.use_post_transformer_norm
    return not self.norm_after_pool if told is None else told


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
  told = {**ARCHITECTURES[architecture], **arguments}
  told = {name: value for name, value in told.items() if name not in _TRAINING}
  found = tokens.known_arguments(told, known, _FIXED)
  for name in ('img_size', 'patch_size', 'ref_feat_shape'):
    if found.get(name) is not None:
      found[name] = tokens.side_of(name, found[name])
  found['norm_layer'] = tokens.norm_kind(found.get('norm_layer'))
  for name, choices in _CHOICES.items():
    if name in found and found[name] not in choices:
      raise ValueError(f'{name}: {found[name]} is not supported')
  made = Settings(**found)
  if made.global_pool == 'token' and not made.class_token:
    raise ValueError('class_token: without one there is none to pool')
  return made


def fault(settings: Settings, side: int) -> str:
  """Why images of this side (pixels) cannot be taken; empty if they can."""
  return tokens.fault(settings.img_size, settings.patch_size, side)


def embed(settings: Settings, scope: Scope, images: jax.Array) -> jax.Array:
  """Images [B, S, S, 3], normalised, -> embeddings [B, D] float32."""
  x = tokens.patches(
    scope / 'patch_embed' / 'proj',
    images,
    settings.patch_size,
    settings.embed_dim,
    bias=not settings.use_pre_transformer_norm,
  )
  batch, side = x.shape[:2]
  turns = _turns(settings, side) if settings.use_rot_pos_emb else None
  own = settings.img_size // settings.patch_size if settings.use_abs_pos_emb else None
  x = tokens.place(scope, x, settings.prefix, own, settings.no_embed_class)
  number = x.shape[1]
  x = tokens.flat(x)
  if settings.use_pre_transformer_norm:
    x = tokens.norm(scope / 'norm_pre', x, settings.norm_layer)
  block = _post_norm_block if settings.use_post_norm else _block
  for index in range(settings.depth):
    at = scope / 'blocks' / index
    attention = lambda y, at=at: _attention(settings, at / 'attn', y, batch, turns)
    x = block(settings, at, x, attention)
  if settings.norm_before_pool:
    x = tokens.norm(scope / 'norm', x, settings.norm_layer)
  return _pool(settings, scope, x.reshape(batch, number, -1)).astype(jnp.float32)


def _turns(settings, side):
  """Sines and cosines [N, D of a head] of the angles that tokens are turned by; 0 and 1 for those before the patches."""
  bands = settings.embed_dim // settings.num_heads // 4
  frequencies = settings.rope_temperature ** (-np.arange(bands) / bands)
  at = np.arange(side) + settings.rope_grid_offset
  if settings.rope_type == 'dinov3':
    at = 2 * np.pi * (2 * (at + 0.5) / side - 1)
  elif settings.ref_feat_shape is not None:
    at = at / side * settings.ref_feat_shape
  rows, columns = np.meshgrid(at, at, indexing='ij')
  grid = (columns, rows) if settings.rope_grid_indexing == 'xy' else (rows, columns)
  grid = np.stack(grid, -1)
  angles = (grid[..., None] * frequencies).reshape(side * side, 2 * bands)
  if settings.rope_rotate_half:
    angles = np.concatenate([angles, angles], -1)
  else:
    angles = angles.repeat(2, -1)
  angles = np.pad(angles, ((sum(settings.prefix.values()), 0), (0, 0)))
  return np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)


def _turn(settings, x, turns):
  """Turns pairs of channels of [B, heads, N, D]: the two halves, or each with its neighbour."""
  sines, cosines = turns
  wide = x.astype(jnp.float32)
  if settings.rope_rotate_half:
    first, second = jnp.split(wide, 2, -1)
    across = jnp.concatenate([-second, first], -1)
  else:
    pairs = wide.reshape(*wide.shape[:-1], -1, 2)
    across = jnp.concatenate([-pairs[..., 1:], pairs[..., :1]], -1).reshape(wide.shape)
  return (wide * cosines + across * sines).astype(x.dtype)


def _block(settings, scope, x, attention):
  y = attention(tokens.norm(scope / 'norm1', x, settings.norm_layer))
  x = x + _scaled(settings, scope, y, 'gamma_1')
  y = _mlp(settings, scope / 'mlp', tokens.norm(scope / 'norm2', x, settings.norm_layer))
  return x + _scaled(settings, scope, y, 'gamma_2')


def _post_norm_block(settings, scope, x, attention):
  x = x + tokens.norm(scope / 'norm1', attention(x), settings.norm_layer)
  return x + tokens.norm(scope / 'norm2', _mlp(settings, scope / 'mlp', x), settings.norm_layer)


def _scaled(settings, scope, x, leaf):
  return x if settings.init_values is None else tokens.layer_scale(scope, x, leaf)


def _attention(settings, scope, x, batch, turns):
  qkv = _qkv(settings, scope, x)
  query, key, value = (tokens.split_heads(y, batch, settings.num_heads) for y in qkv)
  if turns is not None:
    query, key = (_turn(settings, y, turns) for y in (query, key))
  y = tokens.attend(query, key, value)
  if settings.scale_attn_inner:
    y = tokens.norm(scope / 'norm', y, settings.norm_layer)
  return linear(scope / 'proj', y, x.shape[-1])


def _qkv(settings, scope, x):
  """Queries, keys and values; the keys of timm's EvaAttention have no bias."""
  features = x.shape[-1]
  eva = settings.attn_type == 'eva'
  if not settings.qkv_fused:
    biases = {'q_proj': True, 'k_proj': not eva, 'v_proj': True}
    return [
      linear(scope / name, x, features, settings.qkv_bias and bias) for name, bias in biases.items()
    ]
  fused = linear(scope / 'qkv', x, 3 * features, settings.qkv_bias and not eva)
  query, key, value = jnp.split(fused, 3, -1)
  if settings.qkv_bias and eva:
    query = query + scope.param('q_bias', features).astype(x.dtype)
    value = value + scope.param('v_bias', features).astype(x.dtype)
  return query, key, value


def _mlp(settings, scope, x):
  hidden = int(settings.embed_dim * settings.mlp_ratio)
  scale_norm = settings.norm_layer if settings.scale_mlp else None
  if not settings.swiglu_mlp:
    return tokens.mlp(scope, x, hidden, 'gelu', scale_norm)
  if not settings.scale_mlp and not settings.swiglu_align_to:
    return tokens.packed_gated_mlp(scope, x, 2 * hidden, 'silu')
  if settings.swiglu_align_to:
    hidden += -hidden % settings.swiglu_align_to
  return tokens.gated_mlp(scope, x, hidden, 'silu', scale_norm)


def _pool(settings, scope, x):
  if settings.global_pool == 'token':
    x = x[:, 0]
  elif settings.global_pool == 'avg':
    x = x[:, sum(settings.prefix.values()) :].astype(jnp.float32).mean(1)
  else:
    x = tokens.attention_pool(
      scope / 'attn_pool',
      x,
      settings.attn_pool_num_heads or settings.num_heads,
      int(settings.embed_dim * (settings.attn_pool_mlp_ratio or settings.mlp_ratio)),
      'gelu',
      settings.norm_layer,
    )
  if settings.norm_after_pool:
    x = tokens.norm(scope / 'fc_norm', x, settings.norm_layer)
  return x
