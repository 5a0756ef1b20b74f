"""Marching tetrahedra: closed surfaces where they should be, of the right size, with the gradients
of a closed form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from jaxdreamer.meshes import tetrahedra, topology
from jaxdreamer.scenes.dmtet import nodes

march = jax.jit(tetrahedra.march, static_argnames='cubes')
BOX = jnp.array([[-1.] * 3, [1.] * 3])


def ball(xyz, radius=.6):
  return jnp.sqrt(jnp.sum(xyz ** 2, -1)) - radius


def solid(mesh):
  return trimesh.Trimesh(*topology.compact(mesh), process=False)


def test_six_tetrahedra_fill_a_cube_and_meet_their_neighbors():
  corners = tetrahedra.CORNERS[np.array(tetrahedra.TETRAHEDRA)]
  volume = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1])) / 6.
  np.testing.assert_allclose(volume, 1. / 6.)
  faces = lambda axis, side: {
    tuple(sorted(map(tuple, np.delete(tri, axis, 1)))) for t in corners for k in range(4)
    for tri in [np.delete(t, k, 0)] if (tri[:, axis] == side).all()}
  for axis in range(3):                          # the same diagonal on opposite sides of the cube
    assert len(faces(axis, 0)) == 2 and faces(axis, 0) == faces(axis, 1)


@pytest.mark.parametrize('resolution', [16, 32])
def test_a_ball_is_closed_of_genus_0_faces_outward_and_has_its_area_and_volume(resolution):
  xyz = nodes(BOX, resolution)
  mesh = march(ball(xyz), xyz, cubes=4 * resolution ** 2)
  found = solid(mesh)
  assert found.is_watertight and found.is_winding_consistent and found.euler_number == 2
  bound = 3. / resolution ** 2 * 4.              # of second order in the cell
  np.testing.assert_allclose(found.area, 4. * np.pi * .36, rtol=bound)
  np.testing.assert_allclose(found.volume, 4. / 3. * np.pi * .216, rtol=2. * bound)
  assert int(mesh.dropped) == 0 and int(np.sum(mesh.edges[:, 0] >= 0)) == 3 * len(found.faces) // 2


def test_every_case_is_closed_and_manifold_and_stays_so_at_the_border():
  xyz = nodes(BOX, 8)
  for seed in range(4):                          # noise has every case, its neighbors in every pose
    sdf = jax.random.normal(jax.random.key(seed), (9, 9, 9))
    mesh = march(sdf, xyz, cubes=512)
    found = solid(mesh)
    assert found.is_watertight and found.is_winding_consistent
    # each edge has two faces, which run along it in turn
    used = np.asarray(mesh.edges)[np.asarray(mesh.edges).max(1) >= 0]
    assert (used >= 0).all() and len(used) == 3 * len(found.faces) // 2
    begins, ends = (np.asarray(mesh.faces)[used // 3, (used % 3 + k) % 3] for k in (0, 1))
    np.testing.assert_array_equal(begins[:, 0], ends[:, 1])
    np.testing.assert_array_equal(begins[:, 1], ends[:, 0])


def test_edges_are_those_that_a_search_finds():
  xyz = nodes(BOX, 8)
  mesh = march(ball(xyz), xyz, cubes=256)
  vertices, faces = topology.compact(mesh)
  searched = topology.of_arrays(vertices, faces)
  for smoothness in (topology.normal_consistency, topology.laplacian):
    np.testing.assert_allclose(smoothness(mesh), smoothness(searched), rtol=1e-4)


def test_a_plane_is_cut_where_the_closed_form_says():
  normal = jnp.array([.36, .48, .8])
  xyz = nodes(BOX, 6)
  mesh = march(xyz @ normal - .13, xyz, cubes=256)
  vertices, _ = topology.compact(mesh)
  inner = np.abs(vertices).max(1) < .6           # the rest closes it at the border
  np.testing.assert_allclose(vertices[inner] @ np.asarray(normal), .13, atol=1e-6)
  assert inner.sum() > 30


def test_vertices_move_with_distances_and_nodes_as_their_closed_form_does():
  xyz = nodes(BOX, 2)                            # one node is inside
  sdf = jnp.full((3, 3, 3), .3).at[1, 1, 1].set(-.2)
  def lowest(sdf, xyz):                          # on the edge from the middle down to (0, 0, -1)
    mesh = tetrahedra.march(sdf, xyz, cubes=8)
    return jnp.min(jnp.where(mesh.valid[:, None], mesh.vertices[mesh.faces][..., 2], 9.))
  value, (slope, moves) = jax.value_and_grad(lowest, (0, 1))(sdf, xyz)
  np.testing.assert_allclose(value, -.2 / .5, rtol=1e-6)   # t = s_a / (s_a - s_b)
  # z = -s_a / (s_a - s_b) of the middle a and of b below it, alike on the slanting edges there
  np.testing.assert_allclose(slope[1, 1, 1], .3 / .5 ** 2, rtol=1e-4)
  np.testing.assert_allclose(slope[..., 0].sum(), .2 / .5 ** 2, rtol=1e-4)
  np.testing.assert_allclose(moves[..., 2].sum((0, 1)), [.4, .6, 0.], atol=1e-5)
  chex.assert_tree_all_finite((slope, moves))


def test_gradients_of_the_volume_agree_with_differences():
  xyz = nodes(BOX, 8)
  def volume(amounts):
    wave = jnp.sin(3. * xyz @ jnp.array([[1., .4], [-.3, 1.], [.5, -.8]])) @ amounts
    mesh = tetrahedra.march(ball(xyz) + wave, xyz, cubes=256)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return jnp.sum(jnp.where(mesh.valid, jnp.sum(a * topology.cross(b, c), -1), 0.)) / 6.
  volume = jax.jit(volume)
  at = jnp.array([.02, -.03])
  slope = jax.grad(volume)(at)
  for k, h in enumerate(1e-2 * np.eye(2, dtype=np.float32)):
    np.testing.assert_allclose((volume(at + h) - volume(at - h)) / 2e-2, slope[k], rtol=.02)


def test_what_finds_no_room_is_told_and_leaves_the_rest_whole():
  xyz = nodes(BOX, 8)
  whole = march(ball(xyz), xyz, cubes=256)
  met = int(jnp.any(whole.valid.reshape(256, -1), 1).sum())
  cut = march(ball(xyz), xyz, cubes=met - 20)
  assert int(whole.dropped) == 0 and int(cut.dropped) == 20
  assert 0 < int(cut.valid.sum()) < int(whole.valid.sum())
  assert np.isfinite(cut.vertices).all() and int(cut.faces.max()) < len(cut.vertices)


def test_nothing_inside_is_no_face_and_has_finite_gradients():
  xyz = nodes(BOX, 4)
  f = lambda sdf: jnp.sum(topology.vertex_normals(tetrahedra.march(sdf, xyz, cubes=16)))
  for value in (1., 0.):
    sdf = jnp.full((5, 5, 5), value)
    assert not tetrahedra.march(sdf, xyz, cubes=16).valid.any()
    chex.assert_tree_all_finite(jax.value_and_grad(f)(sdf))


def test_smoothness_of_a_tetrahedron_and_a_cube_in_closed_form():
  cube = trimesh.creation.box()
  mesh = topology.of_arrays(cube.vertices, cube.faces)
  # corners of valence 4 and 5 among others: by hand, over the neighbors that trimesh names
  apart = [sum(cube.vertices[i] - cube.vertices[j] for j in near)
           for i, near in enumerate(cube.vertex_neighbors)]
  np.testing.assert_allclose(topology.laplacian(mesh), np.linalg.norm(apart, axis=1).mean(),
                             rtol=1e-5)
  pyramid = topology.of_arrays(np.array([[1., 1., 1.], [1., -1., -1.], [-1., 1., -1.],
                                         [-1., -1., 1.]]),
                               np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]))
  # regular: normals point at the corners, 109.47 degrees apart
  np.testing.assert_allclose(topology.normal_consistency(pyramid), 4. / 3., rtol=1e-5)
  np.testing.assert_allclose(topology.vertex_normals(pyramid), pyramid.vertices / 3. ** .5,
                             atol=1e-6)


def test_a_flat_sheet_is_perfectly_smooth_inside_and_curvature_costs():
  consistency = jax.jit(topology.normal_consistency)
  xyz = nodes(BOX, 12)
  costs = [float(consistency(march(ball(xyz, radius=r), xyz, cubes=600))) for r in (.4, .8)]
  # angle between neighbors ~ cell / radius, its cost ~ its square
  assert costs[0] / costs[1] == pytest.approx(4., rel=.2)


def test_marching_is_one_program_for_any_surface():
  xyz, traced = nodes(BOX, 8), []

  @jax.jit
  def f(distance, xyz):
    traced.append(distance)
    return tetrahedra.march(distance, xyz, cubes=256)
  [f(ball(xyz, radius=r), xyz) for r in (.3, .5, .7)]
  assert len(traced) == 1
