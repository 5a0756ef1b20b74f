"""A mesh of the user's own, taken away again: its vertices, faces, normals and UVs as they were,
with the colors that were learned."""
import warnings

import numpy as np
import trimesh
from jaxtyping import Float

from jaxdreamer.meshes import files, rasterizer
from jaxdreamer.objects import Object
from jaxdreamer.outputs import bake, raster, surface, unwrap
from jaxdreamer.outputs.surface import Mesh, Points, Texture

LOST = .01  # of the surface may have no area in the UV map, or share its texels with other parts


def painted(object: Object) -> tuple[Mesh, dict]:
  """The mesh as the scene has it, in the vertices of its file, and what mesh.extract says of it."""
  file = object.given.file
  vertices = object.given.placed(file.vertices)
  whole = trimesh.Trimesh(*files.weld(file), process=False)
  return (Mesh(vertices, file.faces, color_at(object, vertices)),
          {'vertices': len(vertices), 'faces': len(file.faces),
           'watertight': whole.is_watertight, 'level': 0.})


def color_at(object: Object, xyz: Points) -> Points:
  """Of points of its surface."""
  return np.clip(surface.evaluate(object.color, xyz), 0., 1.)


def asset(object: Object, mesh: Mesh, *, texture: int) -> tuple[Mesh, tuple[Mesh, Mesh], dict]:
  """`mesh`, which `painted` made, with its colors in an image of [texture, texture] by the UVs of
  its file, or by new ones, with a warning, where they do not tell each place apart; `mesh` and it
  again, at the size and place of the file; and what was done."""
  file = object.given.file
  at_home = mesh._replace(vertices=file.vertices)
  if not texture:
    return mesh, (at_home, at_home), {}
  why = fault(file, size=texture)
  if why:
    warnings.warn(f'the UVs of config.scene.mesh.path are not kept, for {why}: it is unwrapped '
                  'anew', stacklevel=2)
    atlas = unwrap.unwrap(file.vertices, file.faces, size=texture)
  else:
    atlas = unwrap.Atlas(np.arange(len(file.vertices)), file.faces, file.uv)
  vertices = mesh.vertices[atlas.origin]
  texels = bake.texels_of(atlas, size=texture)
  at = bake.between(vertices, atlas.faces[texels.face], texels.place)
  image = bake.spread(texels, color_at(object, at), size=texture)
  normals = None if file.normals is None else file.normals[atlas.origin]
  small = Mesh(vertices, atlas.faces, mesh.colors[atlas.origin],
               Texture(atlas.uv, normals, None, image, None))
  return (small, (at_home, small._replace(vertices=file.vertices[atlas.origin])),
          {'uv': f'new, for {why}' if why else 'kept'})


def fault(file: files.MeshFile, *, size: int) -> str:
  """Why the UVs of a file cannot place a texture of [size, size] on it; '' where they can."""
  if file.uv is None:
    return 'there are none'
  if not np.isfinite(file.uv).all() or file.uv.min() < -1e-6 or file.uv.max() > 1. + 1e-6:
    return 'some lie outside of the square from 0 to 1'
  area = trimesh.triangles.area(file.vertices[file.faces])
  if (flat := area[rasterizer.flat_area(file.uv[file.faces]) < 1e-12].sum() / area.sum()) > LOST:
    return f'{flat:.0%} of the surface has no area in them'
  if (shared := overlap(file.uv[file.faces], size=size)) > LOST:
    return f'{shared:.0%} of its texels belong to more than one place'
  return ''


def overlap(corner: Float[np.ndarray, 'F 3 2'], *, size: int) -> float:
  """The share of the texels in use that lie within more than one face, their edges left out."""
  count = np.zeros((size, size), int)
  for some in np.array_split(corner, -(-size ** 2 // bake.TOGETHER)):
    x, y = size * some[..., 0] - .5, size * (1. - some[..., 1]) - .5
    _, row, column, weights = raster.cover(x, y, size=size)
    within = weights.min(1) > 1e-6
    np.add.at(count, (row[within], column[within]), 1)
  return float((count > 1).sum() / max((count > 0).sum(), 1))
