"""Regularizers against their formulas, and finite gradients where they degenerate."""
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import regularizers
from jaxdreamer.types import Rendering

ALL = [regularizers.orientation, regularizers.opacity, regularizers.sparsity, regularizers.opaque,
       regularizers.distortion,
       regularizers.z_variance]


def shown(opacity, **rest):
  """A row of rays."""
  opacity = jnp.asarray(opacity, jnp.float32)
  zero = jnp.zeros_like(opacity)
  blank = dict(rgb=jnp.zeros((opacity.size, 3)), normal=jnp.zeros((opacity.size, 3)), depth=zero,
               orientation=zero,
               distortion=zero, z_variance=zero)
  return Rendering(opacity=opacity, **blank | {k: jnp.asarray(v, jnp.float32)
                                               for k, v in rest.items()})


def test_opaque_is_the_entropy_of_a_coin_and_vanishes_for_clear_and_solid_rays():
  np.testing.assert_allclose(regularizers.opaque(shown([.5, .5])), np.log(2.), rtol=1e-6)
  np.testing.assert_allclose(regularizers.opaque(shown([.2])), -.2 * np.log(.2) - .8 * np.log(.8),
                             rtol=1e-5)
  assert regularizers.opaque(shown([0., 1.])) < .01


def test_opaque_pushes_away_from_one_half():
  grad = jax.grad(lambda o: regularizers.opaque(shown(o)))(jnp.array([.3, .7]))
  assert grad[0] > 0. > grad[1]


def test_opacity_sparsity_and_distortion_are_their_means():
  out = shown([0., .6], distortion=[.2, .4])
  np.testing.assert_allclose(regularizers.opacity(out), .3, rtol=1e-6)
  np.testing.assert_allclose(regularizers.sparsity(out), (.1 + np.sqrt(.37)) / 2, rtol=1e-6)
  np.testing.assert_allclose(regularizers.distortion(out), .3, rtol=1e-6)


def test_orientation_is_a_mean_over_the_rays_that_hit():
  np.testing.assert_allclose(regularizers.orientation(
      shown([0., .5, 1.], orientation=[0., .2, .4])), .3, rtol=1e-6)


def test_z_variance_looks_at_solid_rays_alone_and_at_the_part_of_them_that_hits():
  np.testing.assert_allclose(regularizers.z_variance(shown([.2, .9, .6], z_variance=[5., .3, .3])),
                             (.3 / .9 + .3 / .6) / 2.,
                             rtol=1e-6)


def test_z_variance_of_two_half_hit_shells_is_that_of_a_coin():
  weights, dist = np.array([.3, .3]), np.array([2., 3.])                # a ray of opacity .6
  depth = np.average(dist, weights=weights)
  out = shown([.6], z_variance=[np.sum(weights * (dist - depth) ** 2)])
  np.testing.assert_allclose(regularizers.z_variance(out), .25, rtol=1e-6)


@pytest.mark.parametrize('regularizer', ALL)
def test_the_size_of_the_picture_does_not_matter(regularizer):
  values = dict(orientation=[.1, .3], distortion=[.2, .1], z_variance=[.3, .6])
  twice = {k: 2 * v for k, v in values.items()}
  np.testing.assert_allclose(regularizer(shown([.7, .9], **values)),
                             regularizer(shown(2 * [.7, .9], **twice)), rtol=1e-6)


@pytest.mark.parametrize('regularizer', ALL)
@pytest.mark.parametrize('value', [0., .5, 1.])
def test_gradients_are_finite_for_clear_half_and_solid_pictures(regularizer, value):
  def f(opacity, integrand):
    return regularizer(shown(opacity, orientation=integrand, distortion=integrand,
                             z_variance=integrand))
  chex.assert_tree_all_finite(jax.grad(f, (0, 1))(jnp.full(4, value), jnp.zeros(4)))
