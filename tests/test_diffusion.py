"""The algebra of the forward process."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import diffusion
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.types import Views

T = jnp.linspace(.001, .998, 64)


@pytest.mark.parametrize('schedule', [diffusion.cosine(), diffusion.cosine(shift=.5),
                                      diffusion.ddpm()])
def test_schedules_preserve_variance_and_only_grow_noisier(schedule):
  alpha, sigma = schedule.alpha(T), schedule.sigma(T)
  np.testing.assert_allclose(alpha ** 2 + sigma ** 2, 1., atol=1e-6)
  assert (jnp.diff(sigma) > 0).all() and (alpha > 0).all() and (sigma > 0).all()


def test_ddpm_schedule_equals_the_published_table():
  schedule = diffusion.ddpm()
  t = jnp.array([20., 200., 500., 750., 980., 999.]) / 999.
  np.testing.assert_allclose(schedule.alpha(t) ** 2, [.98131, .75369, .27633, .05617, .00584,
                                                      .00466], atol=2e-5)


def test_shift_multiplies_noise_to_signal():
  one, half = diffusion.cosine(), diffusion.cosine(shift=.5)
  np.testing.assert_allclose(half.sigma(T) / half.alpha(T), 2. * one.sigma(T) / one.alpha(T),
                             rtol=2e-4)


def test_predictions_convert_into_one_another():
  key = jax.random.key(0)
  x0, eps = jax.random.normal(key, (2, 5, 4, 4, 3))
  alpha, sigma = .6, .8
  z_t = alpha * x0 + sigma * eps
  np.testing.assert_allclose(diffusion.x0_from_eps(eps, z_t, alpha, sigma), x0, atol=1e-5)
  targets = {'epsilon': eps, 'v_prediction': alpha * eps - sigma * x0, 'sample': x0}
  assert targets.keys() == diffusion.PREDICTIONS.keys()
  for name, target in targets.items():
    prediction = diffusion.PREDICTIONS[name]
    np.testing.assert_allclose(prediction.eps(target, z_t, alpha, sigma), eps, atol=1e-5)
    off = .1 * x0 ** 2
    away = prediction.eps(target + off, z_t, alpha, sigma) - eps
    np.testing.assert_allclose(jnp.abs(off), prediction.error(jnp.float32(alpha), jnp.float32(
        sigma)) * jnp.abs(away), atol=1e-5)


def test_guidance_scale_one_is_conditional_and_zero_is_unconditional():
  y, null = jax.random.normal(jax.random.key(1), (2, 3, 4))
  np.testing.assert_allclose(diffusion.guide(y, null, 1.), y, atol=1e-6)
  np.testing.assert_allclose(diffusion.guide(y, null, 0.), null, atol=1e-6)


def test_dreamfusion_guidance_is_ours_less_one():
  y, null = jax.random.normal(jax.random.key(1), (2, 3, 4))
  omega = 100.
  np.testing.assert_allclose((1. + omega) * y - omega * null, diffusion.guide(y, null, 1. + omega),
                             rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_rescale_zero_changes_nothing_and_one_restores_the_conditional_deviation():
  y, guided = jax.random.normal(jax.random.key(2), (2, 3, 8, 8, 4)) * jnp.array([1., 3.])[
      :, None, None, None, None]
  np.testing.assert_array_equal(diffusion.rescale(guided, y, factor=0.), guided)
  np.testing.assert_allclose(jnp.std(diffusion.rescale(guided, y, factor=1.), axis=(1, 2, 3)),
                             jnp.std(y, axis=(1, 2, 3)), rtol=1e-4)


def test_ddim_carries_noise_to_the_gaussian_data_distribution():
  mean, std = jnp.full((4, 4, 1), .7), .3
  prior = gaussian(mean, std=std)
  text = jnp.ones((512, 1, 1))
  z = jax.random.normal(jax.random.key(3), (512, 4, 4, 1))
  x = diffusion.ddim(jax.jit(lambda z, t: prior.eps(z, t, text, None)), z,
                     np.linspace(1., .01, 100),
                     schedule=prior.schedule)
  assert abs(float(x.mean()) - .7) < .02 and abs(float(x.std()) - std) < .02


@pytest.mark.slow
def test_guided_batches_two_rows_and_equals_two_calls():
  prior = gaussian(jnp.ones((2, 2, 1)), std=.5, null_mean=-jnp.ones((2, 2, 1)))
  z = jax.random.normal(jax.random.key(4), (3, 2, 2, 1))
  t, y, null = jnp.array([.2, .5, .8]), jnp.ones((3, 1, 1)), jnp.zeros((3, 1, 1))
  views = Views(None, y, y, null, null)
  both, later = diffusion.guided_and(prior, z, t, views, [(z, .5 * t)], scale=4.)
  np.testing.assert_array_equal(diffusion.guided(prior, z, t, views, scale=4.), both)
  np.testing.assert_allclose(both, diffusion.guide(prior.eps(z, t, y, None),
                                                   prior.eps(z, t, null, None), 4.), rtol=1e-5)
  np.testing.assert_allclose(later, prior.eps(z, .5 * t, y, None), rtol=1e-5)


def test_perp_neg_denies_only_what_is_perpendicular():
  eps_null = jnp.zeros((2, 1, 1, 3)) + .5
  eps_y = eps_null + jnp.array([[[[2., 0., 0.]]]])
  other = eps_null + jnp.array([[[[1., 1., 0.]]]])
  weights = jnp.array([[-.5], [0.]])
  got = diffusion.perp_neg(eps_y, eps_null, [other], weights, 3.)
  np.testing.assert_allclose(got[0, 0, 0], .5 + 3. * np.array([2., -.5, 0.]), rtol=1e-6)
  # weight 0: plain guidance
  np.testing.assert_allclose(got[1], diffusion.guide(eps_y, eps_null, 3.)[1], rtol=1e-6)
