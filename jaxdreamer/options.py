"""What each option takes: its kind and how many values by its default in configs/base.py, its range
by the table RULES here.

`check` answers the first option that is wrong in one line, before anything is built; `outliving`
tells of schedules that a run is too short for, `ways_to_fit` of what takes less memory; `expanded`
is the config with the `~` of its paths made a folder. Options of functions of one's own pass as
they are.
"""
import difflib
import math
import os
import pathlib
import re
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdreamer import seeds
from jaxdreamer.checkpoints import flatten
from jaxdreamer.configs import base
from jaxdreamer.control_variates.stein import FORMS
from jaxdreamer.sampling import RING, WEIGHTS
from jaxdreamer.types import Prior

# sections with a name, and the options of each function it may name
CHOICES = ('scene', 'prior', 'estimator')
# last parts of options that are paths
PATHS = ('path', 'store', 'tokenizer', 'tokenizer_2', 'lora', 'depth', 'normals')
Number = float | int
DTYPES = ('bfloat16', 'float16', 'float32')


class Rule(NamedTuple):
  takes: str                   # ends the message
  fits: Callable[[Any], bool]


def is_number(v) -> bool:
  return isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v)


def is_whole(v) -> bool:
  return isinstance(v, Integral) and not isinstance(v, bool)


def bounds(low: float, high: float) -> str:
  """', from 0 to 1', ', 0 or more' or nothing."""
  return (f', from {low:g} to {high:g}' if high < math.inf else f', {low:g} or more'
          if low > -math.inf else '')


def whole(low: int, *, high: Number = math.inf) -> Rule:
  span = f', from {low} to {high}' if high < math.inf else f', {low} or more'
  return Rule(f'a whole number{span}', lambda v: is_whole(v) and low <= v <= high)


def number(low: float, *, high: float = math.inf) -> Rule:
  return Rule(f'a number{bounds(low, high)}', lambda v: is_number(v) and low <= v <= high)


def above(low: float) -> Rule:
  return Rule(f'a number above {low:g}', lambda v: is_number(v) and v > low)


def below(high: float) -> Rule:
  return Rule(f'a number, 0 or more and below {high:g}', lambda v: is_number(v) and 0. <= v < high)


def span(low: float, *, high: float = math.inf, open_at: tuple[float, ...] = ()) -> Rule:
  """A range (first, last); `open_at` are ends that the range itself leaves out."""
  def fits(v):
    return (is_row(v) and len(v) == 2 and all(map(is_number, v)) and low <= v[0] <= v[1] <= high
            and not any(end in open_at for end in v))
  left_out = f' and not {" or ".join(f"{end:g}" for end in open_at)}' if open_at else ''
  return Rule(f'two numbers, LOW,HIGH{bounds(low, high)}{left_out}', fits)


def is_row(v) -> bool:
  return isinstance(v, tuple | list)


def is_schedule(v, low: float, high: float) -> bool:
  v = v if is_row(v) else (v,)
  return (len(v) in (1, 3, 4) and all(map(is_number, v)) and all(low <= end <= high
                                                                 for end in v[:2])
          and all(n >= 0 and n == int(n) for n in v[2:]) and (len(v) == 1 or v[-1] >= 1))


def schedule(low: float, *, high: float = math.inf) -> Rule:
  return Rule(f'a schedule, V or V0,V1,STEPS or V0,V1,START,STEPS{bounds(low, high)}',
              lambda v: is_schedule(v, low, high))


def numbers(low: float, *, count: int) -> Rule:
  return Rule(f'{count} numbers, each {low:g} or more',
              lambda v: is_row(v) and len(v) == count and all(is_number(n) and n >= low for n in v))


def wholes(low: int, *, least: int = 1) -> Rule:
  return Rule(f'{least} or more whole numbers, each {low} or more',
              lambda v: is_row(v) and len(v) >= least and all(is_whole(n) and n >= low for n in v))


def one_of(*names: str) -> Rule:
  return Rule(f'one of {sorted(names)}', lambda v: v in names)


def some_of(*names: str) -> Rule:
  return Rule(f'any of {sorted(names)}, each once, or ()',
              lambda v: is_row(v) and all(v.count(name) == 1 and name in names for name in v))


def is_group(v) -> bool:
  if not (is_row(v) and len(v) in (2, 3) and isinstance(v[0], str)
          and isinstance(v[-1] if v[2:] else '', str)):
    return False
  try:
    re.compile(v[0])
  except re.error:
    return False
  return is_schedule(v[1], 0., math.inf)


def is_stage(v) -> bool:
  return is_row(v) and len(v) == 2 and all(map(is_whole, v)) and v[0] >= 0 and v[1] >= 1


GROUPS = Rule("groups ('REGEX', RATE) or ('REGEX', RATE, 'sgd'), each RATE a schedule of numbers, "
              "0 or more: (('scene/.*', .01), "
              "('est/.*', .001))", lambda v: is_row(v) and bool(v) and all(map(is_group, v)))
STAGES = Rule('(FIRST STEP, PIXELS) a stage: ((0, 64), (5000, 512)), or ()', lambda v: is_row(v)
              and all(map(is_stage, v)))
DENSITY = Rule('positive numbers, one a bin of t', lambda v: is_row(v) and bool(v)
               and all(is_number(n) and n > 0 for n in v))
NAMES = Rule('one or more names', lambda v: is_row(v) and bool(v)
             and all(isinstance(name, str) for name in v))
TEXT = Rule('a text, in UTF-8', lambda v: isinstance(v, str) and is_text(v))
KINDS = {
  bool: Rule('True or False', lambda v: isinstance(v, bool)),
  int: Rule('a whole number', is_whole),
  float: Rule('a number', is_number),
  str: TEXT,
  tuple: Rule('values in brackets, or separated by commas', is_row),
}
# The first pattern that fits an option's name rules it; what no pattern fits is of its default's
# kind.
RULES = {
  'seed': whole(0, high=seeds.MOST),
  'steps': whole(1), 'steps_per_call': whole(1), 'log_every': whole(1), 'keep': whole(1),
  'preview_every': whole(0), 'checkpoint_every': whole(0), 'max_minutes': number(0.),
  'corpus.prompts': whole(1),
  'scene.particles': whole(1),
  'scene.voxels.levels': wholes(2), 'scene.conv3d.channels': wholes(1),
  'scene.hashgrid.band': schedule(0.),
  'scene.mlp.blur': schedule(0.), 'scene.mlp.octaves': whole(0), 'scene.*.radius': above(0.),
  'scene.*.extent': above(0.),
  'scene.*.strength': number(0.),
  'prior.empirical.images': whole(1), 'prior.empirical.bandwidth': above(0.),
  'prior.*.image_size': whole(1),
  'prior.*.dtype': one_of(*DTYPES),
  'estimator.csd.omega2': schedule(0.), 'estimator.*.guidance': schedule(0.),
  'perp_neg': number(0.), 'sampling.weight': one_of(*WEIGHTS), 'estimator.ssd.phi': NAMES,
  'estimator.ssd.per': some_of('h', 'w', 'c'),
  'estimator.ssd.form': one_of(*FORMS), 'estimator.ssd.bins': whole(1),
  'estimator.ssd.every': whole(1),
  'estimator.ssd.size': whole(1),
  'estimator.vsd.rank': whole(1), 'estimator.vsd.dropped': number(0., high=1.),
  'estimator.asd.eta': number(0., high=1.),
  'sampling.views': whole(1), 'sampling.draws': whole(1), 'sampling.density': DENSITY,
  'sampling.t_m??': schedule(0., high=1.),
  'cameras.azimuth': span(-math.inf), 'cameras.elevation': span(-90., high=90.),
  'cameras.distance': span(0., open_at=(0.,)),
  'cameras.fov': span(0., high=180., open_at=(0., 180.)), 'cameras.angular': number(0., high=1.),
  'cameras.jitter': numbers(0., count=3), 'cameras.front_back': whole(0),
  'cameras.front': number(0., high=180.),
  'cameras.back': number(0., high=180.),
  'render.samples': whole(1), 'render.fine': whole(0), 'render.chunk': whole(0),
  'render.radius': above(0.),
  'render.stages': STAGES, 'render.shaded': schedule(0., high=1.),
  'render.textureless': schedule(0., high=1.),
  'render.random_background': number(0., high=1.), 'render.light.distance': span(0., open_at=(0.,)),
  'render.light.jitter': number(0.), 'render.normals': one_of('exact', 'forward', 'central'),
  'regularizers.*': schedule(0.),
  'optim.groups': GROUPS, 'optim.b?': below(1.), 'optim.eps': number(0.),
  'optim.weight_decay': number(0.),
  'optim.clip': number(0.), 'optim.accumulate': whole(1),
  'mesh.data': whole(0), 'mesh.processes': whole(0), 'mesh.process': whole(-1),
  'mesh.wait': above(0.),
  'eval.size': whole(1), 'eval.samples': whole(1), 'eval.fine': whole(0), 'eval.chunk': whole(0),
  'eval.mesh_resolution': whole(8, high=512), 'eval.radius': number(0.),
}
SIZES = whole(1)                                 # whole numbers of a scene: levels, widths, pixels


def is_text(text: str) -> bool:
  """Whether it can be written: bytes of the command line that are no UTF-8 reach Python as what
  cannot."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def own(name: str, defaults: dict) -> bool:
  """Whether an option belongs to a function of the user's own."""
  section, _, rest = name.partition('.')
  return section in CHOICES and '.' in rest and rest.split('.')[0] not in defaults[section]


def rule_of(name: str, default: Any) -> Rule | None:
  """What the option takes; None for what nothing is known of."""
  for pattern, rule in RULES.items():
    if fnmatchcase(name, pattern):
      return rule
  if name.startswith('scene.') and type(default) is int:
    return SIZES
  return KINDS.get(type(default))


def nearest(name: str, names: list[str]) -> list[str]:
  """Those of the names that look most like `name`, by their last part or as a whole."""
  tail = lambda name: name.split('.')[-1]
  likeness = lambda other: max(difflib.SequenceMatcher(None, tail(other), tail(name)).ratio(),
                               difflib.SequenceMatcher(None, other, name).ratio())
  best = max(map(likeness, names))
  return [other for other in sorted(names, key=likeness, reverse=True)
          if likeness(other) > max(.6, best - .1)][:4]


def check(config: ConfigDict) -> None:
  """ValueError, one line, for the first option whose kind, number of values or range is not what it
  takes. Options that the config lacks, as that of an older run may, are not missed."""
  options, defaults = config.to_dict(), base.get_config().to_dict()
  known = flatten(defaults)
  for name, value in flatten(options).items():
    section, _, rest = name.partition('.')
    if own(name, defaults):
      continue
    if name not in known and section in CHOICES and '.' not in rest:
      near = ', '.join(f'config.{other}' for other in nearest(name, list(known)))
      raise ValueError(f'there is no option config.{name}; nearest: {near}')
    rule = rule_of(name, known.get(name))
    if rule and not rule.fits(value):
      raise ValueError(f'config.{name}={shown(value)}: takes {rule.takes}')
  check_times(options)


def shown(value: Any) -> str:
  return repr(value) if len(repr(value)) < 100 else repr(value)[:97] + '...'


def ramp(value: Any) -> tuple[Number, Number, int, int]:
  """(v0, v1, start, steps) of a schedule; one number is steady."""
  value = tuple(value) if is_row(value) else (value,)
  if len(value) == 1:
    return value[0], value[0], 0, 0
  v0, v1, *start, steps = value
  return v0, v1, int(start[0]) if start else 0, int(steps)


def at(value: Any, step: int) -> Number:
  v0, v1, start, steps = ramp(value)
  return v0 + (v1 - v0) * min(max(step - start, 0) / max(steps, 1), 1.) if steps else v0


def check_times(options: dict) -> None:
  """t's range must not be empty or upside down at any step."""
  sampling = options.get('sampling', {})
  if not {'t_min', 't_max'} <= set(sampling):
    return
  low, high = sampling['t_min'], sampling['t_max']
  ends = {end for _, _, start, steps in map(ramp, (low, high)) for end in (start, start + steps)}
  for step in sorted({0, *ends}):                                          # linear in between
    if at(low, step) > at(high, step):
      raise ValueError(f'config.sampling.t_min={low}: takes no more than '
                       f'config.sampling.t_max={high}, and is '
                       f'{at(low, step):.3g} over {at(high, step):.3g} at step {step}')


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
          f'{at((v0, v1, start, length), steps):.3g}'
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


def ring(section: ConfigDict) -> int:
  """Views that config.sampling.design keeps on one device."""
  return RING if section.design == 'rings' else 1


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
  return 16 * min(rays, e.get('chunk', 0) or rays) * (e.get('samples', 0)
                                                      + e.get('fine', 0)) + 44 * rays


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


def check_views(config, views_per_scene: int) -> None:
  """What a prior that sees `views_per_scene` views of a scene at once asks of their sampling."""
  if views_per_scene == 1:
    return
  s, azimuth, name = config.sampling, config.cameras.azimuth, config.prior.name
  if ring(s) != views_per_scene:
    raise ValueError(f"config.sampling.design={s.design!r}: config.prior.name={name!r} sees "
                     f"{views_per_scene} views of a scene at once, "
                     f"and takes 'rings'")
  if s.draws != 1:
    raise ValueError(f'config.sampling.draws={s.draws}: config.prior.name={name!r} takes 1, for '
                     'the views of a scene share it')
  for option, still in (('jitter', (0., 0., 0.)), ('front_back', 0)):
    if config.cameras.get(option, still) != still:
      raise ValueError(f'config.cameras.{option}={config.cameras[option]}: '
                       f'config.prior.name={name!r} takes whole rings, {still}')
  if not math.isclose(azimuth[1] - azimuth[0], 360.):
    raise ValueError(f'config.cameras.azimuth={tuple(azimuth)}: config.prior.name={name!r} takes a '
                     'whole turn, as (-180, 180)')


def check_stages(config, prior: Prior) -> tuple[tuple[int, int], ...]:
  """(first step, pixels of a render) of each stage: config.render.stages, or one of the prior's own
  size."""
  stages = config.render.get('stages', ())
  starts = [first for first, _ in stages]
  if stages and (starts[0] or starts != sorted(set(starts)) or any(first % config.steps_per_call
                                                                   for first in starts)):
    raise ValueError(f'config.render.stages={stages}: takes (first step, pixels), steps 0 and '
                     'later multiples of '
                     f'config.steps_per_call={config.steps_per_call}')
  for _, size in stages:
    x = jax.ShapeDtypeStruct((prior.views_per_scene, size, size, 3), jnp.float32)
    if jax.eval_shape(Prior.encode, prior, x).shape[1:] != prior.latent:
      raise ValueError(f'config.render.stages={stages}: config.prior.name={config.prior.name!r} '
                       'takes renders of '
                       f'{prior.image_size} pixels alone')
  return stages or ((0, prior.image_size),)
