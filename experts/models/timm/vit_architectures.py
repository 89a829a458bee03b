"""The names of timm's Vision Transformers, and the arguments of its model of that name."""

from typing import Any

Arguments = dict[str, Any]


def size(width: int, depth: int, heads: int, mlp_ratio: float = 4) -> Arguments:
  """The arguments that make up what a size is called."""
  return {'embed_dim': width, 'depth': depth, 'num_heads': heads, 'mlp_ratio': mlp_ratio}


def arguments(patch: int, side: int, *parts: Arguments, **more: Any) -> Arguments:
  """The parts' arguments and `more`, a later one's value in place of an earlier one's; sides are in pixels."""
  together: Arguments = {'patch_size': patch, 'img_size': side}
  for part in (*parts, more):
    together |= part
  return together


_TINY = size(192, 12, 3)
_WEE = size(256, 14, 4, 5)
_PWEE = size(256, 16, 4, 5)
_LITTLE = size(320, 14, 5, 5.6)
_SMALL = size(384, 12, 6)
_MEDIUM = size(512, 12, 8)
_MEDIUMD = size(512, 20, 8)
_BETWIXT = size(640, 12, 10)
_BASE = size(768, 12, 12)
_SO150M2 = size(832, 21, 13, 34 / 13)
_PLUS = size(896, 12, 14)
_SO150M = size(896, 18, 14, 2.572)
_LARGE = size(1024, 24, 16)
_AIM_LARGE = size(1024, 24, 8, 2.75)
_SO400M = size(1152, 27, 16, 3.7362)
_SO400M_4304 = size(1152, 27, 16, 4304 / 1152)
_HUGE = size(1280, 32, 16)
_GIANT = size(1408, 40, 16, 48 / 11)
_BEIT3_GIANT = size(1408, 40, 16, 4.3637)
_GIANT_DINO = size(1536, 40, 24)
_AIM_HUGE = size(1536, 24, 12, 2.6667)
_GIANTOPT = size(1536, 40, 16)
_GIGANTIC = size(1664, 48, 16, 64 / 13)
_AIM_1B = size(2048, 24, 16, 2.75)
_AIM_3B = size(3072, 24, 24, 2.6667)

_QUICK_CLIP = {'pre_norm': True, 'norm_layer': ('layernorm', 1e-05), 'act_layer': 'quick_gelu'}
_CLIP = {'pre_norm': True, 'norm_layer': ('layernorm', 1e-05)}
_AIM = {
  'class_token': False,
  'global_pool': 'avg',
  'fc_norm': False,
  'qkv_bias': False,
  'proj_bias': False,
  'act_layer': 'silu',
  'mlp_layer': 'SwiGLU',
  'norm_layer': ('rmsnorm', 1e-05),
  'embed_norm_layer': ('rmsnorm', 1e-05),
}
_BEIT3 = {
  'global_pool': 'avg',
  'scale_attn_norm': True,
  'scale_mlp_norm': True,
  'norm_layer': ('layernorm', 1e-05),
}
_XP = {
  'pre_norm': True,
  'no_embed_class': True,
  'norm_layer': 'rmsnorm',
  'block_fn': 'ParallelScalingBlock',
  'qkv_bias': False,
  'qk_norm': True,
}
_SWIGLU = {'mlp_layer': 'SwiGLUPacked', 'act_layer': 'silu', 'mlp_ratio': 5.33334}
_RADIO = {'no_embed_class': True, 'final_norm': False}
_DEIT3 = {'no_embed_class': True, 'init_values': 1e-06}
_FEW_BIASES = {'qkv_bias': False, 'init_values': 1e-06}
_TIPS = {'init_values': 1.0, 'no_embed_class': True, 'reg_tokens': 1}
_GAP_AFTER = {'class_token': False, 'global_pool': 'avg', 'fc_norm': False}
_GAP = {'class_token': False, 'global_pool': 'avg'}
_MAP = {'class_token': False, 'global_pool': 'map'}
_TANH = {'act_layer': 'gelu_tanh'}
_SCALED = {'init_values': 1e-05}
_REG4 = {'reg_tokens': 4, 'no_embed_class': True}
_REG1 = {'reg_tokens': 1, 'no_embed_class': True}

ARCHITECTURES: dict[str, Arguments] = {
  'vit_tiny_patch16_224': arguments(16, 224, _TINY),
  'vit_tiny_patch16_384': arguments(16, 384, _TINY),
  'vit_small_patch16_224': arguments(16, 224, _SMALL),
  'vit_small_patch16_384': arguments(16, 384, _SMALL),
  'vit_small_patch32_224': arguments(32, 224, _SMALL),
  'vit_small_patch32_384': arguments(32, 384, _SMALL),
  'vit_small_patch8_224': arguments(8, 224, _SMALL),
  'vit_base_patch16_224': arguments(16, 224, _BASE),
  'vit_base_patch16_224_miil': arguments(16, 224, _BASE, qkv_bias=False),
  'vit_base_patch16_384': arguments(16, 384, _BASE),
  'vit_base_patch16_plus_240': arguments(16, 240, _PLUS, _SCALED),
  'vit_base_patch32_224': arguments(32, 224, _BASE),
  'vit_base_patch32_384': arguments(32, 384, _BASE),
  'vit_base_patch32_plus_256': arguments(32, 256, _PLUS, _SCALED),
  'vit_base_patch8_224': arguments(8, 224, _BASE),
  'vit_large_patch14_224': arguments(14, 224, _LARGE),
  'vit_large_patch16_224': arguments(16, 224, _LARGE),
  'vit_large_patch16_384': arguments(16, 384, _LARGE),
  'vit_large_patch32_224': arguments(32, 224, _LARGE),
  'vit_large_patch32_384': arguments(32, 384, _LARGE),
  'vit_huge_patch14_224': arguments(14, 224, _HUGE),
  'vit_giant_patch14_224': arguments(14, 224, _GIANT),
  'vit_gigantic_patch14_224': arguments(14, 224, _GIGANTIC),
  'vit_wee_patch16_reg1_gap_256': arguments(16, 256, _WEE, _GAP, _SCALED, _REG1),
  'vit_pwee_patch16_reg1_gap_256': arguments(
    16, 256, _PWEE, _GAP, _SCALED, _REG1, block_fn='ParallelScalingBlock'
  ),
  'vit_little_patch16_reg1_gap_256': arguments(16, 256, _LITTLE, _GAP, _SCALED, _REG1),
  'vit_little_patch16_reg4_gap_256': arguments(16, 256, _LITTLE, _GAP, _SCALED, _REG4),
  'vit_medium_patch16_gap_240': arguments(16, 240, _MEDIUM, _FEW_BIASES, _GAP_AFTER),
  'vit_medium_patch16_gap_256': arguments(16, 256, _MEDIUM, _FEW_BIASES, _GAP_AFTER),
  'vit_medium_patch16_gap_384': arguments(16, 384, _MEDIUM, _FEW_BIASES, _GAP_AFTER),
  'vit_medium_patch16_reg1_gap_256': arguments(16, 256, _MEDIUM, _GAP, _SCALED, _REG1),
  'vit_medium_patch16_reg4_gap_256': arguments(16, 256, _MEDIUM, _GAP, _SCALED, _REG4),
  'vit_mediumd_patch16_reg4_gap_256': arguments(16, 256, _MEDIUMD, _GAP, _SCALED, _REG4),
  'vit_mediumd_patch16_reg4_gap_384': arguments(16, 384, _MEDIUMD, _GAP, _SCALED, _REG4),
  'vit_betwixt_patch16_gap_256': arguments(16, 256, _BETWIXT, _FEW_BIASES, _GAP_AFTER),
  'vit_betwixt_patch16_reg1_gap_256': arguments(16, 256, _BETWIXT, _GAP, _SCALED, _REG1),
  'vit_betwixt_patch16_reg4_gap_256': arguments(16, 256, _BETWIXT, _GAP, _SCALED, _REG4),
  'vit_betwixt_patch16_reg4_gap_384': arguments(16, 384, _BETWIXT, _GAP, _SCALED, _REG4),
  'vit_base_patch16_gap_224': arguments(16, 224, _GAP_AFTER, embed_dim=768, depth=12, num_heads=16),
  'vit_base_patch16_reg4_gap_256': arguments(16, 256, _BASE, _GAP, _REG4),
  'vit_so150m_patch16_reg4_gap_256': arguments(16, 256, _SO150M, _GAP_AFTER, reg_tokens=4),
  'vit_so150m_patch16_reg4_gap_384': arguments(16, 384, _SO150M, _GAP_AFTER, reg_tokens=4),
  'vit_so150m_patch16_reg4_map_256': arguments(16, 256, _SO150M, _MAP, reg_tokens=4),
  'vit_so150m2_patch16_reg1_gap_256': arguments(
    16, 256, _SO150M2, _GAP, _SCALED, qkv_bias=False, reg_tokens=1
  ),
  'vit_so150m2_patch16_reg1_gap_384': arguments(
    16, 384, _SO150M2, _GAP, _SCALED, qkv_bias=False, reg_tokens=1
  ),
  'vit_so150m2_patch16_reg1_gap_448': arguments(
    16, 448, _SO150M2, _GAP, _SCALED, qkv_bias=False, reg_tokens=1
  ),
  'vit_huge_patch14_gap_224': arguments(14, 224, _HUGE, _GAP_AFTER),
  'vit_huge_patch16_gap_448': arguments(16, 448, _HUGE, _GAP_AFTER),
  'vit_giant_patch16_gap_224': arguments(16, 224, _GIANT, _GAP_AFTER),
  'vit_xsmall_patch16_clip_224': arguments(16, 224, _CLIP, embed_dim=256, depth=10, num_heads=4),
  'vit_medium_patch16_clip_224': arguments(16, 224, _MEDIUM, _CLIP),
  'vit_medium_patch32_clip_224': arguments(32, 224, _MEDIUM, _CLIP),
  'vit_betwixt_patch32_clip_224': arguments(32, 224, _BETWIXT, _CLIP),
  'vit_base_patch16_clip_224': arguments(16, 224, _BASE, _CLIP),
  'vit_base_patch16_clip_384': arguments(16, 384, _BASE, _CLIP),
  'vit_base_patch16_clip_quickgelu_224': arguments(16, 224, _BASE, _QUICK_CLIP),
  'vit_base_patch16_plus_clip_240': arguments(16, 240, _PLUS, _CLIP),
  'vit_base_patch32_clip_224': arguments(32, 224, _BASE, _CLIP),
  'vit_base_patch32_clip_256': arguments(32, 256, _BASE, _CLIP),
  'vit_base_patch32_clip_384': arguments(32, 384, _BASE, _CLIP),
  'vit_base_patch32_clip_448': arguments(32, 448, _BASE, _CLIP),
  'vit_base_patch32_clip_quickgelu_224': arguments(32, 224, _BASE, _QUICK_CLIP),
  'vit_large_patch14_clip_224': arguments(14, 224, _LARGE, _CLIP),
  'vit_large_patch14_clip_336': arguments(14, 336, _LARGE, _CLIP),
  'vit_large_patch14_clip_quickgelu_224': arguments(14, 224, _LARGE, _QUICK_CLIP),
  'vit_large_patch14_clip_quickgelu_336': arguments(14, 336, _LARGE, _QUICK_CLIP),
  'vit_huge_patch14_clip_224': arguments(14, 224, _HUGE, _CLIP),
  'vit_huge_patch14_clip_336': arguments(14, 336, _HUGE, _CLIP),
  'vit_huge_patch14_clip_378': arguments(14, 378, _HUGE, _CLIP),
  'vit_huge_patch14_clip_quickgelu_224': arguments(14, 224, _HUGE, _QUICK_CLIP),
  'vit_huge_patch14_clip_quickgelu_378': arguments(14, 378, _HUGE, _QUICK_CLIP),
  'vit_giant_patch14_clip_224': arguments(14, 224, _GIANT, _CLIP),
  'vit_gigantic_patch14_clip_224': arguments(14, 224, _GIGANTIC, _CLIP),
  'vit_gigantic_patch14_clip_378': arguments(14, 378, _GIGANTIC, _CLIP),
  'vit_gigantic_patch14_clip_quickgelu_224': arguments(14, 224, _GIGANTIC, _QUICK_CLIP),
  'vit_small_patch14_dinov2': arguments(14, 518, _SMALL, _SCALED),
  'vit_small_patch14_reg4_dinov2': arguments(14, 518, _SMALL, _SCALED, _REG4),
  'vit_base_patch14_dinov2': arguments(14, 518, _BASE, _SCALED),
  'vit_base_patch14_reg4_dinov2': arguments(14, 518, _BASE, _SCALED, _REG4),
  'vit_large_patch14_dinov2': arguments(14, 518, _LARGE, _SCALED),
  'vit_large_patch14_reg4_dinov2': arguments(14, 518, _LARGE, _SCALED, _REG4),
  'vit_giant_patch14_dinov2': arguments(14, 518, _GIANT_DINO, _SWIGLU, _SCALED),
  'vit_giant_patch14_reg4_dinov2': arguments(14, 518, _GIANT_DINO, _SWIGLU, _SCALED, _REG4),
  'vit_base_patch16_siglip_224': arguments(16, 224, _BASE, _MAP),
  'vit_base_patch16_siglip_256': arguments(16, 256, _BASE, _MAP),
  'vit_base_patch16_siglip_384': arguments(16, 384, _BASE, _MAP),
  'vit_base_patch16_siglip_512': arguments(16, 512, _BASE, _MAP),
  'vit_base_patch16_siglip_gap_224': arguments(16, 224, _BASE, _GAP_AFTER),
  'vit_base_patch16_siglip_gap_256': arguments(16, 256, _BASE, _GAP_AFTER),
  'vit_base_patch16_siglip_gap_384': arguments(16, 384, _BASE, _GAP_AFTER),
  'vit_base_patch16_siglip_gap_512': arguments(16, 512, _BASE, _GAP_AFTER),
  'vit_base_patch32_siglip_256': arguments(32, 256, _BASE, _MAP, _TANH),
  'vit_base_patch32_siglip_gap_256': arguments(32, 256, _BASE, _GAP_AFTER, _TANH),
  'vit_large_patch16_siglip_256': arguments(16, 256, _LARGE, _MAP),
  'vit_large_patch16_siglip_384': arguments(16, 384, _LARGE, _MAP),
  'vit_large_patch16_siglip_512': arguments(16, 512, _LARGE, _MAP, _TANH),
  'vit_large_patch16_siglip_gap_256': arguments(16, 256, _LARGE, _GAP_AFTER),
  'vit_large_patch16_siglip_gap_384': arguments(16, 384, _LARGE, _GAP_AFTER),
  'vit_large_patch16_siglip_gap_512': arguments(16, 512, _LARGE, _GAP_AFTER, _TANH),
  'vit_so400m_patch14_siglip_224': arguments(14, 224, _SO400M, _MAP),
  'vit_so400m_patch14_siglip_378': arguments(14, 378, _SO400M, _MAP),
  'vit_so400m_patch14_siglip_384': arguments(14, 384, _SO400M, _MAP),
  'vit_so400m_patch14_siglip_gap_224': arguments(14, 224, _SO400M, _GAP_AFTER),
  'vit_so400m_patch14_siglip_gap_378': arguments(14, 378, _SO400M, _GAP_AFTER),
  'vit_so400m_patch14_siglip_gap_384': arguments(14, 384, _SO400M, _GAP_AFTER),
  'vit_so400m_patch14_siglip_gap_448': arguments(14, 448, _SO400M, _GAP_AFTER),
  'vit_so400m_patch14_siglip_gap_896': arguments(14, 896, _SO400M, _GAP_AFTER),
  'vit_so400m_patch16_siglip_256': arguments(16, 256, _SO400M, _MAP, _TANH),
  'vit_so400m_patch16_siglip_384': arguments(16, 384, _SO400M, _MAP, _TANH),
  'vit_so400m_patch16_siglip_512': arguments(16, 512, _SO400M, _MAP, _TANH),
  'vit_so400m_patch16_siglip_gap_256': arguments(16, 256, _SO400M, _GAP_AFTER, _TANH),
  'vit_so400m_patch16_siglip_gap_384': arguments(16, 384, _SO400M, _GAP_AFTER, _TANH),
  'vit_so400m_patch16_siglip_gap_512': arguments(16, 512, _SO400M, _GAP_AFTER, _TANH),
  'vit_giantopt_patch16_siglip_256': arguments(16, 256, _GIANTOPT, _MAP, _TANH),
  'vit_giantopt_patch16_siglip_384': arguments(16, 384, _GIANTOPT, _MAP, _TANH),
  'vit_giantopt_patch16_siglip_gap_256': arguments(16, 256, _GIANTOPT, _GAP_AFTER, _TANH),
  'vit_giantopt_patch16_siglip_gap_384': arguments(16, 384, _GIANTOPT, _GAP_AFTER, _TANH),
  'vit_base_patch14_reg1_tipsv2': arguments(14, 448, _BASE, _TIPS),
  'vit_large_patch14_reg1_tipsv2': arguments(14, 448, _LARGE, _TIPS),
  'vit_so400m_patch14_reg1_tipsv2': arguments(14, 448, _SO400M_4304, _TIPS),
  'vit_giant_patch14_reg1_tipsv2': arguments(14, 448, _GIANT_DINO, _SWIGLU, _TIPS),
  'vit_intern300m_patch14_448': arguments(14, 448, _LARGE, init_values=0.1, final_norm=False),
  'vit_base_patch16_radio_v3': arguments(16, 512, _BASE, _RADIO, _SCALED, reg_tokens=7),
  'vit_large_patch16_radio_v3': arguments(16, 512, _LARGE, _RADIO, _SCALED, reg_tokens=7),
  'vit_so400m_patch16_radio_v4': arguments(16, 512, _SO400M_4304, _RADIO, reg_tokens=9),
  'vit_huge_patch16_radio_v3': arguments(16, 512, _HUGE, _RADIO, reg_tokens=7),
  'vit_huge_patch16_radio_v4': arguments(16, 512, _HUGE, _RADIO, reg_tokens=9),
  'vit_giant_patch16_radio_v3': arguments(16, 512, _GIANT_DINO, _RADIO, reg_tokens=7),
  'vit_small_patch16_36x1_224': arguments(16, 224, _SMALL, _SCALED, depth=36),
  'vit_small_patch16_18x2_224': arguments(
    16, 224, _SMALL, _SCALED, depth=18, block_fn='ParallelThingsBlock'
  ),
  'vit_base_patch16_18x2_224': arguments(
    16, 224, _BASE, _SCALED, depth=18, block_fn='ParallelThingsBlock'
  ),
  'vit_base_patch16_rpn_224': arguments(
    16, 224, _BASE, _GAP, _SCALED, qkv_bias=False, block_fn='ResPostBlock'
  ),
  'vit_base_patch16_xp_224': arguments(16, 224, _BASE, _XP),
  'vit_large_patch14_xp_224': arguments(14, 224, _LARGE, _XP),
  'vit_huge_patch14_xp_224': arguments(14, 224, _HUGE, _XP),
  'test_vit': arguments(16, 160, embed_dim=64, depth=6, num_heads=2, mlp_ratio=3),
  'test_vit2': arguments(
    16, 160, _GAP, _SCALED, embed_dim=64, depth=8, num_heads=2, mlp_ratio=3, reg_tokens=1
  ),
  'test_vit3': arguments(
    16,
    160,
    _MAP,
    _SCALED,
    embed_dim=96,
    depth=9,
    num_heads=3,
    mlp_ratio=2,
    reg_tokens=1,
    pool_include_prefix=True,
  ),
  'test_vit4': arguments(
    16,
    160,
    _GAP,
    _SCALED,
    embed_dim=96,
    depth=9,
    num_heads=3,
    mlp_ratio=3,
    reg_tokens=1,
    norm_layer='rmsnorm',
  ),
  'aimv2_1b_patch14_224': arguments(14, 224, _AIM_1B, _AIM),
  'aimv2_1b_patch14_336': arguments(14, 336, _AIM_1B, _AIM),
  'aimv2_1b_patch14_448': arguments(14, 448, _AIM_1B, _AIM),
  'aimv2_3b_patch14_224': arguments(14, 224, _AIM_3B, _AIM),
  'aimv2_3b_patch14_336': arguments(14, 336, _AIM_3B, _AIM),
  'aimv2_3b_patch14_448': arguments(14, 448, _AIM_3B, _AIM),
  'aimv2_large_patch14_224': arguments(14, 224, _AIM_LARGE, _AIM),
  'aimv2_large_patch14_336': arguments(14, 336, _AIM_LARGE, _AIM),
  'aimv2_large_patch14_448': arguments(14, 448, _AIM_LARGE, _AIM),
  'aimv2_huge_patch14_224': arguments(14, 224, _AIM_HUGE, _AIM),
  'aimv2_huge_patch14_336': arguments(14, 336, _AIM_HUGE, _AIM),
  'aimv2_huge_patch14_448': arguments(14, 448, _AIM_HUGE, _AIM),
  'beit3_base_patch16_224': arguments(16, 224, _BASE, _BEIT3),
  'beit3_large_patch16_224': arguments(16, 224, _LARGE, _BEIT3),
  'beit3_giant_patch14_224': arguments(14, 224, _BEIT3_GIANT, _BEIT3),
  'beit3_giant_patch14_336': arguments(14, 336, _BEIT3_GIANT, _BEIT3),
  'eva_large_patch14_196': arguments(14, 196, _LARGE, global_pool='avg'),
  'eva_large_patch14_336': arguments(14, 336, _LARGE, global_pool='avg'),
  'deit3_small_patch16_224': arguments(16, 224, _SMALL, _DEIT3),
  'deit3_small_patch16_384': arguments(16, 384, _SMALL, _DEIT3),
  'deit3_medium_patch16_224': arguments(16, 224, _MEDIUM, _DEIT3),
  'deit3_base_patch16_224': arguments(16, 224, _BASE, _DEIT3),
  'deit3_base_patch16_384': arguments(16, 384, _BASE, _DEIT3),
  'deit3_large_patch16_224': arguments(16, 224, _LARGE, _DEIT3),
  'deit3_large_patch16_384': arguments(16, 384, _LARGE, _DEIT3),
  'deit3_huge_patch14_224': arguments(14, 224, _HUGE, _DEIT3),
  'deit_tiny_distilled_patch16_224': arguments(16, 224, _TINY, distilled=True),
  'deit_tiny_patch16_224': arguments(16, 224, _TINY),
  'deit_small_distilled_patch16_224': arguments(16, 224, _SMALL, distilled=True),
  'deit_small_patch16_224': arguments(16, 224, _SMALL),
  'deit_base_distilled_patch16_224': arguments(16, 224, _BASE, distilled=True),
  'deit_base_distilled_patch16_384': arguments(16, 384, _BASE, distilled=True),
  'deit_base_patch16_224': arguments(16, 224, _BASE),
  'deit_base_patch16_384': arguments(16, 384, _BASE),
  'flexivit_base': arguments(16, 240, _BASE, no_embed_class=True),
  'flexivit_large': arguments(16, 240, _LARGE, no_embed_class=True),
  'flexivit_small': arguments(16, 240, _SMALL, no_embed_class=True),
}
