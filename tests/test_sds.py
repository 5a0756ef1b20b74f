"""SDS under the Gaussian prior, whose answer is exact."""
import jax.numpy as jnp
import numpy as np
import oracle

from jaxdreamer.diffusion import cosine
from jaxdreamer.estimators.sds import sds
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.sampling import WEIGHTS

MEAN, STD, N = .4, .5, 100_000


def test_expectation_equals_the_closed_form():
  prior = gaussian(jnp.full((1, 1, 1), MEAN), std=STD)
  r = oracle.residual(sds(guidance=1.), prior, oracle.draws(jnp.full(N, .5)), -.9)
  b, alpha, _ = oracle.gain(prior, STD, .5)
  exact = b * alpha * (-.9 - MEAN)
  assert abs(float(r.mean() - exact)) < 3. * float(r.std()) / N ** .5


def test_guidance_beyond_one_adds_the_classifier_score():
  prior = gaussian(jnp.full((1, 1, 1), MEAN), std=STD, null_mean=jnp.zeros((1, 1, 1)))
  d, v = oracle.draws(jnp.full(16, .4)), oracle.views(16)
  one, five = (oracle.residual(sds(guidance=s), prior, d, .2) for s in (1., 5.))
  alpha, sigma = prior.schedule.alpha(.4), prior.schedule.sigma(.4)
  z_t = alpha * .2 + sigma * d.eps
  score = prior.eps(z_t, d.t, v.text, None) - prior.eps(z_t, d.t, v.null, None)
  np.testing.assert_allclose(five - one, 4. * score, rtol=1e-3, atol=1e-5)


def test_weights_are_those_of_their_papers():
  s, t = cosine(), jnp.array([.3, .7])
  np.testing.assert_allclose(WEIGHTS['sigma2'](s, t), 1. - s.alpha(t) ** 2, rtol=1e-5)
  np.testing.assert_allclose(WEIGHTS['uniform'](s, t), 1.)


def test_importance_weights_scale_each_draw():
  prior = gaussian(jnp.full((1, 1, 1), MEAN), std=STD)
  of = lambda weight: oracle.residual(sds(guidance=1.), prior,
                                      oracle.draws(jnp.full(4, .5), weight=weight), 0.)
  r, r2 = of(1.), of(jnp.arange(4.))
  np.testing.assert_allclose(r2, r * jnp.arange(4.)[:, None, None, None], rtol=1e-5)
