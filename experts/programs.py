"""The compiled programs of a config's phases, as shapes on given devices: what a dry run compiles.

Nothing is trained and, where the config says how large its data is, nothing is read.
"""

import collections
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from experts.data import natural6, splits, vtab
from experts.devices import make_mesh
from experts.models import ours, resnet
from experts.phases import dat, domain_predictor, experts, upstream
from experts.runs import description, evaluators, fine_tuning, own_pool, sweeps, upstream_data
from experts.runs.candidates import pool_path
from experts.runs.description import Config
from experts.selection import knn, networks, pool
from experts.training import evaluate, optim, population
from experts.training import mesh as meshes

Tree = Any


@dataclasses.dataclass(frozen=True)
class Program:
  """A program and its arguments.

  Attributes:
    name: such as 'experts/full step'.
    phase: that runs it.
    function: from `jax.jit`.
    arguments: trees of `jax.ShapeDtypeStruct` with their place on the mesh.
    mesh: the devices.
    reason: why the mesh is what it is.
    calls: how often the phase runs it, one after the other.
    images: in one call, all devices and members together.
    batch_field: the field of the config that its memory grows with.
    need: of a step of training, the bytes that it was planned with.
  """

  name: str
  phase: str
  function: jax.stages.Wrapped
  arguments: tuple[Tree, ...]
  mesh: jax.sharding.Mesh
  reason: str
  calls: int
  images: int
  batch_field: str
  need: meshes.Need | None = None


def programs(config: Config, devices: Sequence[jax.Device], limit: int) -> list[Program]:
  """The programs that the config's phases would run on these devices, in their order.

  Args:
    config: a valid one.
    devices: all of the job's; those of a topology serve, too.
    limit: bytes of memory of one of them.

  Raises:
    ValueError: a batch that does not divide, or a population that does not fit and may not loop.
    FileNotFoundError: data that is not there and whose size the config does not say.
  """
  of_phase = {
    'upstream': _of_upstream,
    'experts': _of_experts,
    'domain_predictor': _of_domain_predictor,
    'select': _of_select,
    'transfer': _of_transfer,
    'dat': _of_dat,
  }
  found = []
  for phase in config.phases:
    if phase in of_phase:
      found += of_phase[phase](config, devices, limit)
  return found


def _of_upstream(config, devices, limit) -> Iterator[Program]:
  scale, network = upstream_data.scale(config), ours.build(config.model, devices[0].platform)
  start = population.repeat(network.shapes(scale.nodes), 1)
  run = upstream.describe(config, network, scale, start)
  yield from _training(config, devices, limit, run, scale.test_images)


def _of_experts(config, devices, limit) -> Iterator[Program]:
  scale, network = upstream_data.scale(config), ours.build(config.model, devices[0].platform)
  names = [str(i) for i in range(_number_of_experts(config))]
  whole = network.shapes(scale.nodes)
  adapter = {
    'adapter': jax.eval_shape(lambda: resnet.init_adapter(network.resnet, jax.random.key(0)))
  }
  for kind in config.experts.kinds:
    fresh, frozen = (whole, {}) if kind == 'full' else (adapter, whole)
    trees = population.repeat(fresh, len(names)), frozen
    run = experts.describe(config, kind, network, scale, names, trees)
    yield from _training(config, devices, limit, run, scale.test_images)


def _of_domain_predictor(config, devices, limit) -> Iterator[Program]:
  scale, network = upstream_data.scale(config), ours.build(config.model, devices[0].platform)
  # A random slice is nothing to predict.
  slices = _number_of_experts(config) // (2 if config.experts.controls else 1)
  start = population.repeat(network.shapes(slices), 1)
  run = domain_predictor.describe(config, network, scale.images, start)
  yield from _training(config, devices, limit, run, scale.test_images)


def _of_transfer(config, devices, limit) -> Iterator[Program]:
  settings, _ = _pool(config)
  config = config.copy_and_resolve_references()
  size = max([settings['size'], *(spec.size for spec in config.tasks.values())])
  config.image.update(size=size, resize=max(size, settings['resize']))
  network = ours.build(settings, devices[0].platform)
  section = config.transfer
  sizes = _tasks(config)
  candidates = len(_pool(config)[1]) if section.models == 'all' else 2
  # Tasks differ in their heads alone: the largest stands for all.
  largest = max(sizes.values(), key=lambda size: size.classes)
  train = lambda size: size.images - size.validation
  selections, retrains = sweeps.numbers(config)
  points = [point for i in range(selections) for point in sweeps.points(config, i)]
  # Those of one duration train together; populations of one size are one program.
  steps_of = collections.Counter()
  for text, number in collections.Counter(point.duration for point in points).items():
    steps_of[number] += sum(
      optim.steps(text, section.batch_size, train(size)) for size in sizes.values()
    )
  longest = sum(
    max(optim.steps(text, section.batch_size, train(size)) for text in section.durations)
    for size in sizes.values()
  )
  for name, number, steps, images in (
    *(('sweep', number, steps, 0) for number, steps in steps_of.items()),
    ('retrain', selections * retrains, longest, sum(size.test_images for size in sizes.values())),
  ):
    trial = sweeps.Trial(0, 1.0, steps * candidates, 0.0, max(section.mixups), 0)
    run = fine_tuning.describe(
      section,
      f'transfer {name}',
      network,
      [trial] * number,
      network.shapes(largest.classes),
      section.warmups[0],
    )
    yield from _training(config, devices, limit, run, images * candidates)


def _of_dat(config, devices, limit) -> Iterator[Program]:
  scale, network = upstream_data.scale(config), ours.build(config.model, devices[0].platform)
  names = [*config.tasks]
  start = population.repeat(network.shapes(scale.nodes), len(names))
  yield from _training(
    config, devices, limit, dat.describe(config, network, scale, names, start), 0
  )


def _of_select(config, devices, limit) -> Iterator[Program]:
  del limit  # One batch of one model: far below it.
  settings, candidates = _pool(config)
  network = ours.build(settings, devices[0].platform)
  local = [d for d in devices if d.process_index == devices[0].process_index]
  looked_at = [
    min(one.images, config.select.images or one.images) for one in _tasks(config).values()
  ]
  seen = collections.Counter()
  # Of the host that has most to do.
  mine = max(networks.share(candidates, len(devices) // len(local)), key=len)
  for group, groups in networks.units(mine, len(local)):
    # By kind: baselines, experts and opaque networks of one pool are one program.
    seen[networks.is_bank(group[0]), len(group), groups] += 1
  for (bank, number, groups), times in seen.items():
    kind = 'adapters' if bank else 'networks'
    mesh = make_mesh(groups, local)
    reason = (
      f'{number} {kind}; devices of a host: {groups} x {len(local) // groups} (population x data), '
      f'{number // groups} {kind} a device; other hosts embed others'
    )
    batch = evaluators.evaluation_batch(config, mesh)
    yield Program(
      name=f'embed {number} {kind}',
      phase='select',
      function=networks.make_program(network, mesh),
      arguments=_of_unit(network, bank, number, (batch, settings['size']), mesh),
      mesh=mesh,
      reason=reason,
      calls=times * sum(-(-some // batch) for some in looked_at),
      images=batch * number,
      batch_field='run.evaluation_batch',
    )
    samples = max(looked_at)
    # A model at a time on each of so many devices.
    on = knn.shards(number, len(local))
    yield Program(
      name=f'kNN of {number} {kind}',
      phase='select',
      function=knn.make_program(tuple(local[:on])),
      arguments=knn.abstract_arguments(number, samples, network.dimension, local),
      mesh=mesh,
      reason=reason,
      calls=times * len(looked_at) * (number // on),
      images=samples * on,
      batch_field='run.evaluation_batch',
    )


def _of_unit(network, bank, number, images, mesh) -> tuple[Tree, Tree]:
  """The parameters of so many networks, or adapters on one, and a batch of (number, side) of images."""
  batch, size = images
  backbone = network.shapes(1)['backbone']
  params = {'backbone': population.repeat(backbone, number)}
  if bank:
    adapter = jax.eval_shape(lambda: resnet.init_adapter(network.resnet, jax.random.key(0)))
    params = {'backbone': backbone, 'bank': population.repeat(adapter, number)}
  places = networks.placement(params)
  pixels = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)
  return (
    {name: meshes.abstract(params[name], mesh, spec) for name, spec in places.items()},
    meshes.abstract(pixels, mesh, P('data')),
  )


def _training(config, devices, limit, run: description.Run, test_images: int) -> Iterator[Program]:
  """The step and the evaluation of each kind of round."""
  size, batch = config.image.size, run.section.batch_size
  phase = run.field.partition('.')[0]
  rounds = run.plan(size, devices, limit, config.run.loop)
  for layout, times in _alike(rounds):
    mesh = make_mesh(layout.groups, devices)
    # The first are as good as any: shapes are all that counts.
    part = run.part(dataclasses.replace(layout, start=0))
    population_of = part.population(layout.at_once)
    examples = _examples(layout.members, batch, size, bool(run.settings[0].mixup))
    yield Program(
      name=f'{run.name} step' if len(rounds) == 1 else f'{run.name} step of {layout.members}',
      phase=phase,
      function=population.make_program(population_of, mesh),
      arguments=population.abstract_arguments(
        population_of, mesh, part.trained, run.frozen, examples
      ),
      mesh=mesh,
      reason=layout.reason,
      calls=run.steps * times,
      images=layout.members * batch,
      batch_field=f'{run.field}.batch_size',
      need=run.need(size),
    )
  if test_images:
    many = evaluators.evaluation_batch(config, mesh)
    calls = -(-test_images // many) * len(rounds)
    yield _evaluation(part, mesh, (many, size), layout.reason, calls)


def _evaluation(run: description.Run, mesh, images, reason, calls) -> Program:
  """The evaluation of a round's members on batches of (number, side) of images."""
  many, size = images
  image = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
  one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), run.trained)
  classes = jax.eval_shape(run.predict, {**run.frozen, **one}, image).shape[-1]
  batch = {
    'image': jax.ShapeDtypeStruct((many, size, size, 3), np.uint8),
    'label': jax.ShapeDtypeStruct((many,), np.int32),
    'mask': jax.ShapeDtypeStruct((many,), bool),
  }
  return Program(
    name=f'{run.name} evaluation',
    phase=run.field.partition('.')[0],
    function=evaluate.make_program(run.predict, mesh),
    arguments=evaluate.abstract_arguments(mesh, classes, run.trained, run.frozen, batch),
    mesh=mesh,
    reason=reason,
    calls=calls,
    images=many * len(run),
    batch_field='run.evaluation_batch',
  )


def _examples(members: int, batch: int, size: int, mixed: bool) -> Tree:
  leading = (members, batch)
  examples = {
    'image': jax.ShapeDtypeStruct((*leading, size, size, 3), np.uint8),
    'label': jax.ShapeDtypeStruct(leading, np.int32),
  }
  if mixed:
    examples['partner'] = jax.ShapeDtypeStruct(leading, np.int32)
    examples['weight'] = jax.ShapeDtypeStruct(leading, np.float32)
  return examples


def _alike(rounds: Sequence[meshes.Round]) -> list[tuple[meshes.Round, int]]:
  """Rounds of one shape are one program: the first of each, and how many there are."""
  counts = {}
  for one in rounds:
    shape = (one.members, one.groups, one.at_once)
    counts[shape] = (counts[shape][0] if shape in counts else one, counts.get(shape, (0, 0))[1] + 1)
  return list(counts.values())


@dataclasses.dataclass(frozen=True)
class _Task:
  """How large a task is."""

  images: int
  validation: int
  test_images: int
  classes: int


def _tasks(config) -> Mapping[str, _Task]:
  sizes = {}
  for name, spec in config.tasks.items():
    source, _, of = spec.data.partition(':')
    if source == 'vtab':
      task, _ = vtab.find(of)
      sizes[name] = _Task(
        spec.train_images, spec.validation_images, task.counts['test'], task.num_classes
      )
    elif source == 'natural6':
      task = natural6.find(of)
      images = spec.train_images or task.counts['train_validation']
      validation = spec.validation_images or task.counts.get('validation', images // 10)
      sizes[name] = _Task(images, validation, task.counts['test'], task.num_classes)
    else:
      task = splits.load(name, spec, config.data_dir, config.seed)
      sizes[name] = _Task(
        len(task.all), len(task.validation), len(task.test_indices), task.train.num_classes
      )
  return sizes


def _pool(config) -> tuple[Mapping[str, Any], list[pool.Member]]:
  """The pool's models: read, or those that the config's phases would make."""
  if config.pool and os.path.exists(pool_path(config, '')):
    path = pool_path(config, '')
    return pool.read_model(path), pool.read(path)
  settings = own_pool.settings(config)
  number = _number_of_experts(config)
  kinds = ['random', 'baseline', *(kind for kind in config.experts.kinds for _ in range(number))]
  return settings, [_some_member(i, kind) for i, kind in enumerate(kinds)]


def _number_of_experts(config) -> int:
  slices = len(config.experts.nodes) or config.experts.count
  if not slices:
    train, _, hierarchy = upstream_data.open_data(config)
    slices = len(upstream_data.choose(config, train, hierarchy))
  return slices * (2 if config.experts.controls else 1)


def _some_member(index: int, kind: str) -> pool.Member:
  shared = 'baseline.npz' if kind == 'adapter' else None
  return pool.Member(f'{kind}:{index}', kind, '', None, 0, 0, 0, '', '', shared)
