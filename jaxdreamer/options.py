"""What can be wrong with the options of a config, said before anything is built.

`check` answers the first option that is wrong in one line, by the rules of rules.py; `outliving`
tells of schedules that a run is too short for, `ways_to_fit` of what takes less memory. `restored`
reads the options of a saved run, `with_own` gives a function of the user's own its section, and
`expanded` is the config with the `~` of its paths made a folder.
"""
import math
import os
import pathlib
from typing import Any, Callable, Collection

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdreamer import sections, workdirs
from jaxdreamer.configs import base
from jaxdreamer.names import CHOICES, check_own, own, renamed, unknown
from jaxdreamer.option_rules import rule_of
from jaxdreamer.rules import ramp, value_at
from jaxdreamer.sampling import RING
from jaxdreamer.workdirs import flatten

MOST_PER_CALL = 10  # steps in one program: beyond, the rest of a run costs nothing to speak of
# last parts of options that are paths
PATHS = ('path', 'store', 'tokenizer', 'tokenizer_2', 'lora', 'depth', 'normals', 'start')


def own_functions(config: ConfigDict) -> dict[str, Callable]:
  """{'estimator.mine': function} for each 'module:mine' of the user's own that the config names."""
  found = {}
  for section in CHOICES:
    name = config[section].name
    if ':' in name:
      found[f'{section}.{name.partition(":")[2]}'] = sections.own_function(
        name, option=f'config.{section}.name')
  return found


def with_own(config: ConfigDict) -> ConfigDict:
  """The config with a section for each of own_functions: its defaults, and over them what the
  config gives."""
  for place, function in own_functions(config).items():
    section, name = place.split('.')
    given = config[section].get(name, {})
    with config.unlocked():
      config[section][name] = ConfigDict(sections.defaults(function) | dict(given))
  return config


def check(config: ConfigDict) -> None:
  """ValueError, one line, for the first option whose name is old, or whose kind, number of values
  or range is not what it takes."""
  options, known = config.to_dict(), flatten(base.OPTIONS)
  for name, value in flatten(options).items():
    section = name.split('.')[0]
    if answer := renamed(name, value=value):
      raise ValueError(answer)
    if own(name, base.OPTIONS):
      check_own(name, options[section]['name'])
      continue
    if name not in known and section in CHOICES:
      raise ValueError(unknown(name, list(known)))
    rule = rule_of(name, known.get(name))
    if rule and not rule.fits(value):
      raise ValueError(f'config.{name}={shown(value)}: takes {rule.takes}')
  check_times(options)


def saved(workdir: pathlib.Path) -> dict:
  """The options of the run in `workdir`. ValueError, one line, for one of an old name."""
  return of_json(workdirs.read_options(workdir), place=workdir, within='config.json')


def of_json(options: dict, *, place: pathlib.Path, within: str) -> dict:
  """Options as config files hold them, of those that JSON gives back. ValueError, one line, for one
  of an old name, says `within` what of `place` it stands."""
  options = workdirs.tuples(options)
  for name, value in flatten(options).items():
    if answer := renamed(name, value=value):
      raise ValueError(f'{place}: {answer}; change it in its {within}')
  return options


def restored(workdir: pathlib.Path) -> ConfigDict:
  """The config of the run in `workdir`, as `updated` makes it."""
  return updated(workdirs.read_options(workdir), place=workdir, within='config.json')


def updated(options: dict, *, place: pathlib.Path, within: str) -> ConfigDict:
  """Today's defaults, and over them the `options` that JSON gives back. ValueError as `of_json`'s,
  also for one that is no more."""
  config, known = base.get_config(), flatten(base.OPTIONS)
  options = of_json(options, place=place, within=within)
  for name in flatten(options):
    if name not in known and not own(name, base.OPTIONS):
      raise ValueError(f'{place}: {unknown(name, list(known))}; take it out of its {within}, or '
                       'use the jaxdreamer that wrote it')
  config.update(options)
  return config


def shown(value: Any) -> str:
  """A value for a message of one line."""
  return repr(value) if len(repr(value)) < 100 else repr(value)[:97] + '...'


def check_times(options: dict) -> None:
  """t's range must not be empty or upside down at any step."""
  sampling = options.get('sampling', {})
  if not {'t_min', 't_max'} <= set(sampling):
    return
  low, high = sampling['t_min'], sampling['t_max']
  ends = {end for _, _, start, steps in map(ramp, (low, high)) for end in (start, start + steps)}
  for step in sorted({0, *ends}):                                          # linear in between
    if value_at(low, step) > value_at(high, step):
      raise ValueError(f'config.sampling.t_min={low}: takes no more than '
                       f'config.sampling.t_max={high}, and is '
                       f'{value_at(low, step):.3g} over {value_at(high, step):.3g} at step {step}')


def schedules(options: dict) -> dict[str, Any]:
  """{option: schedule} of those that are in use."""
  found = {}
  for name, value in flatten(options).items():
    section, *rest = name.split('.')
    if section in CHOICES and len(rest) > 1 and rest[0] != options[section]['name']:
      continue
    if name == 'optim.groups':
      found |= {f'{name} {group[0]!r}': group[1] for group in value}
    elif (rule := rule_of(name, value)) and rule.takes.startswith('a schedule'):
      found[name] = value
  return found


def outliving(config: ConfigDict) -> str:
  """One line about the schedules, and stages of the render, that do not come to their end in
  config.steps; '' if all do."""
  options, steps = config.to_dict(), config.steps
  late = {name: ramp(value) for name, value in schedules(options).items()}
  said = [f'config.{name} goes from {v0:g} to {v1:g} at steps {start} to {start + length} and '
          'is left at '
          f'{value_at((v0, v1, start, length), steps):.3g}'
          for name, (v0, v1, start, length) in late.items() if start + length > steps and v0 != v1]
  ends = [start + length for v0, v1, start, length in late.values() if v0 != v1]
  stages = options.get('render', {}).get('stages', ())
  said += [f'config.render.stages begins {size} pixels at step {first}' for first, size in stages
           if first >= steps]
  ends += [first + 1 for first, _ in stages]
  if not said:
    return ''
  return (f'config.steps={steps} is too short for what is to happen by step {max(ends)}: '
          f'{"; ".join(said)}')


def per_call(config: ConfigDict, *, platform: str, saved: Collection[int] = ()) -> int:
  """Steps of one compiled call: config.steps_per_call, or where that is 0 what suits the platform.
  A CPU takes 1, see parallel.scan_steps, and so do runs whose texts change at every step; others
  the most, up to MOST_PER_CALL, of which whole calls lead to each step at which a run that has
  checkpoints at the steps `saved` starts, changes, logs, saves, shows or ends."""
  if config.steps_per_call:
    return config.steps_per_call
  if platform == 'cpu' or config.corpus.path or config.scene.name == 'restoration':
    return 1
  exact = math.gcd(config.steps, config.log_every, config.preview_every, config.checkpoint_every,
                   *(first for first, _ in config.render.stages), *saved)
  return max(n for n in range(1, MOST_PER_CALL + 1) if exact % n == 0)


def ring(section: ConfigDict) -> int:
  """Views that config.sampling.design keeps on one device."""
  return RING if section.design == 'rings' else 1


def may_collapse(config: ConfigDict) -> bool:
  """Whether opacity tells of a scene that it has become empty, or too full: not of one that is
  stood in, nor of pictures."""
  return config.scene.name not in ('image', 'restoration') and not config.eval.get('inside')


def idle(config: ConfigDict, mesh: Mesh) -> str:
  """One line about devices that config.sampling.views leave idle; '' where none are, or
  config.mesh.data asked for so many."""
  n, views = len(jax.devices()), config.sampling.views
  if config.mesh.data or mesh.devices.size == n:
    return ''
  all_busy = n * ring(config.sampling)
  return (f'{mesh.devices.size} of {n} devices are used: config.sampling.views={views} are no '
          f'multiple of {all_busy}; '
          f'config.sampling.views={-(-views // all_busy) * all_busy} would use all of them')


def ways_to_fit(config: ConfigDict) -> str:
  """What makes a step take less memory, the cheapest first."""
  r, s = config.render, config.sampling
  ways = [] if r.chunk and r.remat else ['config.render.chunk=1024 with config.render.remat=True, '
                                         'which is only slower']
  if s.views > ring(s):
    ways.append(f'config.sampling.views below {s.views}, with config.optim.accumulate for the '
                'same mean')
  if s.draws > 1:
    ways.append(f'config.sampling.draws below {s.draws}')
  ways += [f'config.render.samples below {r.samples}',
           f'a smaller config.scene.{config.scene.name}', 'more devices']
  return f'cheapest first: {"; ".join(ways)}'


def picture_bytes(config: ConfigDict) -> int:
  """The least that a picture of config.eval takes: density and color of the samples of all rays
  that are rendered at once."""
  e = config.eval
  rays = e.get('size', 0) ** 2
  return (16 * min(rays, e.get('chunk', 0) or rays) * (e.get('samples', 0) + e.get('fine', 0))
          + 44 * rays)


def place(path: str | os.PathLike) -> pathlib.Path:
  """A path as the user gave it, `~` made the home folder it stands for."""
  return pathlib.Path(os.path.expanduser(path))


def expanded(config: ConfigDict) -> ConfigDict:
  """A copy whose options that are paths have no `~`."""
  config = config.copy_and_resolve_references()
  for name, value in flatten(config.to_dict()).items():
    if name.split('.')[-1] in PATHS and isinstance(value, str) and value.startswith('~'):
      config.update_from_flattened_dict({name: os.fspath(place(value))})
  return config
