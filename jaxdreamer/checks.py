"""What can be wrong with a config as a whole, said in one line each before anything is built."""
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdreamer import options, sampling
from jaxdreamer.registry import BACKGROUNDS, ESTIMATORS, NORMALS, PRIORS, SCENES, pick, read_corpus
from jaxdreamer.scenes import shapes
from jaxdreamer.schedules import is_never
from jaxdreamer.types import Prior


def check(config, mesh: Mesh) -> None:
  """What can be wrong with the numbers of a config, said before anything compiles."""
  options.check(config)
  for table, section in ((SCENES, 'scene'), (PRIORS, 'prior'), (ESTIMATORS, 'estimator')):
    pick(table, config[section], section)
  views = config.sampling.views
  if views % mesh.devices.size:
    raise ValueError(f'config.sampling.views={views}: must be a multiple of the '
                     f'{mesh.devices.size} devices of the '
                     f'mesh; change it, or set config.mesh.data')
  if views % (mesh.devices.size * options.ring(config.sampling)):
    raise ValueError(f'config.sampling.views={views}: '
                     f'config.sampling.design={config.sampling.design!r} takes a multiple of '
                     f'{options.ring(config.sampling)} for each of the {mesh.devices.size} devices '
                     'of config.mesh.data')
  if config.steps_per_call and config.steps % config.steps_per_call:
    raise ValueError(f'config.steps={config.steps}: must be a multiple of '
                     f'config.steps_per_call={config.steps_per_call}')
  if config.scene.name == 'restoration':
    check_restoration(config)
  elif config.corpus.path:
    check_corpus(config, mesh)
  elif not isinstance(config.prompt, str) or not config.prompt.strip():
    raise ValueError(f'config.prompt={config.prompt!r}: takes a text')
  if config.sampling.design not in sampling.DESIGNS:
    raise ValueError(f'config.sampling.design={config.sampling.design!r}: takes one of '
                     f'{sorted(sampling.DESIGNS)}')
  s = config.sampling
  if s.draws % (2 if s.antithetic else 1):
    raise ValueError(f'config.sampling.draws={s.draws}: takes an even number with '
                     'config.sampling.antithetic=True')
  leads_away = config.estimator.name == 'csd' and not is_never(config.estimator.csd.omega2)
  if leads_away and not config.negative_prompt:
    raise ValueError(f'config.estimator.csd.omega2={config.estimator.csd.omega2} asks for a '
                     'negative prompt, and '
                     'config.negative_prompt is empty: give one, or set the share to 0')
  if config.perp_neg and not config.cameras.words:
    raise ValueError(f'config.perp_neg={config.perp_neg}: takes 0 with config.cameras.words=False, '
                     'for it leads away from the words of other views')
  for option, value, table in (('background', config.render.background, BACKGROUNDS),
                               ('normals', config.render.normals, NORMALS)):
    if value not in table:
      raise ValueError(f'config.render.{option}={value!r}: takes one of {sorted(table)}')
  if config.render.room < 1. and not config.render.fine:
    raise ValueError(f'config.render.room={config.render.room}: takes 1 with '
                     'config.render.fine=0, where no samples propose others')
  if config.render.background == 'hypernet' and 'text' not in config.scene.get(
      config.scene.name, {}):
    raise ValueError(f"config.render.background='hypernet': takes a generator, not "
                     f"config.scene.name={config.scene.name!r}")


def check_files(config) -> None:
  """What can be wrong with the files that a run reads as it begins, and never again."""
  name = config.scene.name
  section = config.scene.get(name, {})
  if section.get('shape', 'sphere') not in shapes.FORMULAS:
    shapes.placed(section.shape, fit=section.fit, extent=section.extent,
                  option=f'config.scene.{name}.shape')


def check_restoration(config) -> None:
  """What cannot be together with pictures that are restored, by a prompt that may be empty."""
  for option, value, still in (('corpus.path', config.corpus.path, ('',)),
                               ('scene.particles', config.scene.particles, (1,)),
                               ('steps_per_call', config.steps_per_call, (1, 0))):
    if value not in still:
      raise ValueError(f"config.{option}={value!r}: takes {still[0]!r} with "
                       "config.scene.name='restoration'")


def check_corpus(config, mesh: Mesh) -> None:
  """What can be wrong with many prompts."""
  each, views = config.corpus.prompts, config.sampling.views
  count = len(read_corpus(config.corpus.path))
  if each % mesh.devices.size or views % each:
    raise ValueError(f'config.corpus.prompts={each}: must be a positive multiple of the '
                     f'{mesh.devices.size} devices of the mesh '
                     f'that divides config.sampling.views={views}, the views of all of them')
  if views // each % options.ring(config.sampling):
    raise ValueError(f'config.sampling.views={views}: '
                     f'config.sampling.design={config.sampling.design!r} takes a multiple of '
                     f'{options.ring(config.sampling)} for each of config.corpus.prompts={each}')
  if config.steps_per_call > 1:
    raise ValueError(f'config.steps_per_call={config.steps_per_call}: takes 1 with '
                     'config.corpus.path, whose prompts change at '
                     'every step')
  if config.prior.name == 'empirical':
    raise ValueError("config.prior.name='empirical' knows one caption: take another prior with "
                     "config.corpus.path")
  if count < each:
    raise ValueError(f'config.corpus.prompts={each}: there are {count} in '
                     f'config.corpus.path={config.corpus.path!r}')


def check_steps(step: int, steps: int, steps_per_call: int):
  """ValueError where whole calls do not lead from `step` to `steps`."""
  left = steps - step
  if left % steps_per_call:
    fits = step + left // steps_per_call * steps_per_call
    raise ValueError(f'steps={steps}: the {left} left from step {step} are no multiple of '
                     f'steps_per_call={steps_per_call}; '
                     f'give steps={fits or steps_per_call} or steps={fits + steps_per_call}, or '
                     'another steps_per_call')


def check_views(config, views_per_scene: int) -> None:
  """What a prior that sees `views_per_scene` views of a scene at once asks of their sampling."""
  if views_per_scene == 1:
    return
  s, azimuth, name = config.sampling, config.cameras.azimuth, config.prior.name
  if options.ring(s) != views_per_scene:
    raise ValueError(f"config.sampling.design={s.design!r}: config.prior.name={name!r} sees "
                     f"{views_per_scene} views of a scene at once, "
                     f"and takes 'rings'")
  if s.draws != 1:
    raise ValueError(f'config.sampling.draws={s.draws}: config.prior.name={name!r} takes 1, for '
                     'the views of a scene share it')
  for option, still in (('jitter', (0., 0., 0.)), ('front_back', 0)):
    if config.cameras[option] != still:
      raise ValueError(f'config.cameras.{option}={config.cameras[option]}: '
                       f'config.prior.name={name!r} takes whole rings, {still}')
  if not math.isclose(azimuth[1] - azimuth[0], 360.):
    raise ValueError(f'config.cameras.azimuth={tuple(azimuth)}: config.prior.name={name!r} takes a '
                     'whole turn, as (-180, 180)')


def check_stages(config, prior: Prior) -> tuple[tuple[int, int], ...]:
  """(first step, pixels of a render) of each stage: config.render.stages, or one of the prior's own
  size."""
  stages = config.render.stages
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
