"""UV maps: a mesh cut into charts that lie side by side in the unit square.

u grows to the right and v upward. Texel (i, j) of a texture of [size, size], row and column, has
its center at u = (j + .5) / size, v = 1 - (i + .5) / size. Charts keep texels between them, so that
what is interpolated on one takes nothing of another.
"""
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdreamer.outputs.surface import Points

try:
  import xatlas
except ImportError:              # no wheel for every Python: a cell a triangle then
  xatlas = None

PIECE = 2000                     # faces charted together: the time grows with their square
GAP = 4                          # texels between charts
CELL = 6                         # texels of the smallest cell in which a triangle shows anything
Faces = Int[np.ndarray, 'F 3']


class Atlas(NamedTuple):
  """A mesh whose vertices are doubled where its charts part."""
  origin: Int[np.ndarray, 'N']         # which vertex of the whole mesh each one is
  faces: Faces                         # in the order of the whole mesh
  uv: Float[np.ndarray, 'N 2']


def unwrap(vertices: Points, faces: Faces, *, size: int) -> Atlas:
  """Charts for a texture of [size, size]. ValueError: no faces, or a texture too small for them."""
  if not len(faces):
    raise ValueError('a mesh without faces has no texture')
  return by_cells(vertices, faces, size=size) if xatlas is None else by_charts(vertices, faces,
                                                                               size=size)


def pieces(places: Points, *, most: int) -> list[Int[np.ndarray, 'P']]:
  """Indices of the places, halved across their longest side until no part has more than `most`."""
  def halve(part):
    if len(part) <= most:
      return [part]
    longest = np.argmax(np.ptp(places[part], axis=0))
    part = part[np.argsort(places[part, longest], kind='stable')]
    return halve(part[:len(part) // 2]) + halve(part[len(part) // 2:])
  return halve(np.arange(len(places)))


def by_charts(vertices: Points, faces: Faces, *, size: int) -> Atlas:
  """Charts of little distortion, by xatlas, in pieces of the mesh."""
  atlas, parts = xatlas.Atlas(), pieces(vertices[faces].mean(1), most=PIECE)
  used, local = zip(*(np.unique(faces[part], return_inverse=True) for part in parts))
  for of_part, corners in zip(used, local):
    atlas.add_mesh(vertices[of_part].astype(np.float32), corners.reshape(-1, 3).astype(np.uint32))
  packing = xatlas.PackOptions()
  packing.resolution, packing.padding, packing.bilinear = size, GAP, True
  atlas.generate(xatlas.ChartOptions(), packing)
  of, found, uv = zip(*(atlas[k] for k in range(len(parts))))
  out, first = np.empty_like(faces), np.cumsum([0, *map(len, of)])
  for part, corners, start in zip(parts, found, first):
    out[part] = corners + start
  # the atlas is about as large as asked for, and not quite square
  shrunk = np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height)
  return Atlas(np.concatenate([a[b] for a, b in zip(used, of)]), out,
               np.concatenate(uv).astype(float) * shrunk)


def by_cells(vertices: Points, faces: Faces, *, size: int) -> Atlas:
  """Two triangles to a cell of a square grid, each with its longest side along the diagonal and its
  corners on centers of texels: between these no texel of another triangle has a weight."""
  columns = int(np.ceil(np.sqrt(-(-len(faces) // 2))))
  cell = size // columns
  if cell < CELL:
    raise ValueError(f'texture={size}: {len(faces)} faces take {CELL * columns} or more, a cell a '
                     'triangle; or fewer faces, or xatlas, which packs them closer')
  corner = vertices[faces]
  opposite = np.linalg.norm(np.roll(corner, -1, 1) - np.roll(corner, -2, 1), axis=-1)
  turn = (np.argmax(opposite, 1)[:, None] + np.arange(3)) % 3  # the corner at the right angle first
  near, far = .5, cell - 3.5           # a texel to the next cell, three between the two triangles
  legs = np.array([[near, near], [far, near], [near, far]])
  number = np.arange(len(faces))
  left = cell * np.stack([number // 2 % columns, number // 2 // columns], -1)[:, None]
  texels = left + np.where(number[:, None, None] % 2, cell - 1. - legs, legs)
  return Atlas(np.take_along_axis(faces, turn, 1).ravel(),
               np.argsort(turn, 1) + 3 * number[:, None], texels.reshape(-1, 2) / size)
