"""Every config is valid and tells its own command; every mistake is found and named before anything starts."""

import importlib
import pathlib
import re

import pytest

from configs import common
from experts import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = sorted(
  path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('__init__', 'common')
)


@pytest.fixture
def config():
  config = common.get_config()
  config.tasks = {'mine': common.task('images:mine')}
  return config


@pytest.mark.parametrize('name', NAMES)
def test_each_config_is_valid_and_its_docstring_runs_it(name):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config()
  configs.validate(config)
  commands = re.findall(r'^python main\.py .*$', module.__doc__, re.MULTILINE)
  assert commands, 'the docstring shows no command'
  for command in commands:
    assert f'--config=configs/{name}.py' in command
    assert '--workdir=' in command
    for field in re.findall(r'--config\.([\w.]+)=', command):
      assert configs.is_field(field), field
      section = config
      *path, leaf = field.split('.')
      for key in path:
        section = section[key]
      assert leaf in section


def test_the_defaults_have_every_field(config):
  configs.validate(config)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('seeds', 1, 'config.seeds is not a field; did you mean config.seed?'),
    ('model.widht', 2.0, 'config.model.widht is not a field; did you mean config.model.width?'),
    (
      'experts.full.learning_rte',
      0.1,
      'config.experts.full.learning_rte is not a field; '
      'did you mean config.experts.full.learning_rate?',
    ),
    (
      'tasks.mine.train_image',
      10,
      'config.tasks.mine.train_image is not a field; did you mean config.tasks.mine.train_images?',
    ),
  ],
)
def test_an_unknown_field_is_named_with_the_nearest(config, field, value, message):
  with pytest.raises(ValueError) as error:
    configs.validate(_with(config, field, value))
  assert str(error.value) == message


@pytest.mark.parametrize(
  'field',
  ['seed', 'tasks', 'model', 'model.depth', 'upstream.batch_size', 'experts.adapter.warmup']
  + ['tasks.mine.test', 'trials'],
)
def test_a_missing_field_is_named(config, field):
  with pytest.raises(ValueError, match=f'^config.{field} is missing$'):
    configs.validate(_with(config, field, None, remove=True))


@pytest.mark.parametrize(
  ('field', 'value', 'rule'),
  [
    ('seed', 'one', 'must be a whole number of at least 0'),
    ('seed', True, 'must be a whole number of at least 0'),
    ('run.tensorboard', 1, 'must be of type bool'),
    ('run.log_every', 50, "such as '10 minutes'"),
    ('run.checkpoint_every', '500', 'it must be a number above 0 and a unit (steps, seconds'),
    ('run.checkpoint_every', '0 minutes', 'it must be a number above 0'),
    ('data_dir', 3, 'must be of type str'),
    ('model', 'R50', 'must be a section with fields of its own'),
    ('tasks', 'dtd', 'must be a section with fields of its own'),
    ('tasks.mine', 'vtab:dtd', 'must be a section with fields of its own'),
    ('tasks.mine.train_images', 1000.0, 'must be a whole number of at least 0'),
    ('upstream.batch_size', 0, 'it must be a whole number of at least 1'),
    ('upstream.batch_size', -128, 'it must be a whole number of at least 1'),
    ('upstream.learning_rate', 0.0, 'it must be a number above 0'),
    ('upstream.learning_rate', float('nan'), 'it must be a number above 0'),
    ('upstream.learning_rate', float('inf'), 'it must be a number above 0'),
    ('upstream.momentum', 1.0, 'it must be a number from 0 to 0.9999'),
    ('upstream.duration', '90', "and a unit (steps, epochs, examples), such as '30 steps'"),
    ('upstream.duration', '5 %', "and a unit (steps, epochs, examples), such as '30 steps'"),
    ('upstream.duration', '0 steps', 'it must be a number above 0 and a unit'),
    ('upstream.warmup', '1 epochs', "and a unit (steps, %), such as '30 steps'"),
    ('upstream.decay_at', (0.5, 1.5), 'it must be numbers above 0 and up to 1'),
    ('upstream.crop', 'centre', "it must be one of 'inception', 'random', 'none'"),
    ('experts.max_share', 1.5, 'it must be a number from 0 to 1'),
    ('experts.kinds', ('full', 'full'), "it must be distinct values of 'full', 'adapter'"),
    ('model.depth', 34, 'it must be 14, 26, 50, 101 or 152'),
    ('phases', ('upstream', 'distil'), "it must be distinct values of 'upstream', 'experts'"),
    ('strategy', 'knn,nearest', 'it must be one, or several with commas between, of random, epn'),
    ('transfer.learning_rates', (), 'it must be at least one number above 0'),
    ('transfer.durations', ('2500',), 'it must be at least one number above 0 with its unit'),
    ('transfer.durations', (2500,), 'it must be at least one number above 0 with its unit'),
    ('tasks.mine.test_images', -1, 'it must be a whole number of at least 0'),
  ],
)
def test_a_wrong_value_is_named_with_its_rule(config, field, value, rule):
  with pytest.raises(ValueError) as error:
    configs.validate(_with(config, field, value))
  message = str(error.value)
  assert message.startswith(f'config.{field}={value!r} ')
  assert rule in message
  assert '\n' not in message


@pytest.mark.parametrize('value', ['0 steps', '0 %', '5000 steps', '5 %'])
def test_no_warm_up_is_a_warm_up(config, value):
  configs.validate(_with(config, 'upstream.warmup', value))


@pytest.mark.parametrize(
  ('phases', 'message'),
  [
    (('experts', 'upstream'), "config.phases: 'upstream' must come before 'experts'"),
    (('transfer', 'select'), "config.phases: 'select' must come before 'transfer'"),
    (('report', 'select'), "config.phases: 'select' must come before 'report'"),
    (('report', 'transfer'), "config.phases: 'transfer' must come before 'report'"),
    (('select', 'experts'), "config.phases: 'experts' must come before 'select'"),
    ((), 'config.phases is empty: name at least one phase'),
  ],
)
def test_phases_out_of_order_are_refused(config, phases, message):
  with pytest.raises(ValueError, match=f'^{re.escape(message)}'):
    configs.validate(_with(config, 'phases', phases))


@pytest.mark.parametrize('phases', [('select',), ('select', 'transfer', 'report'), ('experts',)])
def test_some_of_the_phases_may_run(config, phases):
  configs.validate(_with(config, 'phases', phases))


def test_images_are_not_cropped_larger_than_they_are(config):
  config.image.update(size=224, resize=192)
  with pytest.raises(ValueError, match=r'config\.image\.resize=192 must be at least .*size=224'):
    configs.validate(config)


def test_a_task_is_not_cropped_larger_than_it_is(config):
  config.tasks.mine.update(size=480, resize=0)
  with pytest.raises(
    ValueError, match=r'config\.tasks\.mine\.resize=0 must be at least .*size=480'
  ):
    configs.validate(config)


def test_warm_ups_go_with_durations(config):
  config.transfer.durations = ('10 steps', '20 steps', '30 steps')
  config.transfer.warmups = ('2 steps',)
  configs.validate(config)
  config.transfer.warmups = ('2 steps', '4 steps')
  with pytest.raises(ValueError, match=r'^config\.transfer\.warmups=.* must be one for each of'):
    configs.validate(config)


def test_draws_need_logarithms(config):
  config.transfer.draws = 36
  with pytest.raises(ValueError, match=r'^config\.transfer\.weight_decays must be above 0'):
    configs.validate(config)
  config.transfer.weight_decays = (1e-6, 1e-2)
  configs.validate(config)


def test_leaves_are_dotted_paths():
  assert configs.leaves({'a': 1, 'b': {'c': {'d': (2,)}, 'e': 3}}) == {
    'a': 1,
    'b.c.d': (2,),
    'b.e': 3,
  }


def _with(config, field, value, remove=False):
  """The config with one field changed, added or removed, whatever its type was."""
  fields = config.to_dict()
  *path, leaf = field.split('.')
  section = fields
  for key in path:
    section = section[key]
  section.pop(leaf, None)
  if not remove:
    section[leaf] = value
  return type(config)(fields)
