"""Textures: what a function is on a surface, read at each texel of its atlas.

Images are [size, size, C] in [0, 1], row 0 at v = 1, see unwrap.py. A normal map holds
(n + 1) / 2 of the unit normals n in the tangent frame of glTF 2.0: along u, along v, along the
vertices' own normals; it shows what the triangles no longer tell.
"""
from typing import Callable, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import KDTree

from jaxdreamer.outputs.raster import cover
from jaxdreamer.outputs.surface import Mesh, Points, Texture, normals_of
from jaxdreamer.outputs.unwrap import Atlas

TOGETHER = 2 ** 18               # texels that are worked on at once
NEIGHBORS = 8
Image = Float[np.ndarray, 'size size C']
Many = Float[np.ndarray, 'T 3']


class Texels(NamedTuple):
  """Those whose centers a face covers, each with one face."""
  row: Int[np.ndarray, 'T']
  column: Int[np.ndarray, 'T']
  face: Int[np.ndarray, 'T']
  place: Float[np.ndarray, 'T 3']      # barycentric


def unit(vectors: Float[np.ndarray, '*b 3']) -> Float[np.ndarray, '*b 3']:
  """Of length 1; what has none stays 0."""
  return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def texels_of(atlas: Atlas, *, size: int) -> Texels:
  """The texels that the charts cover."""
  x, y = size * atlas.uv[atlas.faces, 0] - .5, size * (1. - atlas.uv[atlas.faces, 1]) - .5
  found, first = [], 0
  for faces in np.array_split(np.arange(len(x)), -(-size ** 2 // TOGETHER)):
    face, *rest = cover(x[faces], y[faces], size=size)
    found.append((face + first, *rest))
    first += len(faces)
  face, row, column, place = map(np.concatenate, zip(*found))
  owner = np.full((size, size), -1)
  owner[row, column] = np.arange(len(face))      # a center on an edge belongs to one of both
  kept = owner[owner >= 0]
  return Texels(row[kept], column[kept], face[kept], place[kept])


def between(values: Float[np.ndarray, 'N C'], faces: Int[np.ndarray, 'T 3'],
            place: Float[np.ndarray, 'T 3']) -> Float[np.ndarray, 'T C']:
  """Values of vertices, interpolated on their faces."""
  return np.einsum('tk,tkc->tc', place, values[faces])


def spread(texels: Texels, values: Float[np.ndarray, 'T C'], *, size: int) -> Image:
  """The image of the texels' values; each other texel takes the value of the nearest, so that
  neither a seam nor a smaller copy of the image shows what lies beyond the charts."""
  empty = np.ones((size, size), bool)
  empty[texels.row, texels.column] = False
  image = np.zeros((size, size, values.shape[1]))
  image[texels.row, texels.column] = values
  row, column = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
  return image[row, column]


def sample(image: Image, uv: Float[np.ndarray, 'T 2']) -> Float[np.ndarray, 'T C']:
  """The image at each uv, linear between the centers of texels, as it is drawn."""
  size = len(image)
  place = np.clip(np.stack([(1. - uv[:, 1]) * size - .5, uv[:, 0] * size - .5]), 0., size - 1.)
  low = np.minimum(place.astype(int), size - 2)
  (i, j), (a, b) = low, (place - low)[..., None]
  return ((1. - a) * ((1. - b) * image[i, j] + b * image[i, j + 1])
          + a * ((1. - b) * image[i + 1, j] + b * image[i + 1, j + 1]))


def normals_near(points: Many, facing: Many, tree: KDTree, normals: Points, *,
                 width: float) -> Many:
  """The unit normals of a surface at `points`, which lie close to it and look along `facing`: the
  Gaussian mean, of `width`, of the nearest vertices' normals, without those of another side.
  `tree` holds these vertices."""
  distance, nearest = tree.query(points, np.arange(1, 1 + min(NEIGHBORS, tree.n)), workers=-1)
  weight = np.exp(.5 * (distance[:, :1] ** 2 - distance ** 2) / width ** 2)
  weight *= np.einsum('tkc,tc->tk', normals[nearest], facing) > 0.
  mean = np.einsum('tk,tkc->tc', weight, normals[nearest])
  return unit(np.where(weight.any(1, keepdims=True), mean, facing))


def tangents(vertices: Points, normals: Points, atlas: Atlas) -> Float[np.ndarray, 'N 4']:
  """Unit tangents along growing u, square to the normals, and in w the sign of the bitangent along
  growing v: cross(normal, tangent) * w. `vertices` and `normals` are those of the atlas."""
  (a, b), (c, d) = ((values[atlas.faces[:, 1:]] - values[atlas.faces[:, :1]]).transpose(1, 0, 2)
                    for values in (vertices, atlas.uv))
  turn = np.sign(c[:, :1] * d[:, 1:] - c[:, 1:] * d[:, :1])    # -1 where the chart is mirrored
  along_u, along_v = np.zeros_like(vertices), np.zeros_like(vertices)
  for corner in atlas.faces.T:
    np.add.at(along_u, corner, turn * (a * d[:, 1:] - b * c[:, 1:]))
    np.add.at(along_v, corner, turn * (b * c[:, :1] - a * d[:, :1]))
  across = along_u - normals * np.sum(normals * along_u, -1, keepdims=True)
  other = np.cross(normals, np.eye(3)[np.argmin(np.abs(normals), -1)])
  tangent = unit(np.where(np.linalg.norm(across, axis=-1, keepdims=True) > 1e-12, across, other))
  side = np.sum(np.cross(normals, tangent) * along_v, -1, keepdims=True)
  return np.concatenate([tangent, np.where(side < 0., -1., 1.)], -1)


def to_frame(normal: Many, tangent: Float[np.ndarray, 'T 4'], true: Many) -> Many:
  """The pixels of a normal map that shows the normals `true` where these interpolated normals and
  tangents are, which need not be square to each other; it holds none that look away."""
  normal, along = unit(normal), unit(tangent[:, :3])
  across = np.cross(normal, along) * np.where(tangent[:, 3:] < 0., -1., 1.)
  dot = lambda a, b: np.sum(a * b, -1)
  lean = dot(normal, along)
  inside = unit(np.stack([dot(true, along) - lean * dot(true, normal), dot(true, across),
                          dot(true, normal) - lean * dot(true, along)], -1))
  inside[:, 2] = np.maximum(inside[:, 2], .01)
  return .5 + .5 * unit(inside)


def texture(coarse: Mesh, dense: Mesh, atlas: Atlas, paint: Callable, *, size: int,
            width: float) -> Mesh:
  """`coarse`, which `atlas` cuts, with the looks of `dense`, which it is near: what
  paint(points [T, 3], inward [T, 3]) gives for a look along each inward normal, and a normal map.
  The dense vertices' normals are blurred by `width`."""
  tree, normals = KDTree(dense.vertices), normals_of(dense)
  own = normals_near(coarse.vertices, normals_of(coarse), tree, normals, width=width)[atlas.origin]
  vertices = coarse.vertices[atlas.origin]
  tangent = tangents(vertices, own, atlas)
  texels = texels_of(atlas, size=size)
  colors, bumps = [], []
  for part in np.array_split(np.arange(len(texels.face)), len(texels.face) // TOGETHER + 1):
    faces, place = atlas.faces[texels.face[part]], texels.place[part]
    at, facing, along = (between(values, faces, place) for values in (vertices, own, tangent))
    true = normals_near(at, unit(facing), tree, normals, width=width)
    colors.append(paint(at, -true))
    bumps.append(to_frame(facing, along, true))
  values = np.concatenate([np.concatenate(colors), np.concatenate(bumps)], 1)
  color, bump = np.split(spread(texels, values, size=size), 2, -1)
  return Mesh(vertices, atlas.faces, coarse.colors[atlas.origin],
              Texture(atlas.uv, own, tangent, color, bump))
