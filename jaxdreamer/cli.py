"""What the commands share: a config on the command line, errors of one line, and a compile cache
that outlives the process.

    config = cli.config_flag()
    cli.run(main)          # main() -> exit status, called once the flags are read

An error that says what the user can do is one line and no traceback: OSError, and ValueError or
FloatingPointError raised by this package itself. All others are bugs and keep their traceback.
"""
import ctypes
import os
import pathlib
import platform
import re
import sys
import traceback
import warnings
from typing import Callable, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxdreamer import cli_help, config_files, option_rules, options, rules
from jaxdreamer.workdirs import is_full

PACKAGE = pathlib.Path(__file__).parent
FAILED, MISUSED, STOPPED = 1, 2, 75  # exit statuses; 75 asks to be started again (EX_TEMPFAIL)


def config_flag() -> flags.FlagHolder:
  """The flag --config, and with it --config.OPTION for each option of the file it names."""
  config = config_flags.DEFINE_config_file(
      'config', None, 'A config file: configs/toybox.py. Options follow it: --config.prompt="a red '
      'cube".', flag_values=flags.FLAGS)
  flags.FLAGS['config'].parser = ConfigFile()
  return config


def moved_flags():
  """Flags of the commands that read a run whose prior lies elsewhere by now."""
  flags.DEFINE_string('prior', '', "Where the prior's weights are now, if not where the run was "
                      "trained with them.")
  flags.DEFINE_string('tokenizer', '', "Folder of the prior's tokenizer, likewise.")
  flags.DEFINE_string('tokenizer_2', '', 'And of its second one.')


def moved() -> dict:
  """What they say, for runs.restore."""
  prior, *tokenizers = (value and os.fspath(options.place(value))
                        for value in (flags.FLAGS.prior, flags.FLAGS.tokenizer,
                                      flags.FLAGS.tokenizer_2))
  return {'prior': prior, 'tokenizers': tuple(tokenizers)}


def asset_flags(*, faces: int, texture: int):
  """Flags of the commands that write meshes."""
  flags.DEFINE_integer('faces', faces, 'Faces that the mesh in GLB and OBJ is simplified to; 0: '
                       'all there are.')
  flags.DEFINE_integer('texture', texture, 'Pixels of a side of its texture; 0: colors on its '
                       'vertices.')


def asset() -> dict[str, int]:
  """What they say, for outputs.mesh.write."""
  values = {'faces': flags.FLAGS.faces, 'texture': flags.FLAGS.texture}
  for name, value in values.items():
    rule = option_rules.RULES[f'eval.{name}']
    if not rule.fits(value):
      die(f'--{name}={value}: takes {rule.takes}', status=MISUSED)
  return values


def compile_cache() -> str:
  """Keeps every compiled program on disk, under JAX_COMPILATION_CACHE_DIR, or jaxdreamer/ in
  XDG_CACHE_HOME or where this system's caches are."""
  import platformdirs
  home = platformdirs.user_cache_path('jaxdreamer')
  folder = jax.config.jax_compilation_cache_dir or str(home / f'compiled-{jax.__version__}')
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
  return folder


def die(message: str, *, status: int = FAILED) -> NoReturn:
  """Leaves with one line on stderr."""
  print(f'jaxdreamer: {" ".join(message.split())}', file=sys.stderr)
  raise SystemExit(status)


def arranged(argv: list[str]) -> list[str]:
  """The same with `--config FILE` as one word, and it before the options that change it, which may
  have been given first."""
  words, rest = [], list(argv[1:])
  while rest:
    word = rest.pop(0)
    words.append(f'{word}={rest.pop(0)}' if word in ('--config', '-config') and rest else word)
  first = [word for word in words if re.match(r'--?config=', word)]
  return [*argv[:1], *first, *(word for word in words if word not in first)]


class ConfigFile(flags.ArgumentParser):
  """What --config is made of: the config file, with sections for functions of the user's own."""

  def parse(self, path: str) -> ConfigDict:
    return config_files.of_command([*sys.argv, f'--config={path}']).lock()


def parse(argv: list[str]) -> list[str]:
  """absl's flags, with errors of one line."""
  for arg in argv[1:]:
    if not rules.is_text(arg):
      die(f'{arg!r} is no UTF-8: give it in UTF-8', status=MISUSED)
  try:
    if {'--help', '-help', '-h', '--helpfull', '--helpshort'} & set(argv[1:]):
      print(cli_help.help_text(argv))
      raise SystemExit(0)
    if 'config' in flags.FLAGS and (wrong := cli_help.unknown_options(argv)):
      die(wrong, status=MISUSED)
    rest = flags.FLAGS(argv)
    if 'config' in flags.FLAGS and flags.FLAGS.config is not None:
      options.check(flags.FLAGS.config)
  except flags.UnrecognizedFlagError as error:
    die(cli_help.unknown_flag(error.flagname, argv), status=MISUSED)
  except flags.Error as error:
    die(cli_help.bad_value(error, argv), status=MISUSED)
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    die(str(error), status=MISUSED)
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


def explanation(error: BaseException) -> str:
  """What the user can do about the error, '' where it is a bug. A full disk and memory that is not
  there come in many forms."""
  told = flags.FLAGS.flag_values_dict()
  if is_full(error) and getattr(error, 'filename', None) is None and (isinstance(error, OSError)
                                                                      or not is_explained(error)):
    where = told.get('out') or told.get('to') or told.get('workdir') or pathlib.Path.cwd()
    return f'{where}: its disk is full, or a quota or limit reached; make room, or write elsewhere'
  if is_explained(error):
    return str(error)
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
    config = told.get('config')
    said = str(error).strip().splitlines() or ['refused by the system']
    return (f'out of memory ({said[0][:160]}); '
            + (options.ways_to_fit(config) if config else 'give a smaller --resolution or '
               '--height, or a machine with more'))
  return ''


def hook(kind: type, error: BaseException, trace):
  """sys.excepthook, deaf to what tensorstore prints when a failed save has closed its event loop:
  the failure itself is told."""
  if kind is not RuntimeError or str(error) != 'Event loop is closed':
    sys.__excepthook__(kind, error, trace)


def keep_freed_memory():
  """Lets glibc keep the large arrays that a step frees for the next one. By default it maps them
  anew each time, and the kernel clears their pages: a fifth of a training step on a CPU. Nothing
  happens without glibc, or with GLIBC_TUNABLES set."""
  if platform.libc_ver()[0] != 'glibc' or 'GLIBC_TUNABLES' in os.environ:
    return
  mallopt = ctypes.CDLL(None).mallopt
  arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2          # of malloc.h
  for option, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, 2 ** 31 - 1),
                        (top_pad, 2 ** 28)):
    mallopt(option, value)


def warning_line(message: Warning, *_, **__) -> str:
  """warnings.formatwarning, in one line that shows no source."""
  return f'warning: {" ".join(str(message).split())}\n'


def run(main: Callable[[], int | None]):
  """Reads the flags, calls main, and leaves with its status."""
  keep_freed_memory()

  def guarded(_):
    # orbax tells much about each save, and of an error in one what it raises too
    logging.set_verbosity(logging.FATAL)
    try:
      return main()
    except KeyboardInterrupt:
      die('interrupted', status=130)
    except Exception as error:
      if not (said := explanation(error)):
        raise
      die(said)
  sys.argv, sys.excepthook = arranged(sys.argv), hook
  warnings.formatwarning = warning_line
  app.run(guarded, flags_parser=parse)
