"""Outlines: of a density by projection, of triangles by rasterizing them, and how well two agree.

Seen along a ray, {value >= level} is solid exactly if the largest value on that ray reaches the
level, so one projection of maxima gives the silhouettes of *all* levels. Grids and meshes are those
of surface.py, cameras those of cameras.py, in NumPy.
"""
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from jaxdreamer import cameras
from jaxdreamer.outputs import bake, video
from jaxdreamer.outputs.raster import cover
from jaxdreamer.outputs.surface import Empty, Grid, Mesh, Points
from jaxdreamer.scores import iou
from jaxdreamer.types import Camera

LEVELS = 96                      # rungs of the ladder from air to the largest value


def lookouts(*, radius: float = 1.) -> Camera:
  """[13] cameras for silhouettes: eight around, four from higher up, one from above."""
  return cameras.orbit((8, .2), (4, .8), (1, 1.4), distance=3. * radius)


rays = jax.jit(cameras.rays, static_argnums=1)


def largest_on_rays(grid: Grid, camera: Camera, *, radius: float,
                    size: int) -> Float[np.ndarray, 'size size']:
  """The largest value of the grid on the ray of each pixel of one camera: a sample each half cell,
  inside the ball."""
  origin, direction = (a.astype(float) for a in jax.device_get(rays(camera, size)))
  middle = -np.sum(origin * direction, -1)
  half = np.sqrt(np.maximum(radius ** 2 + middle ** 2 - np.sum(origin ** 2, -1), 0.))
  cells = len(grid) - 1
  along = np.linspace(-1., 1., 2 * cells + 1)
  seen = np.full((size, size), grid.min())
  for row, hit in enumerate(half > 0.):                        # a row at a time bounds the memory
    distance = middle[row, hit, None] + half[row, hit, None] * along
    xyz = origin[row, hit, None] + distance[..., None] * direction[row, hit, None]
    place = np.moveaxis((xyz / radius + 1.) * cells / 2., -1, 0)
    seen[row, hit] = ndimage.map_coordinates(grid, place, order=1, mode='nearest').max(-1)
  return seen


def match_level(grid: Grid, camera: Camera, target: Bool[np.ndarray, 'V size size'], *,
                radius: float) -> tuple[float, float]:
  """The level whose silhouettes in the [V] cameras agree best with `target`, and their mean IoU."""
  look = partial(largest_on_rays, grid, radius=radius, size=target.shape[-1])
  with ThreadPoolExecutor(video.ABREAST) as threads:
    seen = [*threads.map(look, video.unbatch(camera))]
  air, top = grid.min(), grid.max()
  if top <= air:
    raise Empty('no mesh: there is air everywhere')
  ladder = np.linspace(air, top, LEVELS + 2)[1:-1]
  scores = [np.mean([iou(s >= level, t) for s, t in zip(seen, target)]) for level in ladder]
  best = int(np.argmax(scores))
  if not scores[best]:
    raise Empty('no mesh: no level makes a silhouette that meets the rendered one')
  return float(ladder[best]), float(scores[best])


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
  front = np.flatnonzero(z.min(1) > 1e-6)                      # nothing behind the camera
  face, i, j, w = cover(x[front], y[front], size=size)
  face = front[face]
  w = w / z[face]                                              # 1 / depth is linear on the screen
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


def depth(vertices: Points, faces: Int[np.ndarray, 'F 3'], camera: Camera, *, size: int
          ) -> Float[np.ndarray, 'size size']:
  """The distance along each pixel's ray to the mesh; infinite where it is missed."""
  face, place = rasterize(vertices, faces, camera, size=size)
  hit = np.sum(place[..., None] * vertices[faces[face]], -2)
  away = np.linalg.norm(hit - np.asarray(camera.world_from_camera, float)[:3, 3], axis=-1)
  return np.where(face >= 0, away, np.inf)


def picture(mesh: Mesh, camera: Camera, *, size: int,
            background: float = 1.) -> Float[np.ndarray, 'size size 3']:
  """The mesh in one camera, unlit: its texture, or the colors of its vertices interpolated."""
  face, place = rasterize(mesh.vertices, mesh.faces, camera, size=size)
  seen, image = face >= 0, np.full((size, size, 3), background)
  on = lambda values: bake.between(values, mesh.faces[face[seen]], place[seen])
  image[seen] = (on(mesh.colors) if mesh.texture is None
                 else bake.sample(mesh.texture.color, on(mesh.texture.uv)))
  return image
