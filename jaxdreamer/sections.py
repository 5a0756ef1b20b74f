"""A function's options: its keyword-only arguments. Their defaults are what a config holds for it,
and the Args lines of its docstring say what they are:

    def sds(*, guidance: Schedule = (3.,), weight: str = 'sigma2') -> Estimator:
      \"\"\"What it does.

      Args:
        guidance: scale, a schedule of the step; 1 is conditional.
      \"\"\"
    defaults(sds)            # {'guidance': (3.,), 'weight': 'sigma2'}
    notes(sds)               # {'guidance': 'scale, a schedule of the step; 1 is conditional.'}
"""
import importlib
import inspect
import re
from typing import Any, Callable, Sequence


def is_plain(value: Any) -> bool:
  """Whether a config file and the command line can write it."""
  return (isinstance(value, bool | int | float | str)
          or isinstance(value, tuple) and all(map(is_plain, value)))


def defaults(factory: Callable, *, without: Sequence[str] = ()) -> dict[str, Any]:
  """{option: default} of the keyword-only arguments that are plain data, less those of
  `without`."""
  return {name: p.default for name, p in inspect.signature(factory).parameters.items()
          if p.kind is p.KEYWORD_ONLY and is_plain(p.default) and name not in without}


def of_table(table: dict[str, Callable], *, without: Sequence[str] = ()) -> dict[str, dict]:
  """{name: defaults} of the functions of a table that have options."""
  found = {name: defaults(factory, without=without) for name, factory in table.items()}
  return {name: section for name, section in found.items() if section}


def notes(factory: Callable) -> dict[str, str]:
  """{option: what its docstring says of it}, in one line each."""
  doc = inspect.getdoc(factory) or ''
  args = re.search(r'^Args:\n((?:  .*\n?)+)', doc, re.M)
  entries = re.findall(r'^  ([\w, ]+): (.*(?:\n   .*)*)', args[1], re.M) if args else []
  return {name: ' '.join(said.split()) for names, said in entries for name in names.split(', ')}


def own_function(name: str, *, option: str) -> Callable:
  """The user's function 'module:function'; ValueError, with the option that names it, where there
  is none."""
  module, _, function = name.partition(':')
  try:
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(f'{option}={name!r}: {error}') from error


def takes(factory: Callable, name: str) -> bool:
  """Whether the function has an argument of this name, or any."""
  parameters = inspect.signature(factory).parameters
  return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
