"""Pictures of the world against ray casting in closed form, against each other, and against a slow
tracer."""
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import cameras
from jaxdreamer.toybox import views, world

SIZE = 32
render = jax.jit(partial(views.render_batch, size=SIZE, steps=96))
ring = jax.vmap(partial(cameras.orbital, distance=3., fov=np.radians(40.)))


def rows(caption, n):
  """The item, and the standard light, n times."""
  item = world.parse(caption)
  repeat = lambda v: jnp.broadcast_to(v, (n, *jnp.shape(v)))
  return item._replace(color=repeat(item.color), pattern=repeat(item.pattern)), jax.tree.map(
      repeat, views.LIGHT)


def see(caption, azimuth, elevation):
  item, light = rows(caption, 4)
  return render(item, ring(jnp.asarray(azimuth, jnp.float32), jnp.asarray(elevation, jnp.float32)),
                light)


AROUND = (np.radians([0., 90., 180., 37.]), np.radians([10., 10., 10., 70.]))


def cast(caption):
  """(camera rays, distance along each in closed form, inf where missed) for the sphere and the
  cube."""
  r = jax.jit(jax.vmap(lambda c: cameras.rays(c, SIZE)))(ring(*(jnp.asarray(a, jnp.float32)
                                                                for a in AROUND)))
  o, d = np.asarray(r.origin, np.float64), np.asarray(r.direction, np.float64)
  if 'sphere' in caption:
    b, c = (o * d).sum(-1), (o * o).sum(-1) - world.toys.BALL ** 2
    root = b * b - c
    return o, d, np.where(root > 0., -b - np.sqrt(np.maximum(root, 0.)), np.inf)
  with np.errstate(divide='ignore'):
    one, two = (-world.toys.CUBE - o) / d, (world.toys.CUBE - o) / d
  near, far = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
  return o, d, np.where(near < far, near, np.inf)


@pytest.mark.slow
@pytest.mark.parametrize('caption', ['a red sphere', 'a red cube'])
def test_depth_and_mask_agree_with_the_closed_form(caption):
  _, _, true = cast(caption)
  view = see(caption, *AROUND)
  mask, hit = np.asarray(view.mask) > .5, np.isfinite(true)
  assert (mask != hit).sum() <= .01 * hit.sum()
  error = np.abs(np.asarray(view.depth) - true)[mask & hit]
  # the rest of the cube's graze an edge
  assert np.quantile(error, .99) < 1e-3 and np.median(error) < 1e-5
  assert 'cube' in caption or error.max() < 1e-3
  assert np.all(np.asarray(view.depth)[~mask] == 0.)


@pytest.mark.slow
def test_normals_point_outward_and_are_exact_on_the_sphere():
  o, d, true = cast('a red sphere')
  view = see('a red sphere', *AROUND)
  inside = np.isfinite(true) & (np.asarray(view.mask) > .5)
  normal = (o + np.where(inside, true, 0.)[..., None] * d)[inside] / world.toys.BALL
  cosine = (normal * np.asarray(view.normal)[inside]).sum(-1)
  assert np.quantile(cosine, .02) > .9999
  assert np.all((np.asarray(view.normal) * d).sum(-1) < .05)


@pytest.mark.parametrize('caption', [f'a green {k}' for k in world.KINDS]
                         + ['a red ring on a blue cone', 'a red egg beside a blue pill'])
def test_every_kind_is_seen_whole_from_all_sides(caption):
  view = see(caption, *AROUND)
  share = np.asarray(view.mask.mean((1, 2)))
  assert share.min() > .03 and share.max() < .6
  edge = np.concatenate([np.asarray(view.mask)[:, [0, -1]].ravel(),
                         np.asarray(view.mask)[:, :, [0, -1]].ravel()])
  assert edge.max() == 0. and np.asarray(view.rgb).min() >= 0. and np.asarray(view.rgb).max() <= 1.
  assert np.all(np.asarray(view.rgb)[np.asarray(view.mask) == 0.] == 0.)


@pytest.mark.parametrize('kind', world.FRONT)
def test_a_front_differs_from_its_back(kind):
  view = see(f'a green {kind}', np.radians([0., 0., 180., 180.]), np.radians([15., 40., 15., 40.]))
  front, back = np.asarray(view.rgb)[:2], np.asarray(view.rgb)[2:]
  mirrored = back[:, :, ::-1]
  covered = np.asarray(view.mask).mean()
  assert np.abs(front - mirrored).mean() / covered > .03


def test_symmetric_solids_look_the_same_after_a_turn():
  quarter = see('a red cube', np.radians([20., 110., 200., 290.]), np.radians([25.] * 4))
  for name in ('mask', 'depth'):
    v = np.asarray(getattr(quarter, name))
    assert np.abs(v[1:] - v[:1]).mean() < 2e-3


def test_the_right_hand_of_a_front_view_is_plus_y():
  pair = np.asarray(see('a green ball beside a red cube', *AROUND).rgb)[0]
  assert pair[:, :SIZE // 2, 1].sum() > pair[:, :SIZE // 2, 0].sum() and pair[
      :, SIZE // 2:, 0].sum() > pair[:, SIZE // 2:, 1].sum()


@pytest.mark.slow
def test_skipping_tiles_changes_nothing():
  item, light = rows('a red robot', 4)
  camera = ring(*(jnp.asarray(a, jnp.float32) for a in AROUND))
  fast = render(item, camera, light)
  small = jax.jit(partial(views.render_batch, size=SIZE, steps=96, chunk=1024))(item, camera, light)
  np.testing.assert_array_equal(fast.mask, small.mask)
  r = jax.vmap(lambda c: cameras.rays(c, SIZE))(camera)

  @jax.jit
  def march(t):  # every ray by itself, from the camera
    at = tuple(r.origin[..., i] + t * r.direction[..., i] for i in range(3))
    return jnp.minimum(t + world.distance(item, at), 9.)
  t = jnp.zeros(r.origin.shape[:-1])
  for _ in range(150):
    t = march(t)
  slow = np.asarray(t) < 8.9
  assert (slow != (np.asarray(fast.mask) > .5)).sum() <= .02 * slow.sum()
  both = slow & (np.asarray(fast.mask) > .5)
  assert np.quantile(np.abs(np.asarray(fast.depth) - np.asarray(t))[both], .98) < 2e-3


@pytest.mark.slow
def test_one_picture_equals_its_row_of_a_batch_and_supersampling_averages_it():
  item, light = rows('a striped yellow car', 4)
  camera = ring(*(jnp.asarray(a, jnp.float32) for a in AROUND))
  row = lambda tree: jax.tree.map(lambda v: v[3], tree)
  alone = jax.jit(partial(views.render, size=SIZE, steps=96))(world.parse('a striped yellow car'),
                                                              row(camera), row(light))
  chex.assert_trees_all_close(alone, row(render(item, camera, light)), rtol=1e-7, atol=2e-5)
  half = jax.jit(partial(views.render_batch, size=SIZE // 2, supersample=2,
                         steps=96))(item, camera, light)
  full = render(item, camera, light)
  pooled = lambda v: np.asarray(v).reshape(4, SIZE // 2, 2, SIZE // 2, 2, -1).mean((2, 4))
  assert np.abs(pooled(full.rgb) - np.asarray(half.rgb)).mean() < 1e-3
  assert np.abs(pooled(full.mask)[..., 0] - np.asarray(half.mask)).mean() < 1e-3


def test_draws_of_cameras_and_lights_are_in_range():
  keys = jax.random.split(jax.random.key(0), 500)
  camera, light = jax.vmap(views.sample_camera)(keys), jax.vmap(views.sample_light)(keys)
  assert camera.distance.min() >= 2.8 and camera.distance.max() <= 3.3
  assert np.degrees(camera.elevation.min()) > -10.1 and np.degrees(camera.elevation.max()) < 85.1
  np.testing.assert_allclose(jnp.linalg.norm(light.direction, axis=-1), 1., atol=1e-5)
  assert light.ambient.min() >= .5 and light.ambient.max() <= .7


def test_a_size_that_tiles_do_not_fill_is_refused():
  item, light = rows('a red cube', 4)
  with pytest.raises(ValueError, match='multiple of 4'):
    views.render_batch(item, ring(*(jnp.asarray(a, jnp.float32) for a in AROUND)), light, size=30)
