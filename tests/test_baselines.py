"""What control variates compare: rendered geometry against itself is 1, turned about it is -1."""
import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer import cameras
from jaxdreamer.baselines.depth import depth
from jaxdreamer.baselines.normals import normals
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.toybox import geometry, truth
from jaxdreamer.types import Rendering, Views

PRIOR = gaussian(jnp.zeros((64, 64, 3)), std=.5)


def view():
  camera = cameras.orbital(jnp.float32(.5), jnp.float32(.4), jnp.float32(3.), jnp.float32(.7))
  seen = jax.tree.map(lambda v: v[0], truth.views('a red cube', jax.tree.map(lambda v: v[None], camera), size=64))
  zero = jnp.zeros_like(seen.mask)
  shown = Rendering(seen.rgb, seen.mask, seen.depth, seen.normal * seen.mask[..., None], zero, zero, zero)
  row = jnp.ones((1, 1))
  return Views(camera, row, row, row, row, shown=shown)


def test_geometry_agrees_with_itself_and_its_opposite_does_not(monkeypatch):
  told = view()
  turn = told.camera.world_from_camera[:3, :3]
  for sign in (1., -1.):
    monkeypatch.setattr(geometry, 'geometry', lambda weights, x, sign=sign: (
      sign * (told.shown.opacity / jnp.maximum(told.shown.depth, 1e-3))[None],
      sign * (told.shown.normal @ turn)[None]))
    z, t = jnp.zeros((64, 64, 3)), jnp.float32(.3)
    np.testing.assert_allclose(depth(PRIOR, None)(z, t, told), sign, atol=1e-3)
    np.testing.assert_allclose(normals(PRIOR, None)(z, t, told), sign, atol=.03)


def test_their_slopes_reach_the_noisy_image_and_are_finite_where_nothing_is_rendered():
  weights, told = jax.jit(geometry.init)(jax.random.key(0)), view()
  empty = told._replace(shown=jax.tree.map(jnp.zeros_like, told.shown))
  z = .1 * jax.random.normal(jax.random.key(1), (64, 64, 3))
  for make in (depth, normals):
    slope = jax.grad(make(PRIOR, weights))(z, jnp.float32(.3), told)
    assert np.isfinite(slope).all() and abs(slope).max() > 0.
    assert np.isfinite(jax.grad(make(PRIOR, weights))(z, jnp.float32(.3), empty)).all()
