"""One compiled program as shapes on given devices, and those of a training run."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experts.devices import make_mesh
from experts.runs import description, evaluators
from experts.training import evaluate, population
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


def training(config, devices, limit, run: description.Run, test_images: int) -> Iterator[Program]:
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
