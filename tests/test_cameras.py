"""Cameras and rays against geometry."""
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer import cameras

FOV = math.radians(40.)
quick = settings(max_examples=30, deadline=None)
azimuths, elevations = st.floats(-math.pi, math.pi), st.floats(-.5 * math.pi, .5 * math.pi)


@quick
@given(azimuths, elevations)
def test_a_camera_is_rigid_stands_where_it_says_and_sees_the_origin(azimuth, elevation):
  camera = cameras.orbital(azimuth, elevation, 3., FOV)
  rotation, position = camera.world_from_camera[:3, :3], camera.world_from_camera[:3, 3]
  np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
  np.testing.assert_allclose(jnp.linalg.det(rotation), 1., atol=1e-5)
  np.testing.assert_allclose(position, 3. * np.array([math.cos(elevation) * math.cos(azimuth),
                                                      math.cos(elevation) * math.sin(azimuth),
                                                      math.sin(elevation)]), atol=1e-5)
  np.testing.assert_allclose(-rotation[:, 2] * 3., -position, atol=1e-5)  # it looks down -z
  assert rotation[2, 1] >= -1e-5  # its y never points down


def test_from_the_front_plus_y_is_on_the_right_and_z_is_up():
  pose = cameras.orbital(0., 0., 3., FOV).world_from_camera
  np.testing.assert_allclose(pose[:3, :3], np.array([[0., 0., 1.], [1., 0., 0.], [0., 1., 0.]]),
                             atol=1e-6)


def test_rays_of_an_even_image_meet_the_four_corners_of_the_field_of_view():
  rays = cameras.rays(cameras.orbital(0., 0., 3., FOV), 2)
  assert rays.origin.shape == rays.direction.shape == (2, 2, 3)
  half = .5 * math.tan(.5 * FOV)                                 # pixel centers are half way out
  top_left = np.array([-1., -half, half])  # from +x: -y is on the left, +z is up
  np.testing.assert_allclose(rays.direction[0, 0], top_left / np.linalg.norm(top_left), atol=1e-6)
  np.testing.assert_allclose(jnp.linalg.norm(rays.direction, axis=-1), 1., atol=1e-6)
  np.testing.assert_allclose(rays.direction.mean((0, 1))[1:], 0., atol=1e-6)


def test_a_point_projects_onto_the_pixel_whose_ray_meets_it():
  camera = cameras.orbital(.7, .3, 3., FOV)
  pixel = jnp.array([11.2, 40.7])
  ray = cameras.ray(camera, pixel, 64)
  point = ray.origin + 2.3 * ray.direction
  x, y, z, _ = jnp.linalg.inv(camera.world_from_camera) @ jnp.append(point, 1.)
  focal = 32. / math.tan(.5 * FOV)
  np.testing.assert_allclose([32. - focal * y / -z, 32. + focal * x / -z], pixel, rtol=1e-4)


def test_uniforms_at_the_ends_give_the_ranges():
  ranges = dict(azimuth=(-1., 2.), elevation=(-.2, 1.4), distance=(2., 4.), fov=(.5, .9))
  for u, end in ((0., 0), (1., 1)):
    camera = cameras.from_uniform(jnp.full(4, u), **ranges)
    found = camera.azimuth, camera.elevation, camera.distance, camera.fov
    np.testing.assert_allclose(found, [r[end] for r in ranges.values()], atol=1e-5)


@pytest.mark.slow
def test_sampled_cameras_are_uniform_in_area():
  camera = jax.vmap(cameras.sample)(jax.random.split(jax.random.key(0), 4000))
  low, high = math.sin(-math.radians(10.)), math.sin(math.radians(85.))
  share = (jnp.sin(camera.elevation) - low) / (high - low)
  for values in (share, camera.azimuth / (2. * math.pi) + .5, (camera.distance - 2.8) / .5):
    assert abs(np.histogram(values, 10, (0., 1.))[0] - 400).max() < 4.5 * math.sqrt(400 * .9)


def test_elevations_are_uniform_in_angle_in_their_share_of_the_views_and_in_area_in_the_others():
  ranges = dict(azimuth=(-1., 1.), elevation=(-math.radians(10.), math.radians(80.)),
                distance=(2., 2.), fov=(.5, .5))
  u = (jnp.arange(6000.) + .5) / 6000.
  made = {share: jax.vmap(lambda v: cameras.from_uniform(jnp.stack([v] * 4), angular=share,
                                                         **ranges).elevation)(u)
          for share in (0., .3, 1.)}
  in_area, in_angle = (np.sort(made[share]) for share in (0., 1.))
  np.testing.assert_allclose(in_angle, np.interp(u, [0., 1.], ranges['elevation']), atol=1e-5)
  mixed = np.sort(np.concatenate([np.repeat(in_angle, 3), np.repeat(in_area, 7)]))[::10]
  np.testing.assert_allclose(np.sort(made[.3]), mixed, atol=2e-3)
  assert made[.3].min() >= ranges['elevation'][0] - 1e-5 and made[.3].max() <= ranges['elevation'][
      1] + 1e-5


def test_all_around_becomes_fronts_and_backs():
  around = jax.vmap(partial(cameras.orbital, elevation=.3, distance=2.,
                            fov=.7))(jnp.linspace(-math.pi, math.pi, 999))
  near = jax.vmap(cameras.fronts_and_backs)(around)
  off = np.degrees(np.abs(np.arctan2(np.sin(near.azimuth), np.cos(near.azimuth))))
  assert ((off <= 30.1) | (off >= 149.9)).all() and abs((off <= 30.1).mean() - .5) < .01
  for side in (off[off < 90.], 180. - off[off > 90.]):
    np.testing.assert_allclose(np.quantile(side, [.25, .5, .75]), [7.5, 15., 22.5], atol=.2)
  again = jax.vmap(cameras.orbital)(*near[2:5], near.fov)
  np.testing.assert_allclose(near.world_from_camera, again.world_from_camera, atol=1e-5)
  np.testing.assert_array_equal(near.elevation, around.elevation)


def test_cameras_move_as_their_options_say_and_else_not():
  assert cameras.make_move() is None and cameras.make_move(by=(0., 0., 0.)) is None
  camera, key = cameras.orbital(1., .2, 2., FOV), jax.random.key(1)
  first = cameras.make_move(front_back=10)
  # 90 degrees become 30
  np.testing.assert_allclose(first(key, camera, 9).azimuth, 1. / 3., rtol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, first(key, camera, 10), camera)
  for by in ((.1, 0., 0.), (0., .2, 0.), (0., 0., .02)):
    want = cameras.jitter(key, camera, **dict(zip(('position', 'target', 'up'), by)))
    got = cameras.make_move(by=by)(key, camera, 0)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert jnp.abs(got.world_from_camera - camera.world_from_camera).max() > 1e-4


def test_jitter_of_nothing_changes_nothing():
  camera = cameras.orbital(1., 1.2, 3., FOV)
  still = cameras.jitter(jax.random.key(0), camera, position=0., target=0., up=0.)
  jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), camera, still)


def test_a_jittered_camera_knows_where_it_stands():
  for seed in range(5):
    camera = cameras.sample(jax.random.key(seed), jitter_position=.1, jitter_target=.2,
                            jitter_up=.02)
    again = cameras.orbital(camera.azimuth, camera.elevation, camera.distance, camera.fov)
    np.testing.assert_allclose(camera.world_from_camera[:3, 3], again.world_from_camera[:3, 3],
                               atol=1e-5)
    rotation = camera.world_from_camera[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)


@pytest.mark.parametrize(('azimuth', 'elevation', 'view'), [
  (0., 0., 0), (44., 0., 0), (46., 0., 1), (-90., 20., 1), (134., 0., 1), (136., 0., 2),
  (180., 0., 2), (-180., 0., 2),
  (350., 0., 0), (200., 0., 2), (0., 61., 3), (180., 59., 2)])
def test_view_words_follow_the_angles(azimuth, elevation, view):
  assert cameras.view_bin(jnp.radians(azimuth), jnp.radians(elevation)) == view


def test_half_widths_of_view_words_can_be_told():
  assert cameras.view_bin(jnp.radians(40.), jnp.zeros(()), front=math.radians(30.)) == 1


def test_an_orbit_turns_by_equal_steps():
  orbit = cameras.orbit((8, .26))
  np.testing.assert_allclose(jnp.diff(orbit.azimuth), 2. * math.pi / 8, rtol=1e-5)
  assert orbit.world_from_camera.shape == (8, 4, 4) and orbit.azimuth[0] == 0.


def test_the_camera_vector_holds_the_angles_and_the_distance():
  camera = jax.vmap(partial(cameras.orbital, elevation=.4, distance=3.2,
                            fov=FOV))(jnp.array([.3, 2.]))
  np.testing.assert_allclose(jax.vmap(cameras.camera_vector)(camera)[1],
                             [math.cos(2.), math.sin(2.), math.sin(.4), math.cos(.4), .2, 1.],
                             atol=1e-6)
  hidden = camera._replace(known=jnp.array([True, False]))
  np.testing.assert_array_equal(jax.vmap(cameras.camera_vector)(hidden),
                                jnp.array([[1.], [0.]]) * jax.vmap(cameras.camera_vector)(camera))
