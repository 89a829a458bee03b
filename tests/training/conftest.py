"""Tiny populations: a linear model where the loop is tested, a smooth network where programs are compared, a ResNet
where the network matters.

Two programs that compute the same round differently, on each CPU in its own way. Where training is smooth, that stays
rounding. Through a ReLU it need not: an input within rounding of zero falls on either side, and in so small a network
one such element is much of a gradient. So parameters of different programs are compared for the smooth network.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experts import devices
from experts.models import resnet
from experts.training import optim, population

SIZE, CLASSES, BATCH = 16, 4, 8


def make_mesh(groups: int, shards: int) -> jax.sharding.Mesh:
  """A mesh over the first devices only."""
  return devices.make_mesh(groups, jax.devices()[: groups * shards])


def linear_objective(params, batch):
  images = batch['image'].reshape(len(batch['label']), -1) / 127.5 - 1
  logits = images @ params['head']['kernel'] + params['head']['bias']
  return _score(logits, batch)


def smooth_objective(params, batch):
  """A convolution, an adapter beside the way through, a head; with tanh where our networks have ReLU."""
  images = batch['image'].astype(jnp.float32) / 127.5 - 1
  x = jax.lax.conv_general_dilated(
    images, params['backbone']['kernel'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  adapter = params['adapter']
  x = jnp.tanh(x)
  x = (
    x + jnp.tanh(x @ adapter['down']['kernel'] + adapter['down']['bias']) @ adapter['up']['kernel']
  )
  logits = jnp.tanh(x).mean((1, 2)) @ params['head']['kernel']
  return _score(logits, batch)


def smooth_params(seed: int):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(0, shape[-2] ** -0.5, shape).astype(np.float32)
  return {
    'backbone': {'kernel': normal(3, 3, 3, 16) / 3},
    'adapter': {
      'down': {'kernel': normal(16, 8), 'bias': np.zeros(8, np.float32)},
      'up': {'kernel': normal(8, 16)},
    },
    'head': {'kernel': normal(16, CLASSES)},
  }


MODEL = resnet.ResNet(14, 1 / 16, 'small')


def resnet_objective(params, batch):
  return _score(resnet.forward(MODEL, params, resnet.normalise(batch['image']))[0], batch)


def _score(logits, batch):
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()
  return loss, {'accuracy': jnp.mean(logits.argmax(-1) == batch['label'])}


def linear_params(seed: int):
  rng = np.random.default_rng(seed)
  kernel = rng.normal(0, 0.01, (SIZE * SIZE * 3, CLASSES)).astype(np.float32)
  return {'head': {'kernel': kernel, 'bias': np.zeros(CLASSES, np.float32)}}


def images(member: int, step: int, batch: int = BATCH):
  """Noise of a mean that tells the class, a function of (member, step)."""
  rng = np.random.default_rng([member, step])
  label = rng.integers(0, CLASSES, batch).astype(np.int32)
  image = rng.normal(40 + 50 * label[:, None, None, None], 60, (batch, SIZE, SIZE, 3))
  return {'image': np.clip(image, 0, 255).astype(np.uint8), 'label': label}


def stream(members, start: int = 0, stop: int = 10**6, batch: int = BATCH):
  """Batches of the numbered members, from step `start` (of those done) on."""
  for step in range(start, stop):
    parts = [images(member, step, batch) for member in members]
    yield {key: np.stack([part[key] for part in parts]) for key in parts[0]}


def put(mesh, batch):
  """The batch on the mesh, as the loop puts it there."""
  return population.put_batch(mesh, batch, population.Word())


def make_population(objective, rates, names=None, at_once=1, steps=50, decay=1e-3):
  return population.Population(
    names=names or [f'm{i}' for i in range(len(rates))],
    objective=objective,
    learning_rate=rates,
    weight_decay=[decay] * len(rates),
    schedule=optim.staircase(steps, steps // 10, (1 / 3, 2 / 3)),
    members_at_once=at_once,
  )


def run(members, mesh, trained, frozen, batches):
  """Trains on all of `batches`; returns the state, on the host."""
  state = population.create_state(members, mesh, trained)
  frozen = jax.device_put(frozen, NamedSharding(mesh, P()))
  step = population.make_step(members, mesh)
  for batch in batches:
    state, *_ = step(state, frozen, put(mesh, batch))
  return jax.device_get(state)


@pytest.fixture(scope='session')
def toy():
  return types.SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith('_')})
