"""The house as CONTRIBUTING.md draws it is the one that stands, and its rule of imports finds what breaks it."""

import ast
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')


def _rooms(folder: str) -> list[str]:
  """The folders and modules directly below a folder of Python."""
  found = [path for path in (ROOT / folder).iterdir() if path.name != '__init__.py']
  modules = [path.stem for path in found if path.suffix == '.py']
  return sorted(modules + [p.name for p in found if p.is_dir() and [*p.glob('*.py')]])


def test_the_map_has_every_room_in_the_order_of_the_rule():
  block = re.search(r'## The house\n\n```\n(.*?)```', TEXT, re.DOTALL)[1]
  drawn = re.findall(r'^  (\w+)/? ', block, re.MULTILINE)
  assert sorted(drawn) == _rooms('experts')
  contracts = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['importlinter']
  layers = contracts['contracts'][0]['layers']
  assert [name for layer in layers for name in layer.split(' | ')] == drawn
  for folder in re.findall(r'^(\w+)/ ', block, re.MULTILINE):
    assert (ROOT / folder).is_dir()


def test_the_map_names_every_phase():
  named = re.search(r"the papers' steps: (.*)", TEXT)[1]
  assert sorted(named.split(', ')) == _rooms('experts/phases')


def test_what_the_page_names_is_there():
  for path in re.findall(r'`((?:experts|configs|tests)/[\w/]+\.py)`', TEXT):
    assert 'NAME' in path or (ROOT / path).exists(), path
  for room, module in re.findall(r'`(\w+)\.(\w+)(?:\.\w+)*`', TEXT):
    if (ROOT / 'experts' / room).is_dir():
      assert (ROOT / 'experts' / room / f'{module}.py').exists(), f'{room}.{module}'


# A line put at the end of a module, and the contract that it breaks.
@pytest.mark.parametrize(
  ('module', 'line', 'broken'),
  [
    ('models/resnet.py', 'from experts.data import batches', 'No arrow upwards BROKEN'),
    ('phases/select.py', 'from experts.phases import upstream', 'No phase knows another BROKEN'),
    ('training/optim.py', 'from experts.training import loop', 'No circles BROKEN'),
  ],
)
def test_an_import_that_breaks_the_rule_is_found(tmp_path, module, line, broken):
  shutil.copytree(ROOT / 'experts', tmp_path / 'experts', ignore=shutil.ignore_patterns('*.pyc'))
  shutil.copy(ROOT / 'pyproject.toml', tmp_path)
  with open(tmp_path / 'experts' / module, 'a') as file:
    file.write(f'\n{line}\n')
  command = [sys.executable, '-c', 'from importlinter import cli; cli.lint_imports_command()']
  done = subprocess.run(
    command,
    cwd=tmp_path,
    env={'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert broken in done.stdout


def _functions(folder: str) -> list[tuple[str, ast.FunctionDef]]:
  return [
    (f'{path.relative_to(ROOT)}: {node.name}', node)
    for path in sorted((ROOT / folder).rglob('*.py'))
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
    if isinstance(node, ast.FunctionDef)
  ]


def _arguments(function: ast.FunctionDef) -> int:
  given = function.args
  names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
  return len([name for name in names if name not in ('self', 'cls')])


def test_files_and_functions_can_be_known_by_heart():
  lines = {path: len(path.read_text().splitlines()) for path in (ROOT / 'experts').rglob('*.py')}
  assert not [path for path, number in lines.items() if number > 400]
  assert len(lines) > 100
  packages = [path for path in (ROOT / 'experts').iterdir() if path.is_dir()]
  every = []
  for folder in ('benchmarks', 'configs', 'launch', *(f'experts/{path.name}' for path in packages)):
    found = _functions(folder)
    every += found
    long = [name for name, one in found if one.end_lineno - one.lineno >= 50]
    assert len(long) <= 0.02 * len(found), long
  assert not [name for name, one in every if _arguments(one) > 9]
  assert len([name for name, one in every if _arguments(one) > 7]) <= 0.01 * len(every)
