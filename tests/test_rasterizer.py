"""The rasterizer: held against one in NumPy, against spheres in closed form, and its gradients
against differences."""
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from benchmarks import rasterizer as measured
from jaxdreamer import cameras, render
from jaxdreamer.meshes import antialiasing, drawing, rasterizer, topology
from jaxdreamer.outputs import silhouettes

CAMERA = cameras.orbital(.5, .4, 3., .7)
draw = jax.jit(measured.draw, static_argnames='size')


def color(xyz):
  return .5 + .4 * np.sin(4. * xyz)


@pytest.fixture(scope='module')
def lumpy():
  return measured.lumpy_ball(24)


def icosphere(radius, *, subdivisions=4):
  found = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
  return topology.of_arrays(found.vertices, found.faces)


@pytest.mark.parametrize('size', [32, 96])
def test_a_mesh_looks_as_an_independent_rasterizer_draws_it(lumpy, size):
  seen = draw(lumpy, CAMERA, size=size)
  vertices, faces = topology.compact(lumpy)
  face, place = silhouettes.rasterize(vertices.astype(float), faces, CAMERA, size=size)
  xyz = np.sum(place[..., None] * vertices[faces[face]], -2)
  normal = np.asarray(topology.vertex_normals(topology.of_arrays(vertices, faces)))
  normal = np.sum(place[..., None] * normal[faces[face]], -2)
  normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
  far = np.linalg.norm(xyz - np.asarray(CAMERA.world_from_camera)[:3, 3], axis=-1)
  inside = face >= 0
  for axis in (0, 1):                            # away from outlines, of its own parts as well
    jump = np.abs(np.diff(np.where(inside, far, 9.), axis=axis)) > .1
    pad = [(0, 0), (0, 0)]
    for side in ((0, 1), (1, 0)):
      pad[axis] = side
      inside &= ~np.pad(jump, pad)
  assert inside.mean() > .15
  np.testing.assert_allclose(np.asarray(seen.opacity)[inside], 1.)
  for mine, theirs in ((seen.rgb, color(xyz)), (seen.depth, far), (seen.normal, normal)):
    np.testing.assert_allclose(np.asarray(mine)[inside], theirs[inside], atol=1e-4)
  # half a pixel at silhouettes: what differs by more is no outline's pixel
  differs = np.abs(np.asarray(seen.opacity) - (face >= 0)) > .5 + 1e-6
  assert not differs.any() and int(seen.dropped) == 0


@pytest.mark.parametrize('subdivisions', [2, 5])             # faces larger and smaller than pixels
def test_a_sphere_is_as_deep_and_faces_as_its_closed_form_and_its_mask_has_the_area(subdivisions):
  size, radius = 64, .7
  camera = cameras.orbital(.3, .2, 3., .7)
  seen = draw(icosphere(radius, subdivisions=subdivisions), camera, size=size)
  rays = cameras.rays(camera, size)
  nearest = -jnp.sum(rays.origin * rays.direction, -1)
  chord = radius ** 2 - (jnp.sum(rays.origin ** 2, -1) - nearest ** 2)
  depth = nearest - jnp.sqrt(jnp.maximum(chord, 0.))
  normal = (rays.origin + depth[..., None] * rays.direction) / radius
  within = np.asarray(chord) > .3 * radius ** 2
  error = .04 if subdivisions == 2 else .002
  np.testing.assert_allclose(np.asarray(seen.depth)[within], depth[within], atol=error)
  np.testing.assert_allclose(np.asarray(seen.normal)[within], normal[within], atol=4. * error)
  # a cone of rays of half angle asin(r / 3): a disc of radius tan(asin(r / 3)) at distance 1
  disc = math.pi * (size / (2. * math.tan(.35)) * math.tan(math.asin(radius / 3.))) ** 2
  if subdivisions == 5:
    np.testing.assert_allclose(seen.opacity.sum(), disc, rtol=2e-3)
    exact = np.asarray(chord > 0.)
    assert np.abs(np.asarray(seen.opacity) - exact).max() <= .5 + 1e-6
  np.testing.assert_allclose(np.asarray(seen.depth)[0, 0], 4., rtol=1e-5)


def test_the_mask_of_a_growing_sphere_grows_as_its_disc():
  unit, size = icosphere(1.), 48
  def area(radius):
    return draw(unit._replace(vertices=radius * unit.vertices), CAMERA, size=size).opacity.sum()
  focal = size / (2. * math.tan(.35))
  slopes, true = [], []
  for radius in np.linspace(.5, .7, 7):
    slopes.append(float(jax.grad(area)(jnp.float32(radius))))
    true.append(2. * math.pi * focal ** 2 * radius * 9. / (9. - radius ** 2) ** 2)
  np.testing.assert_allclose(slopes, true, rtol=.08)
  np.testing.assert_allclose(np.mean(slopes), np.mean(true), rtol=.02)


@pytest.mark.parametrize('resolution', [12, 24])             # faces larger and smaller than pixels
def test_gradients_of_mask_and_color_agree_with_differences(resolution):
  mask, of_color = measured.gradient_cosines(measured.lumpy_ball(resolution), size=64)
  assert mask > .99 and of_color > .99, (mask, of_color)


@pytest.mark.parametrize('angle', [0., .2, .6, .9, 1.3])
def test_an_edge_of_any_slope_covers_what_it_should(angle):
  size, camera = 16, cameras.orbital(0., 0., 3., 2. * math.atan(1. / 3.))    # y, z in [-1, 1]
  turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
  for shift in np.linspace(0., .15, 5):
    corners = np.array([[-3., shift], [3., shift], [3., -3.], [-3., -3.]]) @ turn.T
    vertices = np.concatenate([np.zeros((4, 1)), corners], 1)
    mesh = topology.of_arrays(vertices, np.array([[0, 2, 1], [0, 3, 2]]))
    shown = np.asarray(draw(mesh, camera, size=size).opacity)
    place = (np.arange(size) + .5) / size * 2. - 1.
    y, z = np.meshgrid(place, -place)
    height = (np.stack([y, z], -1) @ turn)[..., 1] - shift
    # a pixel's width along the axis that is nearer to across
    reach = max(abs(math.cos(angle)), abs(math.sin(angle)))
    want = np.clip(.5 - height * size / 2. / reach, 0., 1.)
    inner = np.s_[1:-1, 1:-1]                    # the last pixels lack neighbors
    np.testing.assert_allclose(shown[inner], want[inner], atol=2e-3)


def test_an_outline_that_is_hidden_changes_nothing():
  camera = cameras.orbital(0., 0., 3., .7)
  square = lambda x, s: np.array([[x, -s, -s], [x, s, -s], [x, s, s], [x, -s, s]])
  both = np.concatenate([square(.6, .5), square(-.6, .23)])
  faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
  alone, two = (draw(topology.of_arrays(v, f), camera, size=32)
                for v, f in ((both[:4], faces[:2]), (both, faces)))
  np.testing.assert_allclose(two.rgb, alone.rgb, atol=1e-6)
  behind = np.concatenate([square(.6, .2), square(-.6, .5)])                 # and one that is seen
  found = draw(topology.of_arrays(behind, faces), camera, size=32)
  np.testing.assert_allclose(found.opacity, draw(topology.of_arrays(behind[4:], faces[:2]), camera,
                                                 size=32).opacity, atol=1e-6)
  assert np.abs(np.asarray(found.rgb) - np.asarray(alone.rgb)).max() > .05


def test_shading_and_backgrounds_are_the_callers(lumpy):
  image = partial(drawing.image, lumpy, lambda xyz: jnp.array([.9, .5, .1]), CAMERA, size=24)
  blue = lambda direction: jnp.array([0., 0., 1.]) * (.5 + .5 * direction[2])
  plain = jax.jit(partial(image, background=blue, shade=render.unlit))()
  o = plain.opacity[..., None]
  sky = jax.vmap(jax.vmap(blue))(cameras.rays(CAMERA, 24).direction)
  at = np.asarray(plain.opacity)
  np.testing.assert_allclose(plain.rgb[at == 0.], sky[at == 0.], atol=1e-6)
  np.testing.assert_allclose(plain.rgb[at == 1.], np.broadcast_to([.9, .5, .1], ((at == 1.).sum(),
                                                                                3)), atol=1e-6)
  black = lambda direction: jnp.zeros(3)
  normals = jax.jit(partial(image, background=black, shade=render.normal_color))()
  np.testing.assert_allclose(normals.rgb, .5 * (normals.normal + o), atol=1e-5)


def test_what_finds_no_room_is_told(lumpy):
  screen = rasterizer.project(lumpy.vertices, CAMERA, 32)
  count = lambda layers, rows=8192: rasterizer.visible(screen, lumpy.faces, lumpy.valid, size=32,
                                                       layers=layers, rows=rows)
  whole, cut = count(8), count(8, 256)
  assert int(whole[2]) == 0 < int(cut[2])
  assert (np.asarray(cut[0]) >= 0).sum() <= (np.asarray(whole[0]) >= 0).sum()
  close = rasterizer.project(lumpy.vertices, cameras.orbital(.3, .4, 1.6, .7), 32)
  deep = lambda layers: int(rasterizer.visible(close, lumpy.faces, lumpy.valid, size=32,
                                               layers=layers, rows=8192)[2])
  assert deep(8) == 0 < deep(1)
  blend = lambda capacity: antialiasing.antialias(
    jnp.ones((32, 32, 1)), whole[1], screen, lumpy, slack=jnp.float32(.3), capacity=capacity)[1]
  assert int(blend(2048)) == 0 < int(blend(32))


def test_lists_hold_as_many_items_of_each_as_asked():
  count = jnp.array([0, 3, 0, 1, 2, 0])
  owner, place, there, dropped = rasterizer.expand(count, 8)
  want = [(1, 0), (1, 1), (1, 2), (3, 0), (4, 0), (4, 1)]
  assert list(zip(owner[there].tolist(), place[there].tolist())) == want and int(dropped) == 0
  owner, place, there, dropped = rasterizer.expand(count, 4)
  assert list(zip(owner[there].tolist(), place[there].tolist())) == want[:4] and int(dropped) == 2


def test_faces_behind_the_camera_degenerate_ones_and_none_are_not_seen_and_have_no_gradient():
  here = np.asarray(CAMERA.world_from_camera)[:3, 3]
  vertices = np.concatenate([np.array([[1.2, .3, 0.], [1.2, -.3, .2], [1.2, 0., .4]]) * here[None],
                             np.zeros((3, 3)), [[-.1, 0., 0.], [.1, 0., 0.], [0., 0., 0.]]])
  mesh = topology.of_arrays(vertices, np.arange(9).reshape(3, 3))
  def total(vertices):
    seen = draw(mesh._replace(vertices=vertices), CAMERA, size=8)
    return sum(jnp.sum(v) for v in seen)
  assert float(draw(mesh, CAMERA, size=8).opacity.max()) == 0.
  chex.assert_tree_all_finite(jax.value_and_grad(total)(mesh.vertices))
