"""config -> functions, through dicts one can see. The only reader of config besides the loop's own
settings.

A section such as config.scene holds `name` and, under each name it may take, that function's
keyword arguments. ValueError and FileNotFoundError, one line each, for what cannot be built;
nothing is compiled before all of it has been checked.
"""
import functools
import importlib
import math
import os
import pathlib
from functools import partial
from typing import Any, Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxdreamer import (
  cameras,
  checkpoints,
  corpus,
  optim,
  options,
  places,
  processes,
  prompts,
  render,
  sampling,
  seeds,
  showing,
  train_step,
)
from jaxdreamer.nn import blueprints
from jaxdreamer.registry import (
  BACKGROUNDS,
  CORPORA,
  ESTIMATORS,
  LEARNED,
  NEVER,
  NORMALS,
  PRIORS,
  REGULARIZERS,
  SCENES,
  control_variates,
)
from jaxdreamer.scenes import backgrounds
from jaxdreamer.scenes.backgrounds import with_background
from jaxdreamer.scenes.image import picture
from jaxdreamer.scenes.particles import stacked
from jaxdreamer.schedules import schedule
from jaxdreamer.types import Estimator, Prior, Scene, Text, TrainState


class Job(NamedTuple):
  """A run as functions. Scene parameters are state.params['scene']."""
  prompts: tuple[str, ...]
  init: Callable                # key -> TrainState
  # (first step, jitted (state, prior, text) -> (state, info)) for each size of the renders
  stages: tuple
  steps_per_call: int           # steps of a call, which donates the state; info is their means
  prior: Prior
  text: Callable                # step -> the Text that it takes: always the same for one prompt
  embed: Callable               # prompt -> its Text
  code: Callable  # (scene params, Text of one prompt) -> code of the scene, as at the last step
  render: Callable              # (code, one Camera, background [3]) -> Rendering [size, size]
  density: Callable             # (code, xyz [N, 3]) -> [N]
  color: Callable              # (code, xyz [N, 3]) -> [N, 3]
  radius: float                 # of the ball that outputs show
  size: int
  parts: 'Parts | None'

  def step(self, state: TrainState, prior: Prior, text: Text) -> tuple[TrainState, dict]:
    """A call of the stage that the state is in."""
    return at_step(self.stages, int(state.step))(state, prior, text)


class Parts(NamedTuple):
  """What the first stage's step is made of, for those who take it apart: the variance
  laboratory."""
  estimator: Estimator
  sample: Callable              # train_step.make_sample's
  picture: Callable             # train_step.make_render_latents's
  gradient: Callable            # train_step.make_gradient's
  tx: Any                       # the optax chain


def at_step(stages: Sequence[tuple[int, Callable]], step: int) -> Callable:
  """The last of `stages`, as Job's, that has begun at `step`."""
  return [made for first, made in stages if first <= step][-1]


def pick(table: dict, section: Any, option: str) -> Callable:
  """table[section.name], or a function of the user's own named 'module:function', with the keyword
  arguments that the section holds for it."""
  module, _, function = section.name.partition(':')
  if function:
    try:
      return partial(getattr(importlib.import_module(module), function),
                     **section.get(function, {}))
    except (ImportError, AttributeError, ValueError) as error:
      raise ValueError(f'config.{option}.name={section.name!r}: {error}') from error
  if section.name not in table:
    raise ValueError(f"config.{option}.name={section.name!r}: takes one of {sorted(table)}, or "
                     "your own 'module:function'")
  return partial(table[section.name], **section.get(section.name, {}))


def make_prior(config) -> Prior:
  """The prior of config.prior, with its LoRA where it names one."""
  p, key = config.prior, seeds.key(config.seed)
  # older runs do not say it
  changes = {k: p[k] for k in ('lora', 'lora_scale')} if p.get('lora', '') else {}
  if changes and p.name not in ('stable_diffusion', 'sdxl', 'mvdream'):
    raise ValueError(f'config.prior.lora={p.lora!r}: config.prior.name={p.name!r} takes none; '
                     'published models do')
  return pick(PRIORS, p, 'prior')(key, config.prompt, places.weights_at(p), **changes)


def with_perception(prior: Prior, section: Any) -> Prior:
  """The prior with the weights beside its own that the baselines look through: so they enter the
  step as arguments."""
  if section.name != 'ssd':
    return prior
  chosen = control_variates(section.ssd.phi, section.ssd.depth, section.ssd.normals,
                            section.ssd.size)
  return prior.replace(weights=prior.weights | {name: load() for name, (_, load) in chosen.items()
                                                if load})


def make_mesh(config) -> Mesh:
  """The mesh of config.mesh over all devices; data = 0 takes all that are there, or the most that
  divide the views."""
  options.check(config)
  if config.mesh.map not in ('shard_map', 'pmap'):
    raise ValueError(f"config.mesh.map={config.mesh.map!r}: takes one of ['pmap', 'shard_map']")
  return processes.make_mesh(config.sampling.views, data=config.mesh.data,
                             ring=options.ring(config.sampling),
                             how=config.mesh.map)


def camera_ranges(section) -> dict:
  """Degrees in config, radians in code."""
  angles = {k: tuple(math.radians(a) for a in section[k]) for k in ('azimuth', 'elevation', 'fov')}
  # older runs do not say it
  return angles | {'distance': tuple(section.distance), 'relative': section.get('relative', False),
                   'angular': section.get('angular', 0.)}


def make_regularize(section) -> Callable:
  """(Rendering, step) -> the weighted sum of the regularizers whose weight is not 0."""
  unknown = set(section) - set(REGULARIZERS)
  if unknown:
    raise ValueError(f'config.regularizers: unknown {sorted(unknown)}; takes '
                     f'{sorted(REGULARIZERS)}')
  terms = [(REGULARIZERS[k], schedule(v)) for k, v in section.items() if v != NEVER]
  def regularize(shown, step):
    return sum((weight(step) * term(shown) for term, weight in terms),
               start=0. * jnp.sum(shown.opacity))
  return regularize


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
  if config.steps % config.steps_per_call:
    raise ValueError(f'config.steps={config.steps}: must be a multiple of '
                     f'config.steps_per_call={config.steps_per_call}')
  if config.corpus.path:
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
  leads_away = config.estimator.name == 'csd' and config.estimator.csd.negative != NEVER
  if leads_away and not config.negative_prompt:
    raise ValueError(f'config.estimator.csd.negative={config.estimator.csd.negative} asks for a '
                     'negative prompt, and '
                     'config.negative_prompt is empty: give one, or set the share to 0')
  for option, value, table in (('background', config.render.background, BACKGROUNDS),
                               ('normals', config.render.get('normals', 'exact'), NORMALS)):
    if value not in table:
      raise ValueError(f'config.render.{option}={value!r}: takes one of {sorted(table)}')
  if config.render.background == 'hypernet' and 'text' not in config.scene.get(
      config.scene.name, {}):
    raise ValueError(f"config.render.background='hypernet': takes a generator, not "
                     f"config.scene.name={config.scene.name!r}")


def check_corpus(config, mesh: Mesh) -> None:
  """What can be wrong with many prompts."""
  each, views = config.corpus.prompts, config.sampling.views
  if each % mesh.devices.size or views % each:
    raise ValueError(f'config.corpus.prompts={each}: must be a positive multiple of the '
                     f'{mesh.devices.size} devices of the mesh '
                     f'that divides config.sampling.views={views}, the views of all of them')
  if views // each % options.ring(config.sampling):
    raise ValueError(f'config.sampling.views={views}: '
                     f'config.sampling.design={config.sampling.design!r} takes a multiple of '
                     f'{options.ring(config.sampling)} for each of config.corpus.prompts={each}')
  if config.steps_per_call != 1:
    raise ValueError(f'config.steps_per_call={config.steps_per_call}: takes 1 with '
                     'config.corpus.path, whose prompts change at '
                     'every step')
  if config.prior.name == 'empirical':
    raise ValueError("config.prior.name='empirical' knows one caption: take another prior with "
                     "config.corpus.path")


def read_corpus(path: str) -> tuple[str, ...]:
  """The prompts of config.corpus.path: a file's, or those of CORPORA."""
  return CORPORA[path]() if path in CORPORA else prompts.read_file(path,
                                                                   option='config.corpus.path')


def make_texts(config, prior: Prior, mesh: Mesh) -> tuple[tuple[str, ...], Callable, Callable]:
  """(prompts, step -> Text of that step, prompt -> its Text)."""
  told = lambda prompt: prior.embed(prompt, config.negative_prompt)
  if not config.corpus.path:
    one = told(config.prompt)
    text = processes.place(one, mesh)
    return (config.prompt,
            ), lambda step: text, lambda prompt: one if prompt == config.prompt else told(prompt)
  phrases = read_corpus(config.corpus.path)
  if len(phrases) < config.corpus.prompts:
    raise ValueError(f'config.corpus.prompts={config.corpus.prompts}: there are {len(phrases)} in '
                     f'config.corpus.path={config.corpus.path!r}')

  def store():
    name = corpus.name_of(phrases, config.negative_prompt, told(phrases[0]))
    folder = config.corpus.store or os.fspath(prompts.cache() / name)
    return corpus.open_store(pathlib.Path(folder), phrases, told)
  which = partial(prompts.chosen, config.seed, count=len(phrases), each=config.corpus.prompts)
  text = corpus.batches(functools.cache(store), which, NamedSharding(mesh, PartitionSpec('data')))
  return phrases, text, told


def job(config, mesh: Mesh, *, abstract: bool = False) -> Job:
  """The run that `config` describes, on `mesh`. `abstract`: its prior may be the shapes of a model
  that is not here."""
  check(config, mesh)
  config = options.expanded(config)
  if config.prior.path == blueprints.SHAPES and not abstract:
    raise ValueError(f'config.prior.path={blueprints.SHAPES!r}: takes weights; shapes alone are '
                     'for python -m jaxdreamer.doctor')
  r, s, c = config.render, config.sampling, config.cameras
  background, scene = make_background(config), make_scene(config)
  prior = with_perception(make_prior(config), config.estimator)
  options.check_views(config, prior.views_per_scene)
  t_min, t_max = schedule(config.sampling.t_min), schedule(config.sampling.t_max)
  estimator = pick(ESTIMATORS, config.estimator, 'estimator')(prior, t_min)
  phrases, text, told = make_texts(config, prior, mesh)
  tx = optim.chain(config.optim.groups, b1=config.optim.b1, b2=config.optim.b2,
                   eps=config.optim.eps,
                   weight_decay=config.optim.weight_decay, clip=config.optim.clip,
                   accumulate=config.optim.get('accumulate', 1),
                   particles=config.scene.get('particles', 1))
  shaded, textureless, regularize = schedule(r.shaded), schedule(
      r.textureless), make_regularize(config.regularizers)
  sample = train_step.make_sample(
    design=sampling.DESIGNS[s.design], camera_from=partial(cameras.from_uniform,
                                                           **camera_ranges(c)),
    move=cameras.make_move(by=c.get('jitter', (0., 0., 0.)), front_back=c.get('front_back', 0)),
    draw=sampling.make_draw(t_min=t_min, t_max=t_max, shape=prior.latent, density=s.density,
                            antithetic=s.antithetic),
    views=s.views, dims=s.draws // (2 if s.antithetic else 1))
  words = partial(cameras.view_bin, **{side: math.radians(c.get(side, 45.))
                                       for side in ('front', 'back')})
  ids = jnp.arange(s.views)

  def draw_scene(size, code, camera, key, step):
    if config.scene.name == 'image':             # seen whole by every camera
      return picture(code['field'])
    k_image, k_background, k_light = jax.random.split(key, 3)
    light = None if r.shaded == NEVER else render.sample_light(k_light, camera, shaded=shaded(step),
                                                               textureless=textureless(step),
                                                               **r.get('light', {}))
    return render.image(k_image, partial(scene.field, code), camera, size=size, samples=r.samples,
                        fine=r.fine, radius=r.radius,
                        chunk=r.chunk or None, remat=r.remat, light=light,
                        normals=NORMALS[r.get('normals', 'exact')],
                        distance=scene.distance and partial(scene.distance, code),
                        background=partial(background.color, code['background'], k_background))

  def stage(size):
    """(parts, jitted step) at renders of `size` pixels."""
    see = train_step.make_render_latents(scene=scene, render=partial(draw_scene, size),
                                         regularize=regularize, words=words)
    gradient = train_step.make_gradient(picture=see, estimator=estimator)
    local_step = train_step.make_local_step(sample=sample, gradient=gradient, tx=tx,
                                            ordered=processes.on_cpus(mesh))
    mapped = train_step.data_parallel(train_step.scan_steps(local_step, config.steps_per_call),
                                      mesh, how=config.mesh.map,
                                      many=bool(config.corpus.path))
    return (Parts(estimator, sample, see, gradient, tx),
            jax.jit(lambda state, prior, text: mapped(state, prior, text, ids), donate_argnums=0))
  starts, sizes = zip(*options.check_stages(config, prior))
  parts, steps = zip(*map(stage, sizes))

  def init(key):
    k_scene, k_est, k_run = jax.random.split(key, 3)
    params = {'scene': scene.init(k_scene), 'est': estimator.init(k_est)}
    return TrainState(jnp.int32(0), params, tx.init(params), k_run)

  return Job(prompts=phrases, init=jax.jit(init), stages=tuple(zip(starts, steps)),
             steps_per_call=config.steps_per_call,
             prior=prior, text=text, embed=told, parts=parts[0], **shown(config, scene))


def make_background(config) -> backgrounds.Background:
  """The background of config.render: `hypernet` reads prompts as the scene does, and those that
  learn share with random colors."""
  r = config.render
  learns = r.background in LEARNED
  reads = {'text': config.scene[config.scene.name].text} if r.background == 'hypernet' else {}
  background = BACKGROUNDS[r.background](**reads)
  share = r.get('random_background', .5)
  return backgrounds.mixed(background, probability=share) if learns else background


def make_scene(config) -> Scene:
  """The scene of config.scene before the background of config.render."""
  field, n = pick(SCENES, config.scene, 'scene')(), config.scene.particles
  return with_background(stacked(field, n) if n > 1 else field, make_background(config))


def shown(config, scene: Scene) -> dict[str, Any]:
  """The fields of a Job that show its scene."""
  e = config.eval
  made = showing.functions(seeds.key(config.seed), scene, step=config.steps, size=e.size,
                           samples=e.samples, fine=e.get('fine', 0),
                           radius=config.render.radius, chunk=e.chunk or None)
  return made | {'radius': e.get('radius', 0.) or config.render.radius}


def restore(workdir: pathlib.Path) -> tuple[ConfigDict, Job, TrainState]:
  """The run in `workdir` at its newest checkpoint, on one device. ValueError where there is
  none."""
  config = ConfigDict(checkpoints.tuples(checkpoints.read_options(workdir)))
  if not checkpoints.finished_steps(workdir):
    raise ValueError(f'{workdir} holds no finished checkpoint: train it first')
  config.mesh.data = 1
  built = job(config, make_mesh(config))
  with checkpoints.reader(workdir) as saved:
    return config, built, checkpoints.restore(saved, built.init(seeds.key(config.seed)))[0]
