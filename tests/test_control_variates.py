"""What control variates compare: rendered geometry against itself is 1, turned about it is -1."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import cameras, perception
from jaxdreamer.control_variates.depth import depth
from jaxdreamer.control_variates.normals import normals
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.toybox import geometry, truth
from jaxdreamer.types import Rendering, Views

PRIOR = gaussian(jnp.zeros((64, 64, 3)), std=.5)


def view():
  camera = cameras.orbital(jnp.float32(.5), jnp.float32(.4), jnp.float32(3.), jnp.float32(.7))
  seen = truth.views('a red cube', jax.tree.map(lambda v: v[None], camera), size=64)
  seen = jax.tree.map(lambda v: jnp.asarray(v[0]), seen)
  zero = jnp.zeros_like(seen.mask)
  rendering = Rendering(seen.rgb, seen.mask, seen.depth, seen.normal * seen.mask[..., None],
                    zero, zero, zero)
  row = jnp.ones((1, 1))
  return Views(camera, row, row, row, row, rendering=rendering)


@pytest.mark.slow
def test_geometry_agrees_with_itself_and_its_opposite_does_not():
  one = view()
  turn = one.camera.world_from_camera[:3, :3]
  z, t = jnp.zeros((64, 64, 3)), jnp.float32(.3)
  prior = PRIOR.replace(weights=PRIOR.weights | {'depth': 1., 'normals': 1.})
  for sign in (1., -1.):
    near = lambda weights, x, sign=sign: sign * weights * (one.rendering.opacity / jnp.maximum(
        one.rendering.depth, 1e-3))[None]
    facing = lambda weights, x, sign=sign: sign * weights * (one.rendering.normal @ turn)[None]
    np.testing.assert_allclose(depth(estimate=near)(prior, z, t, one), sign, atol=1e-3)
    np.testing.assert_allclose(normals(estimate=facing)(prior, z, t, one), sign, atol=.03)


def test_an_estimator_may_see_at_another_size():
  """A slope seen at half the pixels is still that slope."""
  one, rise = view(), lambda n: jnp.broadcast_to(.3 + .1 * (jnp.arange(n) + .5) / n, (n, n))
  flat = one._replace(rendering=one.rendering._replace(opacity=jnp.ones((64, 64)),
                                                     depth=1. / rise(64)))
  prior = PRIOR.replace(weights=PRIOR.weights | {'depth': ()})
  assert depth(estimate=lambda weights, x: rise(32)[None])(prior, jnp.zeros((64, 64, 3)),
                                                      jnp.float32(.3), flat) > .999


@pytest.mark.slow
def test_their_slopes_reach_the_noisy_image_and_are_finite_where_nothing_is_rendered():
  weights, one = jax.jit(geometry.init)(jax.random.key(0)), view()
  prior = PRIOR.replace(weights=PRIOR.weights | {'depth': weights, 'normals': weights})
  empty = one._replace(rendering=jax.tree.map(jnp.zeros_like, one.rendering))
  z = .1 * jax.random.normal(jax.random.key(1), (64, 64, 3))
  for make, of in ((depth, perception.depth), (normals, perception.normals)):
    slope = jax.jit(jax.grad(make(estimate=of('', size=64)[1]), argnums=1))
    seen = slope(prior, z, jnp.float32(.3), one)
    assert np.isfinite(seen).all() and abs(seen).max() > 0.
    assert np.isfinite(slope(prior, z, jnp.float32(.3), empty)).all()
