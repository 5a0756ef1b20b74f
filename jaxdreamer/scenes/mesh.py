"""A mesh of the user's own, which keeps its shape and gets a color: a color field, read where the
surface is, and drawn as dmtet's. Nothing but this field is learned."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxdreamer.meshes import drawing, files, rasterizer, solids, topology
from jaxdreamer.scenes import volsdf, voxels
from jaxdreamer.scenes.dmtet import SHARPNESS, TEXTURES
from jaxdreamer.types import Scene

OPTION = 'config.scene.mesh.path'
FACES = 1_000_000
# of faces over one another, and along a line: what a picture takes grows with them
LAYERS, LINES = 64, 20_000
RESOLUTION = 64                        # nodes a side of the grid of its distance


def mesh(*, path: str = '', scale: float = .8, texture: str | Scene = 'voxels') -> Scene:
  """The mesh in a file, gray at first. Open borders, and edges of many faces, may be; a face is
  seen from both sides, and has one color.

  Args:
    path: a mesh file: .glb, .gltf, .obj, .ply, .stl or .off.
    scale: radius of the ball around the origin that it is moved to and fills; 0 leaves it as it is.
    texture: 'voxels', 'hashgrid' or 'mlp', with the options of that scene, whose color it has.
  """
  given, still, room = prepared(files.read(path, option=OPTION), path, scale)
  paint = TEXTURES[texture]() if isinstance(texture, str) else texture

  def init(key: Key[Array, '']):
    return {'texture': paint.init(key)}

  def prepare(params, y):
    # else a compiler works out beforehand, slowly, what depends on the mesh alone
    held = jax.lax.optimization_barrier(still)
    return {'still': held, 'texture': paint.prepare(params['texture'], y)}

  def focus(code, step):
    return code | {'texture': paint.focus(code['texture'], step)}

  def color(code, xyz):
    return paint.field(code['texture'], xyz)[1]

  def distance(code, xyz):
    return voxels.trilinear(code['still'][1], xyz)[0]

  def field(code, xyz):
    return volsdf.density(distance(code, xyz), sharpness=SHARPNESS), color(code, xyz)

  def render(code, camera, *, size, background, shade):
    return drawing.image(code['still'][0], lambda xyz: color(code, xyz)[:3], camera, size=size,
                         background=background, shade=shade, **room)

  return Scene(init, prepare, field, focus, distance, render, lambda code: code['still'][0],
               given=given)


@functools.lru_cache(maxsize=2)
def prepared(file: files.MeshFile, path: str, scale: float) -> tuple[
    files.Given, tuple[topology.Mesh, Array], dict[str, int]]:
  """The mesh where the scene has it; itself and the grid of its distance; what there is to be
  room for in a picture. ValueError for one that cannot be drawn."""
  vertices, faces = files.weld(file)
  center, reach = files.ball(vertices)
  given = files.Given(file, center if scale else 0. * center, scale / reach if scale else 1.)
  vertices = given.placed(vertices)
  if len(faces) > FACES:
    raise ValueError(f'{OPTION}={path!r}: {len(faces):,} faces, and at most {FACES:,} are drawn: '
                     'simplify it')
  if (far := np.linalg.norm(vertices, axis=1).max()) > 1.:
    raise ValueError(f'config.scene.mesh.scale={scale}: the mesh in {path!r} reaches {far:.3g} '
                     'from the origin, and cameras look at a ball of 1: give a scale up to 1')
  deep, many = rasterizer.crowd(vertices, faces)
  if 2. * deep > LAYERS or 2. * many > LINES:
    raise ValueError(f'{OPTION}={path!r}: {deep:.0f} faces lie over one another and {many:.0f} '
                     f'side by side, and at most {LAYERS // 2} and {LINES // 2} are drawn: take '
                     'away what is hidden, and simplify it')
  grid = solids.signed_distance(vertices, faces, resolution=RESOLUTION)
  still = (topology.of_arrays(vertices, faces),
           voxels.pair_rows(jnp.asarray(grid, jnp.float32)[..., None]))
  return given, still, {
    'layers': max(drawing.LAYERS, round(2. * deep)), 'lines': round(2. * many)}
