"""The style guide as tests: imports flow down, keys come first, options are keyword-only, files
stay short."""
import ast
import configparser
import functools
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'jaxdreamer'

# Data flows down this list: a module imports only from above itself, or from its own folder.
ORDER = '''
  configs schedules types seeds diffusion volume cameras prompts corpus nn toybox scenes render
  regularizers
  priors perception
  control_variates sampling estimators optim processes train_step checkpoints metrics statistics
  comparison outputs options showing places registry build
  runs generator_eval
  variance_lab clip_score cli evaluate loop
'''.split()
COMMANDS = ('train variance playground generate export doctor toybox.train_prior '
            'toybox.train_geometry'.split())
ABSL = ['cli', 'evaluate', 'toybox.fit', *COMMANDS]
# These read the config; everything above build.py takes values. (In nn, a config is a published
# network's config.json.)
CONFIG_READERS = ['options', 'places', 'build', 'runs', 'variance_lab', 'clip_score', 'cli',
                  'evaluate', 'loop', *COMMANDS]
LINES = 450
LINES_OF_AN_ESTIMATOR = 180
CATALOGS = {'toybox.world': 750}       # one shape after another
FORBIDDEN_CALLS = {'nan_to_num': 'make numbers safe by construction',
                   'globals': 'dispatch through a dict one can see',
                   'eval': 'runs what a file says', 'exec': 'runs what a file says'}
OURS = {'jaxdreamer', 'configs', 'benchmarks'}
FORBIDDEN_MODULES = {'torch', 'diffusers', 'transformers', 'tensorflow', 'pickle', 'gin'}


def name_of(path):
  return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('.__init__')


MODULES = {name_of(p): p for p in sorted(PACKAGE.rglob('*.py')) if p != PACKAGE / '__init__.py'}
every_module = pytest.mark.parametrize('module', MODULES)


@functools.cache
def tree(module):
  return ast.parse(MODULES[module].read_text())


def rank(module):
  """Place in ORDER; commands come after it."""
  top = module.split('.')[0]
  return len(ORDER) if module in COMMANDS else ORDER.index(top)


def package_imports(module):
  """Modules of this package that `module` imports, wherever in the file it does so."""
  for node in ast.walk(tree(module)):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{module}:{node.lineno} imports relatively'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    for name in names:
      parts = name.split('.')
      if parts[0] == 'jaxdreamer':
        while parts[1:] and '.'.join(parts[1:]) not in MODULES:
          parts.pop()  # `from jaxdreamer.volume import weights`
        if parts[1:]:
          yield '.'.join(parts[1:]), node.lineno


def imported_roots(module):
  for node in ast.walk(tree(module)):
    if isinstance(node, ast.Import):
      yield from ((alias.name.split('.')[0], node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module.split('.')[0], node.lineno


def functions(module):
  """Every def of a module, nested ones and methods too, with whether it belongs to a class."""
  def visit(node, in_class):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.FunctionDef):
        yield child, in_class
        yield from visit(child, False)
      else:
        yield from visit(child, isinstance(child, ast.ClassDef))
  return visit(tree(module), False)


def public(module):
  return [n for n in tree(module).body if isinstance(n, ast.FunctionDef)
          and not n.name.startswith('_')]


def arguments(function, in_class):
  """Positional arguments, less self, and all arguments."""
  positional = [a.arg for a in function.args.posonlyargs + function.args.args]
  if in_class and positional and positional[0] in ('self', 'cls'):
    positional = positional[1:]
  return positional, positional + [a.arg for a in function.args.kwonlyargs]


def test_the_order_names_every_module():
  tops = {module.split('.')[0] for module in MODULES}
  assert tops <= {*ORDER, *COMMANDS}, tops - {*ORDER, *COMMANDS}


@every_module
def test_imports_flow_down(module):
  for other, line in package_imports(module):
    same_folder = '.' in module + other and module.split('.')[0] == other.split('.')[0]
    if other in COMMANDS or not same_folder:
      assert rank(other) < rank(module), f'{module}:{line} imports {other}, which stands below it'


def test_no_module_imports_itself_by_a_detour():
  graph = {m: {other for other, _ in package_imports(m)} - {m} for m in MODULES}
  while graph:
    leaves = {m for m, others in graph.items() if not others & set(graph)}
    assert leaves, f'a cycle among {sorted(graph)}'
    graph = {m: others for m, others in graph.items() if m not in leaves}


@every_module
def test_only_commands_import_absl(module):
  if module not in ABSL:
    for root, line in imported_roots(module):
      assert root != 'absl', f'{module}:{line}: flags and logging belong to the commands'


@every_module
def test_nothing_forbidden_is_imported_or_called(module):
  for root, line in imported_roots(module):
    assert root not in FORBIDDEN_MODULES, f'{module}:{line} imports {root}'
  for node in ast.walk(tree(module)):
    if isinstance(node, ast.Call):
      name = getattr(node.func, 'id', getattr(node.func, 'attr', None))
      assert name not in FORBIDDEN_CALLS, f'{module}:{node.lineno} {name}: {FORBIDDEN_CALLS[name]}'


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
  options = configparser.ConfigParser()
  options.read(ROOT / 'setup.cfg')
  names = lambda lines: {line.split()[0].lower().replace('-', '_')
                         for line in lines.strip().splitlines()}
  required, extras = names(options['options']['install_requires']), options[
      'options.extras_require']
  allowed = required.union(*(names(extras[extra]) for extra in ('viewer', 'tensorboard', 'hub')))
  called = {'PIL': 'pillow', 'skimage': 'scikit_image', 'absl': 'absl_py',
            'orbax': 'orbax_checkpoint'}
  roots = {root for module in MODULES for root,
           _ in imported_roots(module)} - sys.stdlib_module_names - OURS
  imported = {called.get(root, root).lower() for root in roots}
  assert imported <= allowed, imported - allowed
  assert required <= imported, required - imported


@every_module
def test_key_comes_first_and_is_called_key(module):
  for function, in_class in functions(module):
    _, names = arguments(function, in_class)
    assert not {'rng', 'prng', 'prng_key',
                'seed_key'} & set(names), f'{module}:{function.lineno} call it key'
  for function in public(module):
    positional, names = arguments(function, False)
    if 'key' in names:                                           # but jax.grad wants params first
      first = positional[1:] if positional[:1] == ['params'] else positional
      assert first[:1] == ['key'], f'{module}:{function.lineno} {function.name}: key comes first'


@every_module
def test_defaults_are_keyword_only(module):
  for function in public(module):
    if module.startswith('configs.'):            # --config=configs/toybox.py:argument
      continue
    assert not function.args.defaults, (f'{module}:{function.lineno} {function.name}: '
                                       'options are keyword-only')


@every_module
def test_config_is_read_at_the_rim(module):
  if module not in CONFIG_READERS and not module.startswith('configs.'):
    for function, in_class in functions(module):
      taken = {'config', 'cfg', 'flags', 'FLAGS'} & set(arguments(function, in_class)[1])
      assert not taken or module.startswith(
          'nn.'), f'{module}:{function.lineno} takes values, not a config'
    for root, line in imported_roots(module):
      assert root not in ('ml_collections', 'configs'), f'{module}:{line} imports {root}'


@every_module
def test_files_are_short(module):
  lines = len(MODULES[module].read_text().splitlines())
  budget = CATALOGS.get(module, LINES_OF_AN_ESTIMATOR if module.startswith('estimators.')
                        else LINES)
  assert lines <= budget, f'{module} has {lines} lines'


@every_module
def test_a_module_opens_with_its_contract(module):
  if MODULES[module].read_text().strip():
    assert ast.get_docstring(tree(module)), f'{module} has no docstring'


@pytest.mark.parametrize('folder', ['jaxdreamer', 'configs', 'benchmarks', 'launch'])
def test_nothing_is_left_to_do(folder):
  for path in (ROOT / folder).rglob('*'):
    if path.suffix in ('.py', '.sh', '.sbatch', '.yaml', '.html'):
      for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not any(mark in line for mark in ('TO' 'DO', 'FIX' 'ME', 'XX'
                                                 'X')), f'{path}:{number}'
