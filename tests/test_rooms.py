"""Rooms: captions, distances and pictures in closed form, and the perfect prior of them."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxdreamer import cameras, evaluate, scores
from jaxdreamer.diffusion import diffuse
from jaxdreamer.objects import Object
from jaxdreamer.priors.empirical import empirical
from jaxdreamer.toybox import language, network, rooms, world
from jaxdreamer.types import Rendering

TEXT = 'a red car and a blue ball in a yellow room'
ROOM = rooms.parse(TEXT)
KEY = jax.random.key(0)


def test_a_caption_names_walls_and_toys_from_left_to_right():
  assert list(world.COLORS)[ROOM.wall] == 'yellow'
  assert [world.KINDS[int(item.kind[0])] for item in ROOM.toys] == ['car', 'sphere']
  assert ROOM.places[0][1] < 0. < ROOM.places[1][1]     # seen from +x, -y is on the left
  three = rooms.parse('A striped pink mug, the duck in green, and a grey cone in the violet room')
  assert rooms.caption(three) == ('a striped pink mug, a green duck and a grey cone '
                                  'in a purple room')
  assert rooms.parse(rooms.caption(three)) is not None
  assert rooms.caption(ROOM) == 'a red car and a blue sphere in a yellow room'


@pytest.mark.parametrize('text, said', [
  ('a red car', 'names no room'), ('a yellow room', 'names no room'),
  ('a red car and a blue ball in a room', 'no color for the room'),
  ('a red car and a blue ball in a loud room', 'no color for the room'),
  ('a red car in a yellow room', '1 things'),
  ('a red car and a dragon in a yellow room', 'dragon'),
  ('a red cone on a blue cube and a red car in a yellow room', 'two or three toys')])
def test_what_is_no_room_is_refused_in_one_line(text, said):
  with refused(said):
    rooms.parse(text)
  assert not rooms.names_a_room(text)


def test_rooms_leave_the_language_of_the_shipped_prior_as_it_is():
  assert not {'room', 'and'} & set(language.VOCABULARY)
  assert len(language.VOCABULARY) == len(world.VOCABULARY) and not world.names_a_toy(TEXT)


@pytest.mark.slow
@pytest.mark.parametrize('text', [
  TEXT, 'a green tree, a white chair and a black mug in a red room'])
def test_toys_stand_on_the_floor_and_clear_of_every_camera(text):
  room = rooms.parse(text)
  at = jnp.linspace(-rooms.HALF, rooms.HALF, 101)
  x, y = jnp.meshgrid(at, at)
  level = lambda z: float(rooms.toys_distance(room, (x, y, jnp.full_like(x, z))).min())
  assert abs(level(rooms.FLOOR)) < .02 and level(rooms.FLOOR + .03) < 0.
  stands = jax.vmap(rooms.sample_camera)(jax.random.split(KEY, 4000)).world_from_camera[:, :3, 3]
  assert float(rooms.distance(room, tuple(stands.T)).min()) > .03
  corners = np.array([rooms.HALF, rooms.HALF, max(-rooms.FLOOR, rooms.CEILING)])
  assert np.linalg.norm(corners) < rooms.RADIUS


def test_the_walls_are_where_they_are_in_closed_form():
  origin = tuple(jnp.full(4, v) for v in (.3, -.2, .1))
  direction = jnp.array([[1., 0., 0.], [0., -1., 0.], [0., 0., 1.], [.6, 0., -.8]])
  np.testing.assert_allclose(
    rooms.wall_distance(origin, tuple(direction.T)),
    [rooms.HALF - .3, rooms.HALF - .2, rooms.CEILING - .1, min((rooms.HALF - .3) / .6,
                                                              (.1 - rooms.FLOOR) / .8)], rtol=1e-6)


@pytest.mark.slow
def test_depth_is_that_of_walls_and_of_a_ball_and_all_is_opaque():
  """From the middle: the wall at -x is a plane, the ball a sphere of a known place."""
  look = cameras.orbital(0., 0., 1e-3, math.radians(60.))
  view = rooms.render(ROOM, look, size=33)
  rays = cameras.rays(look, 33)
  assert (view.mask == 1.).all() and float(view.depth.max()) <= 2. * rooms.RADIUS
  up = np.asarray(rays.direction[..., 2]) > .1                             # above the toys
  np.testing.assert_allclose(view.depth[up], (rooms.HALF / -rays.direction[..., 0])[up], rtol=1e-3)
  np.testing.assert_allclose(view.normal[up], np.broadcast_to([1., 0., 0.], view.normal[up].shape),
                             atol=1e-3)
  ball = cameras.look_at(jnp.zeros(3), jnp.array(ROOM.places[1]), jnp.array([0., 0., 1.]))
  view = rooms.render(ROOM, look._replace(world_from_camera=ball), size=33)
  reach = np.linalg.norm(ROOM.places[1]) - rooms.SIZE * world.toys.BALL
  np.testing.assert_allclose(view.depth[16, 16], reach, atol=5e-3)
  assert view.rgb[16, 16, 2] > 3. * view.rgb[16, 16, 0]                    # blue


def test_the_window_shines_and_the_papers_stripes_repeat():
  x, z = jnp.full(3, -rooms.HALF), jnp.full(3, .3)
  y = jnp.array([-.4, 1.1, 1.1 + 2. * rooms.STRIPE])                       # glass, paper, paper
  rgb, _ = rooms.shade(ROOM, (x, y, z))
  np.testing.assert_allclose([float(c[0]) for c in rgb], rooms.SKY, atol=1e-6)
  np.testing.assert_allclose([float(c[1]) for c in rgb], [float(c[2]) for c in rgb], atol=2e-2)


@pytest.mark.slow
def test_the_perfect_prior_denoises_to_what_the_camera_sees():
  prior = empirical(KEY, TEXT, 'color', images=0)
  camera = jax.tree.map(jnp.asarray, rooms.unseen(2))
  true = network.encode(jnp.asarray(rooms.pictures(TEXT, camera, size=network.SIZE).rgb))
  t = jnp.array([.3, .9])
  z_t = diffuse(jnp.zeros_like(true), t, jax.random.normal(KEY, true.shape),
                schedule=prior.schedule)
  eps_hat = prior.eps(z_t, t, prior.embed(TEXT).views[:2], camera)
  a, s = (f(t)[:, None, None, None] for f in (prior.schedule.alpha, prior.schedule.sigma))
  np.testing.assert_allclose((z_t - s * eps_hat) / a, true, atol=2e-3)
  with refused('config.prior.empirical.images=0'):
    prior.eps(z_t, t, prior.embed(TEXT).views[:2], None)


@pytest.mark.slow
def test_a_finite_set_knows_a_room_too_and_cameras_that_turn_are_far_apart():
  prior = empirical(KEY, TEXT, 'color', images=3)
  assert prior.weights['images'].shape == (3, math.prod(network.LATENT))
  there, back = (cameras.orbital(a, 0., 1e-3, 1.).world_from_camera for a in (0., math.pi))
  assert np.linalg.norm(there[:3, 3] - back[:3, 3]) < .01      # one place, two directions
  assert prior.weights['position'].shape == (3, 6)
  half = np.linalg.norm(prior.weights['position'][:, 3:], axis=1)
  np.testing.assert_allclose(half, rooms.HALF, rtol=1e-5)


@pytest.mark.slow
def test_the_truth_of_a_room_is_perfect_and_is_told_from_another():
  def render(camera, background):
    batch = jax.tree.map(lambda a: np.asarray(a)[None], camera)
    view = rooms.pictures(TEXT, batch, size=32)
    x, mask, depth, normal = (v[0] for v in view)
    return Rendering(x, mask, depth, normal, mask, mask, mask)
  truth = Object(render, None, None, rooms.RADIUS, 32, 1.8)
  found = evaluate.score_room(TEXT, truth)
  assert found['room_psnr'] > 60. and found['room_depth_pearson'] > .9999
  assert found['room_opacity'] == 1. and found['room_normal_degrees'] < .1
  assert set(found) <= set(scores.MEANING) and evaluate.knows(TEXT)
  other = evaluate.score_room('a red car and a blue ball in a purple room', truth)
  assert other['room_psnr'] < 20. and other['room_depth_pearson'] > .9999


def test_unseen_cameras_fill_their_ranges():
  camera = rooms.unseen(24)
  assert len(np.unique(np.round(camera.azimuth, 4))) == 24
  for name, values in (('azimuth', np.degrees(camera.azimuth)), ('distance', camera.distance),
                       ('elevation', np.degrees(camera.elevation))):
    low, high = rooms.CAMERAS[name]
    assert low <= values.min() < low + .15 * (high - low) and high >= values.max() > high - .15 * (
        high - low), name
