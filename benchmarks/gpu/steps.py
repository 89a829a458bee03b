"""Part 3: training steps of ResNet-50, upstream and of experts, against PyTorch's.

    python -m benchmarks.gpu.steps --batch=256

Upstream: one member, all parameters, sigmoid cross-entropy over 1,000 leaves and their ancestors. Experts: four members
of that batch, full ones or adapters, in one program. PyTorch: timm's `resnetv2_50x1_bit`, the same loss, the batch on the
device in both. `of_product` counts three times the forward pass's operations an image, two of an adapter expert, whose
backbone has no gradient, against the rate of a bfloat16 product. `peak` is of the process so far; the forms of one run
come by rising memory. With --apart PyTorch is measured first, and by itself: two such batches may not fit.
"""

import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags

from benchmarks.gpu import measure, peer
from experts.devices import make_mesh
from experts.models import ours, resnet
from experts.runs import description, objectives
from experts.training import mesh as meshes
from experts.training import optim, population
from launch.dry_run import flops

_BATCH = flags.DEFINE_integer('batch', 256, 'Images of a member.')
_APART = flags.DEFINE_bool('apart', False, 'Whether PyTorch has the device for itself.')

_ROUNDS = 5
_LEAVES, _CLASSES = 1000, 1500
_TORCH = ('torch, compiled', 'torch, not compiled')
_TORCH_STEPS = 5


class Trained:
  """A population of random networks on one batch that is on the device."""

  def __init__(self, kind: str, number: int, batch: int):
    """Makes the program's arguments; `kind` is upstream, full or adapter."""
    self.model, self.side = measure.network()
    self.number, self.batch, self.adapter = number, batch, kind == 'adapter'
    params = measure.random_params(self.model, _CLASSES)
    if self.adapter:
      trees = [{'adapter': measure.random_adapter(self.model, i)} for i in range(number)]
      trained, frozen = population.stack(trees), params
    else:
      trained, frozen = population.repeat(params, number), {}
    self.trained, self.frozen = trained, frozen
    self.need = description.need(ours.Network(self.model), self.side, trained, frozen)
    self.limit = meshes.memory_limit(jax.local_devices()[0])
    at_once = description.adapters_at_once() if self.adapter else 1
    self.layout = meshes.plan_whole(number, batch, 1, self.need, self.limit, at_once)
    table = np.arange(_LEAVES)[:, None] // np.array([1, 10, 100]) % _CLASSES
    self.population = population.Population(
      names=[f'{kind}{i}' for i in range(number)],
      objective=objectives.multi_label(ours.Network(self.model), table.astype(np.int32), _LEAVES),
      learning_rate=[1e-4] * number,
      weight_decay=[1e-4] * number,
      schedule=optim.staircase(10_000, 0, ()),
      members_at_once=self.layout.at_once,
      gradient_dtype=self.model.dtype,
    )
    self.mesh = make_mesh(self.layout.groups, jax.devices()[:1])

  def compile(self) -> tuple[float, jax.stages.Compiled]:
    """Seconds that the compiler takes, and what it says of the program."""
    shapes = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    arguments = population.abstract_arguments(
      self.population, self.mesh, shapes(self.trained), shapes(self.frozen), shapes(self._host())
    )
    started = time.perf_counter()
    compiled = population.make_program(self.population, self.mesh).lower(*arguments).compile()
    return time.perf_counter() - started, compiled

  def _host(self):
    rng = np.random.default_rng(3)
    images = measure.random_images(self.batch, self.side)
    return {
      'image': np.broadcast_to(images, (self.number, *images.shape)),
      'label': rng.integers(_LEAVES, size=(self.number, self.batch)).astype(np.int32),
    }

  def place(self) -> None:
    """Copies everything to the device and makes the step."""
    self._batch = population.put_batch(self.mesh, self._host(), population.Word())
    self._state = population.create_state(self.population, self.mesh, self.trained)
    self._fixed = meshes.place(self.frozen, self.mesh, jax.sharding.PartitionSpec())
    self._step = population.make_step(self.population, self.mesh)

  def steps(self, number: int) -> jax.Array:
    """Takes some steps; returns the last losses."""
    for _ in range(number):
      self._state, losses, _ = self._step(self._state, self._fixed, self._batch)
    return losses

  def operations(self) -> int:
    """Of a step."""
    images = jax.ShapeDtypeStruct((1, self.side, self.side, 3), np.float32)
    params = {**self.frozen, **jax.tree.map(lambda x: x[0], self.trained)}
    forward = jax.make_jaxpr(lambda *given: resnet.forward(self.model, *given))(params, images)
    passes = 2 if self.adapter else 3
    return passes * flops.flops(forward) * self.batch * self.number


def memory(trained: Trained, compiled: jax.stages.Compiled | None) -> dict[str, float]:
  """GiB: the plan's estimate, the compiler's, and the most that the process has had."""
  one, need = trained.layout, trained.need
  estimate = (
    need.shared + trained.number * (need.member + 3 * trained.batch * need.input)
    + one.at_once * (need.gradient + trained.batch * need.image)
  )  # fmt: skip
  found = {'estimate_gib': estimate / 2**30, 'limit_gib': trained.limit / 2**30}
  analysis = compiled and compiled.memory_analysis()
  if analysis:
    used = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    found['compiler_gib'] = used / 2**30
  stats = jax.local_devices()[0].memory_stats() or {}
  found['peak_gib'] = stats.get('peak_bytes_in_use', float('nan')) / 2**30
  return found


def _ours(part: str, kind: str, number: int) -> tuple[Trained, Callable[[], float]] | None:
  """A population that is compiled and warm, and the seconds of its step; nothing if that failed."""
  form = f'ours, {kind}'
  with measure.guarded(part, form):
    trained = Trained(kind, number, _BATCH.value)
    seconds, compiled = trained.compile()
    measure.record(part, f'{form}: compilation', seconds=seconds)
    trained.place()
    trained.steps(2).block_until_ready()
    count = _count(measure.clock(lambda: trained.steps(2)) / 2)
    measure.record(part, f'{form}: memory', **memory(trained, compiled))
    return trained, lambda: measure.clock(lambda: trained.steps(count)) / count
  return None


def _count(seconds: float) -> int:
  """Steps of a round."""
  return max(1, min(20, round(1.5 / seconds)))


def _torch_forms(torch: peer.Peer, part: str) -> measure.Forms:
  """PyTorch's forms that it could build, once all of them are."""
  forms = {}
  for form in _TORCH:
    with measure.guarded(part, form):
      found = torch.reply()
      measure.record(part, f'{form}: first run', seconds=found['first'], peak_gib=found['peak_gib'])
      forms[form] = lambda form=form: torch.seconds(form) / _TORCH_STEPS
  return forms


def main(_):
  part = f'steps, batch {_BATCH.value}'
  kinds = {'upstream': 1} if _APART.value else {'adapter': 4, 'upstream': 1, 'full': 4}
  medians = {}
  with peer.Peer() as torch:
    for form in _TORCH:
      torch.ask(
        do='build', name=form, what='train', batch=_BATCH.value, side=measure.side(),
        classes=_CLASSES, steps=_TORCH_STEPS, compiled=form == _TORCH[0] and not measure.SMALL.value,
      )  # fmt: skip
    if _APART.value:
      medians = measure.in_turn(_torch_forms(torch, part), _ROUNDS)
      torch.end()
    made = {f'ours, {kind}': _ours(part, kind, number) for kind, number in kinds.items()}
    made = {form: one for form, one in made.items() if one}
    forms = {form: run for form, (_, run) in made.items()}
    if not _APART.value:
      forms |= _torch_forms(torch, part)
    medians |= measure.in_turn(forms, _ROUNDS)
  _report(part, medians, {form: trained for form, (trained, _) in made.items()})


def _report(part: str, medians: dict[str, float], made: dict[str, Trained]) -> None:
  for form, seconds in medians.items():
    # PyTorch takes the step of upstream training.
    trained = made.get(form) or made.get('ours, upstream')
    images = _BATCH.value * (trained.number if form in made else 1)
    share = {}
    if trained:
      share['of_product'] = trained.operations() / seconds / measure.ceiling('bfloat16 product')
    measure.record(part, form, ms_a_step=1e3 * seconds, images_per_s=images / seconds, **share)


if __name__ == '__main__':
  app.run(main)
