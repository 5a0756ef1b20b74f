"""The package in figures, and what breaks its rules:   python -m benchmarks.house [--list]

A room is a module or a folder at the top of the package, and data flows down ORDER: a room takes
from those above it alone. tests/test_style.py asserts what is counted here, so that each rule is
written once. An offender is a line, 'path:line what is wrong'. Sources are read, never imported.
"""
import argparse
import ast
import pathlib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
ORDER = '''
  files pictures schedules types seeds signals layout packing training diffusion volume cameras
  conditioning prompts corpus nn torch_side weights toybox meshes scenes render regularizers priors
  perception control_variates sampling estimators optim rendezvous processes parallel train_step
  guard workdirs checkpoints metrics profiling statistics comparison scores objects outputs places
  sections registry configs rules option_rules names options checks restoring build_sample build
  fitting runs viewing generator_eval restoration_eval method_texts variance_lab clip_score
  config_files cli_help cli evaluate finishing start loop stages
'''.split()
# Below all rooms, and imported by none.
COMMANDS = ('train variance playground generate export view doctor convert restore '
            'toybox.train_prior toybox.train_geometry toybox.train_autoencoder toybox.train_sd '
            'toybox.train_mvdream'.split())
COLUMNS = 100
LINES = 250
LINES_OF_AN_ESTIMATOR = 180
LINES_OF_A_FUNCTION = 60
CATALOGS = {'toybox.toys': 450}      # one shape after another


class House(NamedTuple):
  """A package as it was read: each module's path, text and tree by its name; a folder's name stands
  for its __init__."""
  package: pathlib.Path
  paths: dict[str, pathlib.Path]
  texts: dict[str, str]
  trees: dict[str, ast.Module]
  order: list[str]
  commands: list[str]

  def at(self, module, line):
    """'package/file.py:line', which editors open."""
    return f'{self.paths[module].relative_to(self.package.parent)}:{line}'


def read(package=ROOT / 'jaxdreamer', *, order=ORDER, commands=COMMANDS):
  """The House in this folder, but for the package's own __init__: it only passes names on."""
  names = {'.'.join(p.relative_to(package).with_suffix('').parts).removesuffix('.__init__'): p
           for p in sorted(package.rglob('*.py')) if p != package / '__init__.py'}
  texts = {name: path.read_text() for name, path in names.items()}
  trees = {name: ast.parse(text) for name, text in texts.items()}
  return House(package, names, texts, trees, order, commands)


def room(module):
  """'nn' of 'nn.unet'."""
  return module.split('.')[0]


def imports(house, module):
  """The package's modules that `module` imports anywhere in its file, each with the line.
  `from jaxdreamer.volume import weights` imports jaxdreamer.volume."""
  for node in ast.walk(house.trees[module]):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{house.at(module, node.lineno)} imports relatively'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    for name in names:
      package, *parts = name.split('.')
      while parts and '.'.join(parts) not in house.trees:
        parts.pop()
      if package == house.package.name and parts:
        yield '.'.join(parts), node.lineno


def arrows(house):
  """The pairs of rooms of which the first imports from the second, as text."""
  pairs = {(room(m), room(other)) for m in house.trees for other, _ in imports(house, m)}
  return sorted(f'{a} -> {b}' for a, b in pairs if a != b)


def arrows_up(house):
  """Imports from a room that does not stand above in the order, and any of a command."""
  def rank(module):
    return len(house.order) if module in house.commands else house.order.index(room(module))

  for module in house.trees:
    for other, line in imports(house, module):
      inside = room(other) == room(module) and other != module and other not in house.commands
      if not inside and rank(other) >= rank(module):
        yield f'{house.at(module, line)} imports {other}, which does not stand above it'


def circles(house):
  """Each set of modules that import each other by some way round, as text."""
  graph = {m: {other for other, _ in imports(house, m)} - {m} for m in house.trees}

  def reached(start):
    found, ahead = set(), [start]
    while ahead:
      new = graph[ahead.pop()] - found
      found |= new
      ahead += new
    return found

  reach = {m: reached(m) for m in graph}
  rings = {frozenset(o for o in reach[m] if m in reach[o]) for m in graph}
  return sorted('a circle of ' + ', '.join(sorted(ring)) for ring in rings if ring)


def functions(house, module):
  """Every def of a module, nested ones and methods too, with whether it belongs to a class."""
  def visit(node, in_class):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.FunctionDef):
        yield child, in_class
        yield from visit(child, False)
      else:
        yield from visit(child, isinstance(child, ast.ClassDef))
  return visit(house.trees[module], False)


def public(body):
  """The defs among these statements whose names have no leading underscore."""
  return [n for n in body if isinstance(n, ast.FunctionDef) and not n.name.startswith('_')]


def files_over(house, *, limits=CATALOGS):
  """Files of more lines than LINES, an estimator's than its own; `limits` has others' by name. By
  the module's name, the offenders."""
  def limit(module):
    usual = LINES_OF_AN_ESTIMATOR if room(module) == 'estimators' else LINES
    return limits.get(module, usual)

  lines = {module: len(text.splitlines()) for module, text in house.texts.items()}
  return {module: f'{house.at(module, 1)} has {n} lines, of {limit(module)}'
          for module, n in lines.items() if n > limit(module)}


def functions_over(house, *, limits=None):
  """Functions of more lines than LINES_OF_A_FUNCTION; `limits` has others' by 'module:function'.
  By that name, the offenders."""
  found = {}
  for module in house.trees:
    for function, _ in functions(house, module):
      name, lines = f'{module}:{function.name}', function.end_lineno - function.lineno + 1
      limit = (limits or {}).get(name, LINES_OF_A_FUNCTION)
      if lines > limit:
        found[name] = (f'{house.at(module, function.lineno)} {function.name} has {lines} lines, '
                       f'of {limit}')
  return found


def undocumented(house):
  """Public functions, and public methods of records, without a docstring. A config's get_config
  has its module's."""
  def is_record(node):
    return isinstance(node, ast.ClassDef) and any(
        word in ast.unparse(part) for part in node.bases + node.decorator_list
        for word in ('NamedTuple', 'dataclass'))

  for module, tree in house.trees.items():
    bodies = [tree.body, *(node.body for node in tree.body if is_record(node))]
    for function in (f for body in bodies for f in public(body)):
      if not ast.get_docstring(function) and function.name != 'get_config':
        yield f'{house.at(module, function.lineno)} {function.name} has no docstring'


def wide_lines(house):
  """Lines of more than COLUMNS columns."""
  for module, text in house.texts.items():
    for number, line in enumerate(text.splitlines(), 1):
      if len(line) > COLUMNS:
        yield f'{house.at(module, number)} has {len(line)} columns, of {COLUMNS}'


def figures(house):
  """What to print: by its title, the list of what is counted."""
  return {
      'rooms': sorted({room(module) for module in house.trees}),
      'modules in them': sorted(house.trees),
      'arrows between rooms': arrows(house),
      'arrows up': list(arrows_up(house)),
      'circles': circles(house),
      f'files over {LINES} lines': list(files_over(house).values()),
      f'functions over {LINES_OF_A_FUNCTION} lines': list(functions_over(house).values()),
      'public functions without a docstring': list(undocumented(house)),
      f'lines over {COLUMNS} columns': list(wide_lines(house)),
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(':')[0])
  parser.add_argument('--list', action='store_true', help='name all that is counted')
  listed = parser.parse_args().list
  for title, found in figures(read()).items():
    print(f'{title:40}{len(found):5}')
    if listed:
      print(*(f'    {line}' for line in found), sep='\n')


if __name__ == '__main__':
  main()
