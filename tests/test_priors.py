"""Priors against their closed forms."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxdreamer import cameras
from jaxdreamer.diffusion import diffuse, eps_from_x0
from jaxdreamer.priors.empirical import empirical, posterior_mean
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.priors.toybox import toybox
from jaxdreamer.toybox import network, truth


def test_the_gaussian_prediction_is_the_mean_of_the_noise_given_the_noisy_image():
  prior = gaussian(jnp.full((1, 1, 1), .3), std=.6)
  k_x, k_eps = jax.random.split(jax.random.key(0))
  n, t = 200_000, jnp.float32(.4)
  x = .3 + .6 * jax.random.normal(k_x, (n, 1, 1, 1))
  eps = jax.random.normal(k_eps, x.shape)
  z_t = diffuse(x, jnp.full(n, t), eps, schedule=prior.schedule)
  near = np.abs(np.asarray(z_t).ravel() - .8) < .02
  want = prior.eps(jnp.full((1, 1, 1, 1), .8), t[None], jnp.ones((1, 1, 1)), None)
  got = np.asarray(eps).ravel()[near]
  assert abs(got.mean() - float(want[0, 0, 0, 0])) < 4. * got.std() / near.sum() ** .5


def test_the_posterior_mean_is_a_bayes_average_of_the_images():
  images, log_prior = jnp.array([[0., 0.], [1., 1.], [3., -1.]]), jnp.log(jnp.array([.2, .5, .3]))
  z_t, alpha, sigma = jnp.array([.4, .1]), .8, .6
  likelihood = np.exp(-np.sum((np.asarray(z_t) - alpha * np.asarray(images)) ** 2,
                              -1) / (2. * sigma ** 2))
  w = np.array([.2, .5, .3]) * likelihood
  np.testing.assert_allclose(posterior_mean(z_t, images, log_prior, alpha, sigma),
                             (w / w.sum()) @ np.asarray(images),
                             rtol=1e-5)


@pytest.mark.slow
def test_the_empirical_prior_returns_its_image_when_there_is_little_noise():
  prior = empirical(jax.random.key(1), 'a red cube', 'color', images=6)
  z = prior.weights['images'].reshape(-1, *network.LATENT)[:2]
  t = jnp.full(2, .02)
  z_t = diffuse(z, t, jax.random.normal(jax.random.key(2), z.shape), schedule=prior.schedule)
  text = prior.embed('a red cube')
  eps_hat = prior.eps(z_t, t, text.views[:2], None)
  a, s = (f(t)[:, None, None, None] for f in (prior.schedule.alpha, prior.schedule.sigma))
  np.testing.assert_allclose((z_t - s * eps_hat) / a, z, atol=1e-3)
  np.testing.assert_allclose(eps_from_x0(z, z_t, a, s), eps_hat, atol=.05)


@pytest.mark.slow
def test_the_perfect_prior_shows_normals_where_renders_do():
  prompt, camera = 'a red cube', cameras.orbit((2, .4))
  prior = empirical(jax.random.key(1), prompt, 'normal', images=0)
  true = truth.views(prompt, camera, size=network.SIZE)
  seen = np.where(true.mask[..., None] > .5, .5 + .5 * true.normal, 0.)    # over black
  t = jnp.full(2, .3)
  z_t = diffuse(network.encode(jnp.asarray(seen, jnp.float32)), t, jnp.zeros((2, *network.LATENT)),
                schedule=prior.schedule)
  a, s = (f(t)[:, None, None, None] for f in (prior.schedule.alpha, prior.schedule.sigma))
  eps_hat = prior.eps(z_t, t, prior.embed(prompt).views[:2], camera)
  found = np.asarray(network.decode((z_t - s * eps_hat) / a))
  whole = (true.mask == 0.) | (true.mask == 1.)
  np.testing.assert_allclose(found[whole], seen[whole], atol=.02)


@pytest.mark.slow
def test_the_empirical_priors_images_come_in_pairs_over_black_and_white_that_tell_the_mask():
  prior = empirical(jax.random.key(1), 'a red cube', 'color', images=3)
  black, white = jnp.moveaxis(network.decode(prior.weights['images'].reshape(
      6, *network.LATENT)).reshape(3, 2, 64, 64, 3), 1, 0)
  mask = 1. - (white - black)
  np.testing.assert_allclose(mask, jnp.broadcast_to(mask[..., :1], mask.shape), atol=1e-6)
  assert (black[:, 0, 0] == 0.).all() and (white[:, 0, 0] == 1.).all() and (
      mask[:, 32, 32] > .999).all()
  np.testing.assert_array_equal(prior.weights['position'][::2], prior.weights['position'][1::2])


def test_pixel_patches_come_back_and_white_noise_stays_white():
  x = jax.random.uniform(jax.random.key(3), (2, 64, 64, 3))
  np.testing.assert_allclose(network.decode(network.encode(x)), x, atol=1e-6)
  np.testing.assert_allclose(jnp.sort(network.encode(x).ravel()), jnp.sort((2. * x - 1.).ravel()),
                             atol=1e-6)


@pytest.mark.slow
def test_the_prior_is_told_the_camera_only_where_it_is_given():
  weights = network.init(jax.random.key(4))
  weights = jax.tree.map(lambda p: p + .05 * jnp.ones_like(p), weights)
  z, t = jnp.ones((1, *network.LATENT)), jnp.array([.5])
  text = network.embed(weights, jnp.zeros((1, 16), jnp.int32))
  none = network.denoise(weights, z, t, text, jnp.zeros((1, 6)))
  some = network.denoise(weights, z, t, text, jnp.ones((1, 6)))
  assert float(jnp.abs(none - some).max()) > 1e-4


def test_camera_features_turn_with_the_camera_and_vanish_untold():
  def features(azimuth, elevation=.4, distance=3.1):
    camera = cameras.orbital(jnp.float32(azimuth), jnp.float32(elevation), jnp.float32(distance),
                             jnp.float32(.7))
    return network.camera_features(cameras.camera_vector(camera)[None])[0]
  here = features(.3)
  assert here.shape == (network.FEATURES,)
  harmonics = [f(k * .3) for k in (1, 2, 3, 4) for f in (np.cos, np.sin)]
  np.testing.assert_allclose(here[:8], 2. * np.array(harmonics), atol=1e-5)
  # a cube looks the same
  np.testing.assert_allclose(features(.3 + np.pi / 2)[6:11], here[6:11], atol=1e-5)
  np.testing.assert_allclose(here[8:11], [4. * np.sin(.4), 8. * (np.cos(.4) - .85), 1.], atol=1e-5)
  np.testing.assert_allclose(here[11:], 2. * np.sin(.4) * here[:4], atol=1e-5)
  assert not network.camera_features(jnp.zeros((1, network.CAMERA))).any()


@pytest.mark.slow
def test_the_map_of_rays_is_the_cameras_own_and_vanishes_untold():
  camera = jax.vmap(cameras.sample)(jax.random.split(jax.random.key(6), 4))
  seen = network.ray_map(jax.vmap(cameras.camera_vector)(camera))
  origin, direction = jax.vmap(lambda c: cameras.rays(c, network.LATENT[0]))(camera)
  nearest = origin - jnp.sum(origin * direction, -1, keepdims=True) * direction
  np.testing.assert_allclose(seen[..., :6], jnp.concatenate([nearest, direction], -1), atol=1e-5)
  waves = np.concatenate([f(k * np.pi * nearest) for k in (1, 2) for f in (np.sin, np.cos)], -1)
  np.testing.assert_allclose(seen[..., 6:], waves, atol=1e-4)
  assert seen.shape[-1] == network.RAYS and not network.ray_map(
      jnp.zeros((1, network.CAMERA))).any()


def test_the_shipped_prior_enlarges_smaller_renders_and_leaves_its_own_size_as_it_is():
  prior = toybox()
  x = jax.random.uniform(jax.random.key(0), (1, network.SIZE, network.SIZE, 3))
  assert (prior.encode(x) == network.encode(x)).all()
  np.testing.assert_allclose(prior.decode(prior.encode(jnp.full((1, 32, 32, 3), .3))),
                             .3, atol=1e-6)


def test_a_caption_outside_the_vocabulary_is_refused_in_one_line():
  with refused('dragon'):
    empirical(jax.random.key(5), 'a red dragon', 'color', images=2)
