"""Which option takes what: the first pattern of RULES that fits its name, or else the kind of its
default."""
import math
import re
from fnmatch import fnmatchcase
from typing import Any

from jaxdreamer import seeds
from jaxdreamer.control_variates.stein import FORMS
from jaxdreamer.rules import (
  Rule,
  above,
  below,
  is_group,
  is_number,
  is_pattern,
  is_row,
  is_stage,
  is_text,
  is_whole,
  none_or,
  number,
  numbers,
  one_of,
  schedule,
  some_of,
  span,
  whole,
  wholes,
)
from jaxdreamer.sampling import WEIGHTS
from jaxdreamer.scenes.dmtet import TEXTURES
from jaxdreamer.scenes.fields import ACTIVATIONS, BLOBS
from jaxdreamer.scenes.sdf import DENSITIES

DTYPES = ('auto', 'bfloat16', 'float16', 'float32')
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
  'seed': whole(0, high=seeds.MOST), 'steps': whole(1), 'steps_per_call': whole(0),
  'log_every': whole(1), 'keep': whole(1), 'guard.skips': whole(1), 'guard.rollbacks': whole(0),
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
  'estimator.ssd.mu': one_of('learned', 'moments'),
  'estimator.ssd.per': some_of('h', 'w', 'c'),
  'estimator.ssd.form': one_of(*FORMS), 'estimator.ssd.bins': whole(1),
  'estimator.ssd.size': whole(1),
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
  'render.radius': above(0.), 'render.room': number(.01, high=1.),
  'render.stages': STAGES, 'render.shaded': schedule(0., high=1.),
  'render.textureless': schedule(0., high=1.),
  'render.random_background': number(0., high=1.),
  'render.backgrounds.learned.rgb': numbers(.001, count=3, high=.999),
  'render.backgrounds.*.rgb': numbers(0., count=3, high=1.),
  'render.light.distance': span(0., open_at=(0.,)), 'render.light.jitter': number(0.),
  'render.normals': one_of('exact', 'forward', 'central'),
  'regularizers.*': schedule(0.), 'optim.groups': GROUPS, 'optim.b?': below(1.),
  'optim.eps': number(0.), 'optim.weight_decay': number(0.), 'optim.clip': number(0.),
  'optim.accumulate': whole(1), 'mesh.data': whole(0), 'mesh.model': whole(1),
  'mesh.processes': whole(0), 'mesh.process': whole(-1), 'mesh.wait': above(0.),
  'eval.size': whole(1), 'eval.samples': whole(1), 'eval.fine': whole(0), 'eval.chunk': whole(0),
  'eval.mesh_resolution': whole(8, high=512), 'eval.faces': none_or(100),
  'eval.texture': none_or(64, high=4096), 'eval.radius': number(0.), 'eval.inside': number(0.),
}
SIZES = whole(1)       # whole numbers of a scene or a background: levels, widths, pixels


def rule_of(name: str, default: Any) -> Rule | None:
  """What the option takes; None for what nothing is known of."""
  for pattern, rule in RULES.items():
    if fnmatchcase(name, pattern):
      return rule
  if name.startswith(('scene.', 'render.backgrounds.')) and type(default) is int:
    return SIZES
  return KINDS.get(type(default))
