"""Meshes: analytic solids come back with their volume, area, color, place and way up; silhouettes
are exact discs."""
import json
import math

import jax
import numpy as np
import pytest
import trimesh
from scipy.special import expit

from jaxdreamer import cameras
from jaxdreamer.objects import Object
from jaxdreamer.outputs import bake, mesh, mesh_files, silhouettes, surface, unwrap, video
from jaxdreamer.types import Rendering

SIZE, R = 48, 48
all_rays = jax.jit(jax.vmap(cameras.rays, (0, None)), static_argnums=1)


def ball(radius, center=(0., 0., 0.), *, edge=40., peak=60.):
  """Density of a ball whose edge falls off over about 1 / edge."""
  return lambda xyz: peak * expit(edge * (radius - np.linalg.norm(xyz - np.array(center), axis=-1)))


def radius_at(threshold, *, radius=.6, edge=40., peak=60.):
  """Where the density of `ball` is `threshold`."""
  return radius + math.log(peak / threshold - 1.) / edge


def halves(xyz):
  """Red where x > 0, the front; blue behind; bright towards +z."""
  front = (xyz[:, :1] > 0.).astype(float)
  return np.concatenate([front, .5 + .4 * np.tanh(3. * xyz[:, 2:]), 1. - front], -1)


def disc(camera, radius, *, size=SIZE):
  """The exact silhouettes of a ball at the origin: the rays that pass it nearer than its radius."""
  rays = jax.device_get(all_rays(camera, size))
  middle = -np.sum(rays.origin * rays.direction, -1)
  return np.sum(rays.origin ** 2, -1) - middle ** 2 <= radius ** 2


def solid_of(density, *, threshold, resolution=R, radius=1.):
  return surface.isosurface(surface.log_density(density, radius=radius, resolution=resolution),
                            math.log(threshold), radius=radius)


def object_of(density, color=halves, distance=None):
  """An Object that is extracted, and never rendered."""
  return Object(None, density, color, 1., SIZE, distance)


def test_a_ball_has_the_volume_and_area_of_a_ball_and_faces_outward():
  for threshold in (1., 3., 10.):
    r = radius_at(threshold)
    found = solid_of(ball(.6), threshold=threshold)
    assert found.is_watertight
    assert found.volume == pytest.approx(4. / 3. * math.pi * r ** 3, rel=.01)  # positive: outward
    assert found.area == pytest.approx(4. * math.pi * r ** 2, rel=.01)
    np.testing.assert_allclose(np.linalg.norm(found.vertices, axis=1), r, atol=.003)


def test_moving_and_turning_the_density_moves_and_turns_the_mesh():
  angle, shift = .7, np.array([.1, -.2, .15])
  turn = np.array([[math.cos(angle), -math.sin(angle), 0.], [math.sin(angle), math.cos(angle), 0.],
                   [0., 0., 1.]])
  box = lambda xyz: 60. * expit(40. * (.3 - np.max(np.abs(xyz) / np.array([1.6, 1., .7]), axis=-1)))
  still, moved = solid_of(box, threshold=3.), solid_of(lambda xyz: box((xyz - shift) @ turn),
                                                       threshold=3.)
  assert moved.volume == pytest.approx(still.volume, rel=.02)
  np.testing.assert_allclose(moved.vertices.mean(0), still.vertices.mean(0) @ turn.T + shift,
                             atol=.02)
  wide = lambda vertices: np.cov((vertices - vertices.mean(0)).T)
  np.testing.assert_allclose(wide(moved.vertices), turn @ wide(still.vertices) @ turn.T, atol=.01)


def test_cavities_are_filled_and_the_mesh_stays_closed_at_the_border():
  hollow = lambda xyz: ball(.6)(xyz) - ball(.4)(xyz)
  volume = 4. / 3. * math.pi * radius_at(3.) ** 3
  assert solid_of(hollow, threshold=3.).volume == pytest.approx(volume, rel=.01)
  everywhere = solid_of(lambda xyz: np.full(len(xyz), 50.), threshold=1.)
  assert everywhere.is_watertight  # and cut to the ball in which the renderer looks
  assert everywhere.volume == pytest.approx(4. / 3. * math.pi, rel=.06)


def test_floaters_go_and_large_parts_stay():
  two = lambda xyz: ball(.35, (.5, 0., 0.))(xyz) + ball(.3, (-.5, 0., 0.))(xyz)
  dirty = lambda xyz: two(xyz) + ball(.01, (0., .8, 0.))(xyz)
  whole = solid_of(dirty, threshold=10., resolution=64)
  clean = surface.drop_floaters(whole)
  assert whole.body_count == 3 and clean.body_count == 2
  assert len(np.unique(clean.faces)) == len(clean.vertices) < len(whole.vertices)


def test_the_silhouette_of_a_ball_is_the_exact_disc():
  camera = cameras.orbit((3, .4))
  solid = solid_of(ball(.6), threshold=3., resolution=64)
  seen = silhouettes.silhouettes(np.asarray(solid.vertices), np.asarray(solid.faces), camera,
                                 size=SIZE)
  assert np.mean(seen != disc(camera, radius_at(3.))) < .002


def test_two_triangles_cover_a_square_once_and_the_nearer_hides_the_other():
  # sees y, z in [-1, 1] at x = 0
  camera = video.unbatch(cameras.orbit((1, 0.), fov=2. * math.atan(1. / 3.)))[0]
  square = lambda x, s: np.array([[x, -s, -s], [x, s, -s], [x, s, s], [x, -s, s]])
  vertices = np.concatenate([square(0., .5), square(.5, .2)])
  faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
  face, place = silhouettes.rasterize(vertices, faces, camera, size=16)
  # half of the picture, no seam
  np.testing.assert_array_equal(face >= 0, np.pad(np.ones((8, 8), bool), 4))
  assert set(face[6:10, 6:10].ravel()) <= {2, 3} and set(face[4]) == {-1, 0, 1} or set(face[4]) == {
      -1, 1}
  covered = face >= 0
  at = np.sum(place[..., None] * vertices[faces[face]], -2)[covered]
  rays = jax.tree.map(lambda a: a[0],
                      jax.device_get(all_rays(jax.tree.map(lambda a: a[None], camera), 16)))
  away = np.cross(at - rays.origin[covered], rays.direction[covered])
  np.testing.assert_allclose(away, 0., atol=1e-6)  # each point lies on the ray of its pixel


def test_a_mesh_of_the_distance_is_smooth_where_that_of_the_density_has_terraces():
  # VolSDF's density of a ball, whose logarithm bends at the surface: linear outside, flat inside
  distance = lambda xyz: np.linalg.norm(xyz, axis=-1) - .6
  sharp = lambda xyz: 60. * np.where(distance(xyz) > 0., .5 * np.exp(-60. * np.abs(distance(xyz))),
                                     1. - .5 * np.exp(-60. * np.abs(distance(xyz))))
  camera, r = silhouettes.lookouts(), .59         # a little within, as renders have it
  opacity = disc(camera, r).astype(np.float32)
  off = []
  for object in (object_of(sharp), object_of(sharp, distance=distance)):
    found, facts = mesh.extract(object, camera, opacity, resolution=R)
    assert facts['silhouette_iou'] > .97
    normals = trimesh.Trimesh(found.vertices, found.faces, process=False).face_normals
    middle = found.vertices[found.faces].mean(1)
    cosine = np.sum(normals * middle, -1) / np.linalg.norm(middle, axis=-1)
    off.append(np.degrees(np.arccos(np.clip(cosine, -1., 1.))).mean())
  assert -facts['level'] == pytest.approx(r - .6, abs=.01)
  assert off[1] < 2. < off[0]


def test_the_level_search_finds_the_radius_that_was_rendered():
  camera = silhouettes.lookouts()
  cone = lambda xyz: np.exp(5. - 8. * np.linalg.norm(xyz, axis=-1))  # density fixes a radius
  grid = surface.log_density(cone, radius=1., resolution=64)
  for radius in (.4, .55, .7):
    level, score = silhouettes.match_level(grid, camera, disc(camera, radius), radius=1.)
    assert score > .97
    assert (5. - level) / 8. == pytest.approx(radius, abs=.02)


def test_extract_reports_a_faithful_mesh_with_the_colors_of_the_scene():
  camera = silhouettes.lookouts()
  opacity = disc(camera, .6).astype(np.float32)
  found, facts = mesh.extract(object_of(ball(.6)), camera, opacity, resolution=R)
  assert facts['watertight'] and facts['silhouette_iou'] > .97 and facts['faces'] == len(
      found.faces)
  front, back = found.vertices[:, 0] > .1, found.vertices[:, 0] < -.1
  np.testing.assert_allclose(found.colors[front][:, [0, 2]], [[1., 0.]] * front.sum(), atol=.02)
  np.testing.assert_allclose(found.colors[back][:, [0, 2]], [[0., 1.]] * back.sum(), atol=.02)


def test_fog_has_a_shape_and_emptiness_says_so():
  camera = silhouettes.lookouts()
  fog = .3 * disc(camera, .6).astype(np.float32)
  _, facts = mesh.extract(object_of(ball(.6, peak=.5)), camera, fog, resolution=R)
  assert facts['silhouette_iou'] > .95 and facts['peak_opacity'] == pytest.approx(.3)
  with pytest.raises(surface.Empty, match='largest rendered opacity is 0.000'):
    mesh.extract(object_of(ball(.6)), camera, 0. * fog, resolution=8)
  with pytest.raises(surface.Empty, match='air everywhere'):
    mesh.extract(object_of(lambda xyz: 0. * xyz[:, 0]), camera, fog, resolution=8)
  with pytest.raises(ValueError, match='not finite'):
    mesh.extract(object_of(lambda xyz: np.nan * xyz[:, 0]), camera, fog, resolution=8)


@pytest.fixture(scope='module')
def painted():
  solid = solid_of(ball(.4, (.2, .1, .3)), threshold=30.)                # of radius .4
  vertices = np.asarray(solid.vertices)
  return surface.Mesh(vertices, np.asarray(solid.faces), halves(vertices))


def chunks(path):
  """The JSON and the bytes of a GLB."""
  data = path.read_bytes()
  end = 20 + int.from_bytes(data[12:16], 'little')
  return json.loads(data[20:end]), data[end + 8:]


def test_glb_is_y_up_with_the_front_at_z_and_its_colors_are_linear(painted, tmp_path):
  mesh_files.save(painted, tmp_path, formats=('glb',))
  back, = trimesh.load_scene(tmp_path / 'mesh.glb').geometry.values()
  # x, y, z = right, up, front
  np.testing.assert_allclose(back.vertices, painted.vertices[:, [1, 2, 0]], atol=1e-6)
  # a turn, not a mirror
  assert back.volume == pytest.approx(trimesh.Trimesh(*painted[:2], process=False).volume, rel=1e-4)
  colors = back.visual.vertex_attributes['color'][:, :3]
  np.testing.assert_allclose(np.where(colors <= .0031308, 12.92 * colors,
                                      1.055 * colors ** (1. / 2.4) - .055),
                             painted.colors, atol=1e-4)
  tree, _ = chunks(tmp_path / 'mesh.glb')
  assert tree['materials'][0]['pbrMetallicRoughness']['metallicFactor'] == 0.
  assert set(tree['meshes'][0]['primitives'][0]['attributes']) == {'POSITION', 'NORMAL', 'COLOR_0'}


def textured(mesh, *, size=256):
  atlas = unwrap.unwrap(mesh.vertices, mesh.faces, size=size)
  return bake.texture(mesh, mesh, atlas, lambda xyz, inward: halves(xyz), size=size, width=.02)


def bytes_of(image):
  return np.asarray(image.convert('RGB')) / 255.


def test_a_textured_glb_comes_back_with_its_images_and_frames(painted, tmp_path):
  found = textured(surface.simplify(painted, 1000))
  mesh_files.save(found, tmp_path, formats=('glb',))
  back, = trimesh.load_scene(tmp_path / 'mesh.glb', process=False).geometry.values()
  np.testing.assert_array_equal(back.faces, found.faces)
  np.testing.assert_allclose(back.vertices, found.vertices[:, [1, 2, 0]], atol=1e-6)
  np.testing.assert_allclose(back.vertex_normals, found.texture.normals[:, [1, 2, 0]], atol=1e-6)
  np.testing.assert_allclose(back.visual.uv, found.texture.uv, atol=1e-6)
  material = back.visual.material
  assert (material.metallicFactor, material.roughnessFactor) == (0., 1.)
  for image, own in ((material.baseColorTexture, found.texture.color),
                     (material.normalTexture, found.texture.bump)):
    np.testing.assert_allclose(bytes_of(image), own, atol=.5 / 255. + 1e-9)
  tree, binary = chunks(tmp_path / 'mesh.glb')
  attributes = tree['meshes'][0]['primitives'][0]['attributes']
  assert set(attributes) == {'POSITION', 'NORMAL', 'TEXCOORD_0', 'TANGENT'}
  accessor = tree['accessors'][attributes['TANGENT']]
  start = tree['bufferViews'][accessor['bufferView']].get('byteOffset', 0)
  tangents = np.frombuffer(binary[start:start + 16 * accessor['count']], '<f4').reshape(-1, 4)
  np.testing.assert_allclose(tangents, found.texture.tangents[:, [1, 2, 0, 3]], atol=1e-6)


def test_a_textured_obj_names_a_material_whose_images_lie_beside_it(painted, tmp_path):
  found = textured(surface.simplify(painted, 1000))
  paths = mesh_files.save(found, tmp_path, formats=('obj',))
  assert {path.name for path in paths} == {'mesh.obj', 'mesh.mtl', 'mesh.color.png',
                                           'mesh.bump.png'}
  for path in paths[2:]:
    assert path.name in (tmp_path / 'mesh.mtl').read_text()
  back = trimesh.load_mesh(tmp_path / 'mesh.obj', process=False)
  np.testing.assert_allclose(back.vertices[back.faces],
                             found.vertices[found.faces][..., [1, 2, 0]], atol=1e-6)
  np.testing.assert_allclose(back.visual.uv[back.faces], found.texture.uv[found.faces], atol=1e-6)
  np.testing.assert_allclose(bytes_of(back.visual.material.image), found.texture.color,
                             atol=.5 / 255. + 1e-9)


def test_a_pictured_texture_shows_what_the_vertices_show_where_both_can(painted):
  found = textured(painted)
  for camera in video.unbatch(cameras.orbit((3, .4))):
    a, b = (silhouettes.picture(one, camera, size=SIZE) for one in (painted, found))
    assert np.mean(np.abs(a - b)) < .002


def test_obj_and_ply_come_back_with_bytes_of_color(painted, tmp_path):
  for path in mesh_files.save(painted, tmp_path, formats=('obj', 'ply')):
    back = trimesh.load_mesh(path, process=False)
    expected = painted.vertices[:, [1, 2, 0]] if path.suffix == '.obj' else painted.vertices
    np.testing.assert_allclose(back.vertices, expected, atol=1e-6)
    np.testing.assert_allclose(back.visual.vertex_colors[:, :3] / 255., painted.colors,
                               atol=.5 / 255. + 1e-6)


def test_points_are_on_the_surface_and_evenly_spread(painted):
  xyz, colors = surface.sample_points(painted, 20_000)
  offset = xyz - np.array([.2, .1, .3])
  np.testing.assert_allclose(np.linalg.norm(offset, axis=1), .4, atol=.01)
  np.testing.assert_allclose(offset.mean(0), 0., atol=.01)
  np.testing.assert_allclose((offset ** 2).mean(0), .4 ** 2 / 3., rtol=.03)
  assert colors.min() >= 0. and colors.max() <= 1. + 1e-9


def test_write_leaves_everything_in_the_folder(tmp_path):
  def render(one, background):
    opacity = disc(jax.tree.map(lambda a: a[None], one), .6)[0].astype(np.float32)
    rgb = (1. - opacity[..., None]) * background
    return Rendering(rgb, opacity, opacity, rgb, opacity, opacity, opacity)
  made, facts = mesh.write(Object(render, ball(.6), halves, 1., SIZE), tmp_path, resolution=R,
                           faces=1000, texture=128, points=100)
  assert {path.name for path in tmp_path.iterdir()} == {
    'mesh.glb', 'mesh.obj', 'mesh.mtl', 'mesh.color.png', 'mesh.bump.png', 'mesh.ply', 'mesh.json',
    'mesh.png', 'points.ply'}
  assert json.loads((tmp_path / 'mesh.json').read_text()) == facts
  assert len(trimesh.load(tmp_path / 'points.ply').vertices) == 100
  assert facts['asset']['silhouette_iou'] > .97 and abs(facts['asset']['faces'] - 1000) <= 10
  for name, faces in (('glb', facts['asset']['faces']), ('obj', facts['asset']['faces']),
                      ('ply', len(made.faces))):
    back, = trimesh.load_scene(tmp_path / f'mesh.{name}').geometry.values()
    assert len(back.faces) == faces, name


def test_the_pictured_mesh_shows_its_front_to_the_front_camera(painted):
  front, back = video.unbatch(cameras.orbit((2, 0.)))
  middle = lambda image: image[SIZE // 2 - 8, SIZE // 2]
  halved = painted._replace(vertices=painted.vertices - np.array([.2, .1, 0.]),
                            colors=halves(painted.vertices - np.array([.2, .1, 0.])))
  assert middle(silhouettes.picture(halved, front, size=SIZE))[0] > .9
  assert middle(silhouettes.picture(halved, back, size=SIZE))[2] > .9
  np.testing.assert_allclose(silhouettes.picture(halved, front, size=SIZE)[0, 0], 1.)
