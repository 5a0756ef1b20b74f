"""Regularizers against their formulas, and finite gradients where they degenerate."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.regularizers import REGULARIZERS
from jaxdreamer.types import Rendering


def shown(opacity, **fields):
  opacity = jnp.asarray(opacity, jnp.float32)
  rest = {k: jnp.asarray(v, jnp.float32) for k, v in fields.items()}
  blank = dict(rgb=jnp.zeros((*opacity.shape, 3)), normal=jnp.zeros((*opacity.shape, 3)), depth=jnp.zeros(opacity.shape),
               orientation=jnp.zeros(opacity.shape), distortion=jnp.zeros(opacity.shape), z_variance=jnp.zeros(opacity.shape))
  return Rendering(opacity=opacity, **(blank | rest))


def test_opaque_is_the_entropy_and_vanishes_for_clear_and_solid_rays():
  np.testing.assert_allclose(REGULARIZERS['opaque'](shown([.5, .5])), np.log(2.), rtol=1e-6)
  assert REGULARIZERS['opaque'](shown([0., 1.])) < .01


def test_sparsity_opacity_and_distortion_are_their_means():
  s = shown([0., .6], distortion=[.2, .4])
  np.testing.assert_allclose(REGULARIZERS['sparsity'](s), (.1 + np.sqrt(.37)) / 2, rtol=1e-6)
  np.testing.assert_allclose(REGULARIZERS['opacity'](s), .3, rtol=1e-6)
  np.testing.assert_allclose(REGULARIZERS['distortion'](s), .3, rtol=1e-6)


def test_orientation_counts_only_rays_that_hit():
  np.testing.assert_allclose(REGULARIZERS['orientation'](shown([0., .5, 1.], orientation=[0., .2, .4])), .3, rtol=1e-6)


def test_z_variance_looks_at_solid_rays_alone():
  np.testing.assert_allclose(REGULARIZERS['z_variance'](shown([.2, .9], z_variance=[5., .3])), .3, rtol=1e-6)


@pytest.mark.parametrize('name', sorted(REGULARIZERS))
@pytest.mark.parametrize('value', [0., .5, 1.])
def test_gradients_are_finite_for_empty_half_and_full_pictures(name, value):
  def f(opacity, field):
    return REGULARIZERS[name](shown(opacity, orientation=field, distortion=field, z_variance=field))
  grads = jax.grad(f, (0, 1))(jnp.full(4, value), jnp.zeros(4))
  assert all(np.isfinite(g).all() for g in grads)
