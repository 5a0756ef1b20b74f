"""config -> functions, through dicts one can see. The only reader of config besides the loop's own
settings.

A section such as config.scene holds `name` and, under each name it may take, that function's
keyword arguments. ValueError and FileNotFoundError, one line each, for what cannot be built;
nothing is compiled before all of it has been checked.
"""
import inspect
import math
from functools import partial
from typing import Callable, Collection

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdreamer import (
  build_sample,
  cameras,
  checks,
  conditioning,
  corpus,
  guard,
  objects,
  optim,
  options,
  parallel,
  places,
  processes,
  render,
  restoring,
  seeds,
  train_step,
)
from jaxdreamer.registry import (
  BACKGROUNDS,
  ESTIMATORS,
  LEARNED,
  NORMALS,
  PRIORS,
  READERS,
  SCENES,
  make_regularize,
  pick,
  read_corpus,
)
from jaxdreamer.scenes import backgrounds
from jaxdreamer.scenes.backgrounds import with_background
from jaxdreamer.scenes.particles import stacked
from jaxdreamer.schedules import at, is_never
from jaxdreamer.toybox import xla_flags
from jaxdreamer.training import Parts, Training, first_state
from jaxdreamer.types import Prior, Rendering, Scene, Text
from jaxdreamer.weights import model_shapes


def make_prior(config) -> Prior:
  """The prior of config.prior. Of what the run knows, registry.FACTS, it is given what it asks
  for."""
  p = config.prior
  places.check_named(p)
  make = pick(PRIORS, p, 'prior')
  facts = {'key': seeds.key(config.seed), 'prompt': config.prompt, 'kind': config.render.kind,
           'path': places.weights_at(p), 'lora': p.lora, 'lora_scale': p.lora_scale}
  asked = inspect.signature(make).parameters
  if facts['lora'] and 'lora' not in asked:
    raise ValueError(f'config.prior.lora={p.lora!r}: config.prior.name={p.name!r} takes none; '
                     'published models do')
  return make(**{name: fact for name, fact in facts.items() if name in asked})


def make_mesh(config) -> Mesh:
  """The mesh of config.mesh over all devices; data = 0 takes all that are there, or the most that
  divide the views."""
  options.check(config)
  if config.mesh.map not in ('shard_map', 'pmap'):
    raise ValueError(f"config.mesh.map={config.mesh.map!r}: takes one of ['pmap', 'shard_map']")
  return processes.make_mesh(config.sampling.views, data=config.mesh.data,
                             ring=options.ring(config.sampling), how=config.mesh.map,
                             model=config.mesh.model)


def make_text(config, prior: Prior, mesh: Mesh) -> Callable[[int], Text]:
  """step -> the Text that it takes: of config.prompt, alone or beside pictures to restore, or of
  some prompts of the corpus."""
  embed, c = embedder(config, prior), config.corpus
  if restoring.is_one(config):
    return restoring.texts(config, prior, embed(config.prompt), mesh)
  if not c.path:
    text = processes.place(embed(config.prompt), mesh)
    return lambda step: text
  return corpus.texts(read_corpus(c.path), embed, folder=c.store, each=c.prompts,
                      seed=config.seed, negative=config.negative_prompt,
                      sharding=NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


def make_reader(config) -> Callable[[str], Text]:
  """`embedder`'s of config.prior, without the rest of it where the prior can do without."""
  p = config.prior
  if p.name not in READERS:
    return embedder(config, make_prior(config))
  read = READERS[p.name](path=places.weights_at(p))
  return lambda prompt: read(prompt, config.negative_prompt)


def embedder(config, prior: Prior) -> Callable[[str], Text]:
  """prompt -> its Text, beside the negative prompt of the run."""
  return lambda prompt: prior.embed(prompt, config.negative_prompt)


def make_optimizer(config) -> optax.GradientTransformation:
  """The optax chain of config.optim."""
  o = config.optim
  return optim.chain(o.groups, b1=o.b1, b2=o.b2, eps=o.eps, weight_decay=o.weight_decay,
                     clip=o.clip, accumulate=o.accumulate,
                     particles=config.scene.particles)


def make_background(config, *, random: bool = True) -> backgrounds.Background:
  """The background of config.render: `hypernet` reads prompts as the scene does, and those that
  learn share with random colors, unless `random` is False."""
  r = config.render
  learns = random and r.background in LEARNED
  reads = {'text': config.scene[config.scene.name].text} if r.background == 'hypernet' else {}
  background = BACKGROUNDS[r.background](**r.backgrounds.get(r.background, {}), **reads)
  return backgrounds.mixed(background, probability=r.random_background) if learns else background


def make_scene(config, *, prior: Prior | None = None) -> Scene:
  """The scene of config.scene before the background of config.render; what restores pictures
  adapts the `prior`."""
  s = config.scene
  if restoring.is_one(config):
    return restoring.scene(config, prior)
  texture = s.get(s.name, {}).get('texture')     # a scene itself, with the options of its section
  given = {'texture': partial(SCENES[texture], **s[texture])()} if texture else {}
  field, n = pick(SCENES, s, 'scene')(**given), s.particles
  return with_background(stacked(field, n) if n > 1 else field, make_background(config))


def make_render(config, scene: Scene) -> Callable[..., Rendering]:
  """(pixels, code, one Camera, key, step) -> Rendering, of config.render."""
  r, background = config.render, make_background(config)

  def draw(size, code, camera, key, step):
    k_image, k_background, k_light = jax.random.split(key, 3)
    light = None if is_never(r.shaded) else render.sample_light(
      k_light, camera, shaded=at(r.shaded, step), textureless=at(r.textureless, step),
      **r.light)
    shade = (render.normal_color if r.kind == 'normal' else partial(render.lit, light) if light
             else render.unlit)
    sky = partial(background.color, code['background'], k_background)
    if scene.render:
      return scene.render(code, camera, size=size, background=sky, shade=shade)
    return render.image(k_image, partial(scene.field, code), camera, size=size, samples=r.samples,
                        fine=r.fine, radius=r.radius, disparity=r.disparity, room=r.room,
                        chunk=r.chunk or None, remat=r.remat, shade=shade,
                        normals=NORMALS[r.normals],
                        distance=scene.distance and partial(scene.distance, code),
                        clearness=scene.clearness and partial(scene.clearness, code),
                        background=sky)
  return draw


def training(config, mesh: Mesh, *, abstract: bool = False, prior: Prior | None = None,
             saved: Collection[int] = ()) -> Training:
  """The training that `config` describes, on `mesh`, of a run with checkpoints at the steps
  `saved`, with its `prior` if that is here already. `abstract`: it may be the shapes of a model
  that is not here."""
  config = options.expanded(config)
  checks.check(config, mesh)
  config.steps_per_call = options.per_call(config, platform=mesh.devices.flat[0].platform,
                                           saved=saved)
  if config.prior.path == model_shapes.SHAPES and not abstract:
    raise ValueError(f'config.prior.path={model_shapes.SHAPES!r}: takes weights; shapes alone are '
                     'for python -m jaxdreamer.doctor')
  with processes.in_host_memory(mesh):
    prior = prior or make_prior(config)
  estimator = pick(ESTIMATORS, config.estimator, 'estimator')()
  scene = make_scene(config, prior=prior)
  # so they enter the step as arguments
  if more := estimator.load() | restoring.load(config):
    prior = prior.replace(weights=prior.weights | more)
  jax.eval_shape(estimator.init, seeds.key(config.seed), prior)      # or it refuses the prior
  checks.check_views(config, prior.views_per_scene)
  text, tx = make_text(config, prior, mesh), make_optimizer(config)
  sample = build_sample.make_sample(config, prior, estimator)
  draw, regularize = make_render(config, scene), make_regularize(config.regularizers)
  words = config.cameras.words and partial(
    cameras.view_bin, **{side: math.radians(config.cameras[side]) for side in ('front', 'back')})
  condition = partial(conditioning.condition, words=words or None, perp_neg=config.perp_neg)
  ids = jnp.arange(config.sampling.views)
  told = xla_flags.deterministic() if config.deterministic else {}

  def over_mesh(step):
    mapped = parallel.data_parallel(step, mesh, how=config.mesh.map,
                                    many=bool(config.corpus.path or scene.latents))
    return jax.jit(lambda state, prior, text: mapped(state, prior, text, ids), donate_argnums=0,
                   compiler_options=told)
  def stage(size):
    """(parts, jitted step, jitted look) at renders of `size` pixels."""
    latents = train_step.make_render_latents(scene=scene, render=partial(draw, size),
                                             regularize=regularize, condition=condition)
    made = Parts(estimator, sample, latents,
                 train_step.make_gradient(render_latents=latents, estimator=estimator), tx)
    step = guard.guarded(train_step.make_local_step(sample=sample, gradient=made.gradient, tx=tx,
                                                    axes=mesh.axis_names,
                                                    ordered=processes.on_cpus(mesh)))
    return (made, over_mesh(parallel.scan_steps(step, config.steps_per_call)),
            over_mesh(guard.make_look(made, axes=mesh.axis_names)))
  starts, sizes = zip(*checks.check_stages(config, prior))
  parts, steps, looks = zip(*map(stage, sizes))
  init = partial(first_state, scene=scene, estimator=estimator, prior=prior, tx=tx)
  return Training(jax.jit(init, compiler_options=xla_flags.once()), tuple(zip(starts, steps)),
                  config.steps_per_call, prior, text, parts[0], tuple(zip(starts, looks)))


def phrases(config) -> tuple[str, ...]:
  """The prompts that a run of `config` learns."""
  path = options.expanded(config).corpus.path
  return read_corpus(path) if path else (config.prompt,)


def model(config, embed: Callable[[str], Text], phrases: tuple[str, ...]) -> objects.Model:
  """What a run of `config` learns of its `phrases`, at the settings of config.eval. `embed` is
  `embedder`'s or `make_reader`'s."""
  config = options.expanded(config)
  e, r = config.eval, config.render
  background = make_background(config, random=False)
  # one that is learned is part of a scene one stands in
  sky = background.color if e.inside and r.background in LEARNED else None
  return objects.model(seeds.key(config.seed), make_scene(config), prompts=phrases, embed=embed,
                       step=config.steps, size=e.size, samples=e.samples, fine=e.fine,
                       ball=r.radius, radius=e.radius or r.radius, inside=e.inside,
                       disparity=r.disparity, sky=sky, chunk=e.chunk or None)
