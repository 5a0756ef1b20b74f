"""Density -> colored triangle mesh -> GLB, OBJ, PLY.

The surface is {density = threshold}, and the threshold is the one whose silhouettes agree best with
the rendered opacity: seen along a ray, {density >= threshold} is solid exactly if the largest
density on that ray reaches it, so one projection of maxima gives the silhouettes of *all*
thresholds. All interpolation is of log density, in which soft edges are straight.

Grids are [R, R, R] log densities over [-radius, radius]^3, axes x, y, z; outside the ball of
`radius` there is air, as in the renderer. `density` maps xyz [N, 3] to [N] and `color` to [N, 3] in
[0, 1], weights bound. Cameras are those of cameras.py, in NumPy. Vertices are in the world (z up,
front +x); faces turn counter-clockwise seen from outside.
GLB and OBJ are written y up, front +z, as glTF demands and readers of OBJ assume; PLY stays in the
world's frame.
Colors are sRGB, but linear in the GLB, again as glTF demands.
"""
import json
import pathlib
from typing import Callable, NamedTuple

import jax
import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from jaxdreamer import cameras
from jaxdreamer.objects import Object
from jaxdreamer.outputs import video
from jaxdreamer.types import Camera

AIR = .02  # density below which even a ray of length 2 stays clear: 1 - exp(-.04)
THRESHOLDS = 96                  # rungs of the ladder from AIR to the largest density
CHUNK = 2 ** 16                  # points evaluated together
FORMATS = ('glb', 'obj', 'ply')
Y_UP = np.array([[0., 1., 0.], [0., 0., 1.], [1., 0., 0.]])  # rows: glTF's x, y, z are our y, z, x
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


def iou(a: Bool[np.ndarray, '...'], b: Bool[np.ndarray, '...']) -> float:
  """|a and b| / |a or b|; two empty sets agree."""
  union = np.sum(a | b)
  return float(np.sum(a & b) / union) if union else 1.


def solid(opacity: Float[np.ndarray, 'V H W']) -> Bool[np.ndarray, 'V H W']:
  """What counts as object in a render: at least half of the largest opacity, so that thin fog has a
  shape too."""
  peak = float(opacity.max())
  if not peak > .05:
    raise Empty(f'no mesh: the scene is empty, its largest rendered opacity is {peak:.3f}')
  return opacity >= .5 * peak


_rays = jax.jit(cameras.rays, static_argnums=1)


def largest_on_rays(grid: Grid, camera: Camera, *, radius: float,
                    size: int) -> Float[np.ndarray, 'size size']:
  """The largest log density on the ray of each pixel of one camera: a sample each half cell, inside
  the ball."""
  rays = jax.device_get(_rays(camera, size))
  origin, direction = rays.origin.astype(float), rays.direction.astype(float)
  middle = -np.sum(origin * direction, -1)
  half = np.sqrt(np.maximum(radius ** 2 + middle ** 2 - np.sum(origin ** 2, -1), 0.))
  cells = len(grid) - 1
  along = np.linspace(-1., 1., 2 * cells + 1)
  seen = np.full((size, size), grid.min())
  for row in range(size):                                      # a row at a time bounds the memory
    distance = middle[row, :, None] + half[row, :, None] * along
    xyz = origin[row, :, None] + distance[..., None] * direction[row, :, None]
    place = np.moveaxis((xyz / radius + 1.) * cells / 2., -1, 0)
    values = ndimage.map_coordinates(grid, place, order=1, mode='nearest')
    seen[row] = np.where(half[row] > 0., values.max(-1), grid.min())
  return seen


def match_threshold(grid: Grid, camera: Camera, target: Bool[np.ndarray, 'V size size'], *,
                    radius: float) -> tuple[float, float]:
  """The density whose silhouettes in the [V] cameras agree best with `target`, and their mean
  IoU."""
  seen = [largest_on_rays(grid, one, radius=radius, size=target.shape[-1])
          for one in video.unbatch(camera)]
  top = grid.max()
  if top <= np.log(AIR):
    raise Empty(f'no mesh: the density is below {AIR} everywhere')
  ladder = np.linspace(np.log(AIR), top, THRESHOLDS + 2)[1:-1]
  scores = [np.mean([iou(s >= level, t) for s, t in zip(seen, target)]) for level in ladder]
  best = int(np.argmax(scores))
  if not scores[best]:
    raise Empty('no mesh: no threshold makes a silhouette that meets the rendered one')
  return float(np.exp(ladder[best])), float(scores[best])


def fill_cavities(grid: Grid, level: float) -> Grid:
  """The grid with air that no path joins to the outside made solid: nobody can see it, and it would
  get a surface."""
  air, _ = ndimage.label(np.pad(grid < level, 1, constant_values=True))
  cavity = (air != air[0, 0, 0]) & (air > 0)
  return np.where(cavity[1:-1, 1:-1, 1:-1], grid.max(), grid)


def surface(grid: Grid, threshold: float, *, radius: float) -> tuple[Points,
                                                                     Int[np.ndarray, 'F 3']]:
  """Vertices and faces of {density = threshold}, closed also where it meets the border."""
  level = np.log(threshold)
  padded = np.pad(fill_cavities(grid, level), 1, constant_values=grid.min())
  try:
    vertices, faces, _, _ = marching_cubes(padded, level, gradient_direction='ascent',
                                           allow_degenerate=False)
  except (ValueError, RuntimeError) as error:  # level out of range, or no surface at it
    raise Empty(f'no mesh: no surface at density {threshold:.3g}') from error
  return (vertices.astype(float) - 1.) * (2. * radius / (len(grid) - 1)) - radius, faces.astype(
      np.int64)


def drop_floaters(vertices: Points, faces: Int[np.ndarray, 'F 3'], *, share: float = .01
                  ) -> tuple[Float[np.ndarray, 'M 3'], Int[np.ndarray, 'G 3']]:
  """Without the connected parts that have less than `share` of the faces, and without vertices that
  nothing uses."""
  edges = np.concatenate([faces[:, :2], faces[:, 1:]])
  _, part = connected_components(coo_array((np.ones(len(edges)), tuple(edges.T)),
                                           shape=(len(vertices),) * 2))
  owner = part[faces[:, 0]]
  kept = faces[np.bincount(owner)[owner] >= share * len(faces)]
  used, renumbered = np.unique(kept, return_inverse=True)
  return vertices[used], renumbered.reshape(kept.shape)


def normals(vertices: Points, faces: Int[np.ndarray, 'F 3']) -> Points:
  """Outward unit normals of the vertices: of the faces around each, weighted by area."""
  a, b, c = vertices[faces].swapaxes(0, 1)
  face = np.cross(b - a, c - a)
  out = np.stack([np.bincount(faces.ravel(), np.repeat(face[:, k], 3), len(vertices))
                  for k in range(3)], -1)
  return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)


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


def rasterize(vertices: Points, faces: Int[np.ndarray, 'F 3'], camera: Camera, *, size: int
              ) -> tuple[Int[np.ndarray, 'size size'], Float[np.ndarray, 'size size 3']]:
  """The nearest face at each pixel's center, -1 where there is none, and the place on it in
  barycentric coordinates."""
  world_from_camera = np.asarray(camera.world_from_camera, float)
  in_camera = (vertices - world_from_camera[:3, 3]) @ world_from_camera[:3, :3]
  far = -in_camera[:, 2]
  scale = .5 * size / np.tan(.5 * float(camera.fov))
  column, row = .5 * size + scale * in_camera[:, 0] / far, .5 * size - scale * in_camera[:, 1] / far
  # pixel (i, j) now has its center at (i, j)
  x, y, z = column[faces] - .5, row[faces] - .5, far[faces]
  x0, y0 = (np.clip(np.ceil(v.min(1)), 0, size).astype(int) for v in (x, y))
  x1, y1 = (np.clip(np.floor(v.max(1)) + 1, 0, size).astype(int) for v in (x, y))
  wide, high = np.maximum(x1 - x0, 0), np.maximum(y1 - y0, 0)
  count = np.where(z.min(1) > 1e-6, wide * high, 0)            # nothing behind the camera
  # one entry for each pixel of each face's bounding box
  face = np.repeat(np.arange(len(faces)), count)
  place = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
  i, j = y0[face] + place // wide[face], x0[face] + place % wide[face]
  dx, dy = x[face] - j[:, None], y[face] - i[:, None]
  w = np.roll(dx, -1, 1) * np.roll(dy, -2, 1) - np.roll(dx, -2, 1) * np.roll(dy, -1, 1)
  area = w.sum(1)
  inside = ((w >= 0.).all(1) | (w <= 0.).all(1)) & (area != 0.)
  face, i, j = face[inside], i[inside], j[inside]
  w = w[inside] / area[inside, None] / z[face]                 # 1 / depth is linear on the screen
  near = np.argsort(w.sum(1), kind='stable')                   # the nearest is written last
  out, place = np.full((size, size), -1), np.zeros((size, size, 3))
  out[i[near], j[near]] = face[near]
  place[i[near], j[near]] = (w / w.sum(1, keepdims=True))[near]
  return out, place


def silhouettes(vertices: Points, faces: Int[np.ndarray, 'F 3'], camera: Camera, *, size: int
                ) -> Bool[np.ndarray, 'V size size']:
  """Of [V] cameras."""
  return np.stack([rasterize(vertices, faces, one, size=size)[0] >= 0
                   for one in video.unbatch(camera)])


def picture(mesh: Mesh, camera: Camera, *, size: int,
            background: float = 1.) -> Float[np.ndarray, 'size size 3']:
  """The mesh in one camera, its vertex colors interpolated and unlit."""
  face, place = rasterize(mesh.vertices, mesh.faces, camera, size=size)
  rgb = np.sum(place[..., None] * mesh.colors[mesh.faces[face]], -2)
  return np.where(face[..., None] >= 0, rgb, background)


def lookouts(*, radius: float = 1.) -> Camera:
  """[13] cameras for silhouettes: eight around, four from higher up, one from above."""
  return cameras.orbit((8, .2), (4, .8), (1, 1.4), distance=3. * radius)


def extract(density: Callable, color: Callable, camera: Camera,
            opacity: Float[np.ndarray, 'V size size'], *,
            radius: float = 1., resolution: int = 96) -> tuple[Mesh, dict]:
  """The mesh whose silhouettes match the rendered `opacity` in the [V] cameras, and a report of how
  well.

  silhouette_iou compares the finished mesh (rasterized, floaters gone) with the render; .95 or more
  is a faithful mesh.
  """
  target = solid(opacity)
  grid = log_density(density, radius=radius, resolution=resolution)
  threshold, _ = match_threshold(grid, camera, target, radius=radius)
  vertices, faces = drop_floaters(*surface(grid, threshold, radius=radius))
  cell = 2. * radius / (resolution - 1)
  mesh = Mesh(vertices, faces, paint(density, color, vertices, -normals(vertices, faces),
                                     cell=cell))
  seen = silhouettes(vertices, faces, camera, size=target.shape[-1])
  return mesh, {
    'vertices': len(vertices), 'faces': len(faces),
    'watertight': bool(trimesh.Trimesh(vertices, faces, process=False).is_watertight),
    'threshold': threshold,
    'silhouette_iou': float(np.mean([iou(s, t) for s, t in zip(seen, target)])),
    'peak_opacity': float(opacity.max()), 'resolution': resolution}


def linear(srgb: np.ndarray) -> np.ndarray:
  """The inverse of sRGB's transfer function (IEC 61966-2-1)."""
  return np.where(srgb <= .04045, srgb / 12.92, ((srgb + .055) / 1.055) ** 2.4)


def to_glb(mesh: Mesh) -> bytes:
  """glTF 2.0 binary: y up, front +z, linear float colors, and a matt material (without one glTF
  means black metal)."""
  def finish(tree):
    primitive = tree['meshes'][0]['primitives'][0]
    primitive['attributes']['COLOR_0'] = primitive['attributes'].pop('_color')
    tree['materials'] = [{'pbrMetallicRoughness': {'metallicFactor': 0., 'roughnessFactor': 1.}}]
    primitive['material'] = 0

  turned = trimesh.Trimesh(mesh.vertices @ Y_UP.T, mesh.faces, process=False,
                           vertex_attributes={'color': linear(mesh.colors).astype(np.float32)})
  return trimesh.exchange.gltf.export_glb(trimesh.Scene(turned), include_normals=True,
                                          tree_postprocessor=finish)


def _with_bytes(vertices, faces, colors):
  rgba = np.concatenate([colors, np.ones_like(colors[:, :1])], -1)
  return trimesh.Trimesh(vertices, faces, vertex_colors=np.round(rgba * 255.).astype(np.uint8),
                         process=False)


def to_obj(mesh: Mesh) -> str:
  """Wavefront with a color behind each vertex; y up, front +z."""
  turned = _with_bytes(mesh.vertices @ Y_UP.T, mesh.faces, mesh.colors)
  return trimesh.exchange.obj.export_obj(turned, include_normals=True)


def to_ply(mesh: Mesh) -> bytes:
  """Binary PLY in the world's frame: z up, front +x."""
  return trimesh.exchange.ply.export_ply(_with_bytes(*mesh))


def sample_points(mesh: Mesh, count: int, *, seed: int = 0) -> tuple[Points, Points]:
  """`count` points spread evenly over the surface, and their colors."""
  random = np.random.default_rng(seed)
  a, b, c = mesh.vertices[mesh.faces].swapaxes(0, 1)
  area = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
  places = (np.arange(count) + random.random(count)) / count  # stratified over the faces
  face = np.minimum(np.searchsorted(np.cumsum(area) / area.sum(), places), len(area) - 1)
  u, v = random.random((2, count))
  root = np.sqrt(u)
  weights = np.stack([1. - root, root * (1. - v), root * v], -1)[..., None]
  return tuple(np.sum(weights * values[mesh.faces[face]], 1)
               for values in (mesh.vertices, mesh.colors))


def points_to_ply(xyz: Points, colors: Points) -> bytes:
  """A colored point cloud as binary PLY in the world's frame."""
  return trimesh.exchange.ply.export_ply(trimesh.PointCloud(xyz, np.round(colors * 255.).astype(
      np.uint8)))


WRITERS = {'glb': to_glb, 'obj': to_obj, 'ply': to_ply}


def save(mesh: Mesh, folder: pathlib.Path, *, formats: tuple[str, ...] = FORMATS) -> list[
    pathlib.Path]:
  """Writes mesh.glb, mesh.obj, mesh.ply, or those asked for, into `folder`."""
  paths = []
  for name in formats:
    data = WRITERS[name](mesh)
    paths.append(folder / f'mesh.{name}')
    paths[-1].write_bytes(data.encode() if isinstance(data, str) else data)
  return paths


def write(object: Object, folder: pathlib.Path, *, resolution: int = 96,
          formats: tuple[str, ...] = FORMATS, points: int = 0) -> tuple[Mesh, dict]:
  """`extract`, and its files in `folder`: those of the mesh, mesh.json with the report, mesh.png
  with the mesh under the render; points.ply too where `points` > 0. Raises Empty where there is no
  mesh."""
  camera = lookouts(radius=object.radius)
  views = video.render_views(object.over(1.), camera)
  mesh, facts = extract(object.density, object.color, camera, views.opacity, radius=object.radius,
                        resolution=resolution)
  save(mesh, folder, formats=formats)
  (folder / 'mesh.json').write_text(json.dumps(facts, indent=2) + '\n')
  size = views.opacity.shape[-1]
  drawn = [picture(mesh, one, size=size) for one in video.unbatch(camera)]
  (folder / 'mesh.png').write_bytes(video.png(video.sheet([*np.clip(views.rgb, 0., 1.), *drawn],
                                                          columns=len(drawn))))
  if points:
    (folder / 'points.ply').write_bytes(points_to_ply(*sample_points(mesh, points)))
  return mesh, facts
