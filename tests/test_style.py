"""The style guide as tests: imports flow down, keys come first, options are keyword-only, files
and functions stay short. What benchmarks/house.py counts is asserted here; each test names every
offender."""
import ast
import configparser
import json
import subprocess
import sys
import tokenize

from benchmarks import house

ROOT = house.ROOT
HOUSE = house.read()
MODULES = HOUSE.trees

ABSL = ['cli', 'cli_help', 'evaluate', 'toybox.fit', 'toybox.trainer', *house.COMMANDS]
# These read the config; everything above build.py takes values. (In nn, a config is a published
# network's config.json.)
CONFIG_READERS = ['options', 'places', 'checks', 'restoring', 'build_sample', 'build', 'fitting',
                  'runs', 'method_texts', 'variance_lab', 'clip_score', 'config_files', 'cli_help',
                  'cli', 'evaluate', 'finishing', 'start', 'loop', 'stages', *house.COMMANDS]
FORBIDDEN_CALLS = {'nan_to_num': 'make numbers safe by construction',
                   'globals': 'dispatch through a dict one can see',
                   'eval': 'runs what a file says', 'exec': 'runs what a file says'}
OURS = {'jaxdreamer', 'configs', 'benchmarks'}
# programs for a process of their own, by their path (weights/torch_worker.py): others' models
OUTSIDE = 'torch_side'
FORBIDDEN_MODULES = {'torch', 'diffusers', 'transformers', 'tensorflow', 'pickle', 'gin'}
UNFINISHED = ('TO' 'DO', 'FIX' 'ME', 'XX' 'X')


def none(offenders):
  offenders = list(offenders)
  assert not offenders, '\n'.join([f'{len(offenders)} offend:', *offenders])


def imported_roots(module):
  """The packages that a module imports from, each with 'path:line'."""
  for node in ast.walk(MODULES[module]):
    if isinstance(node, ast.Import):
      yield from ((alias.name.split('.')[0], HOUSE.at(module, node.lineno)) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module.split('.')[0], HOUSE.at(module, node.lineno)


def functions(*, public=False):
  """(module, 'path:line name', positional arguments less self, all arguments, node) of every def,
  or of the public ones at the top of their modules."""
  for module, tree in MODULES.items():
    found = ((f, False) for f in house.public(tree.body)) if public else house.functions(
        HOUSE, module)
    for function, in_class in found:
      positional = [a.arg for a in function.args.posonlyargs + function.args.args]
      if in_class and positional[:1] in (['self'], ['cls']):
        positional = positional[1:]
      names = positional + [a.arg for a in function.args.kwonlyargs]
      yield (module, f'{HOUSE.at(module, function.lineno)} {function.name}', positional, names,
             function)


def test_the_order_names_every_room_and_no_other():
  rooms = {house.room(module) for module in MODULES}
  commands = {c for c in house.COMMANDS if '.' not in c}
  assert rooms == {*house.ORDER, *commands}, rooms ^ {*house.ORDER, *commands}
  assert set(house.COMMANDS) <= set(MODULES), set(house.COMMANDS) - set(MODULES)


def test_imports_flow_down():
  none(house.arrows_up(HOUSE))


def test_no_module_imports_itself_by_a_detour():
  none(house.circles(HOUSE))


def test_only_commands_import_absl():
  none(f'{at}: flags and logging belong to the commands' for module in set(MODULES) - set(ABSL)
       for root, at in imported_roots(module) if root == 'absl')


def test_nothing_forbidden_is_imported():
  none(f'{at} imports {root}' for module in MODULES if house.room(module) != OUTSIDE
       for root, at in imported_roots(module) if root in FORBIDDEN_MODULES)


def test_what_imports_torch_is_a_program_that_nothing_imports_and_that_never_unpickles_at_large():
  none(f'{HOUSE.at(module, line)} imports {other}' for module in MODULES
       for other, line in house.imports(HOUSE, module) if house.room(other) == OUTSIDE)
  none(f'{at} imports {root}' for module in MODULES if house.room(module) == OUTSIDE
       for root, at in imported_roots(module) if root in OURS | {'pickle'})
  loads = [node for module, tree in MODULES.items() for node in ast.walk(tree)
           if isinstance(node, ast.Call) and ast.unparse(node.func) == 'torch.load']
  assert loads and all('weights_only=True' in map(ast.unparse, node.keywords) for node in loads)


def test_nothing_forbidden_is_called():
  calls = ((HOUSE.at(module, node.lineno), getattr(node.func, 'id', getattr(node.func, 'attr', '')))
           for module, tree in MODULES.items() for node in ast.walk(tree)
           if isinstance(node, ast.Call))
  none(f'{at} {name}: {FORBIDDEN_CALLS[name]}' for at, name in calls if name in FORBIDDEN_CALLS)


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
  options = configparser.ConfigParser()
  options.read(ROOT / 'setup.cfg')
  names = lambda lines: {line.split()[0].lower().replace('-', '_')
                         for line in lines.strip().splitlines()}
  required = names(options['options']['install_requires'])
  extras = options['options.extras_require']
  allowed = required.union(*(names(extras[extra]) for extra in ('viewer', 'tensorboard', 'hub',
                                                                 'convert', 'parity')))
  called = {'PIL': 'pillow', 'skimage': 'scikit_image', 'absl': 'absl_py',
            'orbax': 'orbax_checkpoint'}
  roots = {root for module in MODULES for root, _ in imported_roots(module)}
  imported = {called.get(root, root).lower() for root in roots - sys.stdlib_module_names - OURS}
  assert imported <= allowed, imported - allowed
  assert required <= imported, required - imported


def test_key_comes_first_and_is_called_key():
  none(f'{at}: call it key' for _, at, _, names, _ in functions()
       if {'rng', 'prng', 'prng_key', 'seed_key'} & set(names))
  none(f'{at}: key comes first' for _, at, positional, names, _ in functions(public=True)
       if 'key' in names and 'key' not in (positional[:1] if positional[:1] != ['params']
                                           else positional[1:2]))    # jax.grad wants params first


def test_defaults_are_keyword_only():
  none(f'{at}: options are keyword-only' for module, at, _, _, function in functions(public=True)
       if function.args.defaults and house.room(module) != 'configs')  # --config=toybox.py:argument


def test_config_is_read_at_the_rim():
  taking_values = [module for module in MODULES
                   if module not in CONFIG_READERS and house.room(module) != 'configs']
  none(f'{at} takes values, not a config' for module, at, _, names, _ in functions()
       if module in taking_values and house.room(module) not in ('nn', 'weights')
       and {'config', 'cfg', 'flags', 'FLAGS'} & set(names))
  none(f'{at} imports {root}' for module in taking_values for root, at in imported_roots(module)
       if root in ('ml_collections', 'configs'))


def test_files_are_short():
  none(house.files_over(HOUSE).values())


def test_functions_are_short():
  none(house.functions_over(HOUSE).values())


def test_public_functions_have_docstrings():
  none(house.undocumented(HOUSE))


def test_a_module_opens_with_its_contract():
  none(f'{HOUSE.at(module, 1)} has no docstring' for module, tree in MODULES.items()
       if HOUSE.texts[module].strip() and not ast.get_docstring(tree))


def test_every_name_is_defined():
  # ruff's own rule takes the shapes in strings for names, and is off
  found = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--select=F821', '--exit-zero',
                          '--output-format=json', '--no-cache', '.'], cwd=ROOT, check=True,
                         capture_output=True, text=True).stdout
  strings = {}
  def in_string(path, row, column):
    if path not in strings:
      with open(path, 'rb') as file:
        strings[path] = [(token.start, token.end) for token in tokenize.tokenize(file.readline)
                         if token.type == tokenize.STRING]
    return any(start <= (row, column - 1) < end for start, end in strings[path])
  none(f'{one["filename"]}:{one["location"]["row"]} {one["message"]}' for one in json.loads(found)
       if not in_string(one['filename'], one['location']['row'], one['location']['column']))


def test_nothing_is_left_to_do():
  none(f'{path.relative_to(ROOT)}:{number}'
       for folder in ('jaxdreamer', 'configs', 'benchmarks', 'launch')
       for path in sorted((ROOT / folder).rglob('*'))
       if path.suffix in ('.py', '.sh', '.sbatch', '.yaml', '.html')
       for number, line in enumerate(path.read_text().splitlines(), 1)
       if any(mark in line for mark in UNFINISHED))
