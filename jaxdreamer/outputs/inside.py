"""A scene that one stands in, as its outputs show it: a panorama, and the surface around the air.

A panorama is [H, 2 H] in equal angles: front, +x, is in its middle, left of it +y, the top row
looks up. Grids, levels and meshes are those of surface.py, but what is solid and what is air
change places: beyond the ball all is solid, and the one air is the largest.
"""
import pathlib
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import ndimage

from jaxdreamer import cameras
from jaxdreamer.objects import Object
from jaxdreamer.outputs import silhouettes, surface, video
from jaxdreamer.outputs.surface import Empty, Grid, Mesh
from jaxdreamer.types import Camera, Rendering

LEVELS = 32                      # levels that are tried
MOST = 64                        # rays along a side of a view that a level is held against


def cube(size: int) -> Camera:
  """Six cameras at the origin, towards +x, +y, -x, -y, +z and -z: each sees a right angle and a
  pixel more around it."""
  fov = 2. * np.arctan(size / (size - 2.))
  at = jnp.asarray([(0., 0.), (.5, 0.), (1., 0.), (1.5, 0.), (0., .5), (0., -.5)]) * jnp.pi
  def turned(angles):
    camera = cameras.orbital(angles[0] + jnp.pi, -angles[1], 1., fov)     # it looks at the origin
    return camera._replace(world_from_camera=camera.world_from_camera.at[:3, 3].set(0.))
  return jax.device_get(jax.jit(jax.vmap(turned))(at))


def directions(height: int) -> Float[np.ndarray, 'H W 3']:
  """The unit vector that each pixel's center of a panorama looks along."""
  elevation = (.5 - (np.arange(height) + .5) / height) * np.pi
  azimuth = (1. - (np.arange(2 * height) + .5) / height) * np.pi
  across = np.cos(elevation)[:, None]
  return np.stack(np.broadcast_arrays(across * np.cos(azimuth), across * np.sin(azimuth),
                                      np.sin(elevation)[:, None]), -1)


def panorama(render: Callable, *, size: int) -> Rendering:
  """The [2 size, 4 size] Rendering around the origin, read off the faces of a cube; `render` maps a
  camera to its Rendering of `size` pixels a side."""
  camera, look = cube(size), directions(2 * size)
  seen = video.render_views(render, camera)
  in_camera = np.einsum('hwi,vij->vhwj', look, camera.world_from_camera[:, :3, :3])
  face = np.argmin(in_camera[..., 2], 0)                       # cameras look along their own -z
  x, y, z = np.moveaxis(np.take_along_axis(in_camera, face[None, ..., None], 0)[0], -1, 0)
  scale = .5 * (size - 2.) / -z                                # of tan(fov / 2)
  place = np.stack([face, .5 * size - .5 - scale * y, .5 * size - .5 + scale * x])

  def read(values):
    flat = values.reshape(*values.shape[:3], -1)
    columns = [ndimage.map_coordinates(flat[..., k].astype(float), place, order=1, mode='nearest')
               for k in range(flat.shape[-1])]
    return np.stack(columns, -1).reshape(*face.shape, *values.shape[3:])
  return Rendering(*map(read, seen[:4]), *(None,) * (len(seen) - 4))       # the pictures of it


def write_panorama(object: Object, folder: pathlib.Path) -> list[pathlib.Path]:
  """panorama.png and panorama_depth.png."""
  seen = panorama(object.over(1.), size=object.size)
  depth, = video.show_depth(jax.tree.map(lambda a: a[None], seen))
  pictures = {'panorama.png': seen.rgb, 'panorama_depth.png': depth}
  for name, picture in pictures.items():
    (folder / name).write_bytes(video.png(picture))
  return [folder / name for name in pictures]


def lookouts(object: Object) -> Camera:
  """[8] cameras around in the scene."""
  return cameras.orbit((8, .26), distance=object.away, fov=object.fov)


def walls(grid: Grid, level: float, *, radius: float) -> Grid:
  """The grid with the largest air alone, and all else solid: bubbles, and what is beyond the
  ball."""
  beyond = np.sum(surface.nodes(radius, len(grid)) ** 2, -1) > radius ** 2
  labels, count = ndimage.label((grid < level) & ~beyond)
  if not count:
    raise Empty('no mesh: there is no air in the scene to stand in')
  largest = 1 + np.argmax(np.bincount(labels.ravel())[1:])
  return np.where(beyond | (grid < level) & (labels != largest), grid.max(), grid)


def first_hits(grid: Grid, levels: Float[np.ndarray, 'L'], camera: Camera, *, radius: float,
               size: int) -> Float[np.ndarray, 'L n n']:
  """How far the rays of one camera, every few pixels, go until the grid comes to each level:
  a sample each half cell, to the ball's end."""
  each = -(-size // MOST)
  rays = jax.tree.map(lambda a: np.asarray(a, float)[each // 2::each, each // 2::each],
                      jax.device_get(silhouettes.rays(camera, size)))
  cells = len(grid) - 1
  along = np.arange(0., 2. * radius, radius / cells)
  seen = []
  for origin, direction in zip(*rays):                         # a row at a time bounds the memory
    xyz = origin[:, None] + along[:, None] * direction[:, None]
    place = np.moveaxis((xyz / radius + 1.) * cells / 2., -1, 0)
    highest = np.maximum.accumulate(ndimage.map_coordinates(grid, place, order=1, mode='nearest'),
                                    1)
    reached = [(highest < level).sum(1) for level in levels]
    seen.append(along[np.minimum(reached, len(along) - 1)])
  return np.stack(seen, 1)


def match_level(grid: Grid, camera: Camera, views: Rendering, *, radius: float) -> float:
  """The level at which rays stop where the rendered depth of the [V] cameras says."""
  levels = np.linspace(grid.min(), grid.max(), LEVELS + 2)[1:-1]
  size = views.depth.shape[-1]
  each = -(-size // MOST)
  hits = np.stack([first_hits(grid, levels, one, radius=radius, size=size)
                   for one in video.unbatch(camera)], 1)
  apart = np.abs(hits - views.depth[None, :, each // 2::each, each // 2::each])
  return float(levels[np.argmin(np.median(apart, (1, 2, 3)))])


def extract(object: Object, camera: Camera, views: Rendering, *,
            resolution: int) -> tuple[Mesh, dict]:
  """The surface that one sees from inside, its faces towards the air, and a report of how well it
  fits the render of the [V] cameras. depth_error is the median of |mesh - render| / render."""
  radius = object.radius
  grid = surface.grid_of(object, resolution)
  if grid.max() <= grid.min():
    raise Empty('no mesh: there is air everywhere')
  level = match_level(grid, camera, views, radius=radius)
  found = surface.drop_floaters(surface.triangles(
    walls(grid, level, radius=radius), level, radius=radius, beyond=grid.max()))
  vertices, faces, normals = map(np.asarray, (found.vertices, found.faces, found.vertex_normals))
  colors = surface.paint(object.density, object.color, vertices, -normals,
                         cell=2. * radius / (resolution - 1))
  size = views.depth.shape[-1]
  depth = np.stack([silhouettes.depth(vertices, faces, one, size=size)
                    for one in video.unbatch(camera)])
  hit = np.isfinite(depth)
  error = np.median(np.abs(depth - views.depth)[hit] / views.depth[hit]) if hit.any() else 1.
  return Mesh(vertices, faces, colors), {
    'vertices': len(vertices), 'faces': len(faces), 'watertight': found.is_watertight,
    'level': level, 'depth_error': float(error), 'seen': float(hit.mean()),
    'resolution': resolution}
