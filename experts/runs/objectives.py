"""What a member is trained for: loss and accuracy of a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experts.models.network import Network
from experts.training import population

Tree = Any


def multi_label(network: Network, table: np.ndarray, leaves: int) -> population.Objective:
  """Sigmoid cross-entropy against a label and all its ancestors (EXP §4).

  Args:
    network: that is trained.
    table: int32 [leaves, A], the nodes that are true of each label, padded with -1.
    leaves: labels in the data; accuracy compares these nodes only.
  """

  def targets(labels, classes):
    nodes = jnp.asarray(table)[labels]
    rows = jnp.arange(labels.shape[0])[:, None]
    # -1 would address the last node: send it past the end, where 'drop' ignores it.
    nodes = jnp.where(nodes < 0, classes, nodes)
    return jnp.zeros((labels.shape[0], classes)).at[rows, nodes].set(1.0, mode='drop')

  return _objective(
    network,
    lambda logits, truth: optax.sigmoid_binary_cross_entropy(logits, truth).sum(-1),
    targets,
    leaves,
  )


@functools.cache
def single_label(network: Network) -> population.Objective:
  """Softmax cross-entropy, for a task."""
  return _objective(
    network,
    optax.softmax_cross_entropy,
    lambda labels, classes: jax.nn.one_hot(labels, classes),
    None,
  )


def _objective(network, loss, targets, leaves):
  def objective(params, batch):
    logits, _ = network.forward(params, batch['image'])
    truth = targets(batch['label'], logits.shape[-1])
    if 'partner' in batch:
      weight = batch['weight'][:, None]
      truth = weight * truth + (1 - weight) * targets(batch['partner'], logits.shape[-1])
    accuracy = jnp.mean(logits[:, :leaves].argmax(-1) == batch['label'])
    return loss(logits, truth).mean(), {'accuracy': accuracy}

  return objective


@functools.cache
def predict(network: Network, leaves: int | None = None) -> Callable[[Tree, jax.Array], jax.Array]:
  """(parameters, uint8 images) -> logits of the labels, without the ancestors' behind them."""

  def logits(params, images):
    return network.forward(params, images)[0][:, :leaves]

  return logits
