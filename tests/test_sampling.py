"""Draws: their distribution, their spread, and their independence of the devices."""
import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer import sampling


def test_stratified_puts_exactly_one_view_in_each_stratum_of_each_dimension():
  u = sampling.stratified(jax.random.key(0), jnp.arange(8), views=8, dims=5)
  np.testing.assert_array_equal(np.sort(np.floor(8 * np.asarray(u)), 0), np.arange(8)[:, None] * np.ones(5))


def test_a_device_that_holds_some_views_draws_what_one_device_would():
  key, ids = jax.random.key(1), jnp.arange(8)
  for design in sampling.DESIGNS.values():
    whole = design(key, ids, views=8, dims=5)
    part = design(key, ids[4:6], views=8, dims=5)
    np.testing.assert_array_equal(whole[4:6], part)
  draw = sampling.make_draw(t_min=lambda i: .02, t_max=lambda i: .98, shape=(2, 2, 3))
  whole, part = (draw(key, jnp.full(len(i), .5), i, 0) for i in (ids, ids[4:6]))
  np.testing.assert_array_equal(whole.eps[4:6], part.eps)


def test_every_view_of_a_stratified_design_is_uniform():
  u = jax.vmap(lambda k: sampling.stratified(k, jnp.arange(4), views=4, dims=2))(jax.random.split(jax.random.key(2), 4000))
  for v in range(4):
    for d in range(2):
      counts = np.histogram(np.asarray(u[:, v, d]), 10, (0., 1.))[0]
      chi2 = ((counts - 400.) ** 2 / 400.).sum()
      assert chi2 < 27.9                                   # 99.9% of chi^2 with 9 degrees of freedom


def test_stratified_t_has_less_variance_than_independent_t():
  f = lambda u: jnp.mean(jnp.exp(u[:, 0]))
  keys = jax.random.split(jax.random.key(3), 2000)
  spread = lambda design: float(jnp.var(jax.vmap(lambda k: f(design(k, jnp.arange(4), views=4, dims=1)))(keys)))
  var = {name: spread(design) for name, design in sampling.DESIGNS.items()}
  assert var['stratified'] < .15 * var['independent']      # 1 / n^2 for a smooth integrand


def test_t_stays_in_its_annealed_range():
  draw = sampling.make_draw(t_min=lambda i: .1, t_max=lambda i: .9 - .4 * i, shape=(1, 1, 1))
  d = draw(jax.random.key(4), jnp.linspace(0., 1., 9), jnp.arange(9), jnp.float32(1.))
  np.testing.assert_allclose([d.t.min(), d.t.max()], [.1, .5], atol=1e-6)
