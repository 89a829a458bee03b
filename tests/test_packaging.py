"""The packaging files agree with each other and with what the code imports."""

import ast
import importlib.metadata
import pathlib
import sys

import pytest
from packaging import requirements, utils

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _setup_arguments() -> dict:
  """Literals of setup.py, read without running it."""
  tree = ast.parse((_ROOT / 'setup.py').read_text())
  assign = next(node for node in tree.body if isinstance(node, ast.Assign))
  call = tree.body[-1].value
  arguments = {k.arg: k.value for k in call.keywords}
  return {
    'install_requires': ast.literal_eval(assign.value),
    'extras_require': ast.literal_eval(arguments['extras_require']),
  }


def _requirements() -> list[requirements.Requirement]:
  arguments = _setup_arguments()
  lines = arguments['install_requires'] + arguments['extras_require']['test']
  return [requirements.Requirement(line) for line in lines]


def _constraints() -> dict[str, requirements.Requirement]:
  lines = (_ROOT / 'constraints.txt').read_text().splitlines()
  parsed = [requirements.Requirement(line) for line in lines if line and not line.startswith('#')]
  return {utils.canonicalize_name(each.name): each for each in parsed}


@pytest.mark.parametrize('requirement', _requirements(), ids=lambda each: each.name)
def test_dependency_is_bounded_and_its_tested_version_lies_within(requirement):
  operators = sorted(each.operator for each in requirement.specifier)
  assert operators == ['<', '>=']
  pin = _constraints()[utils.canonicalize_name(requirement.name)]
  (tested,) = pin.specifier
  assert tested.operator == '=='
  assert requirement.specifier.contains(tested.version)


def test_exactly_one_tensorflow_on_every_machine():
  wanted = [each for each in _requirements() if each.name in ('tensorflow', 'tensorflow-cpu')]
  for system, machine, name in [
    ('Linux', 'x86_64', 'tensorflow-cpu'),
    ('Linux', 'aarch64', 'tensorflow'),
    ('Darwin', 'arm64', 'tensorflow'),
    ('Darwin', 'x86_64', 'tensorflow'),
  ]:
    environment = {'platform_system': system, 'platform_machine': machine}
    assert [each.name for each in wanted if each.marker.evaluate(environment)] == [name]


def test_every_import_is_a_declared_dependency():
  declared = {utils.canonicalize_name(each.name) for each in _requirements()}
  distributions = importlib.metadata.packages_distributions()
  own = {path.stem for path in _ROOT.iterdir()}
  undeclared = {}
  for folder in ('experts', 'launch', 'configs', 'tests'):
    for path in sorted((_ROOT / folder).rglob('*.py')):
      for name in _imported(path) - own - set(sys.stdlib_module_names):
        owners = {utils.canonicalize_name(each) for each in distributions.get(name, [name])}
        if not owners & declared:
          undeclared.setdefault(name, str(path.relative_to(_ROOT)))
  assert undeclared == {}


def _imported(path: pathlib.Path) -> set[str]:
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name.split('.')[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
      names.add(node.module.split('.')[0])
  return names
