"""What the commands answer to --help, and to a slip in their flags or options: one line, with the
nearest that there is."""
import pathlib
import re
import sys
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from jaxdreamer import config_files, names, options, registry, sections
from jaxdreamer.configs import base
from jaxdreamer.option_rules import rule_of
from jaxdreamer.workdirs import flatten

DEFAULT = 'configs/toybox.py'          # whose options stand in --help where no config is given
EXAMPLES = ("--config=configs/toybox.py --config.prompt='a red cube'",
            '--config=configs/asd.py --config.steps=400 --config.estimator.asd.guidance=5',
            "--config=configs/dreamfusion_sd.py --config.prior.path=FOLDER "
            "--config.prompt='a lion fish'")


def unknown_options(argv: list[str]) -> str:
  """What is wrong with the first `--config.a.b` of the command line that the config does not have;
  '' if nothing is."""
  config, (path, _) = config_files.of_command(argv), config_files.given(argv)
  if config is None:
    return ''
  for arg in argv:
    match = re.match(r'--?(?:no)?config\.([\w.]+)', arg)
    if match and (wrong := wrong_option(match[1], config, path)):
      return wrong
  return ''


def wrong_option(name: str, config: ConfigDict, path: str) -> str:
  """What to answer to `--config.name` where the config of the file `path` has none; '' where it
  does."""
  if renamed := names.renamed(name):
    return renamed
  section = config
  for part in name.split('.'):
    if not isinstance(section, ConfigDict) or part not in section:
      near = ', '.join(f'--config.{other}'
                       for other in names.nearest(name, list(flatten(config.to_dict()))))
      return f'there is no option --config.{name}; ' + (f'nearest: {near}' if near
                                                        else f'all stand in {path}')
    section = section[part]
  if not isinstance(section, ConfigDict):
    return ''
  inner = ', '.join(f'--config.{name}.{other}' for other in flatten(section.to_dict()))
  return f'--config.{name} is a section, and takes no value itself; give {inner}'


def unknown_flag(name: str, argv: list[str]) -> str:
  """What to give in place of a flag that there is not."""
  known = [flag.name for flag in own_flags()]
  if 'config' in flags.FLAGS:
    if name.startswith('config.') and not config_files.given(argv)[0]:
      return (f'--{name} changes a config, and none is given: put --config={DEFAULT} before it')
    config = config_files.of_command(argv, default=DEFAULT)
    known += [f'config.{option}' for option in flatten(config.to_dict())]
  near = ', '.join(f'--{other}' for other in names.nearest(name, known))
  return f'there is no --{name}; ' + (f'nearest: {near}' if near else '--help lists what there is')


def bad_value(error: flags.Error, argv: list[str]) -> str:
  """An error of a value that an option cannot be read from, with what the option takes."""
  match = re.match(r'flag --config\.([\w.]+)=(.*?): ', str(error), re.DOTALL)
  if not match:
    return f'{error}; --help lists the flags'
  default = flatten(config_files.of_command(argv).to_dict()).get(match[1])
  rule = rule_of(match[1], default)
  return f'--config.{match[1]}={match[2]}: takes {rule.takes}' if rule else str(error)


def own_flags() -> list[flags.Flag]:
  """Those of the command that runs, --config first."""
  config = [flags.FLAGS['config']] if 'config' in flags.FLAGS else []
  return config + [flag for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])
                   if flag not in config]


def notes(config: ConfigDict) -> dict[str, str]:
  """{option: what the docstring of its function says of it}."""
  weighed = {f'regularizers.{name}': ' '.join(function.__doc__.split())
             for name, function in registry.REGULARIZERS.items()}
  return weighed | {f'{place}.{name}': said
                    for place, function in (base.FUNCTIONS | options.own_functions(config)).items()
                    for name, said in sections.notes(function).items()}


def option_rows(config: ConfigDict) -> list[str]:
  """A line for each option: its default, what it takes, and what it is."""
  said, rows = notes(config), []
  for name, value in flatten(config.to_dict()).items():
    rule: Any = rule_of(name, value)
    about = '; '.join(part for part in (rule.takes if rule else '', said.get(name, '')) if part)
    rows.append(f'  --config.{name}={value!r}'.ljust(60) + f'  {about}'.rstrip())
  return rows


def help_text(argv: list[str]) -> str:
  """What the command does, how it is configured, its flags, and the options of the config given."""
  main = sys.modules['__main__']
  command = f'python -m {main.__spec__.name if main.__spec__ else pathlib.Path(argv[0]).stem}'
  rows = [(main.__doc__ or '').strip(), '', 'Flags:']
  rows += [f'  --{flag.name}  {flag.help}' + ('' if flag.default in (None, '')
                                              else f' Default: {flag.default_as_str}')
           for flag in own_flags()]
  if 'config' in flags.FLAGS:
    config = config_files.of_command(argv, default=DEFAULT)
    rows += ['', 'A config file holds every option; --config names it, and --config.OPTION=VALUE '
             'changes one of its options:', *(f'  {command} {example}' for example in EXAMPLES),
             f'Those shipped: {", ".join(config_files.shipped())}. One of your own begins as they '
             'do: from jaxdreamer.configs import toybox', '',
             f'Options of {config_files.given(argv)[0] or DEFAULT}, with their defaults, what they '
             'take and what they are:', *option_rows(config)]
  return '\n'.join(rows)
