"""The dry run: its table of slices, its counts, and real compilations where the TPU compiler is installed."""

import functools
import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experts import programs
from experts.devices import make_mesh
from experts.models import resnet
from experts.reporting import files
from experts.training import mesh as meshes
from launch.dry_run import hlo, measure, report, topologies
from launch.dry_run.flops import flops

ROOT = pathlib.Path(__file__).resolve().parents[2]
# JAX writes what it compiles for devices that are not there to its cache, and then cannot read it.
pytestmark = pytest.mark.filterwarnings('ignore:Error reading persistent compilation cache')
needs_compiler = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason="the TPU compiler is not installed: pip install -e '.[tpu]'",
)


@pytest.mark.parametrize(
  ('name', 'shape', 'unit', 'memory', 'peak'),
  [
    ('v3-8', '2x2', 'core', 15.48, 61.5e12),
    ('v3-32', '4x4', 'core', 15.48, 61.5e12),
    ('v3-512', '16x16', 'core', 15.48, 61.5e12),
    ('v4-8', '2x2x1', 'chip', 30.75, 275e12),
    ('v5p-128', '4x4x4', 'chip', 95.74, 459e12),
    ('v5e-16', '4x4', 'chip', 15.75, 197e12),
    ('v6e-256', '16x16', 'chip', 31.25, 918e12),
  ],
)
def test_slices(name, shape, unit, memory, peak):
  kind = topologies.generation(name)
  assert kind.shapes[int(name.split('-')[1])] == shape
  assert (kind.unit, kind.memory_gib, kind.peak_flops) == (unit, memory, peak)


@pytest.mark.parametrize('name', topologies.names())
def test_a_slice_has_as_many_chips_as_its_name_says(name):
  kind = topologies.generation(name)
  size = int(name.split('-')[1])
  chips = math.prod(map(int, kind.shapes[size].split('x')))
  assert chips == (size if name.startswith(('v5e', 'v6e')) else size // 2)


def command_line(*flags, before='', config='configs/quickstart.py'):
  code = f'{before}import runpy; runpy.run_module("launch.dry_run", run_name="__main__")'
  done = subprocess.run(
    [sys.executable, '-c', code, f'--config={config}', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  return done


def test_unknown_topology_lists_the_known_ones():
  done = command_line('--topology=v3-12')
  assert done.returncode == 1
  assert done.stdout == ''
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: unknown topology 'v3-12'; known: v3-8, v3-16, ")
  assert set(line.split('known: ')[1].split(', ')) == set(topologies.names())


def test_without_the_compiler_one_line_names_the_extra():
  done = command_line('--topology=v3-8', before='import sys; sys.modules["libtpu"] = None\n')
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert "pip install -e '.[tpu]'" in line


def test_invalid_config_is_named():
  done = command_line('--topology=v3-8', '--config.upstream.batch_size=0')
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert 'upstream.batch_size' in line


MODULE = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(256)} parameter(0)
  %y = f32[]{:T(256)} parameter(1)
  ROOT %sum = f32[]{:T(256)} add(%x, %y)
}

%fused (p: f32[8]) -> f32[2] {
  %p = f32[8]{0:T(256)} parameter(0)
  %inner = f32[8]{0:T(256)} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %cut = f32[2]{0:T(256)} slice(%inner), slice={[0:2]}
}

%body (state: (s32[], bf16[4,128])) -> (s32[], bf16[4,128]) {
  %state = (s32[]{:T(256)}, bf16[4,128]{1,0:T(4,128)(2,1)}) parameter(0)
  %value = bf16[4,128]{1,0:T(4,128)(2,1)} get-tuple-element(%state), index=1
  %start = bf16[4,128]{1,0:T(4,128)(2,1)S(1)} all-reduce-start(%value), to_apply=%add, backend_config={"estimated_cycles":"30"}
  %done = bf16[4,128]{1,0:T(4,128)(2,1)} all-reduce-done(%start)
  ROOT %next = (s32[]{:T(256)}, bf16[4,128]{1,0:T(4,128)(2,1)}) tuple(%value, %done)
}

%condition (state.1: (s32[], bf16[4,128])) -> pred[] {
  %state.1 = (s32[]{:T(256)}, bf16[4,128]{1,0:T(4,128)(2,1)}) parameter(0)
  %bound = s32[]{:T(256)} constant(25)
  %counter = s32[]{:T(256)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(1024)} compare(%counter, %bound), direction=LT
}

ENTRY %main (a: f32[8], b: f32[8], c: bf16[4,128]) -> f32[32] {
  %a = f32[8]{0:T(256)} parameter(0)
  %b = f32[8]{0:T(256)} parameter(1)
  %c = bf16[4,128]{1,0:T(4,128)(2,1)} parameter(2)
  %pair = (f32[8]{0:T(256)}, /*index=1*/f32[8]{0:T(256)}) all-reduce(%a, %b), to_apply=%add, backend_config={"estimated_cycles":"70"}
  %gathered = (f32[8]{0}, f32[32]{0}) all-gather-start(%a), dimensions={0}
  %all = f32[32]{0} all-gather-done(%gathered)
  %part = f32[2]{0} reduce-scatter(%b), dimensions={0}, to_apply=%add
  %swapped = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}
  %other = f32[8]{0} collective-permute-done(%swapped)
  %few = f32[2]{0} fusion(%a), kind=kCustom, calls=%fused
  %first = (s32[]{:T(256)}, bf16[4,128]{1,0:T(4,128)(2,1)}) tuple(%c, %c)
  %loop = (s32[]{:T(256)}, bf16[4,128]{1,0:T(4,128)(2,1)}) while(%first), condition=%condition, body=%body
  ROOT %result = f32[32]{0} copy(%all)
}
"""


def test_collectives_of_a_program():
  found = hlo.Program(MODULE).collectives()
  assert found == [
    # Two arrays of 8 × 4 bytes at once, 32 bytes in a fusion, and 25 times 4 × 128 × 2.
    hlo.Collective('all-reduce', 1 + 1 + 25, 64 + 32 + 25 * 1024),
    hlo.Collective('all-gather', 1, 128),
    hlo.Collective('reduce-scatter', 1, 32),
    hlo.Collective('collective-permute', 1, 32),
  ]


def test_a_loop_counts_as_often_as_it_runs():
  assert hlo.Program(MODULE).loop_factor() == (70 + 25 * 30) / (70 + 30)
  known = MODULE.replace('constant(25)', 'parameter(1)').replace(
    'body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
  )
  assert hlo.Program(known).collectives()[0].count == 1 + 1 + 3


def test_a_loop_of_unknown_length_counts_once_and_is_told():
  assert hlo.Program(MODULE).unknown_loops == []
  program = hlo.Program(MODULE.replace('constant(25)', 'parameter(1)'))
  assert program.unknown_loops == ['loop']
  assert program.collectives()[0].count == 1 + 1 + 1


def traced(function, *shapes):
  return jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes))


def convolution(x, kernel, stride=1, groups=1):
  pad = [(kernel.shape[0] // 2,) * 2] * 2
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), pad, dimension_numbers=numbers, feature_group_count=groups
  )


def test_flops_of_products_and_loops():
  product = traced(lambda x, y: x @ y, (3, 4), (4, 5))
  assert flops(product) == 2 * 3 * 4 * 5
  batched = traced(jax.vmap(lambda x, y: x @ y), (7, 3, 4), (7, 4, 5))
  assert flops(batched) == 7 * 120
  repeated = lambda x: jax.lax.fori_loop(0, 6, lambda _, y: jax.jit(lambda z: z @ z)(y), x)
  assert flops(traced(repeated, (2, 2))) == 6 * 16
  either = lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y, x)
  assert flops(traced(either, (2, 2))) == 2 * 16


def test_flops_of_a_convolution_leave_out_the_padding():
  # 3 × 3 over 4 × 4 with a border of zeros: 10 of 12 row positions are inside, and so for the columns.
  assert flops(traced(convolution, (2, 4, 4, 3), (3, 3, 3, 5))) == 2 * 2 * 3 * 5 * 10**2
  # Each of 2 groups has 2 of the 4 channels.
  grouped = functools.partial(convolution, groups=2)
  assert flops(traced(grouped, (2, 4, 4, 4), (1, 1, 2, 6))) == 2 * 2 * 2 * 6 * 16


@pytest.mark.parametrize(('size', 'stride', 'side'), [(1, 1, 6), (3, 1, 6), (3, 2, 7), (7, 2, 8)])
def test_both_gradients_of_a_convolution_count_as_itself(size, stride, side):
  conv = functools.partial(convolution, stride=stride)
  forward = traced(conv, (2, side, side, 3), (size, size, 3, 5))
  gradient = jax.grad(lambda x, k: jnp.sum(jnp.square(conv(x, k))), (0, 1))
  assert flops(traced(gradient, (2, side, side, 3), (size, size, 3, 5))) == 3 * flops(forward)


def test_flops_are_of_all_devices():
  mesh = jax.make_mesh((4, 2), ('population', 'data'), axis_types=(AxisType.Auto,) * 2)
  spec = P('population', 'data')
  product = jax.shard_map(
    lambda x, y: x @ y, mesh=mesh, in_specs=(spec, P()), out_specs=spec, axis_names={'population', 'data'}
  )  # fmt: skip
  # A device multiplies [2, 3] by [3, 5].
  assert flops(traced(product, (8, 6), (3, 5))) == 8 * 2 * 2 * 3 * 5


@pytest.mark.parametrize(
  ('fixed', 'slope', 'batch', 'step', 'largest'),
  [
    (1.0, 0.01, 4096, 8, 1448),
    (0.5, 0.004, 8192, 32, 3744),
    (15.0, 0.01, 4096, 8, 48),
    (1.0, 0.01, 1456, 8, 1448),
    (16.0, 0.01, 64, 8, 0),
  ],
)
def test_largest_batch_takes_few_compilations(fixed, slope, batch, step, largest):
  tried = []

  def needed(batch):
    tried.append(batch)
    return fixed + slope * batch

  assert measure.largest_batch(needed, batch, step, fixed + slope * batch, 15.48) == largest
  assert len(tried) <= 6
  assert all(one % step == 0 for one in tried)


@pytest.mark.parametrize(
  ('batch', 'shards', 'step'), [(4096, 512, 512), (4096, 8, 64), (64, 8, 8), (4100, 8, 72)]
)
def test_batches_to_try_divide_over_the_mesh_and_are_few(batch, shards, step):
  assert measure.batch_step(batch, shards) == step
  assert step % shards == 0


def test_memory_that_does_not_depend_on_the_batch_is_tried_once():
  tried = []
  assert measure.largest_batch(lambda b: tried.append(b) or 20.0, 512, 8, 20.0, 15.48) == 0
  assert len(tried) == 1


def program(name, calls):
  mesh = jax.make_mesh((1, 8), ('population', 'data'), axis_types=(AxisType.Auto,) * 2)
  return programs.Program(
    name, 'upstream', None, (), mesh, 'because', calls, 64, 'upstream.batch_size'
  )


def test_report_of_one_that_fits_and_one_that_does_not(tmp_path):
  costs = measure.Costs(
    argument_gib=1.0,
    output_gib=0.25,
    temporary_gib=2.0,
    flops=3e12,
    bytes=4e9,
    seconds=0.5,
    loop_factor=2.0,
    unknown_loops=0,
    # A tenth of what 8 cores of 61.5 TFLOP/s do in half a second.
    model_flops=int(0.1 * 8 * 61.5e12 * 0.5),
    collectives=[hlo.Collective('all-reduce', 2, 5_000_000)],
  )
  rows = [
    report.Row(program('small step', 7200), 64, costs, costs.total_gib),
    report.Row(program('large step', 10), 4096, None, 18.13, 1472, 64),
  ]
  result = report.record('v3-8', topologies.generation('v3-8'), 8, rows)
  small, large = result['programs']
  assert small['total_gib'] == 3.25
  assert small['model_flop_utilisation'] == pytest.approx(0.1)
  assert small['phase_hours'] == 1.0
  assert small['images_per_second'] == 128
  assert not result['fits']
  assert large['over_by_gib'] == pytest.approx(2.65)
  # Unknown for the phase, if it is for one of its programs.
  assert result['hours_by_phase'] == {'upstream': None}
  text = report.text(result)
  assert 'all-reduce' in text
  assert 'small step ×2.00' in text
  assert text.splitlines()[-1] == (
    'large step does not fit: it needs 18.13 GiB a core, 2.65 GiB more than the 15.48 there are, with '
    'upstream.batch_size=4096; the largest that fits is 1472, in steps of 64'
  )
  files.write_json(result, tmp_path / 'report.json')
  assert json.loads((tmp_path / 'report.json').read_text()) == result
  assert [path.name for path in tmp_path.iterdir()] == ['report.json']


@pytest.fixture
def compiler(monkeypatch):
  # As the tool sets them, before the compiler starts.
  for name, value in {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v3-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_LOG_DIR': 'disabled',
  }.items():
    monkeypatch.setenv(name, value)


def over(devices, axes=('data',)):
  return Mesh(np.array(devices), axes, axis_types=(AxisType.Auto,))


def abstract(mesh, spec, *shape, dtype=jnp.bfloat16):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


@needs_compiler
@pytest.mark.parametrize(
  ('name', 'devices', 'kind'),
  [
    ('v3-32', 32, 'TPU v3'),
    ('v4-16', 8, 'TPU v4'),
    ('v5p-8', 4, 'TPU v5'),
    ('v5e-1', 1, 'TPU v5 lite'),
    ('v6e-8', 8, 'TPU v6 lite'),
  ],
)
def test_devices_of_a_slice(compiler, name, devices, kind):
  found = topologies.devices(name)
  assert len(found) == devices
  assert found[0].device_kind == kind


@needs_compiler
def test_costs_of_a_compiled_program(compiler):
  mesh = over(topologies.devices('v3-8'))

  def step(weights, x):
    def once(_, weights):
      local = jax.lax.pcast(weights, ('data',), to='varying')
      gradient = jnp.tanh(x @ local).T @ x
      return weights - jax.lax.psum(gradient, 'data')

    return jax.lax.fori_loop(0, 5, once, weights)

  function = jax.jit(
    jax.shard_map(step, mesh=mesh, in_specs=(P(), P('data')), out_specs=P()), donate_argnums=0
  )
  costs = measure.costs(
    function, (abstract(mesh, P(), 512, 512), abstract(mesh, P('data'), 32768, 512))
  )
  # 8 devices, 5 rounds, 2 products of [4096, 512] and [512, 512].
  assert costs.model_flops == 8 * 5 * 2 * 2 * 4096 * 512 * 512
  assert costs.flops == pytest.approx(costs.model_flops / 8, rel=0.05)
  assert costs.loop_factor == pytest.approx(5, rel=0.05)
  assert costs.collectives == [hlo.Collective('all-reduce', 5, 5 * 512 * 512 * 2)]
  assert costs.argument_gib == pytest.approx((512 * 512 + 4096 * 512) * 2 / 2**30, rel=0.01)
  assert costs.output_gib == pytest.approx(0, abs=1e-4)
  assert costs.total_gib < 0.1
  assert 0 < costs.seconds < 0.01


@needs_compiler
def test_a_program_that_does_not_fit_and_the_batch_that_would(compiler):
  mesh = over(topologies.devices('v3-8'))
  # The product is needed whole twice, hence kept: 4 MB for each row of a device.
  function = jax.jit(lambda x, w: (lambda y: y / jnp.sum(y, 0))(x @ w))

  def needed(batch):
    arguments = abstract(mesh, P('data'), batch, 8), abstract(mesh, P(), 8, 2**20)
    try:
      return measure.costs(function, arguments).total_gib
    except measure.OutOfMemoryError as error:
      return error.needed_gib

  too_much = needed(2**17)
  assert too_much > 15.48
  step = measure.batch_step(2**17, 8)
  largest = measure.largest_batch(needed, 2**17, step, too_much, 15.48)
  assert 0 < largest < 2**17
  assert needed(largest) <= 15.48 < needed(largest + step)


SMALL_DATA = (
  '--config.upstream.size.images=640',
  '--config.upstream.size.test_images=0',
  '--config.upstream.size.classes=10',
  '--config.upstream.size.nodes=13',
)


@needs_compiler
def test_a_config_from_the_command_line(tmp_path):
  path = tmp_path / 'report.json'
  done = command_line(
    '--topology=v3-8',
    f'--json={path}',
    '--config.phases=("upstream",)',
    '--config.model.width=0.0625',
    '--config.upstream.batch_size=64',
    *SMALL_DATA,
  )
  assert done.returncode == 0, done.stderr
  assert '1/1 upstream step: compiles' in done.stderr
  result = json.loads(path.read_text())
  (step,) = result['programs']
  assert step['name'] in done.stdout
  assert step['mesh'] == {'population': 1, 'data': 8}
  assert step['images_per_call'] == 64
  # Each parameter's gradient is reduced once, in bfloat16, beside a few metrics.
  network = resnet.ResNet(14, 1 / 16, 'small')
  shapes = jax.eval_shape(lambda: resnet.init(network, jax.random.key(0), 13))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  (reduce,) = step['collectives']
  assert reduce['kind'] == 'all-reduce'
  assert 2 * parameters <= reduce['bytes'] < 2 * parameters + 64
  assert 0 < step['model_flop_utilisation'] < 1
  assert step['total_gib'] < 0.1


@needs_compiler
def test_experts_and_embedding_exchange_gradients_and_nothing_else(tmp_path):
  path = tmp_path / 'report.json'
  done = command_line(
    '--topology=v3-16',
    f'--json={path}',
    '--config.phases=("experts", "domain_predictor", "select")',
    '--config.model.width=0.0625',
    '--config.experts.count=4',
    '--config.experts.full.batch_size=64',
    '--config.experts.adapter.batch_size=64',
    '--config.domain_predictor.batch_size=64',
    '--config.domain_predictor.duration=10 steps',
    *SMALL_DATA,
  )
  assert done.returncode == 0, done.stderr
  programs = {one['name']: one for one in json.loads(path.read_text())['programs']}
  network = resnet.ResNet(14, 1 / 16, 'small')
  shapes = jax.eval_shape(lambda: resnet.init(network, jax.random.key(0), 13))
  adapter = jax.eval_shape(lambda: resnet.init_adapter(network, jax.random.key(0)))
  for name, one in (('experts/full step', shapes), ('experts/adapter step', adapter)):
    step = programs[name]
    each = 4 // step['mesh']['population']
    moved = 2 * each * sum(leaf.size for leaf in jax.tree.leaves(one))
    (reduce,) = step['collectives']
    assert reduce['kind'] == 'all-reduce'
    assert moved <= reduce['bytes'] < moved + 64 * each + 64
  embeddings = [one for name, one in programs.items() if name.startswith(('embed', 'kNN'))]
  assert len(embeddings) >= 4
  # The result is read by the host, and nothing else leaves a core.
  assert all(not one['collectives'] for one in embeddings)


def test_an_adapter_step_has_no_kernel_gradients_of_the_backbone():
  """ResNet-50 with ImageNet-21k's head at 224 x 224: the operations of both steps, from what each must compute."""
  network = resnet.ResNet(50, 1, dtype=jnp.bfloat16)
  params = jax.eval_shape(lambda: resnet.init(network, jax.random.key(0), 23_584))
  adapter = jax.eval_shape(lambda: resnet.init_adapter(network, jax.random.key(0)))
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

  def count(trained, frozen):
    def loss(trained, frozen, image):
      return resnet.forward(network, {**frozen, **trained}, image)[0].sum()

    gradient = lambda *args: jax.grad(loss)(*args)
    return flops(jax.make_jaxpr(gradient)(trained, frozen, image))

  forward = flops(jax.make_jaxpr(lambda p, x: resnet.forward(network, p, x)[0])(params, image))
  # Channels into each block at its resolution: two products of c by c/2.
  products = 2 * sum(c * c * side**2 for c, side in ((64, 56), (256, 56), (512, 28), (1024, 14)))
  # Three times forward: as itself, towards the input, towards the kernels; the root's input needs no gradient.
  root = 2 * 7 * 7 * 3 * 64 * 112**2
  assert count(params, {}) == pytest.approx(3 * forward - root, rel=0.01)
  first = 64 * 64 * 56**2
  assert count({'adapter': adapter}, params) == pytest.approx(
    2 * forward - root + 3 * products - first, rel=0.01
  )


@needs_compiler
@pytest.mark.parametrize(
  ('members', 'groups', 'shards', 'share'),
  [
    # Hosts of 8 cores: two of them for each half of the adapters, a half of their batches each.
    (50, 2, 16, (slice(0, 25), (0, 2))),
    # Four groups of two cores on a host: whole batches of its own 12 experts, nothing of the others'.
    (48, 16, 2, (slice(0, 12), (0, 1))),
    (1, 1, 32, (slice(0, 1), (0, 4))),
  ],
)
def test_a_host_of_a_slice_reads_its_own_share(compiler, members, groups, shards, share):
  mesh = make_mesh(groups, topologies.devices('v3-32'))
  assert meshes.share(mesh, members) == share
