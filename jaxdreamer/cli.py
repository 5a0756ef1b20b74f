"""What the commands share: a config on the command line, errors of one line, and a compile cache that outlives the process.

    config = cli.config_flag()
    cli.run(main)          # main() -> exit status, called once the flags are read

An error that says what the user can do is one line and no traceback: OSError, and ValueError or FloatingPointError raised
by this package itself. All others are bugs and keep their traceback.
"""
import ctypes
import difflib
import os
import pathlib
import platform
import re
import runpy
import sys
import traceback
from typing import Callable, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxdreamer.checkpoints import flatten

PACKAGE = pathlib.Path(__file__).parent
FAILED, MISUSED, STOPPED = 1, 2, 75              # exit statuses; 75 asks to be started again (EX_TEMPFAIL)


def config_flag() -> flags.FlagHolder:
  return config_flags.DEFINE_config_file(
      'config', None, 'A config file: configs/toybox.py. Options follow it: --config.prompt="a red cube".', lock_config=True)


def moved_flags():
  """Flags of the commands that read a run whose prior lies elsewhere by now."""
  flags.DEFINE_string('prior', '', "Where the prior's weights are now, if not where the run was trained with them.")
  flags.DEFINE_string('tokenizer', '', "Folder of the prior's tokenizer, likewise.")
  flags.DEFINE_string('tokenizer_2', '', 'And of its second one.')


def moved() -> dict:
  """What they say, for runs.restore."""
  given = flags.FLAGS
  return {'prior': given.prior, 'tokenizers': (given.tokenizer, given.tokenizer_2)}


def compile_cache() -> str:
  """Keeps every compiled program on disk, under JAX_COMPILATION_CACHE_DIR, XDG_CACHE_HOME/jaxdreamer or ~/.cache/jaxdreamer."""
  home = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  folder = jax.config.jax_compilation_cache_dir or str(home / 'jaxdreamer' / f'compiled-{jax.__version__}')
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
  return folder


def die(message: str, *, status: int = FAILED) -> NoReturn:
  print(f'jaxdreamer: {" ".join(message.split())}', file=sys.stderr)
  raise SystemExit(status)


def nearest(option: str, config: ConfigDict) -> list[str]:
  """The options that look most like `option`, by their last part or as a whole."""
  names = list(flatten(config.to_dict()))
  tail = lambda name: name.split('.')[-1]
  likeness = lambda name: max(difflib.SequenceMatcher(None, tail(name), tail(option)).ratio(),
                              difflib.SequenceMatcher(None, name, option).ratio())
  best = max(map(likeness, names))
  return [name for name in sorted(names, key=likeness, reverse=True) if likeness(name) > max(.6, best - .1)][:4]


def config_file(argv: list[str]) -> tuple[str, str]:
  """The path and the argument of `--config=path:argument`; '' where they are not given."""
  given = [match[1] for match in map(re.compile(r'--?config=(.*)').fullmatch, argv) if match]
  path, _, argument = (given or [''])[-1].partition(':')
  return path, argument


def unknown_options(argv: list[str]) -> str:
  """What is wrong with the first `--config.a.b` of the command line that the config does not have; '' if nothing is."""
  path, argument = config_file(argv)
  if not path:
    return ''
  config = runpy.run_path(path)['get_config'](*[argument] if argument else [])
  for arg in argv:
    match = re.match(r'--?(?:no)?config\.([\w.]+)', arg)
    if match:
      section = config
      for part in match[1].split('.'):
        if not isinstance(section, ConfigDict) or part not in section:
          near = ', '.join(f'--config.{name}' for name in nearest(match[1], config))
          return f'there is no option --config.{match[1]}; ' + (f'nearest: {near}' if near else f'all stand in {path}')
        section = section[part]
  return ''


def parse(argv: list[str]) -> list[str]:
  """absl's flags, with errors of one line."""
  path, _ = config_file(argv)
  if path and not pathlib.Path(path).is_file():
    die(f'there is no config file {path}', status=MISUSED)
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    die(f'{error}; --help lists the flags', status=MISUSED)
  except (AttributeError, KeyError, TypeError, OSError) as error:
    die(unknown_options(argv) or str(error), status=MISUSED)
  if rest[1:]:
    die(f'unexpected argument {rest[1]!r}; put a value of several words in quotes', status=MISUSED)
  return rest


def is_explained(error: BaseException) -> bool:
  """Whether the message alone serves the user."""
  if isinstance(error, OSError):
    return True
  frames = traceback.extract_tb(error.__traceback__)
  last = pathlib.Path(frames[-1].filename) if frames else pathlib.Path()
  if isinstance(error, ValueError | FloatingPointError):
    return last.is_relative_to(PACKAGE)
  return isinstance(error, AttributeError | KeyError) and 'ml_collections' in last.parts


def keep_freed_memory():
  """Lets glibc keep the large arrays that a step frees for the next one. By default it maps them anew each time, and the
  kernel clears their pages: a fifth of a training step on a CPU. Nothing happens without glibc, or with GLIBC_TUNABLES set."""
  if platform.libc_ver()[0] != 'glibc' or 'GLIBC_TUNABLES' in os.environ:
    return
  mallopt = ctypes.CDLL(None).mallopt
  arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2          # of malloc.h
  for option, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, 2 ** 31 - 1), (top_pad, 2 ** 28)):
    mallopt(option, value)


def run(main: Callable[[], int | None]):
  """Reads the flags, calls main, and leaves with its status."""
  keep_freed_memory()

  def guarded(_):
    logging.set_verbosity(logging.WARNING)       # orbax tells much about each save
    try:
      return main()
    except KeyboardInterrupt:
      die('interrupted', status=130)
    except Exception as error:
      if not is_explained(error):
        raise
      die(str(error))
  app.run(guarded, flags_parser=parse)
