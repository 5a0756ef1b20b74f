"""What a surface of triangles encloses, on a grid; on the host, once."""
import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import KDTree

from jaxdreamer.meshes.signed_distance import area as areas

DENSE = 4                              # points of the surface, a cell's width
MOST = 400_000


def signed_distance(vertices: Float[np.ndarray, 'N 3'], faces: Int[np.ndarray, 'F 3'], *,
                    resolution: int, extent: float = 1.) -> Float[np.ndarray, 'n n n']:
  """The distance to the surface at the nodes of a grid over [-extent, extent]^3, negative inside.

  Inside is what no path of nodes joins to the border, and next to the surface what lies behind its
  nearest face: so an open surface has a thin inside along it, and none that is large. More than a
  cell away it is true to half a cell."""
  axis = np.linspace(-extent, extent, resolution)
  nodes = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1)
  cell = axis[1] - axis[0]
  area = areas(vertices[faces])
  count = int(np.clip(area.sum() * (DENSE / cell) ** 2, 1000, MOST))
  # the middle of each face, and points spread evenly by area
  random = np.random.default_rng(0)
  face = np.concatenate([np.arange(len(faces)), np.minimum(np.searchsorted(
    np.cumsum(area), (np.arange(count) + .5) / count * area.sum()), len(faces) - 1)])
  weights = random.dirichlet(np.ones(3), len(face))
  weights[:len(faces)] = 1. / 3.
  points = np.einsum('pk,pkc->pc', weights, vertices[faces[face]])
  corner = vertices[faces]
  normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
  normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
  away, nearest = KDTree(points).query(nodes, distance_upper_bound=cell, workers=-1)
  shell = away < cell
  far = cell * ndimage.distance_transform_edt(~shell) + .5 * cell
  near = np.minimum(nearest, len(points) - 1)
  height = np.einsum('xyzc,xyzc->xyz', nodes - points[near], normals[face[near]])
  enclosed = ndimage.binary_fill_holes(shell)
  return np.where(shell, height, np.where(enclosed, -far, far))
