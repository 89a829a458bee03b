"""The experts of [EXP] as they were published: TensorFlow's SavedModels of BiT's ResNet-50, brought into our form."""

import collections
import contextlib
import gzip
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from flax import traverse_util

from experts.models import network, resnet, weights

_MODEL = 'saved_model.pb'
_ARCHIVES = ('.tar.gz', '.tgz', '.tar')
_VALUE = '/.ATTRIBUTES/VARIABLE_VALUE'
_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
# What the names of BiT's variables end in, and what precedes that part which BiT gives them.
_ENDS = re.compile(r'(standardized_conv2d(_\d+)?/kernel|group_norm(_\d+)?/(gamma|beta))$')
_BEFORE = re.compile(r'^((?:.*?/)?)(?:root_block|block\d+)/')
# The end of an adapter's name, and what we call it.
_OF_ADAPTER = {'gamma': 'norm/scale', 'beta': 'norm/bias', 'kernel': 'conv/kernel'}

Arrays = dict[str, np.ndarray]


def find(folder: str) -> dict[str, str]:
  """Finds the modules in a folder: NAME/ or NAME/VERSION/ with a saved_model.pb, or NAME.tar.gz.

  Returns:
    Paths of SavedModels or archives by name, 'baseline' first.

  Raises:
    FileNotFoundError: no such folder.
    ValueError: it holds none, a folder that is none, or two of a name.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'no folder of modules at {folder}')
  if os.path.exists(os.path.join(folder, _MODEL)):
    raise ValueError(f'{folder} is a SavedModel itself: give the folder that holds it by its name')
  found = {}
  for entry in sorted(os.listdir(folder)):
    path = os.path.join(folder, entry)
    ending = next((end for end in _ARCHIVES if entry.endswith(end)), '')
    if entry.startswith('.') or not (ending or os.path.isdir(path)):
      continue
    name = entry.removesuffix(ending)
    if name in found:
      raise ValueError(f'{folder} has {name} twice, as {found[name]} and {path}: remove one')
    found[name] = path if ending else _within(path, path)
  if not found:
    raise ValueError(
      f'{folder} holds no modules: it must have, for each expert, a folder NAME or NAME/1 with {_MODEL}, or NAME.tar.gz'
    )
  return dict(sorted(found.items(), key=lambda item: (item[0] != 'baseline', item[0])))


@contextlib.contextmanager
def unpacked(path: str, scratch: str) -> Iterator[str]:
  """Inside, a module's SavedModel is in the folder that this gives.

  Args:
    path: from `find`.
    scratch: where an archive is unpacked meanwhile.

  Raises:
    ValueError: an archive that is cut off or garbled, or holds no SavedModel.
  """
  if os.path.isdir(path):
    yield path
    return
  with tempfile.TemporaryDirectory(dir=scratch) as folder:
    try:
      with tarfile.open(path) as tar:
        tar.extractall(folder, filter='data')
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
      raise ValueError(f'{path}: cut off or garbled ({error}): fetch it again') from error
    yield _within(folder, path)


def read(path: str, where: str) -> network.Params:
  """Reads the variables of a SavedModel of BiT's ResNet, without its graph.

  Their names are the keys of its checkpoint where these are BiT's, else those that the variables had where they were made.

  Args:
    path: its folder.
    where: what to call it in an error.

  Returns:
    {'backbone'}, with classes 'head', and where names have 'adapter' in them 'adapter': float32 NumPy arrays.

  Raises:
    ValueError: variables that cannot be read, or are missing, left over or misshapen; lists them.
  """
  try:
    arrays, namings = _variables(path)
  except Exception as error:  # TensorFlow's are of many kinds.
    raise ValueError(
      f'{where}: its variables cannot be read ({" ".join(str(error).split())}): fetch it again'
    ) from error
  plain = _as_bit(arrays, namings, where)
  adapter = {key: value for key, value in plain.items() if 'adapter' in key.lower()}
  rest = {key: value for key, value in plain.items() if key not in adapter}
  trees = weights.from_bit(rest, where, any(key.startswith('resnet/head/') for key in rest))
  if adapter:
    trees['adapter'] = _adapter(adapter, weights.infer(trees), where)
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trees)


def _within(folder: str, where: str) -> str:
  """The SavedModel that a folder is, or that the one folder in it is."""
  is_one = lambda path: os.path.exists(os.path.join(path, _MODEL))
  below = [os.path.join(folder, entry) for entry in sorted(os.listdir(folder))]
  found = [folder] if is_one(folder) else [path for path in below if is_one(path)]
  if len(found) > 1:
    several = ', '.join(os.path.basename(path) for path in found)
    raise ValueError(f'{where} holds several SavedModels, {several}: leave one')
  if not found:
    raise ValueError(f'{where} is no SavedModel: there is no {_MODEL} in it, nor one folder deeper')
  return found[0]


def _variables(path: str) -> tuple[Arrays, list[dict[str, str]]]:
  """The arrays of a SavedModel by their keys, and for each way to name them the names by key."""
  import tensorflow as tf  # 10 s, for those who need it.
  from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

  reader = tf.train.load_checkpoint(os.path.join(path, 'variables', 'variables'))
  keys = [key for key in reader.get_variable_to_shape_map() if key != _GRAPH]
  arrays = {key: np.asarray(reader.get_tensor(key)) for key in sorted(keys)}
  made, saved = {}, {}
  if reader.has_tensor(_GRAPH):
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_GRAPH))
    with open(os.path.join(path, _MODEL), 'rb') as file:
      (meta, *_) = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    # Both are numbered alike.
    for node, same in zip(graph.nodes, meta.object_graph_def.nodes):
      for attribute in node.attributes:
        made[attribute.checkpoint_key] = attribute.full_name
        saved[attribute.checkpoint_key] = same.variable.name
  return arrays, [{key: key.removesuffix(_VALUE) for key in arrays}, made, saved]


def _as_bit(arrays: Arrays, namings: list[dict[str, str]], where: str) -> Arrays:
  """The arrays under BiT's names, by the naming that is most like these; what precedes BiT's part is resnet/."""
  likeness = lambda names: sum(bool(_ENDS.search(name)) for name in names.values())
  best = max(namings, key=likeness)
  if not likeness(best):
    said = ', '.join(list(namings[0].values())[:3])
    raise ValueError(f'{where}: its variables ({said}, …) have no names of a BiT ResNet')
  names = {key: best.get(key, '').removesuffix(':0') or key for key in arrays}
  before = collections.Counter(m[1] for name in names.values() if (m := _BEFORE.match(name)))
  prefix = before.most_common(1)[0][0] if before else ''
  found = {}
  for key, name in names.items():
    bit = f'resnet/{name.removeprefix(prefix)}' if name.startswith(prefix) else name
    if bit in found:
      raise ValueError(f'{where}: two variables are both {bit}')
    found[bit] = arrays[key]
  return found


def _adapter(found: Mapping[str, np.ndarray], model: resnet.ResNet, where: str) -> network.Params:
  """An adapter tree by the block in each name, the end of the name, and the shape, which tells the first half from the second."""
  tree = jax.eval_shape(lambda rng: resnet.init_adapter(model, rng), jax.random.key(0))
  needed = {key: leaf.shape for key, leaf in traverse_util.flatten_dict(tree, sep='/').items()}
  flat, left = {}, []
  for name, value in found.items():
    block, end = re.search(r'block_?(\d)', name), _OF_ADAPTER.get(name.rpartition('/')[2])
    halves = [f'block{block[1]}/{half}/{end}' for half in ('a1', 'a2')] if block else []
    fits = [key for key in halves if needed.get(key) == value.shape and key not in flat]
    if fits:
      flat[fits[0]] = value
    else:
      left.append(f'{name} {value.shape}')
  problems = {'missing': [f'adapter {key}' for key in needed if key not in flat], 'left over': left}
  if any(problems.values()):
    text = '; '.join(f'{kind}: {", ".join(keys)}' for kind, keys in problems.items() if keys)
    raise ValueError(f'{where}: no adapters of a ResNet of width {model.width:g}: {text}')
  return traverse_util.unflatten_dict(flat, sep='/')
