"""Scenes against slow references and analytic functions."""
import itertools
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage, stats

from jaxdreamer import cameras, render
from jaxdreamer.scenes import (
  backgrounds,
  fields,
  hashgrid,
  image,
  mlp,
  particles,
  sdf_hashgrid,
  sdf_voxels,
  voxels,
)
from jaxdreamer.types import Text

SCENES = {'voxels': voxels.voxels(levels=(5, 9)),
          'sdf_voxels': sdf_voxels.sdf_voxels(levels=(5, 9), sharpness=(30.,)),
          'hashgrid': hashgrid.hashgrid(levels=3, log2_table=8, finest=32),
          'sdf_hashgrid': sdf_hashgrid.sdf_hashgrid(levels=3, log2_table=8, finest=32,
                                                    sharpness=(30.,)),
          'mlp': mlp.mlp(width=16)}


def seen(scene, params, step=0):
  """The code of a scene that reads no text, as `step` sees it."""
  return jax.jit(lambda params: scene.focus(scene.prepare(params, None), step))(params)


@pytest.mark.parametrize('name', sorted(SCENES))
def test_a_scene_starts_as_a_gray_blob_at_the_origin(name):
  scene = SCENES[name]
  code = seen(scene, scene.init(jax.random.key(0)))
  center, far = (scene.field(code, jnp.array(p)) for p in ([.01, 0., 0.], [.9, .2, 0.]))
  assert center[0] > 4. and far[0] < .02
  np.testing.assert_allclose(center[1], .5, atol=.15)


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(SCENES))
def test_gradients_with_respect_to_parameters_agree_with_finite_differences(name):
  scene = SCENES[name]
  params = jax.tree.map(lambda p: p + .3 * jax.random.normal(jax.random.key(2), p.shape),
                        scene.init(jax.random.key(1)))
  def f(params):  # away from the start, where hidden units sit at the kink of ReLU
    params = jax.tree.map(jnp.asarray, params)
    density, features = scene.field(seen(scene, params), jnp.array([.13, -.27, .31]))
    return density + features.sum()
  # small: ReLU has kinks
  check_grads(f, (params,), order=1, modes=['rev'], atol=.05, rtol=.05, eps=1e-3)


def slow_hashgrid(tables, sizes, xyz):
  """A dict of corners, filled one by one."""
  out = []
  for rows, n in zip(tables, sizes):
    place = [(v + 1.) / 2. * n for v in xyz]
    cell = [min(int(math.floor(p)), n - 1) for p in place]
    corners = {}
    for offset in itertools.product((0, 1), repeat=3):
      corner = tuple(c + o for c, o in zip(cell, offset))
      if (n + 1) ** 3 <= len(rows):
        at = (corner[0] * (n + 1) + corner[1]) * (n + 1) + corner[2]
      else:
        a, b, c = (x * p % 2 ** 32 for x, p in zip(corner, hashgrid.PRIMES))
        at = (a ^ b ^ c) % len(rows)
      weight = math.prod((p - c) if o else 1. - (p - c) for p, c, o in zip(place, cell, offset))
      corners[corner] = weight * rows[at]
    out.append(sum(corners.values()))
  return np.concatenate(out)


def test_hash_grid_equals_a_dict_of_corners():
  sizes = [4, 16, 40]
  tables = [jax.random.normal(jax.random.key(i), (min((n + 1) ** 3, 256), 2))
            for i, n in enumerate(sizes)]
  for xyz in jax.random.uniform(jax.random.key(9), (20, 3), minval=-.99, maxval=.99):
    fast = jnp.concatenate([hashgrid.lookup(t, xyz, size=n) for t, n in zip(tables, sizes)])
    np.testing.assert_allclose(fast, slow_hashgrid([np.asarray(t) for t in tables], sizes,
                                                   np.asarray(xyz)), atol=1e-4)


def test_hash_grid_of_the_published_size_has_its_parameters():
  rows = [min((hashgrid.resolution(i, levels=16, base=16, finest=4096) + 1) ** 3, 2 ** 19)
          for i in range(16)]
  assert abs(2 * sum(rows) / 12.6e6 - 1.) < .01              # methods: 12.60 M


def test_voxels_interpolate_a_linear_function_exactly():
  node = jnp.linspace(-1., 1., 9)
  grid = jnp.stack(jnp.meshgrid(node, node, node, indexing='ij'), -1)
  pairs = voxels.pair_rows(grid)
  for xyz in jax.random.uniform(jax.random.key(2), (20, 3), minval=-1.):
    np.testing.assert_allclose(voxels.trilinear(pairs, xyz), xyz, atol=1e-5)


def test_a_coarse_grid_seen_at_fine_nodes_is_the_same_function():
  coarse = jax.random.normal(jax.random.key(3), (5, 5, 5, 2))
  fine = voxels.upsample(coarse, 9)
  for xyz in jax.random.uniform(jax.random.key(4), (20, 3), minval=-1.):
    np.testing.assert_allclose(voxels.trilinear(voxels.pair_rows(coarse), xyz),
                               voxels.trilinear(voxels.pair_rows(fine), xyz), atol=1e-5)


def test_the_blur_is_a_binomial_one_that_keeps_planes_and_drops_what_alternates():
  grid = np.random.default_rng(0).normal(size=(7, 7, 7, 2)).astype(np.float32)
  want = grid
  for axis in range(3):
    want = ndimage.convolve1d(want, [.25, .5, .25], axis=axis, mode='nearest')
  np.testing.assert_allclose(sdf_voxels.blur(jnp.asarray(grid)), want, atol=1e-6)
  plane = np.indices((7, 7, 7)).sum(0)[..., None].astype(np.float32)
  inner = np.s_[1:-1, 1:-1, 1:-1]
  np.testing.assert_allclose(sdf_voxels.blur(jnp.asarray(plane))[inner], plane[inner], atol=1e-5)
  np.testing.assert_allclose(sdf_voxels.blur(jnp.asarray((-1.) ** plane))[inner], 0., atol=1e-6)


def test_grids_move_the_surface_of_a_sphere_whose_density_grows_sharper_along_the_run():
  scene = sdf_voxels.sdf_voxels(levels=(3, 5), radius=.4, sharpness=(10., 60., 200), scale=0.)
  params = scene.init(jax.random.key(0))
  grown = params | {'grid_5': params['grid_5'] - .2}               # everywhere .2 nearer
  for grids, radius in ((params, .4), (grown, .6)):
    for xyz in jax.random.uniform(jax.random.key(1), (10, 3), minval=-1.):
      signed = np.linalg.norm(xyz) - radius
      for step, sharp in ((0, 10.), (100, 35.), (500, 60.)):
        code = seen(scene, grids, step)
        np.testing.assert_allclose(scene.distance(code, xyz), signed, atol=1e-6)
        density, color = scene.field(code, xyz)
        np.testing.assert_allclose(density, sharp * stats.laplace.cdf(-signed, scale=1. / sharp),
                                   rtol=1e-4)
        if radius == .4:
          np.testing.assert_array_equal(color, jnp.full(3, .5))


def test_normals_of_a_sphere_point_outwards_by_each_method():
  field = lambda xyz: (jax.nn.sigmoid(20. * (.5 - fields.length(xyz))), jnp.ones(3))
  for xyz in jax.random.normal(jax.random.key(5), (10, 3)):
    xyz = .5 * xyz / jnp.linalg.norm(xyz)
    for normals in (fields.gradient_normals, fields.forward_normals, fields.difference_normals):
      np.testing.assert_allclose(normals(field, xyz)[2], xyz / np.linalg.norm(xyz), atol=.03)


def test_difference_normals_are_the_quotients_of_their_steps():
  field = lambda xyz: (xyz[0] ** 2 + 3. * xyz[1] * xyz[0] - xyz[2], xyz)
  xyz, step = jnp.array([.2, -.3, .4]), .01
  exact = np.array([2. * .2 - .9, .6, -1.])
  for normals, slope in ((fields.forward_normals, exact + [step, 0., 0.]),
                         (fields.difference_normals, exact)):
    density, features, normal = normals(field, xyz, step=step)
    np.testing.assert_allclose(normal, -slope / np.linalg.norm(slope), atol=1e-4)
    np.testing.assert_allclose([density, *features], [field(xyz)[0], *xyz], rtol=1e-6)


def test_separate_networks_are_bias_free_and_density_does_not_see_the_one_of_features():
  scene = hashgrid.hashgrid(levels=1, log2_table=8, separate=True, radius=.5, strength=10.)
  xyz = jnp.array([.1, .2, -.3])
  params = jax.tree.map(lambda p: p + .3, scene.init(jax.random.key(0)))
  assert {name: [k.shape for k in params[name]] for name in ('density', 'features')} == {
    'density': [(2, 64), (64, 1)], 'features': [(2, 64), (64, 3)]}
  slope = jax.grad(lambda p: scene.field(p, xyz)[0])(params)
  assert not any(jnp.any(k) for k in slope['features']) and all(jnp.any(k)
                                                                for k in slope['density'])
  # no biases: the blob and grey remain
  empty = params | {'tables': [jnp.zeros_like(t) for t in params['tables']]}
  density, color = scene.field(empty, xyz)
  np.testing.assert_allclose(density, jax.nn.softplus(10. * (1. - np.linalg.norm(xyz) / .5)),
                             rtol=1e-5)
  np.testing.assert_array_equal(color, jnp.full(3, .5))
  h = hashgrid.encode(params['tables'], xyz, sizes=[8])
  raw = np.maximum(h @ params['features'][0], 0.) @ params['features'][1]
  np.testing.assert_allclose(scene.field(params, xyz)[1], 1. / (1. + np.exp(-raw)), rtol=1e-4)


def test_kernels_start_uniform_within_one_over_the_root_of_their_inputs():
  first, last = fields.network_init(jax.random.key(0), (16, 200, 3))
  for kernel, n in ((first, 16), (last, 200)):
    assert .95 * n ** -.5 < jnp.abs(kernel).max() <= n ** -.5
    np.testing.assert_allclose(jnp.var(kernel) * 3. * n, 1., rtol=.15)


def test_a_field_of_twice_the_extent_is_the_field_at_half_the_place_but_for_its_blob():
  raw = dict(levels=1, log2_table=8, strength=0.)  # a cone of strength 0 is no blob
  one, two = hashgrid.hashgrid(**raw), hashgrid.hashgrid(extent=2., **raw)
  params = jax.tree.map(lambda p: p + .3 * jax.random.normal(jax.random.key(2), p.shape),
                        one.init(jax.random.key(1)))
  xyz = jnp.array([1.3, -.7, .2])
  chex.assert_trees_all_close(two.field(params, xyz), one.field(params, xyz / 2.), rtol=1e-5)


def test_normals_and_their_gradients_are_finite_in_empty_space():
  field = lambda xyz: (0. * xyz[0], jnp.zeros(3))
  grad = jax.jacobian(lambda xyz: fields.gradient_normals(field, xyz)[2])(jnp.zeros(3))
  assert np.isfinite(grad).all()


def test_upsampling_is_exact_for_levels_that_nest():
  scene = voxels.voxels(levels=(3, 5, 9))
  params = scene.init(jax.random.key(6))
  code = scene.prepare(params, None)
  for xyz in jax.random.uniform(jax.random.key(7), (10, 3), minval=-1.):
    levels = sum(voxels.trilinear(voxels.pair_rows(params[f'grid_{n}']), xyz) for n in (3, 5, 9))
    np.testing.assert_allclose(voxels.trilinear(code, xyz), levels, atol=1e-5)


@pytest.mark.parametrize('name', sorted(SCENES))
def test_fields_are_finite_outside_the_cube_and_at_its_corners(name):
  scene = SCENES[name]
  code = seen(scene, scene.init(jax.random.key(0)))
  for xyz in (jnp.ones(3), -jnp.ones(3), jnp.array([5., -7., 0.]), jnp.zeros(3)):
    (density, features), pullback = jax.vjp(scene.field, code, xyz)
    assert density >= 0. and ((features >= 0.) & (features <= 1.)).all()
    chex.assert_tree_all_finite(pullback((density, features)))


def test_levels_of_the_hash_grid_fade_in_one_after_the_other():
  scene = SCENES['hashgrid']
  params = jax.tree.map(lambda p: p + .1, scene.init(jax.random.key(0)))
  tables = hashgrid.fade_in(params, jnp.float32(1.25))['tables']
  for table, share, full in zip(tables, (1., .25, 0.), params['tables']):
    np.testing.assert_allclose(table, share * full, rtol=1e-6)
  chex.assert_trees_all_equal(hashgrid.fade_in(params, jnp.float32(3.)), params)


def test_blurring_the_encoding_is_its_mean_over_a_gaussian():
  scene, variance = SCENES['mlp'], .03
  params = scene.init(jax.random.key(0))
  first = lambda p, xyz: fields.dense(p['encode'], fields.octaves(xyz, 6).reshape(-1))
  noise = jnp.sqrt(variance) * jax.random.normal(jax.random.key(1), (20_000, 3))
  xyz = jnp.array([.2, -.4, .1])
  samples = jax.vmap(lambda e: first(params, xyz + e))(jnp.concatenate([noise, -noise]))
  got = first(mlp.blurred(params, jnp.float32(variance)), xyz)
  np.testing.assert_allclose(got, samples.mean(0), atol=5. * samples.std() / math.sqrt(40_000))


def test_trunc_exp_is_exp_whose_slope_is_bounded():
  np.testing.assert_allclose(fields.trunc_exp(jnp.float32(2.)), math.exp(2.), rtol=1e-6)
  np.testing.assert_allclose(jax.grad(fields.trunc_exp)(2.), math.exp(2.), rtol=1e-6)
  np.testing.assert_allclose(jax.grad(fields.trunc_exp)(40.), math.exp(15.), rtol=1e-6)


@pytest.mark.slow
def test_a_picture_hangs_before_its_camera():
  scene = image.image(size=16)
  params = {'image': jax.random.normal(jax.random.key(6), (16, 16, 3))}
  code = scene.prepare(params, None)
  camera = cameras.orbital(0., 0., 200., 2. * math.atan(1. / 200.))
  shown = render.image(jax.random.key(7), partial(scene.field, code), camera, size=16, samples=64,
                       radius=1.5, jitter=0.)
  np.testing.assert_allclose(shown.rgb, jax.nn.sigmoid(params['image']), atol=.03)
  np.testing.assert_array_equal(image.picture(code).rgb, code)


@pytest.mark.parametrize('background', [backgrounds.constant(), backgrounds.random(),
                                        backgrounds.black_or_white(),
                                        backgrounds.learned(), backgrounds.environment(),
                                        backgrounds.hash_map(levels=1),
                                        backgrounds.mixed(backgrounds.environment())])
def test_backgrounds_are_colors_and_depend_on_nothing_but_their_arguments(background):
  params = background.init(jax.random.key(0))
  direction = jnp.array([0., .6, .8])
  first, again = (background.color(params, jax.random.key(1), direction) for _ in range(2))
  assert ((first >= 0.) & (first <= 1.)).all()
  np.testing.assert_array_equal(first, again)


def test_harmonics_are_orthonormal_on_the_sphere():
  # exact for these polynomials, with equal steps of azimuth
  height, weights = np.polynomial.legendre.leggauss(8)
  azimuth = np.arange(8) * (2. * math.pi / 8)
  z, a = (v.ravel() for v in np.meshgrid(height, azimuth, indexing='ij'))
  around = np.sqrt(1. - z ** 2)
  rows = jax.vmap(backgrounds.harmonics)(
      jnp.asarray(np.stack([around * np.cos(a), around * np.sin(a), z], 1), jnp.float32))
  area = np.repeat(weights, 8) * (2. * math.pi / 8)
  np.testing.assert_allclose(np.einsum('n,na,nb->ab', area, rows, rows), np.eye(9), atol=1e-5)


@pytest.mark.slow
def test_maps_of_the_background_differ_by_direction_and_that_of_a_hypernetwork_by_prompt():
  one, other = jnp.array([0., .6, .8]), jnp.array([.8, 0., -.6])
  away = lambda params: jax.tree.map(lambda p: p + .3 * jax.random.normal(jax.random.key(5),
                                                                          p.shape), params)
  for background in (backgrounds.environment(), backgrounds.hash_map(levels=1)):
    params = away(background.init(jax.random.key(0)))
    seen = jax.jit(jax.vmap(lambda d: background.color(params, jax.random.key(1), d)))(
        jnp.stack([one, other]))
    assert jnp.abs(seen[0] - seen[1]).max() > 1e-3
  background = backgrounds.mixed(backgrounds.hypernet(text=6, levels=1, size=4, width=8, hidden=5),
                                 probability=0.)
  params = away(background.init(jax.random.key(0)))
  told = lambda seed: Text(None, None, None, None,
                           pooled=jax.random.normal(jax.random.key(seed), (6,)))
  def show(y):
    code = background.prepare(params, y)
    return code['network'], jax.vmap(lambda d: background.color(code, jax.random.key(1), d))(
        jnp.stack([one, other]))
  show = jax.jit(show)
  ((first, last), shown), (_, others) = show(told(0)), show(told(1))
  assert jnp.abs(shown[0] - shown[1]).max() > 1e-3 and jnp.abs(shown[0] - others[0]).max() > 1e-3
  h = hashgrid.encode(params['tables'], one, sizes=[4])
  np.testing.assert_allclose(shown[0], jax.nn.sigmoid(np.maximum(h @ first, 0.) @ last), rtol=1e-5)


def test_the_backgrounds_code_is_made_of_the_prompt_beside_the_scenes():
  background = backgrounds.constant()._replace(init=lambda key: 2.,
                                               prepare=lambda params, y: params * y)
  scene = backgrounds.with_background(voxels.voxels(levels=(4,)), background)
  code = scene.prepare(scene.init(jax.random.key(0)), 3.)
  assert code['background'] == 6. and scene.focus(code, 5)['background'] == 6.


def test_a_mixed_background_is_random_in_its_share_of_the_views():
  background = backgrounds.mixed(backgrounds.constant(rgb=(0., 0., 0.)), probability=.3)
  keys = jax.random.split(jax.random.key(0), 2000)
  drawn = jax.vmap(lambda k: background.color((), k, jnp.array([1., 0., 0.])))(keys)
  assert abs((drawn.sum(1) > 0.).mean() - .3) < 4. * math.sqrt(.21 / 2000)


def test_half_of_the_views_are_over_black_and_half_over_white():
  keys = jax.random.split(jax.random.key(0), 2000)
  drawn = jax.vmap(lambda k: backgrounds.black_or_white().color((), k, jnp.array([1., 0., 0.])))(
      keys)
  assert set(np.unique(drawn)) == {0., 1.} and (drawn == drawn[:, :1]).all()
  assert abs(drawn[:, 0].mean() - .5) < 4. * math.sqrt(.25 / 2000)


def test_a_learned_background_starts_at_its_color():
  background = backgrounds.learned(rgb=(.2, .5, .7))
  color = background.color(background.init(jax.random.key(0)), jax.random.key(0), jnp.zeros(3))
  np.testing.assert_allclose(color, [.2, .5, .7], rtol=1e-5)


def test_hash_levels_join_and_blur_fades_as_their_schedules_say():
  scene = hashgrid.hashgrid(levels=3, log2_table=8, band=(1., 3., 2))
  params = scene.init(jax.random.key(0))
  seen = [[bool(jnp.any(table != 0.)) for table in scene.focus(params, step)['tables']]
          for step in (0., .5, 2.)]
  assert seen == [[True, False, False], [True, True, False], [True, True, True]]
  scene = mlp.mlp(blur=(.1, 0., 1))
  params = scene.init(jax.random.key(0))
  np.testing.assert_array_equal(scene.focus(params, 1.)['encode']['kernel'],
                                params['encode']['kernel'])
  assert jnp.all(jnp.abs(scene.focus(params, 0.)['encode']['kernel']) < jnp.abs(
      params['encode']['kernel']))


def test_particles_take_turns_and_each_is_a_scene_of_its_own():
  one = voxels.voxels(levels=(4,))
  three = particles.stacked(one, 3)
  params = three.init(jax.random.key(0))
  assert params['grid_4'].shape == (3, 4, 4, 4, 4)
  point = jnp.array([.1, -.2, .3])
  for step in range(5):
    alone = one.field(one.prepare(jax.tree.map(lambda a: a[step % 3], params), None), point)
    jax.tree.map(np.testing.assert_allclose,
                 three.field(three.focus(three.prepare(params, None), step), point), alone)
  slope = jax.grad(lambda p: three.field(three.focus(three.prepare(p, None), 1), point)[0])(params)[
      'grid_4']
  assert not slope[0].any() and slope[1].any() and not slope[2].any()
