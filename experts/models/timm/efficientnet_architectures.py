"""timm's networks of EfficientNet's builder: the blocks of their stages, and their arguments, by name."""

from typing import Any

Arguments = dict[str, Any]


def arguments(stages: str, **others: Any) -> Arguments:
  """The arguments of a network.

  Args:
    stages: a line each, which goes on after a +; of blocks as `efficientnet_blocks.decode` reads them.
    **others: fields of `efficientnet.Arguments`.
  """
  lines = stages.replace('+\n', '').strip().splitlines()
  return {'arch_def': tuple(' '.join(line.split()) for line in lines), **others}


def scaled(base: Arguments, width: float, depth: float = 1.0) -> Arguments:
  """The same network with more or fewer channels and blocks."""
  return {**base, 'channel_multiplier': width, 'depth_multiplier': depth}


TF = {'bn_eps': 1e-3, 'pad_type': 'same'}

_EFFICIENTNET = arguments(
  """
  ds_k3_s1_e1_c16_se0.25
  ir_r2_k3_s2_e6_c24_se0.25
  ir_r2_k5_s2_e6_c40_se0.25
  ir_r3_k3_s2_e6_c80_se0.25
  ir_r3_k5_s1_e6_c112_se0.25
  ir_r4_k5_s2_e6_c192_se0.25
  ir_k3_s1_e6_c320_se0.25
  """,
  act_layer='swish',
  scale_features='round',
)
# Channel and depth multipliers.
_SCALES = {
  'b0': (1.0, 1.0),
  'b1': (1.0, 1.1),
  'b2': (1.1, 1.2),
  'b3': (1.2, 1.4),
  'b4': (1.4, 1.8),
  'b5': (1.6, 2.2),
  'b6': (1.8, 2.6),
  'b7': (2.0, 3.1),
  'b8': (2.2, 3.6),
  'l2': (4.3, 5.3),
}
_LITE = {
  **_EFFICIENTNET,
  'arch_def': tuple(stage.removesuffix('_se0.25') for stage in _EFFICIENTNET['arch_def']),
  'act_layer': 'relu6',
  'fix_stem_head': True,
}
_EDGE = arguments(
  """
  er_k3_s1_e4_c24_fc24_noskip
  er_r2_k3_s2_e8_c32
  er_r4_k3_s2_e8_c48
  ir_r5_k5_s2_e8_c96
  ir_r4_k5_s1_e8_c144
  ir_r2_k5_s2_e8_c192
  """,
  scale_features='round',
)
_TINYNET = {
  **_EFFICIENTNET,
  'depth_trunc': 'round',
  'fix_stem': True,
  'scale_features': 'grow',
}
_TINYNETS = {
  'a': (1.0, 1.2),
  'b': (0.75, 1.1),
  'c': (0.54, 0.85),
  'd': (0.54, 0.695),
  'e': (0.51, 0.6),
}

_V2_BASE = arguments(
  """
  cn_k3_s1_e1_c16_skip
  er_r2_k3_s2_e4_c32
  er_r2_k3_s2_e4_c48
  ir_r3_k3_s2_e4_c96_se0.25
  ir_r5_k3_s1_e6_c112_se0.25
  ir_r8_k3_s2_e6_c192_se0.25
  """,
  act_layer='silu',
  scale_features='round',
  round_limit=0.0,
)
_V2_S = arguments(
  """
  cn_r2_k3_s1_e1_c24_skip
  er_r4_k3_s2_e4_c48
  er_r4_k3_s2_e4_c64
  ir_r6_k3_s2_e4_c128_se0.25
  ir_r9_k3_s1_e6_c160_se0.25
  ir_r15_k3_s2_e6_c256_se0.25
  """,
  act_layer='silu',
  stem_size=24,
  scale_features='round',
)
_V2_RW = {
  **_V2_S,
  'arch_def': ('er_r2_k3_s1_e1_c24', *_V2_S['arch_def'][1:-1], 'ir_r15_k3_s2_e6_c272_se0.25'),
  'num_features': 1792,
}
_V2_M = arguments(
  """
  cn_r3_k3_s1_e1_c24_skip
  er_r5_k3_s2_e4_c48
  er_r5_k3_s2_e4_c80
  ir_r7_k3_s2_e4_c160_se0.25
  ir_r14_k3_s1_e6_c176_se0.25
  ir_r18_k3_s2_e6_c304_se0.25
  ir_r5_k3_s1_e6_c512_se0.25
  """,
  act_layer='silu',
  stem_size=24,
)
_V2_L = arguments(
  """
  cn_r4_k3_s1_e1_c32_skip
  er_r7_k3_s2_e4_c64
  er_r7_k3_s2_e4_c96
  ir_r10_k3_s2_e4_c192_se0.25
  ir_r19_k3_s1_e6_c224_se0.25
  ir_r25_k3_s2_e6_c384_se0.25
  ir_r7_k3_s1_e6_c640_se0.25
  """,
  act_layer='silu',
)
_V2_XL = arguments(
  """
  cn_r4_k3_s1_e1_c32_skip
  er_r8_k3_s2_e4_c64
  er_r8_k3_s2_e4_c96
  ir_r16_k3_s2_e4_c192_se0.25
  ir_r24_k3_s1_e6_c256_se0.25
  ir_r32_k3_s2_e6_c512_se0.25
  ir_r8_k3_s1_e6_c640_se0.25
  """,
  act_layer='silu',
)
_TEST = arguments(
  """
  cn_k3_s1_e1_c16_skip
  er_k3_s2_e4_c24
  er_k3_s2_e4_c32
  ir_k3_s2_e4_c48_se0.25
  ir_k3_s2_e4_c64_se0.25
  """,
  act_layer='silu',
  stem_size=24,
  num_features=256,
  scale_features='round',
  round_limit=0.0,
)

_MNASNET = arguments(
  """
  ds_k3_s1_c16_noskip
  ir_r3_k3_s2_e3_c24
  ir_r3_k5_s2_e3_c40
  ir_r3_k5_s2_e6_c80
  ir_r2_k3_s1_e6_c96
  ir_r4_k5_s2_e6_c192
  ir_k3_s1_e6_c320_noskip
  """
)
_SEMNASNET = arguments(
  """
  ds_k3_s1_e1_c16_noskip
  ir_r2_k3_s2_e6_c24
  ir_r3_k5_s2_e3_c40_se0.25
  ir_r4_k3_s2_e6_c80
  ir_r2_k3_s1_e6_c112_se0.25
  ir_r3_k5_s2_e6_c160_se0.25
  ir_k3_s1_e6_c320
  """
)
_MNASNET_SMALL = arguments(
  """
  ds_k3_s1_c8
  ir_k3_s2_e3_c16
  ir_r2_k3_s2_e6_c16
  ir_r4_k5_s2_e6_c32_se0.25
  ir_r3_k3_s1_e6_c32_se0.25
  ir_r3_k5_s2_e6_c88_se0.25
  ir_k3_s1_e6_c144
  """,
  stem_size=8,
)
_FBNETC = arguments(
  """
  ir_k3_s1_e1_c16
  ir_k3_s2_e6_c24 ir_r2_k3_s1_e1_c24
  ir_k5_s2_e6_c32 ir_k5_s1_e3_c32 ir_k5_s1_e6_c32 ir_k3_s1_e6_c32
  ir_k5_s2_e6_c64 ir_k5_s1_e3_c64 ir_r2_k5_s1_e6_c64
  ir_r3_k5_s1_e6_c112 ir_k5_s1_e3_c112
  ir_r4_k5_s2_e6_c184
  ir_k3_s1_e6_c352
  """,
  stem_size=16,
  num_features=1984,
  # Of the published weights, which timm sets where it loads them.
  bn_eps=1e-3,
)
_SPNASNET = arguments(
  """
  ds_k3_s1_c16_noskip
  ir_r3_k3_s2_e3_c24
  ir_k5_s2_e6_c40 ir_r3_k3_s1_e3_c40
  ir_k5_s2_e6_c80 ir_r3_k3_s1_e3_c80
  ir_k5_s1_e6_c96 ir_r3_k5_s1_e3_c96
  ir_r4_k5_s2_e6_c192
  ir_k3_s1_e6_c320_noskip
  """
)
_MIXNET_S = arguments(
  """
  ds_k3_s1_e1_c16
  ir_k3_a1.1_p1.1_s2_e6_c24 ir_k3_a1.1_p1.1_s1_e3_c24
  ir_k3.5.7_s2_e6_c40_se0.5_nsw ir_r3_k3.5_a1.1_p1.1_s1_e6_c40_se0.5_nsw
  ir_k3.5.7_p1.1_s2_e6_c80_se0.25_nsw ir_r2_k3.5_p1.1_s1_e6_c80_se0.25_nsw
  ir_k3.5.7_a1.1_p1.1_s1_e6_c120_se0.5_nsw ir_r2_k3.5.7.9_a1.1_p1.1_s1_e3_c120_se0.5_nsw
  ir_k3.5.7.9.11_s2_e6_c200_se0.5_nsw ir_r2_k3.5.7.9_p1.1_s1_e6_c200_se0.5_nsw
  """,
  stem_size=16,
  num_features=1536,
)
_MIXNET_M = arguments(
  """
  ds_k3_s1_e1_c24
  ir_k3.5.7_a1.1_p1.1_s2_e6_c32 ir_k3_a1.1_p1.1_s1_e3_c32
  ir_k3.5.7.9_s2_e6_c40_se0.5_nsw ir_r3_k3.5_a1.1_p1.1_s1_e6_c40_se0.5_nsw
  ir_k3.5.7_s2_e6_c80_se0.25_nsw ir_r3_k3.5.7.9_a1.1_p1.1_s1_e6_c80_se0.25_nsw
  ir_k3_s1_e6_c120_se0.5_nsw ir_r3_k3.5.7.9_a1.1_p1.1_s1_e3_c120_se0.5_nsw
  ir_k3.5.7.9_s2_e6_c200_se0.5_nsw ir_r3_k3.5.7.9_p1.1_s1_e6_c200_se0.5_nsw
  """,
  stem_size=24,
  num_features=1536,
  depth_trunc='round',
)

_MOBILENET_V1 = arguments(
  """
  dsa_k3_s1_c64
  dsa_r2_k3_s2_c128
  dsa_r2_k3_s2_c256
  dsa_r6_k3_s2_c512
  dsa_r2_k3_s2_c1024
  """,
  act_layer='relu6',
  num_features=0,
)
_MOBILENET_V2 = arguments(
  """
  ds_k3_s1_c16
  ir_r2_k3_s2_e6_c24
  ir_r3_k3_s2_e6_c32
  ir_r4_k3_s2_e6_c64
  ir_r3_k3_s1_e6_c96
  ir_r3_k3_s2_e6_c160
  ir_k3_s1_e6_c320
  """,
  act_layer='relu6',
  scale_features='grow',
)
_EDGETPU = arguments(
  """
  cn_k1_s1_c16
  er_k3_s2_e8_c32 er_r3_k3_s1_e4_c32
  er_k3_s2_e8_c48 er_r3_k3_s1_e4_c48
  ir_k3_s2_e8_c96 ir_r3_k3_s1_e4_c96
  ir_k3_s1_e8_c96_noskip ir_r3_k3_s1_e4_c96
  ir_k5_s2_e8_c160 ir_r3_k5_s1_e4_c160
  ir_k3_s1_e8_c192
  """
)


def _edgetpu_v2(channels: tuple[int, ...], group: int = 64, **others: Any) -> Arguments:
  a, b, c, d, e, f, g = channels
  grouped = f'er_k3_s1_e4_gs{group}'
  return arguments(
    f"""
    cn_k1_s1_c{a}
    er_k3_s2_e8_c{b} {grouped}_c{b}
    er_k3_s2_e8_c{c} {grouped}_c{c} er_k3_s1_e4_c{c} {grouped}_c{c}
    er_k3_s2_e8_c{d} ir_r3_k3_s1_e4_c{d}
    ir_k3_s1_e8_c{e} ir_r3_k3_s1_e4_c{e}
    ir_k3_s2_e8_c{f} ir_r3_k3_s1_e4_c{f}
    ir_k3_s1_e8_c{g}
    """,
    **{'stem_size': 64, 'stem_kernel_size': 5, **others},
  )


EFFICIENTNETS: dict[str, Arguments] = {
  'test_efficientnet': _TEST,
  'mnasnet_small': _MNASNET_SMALL,
  'fbnetc_100': _FBNETC,
  'spnasnet_100': _SPNASNET,
  'mixnet_s': _MIXNET_S,
  'tf_mixnet_s': {**_MIXNET_S, **TF},
  'mixnet_m': _MIXNET_M,
  'tf_mixnet_m': {**_MIXNET_M, **TF},
  'mixnet_l': {**_MIXNET_M, 'channel_multiplier': 1.3},
  'tf_mixnet_l': {**_MIXNET_M, 'channel_multiplier': 1.3, **TF},
  'mixnet_xl': {**_MIXNET_M, 'channel_multiplier': 1.6, 'depth_multiplier': 1.2},
  'mixnet_xxl': {**_MIXNET_M, 'channel_multiplier': 2.4, 'depth_multiplier': 1.3},
  'mobilenetv1_100': _MOBILENET_V1,
  'mobilenetv1_100h': {**_MOBILENET_V1, 'num_features': 1024, 'scale_features': 'grow'},
  'mobilenetv1_125': {**_MOBILENET_V1, 'channel_multiplier': 1.25},
  'mobilenet_edgetpu_100': _EDGETPU,
  'mobilenet_edgetpu_v2_xs': _edgetpu_v2(
    (16, 32, 48, 96, 144, 160, 192), stem_size=32, stem_kernel_size=3
  ),
  'mobilenet_edgetpu_v2_s': _edgetpu_v2((24, 48, 64, 128, 160, 192, 256)),
  'mobilenet_edgetpu_v2_m': _edgetpu_v2((32, 64, 80, 160, 192, 240, 320), num_features=1344),
  'mobilenet_edgetpu_v2_l': _edgetpu_v2(
    (32, 64, 96, 192, 240, 256, 384), 128, stem_kernel_size=7, num_features=1408
  ),
  'efficientnetv2_s': _V2_S,
  'efficientnetv2_m': _V2_M,
  'efficientnetv2_l': _V2_L,
  'efficientnetv2_xl': _V2_XL,
  'efficientnetv2_rw_t': {**_V2_S, 'channel_multiplier': 0.8, 'depth_multiplier': 0.9},
  'efficientnetv2_rw_s': _V2_RW,
  'efficientnetv2_rw_m': {
    **_V2_RW,
    'channel_multiplier': 1.2,
    'depth_multiplier': (1.2, 1.2, 1.2, 1.2, 1.6, 1.6),
  },
}

for _name in ('s', 'm', 'l', 'xl'):
  EFFICIENTNETS[f'tf_efficientnetv2_{_name}'] = {**EFFICIENTNETS[f'efficientnetv2_{_name}'], **TF}
for _name, _scale in _SCALES.items():
  EFFICIENTNETS[f'efficientnet_{_name}'] = scaled(_EFFICIENTNET, *_scale)
  EFFICIENTNETS[f'tf_efficientnet_{_name}'] = {**scaled(_EFFICIENTNET, *_scale), **TF}
for _name in ('b0', 'b1', 'b2', 'b3', 'b4'):
  _lite = scaled(_LITE, *_SCALES[_name])
  EFFICIENTNETS[f'efficientnet_lite{_name[1]}'] = _lite
  EFFICIENTNETS[f'tf_efficientnet_lite{_name[1]}'] = {**_lite, **TF}
for _name in ('b0', 'b1', 'b2', 'b3'):
  EFFICIENTNETS[f'tf_efficientnetv2_{_name}'] = {**scaled(_V2_BASE, *_SCALES[_name]), **TF}
for _name, _scale in {'es': 'b0', 'em': 'b1', 'el': 'b3'}.items():
  _edge = scaled(_EDGE, *_SCALES[_scale])
  EFFICIENTNETS[f'efficientnet_{_name}'] = _edge
  EFFICIENTNETS[f'tf_efficientnet_{_name}'] = {**_edge, **TF}
  if _name != 'em':
    EFFICIENTNETS[f'efficientnet_{_name}_pruned'] = _edge
for _name, _scale in _TINYNETS.items():
  EFFICIENTNETS[f'tinynet_{_name}'] = scaled(_TINYNET, *_scale)
for _name, _width in {'050': 0.5, '075': 0.75, '100': 1.0, '140': 1.4}.items():
  EFFICIENTNETS[f'mnasnet_{_name}'] = scaled(_MNASNET, _width)
  EFFICIENTNETS[f'semnasnet_{_name}'] = scaled(_SEMNASNET, _width)
for _name, _width in {'035': 0.35, '050': 0.5, '075': 0.75, '100': 1.0, '140': 1.4}.items():
  EFFICIENTNETS[f'mobilenetv2_{_name}'] = scaled(_MOBILENET_V2, _width)
for _name, _scale in {'110d': (1.1, 1.2), '120d': (1.2, 1.4)}.items():
  EFFICIENTNETS[f'mobilenetv2_{_name}'] = {**scaled(_MOBILENET_V2, *_scale), 'fix_stem_head': True}
