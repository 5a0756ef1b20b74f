"""Scores against the exact shape, where the shape is known in closed form."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import cameras
from jaxdreamer.toybox import truth, world


@pytest.mark.slow
def test_the_distance_and_color_of_a_caption():
  shape = truth.shape('a blue cube')
  xyz = jnp.array([[0., 0., 0.], [1., 0., 0.], [0., 0., -.6]])
  np.testing.assert_allclose(shape.distance(xyz), [-.51, .49, .09], atol=1e-6)
  np.testing.assert_allclose(shape.color(xyz), np.tile(world.COLORS['blue'], (3, 1)), atol=1e-6)
  assert not shape.has_front and truth.shape('a blue car').has_front
  assert not truth.shape('a blue cube beside a red ball').has_front


def test_volumes_in_closed_form():
  n, radius = 40, world.toys.BALL
  cell = (2. / n) ** 3
  ball, cube = truth.occupancy('a red sphere', n), truth.occupancy('a red cube', n)
  assert abs(ball.sum() * cell - 4 / 3 * np.pi * radius ** 3) < .03
  assert abs(cube.sum() * cell - (2 * world.toys.CUBE) ** 3) < .1


def test_grid_is_indexed_x_y_z():
  mug = np.asarray(truth.occupancy('a red mug', 24))              # the handle is at +y
  assert mug[:, 21].sum() + mug[:, 20].sum() > 0 and mug[21].sum() == 0


@pytest.mark.slow
@pytest.mark.parametrize('caption', ['a red sphere', 'a red cube', 'a red torus', 'a red chair',
                                     'a red cone on a blue cylinder'])
def test_surface_points_lie_on_the_surface(caption):
  points = truth.surface_points(jax.random.key(0), caption, 2000)
  assert np.abs(truth.shape(caption).distance(points)).max() < 2e-3
  assert np.linalg.norm(points, axis=1).max() < world.RADIUS + 1e-3


@pytest.mark.slow
def test_surface_points_are_uniform_in_area():
  cube = np.asarray(truth.surface_points(jax.random.key(1), 'a red cube', 4000))
  face = np.abs(cube).argmax(1) * 2 + (cube[np.arange(4000), np.abs(cube).argmax(1)] > 0)
  assert np.abs(np.bincount(face, minlength=6) / 4000 - 1 / 6).max() < .03
  cap = np.asarray(truth.surface_points(jax.random.key(2), 'a red sphere',
                                        4000))[:, 2] / world.toys.BALL
  assert abs(cap.mean()) < .04 and abs(cap.var() - 1 / 3) < .03  # Archimedes: uniform in height


@pytest.mark.slow
def test_the_silhouette_of_the_sphere_is_the_cone_around_it():
  camera = cameras.orbit((3, math.radians(15.)))
  mask = np.asarray(truth.silhouettes('a red sphere', camera, size=32))
  direction = np.asarray(jax.vmap(lambda c: cameras.rays(c, 32))(camera).direction)
  toward = -np.asarray(camera.world_from_camera[:, :3, 3]) / 3.
  inside = np.einsum('vijk,vk->vij', direction, toward) > np.sqrt(1 - (world.toys.BALL / 3.) ** 2)
  assert (mask != inside).sum() < .02 * inside.sum()


@pytest.mark.slow
def test_one_program_draws_every_number_of_views_in_every_color():
  camera = cameras.orbit((11, .4))
  truth._render.clear_cache()                    # another test may have drawn this toy
  seen = truth.views('a striped cyan cup', camera, size=32)
  truth.in_each_color(world.parse('a striped red cup'), 0, camera, size=32)
  assert truth._render._cache_size() == 1
  alone = truth.views('a striped cyan cup', jax.tree.map(lambda v: v[9:], camera), size=32)
  any_toy = truth.views('a striped cyan cup', camera, size=32, many=True)
  for all_of_them, last, same in zip(seen, alone, any_toy):
    np.testing.assert_allclose(all_of_them[9:], last, atol=2e-5)
    np.testing.assert_allclose(all_of_them, same, atol=2e-4)


@pytest.mark.slow
def test_color_error_is_zero_for_the_truth_and_sees_a_wrong_color():
  camera = cameras.orbit((4, math.radians(15.)))
  red, blue = (truth.views(f'a {c} mug', camera, size=32) for c in ('red', 'blue'))
  assert truth.color_error(red.rgb, red.mask, red) == 0.
  assert truth.color_error(blue.rgb, blue.mask, red) > .2
