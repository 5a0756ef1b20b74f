"""Stein control variates: zero mean for any phi, and only in the exact form; their weights; and the
limits of SSD."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from jaxdreamer.control_variates.neighbors import neighbors
from jaxdreamer.control_variates.stein import variate
from jaxdreamer.estimators.sds import sds
from jaxdreamer.estimators.ssd import ssd
from jaxdreamer.priors.gaussian import gaussian

SHAPE, N, ALPHA, SIGMA = (4, 4, 1), 200_000, .8, .6
D = 16
rng = np.random.default_rng(0)
X0, W, A, B, MAP = (rng.normal(size=s) for s in (SHAPE, SHAPE, (8, D), 8, D))


def pearson(x, t, view):
  a, b = x.ravel() - x.mean(), MAP - MAP.mean()
  return a @ b / jnp.sqrt((a @ a) * (b @ b))


PHI = {'linear': lambda x, t, view: jnp.sum(W * x),
       'quadratic': lambda x, t, view: .5 * jnp.sum(x ** 2),
       'mlp': lambda x, t, view: jnp.sum(B * jnp.tanh(A @ x.ravel() / 2.)), 'pearson': pearson}
WRONG = {'printed': lambda eps, value, slope: eps * value + slope,
         'no sigma': lambda eps, value, slope: eps * value - slope,
         'sign': lambda eps, value, slope: eps * value + SIGMA * slope}


def chi2(h):
  """Sum of squared standard scores of the means of h [N, ...]: about D where they are all 0."""
  h = np.asarray(h).reshape(len(h), -1)
  return float(np.sum((h.mean(0) / (h.std(0) / len(h) ** .5)) ** 2))


def sample():
  eps = jax.random.normal(jax.random.key(0), (N, *SHAPE), jnp.float64)
  return eps, ALPHA * X0[None] + SIGMA * eps


@pytest.mark.parametrize('name', PHI)
def test_the_variate_has_mean_zero_and_the_three_wrong_forms_do_not(name):
  with jax.enable_x64(True):
    eps, x = sample()
    h = variate(PHI[name], x, jnp.zeros(N), eps, jnp.full(N, SIGMA), None)
    assert abs(chi2(h) - D) < 5. * (2. * D) ** .5
    value, slope = jax.vmap(jax.value_and_grad(PHI[name]), (0, None, None))(x, 0., None)
    for wrong in WRONG.values():
      assert chi2(wrong(eps, value[:, None, None, None], slope)) > D + 10. * (2. * D) ** .5


def test_a_phi_that_does_not_look_at_its_own_place_needs_no_slope():
  with jax.enable_x64(True):
    eps, x = sample()
    own = jnp.diagonal(jax.jacobian(lambda x: neighbors()(None, x, 0., None).ravel())(
        jnp.asarray(X0)).reshape(D, D))
    np.testing.assert_array_equal(own, 0.)
    h = variate(partial(neighbors(), None), x, jnp.zeros(N), eps, jnp.full(N, SIGMA), None)
    assert abs(chi2(h) - D) < 5. * (2. * D) ** .5
    # it sees itself: now the slope is missed
    whole = lambda x, t, view: neighbors()(None, x, t, view) + x
    assert chi2(variate(whole, x, jnp.zeros(N), eps, jnp.full(N, SIGMA), None)) > D + 10. * (
        2. * D) ** .5


def test_closed_form_for_half_the_squared_length():
  with jax.enable_x64(True):
    eps, x = sample()
    h = variate(PHI['quadratic'], x, jnp.zeros(N), eps, jnp.full(N, SIGMA), None)
    np.testing.assert_allclose(h, .5 * eps * jnp.sum(x ** 2, (1, 2, 3), keepdims=True) - SIGMA * x,
                               rtol=1e-9, atol=1e-9)
    weighted = eps * .5 * jnp.sum(x ** 2, (1, 2, 3), keepdims=True)
    error = weighted.std(0) / N ** .5
    assert (abs(weighted.mean(0) - SIGMA * ALPHA * X0) < 4.5 * error).all()


def test_the_slope_is_that_by_the_noise():
  x0, eps = jnp.asarray(X0, jnp.float32), jax.random.normal(jax.random.key(1), SHAPE)
  phi = lambda x: PHI['mlp'](x, 0., None)
  by_noise = jax.grad(lambda e: phi(ALPHA * x0 + SIGMA * e))(eps)
  np.testing.assert_allclose(by_noise, SIGMA * jax.grad(phi)(ALPHA * x0 + SIGMA * eps),
                             rtol=1e-4, atol=1e-6)


def test_the_printed_form_is_biased_by_one_plus_sigma_times_the_mean_slope():
  with jax.enable_x64(True):
    eps, x = sample()
    h = np.asarray(variate(PHI['mlp'], x, jnp.zeros(N), eps, jnp.full(N, SIGMA), None,
                           form='printed'))
    slope = np.asarray(jax.vmap(jax.grad(PHI['mlp']), (0, None, None))(x, 0., None))
    gap = h - (1. + SIGMA) * slope
    assert chi2(gap) < D + 5. * (2. * D) ** .5


PRIOR = gaussian(jnp.full(SHAPE, .4), std=.5, null_mean=jnp.full(SHAPE, -.3))


def draws(n):
  t = jax.random.uniform(jax.random.split(jax.random.key(0))[1], (n,), minval=.1, maxval=.9)
  return oracle.draws(t, shape=SHAPE, t_min=.1)


def residual(estimator, est, n=64):
  return oracle.residual(estimator, PRIOR, draws(n), jnp.asarray(X0, jnp.float32), est)


@pytest.mark.slow
@pytest.mark.parametrize('mu', ['learned', 'moments'])
@pytest.mark.parametrize('more', [(), (lambda prior, z_t, t, view: jnp.mean(z_t),)])
def test_it_starts_as_sds_behind_a_constant_and_nothing_at_all_is_the_raw_score(mu, more):
  estimator = ssd(guidance=3., phi=('constant', *more), mu=mu)
  est = estimator.init(jax.random.key(0), PRIOR)
  np.testing.assert_allclose(residual(estimator, est), residual(sds(guidance=3.), ()),
                             atol=2e-5)
  none = {'mu': 0. * est['mu']} if mu == 'learned' else {'moments': est['moments']
                                                         | {'b': 0. * est['moments']['b']}}
  raw = residual(sds(guidance=3.), ()) + draws(64).eps
  np.testing.assert_allclose(residual(estimator, none), raw, atol=2e-5)


def learned(estimator, *, rate, steps, n=256):
  """mu after plain descent on fresh draws."""
  z = jnp.broadcast_to(jnp.asarray(X0, jnp.float32), (n, *SHAPE))
  @jax.jit
  def step(est, key):
    fresh = draws(n)._replace(eps=jax.random.normal(key, (n, *SHAPE)))
    grad = jax.grad(lambda est: estimator.loss(fresh, est, PRIOR, z, oracle.views(n), 0))(est)
    return jax.tree.map(lambda e, g: e - rate * g, est, grad)
  est = estimator.init(jax.random.key(0), PRIOR)
  for i in range(steps):
    est = step(est, jax.random.fold_in(jax.random.key(5), i))
  return est


def best(t):
  """mu of a constant phi for the Gaussian prior: eps_hat = b (z_t - ...), so cov(eps_hat, eps) = b
  sigma."""
  b, _, sigma = oracle.gain(PRIOR, .5, t)
  return b * sigma


def test_learned_weights_reach_the_optimum_of_each_time_bin():
  estimator = ssd(guidance=1., mu='learned', bins=1)
  t = np.asarray(draws(256).t)
  found = learned(estimator, rate=.2, steps=300)['mu'].ravel()[0]
  # w = 1: the mean over t of the optimum
  np.testing.assert_allclose(found, np.mean(best(t)), rtol=.02)


@pytest.mark.slow
def test_moments_reach_the_optimum_of_each_time_bin():
  estimator = ssd(guidance=1., mu='moments', bins=4)
  moments = learned(estimator, rate=.1, steps=1000)['moments']
  t = np.asarray(draws(256).t)
  for i in range(4):
    inside = t[(t * 4).astype(int) == i]
    found = float(moments['b'][i, 0] / moments['G'][i, 0, 0])
    np.testing.assert_allclose(found, np.mean(best(inside)), rtol=.03)


@pytest.mark.slow
def test_ssd_is_unbiased_for_any_phi_and_any_weights():
  phi = ('constant', lambda prior, *rest: PHI['mlp'](*rest))
  estimator = ssd(guidance=3., phi=phi, mu='learned', per=('h', 'w'))
  est = jax.tree.map(lambda m: m + .5 * jax.random.normal(jax.random.key(3), m.shape),
                     estimator.init(jax.random.key(0), PRIOR))
  gap = residual(estimator, est, N) - residual(sds(guidance=3.), (), N)
  assert chi2(gap) < D + 5. * (2. * D) ** .5


@pytest.mark.parametrize(('option', 'value'), [('mu', 'best'), ('form', 'paper'), ('per', ('z',))])
def test_what_it_does_not_know_is_refused(option, value):
  with pytest.raises(ValueError, match=option):
    ssd(guidance=1., **{option: value})


def test_the_second_moment_that_is_descended_is_of_what_the_step_weighs():
  estimator = ssd(guidance=3., mu='learned')
  est, weight, z = estimator.init(jax.random.key(0), PRIOR), jnp.linspace(.1, 2.,
                                                                   8), jnp.zeros((8, *SHAPE))
  r, _ = estimator.residual(draws(8), est, PRIOR, z, oracle.views(8), 0)
  got = estimator.loss(draws(8)._replace(weight=weight), est, PRIOR, z, oracle.views(8), 0)
  np.testing.assert_allclose(got, np.mean((weight[:, None, None, None] * r) ** 2), rtol=1e-5)


def test_solved_weights_are_scalars():
  with pytest.raises(ValueError, match="needs mu='learned'"):
    ssd(guidance=1., mu='moments', per=('c',))
