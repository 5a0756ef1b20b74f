"""benchmarks/house.py counts right: a made-up package, with one of everything, told in full."""
import pytest

from benchmarks import house

FILES = {
    '__init__.py': 'from made.low import deep\n',                # passes names on: not a room
    'low/__init__.py': 'from made.low import deep\n',            # inside a room, any way
    'low/deep.py': 'def _hidden():\n  pass\n',
    'low/other.py': 'import made.low.deep\nimport elsewhere.low\n',
    'middle.py': '''from typing import NamedTuple

import made.low.deep as deep
from made.low.deep import thing

class Plain:
  def untold(self):
    pass

class Record(NamedTuple):
  x: int

  def untold(self):
    pass

  def told(self):
    """Told."""
    from made import high

def get_config():
  def nested():
    pass
''',
    'high.py': 'def untold():\n  from made.middle import Record\n  import made.run\n',
    'run.py': '"""A command."""\nfrom made import high\n',
}


@pytest.fixture
def made(tmp_path):
  """A house of these files: low, middle and high, and the command run."""
  def build(files):
    for name, text in files.items():
      path = tmp_path / 'made' / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
    return house.read(tmp_path / 'made', order=['low', 'middle', 'high'], commands=['run'])
  return build


def test_every_figure_of_a_made_up_house(made):
  figures = house.figures(made(FILES | {'wide.py': f'x = "{"-" * 95}"\ny = "{"-" * 94}"\n'}
                               | {'low/deep.py': 'def _f():\n' + '  f()\n' * 249}))
  assert figures == {
      'rooms': ['high', 'low', 'middle', 'run', 'wide'],
      'modules in them': ['high', 'low', 'low.deep', 'low.other', 'middle', 'run', 'wide'],
      'arrows between rooms': ['high -> middle', 'high -> run', 'middle -> high', 'middle -> low',
                               'run -> high'],
      'arrows up': ['made/high.py:3 imports run, which does not stand above it',
                    'made/middle.py:18 imports high, which does not stand above it'],
      'circles': ['a circle of high, middle, run'],
      'files over 250 lines': [],
      'functions over 60 lines': ['made/low/deep.py:1 _f has 250 lines, of 60'],
      'public functions without a docstring': ['made/high.py:1 untold has no docstring',
                                               'made/middle.py:13 untold has no docstring'],
      'lines over 100 columns': ['made/wide.py:1 has 101 columns, of 100'],
  }


@pytest.mark.parametrize(('file', 'limit'), [('low/deep.py', 250), ('estimators/one.py', 180)])
def test_a_file_may_be_as_long_as_its_limit_and_no_longer(made, file, limit):
  assert not house.files_over(made({file: 'x = 1\n' * limit}))
  name = file.replace('/', '.').removesuffix('.py')
  longer = made({file: 'x = 1\n' * (limit + 1)})
  assert house.files_over(longer) == {name: f'made/{file}:1 has {limit + 1} lines, of {limit}'}
  assert not house.files_over(longer, limits={name: limit + 1})
  assert house.files_over(longer, limits={name: limit})


def test_a_function_may_be_as_long_as_its_limit_and_no_longer(made):
  assert not house.functions_over(made({'low/deep.py': 'def f():\n' + '  g()\n' * 59}))
  longer = made({'low/deep.py': 'class A:\n  def f():\n' + '    g()\n' * 60})
  assert list(house.functions_over(longer)) == ['low.deep:f']
  assert not house.functions_over(longer, limits={'low.deep:f': 61})


def test_circles_apart_are_counted_apart(made):
  there_and_back = {f'{a}.py': f'import made.{b}\n' for a, b in
                    ('ab', 'ba', 'cd', 'dc', 'ea')}
  assert house.circles(made(there_and_back)) == ['a circle of a, b', 'a circle of c, d']


def test_a_relative_import_is_refused(made):
  with pytest.raises(AssertionError, match='made/high.py:1 imports relatively'):
    house.arrows(made({'high.py': 'from . import low\n'}))


@pytest.mark.parametrize('argument', [(), ('--list',)])
def test_the_command_prints_each_figure(made, argument, capsys, monkeypatch):
  found = made(FILES)
  monkeypatch.setattr('sys.argv', ['house', *argument])
  monkeypatch.setattr(house, 'read', lambda: found)
  house.main()
  out = capsys.readouterr().out
  assert ['arrows', 'up', '2'] in [line.split() for line in out.splitlines()]
  for offenders in house.figures(found).values():
    assert all((line in out) == bool(argument) for line in offenders if ':' in line)
