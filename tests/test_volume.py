"""The calculus of a ray against closed forms, loops, Monte Carlo, and at its degenerate ends."""
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads

from jaxdreamer import volume

quick = settings(max_examples=30, deadline=None)
densities = arrays(np.float32, 6, elements=st.floats(0., 50., width=32))
lengths = arrays(np.float32, 6, elements=st.floats(0., 2., width=32))


def ray(seed, n):
  """Random density and sorted edges."""
  k_density, k_dist = jax.random.split(jax.random.key(seed))
  return 3. * jax.random.uniform(k_density,
                                 (n,)), 2. + jnp.sort(jax.random.uniform(k_dist, (n + 1,)))


def edges(length):
  return jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.asarray(length))])


@quick
@given(densities, lengths)
def test_weights_are_probabilities(density, length):
  weights, trans = volume.alpha_weights(jnp.asarray(density), edges(length))
  assert (weights >= 0.).all() and trans >= 0.
  np.testing.assert_allclose(weights.sum() + trans, 1., atol=1e-6)


@pytest.mark.parametrize('n', [1, 7, 40])
def test_homogeneous_fog_lets_exp_of_minus_density_times_length_pass(n):
  _, dist = ray(0, n)
  _, trans = volume.alpha_weights(jnp.full(n, 1.3), dist)
  np.testing.assert_allclose(trans, jnp.exp(-1.3 * (dist[-1] - dist[0])), rtol=1e-5)


def test_fog_is_the_same_however_it_is_cut():
  density, dist = ray(1, 5)
  halves = jnp.sort(jnp.concatenate([dist, volume.midpoints(dist)]))
  weights, trans = volume.alpha_weights(density, dist)
  finer, trans_finer = volume.alpha_weights(jnp.repeat(density, 2), halves)
  np.testing.assert_allclose(finer.reshape(5, 2).sum(1), weights, atol=1e-6)
  np.testing.assert_allclose(trans_finer, trans, rtol=1e-5)


def test_compositing_equals_painting_back_to_front():
  density, dist = ray(2, 9)
  color, background = jax.random.uniform(jax.random.key(3), (3, 9)), np.array([.2, .9, .4])
  weights, trans = volume.alpha_weights(density, dist)
  painted = background
  for i in reversed(range(9)):
    alpha = 1. - math.exp(-density[i] * (dist[i + 1] - dist[i]))
    painted = alpha * np.asarray(color[:, i]) + (1. - alpha) * painted
  np.testing.assert_allclose(volume.composite(weights, color) + trans * background,
                             painted, atol=1e-5)


@quick
@given(densities, lengths)
def test_distortion_equals_its_double_sum(density, length):
  dist = edges(length)
  weights, _ = volume.alpha_weights(jnp.asarray(density), dist)
  w, m = np.asarray(weights, np.float64), np.asarray(volume.midpoints(dist), np.float64)
  slow = sum(w[i] * w[j] * abs(m[i] - m[j]) for i in range(6) for j in range(6))
  slow += sum(w[i] ** 2 * float(dist[i + 1] - dist[i]) for i in range(6)) / 3.
  np.testing.assert_allclose(volume.distortion(weights, dist), slow, rtol=1e-3, atol=1e-5)


def test_distortion_is_the_mean_distance_between_two_points_of_the_ray():
  density, dist = ray(4, 6)
  weights, _ = volume.alpha_weights(density, dist)
  weights = weights / weights.sum()
  rng = np.random.default_rng(0)
  share = np.asarray(weights, np.float64)
  interval = rng.choice(6, (2, 200_000), p=share / share.sum())
  place = np.asarray(dist)[interval] + rng.random(interval.shape) * np.asarray(jnp.diff(dist))[
      interval]
  apart = np.abs(place[0] - place[1])
  assert abs(volume.distortion(weights, dist) - apart.mean()) < 4. * apart.std() / math.sqrt(
      apart.size)


@pytest.mark.parametrize('far', [3., 700.])
def test_distortion_does_not_lose_its_digits_far_from_the_eye(far):
  weights, dist = jnp.array([.1, .6, .3]), jnp.array([0., .25, .5, .75])
  np.testing.assert_allclose(volume.distortion(weights, dist + far),
                             volume.distortion(weights, dist), rtol=1e-4)


def test_stratified_numbers_fall_one_into_each_stratum():
  for seed in range(20):
    u = volume.stratified(jax.random.key(seed), 8)
    np.testing.assert_array_equal(jnp.floor(u * 8), np.arange(8))
  np.testing.assert_allclose(volume.stratified(jax.random.key(0), 4, jitter=0.),
                             [.125, .375, .625, .875])


def test_the_inverse_cdf_inverts_the_cdf():
  weights, dist = jnp.array([.5, 0., 1.5, 2.]), jnp.array([1., 2., 4., 5., 9.])
  np.testing.assert_allclose(volume.invert_cdf(jnp.array([0., .0625, .25, .5, 1.]), dist, weights),
                             [1., 1.5, 4.3333, 5., 9.], atol=.34)
  shares = jnp.linspace(0., 1., 33)
  found = volume.invert_cdf(shares, dist, weights)
  cdf = np.interp(found, dist, np.concatenate([[0.], np.cumsum(weights)]) / 4.)
  np.testing.assert_allclose(cdf, shares, atol=1e-4)
  assert (jnp.diff(found) >= 0.).all()


def test_without_weight_the_inverse_cdf_is_uniform():
  np.testing.assert_allclose(volume.invert_cdf(jnp.linspace(0., 1., 9), jnp.linspace(2., 4., 5),
                                               jnp.zeros(4)),
                             jnp.linspace(2., 4., 9), atol=1e-5)


def test_importance_samples_gather_where_the_weight_is():
  weights, dist = jnp.zeros(16).at[5].set(.9), jnp.linspace(0., 1., 17)
  found = volume.invert_cdf(jnp.linspace(0., 1., 65), dist, volume.spread(weights, dist, share=.25))
  inside = ((found >= 4 / 16) & (found <= 7 / 16)).mean()
  assert .7 < inside < .85  # the interval and its neighbors, and a fifth of the rest
  np.testing.assert_allclose(volume.spread(weights, dist, share=.25).sum(), 1., rtol=1e-5)


def test_depth_is_that_of_the_hit_part_and_far_where_nothing_is_hit():
  dist, far = jnp.array([2., 2.2, 2.4]), jnp.float32(4.)
  np.testing.assert_allclose(volume.expected_depth(jnp.array([0., 1.]), dist, far), 2.3, rtol=1e-6)
  np.testing.assert_allclose(volume.expected_depth(jnp.array([.5, 0.]), dist, far), 2.1, rtol=.01)
  np.testing.assert_allclose(volume.expected_depth(jnp.zeros(2), dist, far), 4., rtol=1e-6)


def test_a_ray_crosses_the_ball_where_geometry_says():
  eye, ahead = jnp.array([3., 0., 0.]), jnp.array([-1., 0., 0.])
  np.testing.assert_allclose(volume.ball_interval(eye, ahead, 1.), (2., 4.))
  np.testing.assert_allclose(volume.ball_interval(eye + jnp.array([0., .6, 0.]), ahead, 1.),
                             (2.2, 3.8), rtol=1e-6)
  # an eye inside
  np.testing.assert_allclose(volume.ball_interval(jnp.zeros(3), ahead, 1.), (0., 1.))
  near, far = volume.ball_interval(eye, -ahead, 1.)
  assert near == far == 0.  # the ball is behind
  near, far = volume.ball_interval(eye + jnp.array([0., 1.5, 0.]), ahead, 1.)
  assert near == far  # a miss


def test_gradients_of_a_ray_agree_with_finite_differences():
  density, dist = ray(5, 5)
  def f(density):
    weights, trans = volume.alpha_weights(jnp.asarray(density), dist)
    return trans + volume.distortion(weights, dist) + volume.expected_depth(weights, dist,
                                                                            jnp.float32(4.))
  check_grads(f, (density,), order=1, modes=['rev'], atol=1e-2, rtol=1e-2, eps=1e-2)


@pytest.mark.parametrize('density', [0., 1e-20, 1., 1e6])
@pytest.mark.parametrize('length', [0., 1.])
def test_gradients_are_finite_in_vacuum_in_solids_and_on_empty_intervals(density, length):
  def f(density, dist):
    weights, trans = volume.alpha_weights(density, dist)
    return (trans + volume.distortion(weights, dist)
            + volume.expected_depth(weights, dist, jnp.float32(4.))
            + volume.composite(weights, volume.midpoints(dist)))
  chex.assert_tree_all_finite(
      jax.value_and_grad(f, (0, 1))(jnp.full(4, density), 2. + length * jnp.linspace(0., 1., 5)))
  grad = jax.grad(lambda o: sum(volume.ball_interval(o, jnp.array([-1., 0., 0.]), 1.)))(
      jnp.array([3., 1., 0.]))
  assert np.isfinite(grad).all()                                 # a ray that just touches the ball
