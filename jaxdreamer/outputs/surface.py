"""Density -> the triangles of {density = threshold}, and what lies on them.

Grids are [R, R, R] log densities over [-radius, radius]^3, axes x, y, z; outside the ball of
`radius` there is air, as in the renderer. Between nodes log density is linear, in which soft edges
are straight. `density` maps xyz [N, 3] to [N] and `color` to [N, 3] in [0, 1], weights bound.
Vertices are in the world (z up, front +x); faces turn counter-clockwise seen from outside.
"""
from typing import Callable, NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float, Int
from scipy import ndimage
from skimage.measure import marching_cubes

AIR = .02  # density below which even a ray of length 2 stays clear: 1 - exp(-.04)
CHUNK = 2 ** 16                  # points evaluated together
Grid = Float[np.ndarray, 'R R R']
Points = Float[np.ndarray, 'N 3']


class Mesh(NamedTuple):
  vertices: Points
  faces: Int[np.ndarray, 'F 3']
  colors: Float[np.ndarray, 'N 3']    # sRGB in [0, 1]


class Empty(ValueError):
  """Nothing reaches any threshold: there is no surface."""


def evaluate(function: Callable, xyz: Points) -> np.ndarray:
  """function(xyz [N, 3]), in chunks of one shape so that it compiles once."""
  out = []
  for i in range(0, len(xyz), CHUNK):
    part = xyz[i:i + CHUNK].astype(np.float32)
    out.append(np.asarray(function(np.pad(part, ((0, CHUNK - len(part)), (0, 0)))))[:len(part)])
  return np.concatenate(out)


def nodes(radius: float, resolution: int) -> Float[np.ndarray, 'R R R 3']:
  """The points of a cubic grid over [-radius, radius]^3, both ends in."""
  axis = np.linspace(-radius, radius, resolution)
  return np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1)


def log_density(density: Callable, *, radius: float, resolution: int) -> Grid:
  """log max(density, AIR) at the nodes in the ball."""
  xyz = nodes(radius, resolution)
  inside = np.sum(xyz ** 2, -1) <= radius ** 2
  values = evaluate(density, xyz[inside])
  if not np.isfinite(values).all():
    raise ValueError(f'the density is not finite at {np.mean(~np.isfinite(values)):.2%} of the '
                     'points of the mesh grid')
  grid = np.full(inside.shape, np.log(AIR))
  grid[inside] = np.log(np.maximum(values, AIR))
  return grid


def fill_cavities(grid: Grid, level: float) -> Grid:
  """The grid with air that no path joins to the outside made solid: nobody can see it, and it would
  get a surface."""
  solid = grid >= level
  return np.where(ndimage.binary_fill_holes(solid) & ~solid, grid.max(), grid)


def isosurface(grid: Grid, threshold: float, *, radius: float) -> trimesh.Trimesh:
  """{density = threshold}, closed also where it meets the border."""
  return triangles(fill_cavities(grid, np.log(threshold)), threshold, radius=radius,
                   beyond=grid.min())


def triangles(grid: Grid, threshold: float, *, radius: float, beyond: float) -> trimesh.Trimesh:
  """{density = threshold} of a grid around which the log density is `beyond`."""
  padded = np.pad(grid, 1, constant_values=beyond)
  try:
    vertices, faces, _, _ = marching_cubes(padded, np.log(threshold), gradient_direction='ascent',
                                           allow_degenerate=False)
  except (ValueError, RuntimeError) as error:  # level out of range, or no surface at it
    raise Empty(f'no mesh: no surface at density {threshold:.3g}') from error
  vertices = (vertices.astype(float) - 1.) * (2. * radius / (len(grid) - 1)) - radius
  return trimesh.Trimesh(vertices, faces, process=False)


def drop_floaters(whole: trimesh.Trimesh, *, fraction: float = .01) -> trimesh.Trimesh:
  """Without the connected parts that have less than `fraction` of the faces, and without vertices
  that nothing uses."""
  part = trimesh.graph.connected_component_labels(whole.edges, node_count=len(whole.vertices))
  owner = part[whole.faces[:, 0]]
  return whole.submesh([np.bincount(owner)[owner] >= fraction * len(owner)], append=True)


def paint(density: Callable, color: Callable, vertices: Points, inward: Points, *,
          cell: float) -> Points:
  """The color a ray sees that comes in along each normal: colors from one cell before to three
  behind, composited."""
  depth = np.arange(-1., 3.01, .5) * cell
  xyz = (vertices[:, None] + depth[:, None] * inward[:, None]).reshape(-1, 3)
  tau = np.maximum(evaluate(density, xyz), 1e-6).reshape(-1, depth.size).astype(float) * .5 * cell
  trans = np.exp(-np.cumsum(tau, 1) + tau)
  weights = trans * -np.expm1(-tau)
  seen = np.sum(weights[..., None] * evaluate(color, xyz).reshape(-1, depth.size, 3), 1)
  return np.clip(seen / weights.sum(1, keepdims=True), 0., 1.)


def sample_points(mesh: Mesh, count: int, *, seed: int = 0) -> tuple[Points, Points]:
  """`count` points spread evenly over the surface, and their colors: stratified over the faces, so
  that fewer lie close together than of independent draws."""
  random = np.random.default_rng(seed)
  area = trimesh.triangles.area(mesh.vertices[mesh.faces])
  places = (np.arange(count) + random.random(count)) / count
  face = np.minimum(np.searchsorted(np.cumsum(area) / area.sum(), places), len(area) - 1)
  u, v = random.random((2, count))
  root = np.sqrt(u)
  weights = np.stack([1. - root, root * (1. - v), root * v], -1)[..., None]
  return tuple(np.sum(weights * values[mesh.faces[face]], 1)
               for values in (mesh.vertices, mesh.colors))
