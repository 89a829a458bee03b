"""What a valid config is: each field's type and range, checked before anything starts.

`SCHEMA` mirrors the nesting of a config. A leaf is a `Field`; a dict is a section; `Each(schema)` is a section
whose keys the user chooses (the tasks). The defaults live in `configs/common.py`, so a field that is missing here
or there is found by the first test that loads a config.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from experts.fields import (
  Each,
  Field,
  at_least_one,
  choice,
  duration,
  integer,
  number,
  numbers,
  parsed_by,
  positive,
  some_of,
)
from experts.models import partial
from experts.models.kinds import KINDS
from experts.reporting import results
from experts.selection import knn, pool, strategies
from experts.training import cadence, profile

# In the order in which each needs what those before it leave.
PHASES = ('upstream', 'experts', 'domain_predictor', 'select', 'transfer', 'dat', 'report')
STR = Field(str)
BOOL = Field(bool)
EVERY = Field(
  str,
  parsed_by(cadence.parse),
  "a number above 0 and a unit (steps, seconds, minutes, hours), such as '10 minutes'",
)

# How one training phase trains. Learning rates are for a batch of 256 and scale with the batch (protocol, upstream).
TRAINING = {
  'batch_size': integer(1),
  'duration': duration('steps', 'epochs', 'examples'),
  'learning_rate': positive(),
  'momentum': number(0, 0.9999),
  'weight_decay': number(0),
  'warmup': duration('steps', '%', above_zero=False),
  'decay_at': numbers(0, 1),
  'mixup': number(0),
  'crop': choice('inception', 'random', 'none'),
  'flip': BOOL,
}

# Those that a transfer has several of.
SWEPT = ('learning_rate', 'duration', 'weight_decay', 'mixup', 'warmup')

SCHEMA = {
  'seed': integer(0),
  'phases': some_of(*PHASES),
  'data_dir': STR,
  'pool': STR,
  'results': STR,
  'paper': STR,
  'profile_steps': Field(
    str, parsed_by(profile.parse), "empty, or a range of steps such as '10:15'"
  ),
  'model': {
    'depth': Field(int, lambda v: v in (14, 26, 50, 101, 152), '14, 26, 50, 101 or 152'),
    'width': positive(),
    'root': choice('imagenet', 'small'),
    'dtype': choice('auto', 'float32', 'bfloat16'),
  },
  'image': {
    'size': integer(8),
    'resize': integer(8),
    'interpolation': choice(*pool.INTERPOLATIONS),
    'antialias': BOOL,
    'undecodable': choice('raise', 'skip'),
  },
  'run': {
    'log_every': EVERY,
    'checkpoint_every': EVERY,
    'keep_checkpoints': integer(1),
    'evaluation_batch': integer(1),
    'tensorboard': BOOL,
    'loop': BOOL,
    'compilation_cache': STR,
    'embedding_cache': STR,
    'coordinator_timeout': integer(1),
  },
  'upstream': {
    'data': STR,
    'train': STR,
    'test': STR,
    'size': dict.fromkeys(('images', 'test_images', 'classes', 'nodes'), integer(0)),
    'init_from': STR,
    'keep_every': integer(0),
    **TRAINING,
  },
  'experts': {
    'kinds': some_of('full', 'adapter'),
    'count': integer(0),
    'merge_equal': BOOL,
    'min_images': integer(1),
    'max_share': number(0, 1),
    'nodes': Field(tuple),
    'controls': BOOL,
    'full': TRAINING,
    'adapter': TRAINING,
  },
  'domain_predictor': TRAINING,
  'dat': TRAINING,
  'tasks': Each(
    {
      'data': STR,
      'train': STR,
      'validation': STR,
      'test': STR,
      'train_images': integer(0),
      'validation_images': integer(0),
      'test_images': integer(0),
      'metric': choice('accuracy', 'mean_per_class'),
      'size': integer(0),
      'resize': integer(0),
    }
  ),
  'trials': Field(
    str,
    lambda v: re.fullmatch('[1-9][0-9]*x[1-9][0-9]*', v) is not None,
    "selections x retrains, such as '10x3'",
  ),
  'strategy': Field(
    str,
    lambda v: all(name in strategies.NAMES for name in strategies.named(v)),
    'one, or several with commas between, of ' + ', '.join(strategies.NAMES),
  ),
  'select': {
    'budget': integer(1),
    'k': integer(1),
    'metric': choice(*knn.METRICS),
    'images': integer(0),
    'first_images': integer(0),
    'max_parameters': integer(0),
    'max_dimension': integer(0),
    'upstream': STR,
    'kinds': some_of(*KINDS),
    'max_gflops': number(0),
    'licences': Field(
      tuple, lambda v: all(isinstance(x, str) and x for x in v), 'names of licences'
    ),
  },
  'transfer': {
    'models': choice('all', 'chosen'),
    'draws': integer(0),
    'base_batch_size': integer(1),
    'weight_decays': at_least_one(0),
    'mixups': at_least_one(0),
    'trained': Field(
      tuple,
      lambda v: 0 < len(v) == len(set(v)) and all(parsed_by(partial.blocks)(x) for x in v),
      "at least one of 'all', 'head', 'last:1', 'last:2', …, each once",
    ),
    'optimizer': choice('sgd', 'adamw'),
    'layer_decay': number(0.01, 1),
    'warmups': Field(
      tuple,
      lambda v: len(v) > 0 and all(TRAINING['warmup'].accepts(x) for x in v),
      "at least one number with its unit (steps, %), such as '200 steps'",
    ),
    'learning_rates': Field(
      tuple,
      lambda v: len(v) > 0 and all(isinstance(x, (int, float)) and x > 0 for x in v),
      'at least one number above 0',
    ),
    'durations': Field(
      tuple,
      lambda v: len(v) > 0 and all(duration('steps', 'epochs', 'examples').accepts(x) for x in v),
      "at least one number above 0 with its unit, such as '2500 steps'",
    ),
    **{k: v for k, v in TRAINING.items() if k not in SWEPT},
  },
  'report': {'cluster': BOOL},
}

# Fields that came after others had left workdirs, each with the value that stands for what was done before.
SINCE = {
  'image.interpolation': 'bilinear',
  'image.antialias': False,
  'select.max_gflops': 0.0,
  'select.licences': [],
  'transfer.trained': ['all'],
  'transfer.optimizer': 'sgd',
  'transfer.layer_decay': 1.0,
}

# To classify images with what a transfer left needs little; `model` is a file there.
PREDICT_SCHEMA = {
  'phases': some_of('predict'),
  'seed': SCHEMA['seed'],
  'model': STR,
  'images': STR,
  'run': SCHEMA['run'],
}


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks a config against `SCHEMA`, or, if it predicts, against `PREDICT_SCHEMA`.

  Raises:
    ValueError: one line that names the first unknown, missing or out-of-range field.
  """
  for name in config.get('tasks', ()):
    if not isinstance(name, str):
      raise ValueError(
        f'config.tasks: the name {name!r} is no text; write {str(name)!r} with quotes'
      )
  phases = config.get('phases', ())
  if 'predict' in phases:
    _validate_section(config.to_dict(), PREDICT_SCHEMA, '')
    return
  _validate_section(config.to_dict(), SCHEMA, '')
  for one, after in itertools.pairwise(phases):
    if PHASES.index(after) < PHASES.index(one):
      raise ValueError(f'config.phases: {after!r} must come before {one!r}')
  if not phases:
    raise ValueError('config.phases is empty: name at least one phase')
  if config.pool and {'upstream', 'experts'} <= set(phases):
    raise ValueError(
      f'config.pool={config.pool!r} has a baseline for the experts, so that the phase upstream would train another '
      'for nothing: leave one of them out'
    )
  if config.image.resize < config.image.size:
    raise ValueError(
      f'config.image.resize={config.image.resize} must be at least config.image.size={config.image.size}, '
      'for the evaluation crops the second out of the first'
    )
  results.check_tasks(list(config.tasks))
  for name, task in config.tasks.items():
    if fault := pool.name_fault(name):
      raise ValueError(f'config.tasks: the name {name!r} {fault}; name the task otherwise')
    if {'/', '\\'} & set(name):
      raise ValueError(
        f'config.tasks: the name {name!r} has a slash, but names a file and a folder; name the task otherwise'
      )
    if task.resize < task.size:
      raise ValueError(
        f'config.tasks.{name}.resize={task.resize} must be at least its size={task.size}'
      )
  section = config.transfer
  if len(section.warmups) not in (1, len(section.durations)):
    raise ValueError(
      f'config.transfer.warmups={section.warmups} must be one for each of config.transfer.durations='
      f"{section.durations}, or one for all, such as ('8 %',)"
    )
  if section.draws and min(section.weight_decays) == 0:
    raise ValueError(
      'config.transfer.weight_decays must be above 0, for draws are even in their logarithm'
    )


def unknown_field(path: str, known: Sequence[str]) -> ValueError:
  """The error for a field that no config has, with the nearest field that one has."""
  near = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
  hint = f'; did you mean config.{near[0]}?' if near else ''
  return ValueError(f'config.{path} is not a field{hint}')


def is_field(path: str) -> bool:
  """Whether some config has a field or section of this dotted path."""
  rule = {**SCHEMA, 'images': STR}
  for key in path.split('.'):
    if isinstance(rule, Each):
      rule = rule.schema
    elif isinstance(rule, Mapping) and key in rule:
      rule = rule[key]
    else:
      return False
  return True


def leaves(section: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Flattens nested mappings to {'upstream.batch_size': 128, …}."""
  flat = {}
  for key, value in section.items():
    if isinstance(value, Mapping):
      flat.update(leaves(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def _validate_section(section: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> None:
  for key in section:
    if key not in schema:
      raise unknown_field(f'{prefix}{key}', [f'{prefix}{name}' for name in schema])
  for key, rule in schema.items():
    path = f'{prefix}{key}'
    if key not in section:
      raise ValueError(f'config.{path} is missing')
    value = section[key]
    if isinstance(rule, Field):
      _validate_leaf(value, rule, path)
      continue
    if not isinstance(value, Mapping):
      raise ValueError(f'config.{path}={value!r} must be a section with fields of its own')
    if isinstance(rule, Each):
      for name, part in value.items():
        if not isinstance(part, Mapping):
          raise ValueError(
            f'config.{path}.{name}={part!r} must be a section with fields of its own'
          )
        _validate_section(part, rule.schema, f'{path}.{name}.')
    else:
      _validate_section(value, rule, f'{path}.')


def _validate_leaf(value: Any, field: Field, path: str) -> None:
  # An int is a fine float, but True is no number.
  kinds = (int, float) if field.kind is float else (field.kind,)
  if (isinstance(value, bool) and field.kind is not bool) or not isinstance(value, kinds):
    rule = field.rule or f'of type {field.kind.__name__}'
    raise ValueError(f'config.{path}={value!r} must be {rule}')
  if not field.accepts(value):
    raise ValueError(f'config.{path}={value!r} is out of range: it must be {field.rule}')
