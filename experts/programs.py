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
from experts.models import resnet
from experts.runs import description, evaluators, objectives, sweeps, upstream_data
from experts.runs.candidates import pool_path
from experts.runs.description import Config
from experts.selection import knn, networks, pool
from experts.training import evaluate, optim, population
from experts.training import mesh as meshes

Tree = Any
# Levels of WordNet's noun hierarchy above its deepest synset: the length of a label's list of ancestors.
_ANCESTORS = 20


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


@dataclasses.dataclass(frozen=True)
class _Upstream:
  """How large the upstream data is."""

  images: int
  test_images: int
  classes: int
  nodes: int
  table: np.ndarray


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
  data = _upstream(config)
  model = resnet.from_settings(config.model, devices[0].platform)
  section = config.upstream
  steps = optim.steps(section.duration, section.batch_size, data.images)
  yield from _training(
    config, devices, limit, 'upstream', 'upstream', section, 'upstream', model, 1,
    _network(model, data.nodes), {}, objectives.multi_label(model, data.table, data.classes), steps,
    objectives.predict(model, data.classes), data.test_images,
  )  # fmt: skip


def _of_experts(config, devices, limit) -> Iterator[Program]:
  data = _upstream(config)
  model = resnet.from_settings(config.model, devices[0].platform)
  number = _number_of_experts(config)
  network = _network(model, data.nodes)
  adapter = {'adapter': jax.eval_shape(lambda: resnet.init_adapter(model, jax.random.key(0)))}
  for kind in config.experts.kinds:
    section = config.experts[kind]
    trained, frozen = (network, {}) if kind == 'full' else (adapter, network)
    yield from _training(
      config, devices, limit, 'experts', f'experts/{kind}', section, f'experts.{kind}', model,
      number, trained, frozen, objectives.multi_label(model, data.table, data.classes),
      optim.steps(section.duration, section.batch_size, data.images),
      objectives.predict(model, data.classes), data.test_images,
      at_once=1 if kind == 'full' else description.adapters_at_once(devices[0].platform),
    )  # fmt: skip


def _of_domain_predictor(config, devices, limit) -> Iterator[Program]:
  data = _upstream(config)
  model = resnet.from_settings(config.model, devices[0].platform)
  section = config.domain_predictor
  # A random slice is nothing to predict.
  slices = _number_of_experts(config) // (2 if config.experts.controls else 1)
  yield from _training(
    config, devices, limit, 'domain_predictor', 'domain_predictor', section, 'domain_predictor',
    model, 1, _network(model, slices), {}, objectives.single_label(model),
    optim.steps(section.duration, section.batch_size, data.images), objectives.predict(model), data.test_images,
  )  # fmt: skip


def _of_transfer(config, devices, limit) -> Iterator[Program]:
  settings, _ = _pool(config)
  config = config.copy_and_resolve_references()
  size = max([settings['size'], *(spec.size for spec in config.tasks.values())])
  config.image.update(size=size, resize=max(size, settings['resize']))
  model = resnet.from_settings(settings, devices[0].platform)
  section = config.transfer
  sizes = _tasks(config)
  candidates = len(_pool(config)[1]) if section.models == 'all' else 2
  # Tasks differ in their heads alone: the largest stands for all.
  largest = max(sizes.values(), key=lambda size: size.classes)
  network = _network(model, largest.classes)
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
  setting = description.Setting(1.0, 0.0, max(section.mixups))
  for name, number, steps, images in (
    *(('sweep', number, steps, 0) for number, steps in steps_of.items()),
    ('retrain', selections * retrains, longest, sum(size.test_images for size in sizes.values())),
  ):
    yield from _training(
      config, devices, limit, 'transfer', f'transfer {name}', section, 'transfer', model, number,
      network, {}, objectives.single_label(model), steps * candidates, objectives.predict(model), images * candidates,
      settings=[setting] * number, warmup=section.warmups[0],
    )  # fmt: skip


def _of_dat(config, devices, limit) -> Iterator[Program]:
  data = _upstream(config)
  model = resnet.from_settings(config.model, devices[0].platform)
  section = config.dat
  yield from _training(
    config, devices, limit, 'dat', 'dat', section, 'dat', model, len(config.tasks),
    _network(model, data.nodes), {}, objectives.multi_label(model, data.table, data.classes),
    optim.steps(section.duration, section.batch_size, data.images), objectives.predict(model, data.classes), 0,
  )  # fmt: skip


def _of_select(config, devices, limit) -> Iterator[Program]:
  del limit  # One batch of one model: far below it.
  settings, candidates = _pool(config)
  model = resnet.from_settings(settings, devices[0].platform)
  local = [d for d in devices if d.process_index == devices[0].process_index]
  hosts = len(devices) // len(local)
  size, backbone = settings['size'], _network(model, 1)['backbone']
  adapter = jax.eval_shape(lambda: resnet.init_adapter(model, jax.random.key(0)))
  sizes = _tasks(config).values()
  looked_at = [min(one.images, config.select.images or one.images) for one in sizes]
  seen = {}
  # Of the host that has most to do.
  mine = max(networks.share(candidates, hosts), key=len)
  for group, groups in networks.units(mine, len(local)):
    # By kind: baselines, experts and foreign networks of one pool are one program.
    key = (group[0].kind == 'adapter', len(group), groups)
    seen[key] = seen.get(key, 0) + 1
  for (bank, number, groups), times in seen.items():
    mesh = meshes.make(groups, len(local) // groups, local)
    batch = evaluators.evaluation_batch(config, mesh)
    stacked = _stacked(adapter if bank else backbone, number)
    params = {'backbone': backbone, 'bank': stacked} if bank else {'backbone': stacked}
    places = networks.placement(bank)
    kind = 'adapters' if bank else 'networks'
    reason = (
      f'{number} {kind}; devices of a host: {groups} x {len(local) // groups} (population x data), '
      f'{number // groups} {kind} a device; other hosts embed others'
    )
    images = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)
    yield Program(
      name=f'embed {number} {kind}',
      phase='select',
      function=networks.make_program(model, mesh),
      arguments=(
        {name: meshes.abstract(params[name], mesh, spec) for name, spec in places.items()},
        meshes.abstract(images, mesh, P('data')),
      ),
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
      arguments=knn.abstract_arguments(number, samples, model.embedding_dim, local),
      mesh=mesh,
      reason=reason,
      calls=times * len(sizes) * (number // on),
      images=samples * on,
      batch_field='run.evaluation_batch',
    )


def _training(
  config, devices, limit, phase, run, section, field, model, number, one, frozen, objective, steps,
  predict, test_images, at_once=1, settings=(), warmup='',
) -> Iterator[Program]:  # fmt: skip
  """The step and the evaluation of each kind of round."""
  size, batch = config.image.size, section.batch_size
  need = description.need(model, size, _stacked(one, number), frozen)
  settings = settings or [description.setting(section)] * number
  rounds = meshes.plan(number, batch, len(devices), need, limit, at_once, config.run.loop)
  for layout, times in _alike(rounds):
    mesh = meshes.make(layout.groups, layout.shards, devices)
    names = [str(i) for i in range(layout.members)]
    described = description.describe(
      section,
      names,
      model,
      objective,
      steps,
      settings[: layout.members],
      layout.at_once,
      warmup,
    )
    trained = _stacked(one, layout.members)
    leading = (layout.members, batch)
    examples = {
      'image': jax.ShapeDtypeStruct((*leading, size, size, 3), np.uint8),
      'label': jax.ShapeDtypeStruct(leading, np.int32),
    }
    if settings[0].mixup:
      examples['partner'] = jax.ShapeDtypeStruct(leading, np.int32)
      examples['weight'] = jax.ShapeDtypeStruct(leading, np.float32)
    yield Program(
      name=f'{run} step' if len(rounds) == 1 else f'{run} step of {layout.members}',
      phase=phase,
      function=population.make_program(described, mesh),
      arguments=population.abstract_arguments(described, mesh, trained, frozen, examples),
      mesh=mesh,
      reason=layout.reason,
      calls=steps * times,
      images=layout.members * batch,
      batch_field=f'{field}.batch_size',
      need=need,
    )
  if not test_images:
    return
  many = evaluators.evaluation_batch(config, mesh)
  image = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
  classes = jax.eval_shape(predict, {**frozen, **one}, image).shape[-1]
  yield Program(
    name=f'{run} evaluation',
    phase=phase,
    function=evaluate.make_program(predict, mesh),
    arguments=evaluate.abstract_arguments(
      mesh,
      classes,
      trained,
      frozen,
      {
        'image': jax.ShapeDtypeStruct((many, size, size, 3), np.uint8),
        'label': jax.ShapeDtypeStruct((many,), np.int32),
        'mask': jax.ShapeDtypeStruct((many,), bool),
      },
    ),
    mesh=mesh,
    reason=layout.reason,
    calls=-(-test_images // many) * len(rounds),
    images=many * layout.members,
    batch_field='run.evaluation_batch',
  )


def _alike(rounds: Sequence[meshes.Round]) -> list[tuple[meshes.Round, int]]:
  """Rounds of one shape are one program: the first of each, and how many there are."""
  counts = {}
  for one in rounds:
    shape = (one.members, one.groups, one.at_once)
    counts[shape] = (counts[shape][0] if shape in counts else one, counts.get(shape, (0, 0))[1] + 1)
  return list(counts.values())


def _network(model: resnet.ResNet, classes: int) -> Tree:
  return jax.eval_shape(lambda: resnet.init(model, jax.random.key(0), classes))


def _stacked(tree: Tree, number: int) -> Tree:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((number, *x.shape), x.dtype), tree)


def _upstream(config) -> _Upstream:
  size = config.upstream.size
  if size.nodes:
    table = np.zeros((size.classes, _ANCESTORS), np.int32)
    return _Upstream(size.images, size.test_images, size.classes, size.nodes, table)
  train, test, hierarchy = upstream_data.open_data(config)
  return _Upstream(
    len(train), len(test), hierarchy.num_leaves, len(hierarchy.nodes), hierarchy.table
  )


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
  settings = {**config.model.to_dict(), 'size': config.image.size, 'resize': config.image.resize}
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
