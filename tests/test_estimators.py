"""What no estimator may ignore: the other sides that Perp-Neg leads away from, the negative prompt,
w(t), and the draws' weights; and what the step does for it, whatever the estimator: it weighs
draws, and has what it learns from all devices alike."""
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from configs import base
from jaxdreamer import (
  build,
  cameras,
  conditioning,
  diffusion,
  optim,
  parallel,
  sampling,
  train_step,
)
from jaxdreamer.estimators.asd import asd
from jaxdreamer.estimators.csd import csd
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.ssd import ssd
from jaxdreamer.estimators.vsd import vsd
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.types import Draws, Rendering, Scene, Text, TrainState

N, SHAPE, SCALE, SHARE = 3, (1, 1, 2), 5., .3
FIVE = {'sds': sds(guidance=SCALE), 'csd': csd(omega2=SHARE), 'asd': asd(guidance=SCALE, eta=0.),
        'ssd': ssd(guidance=SCALE), 'vsd': vsd(guidance=SCALE)}
every_estimator = pytest.mark.parametrize('name', FIVE)


def prior():
  """One whose prediction, of two channels, tells texts apart, and whose one matrix a LoRA can
  find."""
  known = gaussian(jnp.zeros(SHAPE), std=.5)
  return known.replace(
    weights=known.weights | {'attn1': {'to_q': {'kernel': jnp.ones((1, 1))}}},
    eps_fn=lambda weights, z_t, t, text, camera: .3 * z_t
    + jnp.concatenate([text[..., None], text[..., None] ** 2 + .5], -1))


PRIOR = prior()


def draws(*, weight=1.):
  return oracle.draws(jnp.array([.2, .5, .8]), shape=SHAPE, weight=weight, t_min=.02)


def text(*, negative=-.4):
  """Words of the sides, plain, empty and negative text, all of them other numbers."""
  row = lambda v: jnp.full((1, 1), v)
  return Text(jnp.linspace(-1., 1., 4)[:, None, None], row(.8), row(0.), row(negative))


# between two sides
CAMERA = jax.vmap(lambda azimuth: cameras.orbital(azimuth, 0., 3., .7))(jnp.array([.4, .9, 2.]))
Z = jnp.full((N, *SHAPE), .2)


def run(name, *, perp_neg=0., drawn=None, **options):
  estimator = FIVE[name]
  views = conditioning.condition(text(**options), CAMERA, perp_neg=perp_neg)
  est = estimator.init(jax.random.key(1), PRIOR)
  return train_step.residual(estimator, drawn or draws(), est, PRIOR, Z, views, 0)[0]


def published(name, perp_neg):
  """r of the papers, of predictions that are made one at a time."""
  d, rows = draws(), text()
  z_t = diffusion.diffuse(Z, d.t, d.eps, schedule=PRIOR.schedule)
  eps = lambda row: PRIOR.eps(z_t, d.t, jnp.broadcast_to(row, (N, 1, 1)), None)
  own, others, weights = jax.vmap(lambda azimuth: diffusion.perp_neg_texts(
    rows.views, azimuth, jnp.zeros(())))(CAMERA.azimuth)
  if not perp_neg:                               # front, side, side
    own = rows.views[jnp.array([0, 1, 1])]
  follow = lambda away, scale: diffusion.perp_neg(eps(own), eps(away),
                                                  [eps(others[:, k]) for k in (0, 1)],
                                                  perp_neg * weights, scale)
  if name == 'csd':
    return follow(rows.negative, 1.) + (SHARE - 1.) * eps(rows.null) - SHARE * eps(rows.negative)
  minus = {'sds': d.eps, 'ssd': d.eps, 'asd': eps(own), 'vsd': eps(rows.plain)}[name]
  return follow(rows.negative, SCALE) - minus


@pytest.mark.slow
@every_estimator
@pytest.mark.parametrize('perp_neg', [0., .5])
def test_perp_neg_and_the_negative_prompt_enter_as_published(name, perp_neg):
  want = published(name, perp_neg)
  np.testing.assert_allclose(run(name, perp_neg=perp_neg), want, rtol=1e-4, atol=1e-5)
  assert np.abs(published(name, .5 - perp_neg) - want).max() > .05       # so it matters
  assert np.abs(run(name, perp_neg=perp_neg, negative=0.) - want).max() > .05


@every_estimator
def test_the_weights_of_draws_multiply_the_residual(name):
  each = jnp.array([.5, 2., 3.])
  np.testing.assert_allclose(run(name, drawn=draws(weight=each)),
                             each[:, None, None, None] * run(name), rtol=1e-5)


def small():
  """A prior for the config."""
  return prior().replace(image_size=4, encode_fn=lambda weights, x: x[:, :1, :1, :2])


@pytest.mark.slow
@every_estimator
def test_the_config_says_which_w_of_t_and_a_residual_of_length_one_has_none(name):
  config = base.get_config()
  config.update_from_flattened_dict({
    'estimator.name': name, 'prior.name': f'{__name__}:small', 'sampling.density': (1., 3.),
    'sampling.views': 8})
  def weights():
    training = build.training(config, build.make_mesh(config))
    _, drawn, _ = training.parts.sample(jax.random.key(3), jnp.arange(8), 0)
    fair = 4. / jnp.where(drawn.t < .5, 2., 6.)
    return drawn.weight / fair, drawn.t
  for weight, w in sampling.WEIGHTS.items():
    config.sampling.weight = weight
    got, t = weights()
    np.testing.assert_allclose(got, w(PRIOR.schedule, t), rtol=1e-5)
  if name == 'csd':
    config.estimator.csd.normalize = True
    np.testing.assert_allclose(weights()[0], 1., rtol=1e-5)
  config.sampling.weight = 'none'
  with pytest.raises(ValueError, match="config.sampling.weight='none'"):
    weights()


# A scene of three numbers that colors the whole picture.
SIZE = 4


def one_color():
  def render(code, camera, key, step):
    rgb, flat = jnp.broadcast_to(code[None, None], (SIZE, SIZE, 3)), jnp.ones((SIZE, SIZE))
    return Rendering(rgb, flat, flat, rgb, flat, flat, flat)
  scene = Scene(lambda key: jnp.zeros(3), lambda params, y: params, lambda code, xyz: (0., code))
  return train_step.make_render_latents(scene=scene, render=render,
                                        regularize=lambda rendering, step: jnp.zeros(()))


WORLD = gaussian(jnp.zeros((SIZE, SIZE, 3)), std=.5)


def gradient_of(estimator, *, views=2):
  """(est, key, step, weight) -> the gradient of a step of `views` random views."""
  gradient = train_step.make_gradient(render_latents=one_color(), estimator=estimator)
  camera = jax.vmap(lambda a: cameras.orbital(a, 0., 3., .7))(jnp.linspace(0., 1., views))
  def of(est, key, step, weight):
    k_t, k_eps = jax.random.split(key)
    keys = jax.random.split(key, views)
    drawn = Draws(jax.random.uniform(k_t, (views,), minval=.05, maxval=.95),
                  jax.random.normal(k_eps, (views, SIZE, SIZE, 3)),
                  weight * jnp.ones(views), keys, jnp.zeros(views))
    params = {'scene': jnp.zeros(3), 'est': est}
    return gradient(params, WORLD, WORLD.embed(''), camera, drawn, keys, step)[0]
  return of


def test_the_gradient_of_a_step_is_proportional_to_the_weights_of_its_draws():
  of = jax.jit(gradient_of(sds(guidance=1.)))
  one, three = (of((), jax.random.key(2), 0, weight)['scene'] for weight in (1., 3.))
  np.testing.assert_allclose(three, 3. * one, rtol=1e-5)


@pytest.mark.slow
def test_what_an_estimator_learns_of_a_step_is_the_same_however_many_devices_there_are():
  """Of SSD the running moments, to which each device's own draws add."""
  estimator = ssd(guidance=1.)
  tx = optim.chain((('.*', .5, 'sgd'),))
  sample = sampling.make_sample(
    design=sampling.independent, views=4, camera_from=lambda u: cameras.orbital(u[0], u[1], 3., .7),
    draw=sampling.make_draw(noise=WORLD.schedule, t_min=.1, t_max=.9, shape=(SIZE, SIZE, 3)))
  gradient = train_step.make_gradient(render_latents=one_color(), estimator=estimator)
  local_step = train_step.make_local_step(sample=sample, gradient=gradient, tx=tx)
  params, seen = {'scene': jnp.zeros(3), 'est': estimator.init(jax.random.key(0), WORLD)}, []
  for devices in (1, 4):
    mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,),
                         devices=jax.devices()[:devices])
    step = parallel.data_parallel(local_step, mesh)
    # it is donated
    state = jax.tree.map(jnp.copy, TrainState(jnp.int32(0), params, tx.init(params),
                                              jax.random.key(2)))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    for _ in range(3):
      state, _ = step(state, WORLD, WORLD.embed(''), jnp.arange(4))
    seen.append(jax.device_get(state.params['est']['moments']))
  assert np.abs(seen[0]['b'] - params['est']['moments']['b']).max() > .01
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *seen)
