"""Rays that meet nothing are left out: those that proposals find fullest are asked, and the picture
is the one of all rays."""
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from configs import base
from jaxdreamer import build, cameras, render
from jaxdreamer.scenes import voxels

KEY = jax.random.key(3)
CAMERA = cameras.orbital(.4, .3, 3., .7)
SCENE = voxels.voxels(levels=(8,))
PARAMS = SCENE.init(jax.random.key(1))
SIZE = 16


def ball(xyz, *, radius=.4, density=40.):
  """A dense ball that is colored by place."""
  inside = jnp.linalg.norm(xyz - jnp.array([.2, 0., -.1])) < radius
  return jnp.where(inside, density, 0.), .5 + .5 * jnp.sin(5. * xyz)


def sky(direction):
  return .5 + .5 * direction


def drawn(field, *, size=SIZE, **options):
  return render.image(KEY, field, CAMERA, size=size, samples=24, fine=24, background=sky,
                      **options)


@pytest.mark.parametrize('room', [1, 7, 40, 64])
def test_the_fullest_are_chosen_then_their_neighbors_then_any(room):
  opacity = jnp.zeros((8, 8)).at[2, 3].set(.9).at[6, 6].set(.5).at[0, 7].set(.001)
  chosen, dropped = render.fullest(KEY, opacity, room)
  assert len(np.unique(chosen)) == room and chosen.min() >= 0 and chosen.max() < 64
  rank = np.zeros((8, 8))
  for value, row, column in ((.001, 0, 7), (.5, 6, 6), (.9, 2, 3)):
    rank[max(row - 1, 0):row + 2, max(column - 1, 0):column + 2] = value
  rank = rank.ravel()
  assert np.sort(rank[np.asarray(chosen)])[0] >= np.sort(rank)[::-1][room - 1]
  assert dropped == max(18 - room, 0)    # two squares of nine are worth a word


def test_among_rays_that_meet_nothing_none_comes_first():
  picks = [set(np.asarray(render.fullest(jax.random.key(seed), jnp.zeros((8, 8)), 8)[0]).tolist())
           for seed in range(40)]
  assert len(set.union(*picks)) > 55 and len({frozenset(pick) for pick in picks}) == 40


@pytest.mark.parametrize('options', [{}, {'chunk': 32}, {'disparity': True}])
def test_a_ball_looks_as_if_all_rays_were_asked(options):
  whole, ours = (jax.jit(partial(drawn, ball, room=room, **options))() for room in (1., .6))
  assert ours.dropped == 0. and whole.dropped is None
  assert .02 < (whole.opacity > .5).mean() < .5
  chex.assert_trees_all_close(whole, ours._replace(dropped=None), rtol=1e-4, atol=1e-5)


def test_what_finds_no_room_shows_the_background_and_is_counted():
  whole, ours = (jax.jit(partial(drawn, ball, room=room))() for room in (1., .05))
  left_out = np.asarray(ours.opacity) == 0.
  assert SIZE ** 2 - left_out.sum() <= 13 and ours.dropped > 10.
  toward = cameras.rays(CAMERA, SIZE).direction
  np.testing.assert_allclose(ours.rgb[left_out], .5 + .5 * toward[left_out], atol=1e-6)
  np.testing.assert_allclose(ours.depth[left_out], 4., rtol=1e-5)
  np.testing.assert_allclose(ours.rgb[~left_out], whole.rgb[~left_out], atol=1e-5)
  assert (whole.opacity[~left_out] > .9).all()


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, {'chunk': 32}, {'remat': True},
                                     {'chunk': 32, 'remat': True}])
def test_the_gradient_is_that_of_all_rays(options):
  """Of a scene that is solid within a ball and empty outside, with light and regularizers."""
  light = render.Light(jnp.array([3., 1., 1.]), jnp.float32(.1), jnp.float32(.9), jnp.float32(0.))

  def loss(params, room):
    def field(xyz):
      density, features = SCENE.field(SCENE.prepare(params, None), xyz)
      return jnp.where(jnp.linalg.norm(xyz) < .4, 1. + density, 0.), features
    out = drawn(field, room=room, shade=partial(render.lit, light),
                **(options if room < 1. else {}))
    return sum(jnp.sum(x ** 2) for x in (out.rgb, out.distortion, out.z_variance, out.normal,
                                         out.orientation))
  whole, ours = (jax.jit(jax.value_and_grad(partial(loss, room=room)))(PARAMS)
                 for room in (1., .6))
  assert max(jnp.abs(x).max() for x in jax.tree.leaves(whole[1])) > .01
  chex.assert_trees_all_close(whole, ours, rtol=1e-3, atol=1e-4)


def test_the_eikonal_is_a_mean_over_the_rays_that_are_asked():
  """Of a distance whose slope is 3 everywhere it is 4, however many rays are left out."""
  out = jax.jit(partial(drawn, ball, room=.3, distance=lambda xyz: 3. * xyz[0]))()
  np.testing.assert_allclose(out.eikonal, 4., rtol=1e-4)


def run_of(**options):
  config = base.get_config()
  config.update_from_flattened_dict({
    'scene.name': 'voxels', 'scene.voxels.levels': (4,), 'prior.name': 'test_processes:grey',
    'render.samples': 8, 'render.fine': 8, 'render.room': .05, 'render.background': 'white',
    'estimator.name': 'sds'} | options)
  return config


@pytest.mark.slow
def test_a_run_tells_what_found_no_room():
  config = run_of()
  training = build.training(config, build.make_mesh(config))
  _, _, info = next(training.fit(training.init(KEY), steps=1))
  assert 0. < info['dropped'] <= 61. and info['finite'] == 1.


@pytest.mark.parametrize(('options', 'named'), [
  ({'render.fine': 0}, 'config.render.room=0.05: takes 1 with config.render.fine=0'),
  ({'render.room': 0.}, 'config.render.room'), ({'render.room': 1.5}, 'config.render.room')])
def test_what_cannot_be_is_refused_by_name(options, named):
  config = run_of(**options)
  with refused(named):
    build.training(config, build.make_mesh(config))
