"""The programs that embed and fine-tune the models of a pool."""

import collections
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from experts.data import natural6, splits, vtab
from experts.devices import make_mesh
from experts.models import partial, resnet
from experts.models.kinds import KINDS
from experts.models.network import Network, own
from experts.programs.program import Program, training
from experts.programs.upstream import number_of_experts
from experts.runs import evaluators, fine_tuning, own_pool, sweeps, tasks
from experts.runs.candidates import pool_path
from experts.selection import embed, knn, networks, pool
from experts.training import mesh as meshes
from experts.training import optim, population

Tree = Any


def of_transfer(config, devices, limit) -> Iterator[Program]:
  settings, members = _pool(config)
  sizes = _tasks(config)
  tuned = [member for member in members if member.trainable]
  networks_of = _networks(config, tuned, settings, devices[0].platform)
  for named, network, some in networks_of:
    # With the chosen one the baseline is fine-tuned, or of others the chosen one alone.
    number = len(some) if config.transfer.models == 'all' else min(len(some), 2)
    sized = tasks.sized(config, some[0], settings)
    largest = max([sized.image.size, *(spec.size for spec in config.tasks.values())])
    sized.image.update(size=largest, resize=max(largest, sized.image.resize))
    yield from _fine_tunes(sized, (devices, limit), network, sizes, number, named)


def _fine_tunes(config, machine, network, sizes, candidates, named) -> Iterator[Program]:
  """The programs of so many models of one network, on (devices, bytes of memory of one)."""
  section = config.transfer
  # Tasks differ in their heads alone: the largest stands for all.
  largest = max(sizes.values(), key=lambda size: size.classes)
  train = lambda size: size.images - size.validation
  selections, retrains = sweeps.numbers(config)
  points = [point for i in range(selections) for point in sweeps.points(config, i)]
  # Those of one duration that train the same part train together; populations of one size are one program.
  steps_of = collections.Counter()
  for (text, part), number in collections.Counter((p.duration, p.trained) for p in points).items():
    steps_of[number, part] += sum(
      optim.steps(text, section.batch_size, train(size)) for size in sizes.values()
    )
  longest = sum(
    max(optim.steps(text, section.batch_size, train(size)) for text in section.durations)
    for size in sizes.values()
  )
  tests = sum(size.test_images for size in sizes.values())
  most = max(section.trained, key=partial.blocks)
  for name, number, part, steps, images in (
    *(('sweep', number, part, steps, 0) for (number, part), steps in steps_of.items()),
    ('retrain', selections * retrains, most, longest, tests),
  ):
    trial = sweeps.Trial(0, 1.0, steps * candidates, 0.0, max(section.mixups), 0, part)
    run = fine_tuning.describe(
      section,
      f'transfer {name}{named}' + (f' of {part}' if part != partial.ALL else ''),
      network,
      [trial] * number,
      network.shapes(largest.classes),
      section.warmups[0],
    )
    yield from training(config, *machine, run, images * candidates)


def of_select(config, devices, limit) -> Iterator[Program]:
  del limit  # One batch of one model: far below it.
  settings, candidates = _pool(config)
  local = [d for d in devices if d.process_index == devices[0].process_index]
  # Of the host that has most to do.
  mine = max(networks.share(candidates, len(devices) // len(local)), key=len)
  for named, network, some in _networks(config, mine, settings, devices[0].platform):
    seen = collections.Counter()
    for group, groups in networks.units(some, len(local)):
      # By kind: baselines, experts and opaque networks of one pool are one program.
      seen[networks.is_bank(group[0]), len(group), groups] += 1
    size = embed.preprocessing(some[0], settings).size
    for (bank, number, groups), times in seen.items():
      yield from _of_units(config, (network, size, named), bank, (number, groups, times), local)


def _of_units(config, one, bank, unit, local) -> Iterator[Program]:
  """The programs of (number of models, groups of devices, units) of a (network, side of images, name)."""
  (network, size, named), (number, groups, times) = one, unit
  looked_at = [min(t.images, config.select.images or t.images) for t in _tasks(config).values()]
  kind = 'adapters' if bank else 'networks'
  mesh = make_mesh(groups, local)
  reason = (
    f'{number} {kind}; devices of a host: {groups} x {len(local) // groups} (population x data), '
    f'{number // groups} {kind} a device; other hosts embed others'
  )
  batch = evaluators.evaluation_batch(config, mesh)
  yield Program(
    name=f'embed {number} {kind}{named}',
    phase='select',
    function=networks.make_program(network, mesh),
    arguments=_of_unit(network, bank, number, (batch, size), mesh),
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
    name=f'kNN of {number} {kind}{named}',
    phase='select',
    function=knn.make_program(tuple(local[:on])),
    arguments=knn.abstract_arguments(number, samples, network.dimension, local),
    mesh=mesh,
    reason=reason,
    calls=times * len(looked_at) * (number // on),
    images=samples * on,
    batch_field='run.evaluation_batch',
  )


def _networks(config, members, settings, platform) -> list[tuple[str, Network, list[pool.Member]]]:
  """The networks that models are, each with what to call it, empty where there is one, and the models that are it."""
  found = {}
  for member in members:
    kind = KINDS[member.kind]
    if not kind.trains and settings:
      # What it computes is not known; of a pool with networks of our own those stand for it.
      kind, described = KINDS['baseline'], dict(settings)
    elif not kind.trains:
      continue
    else:
      described = networks.described(member, os.path.dirname(pool_path(config, '')), settings)
    key = json.dumps([described, embed.preprocessing(member, settings).size], sort_keys=True)
    found.setdefault(key, (kind.family.build(described, platform), []))[1].append(member)
  if len(found) == 1:
    return [('', *one) for one in found.values()]
  return [
    (f' of {some[0].architecture or some[0].kind}', network, some)
    for network, some in found.values()
  ]


def _of_unit(network, bank, number, images, mesh) -> tuple[Tree, Tree]:
  """The parameters of so many networks, or adapters on one, and a batch of (number, side) of images."""
  batch, size = images
  shapes = own(network.shapes(1))
  backbone, params = shapes['backbone'], population.repeat(shapes, number)
  if bank:
    adapter = jax.eval_shape(lambda: resnet.init_adapter(network.resnet, jax.random.key(0)))
    params = {'backbone': backbone, 'bank': population.repeat(adapter, number)}
  places = networks.placement(params)
  pixels = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)
  return (
    {name: meshes.abstract(params[name], mesh, spec) for name, spec in places.items()},
    meshes.abstract(pixels, mesh, P('data')),
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
  settings = own_pool.settings(config)
  number = number_of_experts(config)
  kinds = ['random', 'baseline', *(kind for kind in config.experts.kinds for _ in range(number))]
  return settings, [_some_member(i, kind) for i, kind in enumerate(kinds)]


def _some_member(index: int, kind: str) -> pool.Member:
  shared = 'baseline.npz' if kind == 'adapter' else None
  return pool.Member(f'{kind}:{index}', kind, '', None, 0, 0, 0, '', '', shared)
