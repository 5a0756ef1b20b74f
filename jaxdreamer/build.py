"""config -> functions, through dicts one can see. The only reader of config besides the loop's own settings.

A section such as config.scene holds `name` and, under each name it may take, that function's keyword arguments. ValueError
and FileNotFoundError, one line each, for what cannot be built; nothing is compiled before all of it has been checked.
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
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxdreamer import cameras, checkpoints, corpus, optim, prompts, regularizers, render, sampling, train_step
from jaxdreamer.baselines import eyes
from jaxdreamer.baselines.constant import constant
from jaxdreamer.baselines.depth import depth
from jaxdreamer.baselines.neighbours import neighbours
from jaxdreamer.baselines.normals import normals
from jaxdreamer.estimators.asd import asd
from jaxdreamer.estimators.csd import csd
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.ssd import ssd
from jaxdreamer.estimators.vsd import vsd
from jaxdreamer.nn import blueprints, hub
from jaxdreamer.priors.empirical import empirical
from jaxdreamer.priors.mvdream import mvdream
from jaxdreamer.priors.sdxl import sdxl
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.priors.toybox import toybox
from jaxdreamer.scenes import backgrounds
from jaxdreamer.scenes.conv3d import conv3d
from jaxdreamer.scenes.hashgrid import hashgrid
from jaxdreamer.scenes.hyper_ingp import hyper_ingp
from jaxdreamer.scenes.image import image, picture
from jaxdreamer.scenes.mlp import mlp
from jaxdreamer.scenes.particles import several
from jaxdreamer.scenes.triplane_transformer import triplane_transformer
from jaxdreamer.scenes.voxels import voxels
from jaxdreamer.toybox import compositions
from jaxdreamer.types import Estimator, Prior, Scene, Text, TrainState

NEVER = (0.,)                    # the schedule of what is left out
SCENES = {
  'voxels': voxels,
  'hashgrid': lambda band, **kw: hashgrid(active=optim.schedule(band), **kw),
  'mlp': lambda blur, **kw: mlp(variance=optim.schedule(blur), **kw),
  'image': image,
  'hyper_ingp': hyper_ingp,
  'conv3d': conv3d,
  'triplane_transformer': triplane_transformer,
}
PRIORS = {                       # (key, prompt, path) -> Prior
  'toybox': lambda key, prompt, path, **kw: toybox(path=path, **kw),
  'empirical': lambda key, prompt, path, **kw: empirical(key, prompt, **kw),
  'stable_diffusion': lambda key, prompt, path, **kw: stable_diffusion(path=path, **kw),
  'sdxl': lambda key, prompt, path, **kw: sdxl(path=path, **kw),
  'mvdream': lambda key, prompt, path, **kw: mvdream(path=path, **kw),
}
ESTIMATORS = {                   # (prior, sampling.t_min as a schedule) -> Estimator
  'sds': lambda prior, t_min, guidance, **kw: sds(guidance=optim.schedule(guidance), **kw),
  'csd': lambda prior, t_min, negative, **kw: csd(negative=optim.schedule(negative) if negative != NEVER else None, **kw),
  'asd': lambda prior, t_min, guidance, **kw: asd(guidance=optim.schedule(guidance), t_min=t_min, **kw),
  'vsd': lambda prior, t_min, guidance, **kw: vsd(weights=prior.weights, guidance=optim.schedule(guidance), **kw),
  'ssd': lambda prior, t_min, guidance, phi, depth, normals, size, **kw: ssd(
    guidance=optim.schedule(guidance), shape=prior.latent,
    phi=tuple(f for f, _ in baselines(phi, depth, normals, size).values()), **kw),
}
BASELINES = {                    # (folder of an estimator or '', pixels) -> phi of SSD, and what loads its weights
  'constant': lambda path, size: (constant(), None),
  'neighbours': lambda path, size: (neighbours(), None),
  'depth': lambda path, size: through(depth, *eyes.depth(path, size=size)),
  'normals': lambda path, size: through(normals, *eyes.normals(path, size=size)),
}
CORPORA = {                      # corpora by name, beside files
  'toybox': lambda: compositions.captions()[0],
  'toybox:held_out': lambda: compositions.captions()[1],
}
BACKGROUNDS = {
  'random': backgrounds.random(),
  'black_or_white': backgrounds.black_or_white(),
  'white': backgrounds.constant(),
  'learnt': backgrounds.mixed(backgrounds.learnt()),
  'environment': backgrounds.mixed(backgrounds.environment()),
}
REGULARIZERS = {f.__name__: f for f in (regularizers.orientation, regularizers.opacity, regularizers.sparsity,
                                        regularizers.opaque, regularizers.distortion, regularizers.z_variance,
                                        regularizers.eikonal)}


class Job(NamedTuple):
  """A run as functions. Scene parameters are state.params['scene']."""
  prompts: tuple[str, ...]
  init: Callable                # key -> TrainState
  stages: tuple                 # (first step, jitted (state, prior, text) -> (state, info)) for each size of the renders
  stride: int                   # steps of a call, which donates the state; info is their means
  prior: Prior
  text: Callable                # step -> the Text that it takes: always the same for one prompt
  told: Callable                # prompt -> its Text
  code: Callable                # (scene params, Text of one prompt) -> code of the scene, as at the last step
  render: Callable              # (code, one Camera, background [3]) -> Rendering [size, size]
  density: Callable             # (code, xyz [N, 3]) -> [N]
  colour: Callable              # (code, xyz [N, 3]) -> [N, 3]
  radius: float
  size: int
  parts: 'Parts | None'

  def step(self, state: TrainState, prior: Prior, text: Text) -> tuple[TrainState, dict]:
    """A call of the stage that the state is in."""
    return at_step(self.stages, int(state.step))(state, prior, text)


class Parts(NamedTuple):
  """What the first stage's step is made of, for those who take it apart: the variance laboratory."""
  estimator: Estimator
  sample: Callable              # train_step.make_sample's
  picture: Callable             # train_step.make_picture's
  gradient: Callable            # train_step.make_gradient's
  tx: Any                       # the optax chain


def at_step(stages: Sequence[tuple[int, Callable]], step: int) -> Callable:
  """The last of `stages`, as Job's, that has begun at `step`."""
  return [made for first, made in stages if first <= step][-1]


def pick(table: dict, section: Any, option: str) -> Callable:
  """table[section.name], or a function of the user's own named 'module:function', with the keyword arguments that the section
  holds for it."""
  module, _, function = section.name.partition(':')
  if function:
    try:
      return partial(getattr(importlib.import_module(module), function), **section.get(function, {}))
    except (ImportError, AttributeError) as error:
      raise ValueError(f'config.{option}.name={section.name!r}: {error}') from error
  if section.name not in table:
    raise ValueError(f"config.{option}.name={section.name!r}: takes one of {sorted(table)}, or your own 'module:function'")
  return partial(table[section.name], **section.get(section.name, {}))


def through(phi: Callable, load: Callable, see: Callable) -> tuple[Callable, Callable]:
  return phi(see=see), load


def baselines(phi: tuple[str, ...], depth: str, normals: str, size: int) -> dict[str, tuple[Callable, Callable | None]]:
  """{name: (phi, what loads its weights)} of config.estimator.ssd."""
  unknown = [name for name in phi if name not in BASELINES]
  if unknown or not phi:
    raise ValueError(f'config.estimator.ssd.phi={phi!r}: takes some of {sorted(BASELINES)}')
  paths = {'depth': depth, 'normals': normals}
  return {name: BASELINES[name](paths.get(name, ''), size) for name in phi}


def weights_at(section: Any) -> str:
  """Where config.prior finds its weights: its path, else what it asks the hub for, else '', the shipped ones."""
  asked = section.get('hub', '')                             # older runs do not say it
  return hub.fetch(asked) if asked and not section.path else section.path


def with_eyes(prior: Prior, section: Any) -> Prior:
  """The prior with the weights beside its own that the baselines look through: so they enter the step as arguments."""
  if section.name != 'ssd':
    return prior
  chosen = baselines(section.ssd.phi, section.ssd.depth, section.ssd.normals, section.ssd.size)
  return prior.replace(weights=prior.weights | {name: load() for name, (_, load) in chosen.items() if load})


def ring(section) -> int:
  """Views that config.sampling.design keeps on one device."""
  return sampling.RING if section.design == 'rings' else 1


def make_mesh(config) -> Mesh:
  """The mesh of config.mesh over all devices; data = 0 takes all that are there, or the most that divide the views."""
  n, rings = len(jax.devices()), config.sampling.views // ring(config.sampling)
  data = config.mesh.data or max(d for d in range(1, n + 1) if rings % d == 0)
  if data > n:
    raise ValueError(f'config.mesh.data={data}: there are {n} devices')
  if config.mesh.map not in ('shard_map', 'pmap'):
    raise ValueError(f"config.mesh.map={config.mesh.map!r}: takes one of ['pmap', 'shard_map']")
  return jax.make_mesh((data,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:data])


def camera_ranges(section) -> dict:
  """Degrees in config, radians in code."""
  angles = {k: tuple(math.radians(a) for a in section[k]) for k in ('azimuth', 'elevation', 'fov')}
  return angles | {'distance': tuple(section.distance), 'relative': section.get('relative', False)}    # older runs do not say it


def make_regularize(section) -> Callable:
  """(Rendering, step) -> the weighted sum of the regularizers whose weight is not 0."""
  unknown = set(section) - set(REGULARIZERS)
  if unknown:
    raise ValueError(f'config.regularizers: unknown {sorted(unknown)}; takes {sorted(REGULARIZERS)}')
  terms = [(REGULARIZERS[k], optim.schedule(v)) for k, v in section.items() if v != NEVER]
  def regularize(shown, step):
    return sum((weight(step) * term(shown) for term, weight in terms), start=0. * jnp.sum(shown.opacity))
  return regularize


def with_background(scene: Scene, background: backgrounds.Background) -> Scene:
  """The scene whose parameters, and whose code, are {'field', 'background'}; `field` looks at the first."""
  def init(key):
    k_field, k_background = jax.random.split(key)
    return {'field': scene.init(k_field), 'background': background.init(k_background)}
  def prepare(params, y):
    return {'field': scene.prepare(params['field'], y), 'background': params['background']}
  return Scene(init, prepare, lambda code, xyz: scene.field(code['field'], xyz),
               lambda code, step: code | {'field': scene.focus(code['field'], step)},
               scene.distance and (lambda code, xyz: scene.distance(code['field'], xyz)))


def check(config, mesh: Mesh) -> None:
  """What can be wrong with the numbers of a config, said before anything compiles."""
  views = config.sampling.views
  if views < 1 or views % mesh.devices.size:
    raise ValueError(f'config.sampling.views={views}: must be a positive multiple of the {mesh.devices.size} devices of the '
                     f'mesh; change it, or set config.mesh.data')
  if views % (mesh.devices.size * ring(config.sampling)):
    raise ValueError(f'config.sampling.views={views}: config.sampling.design={config.sampling.design!r} takes a multiple of '
                     f'{ring(config.sampling)} for each of the {mesh.devices.size} devices of config.mesh.data')
  for option, number in (('steps', config.steps), ('steps_per_call', config.steps_per_call),
                         ('scene.particles', config.scene.particles)):
    if number < 1:
      raise ValueError(f'config.{option}={number}: takes a positive number')
  if config.steps % config.steps_per_call:
    raise ValueError(f'config.steps={config.steps}: must be a multiple of config.steps_per_call={config.steps_per_call}')
  if config.corpus.path:
    check_corpus(config, mesh)
  elif not isinstance(config.prompt, str) or not config.prompt.strip():
    raise ValueError(f'config.prompt={config.prompt!r}: takes a text')
  if config.sampling.design not in sampling.DESIGNS:
    raise ValueError(f'config.sampling.design={config.sampling.design!r}: takes one of {sorted(sampling.DESIGNS)}')
  s = config.sampling
  if s.draws < 1 or s.draws % (2 if s.antithetic else 1):
    raise ValueError(f'config.sampling.draws={s.draws}: takes a positive number'
                     + (', an even one with config.sampling.antithetic=True' if s.antithetic else ''))
  if not s.density or min(s.density) <= 0:
    raise ValueError(f'config.sampling.density={s.density}: takes positive numbers, one a bin of t')
  if config.estimator.name == 'csd' and config.estimator.csd.negative != NEVER and not config.negative:
    raise ValueError(f'config.estimator.csd.negative={config.estimator.csd.negative} asks for a negative prompt, and '
                     'config.negative is empty: give one, or set the share to 0')
  if config.render.background not in BACKGROUNDS:
    raise ValueError(f'config.render.background={config.render.background!r}: takes one of {sorted(BACKGROUNDS)}')


def check_corpus(config, mesh: Mesh) -> None:
  """What can be wrong with many prompts."""
  each, views = config.corpus.prompts, config.sampling.views
  if each < 1 or each % mesh.devices.size or views % each:
    raise ValueError(f'config.corpus.prompts={each}: must be a positive multiple of the {mesh.devices.size} devices of the mesh '
                     f'that divides config.sampling.views={views}, the views of all of them')
  if views // each % ring(config.sampling):
    raise ValueError(f'config.sampling.views={views}: config.sampling.design={config.sampling.design!r} takes a multiple of '
                     f'{ring(config.sampling)} for each of config.corpus.prompts={each}')
  if config.steps_per_call != 1:
    raise ValueError(f'config.steps_per_call={config.steps_per_call}: takes 1 with config.corpus.path, whose prompts change at '
                     'every step')
  if config.prior.name == 'empirical':
    raise ValueError("config.prior.name='empirical' knows one caption: take another prior with config.corpus.path")


def read_corpus(path: str) -> tuple[str, ...]:
  """The prompts of config.corpus.path: a file's, or those of CORPORA."""
  return CORPORA[path]() if path in CORPORA else prompts.read_file(path, option='config.corpus.path')


def make_texts(config, prior: Prior, mesh: Mesh) -> tuple[tuple[str, ...], Callable, Callable]:
  """(prompts, step -> Text of that step, prompt -> its Text)."""
  told = lambda prompt: prior.embed(prompt, config.negative)
  if not config.corpus.path:
    one = told(config.prompt)
    text = jax.device_put(one, NamedSharding(mesh, PartitionSpec()))
    return (config.prompt,), lambda step: text, lambda prompt: one if prompt == config.prompt else told(prompt)
  phrases = read_corpus(config.corpus.path)
  if len(phrases) < config.corpus.prompts:
    raise ValueError(f'config.corpus.prompts={config.corpus.prompts}: there are {len(phrases)} in '
                     f'config.corpus.path={config.corpus.path!r}')

  def store():
    name = corpus.name_of(phrases, config.negative, told(phrases[0]))
    folder = config.corpus.store or os.fspath(prompts.cache() / name)
    return corpus.open_store(pathlib.Path(folder).expanduser(), phrases, told)
  which = partial(prompts.chosen, config.seed, count=len(phrases), each=config.corpus.prompts)
  text = corpus.batches(functools.cache(store), which, NamedSharding(mesh, PartitionSpec('data')))
  return phrases, text, told


def check_views(config, together: int) -> None:
  """What a prior that sees `together` views of a scene at once asks of their sampling."""
  if together == 1:
    return
  s, azimuth, name = config.sampling, config.cameras.azimuth, config.prior.name
  if ring(s) != together:
    raise ValueError(f"config.sampling.design={s.design!r}: config.prior.name={name!r} sees {together} views of a scene at once, "
                     f"and takes 'rings'")
  if s.draws != 1:
    raise ValueError(f'config.sampling.draws={s.draws}: config.prior.name={name!r} takes 1, for the views of a scene share it')
  if not math.isclose(azimuth[1] - azimuth[0], 360.):
    raise ValueError(f'config.cameras.azimuth={tuple(azimuth)}: config.prior.name={name!r} takes a whole turn, as (-180, 180)')


def check_stages(config, prior: Prior) -> tuple[tuple[int, int], ...]:
  """(first step, pixels of a render) of each stage: config.render.stages, or one of the prior's own size."""
  stages = config.render.get('stages', ())
  starts = [first for first, _ in stages]
  if stages and (starts[0] or starts != sorted(set(starts)) or any(first % config.steps_per_call for first in starts)):
    raise ValueError(f'config.render.stages={stages}: takes (first step, pixels), steps 0 and later multiples of '
                     f'config.steps_per_call={config.steps_per_call}')
  for _, size in stages:
    x = jax.ShapeDtypeStruct((prior.together, size, size, 3), jnp.float32)
    if jax.eval_shape(Prior.encode, prior, x).shape[1:] != prior.latent:
      raise ValueError(f'config.render.stages={stages}: config.prior.name={config.prior.name!r} takes renders of '
                       f'{prior.image_size} pixels alone')
  return stages or ((0, prior.image_size),)


def job(config, mesh: Mesh, *, abstract: bool = False) -> Job:
  """The run that `config` describes, on `mesh`. `abstract`: its prior may be the shapes of a model that is not here."""
  check(config, mesh)
  if config.prior.path == blueprints.SHAPES and not abstract:
    raise ValueError(f'config.prior.path={blueprints.SHAPES!r}: takes weights; shapes alone are for python -m jaxdreamer.doctor')
  background = BACKGROUNDS[config.render.background]
  field = pick(SCENES, config.scene, 'scene')()
  scene = with_background(several(field, config.scene.particles) if config.scene.particles > 1 else field, background)
  key = jax.random.key(config.seed)
  prior = with_eyes(pick(PRIORS, config.prior, 'prior')(key, config.prompt, weights_at(config.prior)), config.estimator)
  check_views(config, prior.together)
  t_min, t_max = optim.schedule(config.sampling.t_min), optim.schedule(config.sampling.t_max)
  estimator = pick(ESTIMATORS, config.estimator, 'estimator')(prior, t_min)
  phrases, text, told = make_texts(config, prior, mesh)
  tx = optim.chain(config.optim.groups, b1=config.optim.b1, b2=config.optim.b2, eps=config.optim.eps,
                   weight_decay=config.optim.weight_decay, clip=config.optim.clip, accumulate=config.optim.get('accumulate', 1))
  r, s, e = config.render, config.sampling, config.eval
  shaded, textureless, regularize = optim.schedule(r.shaded), optim.schedule(r.textureless), make_regularize(config.regularizers)
  sample = train_step.make_sample(
    design=sampling.DESIGNS[s.design], camera_from=partial(cameras.from_uniform, **camera_ranges(config.cameras)),
    draw=sampling.make_draw(t_min=t_min, t_max=t_max, shape=prior.latent, density=s.density, antithetic=s.antithetic),
    views=s.views, dims=s.draws // (2 if s.antithetic else 1))
  ids = jnp.arange(s.views)

  def draw_scene(size, code, camera, key, step):
    if config.scene.name == 'image':             # seen whole by every camera
      return picture(code['field'])
    k_image, k_background, k_light = jax.random.split(key, 3)
    light = render.sample_light(k_light, camera, shaded=shaded(step), textureless=textureless(step)) if r.shaded != NEVER else None
    return render.image(k_image, partial(scene.field, code), camera, size=size, samples=r.samples, fine=r.fine, radius=r.radius,
                        chunk=r.chunk or None, remat=r.remat, light=light,
                        distance=scene.distance and partial(scene.distance, code),
                        background=partial(background.colour, code['background'], k_background))

  def stage(size):
    """(parts, jitted step) at renders of `size` pixels."""
    see = train_step.make_picture(scene=scene, render=partial(draw_scene, size), regularize=regularize)
    gradient = train_step.make_gradient(picture=see, estimator=estimator)
    local_step = train_step.make_local_step(sample=sample, gradient=gradient, tx=tx)
    mapped = train_step.data_parallel(train_step.several(local_step, config.steps_per_call), mesh, how=config.mesh.map,
                                      many=bool(config.corpus.path))
    return (Parts(estimator, sample, see, gradient, tx),
            jax.jit(lambda state, prior, text: mapped(state, prior, text, ids), donate_argnums=0))
  starts, sizes = zip(*check_stages(config, prior))
  parts, steps = zip(*map(stage, sizes))

  def init(key):
    k_scene, k_est, k_run = jax.random.split(key, 3)
    params = {'scene': scene.init(k_scene), 'est': estimator.init(k_est)}
    return TrainState(jnp.int32(0), params, tx.init(params), k_run)

  @jax.jit
  def code(params, text):
    return scene.focus(scene.prepare(params, text._replace(noise=jnp.zeros(train_step.NOISE))), config.steps)

  @jax.jit
  def show(code, camera, background):
    return render.image(key, partial(scene.field, code), camera, size=e.size, samples=e.samples, fine=e.get('fine', 0),
                        radius=r.radius, jitter=0., background=lambda direction: background, chunk=e.chunk or None)

  at = lambda code, xyz: jax.vmap(partial(scene.field, code))(xyz)
  return Job(prompts=phrases, init=jax.jit(init), stages=tuple(zip(starts, steps)), stride=config.steps_per_call,
             prior=prior, text=text, told=told, code=code, render=show,
             density=jax.jit(lambda code, xyz: at(code, xyz)[0]), colour=jax.jit(lambda code, xyz: at(code, xyz)[1][:, :3]),
             radius=r.radius, size=config.eval.size, parts=parts[0])


def restore(workdir: pathlib.Path) -> tuple[ConfigDict, Job, TrainState]:
  """The run in `workdir` at its newest checkpoint, on one device. ValueError where there is none."""
  config = ConfigDict(checkpoints.tuples(checkpoints.read_options(workdir)))
  config.mesh.data = 1
  built = job(config, make_mesh(config))
  with checkpoints.manager(workdir, keep=config.keep) as saved:
    found = checkpoints.restore(saved, built.init(jax.random.key(config.seed)))
  if not found:
    raise ValueError(f'{workdir} holds no finished checkpoint: train it first')
  return config, built, found[0]
