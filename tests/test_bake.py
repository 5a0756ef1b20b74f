"""Textures: charts cover every face once, images give back what was painted, normal maps what was
simplified away."""
import numpy as np
import pytest
import trimesh
from scipy.spatial import KDTree

from jaxdreamer.configs import base, toybox
from jaxdreamer.outputs import bake, raster, surface, unwrap

SIZE = 256
FLAT = surface.Mesh(np.array([[0., 0., 0.], [1., 0., 0.], [1., 1., 0.], [0., 1., 0.]]),
                    np.array([[0, 1, 2], [0, 2, 3]]), np.full((4, 3), .5))


def mesh_of(solid):
  vertices = np.array(solid.vertices)
  return surface.Mesh(vertices, np.array(solid.faces), np.full(vertices.shape, .5))


def ball():
  return mesh_of(trimesh.creation.icosphere(subdivisions=3, radius=.5))


def cube():
  return mesh_of(trimesh.creation.box((1., 1., 1.)))


def linear(xyz, inward=None):
  """A color field that is linear in space."""
  return .5 + xyz @ np.array([[.6, .1, -.2], [.2, -.5, .3], [-.1, .2, .4]])


def on_faces(mesh, count, *, seed=0):
  """Random points: their faces and places on them."""
  random = np.random.default_rng(seed)
  return random.integers(len(mesh.faces), size=count), random.dirichlet(np.ones(3), size=count)


WAYS = {'charts': unwrap.by_charts, 'cells': unwrap.by_cells}


@pytest.fixture(params=WAYS)
def way(request):
  if request.param == 'charts' and unwrap.xatlas is None:
    pytest.skip('xatlas has no wheel here')
  return WAYS[request.param]


def bare(mesh):
  """An atlas of a mesh that is its own chart: u is x, v is y."""
  return unwrap.Atlas(np.arange(len(mesh.vertices)), mesh.faces, mesh.vertices[:, :2])


@pytest.mark.parametrize('make', [ball, cube])
def test_every_face_has_a_chart_in_the_square_and_none_lies_on_another(way, make):
  mesh = make()
  atlas = way(mesh.vertices, mesh.faces, size=SIZE)
  np.testing.assert_array_equal(np.sort(atlas.origin[atlas.faces], 1), np.sort(mesh.faces, 1))
  assert atlas.uv.min() >= 0. and atlas.uv.max() <= 1.
  corner = atlas.uv[atlas.faces] * SIZE
  (a, b), (c, d) = (corner[:, 1:] - corner[:, :1]).transpose(1, 2, 0)
  assert (np.abs(a * d - b * c) > .1).all()      # texels
  # centers on a fine grid, nudged off the edges that faces share: each is in one face at most
  fine = 4
  x, y = fine * corner[..., 0] + .1234, fine * corner[..., 1] + .3217
  face, i, j, _ = raster.cover(x, y, size=fine * SIZE)
  assert len(np.unique(i * fine * SIZE + j)) == len(i) > 0
  assert set(face) == set(range(len(mesh.faces)))


def test_charts_keep_a_texel_between_them(way):
  mesh = ball()
  atlas = way(mesh.vertices, mesh.faces, size=512)
  edges = np.concatenate([atlas.faces[:, [k, (k + 1) % 3]] for k in range(3)])
  chart = trimesh.graph.connected_component_labels(edges, node_count=len(atlas.uv))
  texels = bake.texels_of(atlas, size=512)
  owner = np.full((512, 512), -1)
  owner[texels.row, texels.column] = chart[atlas.faces[texels.face, 0]]
  for a, b in ((owner[1:], owner[:-1]), (owner[:, 1:], owner[:, :-1])):
    assert not ((a >= 0) & (b >= 0) & (a != b)).any()


def test_charts_of_pieces_are_the_faces_of_the_whole(monkeypatch):
  if unwrap.xatlas is None:
    pytest.skip('xatlas has no wheel here')
  monkeypatch.setattr(unwrap, 'PIECE', 300)
  mesh = ball()
  atlas = unwrap.by_charts(mesh.vertices, mesh.faces, size=SIZE)
  np.testing.assert_array_equal(atlas.origin[atlas.faces], mesh.faces)


def test_pieces_are_all_places_once_and_none_is_large():
  places = np.random.default_rng(0).random((1000, 3))
  found = unwrap.pieces(places, most=130)
  assert max(map(len, found)) <= 130
  np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(1000))


def test_a_cell_a_triangle_where_there_is_no_xatlas(monkeypatch):
  monkeypatch.setattr(unwrap, 'xatlas', None)
  mesh = ball()
  found = unwrap.unwrap(mesh.vertices, mesh.faces, size=SIZE)
  assert len(found.uv) == 3 * len(mesh.faces)
  # the longest side of each triangle lies along the diagonal
  length = lambda corner: np.linalg.norm(np.roll(corner, -1, 1) - np.roll(corner, -2, 1), axis=-1)
  own, flat = (length(v[found.faces]) for v in (mesh.vertices[found.origin], found.uv))
  np.testing.assert_allclose(np.take_along_axis(own, flat.argmax(1)[:, None], 1)[:, 0], own.max(1))
  with pytest.raises(ValueError, match='texture=64: .* faces take 156 or more'):
    unwrap.unwrap(mesh.vertices, mesh.faces, size=64)


def test_a_mesh_without_faces_is_refused():
  with pytest.raises(ValueError, match='without faces'):
    unwrap.unwrap(np.zeros((0, 3)), np.zeros((0, 3), int), size=SIZE)


def test_a_linear_color_field_comes_back_between_the_texels(way):
  mesh = ball()
  size = 512
  atlas = way(mesh.vertices, mesh.faces, size=size)
  found = bake.texture(mesh, mesh, atlas, linear, size=size, width=.02)
  face, place = on_faces(found, 5000)
  uv = bake.between(found.texture.uv, found.faces[face], place)
  xyz = bake.between(found.vertices, found.faces[face], place)
  np.testing.assert_allclose(xyz, bake.between(mesh.vertices, mesh.faces[face], place) if
                             way is unwrap.by_charts else xyz, atol=1e-6)
  off = np.abs(bake.sample(found.texture.color, uv) - linear(xyz))
  assert off.mean() < 5e-4 and off.max() < .005  # at a seam by less than a texel
  mesh = bake.texture(FLAT, FLAT, bare(FLAT), linear, size=64, width=.1)  # and inside it is exact
  uv = np.random.default_rng(1).uniform(.01, .99, (500, 2))
  np.testing.assert_allclose(bake.sample(mesh.texture.color, uv),
                             linear(np.pad(uv, ((0, 0), (0, 1)))), atol=1e-9)


def test_paint_looks_inward_along_the_dense_normal():
  seen = {}
  def paint(xyz, inward):
    seen['cosine'] = np.sum(bake.unit(xyz) * inward, -1)
    return xyz * 0.
  mesh = ball()
  bake.texture(surface.simplify(mesh, 300), mesh, unwrap.by_cells(
    *surface.simplify(mesh, 300)[:2], size=SIZE), paint, size=SIZE, width=.02)
  assert seen['cosine'].max() < -.998


def test_each_texel_of_a_chart_has_its_place_on_it():
  atlas = bare(FLAT)
  texels = bake.texels_of(atlas, size=32)
  assert len(texels.face) == 32 ** 2             # once each, those on the diagonal too
  xyz = bake.between(FLAT.vertices, FLAT.faces[texels.face], texels.place)
  np.testing.assert_allclose(xyz[:, 0], (texels.column + .5) / 32, atol=1e-12)
  np.testing.assert_allclose(xyz[:, 1], 1. - (texels.row + .5) / 32, atol=1e-12)


def test_what_lies_beyond_a_chart_takes_the_nearest_texel():
  random = np.random.default_rng(0)
  row, column = np.unravel_index(random.choice(24 ** 2, 40, replace=False), (24, 24))
  values = random.random((40, 3))
  texels = bake.Texels(row, column, 0 * row, np.zeros((40, 3)))
  image = bake.spread(texels, values, size=24)
  np.testing.assert_array_equal(image[row, column], values)
  grid = np.stack(np.meshgrid(np.arange(24), np.arange(24), indexing='ij'), -1).reshape(-1, 2)
  own = np.stack([row, column], -1)
  nearest = KDTree(own).query(grid)[0]
  for (i, j), distance in zip(grid, nearest):
    at = np.linalg.norm(own[(values == image[i, j]).all(1)] - (i, j), axis=1)
    assert at.min() == pytest.approx(distance)


def read_normals(mesh, face, place):
  """The normals that a viewer of glTF draws at places on faces."""
  t = mesh.texture
  normal, tangent = (bake.between(v, mesh.faces[face], place) for v in (t.normals, t.tangents))
  k = 2. * bake.sample(t.bump, bake.between(t.uv, mesh.faces[face], place)) - 1.
  along, up = (bake.unit(v) for v in (tangent[:, :3], normal))
  across = np.cross(up, along) * np.sign(tangent[:, 3:])
  return bake.unit(k[:, :1] * along + k[:, 1:2] * across + k[:, 2:] * up)


@pytest.mark.parametrize('mirrored', [False, True])
def test_the_normal_map_of_a_known_bump_on_a_square_is_its_slope(mirrored):
  at = np.linspace(0., 1., 129)
  x, y = (v.ravel() for v in np.meshgrid(at, at, indexing='ij'))
  height = .03 * np.cos(4. * np.pi * x) * np.cos(2. * np.pi * y)
  i = np.arange(128 * 129).reshape(128, 129)[:, :-1].ravel()
  faces = np.concatenate([np.stack([i, i + 129, i + 130], -1), np.stack([i, i + 130, i + 1], -1)])
  dense = surface.Mesh(np.stack([x, y, height], -1), faces, np.full((len(x), 3), .5))
  atlas = bare(FLAT)
  if mirrored:
    atlas = atlas._replace(uv=atlas.uv[:, ::-1])
  found = bake.texture(FLAT, dense, atlas, linear, size=128, width=.004)
  assert (np.sign(found.texture.tangents[:, 3]) == (-1. if mirrored else 1.)).all()
  face, place = on_faces(found, 2000)
  x, y, _ = bake.between(found.vertices, found.faces[face], place).T
  slope = -.03 * np.pi * np.stack([
    -4. * np.sin(4. * np.pi * x) * np.cos(2. * np.pi * y),
    -2. * np.cos(4. * np.pi * x) * np.sin(2. * np.pi * y), -1. / (.03 * np.pi) + 0. * x], -1)
  cosine = np.sum(bake.unit(slope) * read_normals(found, face, place), -1)
  inner = (np.minimum(x, y) > .02) & (np.maximum(x, y) < .98)
  assert np.degrees(np.arccos(np.clip(cosine[inner], -1., 1.))).max() < 1.5


def test_a_cubes_flat_sides_come_back_though_its_corners_are_smooth(way):
  box, size = cube(), 512
  dense = mesh_of(trimesh.creation.box((1., 1., 1.)).subdivide_loop(iterations=0))
  for _ in range(5):
    dense = mesh_of(trimesh.Trimesh(*dense[:2], process=False).subdivide())
  atlas = way(box.vertices, box.faces, size=size)
  found = bake.texture(box, dense, atlas, linear, size=size, width=.01)
  assert np.linalg.norm(found.texture.normals, axis=1) == pytest.approx(1.)
  assert np.abs(found.texture.normals).max() < .9              # between the sides that meet there
  np.testing.assert_allclose(np.sum(found.texture.normals * found.texture.tangents[:, :3], -1), 0.,
                             atol=1e-9)
  face, place = on_faces(found, 3000)
  xyz = bake.between(found.vertices, found.faces[face], place)
  side = np.argmax(np.abs(xyz), 1)
  true = np.eye(3)[side] * np.sign(xyz[np.arange(len(xyz)), side])[:, None]
  inner = np.sort(np.abs(xyz), 1)[:, 1] < .44                  # away from the cube's edges
  cosine = np.sum(read_normals(found, face, place) * true, -1)[inner]
  assert np.degrees(np.arccos(np.clip(cosine, -1., 1.))).max() < 2.


def test_a_normal_map_shows_its_normals_in_any_frame_and_no_frame_breaks_it():
  random = np.random.default_rng(0)
  normal, along = random.normal(size=(2, 500, 3))
  sign = np.sign(random.normal(size=(500, 1)))
  up, side = bake.unit(normal), bake.unit(along)
  across = np.cross(up, side) * sign
  k = bake.unit(random.normal(size=(500, 3)) + (0., 0., 4.))
  true = bake.unit(k[:, :1] * side + k[:, 1:2] * across + k[:, 2:] * up)
  seen = 2. * bake.to_frame(normal, np.concatenate([along, sign], 1), true) - 1.
  kept = (k[:, 2] > .02) & (np.abs(np.sum(up * side, -1)) < .99)
  np.testing.assert_allclose(seen[kept], k[kept], atol=1e-9)
  lost = bake.to_frame(0. * normal, np.zeros((500, 4)), true)
  np.testing.assert_allclose(lost, np.tile([.5, .5, 1.], (500, 1)))


def test_normals_of_the_other_side_of_a_thin_sheet_are_left_out():
  random = np.random.default_rng(0)
  sheet = random.random((4000, 3)) * (1., 1., 0.)
  both = np.concatenate([sheet, sheet + (0., 0., .001)])
  normals = np.repeat([[0., 0., -1.], [0., 0., 1.]], 4000, axis=0)
  points = random.random((50, 3)) * (1., 1., 0.)
  for up in (-1., 1.):
    facing = np.tile([.3, 0., up], (50, 1))
    found = bake.normals_near(points, bake.unit(facing), KDTree(both), normals, width=.05)
    np.testing.assert_allclose(found, np.tile([0., 0., up], (50, 1)), atol=1e-9)


def test_a_simplified_mesh_keeps_its_shape_and_a_small_one_is_left_alone():
  mesh = ball()
  few = surface.simplify(mesh, 1000)
  solid = trimesh.Trimesh(*few[:2], process=False)
  assert 990 <= len(few.faces) <= 1010 and solid.is_watertight
  assert solid.volume == pytest.approx(4. / 3. * np.pi * .125, rel=.02)
  harsh = surface.simplify(mesh, 100)            # which the gentlest pressure does not come to
  assert len(harsh.faces) <= 105 and surface.is_closed(harsh)
  assert surface.simplify(mesh, len(mesh.faces)) is surface.simplify(mesh, 0) is mesh
  tinted = surface.simplify(mesh._replace(colors=linear(mesh.vertices)), 1000)
  np.testing.assert_allclose(tinted.colors, linear(tinted.vertices), atol=.03)


@pytest.mark.parametrize('config', [base.get_config(), toybox.get_config()])
def test_each_face_of_a_default_mesh_can_have_a_cell_of_its_own(config):
  faces = np.arange(3 * config.eval.faces).reshape(-1, 3)
  corners = np.random.default_rng(0).random((faces.size, 3))
  atlas = unwrap.by_cells(corners, faces, size=config.eval.texture)
  texels = bake.texels_of(atlas, size=config.eval.texture)
  assert np.bincount(texels.face).min() >= 10
