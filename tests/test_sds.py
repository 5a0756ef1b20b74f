"""SDS under the Gaussian prior, whose answer is exact."""
import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.diffusion import cosine
from jaxdreamer.estimators.sds import sds
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.sampling import WEIGHTS
from jaxdreamer.train_step import residual
from jaxdreamer.types import Draws, Views

MEAN, STD, N = .4, .5, 100_000


def draws(n, t):
  eps = jax.random.normal(jax.random.key(0), (n, 1, 1, 1))
  return Draws(jnp.full(n, t), eps, jnp.ones(n), jax.random.split(jax.random.key(1), n),
               jnp.zeros(n))


def views(n):
  one, zero = jnp.ones((n, 1, 1)), jnp.zeros((n, 1, 1))
  return Views(None, one, one, zero, zero)


def test_expectation_equals_the_closed_form():
  prior = gaussian(jnp.full((1, 1, 1), MEAN), std=STD)
  z, t = jnp.full((N, 1, 1, 1), -.9), .5
  r, _ = residual(sds(guidance=1.), draws(N, t), (), prior, z, views(N), 0)
  alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
  exact = sigma * alpha * (-.9 - MEAN) / (alpha ** 2 * STD ** 2 + sigma ** 2)
  assert abs(float(r.mean() - exact)) < 3. * float(r.std()) / N ** .5


def test_guidance_beyond_one_adds_the_classifier_score():
  prior = gaussian(jnp.full((1, 1, 1), MEAN), std=STD, null_mean=jnp.zeros((1, 1, 1)))
  z = jnp.full((16, 1, 1, 1), .2)
  one, five = (residual(sds(guidance=s), draws(16, .4), (), prior, z, views(16), 0)[0]
               for s in (1., 5.))
  d, v = draws(16, .4), views(16)
  alpha, sigma = prior.schedule.alpha(.4), prior.schedule.sigma(.4)
  z_t = alpha * z + sigma * d.eps
  score = prior.eps(z_t, d.t, v.text, None) - prior.eps(z_t, d.t, v.null, None)
  np.testing.assert_allclose(five - one, 4. * score, rtol=1e-3, atol=1e-5)


def test_weights_are_those_of_their_papers():
  s, t = cosine(), jnp.array([.3, .7])
  np.testing.assert_allclose(WEIGHTS['sigma2'](s, t), 1. - s.alpha(t) ** 2, rtol=1e-5)
  np.testing.assert_allclose(WEIGHTS['uniform'](s, t), 1.)


def test_importance_weights_scale_each_draw():
  prior = gaussian(jnp.full((1, 1, 1), MEAN), std=STD)
  d, z = draws(4, .5), jnp.zeros((4, 1, 1, 1))
  estimator = sds(guidance=1.)
  r, _ = residual(estimator, d, (), prior, z, views(4), 0)
  r2, _ = residual(estimator, d._replace(weight=jnp.array([0., 1., 2., 3.])), (), prior, z,
                   views(4), 0)
  np.testing.assert_allclose(r2, r * jnp.arange(4.)[:, None, None, None], rtol=1e-5)
