"""Scenes against slow references and analytic functions."""
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdreamer import cameras, render
from jaxdreamer.scenes import fields, hashgrid, image, mlp, voxels

SCENES = {'voxels': voxels.voxels(levels=(5, 9)), 'hashgrid': hashgrid.hashgrid(levels=3, log2_table=8, finest=32),
          'mlp': mlp.mlp(width=16)}


@pytest.mark.parametrize('name', sorted(SCENES))
def test_a_scene_starts_as_a_grey_blob_at_the_origin(name):
  scene = SCENES[name]
  code = scene.prepare(scene.init(jax.random.key(0)), None)
  centre, far = (scene.field(code, jnp.array(p)) for p in ([.01, 0., 0.], [.9, .2, 0.]))
  assert centre[0] > 4. and far[0] < .02
  np.testing.assert_allclose(centre[1], .5, atol=.15)


@pytest.mark.parametrize('name', sorted(SCENES))
def test_gradients_with_respect_to_parameters_agree_with_finite_differences(name):
  scene = SCENES[name]
  params = scene.init(jax.random.key(1))
  def f(params):
    params = jax.tree.map(jnp.asarray, params)
    density, features = scene.field(scene.prepare(params, None), jnp.array([.13, -.27, .31]))
    return density + features.sum()
  check_grads(f, (params,), order=1, modes=['rev'], atol=.05, rtol=.05, eps=1e-2)


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
  tables = [jax.random.normal(jax.random.key(i), (min((n + 1) ** 3, 256), 2)) for i, n in enumerate(sizes)]
  for xyz in jax.random.uniform(jax.random.key(9), (20, 3), minval=-.99, maxval=.99):
    fast = jnp.concatenate([hashgrid.lookup(t, xyz, size=n) for t, n in zip(tables, sizes)])
    np.testing.assert_allclose(fast, slow_hashgrid([np.asarray(t) for t in tables], sizes, np.asarray(xyz)), atol=1e-4)


def test_hash_grid_of_the_published_size_has_its_parameters():
  rows = [min((hashgrid.resolution(i, levels=16, base=16, finest=4096) + 1) ** 3, 2 ** 19) for i in range(16)]
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


def test_normals_of_a_sphere_point_outwards_by_either_method():
  field = lambda xyz: (jax.nn.sigmoid(20. * (.5 - fields.length(xyz))), jnp.ones(3))
  for xyz in jax.random.normal(jax.random.key(5), (10, 3)):
    xyz = .5 * xyz / jnp.linalg.norm(xyz)
    for normals in (fields.gradient_normals, fields.difference_normals):
      np.testing.assert_allclose(normals(field, xyz)[2], xyz / np.linalg.norm(xyz), atol=.03)


def test_normals_and_their_gradients_are_finite_in_empty_space():
  field = lambda xyz: (0. * xyz[0], jnp.zeros(3))
  grad = jax.jacobian(lambda xyz: fields.gradient_normals(field, xyz)[2])(jnp.zeros(3))
  assert np.isfinite(grad).all()


def test_a_picture_fills_the_view_of_its_camera():
  scene = image.image(size=16)
  picture = jax.random.normal(jax.random.key(6), (16, 16, 3))
  camera = cameras.orbital(0., 0., 200., 2. * math.atan(1. / 200.))
  shown = render.image(lambda xyz: scene.field({'picture': picture}, xyz), camera, jax.random.key(7), size=16, samples=64,
                       radius=1.5, jitter=0.)
  np.testing.assert_allclose(shown.rgb, jax.nn.sigmoid(picture), atol=.03)
