"""The names of timm's Eva networks, and the arguments of its model of that name."""

from experts.models.timm.vit_architectures import Arguments, arguments, size

_TINY = size(192, 12, 3)
_SMALL = size(384, 12, 6)
_MEDIUM = size(512, 12, 8)
_MEDIUMD = size(512, 20, 8)
_BETWIXT = size(640, 12, 10)
_BASE = size(768, 12, 12)
_LARGE = size(1024, 24, 16)
_HUGE_PLUS = size(1280, 32, 20)
_GIANT = size(1408, 40, 16, 6144 / 1408)
_GIANT_DINO = size(1536, 40, 24, 8 / 3)
_PE_GIGANTIC = size(1536, 50, 16, 8960 / 1536)
_7B = size(4096, 40, 32, 2)

_DINOV3 = {
  'rope_type': 'dinov3',
  'rope_temperature': 100,
  'rope_rotate_half': True,
  'use_rot_pos_emb': True,
  'use_abs_pos_emb': False,
  'init_values': 1e-05,
  'num_reg_tokens': 4,
  'use_fc_norm': False,
  'norm_layer': ('layernorm', 1e-05),
}
_EVA02 = {'mlp_ratio': 8 / 3, 'swiglu_mlp': True, 'use_rot_pos_emb': True, 'ref_feat_shape': 16}
_PE = {
  'attn_type': 'rope',
  'use_pre_transformer_norm': True,
  'use_rot_pos_emb': True,
  'rope_grid_indexing': 'xy',
  'norm_layer': ('layernorm', 1e-05),
}
_PE_POOL = {'global_pool': 'map', 'attn_pool_num_heads': 8, 'attn_pool_mlp_ratio': 4.0}
_PE_PLAIN = {'use_post_transformer_norm': False, 'use_fc_norm': False}
_ROPE_GAP = {
  'class_token': False,
  'init_values': 1e-05,
  'use_rot_pos_emb': True,
  'use_abs_pos_emb': False,
  'ref_feat_shape': 16,
}
_ROPE = {
  'attn_type': 'rope',
  'init_values': 1e-05,
  'global_pool': 'token',
  'use_rot_pos_emb': True,
  'rope_grid_indexing': 'xy',
  'rope_temperature': 100.0,
}
_SCALED_MLP = {'scale_mlp': True, 'qkv_fused': False}

ARCHITECTURES: dict[str, Arguments] = {
  'vit_tiny_patch16_dinov3_qkvb': arguments(16, 256, _TINY, _DINOV3),
  'vit_small_patch16_dinov3': arguments(16, 256, _SMALL, _DINOV3, qkv_bias=False),
  'vit_small_patch16_dinov3_qkvb': arguments(16, 256, _SMALL, _DINOV3),
  'vit_small_plus_patch16_dinov3': arguments(
    16, 256, _SMALL, _DINOV3, qkv_bias=False, swiglu_mlp=True, swiglu_align_to=8
  ),
  'vit_small_plus_patch16_dinov3_qkvb': arguments(
    16, 256, _SMALL, _DINOV3, swiglu_mlp=True, swiglu_align_to=8
  ),
  'vit_base_patch16_dinov3': arguments(16, 256, _BASE, _DINOV3, qkv_bias=False),
  'vit_base_patch16_dinov3_qkvb': arguments(16, 256, _BASE, _DINOV3),
  'vit_large_patch16_dinov3': arguments(16, 256, _LARGE, _DINOV3, qkv_bias=False),
  'vit_large_patch16_dinov3_qkvb': arguments(16, 256, _LARGE, _DINOV3),
  'vit_huge_plus_patch16_dinov3': arguments(
    16, 256, _HUGE_PLUS, _DINOV3, qkv_bias=False, swiglu_mlp=True, swiglu_align_to=8
  ),
  'vit_huge_plus_patch16_dinov3_qkvb': arguments(
    16, 256, _HUGE_PLUS, _DINOV3, swiglu_mlp=True, swiglu_align_to=8
  ),
  'vit_7b_patch16_dinov3': arguments(
    16, 256, _7B, _DINOV3, qkv_bias=False, swiglu_mlp=True, swiglu_align_to=64
  ),
  'vit_small_patch16_lingbot': arguments(16, 512, _SMALL, _DINOV3, global_pool='token'),
  'vit_base_patch16_lingbot': arguments(16, 512, _BASE, _DINOV3, global_pool='token'),
  'vit_large_patch16_lingbot': arguments(16, 512, _LARGE, _DINOV3, global_pool='token'),
  'vit_giant_patch16_lingbot': arguments(
    16,
    512,
    _GIANT_DINO,
    _DINOV3,
    qkv_bias=False,
    global_pool='token',
    swiglu_mlp=True,
    swiglu_align_to=8,
  ),
  'eva02_tiny_patch14_224': arguments(14, 224, _TINY, _EVA02),
  'eva02_tiny_patch14_336': arguments(14, 336, _TINY, _EVA02),
  'eva02_small_patch14_224': arguments(14, 224, _SMALL, _EVA02),
  'eva02_small_patch14_336': arguments(14, 336, _SMALL, _EVA02),
  'eva02_base_patch14_224': arguments(14, 224, _BASE, _EVA02, _SCALED_MLP),
  'eva02_base_patch14_448': arguments(14, 448, _BASE, _EVA02, _SCALED_MLP),
  'eva02_base_patch16_clip_224': arguments(
    16, 224, _BASE, _EVA02, _SCALED_MLP, scale_attn_inner=True, global_pool='token'
  ),
  'eva02_large_patch14_224': arguments(14, 224, _LARGE, _EVA02, _SCALED_MLP),
  'eva02_large_patch14_448': arguments(14, 448, _LARGE, _EVA02, _SCALED_MLP),
  'eva02_large_patch14_clip_224': arguments(
    14, 224, _LARGE, _EVA02, _SCALED_MLP, scale_attn_inner=True, global_pool='token'
  ),
  'eva02_large_patch14_clip_336': arguments(
    14, 336, _LARGE, _EVA02, _SCALED_MLP, scale_attn_inner=True, global_pool='token'
  ),
  'eva02_enormous_patch14_clip_224': arguments(
    14,
    224,
    embed_dim=1792,
    depth=64,
    num_heads=16,
    mlp_ratio=15360 / 1792,
    use_post_norm=True,
    global_pool='token',
  ),
  'eva_giant_patch14_224': arguments(14, 224, _GIANT),
  'eva_giant_patch14_336': arguments(14, 336, _GIANT),
  'eva_giant_patch14_560': arguments(14, 560, _GIANT),
  'eva_giant_patch14_clip_224': arguments(14, 224, _GIANT, global_pool='token'),
  'vit_small_patch16_rope_224': arguments(16, 224, _SMALL, _ROPE, use_abs_pos_emb=False),
  'vit_small_patch16_rope_ape_224': arguments(
    16, 224, _SMALL, _ROPE, no_embed_class=True, use_abs_pos_emb=True
  ),
  'vit_medium_patch16_rope_reg1_gap_256': arguments(16, 256, _MEDIUM, _ROPE_GAP, num_reg_tokens=1),
  'vit_mediumd_patch16_rope_reg1_gap_256': arguments(
    16, 256, _MEDIUMD, _ROPE_GAP, qkv_bias=False, num_reg_tokens=1
  ),
  'vit_betwixt_patch16_rope_reg4_gap_256': arguments(
    16, 256, _BETWIXT, _ROPE_GAP, num_reg_tokens=4
  ),
  'vit_base_patch16_rope_224': arguments(
    16, 224, _BASE, _ROPE, use_fc_norm=False, use_abs_pos_emb=False
  ),
  'vit_base_patch16_rope_ape_224': arguments(
    16, 224, _BASE, _ROPE, no_embed_class=True, use_abs_pos_emb=True
  ),
  'vit_base_patch16_rope_reg1_gap_256': arguments(16, 256, _BASE, _ROPE_GAP, num_reg_tokens=1),
  'vit_large_patch16_rope_224': arguments(16, 224, _LARGE, _ROPE, use_abs_pos_emb=False),
  'vit_large_patch16_rope_ape_224': arguments(
    16, 224, _LARGE, _ROPE, no_embed_class=True, use_abs_pos_emb=True
  ),
  'vit_pe_core_tiny_patch16_384': arguments(
    16, 384, _TINY, _PE, _PE_POOL, ref_feat_shape=24, rope_grid_offset=1.0
  ),
  'vit_pe_spatial_tiny_patch16_512': arguments(
    16, 512, _TINY, _PE, _PE_PLAIN, ref_feat_shape=32, rope_grid_offset=1.0
  ),
  'vit_pe_core_small_patch16_384': arguments(
    16, 384, _SMALL, _PE, _PE_POOL, ref_feat_shape=24, rope_grid_offset=1.0
  ),
  'vit_pe_spatial_small_patch16_512': arguments(
    16, 512, _SMALL, _PE, _PE_PLAIN, ref_feat_shape=32, rope_grid_offset=1.0
  ),
  'vit_pe_core_base_patch16_224': arguments(
    16, 224, _BASE, _PE, _PE_POOL, ref_feat_shape=14, rope_grid_offset=1.0
  ),
  'vit_pe_spatial_base_patch16_512': arguments(
    16, 512, _BASE, _PE, _PE_PLAIN, ref_feat_shape=32, rope_grid_offset=1.0
  ),
  'vit_pe_core_large_patch14_336': arguments(
    14, 336, _LARGE, _PE, _PE_POOL, ref_feat_shape=24, rope_grid_offset=1.0
  ),
  'vit_pe_lang_large_patch14_448': arguments(
    14,
    448,
    _LARGE,
    _PE,
    _PE_PLAIN,
    depth=23,
    ref_feat_shape=32,
    rope_grid_offset=1.0,
    init_values=0.1,
  ),
  'vit_pe_spatial_large_patch14_448': arguments(
    14, 448, _LARGE, _PE, _PE_PLAIN, ref_feat_shape=32, rope_grid_offset=1.0
  ),
  'vit_pe_core_gigantic_patch14_448': arguments(
    14, 448, _PE_GIGANTIC, _PE, _PE_POOL, class_token=False, ref_feat_shape=32
  ),
  'vit_pe_lang_gigantic_patch14_448': arguments(
    14,
    448,
    _PE_GIGANTIC,
    _PE,
    _PE_PLAIN,
    depth=47,
    class_token=False,
    ref_feat_shape=32,
    init_values=0.1,
  ),
  'vit_pe_spatial_gigantic_patch14_448': arguments(
    14, 448, _PE_GIGANTIC, _PE, _PE_PLAIN, class_token=False, ref_feat_shape=32, init_values=0.1
  ),
}
