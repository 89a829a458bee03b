"""timm's state dicts as this project's trees, and back."""

import re
from collections.abc import Mapping

import numpy as np

State = Mapping[str, np.ndarray]
Trees = dict[str, dict]

_STATISTICS = {'running_mean': 'mean', 'running_var': 'var'}
# Counters, and the second classifier of distilled networks.
_NO_PARAMETER = re.compile(r'num_batches_tracked$|^head_dist\.')


def to_trees(state: State, head: str) -> Trees:
  """Parameters under this project's names.

  Args:
    state: arrays by timm's names.
    head: timm's name of the classifier.

  Returns:
    'backbone', and where there are any 'statistics' and 'head'; float32, the layout as `scope.Scope` says it.
  """
  trees: Trees = {'backbone': {}}
  for name, value in state.items():
    if _NO_PARAMETER.search(name):
      continue
    module, _, leaf = name.rpartition('.')
    leaf, value = _to_leaf(leaf, np.asarray(value, np.float32))
    if module == head:
      # A convolution of what is pooled is a dense layer.
      trees.setdefault('head', {})[leaf] = value[0, 0] if value.ndim == 4 else value
      continue
    tree = trees.setdefault('statistics' if leaf in ('mean', 'var') else 'backbone', {})
    (tree.setdefault(module, {}) if module else tree)[leaf] = value
  return trees


def to_state(trees: Mapping[str, Mapping], head: str) -> dict[str, np.ndarray]:
  """The same under timm's names, in torch's layout."""
  state = {}
  for tree, modules in trees.items():
    for module, leaves in ({head: modules} if tree == 'head' else modules).items():
      if not isinstance(leaves, Mapping):
        module, leaves = '', {module: leaves}
      for leaf, value in leaves.items():
        name, value = _from_leaf(leaf, np.asarray(value))
        state[f'{module}.{name}' if module else name] = np.ascontiguousarray(value)
  return state


def _to_leaf(leaf: str, value: np.ndarray) -> tuple[str, np.ndarray]:
  if leaf in _STATISTICS:
    return _STATISTICS[leaf], value
  if leaf != 'weight':
    return leaf, value
  if value.ndim == 1:
    return 'scale', value
  return 'kernel', value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _from_leaf(leaf: str, value: np.ndarray) -> tuple[str, np.ndarray]:
  if leaf == 'kernel':
    return 'weight', value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
  if leaf == 'scale':
    return 'weight', value
  named = {theirs: name for name, theirs in _STATISTICS.items()}
  return named.get(leaf, leaf), value
