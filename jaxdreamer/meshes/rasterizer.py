"""Which face each pixel sees.

Screen coordinates of a vertex are (column, row, far): in pixels, as cameras.py counts them, and its
distance in front of the camera, along its axis. Every face is cut in rows of pixels and each row in
pixels: one item a face and pixel, side by side in a list of fixed length, whose nearest per pixel
are found by two scatters. So a face costs what it covers, on any device, and work does not depend
on how faces are spread. Nothing here has a gradient.
"""
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdreamer.types import Camera

NEAR = 1e-3                            # faces that reach nearer to the camera are not drawn
EDGE = 1e-5                            # how far beyond its edges a face reaches, in parts of it
SLACK = .01                            # pixels more at the ends of a row, for what rounding takes


def project(vertices: Float[Array, 'N 3'], camera: Camera, size: int) -> Float[Array, 'N 3']:
  """Screen coordinates of points of the world in a picture of `size` pixels; differentiable."""
  rotation, position = camera.world_from_camera[:3, :3], camera.world_from_camera[:3, 3]
  x, y, z = jnp.matmul(vertices - position[None], rotation, precision='highest').T
  scale = .5 * size / (jnp.tan(.5 * camera.fov) * jnp.maximum(-z, NEAR))
  return jnp.stack([.5 * size + scale * x, .5 * size - scale * y, -z], -1)


def expand(count: Int[Array, 'N'], capacity: int) -> tuple[
    Int[Array, 'P'], Int[Array, 'P'], Bool[Array, 'P'], Int[Array, '']]:
  """A list with count[n] items of each n, one n after the other: of each item its n, which of n's
  it is, and whether it is one; and how many more than `capacity` there were."""
  ends = jnp.cumsum(count)
  starts = ends - count
  owner = jnp.zeros(capacity, jnp.int32).at[jnp.where(count > 0, starts, capacity)].set(
    jnp.arange(count.size), mode='drop')
  owner = jax.lax.cummax(owner)
  item = jnp.arange(capacity)
  return owner, item - starts[owner], item < ends[-1], jnp.maximum(ends[-1] - capacity, 0)


def signed_areas(screen: Float[Array, 'N 3'], faces: Int[Array, 'F 3']) -> Float[Array, 'F']:
  """Twice the area of each face on the screen; below 0 for one that is seen from outside, for rows
  count downwards."""
  (x0, y0), (x1, y1), (x2, y2) = (screen[faces[:, k], :2].T for k in range(3))
  return (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)


def first_center(place: Float[Array, '*b'], size: int) -> Int[Array, '*b']:
  """The first pixel whose center lies at `place` or beyond, of 0 to `size`."""
  return jnp.clip(jnp.ceil(place - .5), 0., float(size)).astype(jnp.int32)


def beyond_center(place: Float[Array, '*b'], size: int) -> Int[Array, '*b']:
  """The first pixel whose center lies beyond `place`, of 0 to `size`."""
  return jnp.clip(jnp.floor(place + .5), 0., float(size)).astype(jnp.int32)


def spans(x: Float[Array, 'P 3'], y: Float[Array, 'P 3'], line: Float[Array, 'P'], *,
          size: int) -> tuple[Int[Array, 'P'], Int[Array, 'P']]:
  """First and end of the pixels whose centers a triangle may hold on the row at y = line: a little
  more than it does."""
  rise = jnp.roll(y, -1, 1) - y
  t = (line[:, None] - y) / jnp.where(rise == 0., 1., rise)
  meets = (jnp.minimum(y, y + rise) <= line[:, None]) & (line[:, None] <= jnp.maximum(y, y + rise))
  at = x + jnp.clip(t, 0., 1.) * (jnp.roll(x, -1, 1) - x)
  low = jnp.min(jnp.where(meets, at, jnp.inf), 1) - SLACK
  high = jnp.max(jnp.where(meets, at, -jnp.inf), 1) + SLACK
  return first_center(low, size), beyond_center(high, size)


def visible(screen: Float[Array, 'N 3'], faces: Int[Array, 'F 3'], valid: Bool[Array, 'F'], *,
            size: int, layers: int, rows: int) -> tuple[
              Int[Array, 'H W'], Float[Array, 'H W'], Int[Array, '']]:
  """The nearest face at each pixel's center, -1 where there is none; how far it is, inf for none;
  and how many items found no room: of a face and a row among `rows`, of a face and a pixel among
  `layers` size^2."""
  x, y, z = (screen[faces, axis] for axis in range(3))                                   # [F 3]
  y0, y1 = first_center(y.min(1), size), beyond_center(y.max(1), size)
  beside = (x.max(1) < 0.) | (x.min(1) > size)
  drawn = valid & (z.min(1) > NEAR) & (jnp.abs(signed_areas(screen, faces)) > 1e-9) & ~beside
  owner, place, there, lost = expand(jnp.where(drawn, jnp.maximum(y1 - y0, 0), 0), rows)
  row = y0[owner] + place
  first, end = spans(x[owner], y[owner], row + .5, size=size)
  of, place, there, dropped = expand(jnp.where(there, jnp.maximum(end - first, 0), 0),
                                     layers * size * size)
  owner, i, j = owner[of], row[of], first[of] + place
  dx, dy = x[owner] - (j + .5)[:, None], y[owner] - (i + .5)[:, None]
  w = jnp.roll(dx, -1, 1) * jnp.roll(dy, -2, 1) - jnp.roll(dx, -2, 1) * jnp.roll(dy, -1, 1)
  w = w / jnp.sum(w, 1, keepdims=True)
  near = jnp.sum(w / z[owner], 1)                # 1 / far is linear on the screen
  there = there & jnp.all(w >= -EDGE, 1)
  pixel = jnp.where(there, i * size + j, size * size)
  nearest = jnp.zeros(size * size).at[pixel].max(near, mode='drop')
  # not ==: a compiler may compute it twice, and not alike
  wins = there & (near >= nearest[jnp.minimum(pixel, size * size - 1)] * (1. - 1e-6))
  face = jnp.full(size * size, -1).at[jnp.where(wins, pixel, size * size)].max(owner, mode='drop')
  far = jnp.where(face < 0, jnp.inf, 1. / jnp.where(face < 0, 1., nearest))
  return face.reshape(size, size), far.reshape(size, size), lost + dropped


def flat_area(corner: Float[np.ndarray, 'F 3 2']) -> Float[np.ndarray, 'F']:
  """Areas of triangles in the plane."""
  (a, b), (c, d) = (corner[:, 1:] - corner[:, :1]).transpose(1, 2, 0)
  return .5 * np.abs(a * d - b * c)


def crowd(vertices: Float[np.ndarray, 'N 3'], faces: Int[np.ndarray, 'F 3']) -> tuple[
    float, float]:
  """How many faces lie over one another, in the mean over the box of the whole mesh, and how many
  faces a line across it meets; from the directions where they are most. `visible` needs room for
  both."""
  deep = many = 0.
  for angle in np.arange(8) * np.pi / 8.:                      # half a turn, level and from above
    for height in (.2, 1.):
      side = np.array([-np.sin(angle), np.cos(angle), 0.])
      up = np.array([-np.cos(angle) * np.sin(height), -np.sin(angle) * np.sin(height),
                     np.cos(height)])
      flat = (vertices @ np.stack([side, up], 1))[faces]
      wide, high = np.maximum(np.ptp(flat.reshape(-1, 2), axis=0), 1e-9)
      deep = max(deep, flat_area(flat).sum() / (wide * high))
      many = max(many, np.ptp(flat[..., 1], axis=1).sum() / high)
  return float(deep), float(many)
