"""A mesh of the user's own: read from any file, its shape kept and its color learned, and given
back with the UVs and normals it came with."""
import contextlib
import json
import os
import shutil
import struct
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from refusals import refused

from jaxdreamer import build, cameras, loop, objects, options, render, runs, workdirs
from jaxdreamer.configs import base
from jaxdreamer.meshes import drawing, files, gltf, rasterizer, solids, topology
from jaxdreamer.outputs import bake, given, mesh_files, silhouettes, surface, unwrap
from jaxdreamer.priors.gaussian import gaussian
from jaxdreamer.scenes import backgrounds
from jaxdreamer.scenes.mesh import mesh

OPTION = 'config.scene.mesh.path'
WHITE = dict(background=render.white, shade=render.unlit)
SIZE = 16
RED = np.array([.8, .2, .1])
read = partial(files.read, option=OPTION)


def reddish():
  """A prior that sees one flat picture, red, in everything."""
  return gaussian(jnp.broadcast_to(jnp.asarray(RED), (SIZE, SIZE, 3)), std=.3)


def lump():
  """A closed surface without symmetry, away from the origin: a stretched ball with a corner."""
  solid = trimesh.creation.icosphere(subdivisions=2, radius=1.)
  solid.apply_scale([.3, .5, .8])
  solid.vertices[0] *= 1.5
  solid.apply_translation([2., -1., .5])
  return solid


def written(path, solid=None, *, uv=True):
  """A GLB of the lump, with UVs and normals, written by our own exporter."""
  solid = solid or lump()
  vertices, faces = np.array(solid.vertices), np.array(solid.faces)
  atlas = unwrap.unwrap(vertices, faces, size=128)
  normals = np.array(solid.vertex_normals)[atlas.origin]
  looks = surface.Texture(atlas.uv, normals, None, np.full((4, 4, 3), .5), None) if uv else None
  made = surface.Mesh(vertices[atlas.origin], atlas.faces, np.full((len(atlas.origin), 3), .5),
                      looks)
  path.write_bytes(mesh_files.to_glb(made)['mesh.glb'])
  return path


def repacked(path, change):
  """A GLB file with its JSON as `change` leaves it."""
  tree, binary = gltf._chunks(path.read_bytes())
  change(tree)
  path.write_bytes(gltf._glb(tree, binary))
  return path


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  return written(tmp_path_factory.mktemp('mesh') / 'lump.glb')


def sorted_rows(a):
  return a[np.lexsort(np.round(a, 5).T)]


@pytest.mark.parametrize('kind', ['glb', 'gltf', 'obj', 'ply', 'stl', 'off'])
def test_every_kind_of_file_has_the_same_surface_in_the_world(tmp_path, kind):
  solid = lump()
  there = solid.copy()
  if f'.{kind}' in files.Y_UP:
    there.vertices = solid.vertices @ mesh_files.Y_UP.T
  found = there.export(file_type=kind)
  for name, data in (found if kind == 'gltf' else {f'model.{kind}': found}).items():
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
  vertices, faces = files.weld(read(tmp_path / f'model.{kind}'))
  np.testing.assert_allclose(sorted_rows(vertices), sorted_rows(np.array(solid.vertices)),
                             atol=1e-5)
  back = trimesh.Trimesh(vertices, faces, process=False)
  assert back.is_watertight
  np.testing.assert_allclose(back.volume, solid.volume, rtol=1e-4)     # outward, and z up


def test_a_scene_of_several_nodes_is_one_mesh_where_each_stands(tmp_path, file):
  def twice(tree):
    tree['nodes'] = [{'children': [1, 2]}, {'mesh': 0, 'translation': [0., 5., 0.]},
                     {'mesh': 0, 'scale': [-2., 1., 1.]}, {'mesh': 0}]
    tree['scenes'], tree['scene'] = [{'nodes': [0]}], 0
  one, both = read(file), read(repacked(shutil.copy(file, tmp_path / 'two.glb'), twice))
  n = len(one.vertices)
  assert len(both.vertices) == 2 * n and len(both.faces) == 2 * len(one.faces)
  moved, turned = ((slice(n), slice(n, None)) if both.vertices[:n, 2].max() > 4. else
                   (slice(n, None), slice(n)))
  np.testing.assert_allclose(both.vertices[moved], one.vertices + [0., 0., 5.], atol=1e-6)
  np.testing.assert_allclose(both.vertices[turned], one.vertices * [1., -2., 1.], atol=1e-6)
  np.testing.assert_array_equal(both.uv, np.tile(one.uv, (2, 1)))
  whole = trimesh.Trimesh(*files.weld(both), process=False)
  assert whole.is_watertight and all(part.volume > 0. for part in whole.split())
  np.testing.assert_allclose(np.linalg.norm(both.normals, axis=1), 1., atol=1e-5)
  normals = trimesh.Trimesh(both.vertices, both.faces, process=False).vertex_normals
  assert (np.einsum('nc,nc->n', both.normals, normals) > .9).mean() > .9


def test_uvs_and_normals_are_those_of_the_file_to_the_last_bit(file):
  found = read(file)
  tree, binary = gltf._chunks(file.read_bytes())
  def stored(name, width):
    accessor = tree['accessors'][tree['meshes'][0]['primitives'][0]['attributes'][name]]
    start = tree['bufferViews'][accessor['bufferView']].get('byteOffset', 0)
    return np.frombuffer(binary[start:], '<f4', width * accessor['count']).reshape(-1, width)
  uv = stored('TEXCOORD_0', 2)
  np.testing.assert_array_equal(np.float32(np.stack([found.uv[:, 0], 1. - found.uv[:, 1]], 1)), uv)
  np.testing.assert_array_equal(np.float32(found.normals @ mesh_files.Y_UP.T),
                                stored('NORMAL', 3))


def test_uvs_of_whole_numbers_are_shares_of_the_largest(tmp_path, file):
  def coarse(tree):
    accessor = tree['accessors'][tree['meshes'][0]['primitives'][0]['attributes']['TEXCOORD_0']]
    accessor.update(componentType=5123, normalized=True)
    tree['bufferViews'][accessor['bufferView']]['byteStride'] = 8
  found = read(repacked(shutil.copy(file, tmp_path / 'whole.glb'), coarse))
  scaled = np.stack([found.uv[:, 0], 1. - found.uv[:, 1]], 1) * 65535.
  np.testing.assert_allclose(scaled, np.round(scaled), atol=1e-6)
  assert scaled.min() >= 0. and scaled.max() > 255.


def test_what_was_read_is_kept_exactly_and_known_again(tmp_path, file):
  found = read(file)
  files.save(tmp_path / 'kept.safetensors', found)
  back = read(tmp_path / 'kept.safetensors')
  for a, b in zip(found, back):
    np.testing.assert_array_equal(a, b)
  assert files.mark(back) == files.mark(found)
  assert files.mark(found._replace(uv=np.nextafter(found.uv, 1.))) != files.mark(found)


BAD = {
  'no.txt': (b'x', 'takes a mesh file, .glb'),
  'empty.glb': (b'', 'is empty'),
  'words.glb': (b'garbage here' * 10, 'no GLB of glTF 2.0'),
  'page.obj': (b'<!doctype html><title>Log in</title>', 'is a web page'),
  'points.obj': (b'v 0 0 0\nv 1 0 0\n', 'it has no faces'),
  'names.obj': (b'v 0 0 0\nf 1 2 3\n', 'no valid .obj file'),
  'line.obj': (b'v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n', 'none of its faces has an area'),
  'nan.off': (b'OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n', 'not finite'),
  'count.ply': (b'ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\n'
                b'property float x\nend_header\n1234', 'PLY'),
  'none.stl': (b'solid x\nendsolid', 'it has no faces'),
  'beside.gltf': (b'{"buffers": [{"uri": "../secret.bin", "byteLength": 9}]}',
                  'is no file beside it'),
  'absolute.gltf': (b'{"buffers": [{"uri": "/etc/hostname", "byteLength": 9}]}',
                    'is no file beside it'),
  'picture.glb': (b'\x89PNG and more', 'is a picture: give a mesh'),
  'packed.gltf': (b'{"extensionsRequired": ["KHR_draco_mesh_compression"]}',
                  'export it without compression'),
  'pickle.safetensors': (b'\x80\x04K\x01.' * 9, 'no valid .safetensors file'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_file_that_is_no_mesh_is_refused_in_one_line(tmp_path, name):
  data, why = BAD[name]
  (tmp_path / 'secret.bin').write_bytes(b'123456789')
  folder = tmp_path / 'inner'
  folder.mkdir()
  (folder / name).write_bytes(data)
  with refused(why) as caught:
    read(folder / name)
  assert str(caught.value).startswith(f"{OPTION}='{folder / name}': ")


def with_accessor(**more):
  return lambda tree: tree['accessors'][0].update(more)


@pytest.mark.parametrize(('change', 'why'), [
  (with_accessor(count=9_999_999_999), 'count more than its buffers hold'),
  (with_accessor(count=-9_999_999_999), 'count more than its buffers hold'),
  (with_accessor(sparse={}), 'holds sparse accessors'), (with_accessor(type='MAT4'), 'no three'),
  (lambda tree: tree['meshes'][0]['primitives'][0].update(mode=6), 'fans of triangles'),
  (lambda tree: tree['meshes'][0]['primitives'][0].update(mode=1), 'it has no faces'),
  (lambda tree: tree.update(nodes=[{'children': [0], 'mesh': 0}]), '')])
def test_a_glb_that_would_fill_the_memory_or_that_has_no_triangles_is_refused(tmp_path, file,
                                                                              change, why):
  path = repacked(shutil.copy(file, tmp_path / 'changed.glb'), change)
  if why:
    with refused(why):
      read(path)
  else:                                          # a node within itself is met once or refused
    with contextlib.suppress(ValueError):
      assert len(read(path).faces) <= 2 * len(read(file).faces)


def test_buffers_are_read_up_to_a_bound_in_all(tmp_path, monkeypatch):
  monkeypatch.setattr(gltf, 'MOST_BYTES', 100)
  (tmp_path / 'a.bin').write_bytes(bytes(60))
  (tmp_path / 'many.gltf').write_text(json.dumps({'buffers': [{'uri': 'a.bin'}] * 2}))
  with refused('its buffers have more than the 100 bytes'):
    read(tmp_path / 'many.gltf')


def test_nothing_there_a_folder_a_pipe_and_a_gigabyte_are_refused_unread(tmp_path):
  with refused('no file is there', FileNotFoundError):
    read(tmp_path / 'absent.glb')
  with refused("path='': takes a mesh file"):
    read('')
  (tmp_path / 'folder.glb').mkdir()
  os.mkfifo(tmp_path / 'pipe.glb')
  for name in ('folder.glb', 'pipe.glb'):
    with refused('is a folder or a device'):
      read(tmp_path / name)
  with (tmp_path / 'large.glb').open('wb') as large:
    large.truncate(2 ** 30)                      # of no blocks
  with refused('1,073,741,824 bytes, and at most 268,435,456'):
    read(tmp_path / 'large.glb')


def test_pictures_and_materials_are_not_opened(tmp_path, file):
  def broken(tree):
    tree['images'] = [{'uri': 'absent.png'}]
  np.testing.assert_array_equal(
    read(repacked(shutil.copy(file, tmp_path / 'picture.glb'), broken)).uv, read(file).uv)
  os.mkfifo(tmp_path / 'pipe.mtl')               # whoever opens it waits forever
  (tmp_path / 'm.obj').write_text('mtllib pipe.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n')
  assert len(read(tmp_path / 'm.obj').faces) == 1


def test_it_is_moved_into_a_ball_or_left_as_it_is(tmp_path, file):
  def reach(**more):
    scene = mesh(path=str(file), **more)
    vertices = np.asarray(scene.mesh(scene.prepare(scene.init(jax.random.key(0)), None)).vertices)
    np.testing.assert_allclose(sorted_rows(scene.given.placed(
      files.weld(scene.given.file)[0])), sorted_rows(vertices), atol=1e-6)
    return .5 * (vertices.min(0) + vertices.max(0)), np.linalg.norm(vertices, axis=1).max()
  for scale in (.8, .3):
    center, far = reach(scale=scale)
    np.testing.assert_allclose(center, 0., atol=1e-6)
    np.testing.assert_allclose(far, scale, rtol=1e-6)
  with refused('config.scene.mesh.scale=0.0: .* reaches 2'):
    mesh(path=str(file), scale=0.)
  written(tmp_path / 'ball.glb', trimesh.creation.icosphere(subdivisions=2, radius=.4))
  np.testing.assert_allclose(mesh(path=str(tmp_path / 'ball.glb'), scale=0.).given.scale, 1.)


@pytest.mark.parametrize('texture', ['voxels', 'hashgrid'])
def test_a_gradient_reaches_the_texture_and_there_is_nothing_else(file, texture):
  scene = mesh(path=str(file), texture=texture)
  params = scene.init(jax.random.key(0))
  assert set(params) == {'texture'}
  @jax.jit
  def loss(params):
    code = scene.focus(scene.prepare(params, None), 0)
    seen = scene.render(code, cameras.orbital(.5, .3, 3., .7), size=16, **WHITE)
    return jnp.sum(seen.rgb ** 2), seen
  grads, seen = jax.grad(loss, has_aux=True)(params)
  assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert any(jnp.any(g != 0.) for g in jax.tree.leaves(grads))
  solid = np.asarray(seen.opacity) > .99
  np.testing.assert_allclose(np.asarray(seen.rgb)[solid], .5, atol=.1)


def test_its_distance_is_that_to_the_surface_and_an_open_one_has_no_large_inside():
  ball = trimesh.creation.icosphere(subdivisions=3, radius=.6)
  axis = np.linspace(-1., 1., 33)
  nodes = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1)
  found = solids.signed_distance(np.array(ball.vertices), np.array(ball.faces), resolution=33)
  true = np.linalg.norm(nodes, axis=-1) - .6
  cell = axis[1] - axis[0]
  np.testing.assert_allclose(found, true, atol=cell)
  near = np.abs(true) < .8 * cell
  np.testing.assert_allclose(found[near], true[near], atol=.25 * cell)
  cup = ball.faces[ball.triangles_center[:, 2] < .3]
  half = solids.signed_distance(np.array(ball.vertices), cup, resolution=33)
  assert (half < 0.).mean() < .5 * (found < 0.).mean() and half.min() > -cell


def test_long_thin_faces_are_drawn_as_all_others():
  fan = trimesh.creation.cylinder(radius=.5, height=1., sections=600)
  vertices, faces = np.array(fan.vertices), np.array(fan.faces)
  camera, size = cameras.orbital(.4, .5, 3., .7), 48
  deep, many = rasterizer.crowd(vertices, faces)
  assert 1. < deep < 3. and many > 500.
  draw = jax.jit(lambda lines: drawing.image(
    topology.of_arrays(vertices, faces), lambda xyz: .5 + .0 * xyz, camera, size=size,
    lines=lines, **WHITE), static_argnums=0)
  whole, cut = draw(round(2. * many)), draw(0)
  assert float(whole.dropped) == 0.
  solid = silhouettes.silhouettes(vertices, faces, jax.tree.map(lambda a: a[None], camera),
                                  size=size)[0]
  assert ((np.asarray(whole.opacity) >= .5) == solid).mean() > .995
  assert float(cut.dropped) > 0.


def test_open_borders_and_an_edge_of_three_faces_are_drawn(tmp_path):
  (tmp_path / 'fins.off').write_text('OFF\n5 3 0\n0 0 -1\n0 0 1\n0 1 0\n.8 -.6 0\n-.8 -.6 0\n'
                                     '3 0 1 2\n3 0 1 3\n3 0 1 4\n')
  scene = mesh(path=str(tmp_path / 'fins.off'))
  code = scene.prepare(scene.init(jax.random.key(0)), None)
  vertices, faces = topology.compact(scene.mesh(code))
  assert len(vertices) == 5 and len(faces) == 3
  camera = cameras.orbit((3, .3))
  seen = jax.jit(jax.vmap(lambda one: scene.render(code, one, size=32, **WHITE)))(camera)
  np.testing.assert_array_equal(seen.dropped, 0.)
  solid = silhouettes.silhouettes(vertices, faces, camera, size=32)
  assert ((np.asarray(seen.opacity) >= .5) == solid).mean() > .99 and solid.mean() > .05


def test_a_mesh_of_too_many_layers_is_refused(tmp_path):
  sheets = trimesh.util.concatenate([trimesh.creation.box((1., 1., .001)).apply_translation(
    [0., 0., .01 * k]) for k in range(40)])
  sheets.export(tmp_path / 'sheets.ply')
  with refused('faces lie over one another'):
    mesh(path=str(tmp_path / 'sheets.ply'))


def flat(uv):
  """A square of two faces with these UVs."""
  return files.MeshFile(np.array([[0., 0., 0.], [1., 0., 0.], [1., 1., 0.], [0., 1., 0.]]),
                        np.array([[0, 1, 2], [0, 2, 3]]), uv)


def test_uvs_that_do_not_tell_places_apart_are_told_by_their_fault(file):
  square = np.array([[0., 0.], [1., 0.], [1., 1.], [0., 1.]])
  fault = partial(given.fault, size=64)
  assert fault(flat(square)) == '' == fault(read(file))
  assert fault(flat(None)) == 'there are none'
  assert 'outside' in fault(flat(square * 2.)) and 'outside' in fault(flat(square * np.nan))
  assert '100% of the surface has no area' in fault(flat(square * [1., 0.]))
  assert 'more than one place' in fault(flat(square[[0, 1, 2, 1]]))    # folded along the diagonal


def colored(scene):
  """The Object of a scene whose color is a third of the place, whatever it learns."""
  code = scene.prepare(scene.init(jax.random.key(0)), None)
  model = objects.model(jax.random.key(0), backgrounds.with_background(
    scene, backgrounds.constant()), prompts=('a lump',), embed=str, step=0, size=24)
  object = model.object({'field': scene.init(jax.random.key(0)), 'background': ()}, 'a lump')
  assert object.given is scene.given and code['texture'] is not None
  return object._replace(color=lambda xyz: .5 + xyz / 3.)


def test_colors_are_baked_where_the_users_uvs_put_them(file):
  scene = mesh(path=str(file))
  object = colored(scene)
  whole, facts = given.painted(object)
  small, (at_home, textured), said = given.asset(object, whole, texture=128)
  source = scene.given.file
  assert facts['watertight'] and said == {'uv': 'kept'}
  np.testing.assert_array_equal(textured.vertices, source.vertices)
  np.testing.assert_array_equal(at_home.vertices, source.vertices)
  np.testing.assert_array_equal(textured.faces, source.faces)
  np.testing.assert_array_equal(textured.texture.uv, source.uv)
  np.testing.assert_array_equal(textured.texture.normals, source.normals)
  np.testing.assert_allclose(at_home.colors, .5 + whole.vertices / 3., atol=1e-6)
  # at the middles of faces, where no chart's border is near
  middle = lambda values: values[source.faces].mean(1)
  wide = rasterizer.flat_area(source.uv[source.faces]) > 20. / 128 ** 2
  seen = bake.sample(textured.texture.color, middle(source.uv))
  np.testing.assert_allclose(seen[wide], (.5 + middle(whole.vertices) / 3.)[wide], atol=.01)
  assert wide.mean() > .3


def test_a_mesh_whose_uvs_cannot_serve_is_unwrapped_anew_and_says_so(tmp_path):
  path = repacked(written(tmp_path / 'bare.glb', uv=False), lambda tree: tree['meshes'][0][
    'primitives'][0]['attributes'].pop('NORMAL'))
  object = colored(mesh(path=str(path)))
  with pytest.warns(UserWarning, match='UVs of config.scene.mesh.path are not kept, for there are'):
    _, (_, textured), said = given.asset(object, given.painted(object)[0], texture=128)
  assert said == {'uv': 'new, for there are none'} and textured.texture.normals is None
  source = object.given.file
  np.testing.assert_allclose(textured.vertices[textured.faces], source.vertices[source.faces])
  back = given.fault(files.MeshFile(*textured[:2], textured.texture.uv), size=128)
  assert back == ''
  tree, _ = gltf._chunks(mesh_files.to_glb(textured)['mesh.glb'])
  assert set(tree['meshes'][0]['primitives'][0]['attributes']) == {'POSITION', 'TEXCOORD_0'}


def make_config(path, steps=30):
  config = base.get_config()
  config.prior.name, config.scene.name = 'test_mesh_scene:reddish', 'mesh'
  config.scene.mesh.path, config.scene.voxels.levels = str(path), (5, 9)
  config.steps, config.preview_every, config.checkpoint_every, config.log_every = steps, 0, 10, 10
  config.sampling.views, config.render.background = 2, 'white'
  config.eval.update({'size': 24, 'mesh_resolution': 16, 'texture': 128})
  options.check(config)
  return config


def train(config, workdir):
  return loop.run(config, workdir, build.make_mesh(config))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  path = written(folder / 'mine.glb')
  outcome = train(make_config(path), folder / 'run')
  assert not outcome.failed
  return path, folder / 'run'


def copied(trained, tmp_path):
  """The run and its mesh file in another place."""
  path, workdir = trained
  return (shutil.copy(path, tmp_path / path.name), shutil.copytree(workdir, tmp_path / 'copy'))


def test_it_becomes_what_the_prior_sees_and_keeps_its_shape_and_uvs(trained):
  path, workdir = trained
  before, after = read(path), read(workdir / 'mesh.glb')
  for name in ('vertices', 'faces', 'uv', 'normals'):
    a, b = (getattr(one, name) for one in (before, after))
    np.testing.assert_array_equal(a.astype(np.float32), b.astype(np.float32), name)
  text = read(workdir / 'mesh.obj')
  np.testing.assert_allclose(text.uv[text.faces], before.uv[before.faces], atol=1e-7)
  ply = trimesh.load_mesh(workdir / 'mesh.ply', process=False)
  np.testing.assert_allclose(ply.vertices, before.vertices, atol=1e-6)
  seen = ply.visual.vertex_colors[:, :3] / 255.
  assert np.abs(seen - RED).mean() < .1 < np.abs(.5 - RED).mean()
  image = trimesh.load_mesh(workdir / 'mesh.glb', process=False).visual.material.baseColorTexture
  assert np.abs(np.asarray(image)[..., :3].mean((0, 1)) / 255. - RED).max() < .15
  facts = json.loads((workdir / 'mesh.json').read_text())
  assert facts['asset']['uv'] == 'kept' and facts['silhouette_iou'] > .9
  for name in ('turntable.mp4', 'report.html', 'mesh.png'):
    assert (workdir / name).stat().st_size, name


def test_a_run_goes_on_and_is_read_where_its_file_is_no_more(trained, tmp_path):
  path, workdir = copied(trained, tmp_path)
  os.unlink(path)
  outcome = train(make_config(path, steps=40), workdir)
  assert outcome.step == 40 and not outcome.failed
  restored = runs.restore(workdir)
  object = restored.model.object(restored.params, 'a red cube')
  assert restored.step == 40
  np.testing.assert_array_equal(object.given.file.uv, read(trained[0]).uv)
  # and as it would have gone on beside the file
  (tmp_path / 'more').mkdir()
  path, beside = copied(trained, tmp_path / 'more')
  train(make_config(path, steps=40), beside)
  for a, b in zip(jax.tree.leaves(restored.params), jax.tree.leaves(runs.restore(beside).params)):
    np.testing.assert_array_equal(a, b)


def test_another_mesh_at_the_same_path_is_another_run(trained, tmp_path):
  path, workdir = copied(trained, tmp_path)
  written(path, trimesh.creation.icosphere(subdivisions=1, radius=.5))
  with refused('scene.mesh.path is .*sha256'):
    train(make_config(path, steps=40), workdir)
  assert workdirs.finished_steps(workdir)[-1] == 30


def test_another_mesh_starts_from_the_colors_of_a_run(trained, tmp_path):
  path = written(tmp_path / 'ball.glb', trimesh.creation.icosphere(subdivisions=2, radius=.5))
  config = make_config(path, steps=10)
  config.start, config.optim.groups = str(trained[1]), (('.*', 0.),)
  train(config, tmp_path / 'second')
  first, second = (runs.restore(folder) for folder in (trained[1], tmp_path / 'second'))
  for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params)):
    np.testing.assert_array_equal(a, b)
  assert second.model.object(second.params, '').given.file.vertices.shape == read(
    path).vertices.shape


def test_a_glb_of_two_chunks_is_read_whatever_follows(file):
  tree, binary = gltf._chunks(file.read_bytes() + struct.pack('<I4s', 4, b'MORE') + b'1234')
  assert tree['asset']['version'] == '2.0' and len(binary) >= tree['buffers'][0]['byteLength']
