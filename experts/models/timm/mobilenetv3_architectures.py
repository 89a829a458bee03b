"""timm's networks of EfficientNet's builder that pool before their head, by name: MobileNet v3 and v4, and others."""

from experts.models.timm.efficientnet_architectures import TF, Arguments, arguments, scaled

_COMMON = {'efficient_head': True, 'se_from_exp': True, 'stem_size': 16}
_SE = {'se_gate': 'hard_sigmoid', 'se_act': 'relu', 'se_divisor': 8}

_V3_RW = arguments(
  """
  ds_k3_s1_e1_c16_nre_noskip
  ir_k3_s2_e4_c24_nre ir_k3_s1_e3_c24_nre
  ir_r3_k5_s2_e3_c40_se0.25_nre
  ir_k3_s2_e6_c80 ir_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80
  ir_r2_k3_s1_e6_c112_se0.25
  ir_r3_k5_s2_e6_c160_se0.25
  cn_k1_s1_c960
  """,
  **_COMMON,
  act_layer='hard_swish',
  head_bias=False,
  se_gate='hard_sigmoid',
  bn_eps=1e-3,
)
_V3_LARGE = {
  **_V3_RW,
  **_SE,
  'arch_def': ('ds_k3_s1_e1_c16_nre', *_V3_RW['arch_def'][1:]),
  'head_bias': True,
  'bn_eps': 1e-5,
}
_V3_LARGE_MINIMAL = arguments(
  """
  ds_k3_s1_e1_c16
  ir_k3_s2_e4_c24 ir_k3_s1_e3_c24
  ir_r3_k3_s2_e3_c40
  ir_k3_s2_e6_c80 ir_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80
  ir_r2_k3_s1_e6_c112
  ir_r3_k3_s2_e6_c160
  cn_k1_s1_c960
  """,
  **_COMMON,
  **_SE,
)
_V3_SMALL = arguments(
  """
  ds_k3_s2_e1_c16_se0.25_nre
  ir_k3_s2_e4.5_c24_nre ir_k3_s1_e3.67_c24_nre
  ir_k5_s2_e4_c40_se0.25 ir_r2_k5_s1_e6_c40_se0.25
  ir_r2_k5_s1_e3_c48_se0.25
  ir_r3_k5_s2_e6_c96_se0.25
  cn_k1_s1_c576
  """,
  **_COMMON,
  **_SE,
  act_layer='hard_swish',
  num_features=1024,
)
_V3_SMALL_MINIMAL = arguments(
  """
  ds_k3_s2_e1_c16
  ir_k3_s2_e4.5_c24 ir_k3_s1_e3.67_c24
  ir_k3_s2_e4_c40 ir_r2_k3_s1_e6_c40
  ir_r2_k3_s1_e3_c48
  ir_r3_k3_s2_e6_c96
  cn_k1_s1_c576
  """,
  **_COMMON,
  **_SE,
  num_features=1024,
)

_FBNET_V3 = {
  **_COMMON,
  'act_layer': 'hard_swish',
  'se_gate': 'hard_sigmoid',
  'se_divisor': 8,
  'se_from_exp': False,
  'round_limit': 0.95,
  'num_features': 1984,
  'head_bias': False,
}
_FBNET_V3_B = arguments(
  """
  ds_r2_k3_s1_e1_c16
  ir_k5_s2_e4_c24 ir_r3_k5_s1_e2_c24
  ir_k5_s2_e5_c40_se0.25 ir_r4_k5_s1_e3_c40_se0.25
  ir_k5_s2_e5_c72 ir_r4_k3_s1_e3_c72
  ir_k3_s1_e5_c120_se0.25 ir_r5_k5_s1_e3_c120_se0.25
  ir_k3_s2_e6_c184_se0.25 ir_r5_k5_s1_e4_c184_se0.25 ir_k5_s1_e6_c224_se0.25
  cn_k1_s1_c1344
  """,
  **_FBNET_V3,
)
_FBNET_V3_D = arguments(
  """
  ds_r2_k3_s1_e1_c16
  ir_k3_s2_e5_c24 ir_r5_k3_s1_e2_c24
  ir_k5_s2_e4_c40_se0.25 ir_r4_k3_s1_e3_c40_se0.25
  ir_k3_s2_e5_c72 ir_r4_k3_s1_e3_c72
  ir_k3_s1_e5_c128_se0.25 ir_r6_k5_s1_e3_c128_se0.25
  ir_k3_s2_e6_c208_se0.25 ir_r5_k5_s1_e5_c208_se0.25 ir_k5_s1_e6_c240_se0.25
  cn_k1_s1_c1440
  """,
  **{**_FBNET_V3, 'stem_size': 24},
)
_FBNET_V3_G = arguments(
  """
  ds_r3_k3_s1_e1_c24
  ir_k5_s2_e4_c40 ir_r4_k5_s1_e2_c40
  ir_k5_s2_e4_c56_se0.25 ir_r4_k5_s1_e3_c56_se0.25
  ir_k5_s2_e5_c104 ir_r4_k3_s1_e3_c104
  ir_k3_s1_e5_c160_se0.25 ir_r8_k5_s1_e3_c160_se0.25
  ir_k3_s2_e6_c264_se0.25 ir_r6_k5_s1_e5_c264_se0.25 ir_r2_k5_s1_e6_c288_se0.25
  cn_k1_s1_c1728
  """,
  **{**_FBNET_V3, 'stem_size': 32},
)
_LCNET = arguments(
  """
  dsa_k3_s1_c32
  dsa_r2_k3_s2_c64
  dsa_r2_k3_s2_c128
  dsa_k3_s2_c256 dsa_k5_s1_c256
  dsa_r4_k5_s1_c256
  dsa_r2_k5_s2_c512_se0.25
  """,
  **_COMMON,
  act_layer='hard_swish',
  se_gate='hard_sigmoid',
  se_act='relu',
)

_V4 = {**_COMMON, 'stem_size': 32, 'head_bias': False, 'head_norm': True}
_V4_LARGE = {**_V4, 'stem_size': 24}
_V4_SMALL_CONV = arguments(
  """
  cn_k3_s2_e1_c32 cn_k1_s1_e1_c32
  cn_k3_s2_e1_c96 cn_k1_s1_e1_c64
  uir_a5_k5_s2_e3_c96 uir_r4_a0_k3_s1_e2_c96 uir_a3_k0_s1_e4_c96
  uir_a3_k3_s2_e6_c128 uir_a5_k5_s1_e4_c128 uir_a0_k5_s1_e4_c128 uir_a0_k5_s1_e3_c128 +
    uir_r2_a0_k3_s1_e4_c128
  cn_k1_s1_c960
  """,
  **_V4,
)
_V4_MEDIUM_CONV = arguments(
  """
  er_k3_s2_e4_c48
  uir_a3_k5_s2_e4_c80 uir_a3_k3_s1_e2_c80
  uir_a3_k5_s2_e6_c160 uir_r2_a3_k3_s1_e4_c160 uir_a3_k5_s1_e4_c160 uir_a3_k3_s1_e4_c160 +
    uir_a3_k0_s1_e4_c160 uir_a0_k0_s1_e2_c160 uir_a3_k0_s1_e4_c160
  uir_a5_k5_s2_e6_c256 uir_a5_k5_s1_e4_c256 uir_r2_a3_k5_s1_e4_c256 uir_a0_k0_s1_e4_c256 +
    uir_a3_k0_s1_e4_c256 uir_a3_k5_s1_e2_c256 uir_a5_k5_s1_e4_c256 uir_r2_a0_k0_s1_e4_c256 +
    uir_a5_k0_s1_e2_c256
  cn_k1_s1_c960
  """,
  **_V4,
)
_V4_LARGE_CONV = arguments(
  """
  er_k3_s2_e4_c48
  uir_a3_k5_s2_e4_c96 uir_a3_k3_s1_e4_c96
  uir_a3_k5_s2_e4_c192 uir_r3_a3_k3_s1_e4_c192 uir_a3_k5_s1_e4_c192 uir_r5_a5_k3_s1_e4_c192 +
    uir_a3_k0_s1_e4_c192
  uir_r4_a5_k5_s2_e4_c512 uir_a5_k0_s1_e4_c512 uir_a5_k3_s1_e4_c512 uir_r2_a5_k0_s1_e4_c512 +
    uir_a5_k3_s1_e4_c512 uir_a5_k5_s1_e4_c512 uir_r3_a5_k0_s1_e4_c512
  cn_k1_s1_c960
  """,
  **_V4_LARGE,
)
_V4_MEDIUM_HYBRID = arguments(
  """
  er_k3_s2_e4_c48
  uir_a3_k5_s2_e4_c80 uir_a3_k3_s1_e2_c80
  uir_a3_k5_s2_e6_c160 uir_a0_k0_s1_e2_c160 uir_a3_k3_s1_e4_c160 uir_a3_k5_s1_e4_c160 +
    mqa_k3_h4_s1_v2_d64_c160 uir_a3_k3_s1_e4_c160 mqa_k3_h4_s1_v2_d64_c160 uir_a3_k0_s1_e4_c160 +
    mqa_k3_h4_s1_v2_d64_c160 uir_a3_k3_s1_e4_c160 mqa_k3_h4_s1_v2_d64_c160 uir_a3_k0_s1_e4_c160
  uir_a5_k5_s2_e6_c256 uir_a5_k5_s1_e4_c256 uir_r2_a3_k5_s1_e4_c256 uir_a0_k0_s1_e2_c256 +
    uir_a3_k5_s1_e2_c256 uir_a0_k0_s1_e2_c256 uir_a0_k0_s1_e4_c256 mqa_k3_h4_s1_d64_c256 +
    uir_a3_k0_s1_e4_c256 mqa_k3_h4_s1_d64_c256 uir_a5_k5_s1_e4_c256 mqa_k3_h4_s1_d64_c256 +
    uir_a5_k0_s1_e4_c256 mqa_k3_h4_s1_d64_c256 uir_a5_k0_s1_e4_c256
  cn_k1_s1_c960
  """,
  **_V4,
  layer_scale_init_value=1e-5,
)
_V4_LARGE_HYBRID = arguments(
  """
  er_k3_s2_e4_c48
  uir_a3_k5_s2_e4_c96 uir_a3_k3_s1_e4_c96
  uir_a3_k5_s2_e4_c192 uir_r3_a3_k3_s1_e4_c192 uir_a3_k5_s1_e4_c192 uir_r2_a5_k3_s1_e4_c192 +
    mqa_k3_h8_s1_v2_d48_c192 uir_a5_k3_s1_e4_c192 mqa_k3_h8_s1_v2_d48_c192 uir_a5_k3_s1_e4_c192 +
    mqa_k3_h8_s1_v2_d48_c192 uir_a5_k3_s1_e4_c192 mqa_k3_h8_s1_v2_d48_c192 uir_a3_k0_s1_e4_c192
  uir_r4_a5_k5_s2_e4_c512 uir_a5_k0_s1_e4_c512 uir_a5_k3_s1_e4_c512 uir_r2_a5_k0_s1_e4_c512 +
    uir_a5_k3_s1_e4_c512 uir_a5_k5_s1_e4_c512 mqa_k3_h8_s1_d64_c512 uir_a5_k0_s1_e4_c512 +
    mqa_k3_h8_s1_d64_c512 uir_a5_k0_s1_e4_c512 mqa_k3_h8_s1_d64_c512 uir_a5_k0_s1_e4_c512 +
    mqa_k3_h8_s1_d64_c512 uir_a5_k0_s1_e4_c512
  cn_k1_s1_c960
  """,
  **_V4_LARGE,
  act_layer='gelu',
  layer_scale_init_value=1e-5,
)

_NARROW = {'fix_stem': True}

MOBILENETS: dict[str, Arguments] = {
  'mobilenetv3_rw': _V3_RW,
  'mobilenetv3_large_075': scaled(_V3_LARGE, 0.75),
  'mobilenetv3_large_100': _V3_LARGE,
  'mobilenetv3_large_150d': scaled(_V3_LARGE, 1.5, 1.2),
  'mobilenetv3_small_050': {**scaled(_V3_SMALL, 0.5), **_NARROW},
  'mobilenetv3_small_075': scaled(_V3_SMALL, 0.75),
  'mobilenetv3_small_100': _V3_SMALL,
  'tf_mobilenetv3_large_075': {**scaled(_V3_LARGE, 0.75), **TF},
  'tf_mobilenetv3_large_100': {**_V3_LARGE, **TF},
  'tf_mobilenetv3_large_minimal_100': {**_V3_LARGE_MINIMAL, **TF},
  'tf_mobilenetv3_small_075': {**scaled(_V3_SMALL, 0.75), **TF},
  'tf_mobilenetv3_small_100': {**_V3_SMALL, **TF},
  'tf_mobilenetv3_small_minimal_100': {**_V3_SMALL_MINIMAL, **TF},
  'fbnetv3_b': _FBNET_V3_B,
  'fbnetv3_d': _FBNET_V3_D,
  'fbnetv3_g': _FBNET_V3_G,
  'lcnet_035': scaled(_LCNET, 0.35),
  'lcnet_050': scaled(_LCNET, 0.5),
  'lcnet_075': scaled(_LCNET, 0.75),
  'lcnet_100': _LCNET,
  'lcnet_150': scaled(_LCNET, 1.5),
  'mobilenetv4_conv_small_035': {**scaled(_V4_SMALL_CONV, 0.35), **_NARROW},
  'mobilenetv4_conv_small_050': {**scaled(_V4_SMALL_CONV, 0.5), **_NARROW},
  'mobilenetv4_conv_small': _V4_SMALL_CONV,
  'mobilenetv4_conv_medium': _V4_MEDIUM_CONV,
  'mobilenetv4_conv_large': _V4_LARGE_CONV,
  'mobilenetv4_conv_aa_medium': {**_V4_MEDIUM_CONV, 'aa_layer': 'avg'},
  'mobilenetv4_conv_aa_large': {**_V4_LARGE_CONV, 'aa_layer': 'avg'},
  'mobilenetv4_hybrid_medium': _V4_MEDIUM_HYBRID,
  'mobilenetv4_hybrid_medium_075': {**scaled(_V4_MEDIUM_HYBRID, 0.75), **_NARROW},
  'mobilenetv4_hybrid_large': _V4_LARGE_HYBRID,
  'mobilenetv4_hybrid_large_075': {**scaled(_V4_LARGE_HYBRID, 0.75), **_NARROW},
}

_HARDCORENAS = {**_COMMON, **_SE, 'stem_size': 32, 'act_layer': 'hard_swish'}
_HARDCORENAS_STAGES = {
  'a': """
    ds_k3_s1_e1_c16_nre
    ir_k5_s2_e3_c24_nre ir_k5_s1_e3_c24_nre_se0.25
    ir_k5_s2_e3_c40_nre ir_k5_s1_e6_c40_nre_se0.25
    ir_k5_s2_e6_c80_se0.25 ir_k5_s1_e6_c80_se0.25
    ir_k5_s1_e6_c112_se0.25 ir_k5_s1_e6_c112_se0.25
    ir_k5_s2_e6_c192_se0.25 ir_k5_s1_e6_c192_se0.25
    cn_k1_s1_c960
  """,
  'b': """
    ds_k3_s1_e1_c16_nre
    ir_k5_s2_e3_c24_nre ir_k5_s1_e3_c24_nre_se0.25 ir_k3_s1_e3_c24_nre
    ir_k5_s2_e3_c40_nre ir_k5_s1_e3_c40_nre ir_k5_s1_e3_c40_nre
    ir_k5_s2_e3_c80 ir_k5_s1_e3_c80 ir_k3_s1_e3_c80 ir_k3_s1_e3_c80
    ir_k5_s1_e3_c112 ir_k3_s1_e3_c112 ir_k3_s1_e3_c112 ir_k3_s1_e3_c112
    ir_k5_s2_e6_c192_se0.25 ir_k5_s1_e6_c192_se0.25 ir_k3_s1_e3_c192_se0.25
    cn_k1_s1_c960
  """,
  'c': """
    ds_k3_s1_e1_c16_nre
    ir_k5_s2_e3_c24_nre ir_k5_s1_e3_c24_nre_se0.25
    ir_k5_s2_e3_c40_nre ir_k5_s1_e3_c40_nre ir_k5_s1_e3_c40_nre ir_k5_s1_e3_c40_nre
    ir_k5_s2_e4_c80 ir_k5_s1_e6_c80_se0.25 ir_k3_s1_e3_c80 ir_k3_s1_e3_c80
    ir_k5_s1_e6_c112_se0.25 ir_k3_s1_e3_c112 ir_k3_s1_e3_c112 ir_k3_s1_e3_c112
    ir_k5_s2_e6_c192_se0.25 ir_k5_s1_e6_c192_se0.25 ir_k3_s1_e3_c192_se0.25
    cn_k1_s1_c960
  """,
  'd': """
    ds_k3_s1_e1_c16_nre
    ir_k5_s2_e3_c24_nre_se0.25 ir_k5_s1_e3_c24_nre_se0.25
    ir_k5_s2_e3_c40_nre_se0.25 ir_k5_s1_e4_c40_nre_se0.25 ir_k3_s1_e3_c40_nre_se0.25
    ir_k5_s2_e4_c80_se0.25 ir_k3_s1_e3_c80_se0.25 ir_k3_s1_e3_c80_se0.25 ir_k3_s1_e3_c80_se0.25
    ir_k3_s1_e4_c112_se0.25 ir_k5_s1_e4_c112_se0.25 ir_k3_s1_e3_c112_se0.25 +
      ir_k5_s1_e3_c112_se0.25
    ir_k5_s2_e6_c192_se0.25 ir_k5_s1_e6_c192_se0.25 ir_k5_s1_e6_c192_se0.25 +
      ir_k3_s1_e6_c192_se0.25
    cn_k1_s1_c960
  """,
  'e': """
    ds_k3_s1_e1_c16_nre
    ir_k5_s2_e3_c24_nre_se0.25 ir_k5_s1_e3_c24_nre_se0.25
    ir_k5_s2_e6_c40_nre_se0.25 ir_k5_s1_e4_c40_nre_se0.25 ir_k5_s1_e4_c40_nre_se0.25 +
      ir_k3_s1_e3_c40_nre_se0.25
    ir_k5_s2_e4_c80_se0.25 ir_k3_s1_e6_c80_se0.25
    ir_k5_s1_e6_c112_se0.25 ir_k5_s1_e6_c112_se0.25 ir_k5_s1_e6_c112_se0.25 +
      ir_k5_s1_e3_c112_se0.25
    ir_k5_s2_e6_c192_se0.25 ir_k5_s1_e6_c192_se0.25 ir_k5_s1_e6_c192_se0.25 +
      ir_k3_s1_e6_c192_se0.25
    cn_k1_s1_c960
  """,
  'f': """
    ds_k3_s1_e1_c16_nre
    ir_k5_s2_e3_c24_nre_se0.25 ir_k5_s1_e3_c24_nre_se0.25
    ir_k5_s2_e6_c40_nre_se0.25 ir_k5_s1_e6_c40_nre_se0.25
    ir_k5_s2_e6_c80_se0.25 ir_k5_s1_e6_c80_se0.25 ir_k3_s1_e3_c80_se0.25 ir_k3_s1_e3_c80_se0.25
    ir_k3_s1_e6_c112_se0.25 ir_k5_s1_e6_c112_se0.25 ir_k5_s1_e6_c112_se0.25 +
      ir_k3_s1_e3_c112_se0.25
    ir_k5_s2_e6_c192_se0.25 ir_k5_s1_e6_c192_se0.25 ir_k3_s1_e6_c192_se0.25 +
      ir_k3_s1_e6_c192_se0.25
    cn_k1_s1_c960
  """,
}
for _name, _stages in _HARDCORENAS_STAGES.items():
  MOBILENETS[f'hardcorenas_{_name}'] = arguments(_stages, **_HARDCORENAS)
