"""Draws: their distribution, their spread, and their independence of the devices."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import sampling
from jaxdreamer.diffusion import cosine


def test_stratified_puts_exactly_one_view_in_each_stratum_of_each_dimension():
  u = sampling.stratified(jax.random.key(0), jnp.arange(8), views=8, dims=5)
  np.testing.assert_array_equal(np.sort(np.floor(8 * np.asarray(u)), 0),
                                np.arange(8)[:, None] * np.ones(5))


@pytest.mark.slow
def test_a_device_that_holds_some_views_draws_what_one_device_would():
  key, ids = jax.random.key(1), jnp.arange(8)
  for design in sampling.DESIGNS.values():
    whole = design(key, ids, views=8, dims=5)
    part = design(key, ids[4:6], views=8, dims=5)
    np.testing.assert_array_equal(whole[4:6], part)
  draw = sampling.make_draw(noise=cosine(), shape=(2, 2, 3))
  whole, part = (draw(key, jnp.full((len(i), 3), .5), i, 0) for i in (ids, ids[4:6]))
  np.testing.assert_array_equal(whole.eps[12:18], part.eps)
  np.testing.assert_array_equal(jax.random.key_data(whole.key)[12:18],
                                jax.random.key_data(part.key))


@pytest.mark.parametrize('name', sampling.DESIGNS)
def test_every_view_of_a_design_is_uniform(name):
  design = sampling.DESIGNS[name]
  u = jax.vmap(lambda k: design(k, jnp.arange(4), views=4,
                                dims=2))(jax.random.split(jax.random.key(2), 4000))
  for v in range(4):
    for d in range(2):
      counts = np.histogram(np.asarray(u[:, v, d]), 10, (0., 1.))[0]
      chi2 = ((counts - 400.) ** 2 / 400.).sum()
      assert chi2 < 27.9  # 99.9% of chi^2 with 9 degrees of freedom


@pytest.mark.slow
def test_stratified_t_has_less_variance_than_independent_t():
  f = lambda u: jnp.mean(jnp.exp(u[:, 0]))
  keys = jax.random.split(jax.random.key(3), 2000)
  spread = lambda design: float(
      jnp.var(jax.vmap(lambda k: f(design(k, jnp.arange(4), views=4, dims=1)))(keys)))
  var = {name: spread(design) for name, design in sampling.DESIGNS.items()}
  assert var['stratified'] < .15 * var['independent']      # 1 / n^2 for a smooth integrand


def test_a_lattice_integrates_a_turn_around_the_object_exactly():
  f = lambda u: jnp.mean(jnp.sin(2. * jnp.pi * u[:, 0]) + jnp.cos(4. * jnp.pi * u[:, 1]))
  u = jax.vmap(lambda k: sampling.lattice(k, jnp.arange(5), views=5,
                                          dims=2))(jax.random.split(jax.random.key(8), 100))
  assert float(jnp.max(jnp.abs(jax.vmap(f)(u)))) < 1e-5


@pytest.mark.parametrize('views', [1, 4, 6, 7])
def test_a_lattice_stands_at_equal_distances_along_each_dimension(views):
  u = sampling.lattice(jax.random.key(5), jnp.arange(views), views=views, dims=5)
  np.testing.assert_allclose(np.diff(np.sort(np.asarray(u), 0), axis=0), 1. / views, atol=1e-6)


def test_an_importance_density_is_sampled_and_its_weight_keeps_the_mean():
  density = (1., 3., .5, 2.)
  u = (jnp.arange(200_000) + .5) / 200_000
  v, weight = sampling.inverse_cdf(u, density)
  np.testing.assert_allclose(np.histogram(v, 4, (0., 1.))[0] / len(u), np.array(density) / 6.5,
                             atol=1e-4)
  for f in (jnp.ones_like, jnp.exp, lambda v: v ** 5):
    np.testing.assert_allclose(jnp.mean(weight * f(v)), jnp.mean(f(u)), rtol=1e-4)
  assert (jnp.diff(v) >= 0.).all()
  np.testing.assert_allclose(sampling.inverse_cdf(u, (2., 2.))[0], u, atol=1e-6)


@pytest.mark.slow
def test_the_draws_of_a_view_are_stratified_in_t_and_antithetic_on_demand():
  ids, u = jnp.arange(3), jax.random.uniform(jax.random.key(6), (3, 4))
  options = dict(t_min=0., t_max=1., shape=(2, 2, 1))
  plain = sampling.draws(jax.random.key(7), u, ids, **options)
  np.testing.assert_array_equal(jnp.floor(4. * plain.t).reshape(3, 4),
                                jnp.broadcast_to(jnp.arange(4.), (3, 4)))
  pairs = sampling.draws(jax.random.key(7), u, ids, antithetic=True, **options)
  eps = pairs.eps.reshape(3, 4, 2, 2, 2, 1)
  np.testing.assert_array_equal(eps[:, :, 0], -eps[:, :, 1])
  np.testing.assert_array_equal(pairs.t.reshape(3, 4, 2)[..., 0], pairs.t.reshape(3, 4, 2)[..., 1])
  np.testing.assert_array_equal(eps[:, :, 0].reshape(plain.eps.shape), plain.eps)


def test_t_stays_in_its_annealed_range():
  draw = sampling.make_draw(noise=cosine(), t_min=.1, t_max=(.9, .5, 1), shape=(1, 1, 1))
  d = draw(jax.random.key(4), jnp.linspace(0., 1., 9)[:, None], jnp.arange(9), jnp.float32(1.))
  np.testing.assert_allclose([d.t.min(), d.t.max()], [.1, .5], atol=1e-6)
  np.testing.assert_array_equal(d.t_min, jnp.float32(.1))


@pytest.mark.slow
def test_a_draw_weighs_what_w_of_t_and_the_density_say_and_keeps_w_times_any_mean():
  noise, density, n = cosine(), (1., 3., .5, 2.), 50_000
  u = (jnp.arange(n)[:, None] + .5) / n
  d = sampling.draws(jax.random.key(9), u, jnp.arange(n), t_min=.1, t_max=.9, shape=(1, 1, 1),
                     density=density, w=lambda t: sampling.WEIGHTS['sigma2'](noise, t))
  t = jnp.linspace(.1, .9, 100_001)
  for f in (jnp.ones_like, jnp.exp):
    np.testing.assert_allclose(jnp.mean(d.weight * f(d.t)), jnp.mean(noise.sigma(t) ** 2 * f(t)),
                               rtol=1e-3)
