"""The programs of the phases that train on upstream data."""

from collections.abc import Iterator

import jax

from experts.models import ours, resnet
from experts.phases import dat, domain_predictor, experts, upstream
from experts.programs.program import Program, training
from experts.runs import upstream_data
from experts.training import population


def of_upstream(config, devices, limit) -> Iterator[Program]:
  scale, network = upstream_data.scale(config), ours.build(config.model, devices[0].platform)
  start = population.repeat(network.shapes(scale.nodes), 1)
  run = upstream.describe(config, network, scale, start)
  yield from training(config, devices, limit, run, scale.test_images)


def of_experts(config, devices, limit) -> Iterator[Program]:
  scale, network = upstream_data.scale(config), ours.build(config.model, devices[0].platform)
  names = [str(i) for i in range(number_of_experts(config))]
  whole = network.shapes(scale.nodes)
  adapter = {
    'adapter': jax.eval_shape(lambda: resnet.init_adapter(network.resnet, jax.random.key(0)))
  }
  for kind in config.experts.kinds:
    fresh, frozen = (whole, {}) if kind == 'full' else (adapter, whole)
    trees = population.repeat(fresh, len(names)), frozen
    run = experts.describe(config, kind, network, scale, names, trees)
    yield from training(config, devices, limit, run, scale.test_images)


def of_domain_predictor(config, devices, limit) -> Iterator[Program]:
  scale, network = upstream_data.scale(config), ours.build(config.model, devices[0].platform)
  # A random slice is nothing to predict.
  slices = number_of_experts(config) // (2 if config.experts.controls else 1)
  start = population.repeat(network.shapes(slices), 1)
  run = domain_predictor.describe(config, network, scale.images, start)
  yield from training(config, devices, limit, run, scale.test_images)


def of_dat(config, devices, limit) -> Iterator[Program]:
  scale, network = upstream_data.scale(config), ours.build(config.model, devices[0].platform)
  names = [*config.tasks]
  start = population.repeat(network.shapes(scale.nodes), len(names))
  yield from training(config, devices, limit, dat.describe(config, network, scale, names, start), 0)


def number_of_experts(config) -> int:
  slices = len(config.experts.nodes) or config.experts.count
  if not slices:
    train, _, hierarchy = upstream_data.open_data(config)
    slices = len(upstream_data.choose(config, train, hierarchy))
  return slices * (2 if config.experts.controls else 1)
