"""Empty space is left out: what is asked is what the grid says, nearest first, and the picture is
the one of all samples."""
from functools import partial

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from configs import base
from jaxdreamer import build, cameras, occupancy, render
from jaxdreamer.scenes import voxels
from jaxdreamer.types import Rendering

KEY = jax.random.key(3)
CAMERA = cameras.orbital(.4, .3, 3., .7)
SCENE = voxels.voxels(levels=(8,))
PARAMS = SCENE.init(jax.random.key(1))
ALL = jnp.ones((4, 4, 4), bool)


def ball(xyz, *, at=(.2, 0., -.1), radius=.3, density=40.):
  """A dense ball that is colored by place."""
  inside = jnp.linalg.norm(xyz - jnp.array(at)) < radius
  return jnp.where(inside, density, 0.), .5 + .5 * jnp.sin(5. * xyz)


def field_of(params):
  return partial(SCENE.field, SCENE.prepare(params, None))


def grid_of(field, *, cells=16, radius=1., step=.02):
  return occupancy.grid(jax.random.key(0), field, cells=cells, radius=radius, step=step)


def centers(cells, radius):
  line = radius * (2. * (np.arange(cells) + .5) / cells - 1.)
  return np.stack(np.meshgrid(line, line, line, indexing='ij'), -1)


@pytest.mark.parametrize('radius', [1., 2.])
def test_a_grid_has_the_cells_that_may_hold_something_and_their_neighbors(radius):
  """A cell within half of the ball's radius is dense whatever its point is; one that lies two
  cells' diagonals outside is not, nor is a neighbor of it."""
  cells = 16
  occupied = np.asarray(grid_of(ball, cells=cells, radius=radius))
  away = np.linalg.norm(centers(cells, radius) - np.array([.2, 0., -.1]), axis=-1)
  diagonal = 2. * radius / cells * 3 ** .5
  assert occupied[away < .3 - .5 * diagonal].all() and occupied[away < .3].all()
  assert not occupied[away > .3 + 2. * diagonal].any()
  assert 0. < occupied.mean() < .5


@pytest.mark.parametrize('density', [1e-4, .3, 100.])
def test_fog_of_one_density_is_not_empty_however_thin(density):
  assert grid_of(lambda xyz: (jnp.float32(density), xyz)).all()


def test_what_is_faint_beside_something_dense_is_empty():
  """An optical depth below a hundredth, of one step."""
  def field(xyz):
    return jnp.where(xyz[0] > .5, 40., .4 if density else .6), xyz
  for density in (True, False):
    assert bool(grid_of(field)[0, 8, 8]) != density


def test_no_gradient_goes_through_the_grid_and_it_is_drawn_anew():
  one, two = (occupancy.grid(jax.random.key(seed), ball, cells=16, radius=1., step=.02)
              for seed in (0, 1))
  assert one.dtype == bool and (one != two).any()


def test_points_are_looked_up_in_their_cells():
  occupied = jax.random.bernoulli(KEY, .5, (5, 5, 5))
  xyz = jax.random.uniform(jax.random.key(4), (7, 30, 3), minval=-2., maxval=2.)
  cell = np.floor((np.asarray(xyz) / 2. + 1.) / 2. * 5).astype(int)
  np.testing.assert_array_equal(occupancy.inside(occupied, xyz, radius=2.),
                                np.asarray(occupied)[tuple(np.moveaxis(cell, -1, 0))])
  outside = occupancy.inside(occupied, jnp.array([2.5, -3., 9.]), radius=2.)
  assert outside == occupied[4, 0, 4]


@pytest.mark.parametrize('room', [1, 9, 25, 40])
def test_the_first_that_there_is_room_for_are_chosen(room):
  there = jax.random.bernoulli(KEY, .5, (40,))
  places, more = occupancy.chosen(there, room)
  (expected,) = np.nonzero(there)
  kept = expected[:room]
  np.testing.assert_array_equal(places[:len(kept)], kept)
  assert (places[len(kept):] >= 40).all() and len(np.unique(places)) == room
  assert more == max(len(expected) - room, 0)


def assert_same(a, b, **tolerance):
  """Two Renderings, `dropped` aside."""
  chex.assert_trees_all_close(*(x._replace(dropped=None) for x in (a, b)), **tolerance)


@pytest.mark.parametrize('options', [{}, {'disparity': True}, {'radius': .7}])
def test_with_room_for_all_in_a_full_grid_nothing_changes(options):
  field = field_of(PARAMS)
  draw = partial(render.image, KEY, field, CAMERA, size=8, samples=12, **options)
  ours = jax.jit(lambda: draw(occupied=ALL, room=1.))()
  assert_same(ours, jax.jit(draw)(), rtol=1e-4, atol=1e-5)
  assert ours.dropped == 0. and ours.opacity.max() > .5


@pytest.mark.slow
@pytest.mark.parametrize('options', [{'chunk': 16}, {'chunk': 17}, {'remat': True},
                                     {'chunk': 16, 'remat': True}])
def test_gradients_chunks_and_rematerialization_change_nothing(options):
  light = render.Light(jnp.array([3., 1., 1.]), jnp.float32(.1), jnp.float32(.9), jnp.float32(0.))

  def loss(params, **given):
    out = render.image(KEY, field_of(params), CAMERA, size=8, samples=12,
                       shade=partial(render.lit, light), **given)
    return sum(jnp.sum(x ** 2) for x in (out.rgb, out.distortion, out.z_variance, out.normal))
  whole, ours = (jax.jit(jax.value_and_grad(partial(loss, **given)))(PARAMS) for given in
                 ({}, {'occupied': ALL, 'room': 1.} | options))
  chex.assert_trees_all_close(whole, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('chunk', [None, 64])
def test_a_ball_looks_as_if_all_of_space_were_asked(chunk):
  draw = jax.jit(partial(render.image, KEY, ball, CAMERA, size=32, samples=64, jitter=0.,
                         chunk=chunk), static_argnames='room')
  whole, ours = draw(), draw(occupied=grid_of(ball), room=.125)
  assert ours.dropped == 0.
  assert_same(ours, whole, rtol=1e-4, atol=1e-5)
  assert whole.opacity.max() > .99 and whole.opacity.min() == 0.


def test_where_there_is_no_room_for_all_the_nearest_are_asked():
  """Of fog, half of the samples see the half of each ray that is nearer."""
  camera = cameras.orbital(0., 0., 3., .7)
  draw = jax.jit(partial(render.image, KEY, lambda xyz: (jnp.float32(.7), xyz), camera, size=8,
                         samples=16, jitter=0.), static_argnames='room')
  whole, half = draw(), draw(occupied=ALL, room=.5)
  assert half.dropped == 8 * 8 * 8
  np.testing.assert_allclose((1. - half.opacity) ** 2, 1. - whole.opacity, rtol=1e-4)
  middle = np.s_[3:5, 3:5]                     # rays whose nearer half is between 2 and 3 away
  assert whole.opacity[middle].min() > .7 and (whole.depth[middle] > 2.6).all()
  assert (half.depth[middle] < 2.5).all()


def run_of(**options):
  config = base.get_config()
  config.update_from_flattened_dict({
    'scene.name': 'hashgrid', 'scene.hashgrid.levels': 3, 'scene.hashgrid.log2_table': 8,
    'prior.name': 'test_processes:grey', 'render.samples': 32,
    'render.fine': 0, 'render.occupancy': 8, 'render.background': 'white',
    'estimator.name': 'sds'} | options)
  return config


def test_all_views_of_a_scene_share_a_grid():
  """No array of the step has both so many views and so many cells."""
  config = run_of(**{'render.occupancy': 7})
  draw = build.make_render(config, scene := build.make_scene(config))
  code = scene.prepare(scene.init(KEY), None)
  shots = jax.vmap(partial(draw, 8, code), (None, 0, None))
  shapes = set()

  def walk(jaxpr):
    for equation in jaxpr.eqns:
      shapes.update(x.aval.shape for x in equation.outvars)
      for inner in jax.extend.core.jaxprs_in_params(equation.params):
        walk(inner)
  walk(jax.make_jaxpr(shots)(CAMERA, jax.random.split(KEY, 3), 5).jaxpr)
  assert any(shape[:1] == (343,) for shape in shapes)
  assert not any(shape[:2] == (3, 343) for shape in shapes)
  out: Rendering = shots(CAMERA, jax.random.split(KEY, 3), 5)
  assert out.rgb.shape == (3, 8, 8, 3) and out.dropped.shape == (3,)


@pytest.mark.slow
def test_a_run_tells_what_found_no_room():
  config = run_of(**{'render.room': .01})
  training = build.training(config, build.make_mesh(config))
  _, _, info = next(training.fit(training.init(KEY), steps=1))
  assert info['dropped'] > 0. and info['finite'] == 1.


@pytest.mark.parametrize(('options', 'named'), [
  ({'render.fine': 8}, 'config.render.fine=8: takes 0 with config.render.occupancy'),
  ({'scene.name': 'sdf_hashgrid'}, 'config.render.occupancy=8: takes 0 with config.scene.name'),
  ({'scene.name': 'dmtet'}, 'config.render.occupancy=8: takes 0 with config.scene.name'),
  ({'render.room': 0.}, 'config.render.room'), ({'render.occupancy': -1}, 'config.render.occup')])
def test_what_cannot_be_is_refused_by_name(options, named):
  config = run_of(**options)
  with refused(named):
    build.training(config, build.make_mesh(config))
