"""Density or distance -> the triangles of one of its level sets, and what lies on them.

Grids are [R, R, R] over [-radius, radius]^3, axes x, y, z, and larger inside: log densities, in
which soft edges are straight between nodes, or signed distances with their sign turned, which are
so at sharp ones too. A level is a number of the grid's kind. Outside the ball of `radius` there is
air, as in the renderer: the least value. `density` and `distance` map xyz [N, 3] to [N] and `color`
to [N, 3] in [0, 1], weights bound. Vertices are in the world (z up, front +x); faces turn
counter-clockwise seen from outside.
"""
from typing import Callable, NamedTuple

import fast_simplification
import numpy as np
import trimesh
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

from jaxdreamer.objects import Object

AIR = .02  # density below which even a ray of length 2 stays clear: 1 - exp(-.04)
FAR = 4                          # cells from a surface that levels are looked for in
CHUNK = 2 ** 16                  # points evaluated together
# of simplification: high ones come to few faces, low ones leave surfaces closed
PRESSURES = range(3, 10)
Grid = Float[np.ndarray, 'R R R']
Points = Float[np.ndarray, 'N 3']


class Texture(NamedTuple):
  """Images of a surface and what places them on it, by vertex; unwrap.py and bake.py tell more.
  A mesh of the user's own has no bump and no tangents, and normals where its file has them."""
  uv: Float[np.ndarray, 'N 2']         # in [0, 1], v upward
  normals: Points | None               # unit
  # unit, along u; the sign of the bitangent, along v
  tangents: Float[np.ndarray, 'N 4'] | None
  color: Float[np.ndarray, 'S S 3']    # sRGB in [0, 1]
  bump: Float[np.ndarray, 'S S 3'] | None        # (n + 1) / 2 in the tangent frame


class Mesh(NamedTuple):
  vertices: Points
  faces: Int[np.ndarray, 'F 3']
  colors: Float[np.ndarray, 'N 3']    # sRGB in [0, 1]
  texture: Texture | None = None


class Empty(ValueError):
  """Nothing reaches any threshold: there is no surface."""


def evaluate(function: Callable, xyz: Points) -> np.ndarray:
  """function(xyz [N, 3]), in chunks of one shape so that it compiles once."""
  out = []
  for i in range(0, len(xyz), CHUNK):
    part = xyz[i:i + CHUNK].astype(np.float32)
    out.append(np.asarray(function(np.pad(part, ((0, CHUNK - len(part)), (0, 0)))))[:len(part)])
  return np.concatenate(out).astype(float)


def nodes(radius: float, resolution: int) -> Float[np.ndarray, 'R R R 3']:
  """The points of a cubic grid over [-radius, radius]^3, both ends in."""
  axis = np.linspace(-radius, radius, resolution)
  return np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1)


def grid_of(object: Object, resolution: int) -> Grid:
  """What the mesh of an object is a level set of, at `resolution` nodes a side: its distance where
  it has one, else its density."""
  sample, of = ((depth_inside, object.distance) if object.distance
                else (log_density, object.density))
  return sample(of, radius=object.radius, resolution=resolution)


def log_density(density: Callable, *, radius: float, resolution: int) -> Grid:
  """log max(density, AIR) at the nodes in the ball."""
  return sampled(lambda xyz: np.log(np.maximum(evaluate(density, xyz), AIR)), np.log(AIR),
                 radius=radius, resolution=resolution)


def depth_inside(distance: Callable, *, radius: float, resolution: int) -> Grid:
  """Minus the signed distance at the nodes in the ball; air is all that lies more than FAR cells
  outside."""
  air = -FAR * 2. * radius / (resolution - 1)
  return sampled(lambda xyz: np.maximum(-evaluate(distance, xyz), air), air, radius=radius,
                 resolution=resolution)


def sampled(function: Callable, air: float, *, radius: float, resolution: int) -> Grid:
  """function(xyz [N, 3]) -> [N] at the nodes in the ball, `air` at the others."""
  xyz = nodes(radius, resolution)
  inside = np.sum(xyz ** 2, -1) <= radius ** 2
  values = function(xyz[inside])
  if not np.isfinite(values).all():
    raise ValueError(f'the scene is not finite at {np.mean(~np.isfinite(values)):.2%} of the '
                     'points of the mesh grid')
  grid = np.full(inside.shape, air)
  grid[inside] = values
  return grid


def fill_cavities(grid: Grid, level: float) -> Grid:
  """The grid with air that no path joins to the outside made solid: nobody can see it, and it would
  get a surface."""
  solid = grid >= level
  return np.where(ndimage.binary_fill_holes(solid) & ~solid, grid.max(), grid)


def isosurface(grid: Grid, level: float, *, radius: float) -> trimesh.Trimesh:
  """{grid = level}, closed also where it meets the border."""
  return triangles(fill_cavities(grid, level), level, radius=radius, beyond=grid.min())


def triangles(grid: Grid, level: float, *, radius: float, beyond: float) -> trimesh.Trimesh:
  """{grid = level} of a grid around which all is `beyond`."""
  padded = np.pad(grid, 1, constant_values=beyond)
  try:
    vertices, faces, _, _ = marching_cubes(padded, level, gradient_direction='ascent',
                                           allow_degenerate=False)
  except (ValueError, RuntimeError) as error:  # level out of range, or no surface at it
    raise Empty(f'no mesh: no surface at level {level:.3g}') from error
  vertices = (vertices.astype(float) - 1.) * (2. * radius / (len(grid) - 1)) - radius
  return trimesh.Trimesh(vertices, faces, process=False)


def drop_floaters(whole: trimesh.Trimesh, *, fraction: float = .01) -> trimesh.Trimesh:
  """Without the connected parts that have less than `fraction` of the faces, and without vertices
  that nothing uses."""
  part = trimesh.graph.connected_component_labels(whole.edges, node_count=len(whole.vertices))
  owner = part[whole.faces[:, 0]]
  return whole.submesh([np.bincount(owner)[owner] >= fraction * len(owner)], append=True)


def normals_of(mesh: Mesh) -> Points:
  """Unit normals of the vertices: the means over their faces, by angle."""
  return np.array(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals)


def is_closed(mesh: Mesh) -> bool:
  """Whether each edge belongs to two faces."""
  return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).is_watertight


def simplify(mesh: Mesh, faces: int) -> Mesh:
  """About so many faces by quadric edge collapse, closed where `mesh` is, if that can be had; a
  mesh that has no more, or 0, leaves it as it is. A vertex keeps the color of the nearest that
  was."""
  if not 0 < faces < len(mesh.faces):
    return mesh
  closed, tried = is_closed(mesh), []
  for pressure in PRESSURES:
    vertices, few = fast_simplification.simplify(mesh.vertices.astype(np.float32), mesh.faces,
                                                 target_count=faces, agg=pressure)
    vertices = vertices.astype(float)
    colors = mesh.colors[KDTree(mesh.vertices).query(vertices)[1]]
    tried.append(Mesh(vertices, few.astype(int), colors))
    if len(few) <= 1.02 * faces and is_closed(tried[-1]) >= closed:
      return tried[-1]
  return min(tried, key=lambda found: len(found.faces))


def paint(density: Callable, color: Callable, vertices: Points, inward: Points, *,
          cell: float) -> Points:
  """The color a ray sees that comes in along each normal: colors from one cell before to three
  behind, composited."""
  depth = np.arange(-1., 3.01, .5) * cell
  xyz = (vertices[:, None] + depth[:, None] * inward[:, None]).reshape(-1, 3)
  tau = np.maximum(evaluate(density, xyz), 1e-6).reshape(-1, depth.size) * .5 * cell
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
