"""The variance laboratory against closed forms under the Gaussian prior, and what it makes of a method's text."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from jaxdreamer import build, cameras, laboratory, moments, sampling, train_step
from jaxdreamer.baselines.constant import constant
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.ssd import ssd
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.scenes.image import image, picture

SIZE, STD, VIEWS = 4, .5, 2
SHAPE = (SIZE, SIZE, 3)
PRIOR = gaussian(jnp.full(SHAPE, .3), std=STD)
RANGES = dict(azimuth=(-1., 1.), elevation=(0., 1.), distance=(3., 3.), fov=(.7, .7))


def parts(estimator, *, draws=1, design=sampling.independent):
  scene = image(size=SIZE, squash=lambda x: x)
  see = train_step.make_picture(scene=scene, regularize=lambda shown, step: jnp.zeros(()),
                                render=lambda code, camera, key, step: picture(code))
  sample = train_step.make_sample(
    design=design, camera_from=partial(cameras.from_uniform, **RANGES), views=VIEWS, dims=draws,
    draw=sampling.make_draw(t_min=lambda i: .2, t_max=lambda i: .8, shape=SHAPE))
  built = build.Parts(estimator, sample, see, train_step.make_gradient(picture=see, estimator=estimator))
  return built, {'scene': scene.init(jax.random.key(0)), 'est': estimator.init(jax.random.key(1))}


def measured(name, estimator, *, cameras=60, repeats=60, **sampled):
  built, params = parts(estimator, **sampled)
  subject = laboratory.Subject(name, None, None, None, None)
  nested = jax.jit(laboratory.make_nested(built, times=3, noises=2))
  whole = jax.jit(laboratory.make_whole(built, views=VIEWS))
  told = params, PRIOR, PRIOR.embed(''), 0
  sections, power = zip(*(jax.device_get(nested(k, *told)) for k in jax.random.split(jax.random.key(2), cameras)))
  gradients = np.stack([whole(k, *told) for k in jax.random.split(jax.random.key(3), repeats)])
  return laboratory.Measured(*(laboratory.gather([s[space] for s in sections], (3, 2)) for space in ('image', 'parameter')),
                             tuple(np.concatenate(a) for a in zip(*power)), gradients, np.full(repeats, .5)), subject


def noise_gain(t):
  """d r / d eps of SDS at guidance 1: w (d eps_hat / d eps - 1)."""
  alpha, sigma = PRIOR.schedule.alpha(t), PRIOR.schedule.sigma(t)
  return sigma ** 2 * (sigma ** 2 / (alpha ** 2 * STD ** 2 + sigma ** 2) - 1.)


def test_the_noise_part_is_its_closed_form_and_a_picture_has_no_camera_part():
  seen, _ = measured('sds', sds(guidance=lambda i: 1.), cameras=200)
  t = jnp.linspace(.2, .8, 10_001)
  want = SIZE * SIZE * 3 * float(jnp.mean(noise_gain(t) ** 2))
  got = moments.bootstrap(lambda w: moments.parts(seen.image, w)['noise'], 200)
  assert got.lower <= want <= got.upper and got.upper - got.lower < .2 * want
  # In image space of the identity the gradient is the residual, and the camera moves nothing.
  camera = moments.bootstrap(lambda w: moments.parts(seen.parameter, w)['camera'], 200)
  assert camera.lower <= 0. <= camera.upper
  np.testing.assert_allclose(seen.parameter.noise, seen.image.noise, rtol=1e-4)


def test_comparing_a_method_with_itself_and_with_a_better_one():
  one = lambda i: 1.
  reference, _ = measured('sds', sds(guidance=one))
  spread, _ = measured('sds', sds(guidance=one), design=sampling.stratified, draws=4)
  raw = ssd(guidance=one, phi=(constant(),), shape=SHAPE)
  raw = raw._replace(init=lambda key: {'mu': jnp.zeros((10, 1, 1, 1, 1))})
  without, _ = measured('raw', raw)
  rows = laboratory.compare([{'sds': reference, 'same': reference, 'spread': spread, 'raw': without}])
  assert rows['same']['step'].mean == rows['same']['parameter'].mean == rows['same']['cosine'].mean == pytest.approx(1.)
  assert rows['same']['bias'].mean == rows['same']['bias'].upper == 0.
  assert rows['spread']['step'].upper < .5 and rows['spread']['cost'] == 1.
  for name in ('spread', 'raw'):                 # other draws, and another variate: the same mean
    assert rows[name]['bias'].lower <= 0. <= rows[name]['bias'].upper or rows[name]['bias'].mean < .1, rows[name]['bias']
  assert rows['raw']['parameter'].lower > 1.     # without its noise term SDS varies more
  assert sum(rows['sds'][part].mean for part in ('camera', 'time', 'noise')) == pytest.approx(1.)


def test_the_best_density_follows_the_power_of_the_gradient():
  reference, _ = measured('sds', sds(guidance=lambda i: 1.), cameras=400, repeats=3)
  density = laboratory.best_density([{'sds': reference}], t_min=.2, t_max=.8)
  assert np.mean(density) == pytest.approx(1., abs=.01) and min(density) > 0.
  alpha, sigma = PRIOR.schedule.alpha, PRIOR.schedule.sigma
  t = jnp.linspace(.2, .8, laboratory.BINS * 100).reshape(laboratory.BINS, -1)
  z = parts(sds(guidance=lambda i: 1.))[1]['scene']['image']
  force = sigma(t) ** 3 * alpha(t) / (alpha(t) ** 2 * STD ** 2 + sigma(t) ** 2)
  root = jnp.sqrt(jnp.mean(force ** 2 * jnp.sum((z - .3) ** 2) + z.size * noise_gain(t) ** 2, 1))
  np.testing.assert_allclose(density, root / root.mean(), rtol=.15)


def test_a_methods_text_changes_the_config_and_nothing_else():
  method = 'ssd estimator.ssd.phi=constant,depth estimator.ssd.guidance=5 sampling.draws=4'
  config = laboratory.configured(base.get_config(), method)
  assert config.estimator.name == 'ssd' and config.estimator.ssd.phi == ('constant', 'depth')
  assert config.estimator.ssd.guidance == (5,) and config.sampling.draws == 4 and config.sampling.design == 'independent'
  assert laboratory.configured(base.get_config(), 'ssd estimator.ssd.phi=depth').estimator.ssd.phi == ('depth',)
  assert base.get_config().sampling.design == 'stratified'
  for wrong in ('sds sampling.drawn=3', 'sds estimator.ssd.phi.x=1', 'sds nothing=1'):
    with pytest.raises(ValueError, match='--methods'):
      laboratory.configured(base.get_config(), wrong)


def test_a_picture_names_a_method_by_the_last_names_of_its_options():
  method = 'csd sampling.draws=2 estimator.csd.weight=uniform sampling.t_min=.2'
  assert laboratory.label(method) == 'csd draws=2 weight=uniform t_min=.2'
  assert laboratory.label(method, between='\n').splitlines() == ['csd', 'draws=2', 'weight=uniform', 't_min=.2']


def test_large_gradients_are_folded_without_changing_inner_products(monkeypatch):
  a, b = (jax.random.normal(k, (30_000,)) for k in jax.random.split(jax.random.key(4)))
  exact = jnp.dot(a + b, a)
  monkeypatch.setattr(laboratory, 'LARGEST', 8192)
  folded = jnp.dot(laboratory.flat({'x': a[:7], 'y': a[7:]}) + laboratory.flat(b), laboratory.flat(a))
  assert abs(folded / exact - 1.) < 4. * (2. / 8192) ** .5
