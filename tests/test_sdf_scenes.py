"""Scenes of signed distances: NeuS against its formulas, a hash grid as a distance, and what they
start as."""
import math
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from jax.test_util import check_grads
from refusals import refused
from scipy import stats
from skimage.measure import marching_cubes
from test_scenes import seen, slow_hashgrid

from jaxdreamer import build, checks, finishing, loop, render, runs, volume
from jaxdreamer.configs import base
from jaxdreamer.meshes import signed_distance
from jaxdreamer.scenes import fields, neus, shapes, volsdf
from jaxdreamer.scenes.sdf_hashgrid import sdf_hashgrid
from jaxdreamer.scenes.sdf_voxels import sdf_voxels
from jaxdreamer.toybox import truth
from jaxdreamer.types import Rays

FACTORIES = {'sdf_voxels': partial(sdf_voxels, levels=(5, 10)),
             'sdf_hashgrid': partial(sdf_hashgrid, levels=3, log2_table=8, finest=32)}
SHARP = 40.


def phi(distance, sharpness=SHARP):
  return stats.logistic.cdf(distance, scale=1. / sharpness)


def clear(distance):
  return jax.vmap(partial(neus.clearness, sharpness=SHARP))(jnp.asarray(distance, jnp.float32))


def drawn(distance, origin, direction, *, opacity='neus', samples=48, fine=48):
  """What a ray sees of a distance, made opaque one way or the other."""
  kinds = {'neus': neus, 'volsdf': volsdf}
  field = lambda xyz: (kinds[opacity].density(distance(xyz), sharpness=SHARP), xyz)
  direction = jnp.asarray(direction, jnp.float32)
  ray = Rays(jnp.asarray(origin, jnp.float32), direction / jnp.linalg.norm(direction))
  clear = lambda xyz: neus.clearness(distance(xyz), sharpness=SHARP)
  exact = clear if opacity == 'neus' else None
  middles = lambda n: (jnp.arange(n) + .5) / n

  def traced(ray):
    dist, _ = render.propose(field, ray, middles(samples), n=fine, radius=1., clearness=exact,
                             disparity=False)
    return render.trace(field, ray, middles(fine), dist, radius=1., background=render.white,
                        shade=render.unlit, normals=fields.gradient_normals, distance=None,
                        clearness=exact)
  return jax.jit(traced)(ray)


# NeuS


def test_weights_are_those_of_equation_13_painted_front_to_back():
  distance = np.random.default_rng(0).uniform(-.1, .1, 24)
  distance[:4] = np.linspace(.2, -.3, 4)
  weights, trans = volume.fall_weights(clear(distance))
  passes, want = 1., []
  for here, there in zip(phi(distance), phi(distance[1:])):
    alpha = max((here - there) / here, 0.)
    want.append(passes * alpha)
    passes *= 1. - alpha
  np.testing.assert_allclose(weights, want, atol=1e-6)
  np.testing.assert_allclose(trans, passes, atol=1e-6)


@pytest.mark.parametrize('slope', [1., .6, .1])
def test_a_plane_takes_a_rays_light_where_the_ray_crosses_it_however_it_is_cut(slope):
  rng = np.random.default_rng(1)
  for edges in (np.linspace(0., 2., 401), np.sort(rng.uniform(0., 2., 30))):
    distance = slope * (1.1 - edges)
    weights, trans = volume.fall_weights(clear(distance))
    # of the whole ray it is what Phi falls by: no section is counted twice or left out
    np.testing.assert_allclose(trans, phi(distance[-1]) / phi(distance[0]), rtol=1e-4)
  edges = np.linspace(0., 2., 401)
  weights, _ = volume.fall_weights(clear(slope * (1.1 - edges)))
  # unbiased: the most light ends at the plane, and half of it before
  assert abs(edges[:-1][np.argmax(weights)] + .0025 - 1.1) < .004
  before = float(jnp.sum(weights[edges[1:] <= 1.1 + 1e-6]))
  np.testing.assert_allclose(before, 1. - .5 / phi(1.1 * slope), atol=1e-3)


def test_density_is_what_clearness_falls_by_on_a_ray_that_meets_the_surface_head_on():
  distance = jnp.linspace(-.3, .3, 31)
  density = jax.vmap(partial(neus.density, sharpness=SHARP))(distance)
  slope = jax.vmap(jax.grad(partial(neus.clearness, sharpness=SHARP)))(distance)
  np.testing.assert_allclose(density, slope, rtol=1e-5)
  np.testing.assert_allclose(density, SHARP * phi(-np.asarray(distance)), rtol=1e-4)
  assert np.isfinite(clear([-1e4, 1e4])).all()


def test_gradients_of_the_weights_agree_with_finite_differences():
  distance = jnp.array([.1, .06, .01, -.04, -.02, -.05, .03])
  value = jax.random.normal(jax.random.key(0), (6,))
  check_grads(lambda d: volume.composite(volume.fall_weights(jax.vmap(
    partial(neus.clearness, sharpness=10.))(d))[0], value), (distance,), order=1, modes=['rev'],
    atol=.01, rtol=.01, eps=1e-3)


def test_a_ray_that_passes_a_ball_sees_how_near_it_came_whatever_the_balls_size():
  for radius in (.2, .6):
    ball = lambda xyz: fields.length(xyz) - radius
    for away in (-.02, 0., .03):
      origin = [2., radius + away, 0.]
      got = drawn(ball, origin, [-1., 0., 0.]).opacity
      np.testing.assert_allclose(got, 1. - phi(away), atol=.02)
    # VolSDF's fog is longer beside a larger ball: its outline lies farther out
    fog = drawn(ball, [2., radius + .03, 0.], [-1., 0., 0.], opacity='volsdf').opacity
    assert fog > 1. - phi(.03) + .02


def test_a_ray_through_a_ball_ends_at_its_surface_and_has_its_color():
  ball = lambda xyz: fields.length(xyz) - .5
  seen = drawn(ball, [2., .3, 0.], [-1., 0., 0.])
  assert seen.opacity > .999
  np.testing.assert_allclose(seen.depth, 2. - .4, atol=.01)
  np.testing.assert_allclose(seen.rgb, [.4, .3, 0.], atol=.02)
  np.testing.assert_allclose(seen.normal, [.8, .6, 0.], atol=.02)


@pytest.mark.parametrize('name', sorted(FACTORIES))
def test_a_scene_of_either_density_has_the_same_distance_made_opaque_its_way(name):
  fogs = {kind: FACTORIES[name](density=kind, sharpness=(SHARP,)) for kind in ('volsdf', 'neus')}
  params = fogs['neus'].init(jax.random.key(0))
  assert fogs['volsdf'].clearness is None
  codes = {kind: seen(scene, params) for kind, scene in fogs.items()}
  for xyz in jax.random.uniform(jax.random.key(1), (4, 3), minval=-.6, maxval=.6):
    distance = fogs['neus'].distance(codes['neus'], xyz)
    assert distance == fogs['volsdf'].distance(codes['volsdf'], xyz)
    for kind, module in (('volsdf', volsdf), ('neus', neus)):
      np.testing.assert_allclose(fogs[kind].field(codes[kind], xyz)[0],
                                 module.density(distance, sharpness=SHARP), rtol=1e-5)
    np.testing.assert_allclose(fogs['neus'].clearness(codes['neus'], xyz), np.log(phi(distance)),
                               rtol=1e-4, atol=1e-6)


# the hash grid


def test_a_hash_grids_distance_and_color_are_two_networks_of_its_features():
  scene = FACTORIES['sdf_hashgrid'](radius=.4)
  params = jax.tree.map(lambda p: p + .3 * jax.random.normal(jax.random.key(2), p.shape),
                        scene.init(jax.random.key(1)))
  code = seen(scene, params)
  tables = [np.asarray(t, float) for t in params['tables']]
  for xyz in jax.random.uniform(jax.random.key(3), (5, 3), minval=-.9, maxval=.9):
    h = slow_hashgrid(tables, [8, 16, 32], np.asarray(xyz, float))
    sdf, rgb = (np.maximum(h @ a, 0.) @ b for a, b in (params['sdf'], params['rgb']))
    np.testing.assert_allclose(scene.distance(code, xyz), sdf[0] + np.linalg.norm(xyz) - .4,
                               rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scene.field(code, xyz)[1], 1. / (1. + np.exp(-rgb)), atol=1e-3)


def test_levels_of_the_distance_fade_in():
  scene = FACTORIES['sdf_hashgrid'](band=(1., 3., 10))
  params = jax.tree.map(lambda p: p + .2, scene.init(jax.random.key(0)))
  coarse = params | {'tables': [params['tables'][0], *(0. * t for t in params['tables'][1:])]}
  xyz = jnp.array([.2, -.3, .1])
  at = lambda params, step: scene.distance(seen(scene, params, step), xyz)
  np.testing.assert_allclose(at(params, 0), at(coarse, 10), rtol=1e-6)
  assert abs(at(params, 10) - at(params, 0)) > 1e-3


# what a scene starts as


def test_an_ellipsoids_distance_is_exact_on_its_surface_and_a_spheres_everywhere():
  radii = np.array([.7, .4, .25])
  direction = np.random.default_rng(0).normal(size=(40, 3))
  on = direction / np.linalg.norm(direction / radii, axis=1)[:, None]
  of = partial(shapes.ellipsoid, radii=tuple(radii))
  values, slopes = jax.vmap(jax.value_and_grad(of))(jnp.asarray(on, jnp.float32))
  np.testing.assert_allclose(values, 0., atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(slopes, axis=1), 1., rtol=1e-4)
  np.testing.assert_allclose(jax.vmap(partial(shapes.ellipsoid, radii=(.4,) * 3))(
    jnp.asarray(direction, jnp.float32)), np.linalg.norm(direction, axis=1) - .4, atol=1e-5)
  assert of(jnp.zeros(3)) < -.1 and np.isfinite(jax.grad(of)(jnp.zeros(3))).all()


@pytest.mark.parametrize('name', sorted(FACTORIES))
def test_a_scene_starts_as_an_ellipsoid(name):
  scene = FACTORIES[name](shape='ellipsoid', radii=(.7, .4, .3),
                          **{'scale': 0.} if name == 'sdf_voxels' else {})
  xyz = jax.random.uniform(jax.random.key(0), (4000, 3), minval=-.8, maxval=.8)
  code = seen(scene, scene.init(jax.random.key(1)))
  inside = np.asarray(jax.vmap(partial(scene.distance, code))(xyz)) < 0.
  want = np.linalg.norm(np.asarray(xyz) / [.7, .4, .3], axis=1) < 1.
  assert np.mean(inside & want) / np.mean(inside | want) > .97


def overlap(a, b):
  return np.mean(a & b) / np.mean(a | b)


def of_toybox(caption, n=64):
  """The mesh of the exact shape of a caption."""
  axis = np.linspace(-1., 1., n)
  xyz = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1).reshape(-1, 3)
  grid = np.array(truth.shape(caption).distance(jnp.asarray(xyz, jnp.float32))).reshape(n, n, n)
  vertices, faces, *_ = marching_cubes(grid, 0.)
  return trimesh.Trimesh(2. * vertices / (n - 1) - 1., faces)


@pytest.fixture(scope='module')
def car(tmp_path_factory):
  """The file of a toy car's mesh."""
  path = tmp_path_factory.mktemp('car') / 'car.ply'
  of_toybox('a red car').export(path)
  return path


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(FACTORIES))
def test_a_scene_starts_as_the_mesh_in_a_file(name, car):
  scene = FACTORIES[name](shape=str(car))
  params = scene.init(jax.random.key(0))
  code = seen(scene, params)
  xyz = jax.random.uniform(jax.random.key(1), (30_000, 3), minval=-.9, maxval=.9)
  got = jax.vmap(partial(scene.distance, code))(xyz)
  want = truth.shape('a red car').distance(xyz)
  assert overlap(np.asarray(got) < 0., np.asarray(want) < 0.) >= .95
  # no gradient moves it
  slope = jax.grad(lambda p: scene.distance(seen(scene, p), xyz[0]))(params)
  assert not slope['shape'].any() and any(jnp.any(leaf) for leaf in jax.tree.leaves(slope))


@pytest.mark.slow
def test_a_mesh_is_moved_and_scaled_to_fit_and_turned_inside_out(tmp_path):
  path = tmp_path / 'far.ply'
  trimesh.creation.box((40., 20., 10.)).apply_translation((300., 0., -7.)).export(path)
  half = .6 / math.sqrt(21.) * np.array([4., 2., 1.])
  for hollow in (False, True):
    scene = sdf_voxels(levels=(5,), shape=str(path), fit=.6, hollow=hollow)
    code = seen(scene, scene.init(jax.random.key(0)))
    for corner, inside in ((.9 * half, True), (1.15 * half, False)):
      assert (scene.distance(code, jnp.asarray(corner, jnp.float32)) < 0.) == (inside != hollow)


def test_the_distance_of_a_box_is_exact_whichever_way_its_faces_turn():
  box = trimesh.creation.box((.8, .6, .5))
  n, half = 21, np.array([.4, .3, .25])
  axis = np.linspace(-.7, .7, n)
  q = np.abs(np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1)) - half
  want = np.linalg.norm(np.maximum(q, 0.), axis=-1) + np.minimum(q.max(-1), 0.)
  for faces in (box.faces, box.faces[:, ::-1]):
    np.testing.assert_allclose(signed_distance.grid(box.vertices, faces, n=n, extent=.7), want,
                               atol=1e-5)


def test_parts_may_overlap_and_one_that_turns_inward_is_a_hole():
  ball = lambda radius, x=0.: trimesh.creation.icosphere(3, radius).apply_translation((x, 0., 0.))
  inner = ball(.3)
  inner.invert()
  at = lambda mesh: signed_distance.grid(mesh.vertices, mesh.faces, n=21, extent=1.)
  both, shell = at(ball(.4) + ball(.4, .3)), at(ball(.6) + inner)
  assert both[10, 10, 10] < 0. and both[12, 10, 10] < 0. and both[10, 10, 16] > 0.
  assert shell[10, 10, 10] > 0. and shell[14, 10, 10] < 0. and shell[18, 10, 10] > 0.
  np.testing.assert_allclose(shell[10, 10, 10], .3, atol=.01)


def test_a_mesh_that_no_scene_can_start_as_is_refused_in_one_line(tmp_path):
  ball = trimesh.creation.icosphere(2, .5)
  opened = trimesh.Trimesh(ball.vertices, ball.faces[1:])
  files = {'open.ply': (opened, 'closed mesh.* 3 of its edges'),
           'far.ply': (ball.copy().apply_translation((9., 0., 0.)), 'reaches to 9.5.*fit')}
  for name, (mesh, said) in files.items():
    mesh.export(tmp_path / name)
    with refused(rf'config\.scene\.sdf_voxels\.shape=.*{name}.*{said}'):
      begin_with(tmp_path / name)
  with refused(r'config\.scene\.sdf_voxels\.shape=', FileNotFoundError):
    begin_with(tmp_path / 'none.ply')
  (tmp_path / 'text.ply').write_text('no mesh')
  with refused(r'config\.scene\.sdf_voxels\.shape='):
    begin_with(tmp_path / 'text.ply')


def make_config(shape):
  config = base.get_config()
  config.update({'scene': {'name': 'sdf_voxels'}, 'steps': 2, 'preview_every': 0,
                 'prompt': 'a red car'})
  config.prior.name = 'test_stages:reddish'        # one that needs no network
  config.scene.sdf_voxels.update({'levels': (5, 19), 'shape': str(shape), 'scale': 0.})
  config.sampling.views, config.render.background = 2, 'white'
  config.render.update({'samples': 4, 'fine': 0})
  config.eval.update({'size': 6, 'samples': 4, 'mesh_resolution': 8})
  return config


def begin_with(shape):
  checks.check_files(make_config(shape))


@pytest.mark.slow
def test_a_run_goes_on_and_is_read_back_where_its_mesh_has_moved(car, tmp_path, monkeypatch):
  monkeypatch.setattr(finishing, 'finish', lambda *_, **__: {})
  path = tmp_path / 'car.ply'
  shutil.copy(car, path)
  config = make_config(path)
  for steps in (2, 4):
    config.steps = steps
    loop.run(config, tmp_path / 'run', build.make_mesh(config))
    path.unlink(missing_ok=True)
  found = runs.restore(tmp_path / 'run')
  assert found.step == 4
  want = shapes.of_file(str(car), fit=0., extent=1., option='')
  np.testing.assert_array_equal(found.params['field']['shape'], want)
  object = found.model.object(found.params, 'a red car')
  assert object.distance(jnp.array([[0., 0., -.2]]))[0] < 0.
  assert int(runs.restore_state(tmp_path / 'run')[2].step) == 4
  with refused(r'config\.scene\.sdf_voxels\.shape=.*car\.ply', FileNotFoundError):
    loop.run(config, tmp_path / 'another', build.make_mesh(config))
