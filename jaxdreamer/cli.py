"""What the commands share: a config on the command line, errors of one line, and a compile cache
that outlives the process.

    config = cli.config_flag()
    cli.run(main)          # main() -> exit status, called once the flags are read

An error that says what the user can do is one line and no traceback: OSError, and ValueError or
FloatingPointError raised by this package itself. All others are bugs and keep their traceback.
"""
import ctypes
import difflib
import importlib.util
import os
import pathlib
import platform
import re
import runpy
import sys
import traceback
from typing import Callable, NoReturn

import jax
import platformdirs
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxdreamer import options
from jaxdreamer.checkpoints import flatten, is_full

PACKAGE = pathlib.Path(__file__).parent
SHIPPED = PACKAGE / 'configs'
FAILED, MISUSED, STOPPED = 1, 2, 75  # exit statuses; 75 asks to be started again (EX_TEMPFAIL)


def config_flag() -> flags.FlagHolder:
  """Defines --config, with an option for each of the config's values."""
  return config_flags.DEFINE_config_file(
      'config', None, 'A config file: configs/toybox.py. Options follow it: --config.prompt="a red '
      'cube".', lock_config=True)


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


def compile_cache() -> str:
  """Keeps every compiled program on disk, under JAX_COMPILATION_CACHE_DIR, or jaxdreamer/ in
  XDG_CACHE_HOME or where this system's caches are."""
  home = platformdirs.user_cache_path('jaxdreamer')
  folder = jax.config.jax_compilation_cache_dir or str(home / f'compiled-{jax.__version__}')
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
  return folder


def die(message: str, *, status: int = FAILED) -> NoReturn:
  """Says `message` in one line on stderr and ends the process with `status`."""
  print(f'jaxdreamer: {" ".join(message.split())}', file=sys.stderr)
  raise SystemExit(status)


def config_file(argv: list[str]) -> tuple[str, str]:
  """The path and the argument of `--config=path:argument`; '' where they are not given."""
  given = [match[1] for match in map(re.compile(r'--?config=(.*)').fullmatch, argv) if match]
  path, _, argument = (given or [''])[-1].partition(':')
  return path, argument


def shipped() -> list[str]:
  """The configs of the package, as --config takes them: configs/toybox.py."""
  return [f'configs/{path.name}' for path in sorted(SHIPPED.glob('[a-z]*.py'))]


def found(path: str) -> pathlib.Path:
  """The config file of this path: the one that lies there, else the shipped one of the name
  configs/NAME.py."""
  here = options.place(path)
  if here.is_file():
    return here
  if here.as_posix().removeprefix('./').removeprefix('jaxdreamer/') in shipped():
    return SHIPPED / here.name
  near = difflib.get_close_matches(f'configs/{here.name}', shipped(), cutoff=.8)
  return die(f'there is no config file {path}; {"nearest" if near else "shipped"}: '
             f'{", ".join(near or shipped())}', status=MISUSED)


def load(path: str, argument: str) -> ConfigDict:
  """What the config file makes of its argument. It may import its neighbors, and `configs` wherever
  it lies."""
  file = found(path)
  if file.resolve().parent != SHIPPED.resolve() and str(file.parent) not in sys.path:
    sys.path.append(str(file.parent))
  if 'configs' not in sys.modules and importlib.util.find_spec('configs') is None:
    sys.modules['configs'] = importlib.import_module('jaxdreamer.configs')
  try:
    config = runpy.run_path(str(file))['get_config'](*[argument] if argument else [])
  except Exception as error:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename
             == str(file)]
    where = f'{path} line {lines[-1]}' if lines else path
    given = f', given {argument!r}' if argument else ''
    die(f'config file {where}{given}: {type(error).__name__}: {error}', status=MISUSED)
  if not isinstance(config, ConfigDict):
    die(f'config file {path}: get_config() returns a {type(config).__name__}; it takes a '
        'ConfigDict, as that of configs/base.py',
        status=MISUSED)
  return config


def arranged(argv: list[str]) -> list[str]:
  """The same with `--config FILE` as one word, and it before the options that change it, which may
  have been given first."""
  words, rest = [], list(argv[1:])
  while rest:
    word = rest.pop(0)
    words.append(f'{word}={rest.pop(0)}' if word in ('--config', '-config') and rest else word)
  first = [word for word in words if re.match(r'--?config=', word)]
  return [*argv[:1], *first, *(word for word in words if word not in first)]


def unknown_options(argv: list[str]) -> str:
  """What is wrong with the first `--config.a.b` of the command line that the config does not have;
  '' if nothing is."""
  path, argument = config_file(argv)
  if not path:
    return ''
  config = load(path, argument)
  for arg in argv:
    match = re.match(r'--?(?:no)?config\.([\w.]+)', arg)
    if match:
      section = config
      for part in match[1].split('.'):
        if not isinstance(section, ConfigDict) or part not in section:
          near = ', '.join(f'--config.{name}'
                           for name in options.nearest(match[1], list(flatten(config.to_dict()))))
          return f'there is no option --config.{match[1]}; ' + (f'nearest: {near}' if near
                                                                else f'all stand in {path}')
        section = section[part]
      if isinstance(section, ConfigDict):
        inner = ', '.join(f'--config.{match[1]}.{name}' for name in flatten(section.to_dict()))
        return f'--config.{match[1]} is a section, and takes no value itself; give {inner}'
  return ''


def unknown_flag(name: str, argv: list[str]) -> str:
  """What to give in place of a flag that there is not."""
  path, argument = config_file(argv)
  names = [flag.name for flag in own_flags()]
  if 'config' in flags.FLAGS:
    if name.startswith('config.') and not path:
      return (f'--{name} changes a config, and none is given: put --config=configs/toybox.py '
              'before it')
    names += [f'config.{option}' for option in flatten(load(path or 'configs/toybox.py',
                                                            argument).to_dict())]
  near = ', '.join(f'--{other}' for other in options.nearest(name, names))
  return f'there is no --{name}; ' + (f'nearest: {near}' if near else '--help lists what there is')


def bad_value(error: flags.Error, argv: list[str]) -> str:
  """An error of a value that an option cannot be read from, with what the option takes."""
  match = re.match(r'flag --config\.([\w.]+)=(.*?): ', str(error), re.DOTALL)
  if not match:
    return f'{error}; --help lists the flags'
  default = flatten(load(*config_file(argv)).to_dict()).get(match[1])
  rule = options.rule_of(match[1], default)
  return f'--config.{match[1]}={match[2]}: takes {rule.takes}' if rule else str(error)


def own_flags() -> list[flags.Flag]:
  """Those of the command that runs, --config first."""
  config = [flags.FLAGS['config']] if 'config' in flags.FLAGS else []
  return config + [flag for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])
                   if flag not in config]


def help_text(argv: list[str]) -> str:
  """What the command does, how it is configured, its flags, and the options of the config given."""
  main = sys.modules['__main__']
  command = f'python -m {main.__spec__.name if main.__spec__ else pathlib.Path(argv[0]).stem}'
  rows = [(main.__doc__ or '').strip(), '', 'Flags:']
  rows += [f'  --{flag.name}  {flag.help}' + ('' if flag.default in (None, '')
                                              else f' Default: {flag.default_as_str}')
           for flag in own_flags()]
  if 'config' in flags.FLAGS:
    path, argument = config_file(argv)
    config = load(path or 'configs/toybox.py', argument)
    rows += ['', 'A config file holds every option; --config names it, and --config.OPTION=VALUE '
             'changes one of its options:',
             f"  {command} --config=configs/toybox.py --config.prompt='a red cube'",
             f'  {command} --config=configs/asd.py --config.steps=400 '
             '--config.estimator.asd.guidance=5',
             f"  {command} --config=configs/dreamfusion_sd.py --config.prior.path=FOLDER "
             "--config.prompt='a lion fish'",
             f'Those shipped: {", ".join(shipped())}. One of your own begins as they do: from '
             'jaxdreamer.configs import toybox', '',
             f'Options of {path or "configs/toybox.py"}, with their defaults and what they take:']
    rows += [f'  --config.{name}={value!r}'.ljust(60)
             + f'  {rule.takes if (rule := options.rule_of(name, value)) else ""}'.rstrip()
             for name, value in flatten(config.to_dict()).items()]
  return '\n'.join(rows)


def parse(argv: list[str]) -> list[str]:
  """absl's flags, with errors of one line."""
  for arg in argv[1:]:
    if not options.is_text(arg):
      die(f'{arg!r} is no UTF-8: give it in UTF-8', status=MISUSED)
  if {'--help', '-help', '-h', '--helpfull', '--helpshort'} & set(argv[1:]):
    print(help_text(argv))
    raise SystemExit(0)
  path, argument = config_file(argv)
  if path and 'config' in flags.FLAGS:
    load(path, argument)
    if wrong := unknown_options(argv):
      die(wrong, status=MISUSED)
    real = f'--config={found(path)}' + (f':{argument}' if argument else '')
    argv = [real if re.match(r'--?config=', arg) else arg for arg in argv]
  try:
    rest = flags.FLAGS(argv)
    if 'config' in flags.FLAGS and flags.FLAGS.config is not None:
      options.check(flags.FLAGS.config)
  except flags.UnrecognizedFlagError as error:
    die(unknown_flag(error.flagname, argv), status=MISUSED)
  except flags.Error as error:
    die(bad_value(error, argv), status=MISUSED)
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
    where = told.get('out') or told.get('workdir') or pathlib.Path.cwd()
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
  app.run(guarded, flags_parser=parse)
