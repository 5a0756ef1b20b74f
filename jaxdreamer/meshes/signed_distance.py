"""The signed distance of a closed mesh at the nodes of a grid, in NumPy: negative inside.

Inside is where the mesh winds about a point, whichever way its faces turn: parts may overlap, one
within another that turns the other way is a hole. How far, is asked of the triangles near the
nearest of many points on the mesh.
"""
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

SAMPLES = 50_000                 # points on the mesh, beside one on each triangle
NEAREST = 4                      # of these, whose triangles are measured
ASIDE = 1e-5                     # cells that rays pass beside the nodes, and so beside most edges
Faces = Int[np.ndarray, 'F 3']
Vertices = Float[np.ndarray, 'N 3']


def open_edges(faces: Faces) -> int:
  """Edges that not as many faces pass one way as the other: none, where a mesh is closed and its
  faces turn alike."""
  a, b = faces.reshape(-1), np.roll(faces, -1, 1).reshape(-1)
  edge = np.minimum(a, b) * (faces.max() + 1) + np.maximum(a, b)
  _, index = np.unique(edge, return_inverse=True)
  return int(np.count_nonzero(np.bincount(index, weights=np.sign(b - a))))


def area(corners: Float[np.ndarray, 'F 3 3']) -> Float[np.ndarray, 'F']:
  """The area of each triangle."""
  first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]
  return .5 * np.sqrt(np.sum(np.cross(first, second) ** 2, 1))


def grid(vertices: Vertices, faces: Faces, *, n: int,
         extent: float) -> Float[np.ndarray, 'n n n']:
  """The signed distance of a closed mesh at n^3 nodes over [-extent, extent]^3, ends in."""
  corners = vertices[faces].astype(float)
  axis = np.linspace(-extent, extent, n)
  xyz = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1)
  away = distance(corners)
  far = np.stack([away(slab.reshape(-1, 3)).reshape(n, n) for slab in xyz])
  return np.where(inside(corners, n=n, extent=extent), -far, far)


def distance(corners: Float[np.ndarray, 'F 3 3']):
  """The function of points [P, 3] that is their distance [P] from the nearest triangle."""
  from trimesh.triangles import closest_point
  areas = area(corners)
  rng = np.random.default_rng(0)
  face = rng.choice(len(corners), SAMPLES, p=areas / areas.sum())
  weight = rng.dirichlet(np.ones(3), SAMPLES)    # uniform on a triangle
  tree = KDTree(np.concatenate([np.einsum('sk,skd->sd', weight, corners[face]), corners.mean(1)]))
  owner = np.concatenate([face, np.arange(len(corners))])

  def of(xyz):
    near = owner[tree.query(xyz, NEAREST)[1]]
    points = np.repeat(xyz, NEAREST, 0)
    closest = closest_point(corners[near.reshape(-1)], points)
    return np.linalg.norm(closest - points, axis=1).reshape(-1, NEAREST).min(1)
  return of


def inside(corners: Float[np.ndarray, 'F 3 3'], *, n: int,
           extent: float) -> Bool[np.ndarray, 'n n n']:
  """Whether the mesh winds about a node: whether a ray from there along +z leaves it more often
  than it enters, or less."""
  cell = 2. * extent / (n - 1)
  # in cells from the first node; no ray meets an edge
  place = (corners + extent) / cell + ASIDE * np.array([np.sqrt(2.), np.sqrt(3.), 0.])
  flat, height = place[..., :2], place[..., 2]
  low = np.clip(np.ceil(flat.min(1)), 0, n).astype(int)
  wide = np.clip(np.floor(flat.max(1)) + 1, 0, n).astype(int) - low
  count = np.maximum(wide, 0).prod(1)            # rays that may meet a triangle
  of = np.repeat(np.arange(len(corners)), count)
  rank = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
  ray = low[of] + np.stack([rank // wide[of, 1], rank % wide[of, 1]], 1)

  cross = lambda u, v: u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
  toward = flat[of] - ray[:, None]
  # twice the areas that a ray makes with each edge: barycentric weights of the opposite corners
  parts = np.stack([cross(toward[:, (k + 1) % 3], toward[:, (k + 2) % 3]) for k in range(3)], 1)
  whole = parts.sum(1)
  hit = (np.abs(np.sign(parts).sum(1)) == 3) & (whole != 0.)
  z = np.sum(parts[hit] * height[of[hit]], 1) / whole[hit]
  leaves = np.zeros((n, n, n + 1))
  np.add.at(leaves, (*ray[hit].T, np.clip(np.ceil(z), 0, n).astype(int)), np.sign(whole[hit]))
  above = np.cumsum(leaves[..., ::-1], -1)[..., ::-1]        # of all crossings at k or more
  return above[..., 1:] != 0.
