"""The config files that a command line names: found from any folder and loaded. ValueError, one
line, for their slips."""
import difflib
import importlib.util
import pathlib
import re
import runpy
import sys
import traceback
from typing import Sequence

from ml_collections import ConfigDict

from jaxdreamer import names, options
from jaxdreamer.configs import base
from jaxdreamer.workdirs import flatten

SHIPPED = pathlib.Path(__file__).parent / 'configs'


def given(argv: Sequence[str]) -> tuple[str, str]:
  """The path and the argument of `--config=path:argument`; '' where they are not given."""
  found = [match[1] for match in map(re.compile(r'--?config=(.*)').fullmatch, argv) if match]
  path, _, argument = (found or [''])[-1].partition(':')
  return path, argument


def shipped() -> list[str]:
  """The paths by which the shipped config files may be named."""
  return [f'configs/{path.name}' for path in sorted(SHIPPED.glob('[a-z]*.py'))]


def find(path: str) -> pathlib.Path:
  """The config file of this path: the one that lies there, else the shipped one of the name
  configs/NAME.py."""
  here = options.place(path)
  if here.is_file():
    return here
  if here.as_posix().removeprefix('./').removeprefix('jaxdreamer/') in shipped():
    return SHIPPED / here.name
  near = difflib.get_close_matches(f'configs/{here.name}', shipped(), cutoff=.8)
  raise ValueError(f'there is no config file {path}; {"nearest" if near else "shipped"}: '
                   f'{", ".join(near or shipped())}')


def why(error: Exception) -> str:
  """What an error of a config file says; of an option that there is not, what there is."""
  slip = re.match(r'\W*Key "(\w+)" does not|\W*(\w+)\'\W*Did you mean', str(error))
  if not slip or not isinstance(error, AttributeError | KeyError):
    return f'{type(error).__name__}: {error}'
  known, key = list(flatten(base.OPTIONS)), slip[1] or slip[2]
  old = [answer for name in names.OLD_NAMES if name.split('.')[-1] == key
         and (answer := names.renamed(name))]
  return '; '.join(old) or names.unknown(key, known)


def load(path: str, argument: str) -> ConfigDict:
  """What the config file makes of its argument. It may import its neighbors, and `configs` wherever
  it lies."""
  file = find(path)
  if file.resolve().parent != SHIPPED.resolve() and str(file.parent) not in sys.path:
    sys.path.append(str(file.parent))
  if 'configs' not in sys.modules and importlib.util.find_spec('configs') is None:
    sys.modules['configs'] = importlib.import_module('jaxdreamer.configs')
  try:
    config = runpy.run_path(str(file))['get_config'](*[argument] if argument else [])
  except Exception as error:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == str(file)]
    where = f'{path} line {lines[-1]}' if lines else path
    with_argument = f', given {argument!r}' if argument else ''
    raise ValueError(f'config file {where}{with_argument}: {why(error)}') from error
  if not isinstance(config, ConfigDict):
    raise ValueError(f'config file {path}: get_config() returns a {type(config).__name__}; it '
                     'takes a ConfigDict, as that of configs/base.py')
  return config


def of_command(argv: Sequence[str], *, default: str = '') -> ConfigDict | None:
  """The config that a command line names, else the `default`, before its options are changed; with
  sections for the functions of the user's own that the file or the command line names."""
  path, argument = given(argv)
  if not (path or default):
    return None
  pattern = re.compile(r'--?config\.(\w+)\.name=(.*)', re.DOTALL)
  words = [*argv, *(f'{a}={b}' for a, b in zip(argv, argv[1:]) if '=' not in a)]
  config = load(path or default, argument)
  for match in map(pattern.fullmatch, words):
    if match and match[1] in names.CHOICES:
      config[match[1]].name = match[2]
  return options.with_own(config)
