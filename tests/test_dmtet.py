"""The scene whose surface is a mesh: its start, its renderer behind the contract, its outputs, and
a run of it."""
import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from jaxdreamer import build, cameras, loop, objects, option_rules, options, regularizers, render
from jaxdreamer.configs import base, toybox_dmtet
from jaxdreamer.meshes import topology
from jaxdreamer.scenes import backgrounds, dmtet, hashgrid, image, particles
from jaxdreamer.types import Rendering

SCENE = dmtet.dmtet(levels=(5, 17))
CAMERA = cameras.orbital(.5, .3, 3., .7)
WHITE = dict(background=render.white, shade=render.unlit)


def code_of(params, scene=SCENE, step=0):
  return jax.jit(lambda params: scene.focus(scene.prepare(params, None), step))(params)


def thing(*, density=None, distance=None, radius=1.):
  """An Object of these alone."""
  return objects.Object(None, density, None, radius, 32, distance)


@pytest.fixture(scope='module')
def code():
  return code_of(SCENE.init(jax.random.key(0)))


def test_it_starts_as_a_gray_sphere_for_its_renderer_its_field_and_its_mesh_alike(code):
  seen = jax.jit(lambda code: SCENE.render(code, CAMERA, size=32, **WHITE))(code)
  assert isinstance(seen, Rendering)
  solid = np.asarray(seen.opacity) > .99
  np.testing.assert_allclose(np.asarray(seen.rgb)[solid], .5, atol=.1)
  np.testing.assert_allclose(seen.depth[16, 16], 2.5, atol=.03)
  density, features = jax.vmap(partial(SCENE.field, code))(jnp.array([[0., .45, 0.],
                                                                      [0., .55, 0.]]))
  assert density[0] > 400. and density[1] < .1
  np.testing.assert_allclose(features[:, :3], .5, atol=.1)
  found = trimesh.Trimesh(*topology.compact(SCENE.mesh(code)), process=False)
  assert found.is_watertight and found.euler_number == 2
  np.testing.assert_allclose(np.linalg.norm(found.vertices, axis=1), .5, atol=.03)  # blurred


def test_every_parameter_that_shows_has_a_gradient_and_the_box_has_none():
  params = SCENE.init(jax.random.key(0))
  def loss(params):
    code = SCENE.focus(SCENE.prepare(params, None), 0)
    seen = SCENE.render(code, CAMERA, size=24, **WHITE)
    return jnp.sum(seen.rgb ** 2) + seen.normal_consistency + seen.laplacian
  grads = jax.jit(jax.grad(loss))(params)
  chex.assert_tree_all_finite(grads)
  for name in ('sdf', 'deformation', 'texture'):
    assert all(jnp.any(g != 0.) for g in jax.tree.leaves(grads[name])), name
  assert not jnp.any(grads['box'])


def test_a_node_that_moves_takes_the_field_and_the_surface_along():
  params = SCENE.init(jax.random.key(0))
  amount = .4 * np.ones_like(params['deformation']) * np.array([1., 0., 0.])
  moved = code_of(params | {'deformation': jnp.asarray(amount, jnp.float32)})
  shift = np.tanh(.4) * 2. / 16.
  still, there = (topology.compact(SCENE.mesh(c))[0] for c in (code_of(params), moved))
  np.testing.assert_allclose(there - still, [[shift, 0., 0.]] * len(still), atol=1e-5)
  for x, inside in ((.45 + shift, True), (.53 + shift, False), (-.53 + shift, False)):
    assert (SCENE.field(moved, jnp.array([x, 0., 0.]))[0] > 250.) == inside


def test_it_starts_from_a_density_in_a_box_that_fits():
  density = lambda xyz: 40. * (jnp.max(jnp.abs(xyz - jnp.array([[.2, 0., 0.]])) / jnp.array(
    [[.2, .3, .4]]), -1) < 1.)
  scene = dmtet.dmtet(levels=(33,), blurred=False)
  params = scene.adopt(scene.init(jax.random.key(0)), thing(density=density))
  found = trimesh.Trimesh(*topology.compact(scene.mesh(code_of(params, scene))), process=False)
  assert found.is_watertight
  cells = np.ptp(np.asarray(params['box']), 0) / 32.
  assert (np.abs(found.bounds - [[0., -.3, -.4], [.4, .3, .4]]) <= cells).all()
  assert (np.ptp(np.asarray(params['box']), 0) < [.7, .9, 1.2]).all()
  with pytest.raises(ValueError, match='config.start: its scene has no surface'):
    scene.adopt(params, thing(density=lambda xyz: 5. + 0. * xyz[:, 0]))
  # what reaches out of the ball that renderers show ends there
  params = scene.adopt(scene.init(jax.random.key(0)), thing(
    density=lambda xyz: 40. * (jnp.abs(xyz[:, 2]) < .3), radius=.8))
  found, _ = topology.compact(scene.mesh(code_of(params, scene)))
  assert .75 < np.linalg.norm(found, axis=1).max() < .85
  # of several levels the finest holds all of it
  many = SCENE.adopt(SCENE.init(jax.random.key(0)), thing(density=density))
  assert not jnp.any(many['sdf']['grid_5']) and jnp.any(many['sdf']['grid_17'] < 0.)


def test_it_starts_from_a_distance_as_it_is():
  center, half = jnp.array([.1, 0., -.2]), jnp.array([.2, .3, .4])
  def box(xyz):                                  # its edges are round
    beyond = jnp.abs(xyz - center) - half
    return (jnp.sqrt(jnp.sum(jnp.maximum(beyond, 0.) ** 2)) + jnp.minimum(jnp.max(beyond), 0.)
            - .1)
  distance = jax.vmap(box)
  scene = dmtet.dmtet(levels=(9, 33), blurred=False)
  params = scene.adopt(scene.init(jax.random.key(0)), thing(distance=distance))
  vertices, _ = topology.compact(scene.mesh(code_of(params, scene)))
  np.testing.assert_allclose(distance(vertices), 0., atol=.01)
  nodes = dmtet.nodes(params['box'], 32).reshape(-1, 3)
  near = np.linalg.norm(nodes, axis=1) < 1.      # all that a renderer shows
  np.testing.assert_allclose(params['sdf']['grid_33'].ravel()[near], distance(nodes)[near],
                             atol=1e-6)
  assert not np.any(params['deformation']) and not np.any(params['sdf']['grid_9'])


@pytest.mark.parametrize('texture', ['mlp', 'hashgrid'])
def test_its_color_is_that_of_another_scene(texture):
  scene = dmtet.dmtet(levels=(9,), texture=texture)
  params = scene.init(jax.random.key(1))
  paint = dmtet.TEXTURES[texture]()
  xyz = jnp.array([.1, .3, -.2])
  np.testing.assert_allclose(scene.field(code_of(params, scene), xyz)[1],
                             paint.field(paint.prepare(params['texture'], None), xyz)[1],
                             rtol=1e-4)


def test_a_config_gives_the_texture_its_own_options():
  config = base.get_config()
  config.scene.name, config.scene.dmtet.texture = 'dmtet', 'hashgrid'
  config.scene.dmtet.levels = (9,)
  config.scene.hashgrid.update(levels=3, log2_table=8, finest=32)
  params = jax.eval_shape(build.make_scene(config).init, jax.random.key(0))['field']
  want = jax.eval_shape(hashgrid.hashgrid(levels=3, log2_table=8, finest=32).init,
                        jax.random.key(0))
  assert jax.tree.map(jnp.shape, params['texture']) == jax.tree.map(jnp.shape, want)
  assert not option_rules.rule_of('scene.dmtet.texture', 'voxels').fits('conv3d')


def test_a_renderer_and_a_mesh_of_its_own_pass_through_what_wraps_a_scene():
  scene = backgrounds.with_background(particles.stacked(SCENE, 2), backgrounds.constant())
  params = scene.init(jax.random.key(0))
  code = code_of(params, scene)
  seen = scene.render(code, CAMERA, size=8, **WHITE)
  alone = jax.tree.map(lambda a: a[0], params['field'])
  np.testing.assert_allclose(seen.rgb, SCENE.render(code_of(alone), CAMERA, size=8, **WHITE).rgb,
                             atol=1e-5)
  assert int(scene.mesh(code).valid.sum()) > 100
  plain = backgrounds.with_background(image.image(size=4), backgrounds.constant())
  assert plain.mesh is None and plain.render is not None


def test_outputs_take_the_mesh_that_it_has():
  scene = backgrounds.with_background(SCENE, backgrounds.constant())
  model = objects.model(jax.random.key(0), scene, prompts=('a ball',), embed=str, step=0,
                        size=16)
  object = model.object(scene.init(jax.random.key(0)), 'a ball')
  vertices, faces = object.mesh()
  assert len(faces) == 2 * len(vertices) - 4     # Euler, of a sphere
  seen = object.over(1.)(CAMERA)
  assert seen.opacity[8, 8] == 1. and seen.opacity[0, 0] == 0.


def test_smoothness_enters_by_regularizers_which_other_scenes_do_not_know(code):
  seen = SCENE.render(code, CAMERA, size=8, **WHITE)
  mesh = SCENE.mesh(code)
  np.testing.assert_allclose(regularizers.normal_consistency(seen),
                             topology.normal_consistency(mesh), rtol=1e-5)
  np.testing.assert_allclose(regularizers.laplacian(seen), topology.laplacian(mesh), rtol=1e-5)
  flat = image.picture(jnp.zeros((4, 4, 3)))
  assert regularizers.normal_consistency(flat) == 0. == regularizers.laplacian(flat)


@pytest.mark.parametrize('name', ['dmtet', 'voxels'])
def test_a_prior_may_see_normals_of_any_scene(name):
  config = base.get_config()
  config.scene.name, config.scene.dmtet.levels = name, (17,)
  config.scene.voxels.scale = 0.
  config.render.update(kind='normal', background='white', samples=48, fine=0)
  scene = build.make_scene(config)
  code = code_of(scene.init(jax.random.key(0)), scene)
  seen = jax.jit(partial(build.make_render(config, scene), 16))(code, CAMERA, jax.random.key(1), 0)
  o = seen.opacity[..., None]
  np.testing.assert_allclose(seen.rgb, .5 * (seen.normal + o) + 1. - o, atol=1e-4)
  toward = CAMERA.world_from_camera[:3, 3] / 3.              # in the world's frame
  mean = np.asarray(seen.normal).sum((0, 1))
  np.testing.assert_allclose(mean / np.linalg.norm(mean), toward, atol=.05)


def test_a_short_run_trains_says_what_was_dropped_and_leaves_its_outputs(tmp_path):
  config = toybox_dmtet.get_config('empirical')
  config.prompt, config.steps = 'a red cube', 6
  config.update(log_every=2, preview_every=0, checkpoint_every=3)
  config.scene.dmtet.update(levels=(5, 9), room=.5)
  config.scene.voxels.levels = (5, 9)
  config.prior.empirical.images = 16
  config.sampling.views = 2
  config.eval.update(size=24, mesh_resolution=16)
  options.check(config)
  loop.run(config, tmp_path, build.make_mesh(config))
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['step'] == 6 and all(np.isfinite(row['gradient_norm']) for row in rows)
  assert rows[0]['dropped'] > 0.                 # for room is scarce here
  facts = json.loads((tmp_path / 'mesh.json').read_text())
  assert facts['silhouette_iou'] > .8
  for name in ('mesh.glb', 'turntable.mp4', 'scores.json', 'report.html'):
    assert (tmp_path / name).stat().st_size, name
