"""What each option takes: a kind, how many values and which range, by the table RULES here or else
by its default."""
import math
import re
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any, Callable, NamedTuple

from jaxdreamer import seeds
from jaxdreamer.control_variates.stein import FORMS
from jaxdreamer.sampling import WEIGHTS
from jaxdreamer.scenes.dmtet import TEXTURES
from jaxdreamer.scenes.fields import ACTIVATIONS, BLOBS
from jaxdreamer.scenes.sdf import DENSITIES

Number = float | int
DTYPES = ('bfloat16', 'float16', 'float32')


class Rule(NamedTuple):
  """What an option takes, in words and as a test."""
  takes: str                   # ends the message
  fits: Callable[[Any], bool]


def is_number(v) -> bool:
  """Finite, and not True or False."""
  return isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v)


def is_whole(v) -> bool:
  """A whole number, and not True or False."""
  return isinstance(v, Integral) and not isinstance(v, bool)


def bounds(low: float, high: float) -> str:
  """', from 0 to 1', ', 0 or more' or nothing."""
  return (f', from {low:g} to {high:g}' if high < math.inf else f', {low:g} or more'
          if low > -math.inf else '')


def whole(low: int, *, high: Number = math.inf) -> Rule:
  """A whole number from `low` to `high`."""
  span = f', from {low} to {high}' if high < math.inf else f', {low} or more'
  return Rule(f'a whole number{span}', lambda v: is_whole(v) and low <= v <= high)


def none_or(low: int, *, high: Number = math.inf) -> Rule:
  """0, which is none, or a whole number from `low` to `high`."""
  rule = whole(low, high=high)
  return Rule(f'0 or {rule.takes}', lambda v: rule.fits(v) or is_whole(v) and v == 0)


def number(low: float, *, high: float = math.inf) -> Rule:
  """A number from `low` to `high`."""
  return Rule(f'a number{bounds(low, high)}', lambda v: is_number(v) and low <= v <= high)


def above(low: float) -> Rule:
  """A number above `low`, which it leaves out."""
  return Rule(f'a number above {low:g}', lambda v: is_number(v) and v > low)


def below(high: float) -> Rule:
  """A number from 0 to `high`, which it leaves out."""
  return Rule(f'a number, 0 or more and below {high:g}', lambda v: is_number(v) and 0. <= v < high)


def span(low: float, *, high: float = math.inf, open_at: tuple[float, ...] = ()) -> Rule:
  """A range (first, last); `open_at` are ends that the range itself leaves out."""
  def fits(v):
    return (is_row(v) and len(v) == 2 and all(map(is_number, v)) and low <= v[0] <= v[1] <= high
            and not any(end in open_at for end in v))
  left_out = f' and not {" or ".join(f"{end:g}" for end in open_at)}' if open_at else ''
  return Rule(f'two numbers, LOW,HIGH{bounds(low, high)}{left_out}', fits)


def is_row(v) -> bool:
  """Whether it holds values one after another."""
  return isinstance(v, tuple | list)


def is_schedule(v, low: float, high: float) -> bool:
  """A schedule of schedules.py whose values are from `low` to `high`."""
  v = v if is_row(v) else (v,)
  return (len(v) in (1, 3, 4) and all(map(is_number, v)) and all(low <= end <= high
                                                                 for end in v[:2])
          and all(n >= 0 and n == int(n) for n in v[2:]) and (len(v) == 1 or v[-1] >= 1))


def schedule(low: float, *, high: float = math.inf) -> Rule:
  """A schedule of numbers from `low` to `high`."""
  return Rule(f'a schedule, V or V0,V1,STEPS or V0,V1,START,STEPS{bounds(low, high)}',
              lambda v: is_schedule(v, low, high))


def numbers(low: float, *, count: int, high: float = math.inf) -> Rule:
  """`count` numbers from `low` to `high`."""
  return Rule(f'{count} numbers, each{bounds(low, high).removeprefix(",")}',
              lambda v: is_row(v) and len(v) == count and all(is_number(n) and low <= n <= high
                                                              for n in v))


def wholes(low: int, *, least: int = 1) -> Rule:
  """`least` or more whole numbers, each `low` or more."""
  return Rule(f'{least} or more whole numbers, each {low} or more',
              lambda v: is_row(v) and len(v) >= least and all(is_whole(n) and n >= low for n in v))


def one_of(*names: str) -> Rule:
  """One of these names."""
  return Rule(f'one of {sorted(names)}', lambda v: v in names)


def some_of(*names: str) -> Rule:
  """Any of these names, each once."""
  return Rule(f'any of {sorted(names)}, each once, or ()',
              lambda v: is_row(v) and all(v.count(name) == 1 and name in names for name in v))


def is_pattern(v) -> bool:
  """A regular expression."""
  try:
    return isinstance(v, str) and bool(re.compile(v))
  except re.error:
    return False


def is_group(v) -> bool:
  """A group of config.optim.groups."""
  return (is_row(v) and len(v) in (2, 3) and is_pattern(v[0])
          and isinstance(v[-1] if v[2:] else '', str) and is_schedule(v[1], 0., math.inf))


def is_stage(v) -> bool:
  """A stage of config.render.stages."""
  return is_row(v) and len(v) == 2 and all(map(is_whole, v)) and v[0] >= 0 and v[1] >= 1


GROUPS = Rule("groups ('REGEX', RATE) or ('REGEX', RATE, 'sgd'), each RATE a schedule of numbers, "
              "0 or more: (('scene/.*', .01), ('est/.*', .001))",
              lambda v: is_row(v) and bool(v) and all(map(is_group, v)))
STAGES = Rule('(FIRST STEP, PIXELS) a stage: ((0, 64), (5000, 512)), or ()', lambda v: is_row(v)
              and all(map(is_stage, v)))
DENSITY = Rule('positive numbers, one a bin of t', lambda v: is_row(v) and bool(v)
               and all(is_number(n) and n > 0 for n in v))
NAMES = Rule('one or more names', lambda v: is_row(v) and bool(v)
             and all(isinstance(name, str) for name in v))
FOLDERS = Rule('names of letters, digits, _ and -, or ()', lambda v: is_row(v) and all(
  isinstance(name, str) and re.fullmatch(r'[\w-]+', name) for name in v))
PATTERNS = Rule('one or more regular expressions',
                lambda v: is_row(v) and bool(v) and all(map(is_pattern, v)))
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
  'seed': whole(0, high=seeds.MOST), 'steps': whole(1), 'steps_per_call': whole(1),
  'log_every': whole(1), 'keep': whole(1),
  'preview_every': whole(0), 'checkpoint_every': whole(0), 'max_minutes': number(0.),
  'corpus.prompts': whole(1), 'stages': FOLDERS, 'inherit': PATTERNS, 'scene.particles': whole(1),
  'scene.*voxels.levels': wholes(2), 'scene.*.sharpness': schedule(0.),
  'scene.conv3d.channels': wholes(1),
  'scene.*hashgrid.band': schedule(0.), 'scene.*.fit': number(0.),
  'scene.mlp.blur': schedule(0.), 'scene.mlp.octaves': whole(0), 'scene.*.radius': above(0.),
  'scene.*.extent': above(0.), 'scene.*.radii': numbers(.001, count=3),
  # below 0: a hollow in what is dense
  'scene.*.strength': number(-math.inf), 'scene.*.scale': number(0.),
  'scene.*.activation': one_of(*ACTIVATIONS), 'scene.*.blob': one_of(*BLOBS),
  'scene.dmtet.levels': wholes(3), 'scene.*.room': above(0.),
  'scene.*.texture': one_of(*TEXTURES), 'scene.restoration.[fmv]*': number(0.),
  'scene.*.features': whole(3), 'scene.image.thickness': above(0.),
  'scene.image.density': above(0.), 'scene.*.density': one_of(*DENSITIES),
  'prior.empirical.images': whole(0), 'prior.empirical.bandwidth': above(0.),
  'prior.*.image_size': whole(1), 'prior.*.dtype': one_of(*DTYPES),
  'estimator.csd.omega2': schedule(0.), 'estimator.*.guidance': schedule(0.),
  'perp_neg': number(0.), 'sampling.weight': one_of(*WEIGHTS), 'estimator.ssd.phi': NAMES,
  'estimator.ssd.mu': one_of('learned', 'moments', 'parameters'),
  'estimator.ssd.per': some_of('h', 'w', 'c'),
  'estimator.ssd.form': one_of(*FORMS), 'estimator.ssd.bins': whole(1),
  'estimator.ssd.every': whole(1), 'estimator.ssd.size': whole(1),
  '*.rank': whole(1), 'estimator.vsd.dropped': number(0., high=1.),
  'estimator.vsd.matrices': one_of('attention', 'all'), 'estimator.asd.eta': number(0., high=1.),
  'sampling.views': whole(1), 'sampling.draws': whole(1), 'sampling.density': DENSITY,
  'sampling.t_m??': schedule(0., high=1.),
  'cameras.azimuth': span(-math.inf), 'cameras.elevation': span(-90., high=90.),
  'cameras.distance': span(0., open_at=(0.,)),
  'cameras.fov': span(0., high=180., open_at=(0., 180.)), 'cameras.angular': number(0., high=1.),
  'cameras.jitter': numbers(0., count=3), 'cameras.front_back': whole(0),
  'cameras.front': number(0., high=180.), 'cameras.back': number(0., high=180.),
  'render.kind': one_of('color', 'normal'),
  'render.samples': whole(1), 'render.fine': whole(0), 'render.chunk': whole(0),
  'render.radius': above(0.),
  'render.stages': STAGES, 'render.shaded': schedule(0., high=1.),
  'render.textureless': schedule(0., high=1.),
  'render.random_background': number(0., high=1.),
  'render.backgrounds.learned.rgb': numbers(.001, count=3, high=.999),
  'render.backgrounds.*.rgb': numbers(0., count=3, high=1.),
  'render.light.distance': span(0., open_at=(0.,)), 'render.light.jitter': number(0.),
  'render.normals': one_of('exact', 'forward', 'central'),
  'regularizers.*': schedule(0.), 'optim.groups': GROUPS, 'optim.b?': below(1.),
  'optim.eps': number(0.), 'optim.weight_decay': number(0.), 'optim.clip': number(0.),
  'optim.accumulate': whole(1), 'mesh.data': whole(0), 'mesh.processes': whole(0),
  'mesh.process': whole(-1), 'mesh.wait': above(0.),
  'eval.size': whole(1), 'eval.samples': whole(1), 'eval.fine': whole(0), 'eval.chunk': whole(0),
  'eval.mesh_resolution': whole(8, high=512), 'eval.faces': none_or(100),
  'eval.texture': none_or(64, high=4096), 'eval.radius': number(0.), 'eval.inside': number(0.),
}
SIZES = whole(1)       # whole numbers of a scene or a background: levels, widths, pixels


def is_text(text: str) -> bool:
  """Whether it can be written: bytes of the command line that are no UTF-8 reach Python as what
  cannot."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def rule_of(name: str, default: Any) -> Rule | None:
  """What the option takes; None for what nothing is known of."""
  for pattern, rule in RULES.items():
    if fnmatchcase(name, pattern):
      return rule
  if name.startswith(('scene.', 'render.backgrounds.')) and type(default) is int:
    return SIZES
  return KINDS.get(type(default))


def ramp(value: Any) -> tuple[Number, Number, int, int]:
  """(v0, v1, start, steps) of a schedule; one number is steady."""
  value = tuple(value) if is_row(value) else (value,)
  if len(value) == 1:
    return value[0], value[0], 0, 0
  v0, v1, *start, steps = value
  return v0, v1, int(start[0]) if start else 0, int(steps)


def value_at(schedule: Any, step: int) -> Number:
  """The number of a schedule at a step."""
  v0, v1, start, steps = ramp(schedule)
  return v0 + (v1 - v0) * min(max(step - start, 0) / max(steps, 1), 1.) if steps else v0
