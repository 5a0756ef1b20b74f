"""Scenes one stands in: rays from inside the ball, fields with an extent, panoramas and the surface
around the air."""
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from configs import base
from jaxdreamer import build, cameras, conditioning, render, volume
from jaxdreamer.objects import Object
from jaxdreamer.outputs import inside, video
from jaxdreamer.scenes import fields
from jaxdreamer.scenes.hashgrid import hashgrid
from jaxdreamer.scenes.sdf_voxels import sdf_voxels
from jaxdreamer.scenes.voxels import voxels
from jaxdreamer.types import Rendering, Text

KEY = jax.random.key(0)
RADIUS, HALF, BALL = 2., .9, .25         # of the ball; of a room; of a ball in its corner
CORNER = (.5, .5, -.5)


def room(xyz):
  """A cube of air with a ball in it, colored by place."""
  solid = jnp.maximum(jnp.max(jnp.abs(xyz)) - HALF,
                      BALL - fields.length(xyz - jnp.array(CORNER)))
  return 200. * jax.nn.sigmoid(100. * solid), .5 + .5 * jnp.tanh(xyz)


def object_in(field, *, size=32):
  draw = jax.jit(lambda camera, gray: render.image(
    KEY, field, camera, size=size, samples=48, fine=48, radius=RADIUS, jitter=0.,
    background=lambda direction: gray))
  at = jax.jit(jax.vmap(field))
  return Object(draw, lambda xyz: at(xyz)[0], lambda xyz: at(xyz)[1], RADIUS, size, inside=.4)


def test_a_ray_from_inside_starts_at_the_eye_and_ends_at_the_ball():
  origin = jnp.array([.3, -.8, .5])
  for direction in cameras.normalize(jnp.array([1., 2., -1.])), jnp.array([0., 1., 0.]):
    near, far = volume.ball_interval(origin, direction, 2.)
    assert near == 0.
    np.testing.assert_allclose(jnp.linalg.norm(origin + far * direction), 2., rtol=1e-6)


def test_fog_seen_from_the_middle_is_as_opaque_as_the_ball_is_wide():
  out = render.image(KEY, lambda xyz: (jnp.float32(.8), jnp.ones(3)),
                     cameras.orbital(.3, .2, 1e-3, 1.), size=8, samples=8, radius=1.5)
  np.testing.assert_allclose(out.opacity, 1. - math.exp(-.8 * 1.5), atol=2e-3)


def test_disparity_keeps_the_ends_and_takes_equal_steps_of_its_inverse():
  u = jnp.linspace(0., 1., 9)
  near, far = jnp.float32(.5), jnp.float32(6.)
  dist = volume.spaced(near, far, u, disparity=True)
  np.testing.assert_allclose(dist[jnp.array([0, -1])], [.5, 6.], rtol=1e-5)
  np.testing.assert_allclose(jnp.diff(1. / (1. + dist)), jnp.full(8, (1. / 7. - 1. / 1.5) / 8.),
                             rtol=1e-4)
  assert (jnp.diff(jnp.diff(dist)) > 0.).all()
  np.testing.assert_array_equal(volume.spaced(near, far, u, disparity=False),
                                near + (far - near) * u)


def test_disparity_changes_where_samples_lie_and_not_what_there_is():
  look = partial(render.image, KEY, room, cameras.orbital(.4, .2, .6, 1.2), size=8, samples=96,
                 fine=64, radius=RADIUS, jitter=0.)
  even, near = look(), look(disparity=True)
  np.testing.assert_allclose(even.depth, near.depth, atol=.03)
  assert float(jnp.abs(even.depth - near.depth).max()) > 0.


@pytest.mark.parametrize('make', [
  lambda e: voxels(levels=(5, 9), scale=1., extent=e, strength=8., radius=.45 * e),
  lambda e: hashgrid(levels=3, log2_table=9, finest=32, extent=e, radius=.45 * e)],
  ids=['voxels', 'hashgrid'])
def test_a_field_of_an_extent_is_the_same_field_enlarged(make):
  one, five = make(1.), make(5.)
  params = jax.tree.map(lambda p: p + .1 * jnp.sin(jnp.arange(p.size, dtype=float)).reshape(
    p.shape), one.init(KEY))
  for xyz in jax.random.uniform(jax.random.key(1), (6, 3), minval=-.9, maxval=.9):
    small = one.field(one.prepare(params, None), xyz)
    large = five.field(five.prepare(params, None), 5. * xyz)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5), small, large)


def test_an_inverted_cone_is_a_hollow_in_what_is_dense():
  blob = partial(fields.cone_blob, strength=-10., radius=2.5)       # 4 r - 10
  for r in (.1, 2.5, 4.):
    np.testing.assert_allclose(blob(jnp.array([r, 0., 0.])), 4. * r - 10., atol=1e-5)


def test_a_hollow_distance_is_that_of_a_sphere_with_its_sides_changed():
  scenes = [sdf_voxels(levels=(3,), scale=0., radius=2., extent=3., hollow=h)
            for h in (False, True)]
  code = scenes[0].focus(scenes[0].prepare(scenes[0].init(KEY), None), 0)
  for x in (.5, 2., 2.7):
    solid, hollow = (scene.distance(code, jnp.array([x, 0., 0.])) for scene in scenes)
    np.testing.assert_allclose([solid, hollow], [x - 2., 2. - x], atol=1e-5)


def test_without_view_words_each_view_is_told_the_plain_prompt():
  text = Text(jnp.arange(8.).reshape(4, 1, 2), jnp.full((1, 2), 9.), jnp.zeros((1, 2)),
              jnp.zeros((1, 2)))
  camera = jax.tree.map(jnp.asarray, cameras.orbit((4, .2)))
  views = conditioning.condition(text, camera, words=None)
  np.testing.assert_array_equal(views.text, views.plain)
  assert (conditioning.condition(text, camera).text != views.plain).any()


def test_perp_neg_is_refused_where_there_are_no_view_words():
  config = base.get_config()
  config.cameras.words, config.perp_neg = False, .5
  with refused('config.perp_neg=0.5: takes 0 with config.cameras.words=False'):
    build.training(config, build.make_mesh(config))


def test_a_panoramas_pixels_cover_the_sphere_and_look_where_they_say():
  look = inside.directions(64)
  np.testing.assert_allclose(np.linalg.norm(look, axis=-1), 1., rtol=1e-6)
  share = np.cos((.5 - (np.arange(64) + .5) / 64) * np.pi) * (np.pi / 64) ** 2
  np.testing.assert_allclose(share.sum() * 128, 4. * np.pi, rtol=1e-3)
  np.testing.assert_allclose((look * share[:, None, None]).sum((0, 1)), 0., atol=1e-6)
  np.testing.assert_allclose(look[31:33, 63:65].mean((0, 1)), [1., 0., 0.], atol=1e-3)  # front
  assert look[32, 32, 1] > .99 and look[0, 0, 2] > .99          # left, and up


def test_a_panorama_shows_what_lies_in_each_direction():
  """Rendered through the cameras of a cube: a sky colored by its direction comes back."""
  size = 32
  def sky(camera):
    direction = cameras.rays(camera, size).direction
    flat = jnp.ones((size, size))
    return Rendering(direction, flat, 2. * flat, direction, None, None, None, None)
  seen = inside.panorama(jax.jit(sky), size=size)
  assert seen.rgb.shape == (2 * size, 4 * size, 3)
  np.testing.assert_allclose(seen.rgb, inside.directions(2 * size), atol=2e-3)
  np.testing.assert_allclose(seen.depth, 2., rtol=1e-6)


def test_the_mesh_of_a_room_is_its_inner_surface_facing_the_air():
  """Six walls and a ball that floats: no outer shell, and the volume is the air's."""
  thing = object_in(room)
  camera = inside.lookouts(thing)
  views = video.render_views(thing.over(1.), camera)
  mesh, facts = inside.extract(thing, camera, views, resolution=64)
  assert np.abs(mesh.vertices).max() < HALF + .05 < RADIUS
  assert facts['watertight'] and facts['depth_error'] < .02 and facts['seen'] == 1.
  a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
  air = -np.sum(a * np.cross(b, c)) / 6.               # faces turn towards the air
  # light ends a little before a soft wall, at .03 of the half side
  np.testing.assert_allclose(air, (2. * HALF) ** 3 - 4. / 3. * math.pi * BALL ** 3, rtol=.12)
  np.testing.assert_allclose(mesh.colors, .5 + .5 * np.tanh(mesh.vertices), atol=.06)


def test_a_scene_without_air_has_no_mesh_to_stand_in():
  with refused('no air'):
    inside.walls(np.full((8, 8, 8), 5.), 1., radius=1.)
  grid = np.full((9, 9, 9), 5.)
  grid[2:7, 2:7, 2:7], grid[4, 4, 8] = -3., -3.
  kept = inside.walls(grid, 1., radius=4.)
  assert (kept[2:7, 2:7, 2:7] == -3.).all() and kept[4, 4, 8] == 5.    # the bubble is filled


def test_an_object_says_where_its_films_stand():
  within, without = (Object(None, None, None, 2., 8, inside=d) for d in (1.8, 0.))
  assert within.away == 1.8 and without.away == 6.
  assert within.fov > without.fov == math.radians(40.)
