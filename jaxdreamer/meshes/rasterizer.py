"""Which face each pixel sees.

Screen coordinates of a vertex are (column, row, far): in pixels, as cameras.py counts them, and its
distance in front of the camera, along its axis. Every face is tried at the pixels of its bounding
box: one item a face and pixel, side by side in a list of fixed length, whose nearest per pixel are
found by two scatters. So small faces cost little and large ones cost their box, on any device, and
work does not depend on how faces are spread. Nothing here has a gradient.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdreamer.types import Camera

NEAR = 1e-3                            # faces that reach nearer to the camera are not drawn
EDGE = 1e-5                            # how far beyond its edges a face reaches, in parts of it


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


def visible(screen: Float[Array, 'N 3'], faces: Int[Array, 'F 3'], valid: Bool[Array, 'F'], *,
            size: int, layers: int) -> tuple[Int[Array, 'H W'], Float[Array, 'H W'],
                                             Int[Array, '']]:
  """The nearest face at each pixel's center, -1 where there is none; how far it is, inf for none;
  and how many items of a face and a pixel found no room among `layers` size^2."""
  x, y, z = (screen[faces, axis] for axis in range(3))                                   # [F 3]
  x0, y0 = (first_center(v.min(1), size) for v in (x, y))
  x1, y1 = (beyond_center(v.max(1), size) for v in (x, y))
  drawn = valid & (z.min(1) > NEAR) & (jnp.abs(signed_areas(screen, faces)) > 1e-9)
  wide, high = jnp.maximum(x1 - x0, 0), jnp.maximum(y1 - y0, 0)
  owner, place, there, dropped = expand(jnp.where(drawn, wide * high, 0), layers * size * size)
  row = jnp.maximum(wide, 1)[owner]
  i, j = y0[owner] + place // row, x0[owner] + place % row
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
  return face.reshape(size, size), far.reshape(size, size), dropped
