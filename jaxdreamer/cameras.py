"""Cameras. World is z up, the object sits in the unit ball and faces +x; cameras look down -z with
y up (OpenGL).

Angles are radians, fov is vertical. A camera at (azimuth, elevation, distance) stands at
distance (cos el cos az, cos el sin az, sin el). Pixel (i, j) is row i from the top, column j from
the left, and its center is at (i + .5, j + .5). Each function makes one camera, or one ray; callers
vmap.
"""
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdreamer.types import Camera, Move, Rays

Range = tuple[float, float]
Scalar = Float[Array, ''] | float


def normalize(v: Float[Array, '3']) -> Float[Array, '3']:
  """v over its length; the slope is finite at v = 0, where 0 comes back."""
  return v / jnp.sqrt(jnp.maximum(jnp.sum(v * v), 1e-12))


def look_at(position: Float[Array, '3'], target: Float[Array, '3'],
            up: Float[Array, '3']) -> Float[Array, '4 4']:
  """world_from_camera of an eye at `position` that sees `target` in its middle; `up` must not point
  along the view."""
  backward = normalize(position - target)
  right = normalize(jnp.cross(up, backward))
  rows = jnp.stack([right, jnp.cross(backward, right), backward, position], axis=1)
  return jnp.concatenate([rows, jnp.array([[0., 0., 0., 1.]])])


def _radial(azimuth, elevation):
  return jnp.stack([jnp.cos(elevation) * jnp.cos(azimuth), jnp.cos(elevation) * jnp.sin(azimuth),
                    jnp.sin(elevation)])


def _northward(azimuth, elevation):
  """d radial / d elevation: an up vector that is right at the poles too."""
  return _radial(azimuth, elevation + .5 * math.pi)


def orbital(azimuth: Scalar, elevation: Scalar, distance: Scalar, fov: Scalar) -> Camera:
  """The camera at these spherical coordinates that looks at the origin, north up."""
  azimuth, elevation, distance, fov = (jnp.asarray(v, jnp.float32)
                                       for v in (azimuth, elevation, distance, fov))
  pose = look_at(distance * _radial(azimuth, elevation), jnp.zeros(3),
                 _northward(azimuth, elevation))
  return Camera(pose, fov, azimuth, elevation, distance)


def from_uniform(u: Float[Array, '4'], *, azimuth: Range, elevation: Range,
                 distance: Range, fov: Range,
                 relative: bool = False, angular: float = 0.) -> Camera:
  """The camera at u in [0, 1]^4 of the ranges (azimuth, elevation uniform in area, distance, fov).

  `u` may be stratified or of low discrepancy: sampling.py decides.

  Args:
    relative: True: the distance counts in 1 / tan(fov / 2), from where a picture is as high as the
      unit ball.
    angular: share of the views whose elevation is uniform in angle, not in area, which favors the
      poles (DreamFusion A.2: .5).
  """
  lerp = lambda v, lo, hi: lo + v * (hi - lo)
  by_area = lambda v: jnp.arcsin(jnp.clip(lerp(v, math.sin(elevation[0]), math.sin(elevation[1])),
                                          -1., 1.))
  height = by_area(u[1])
  if angular:  # the lower part of [0, 1] for the one kind, the upper part for the other
    height = jnp.where(u[1] < angular, lerp(u[1] / angular, *elevation),
                       by_area((u[1] - angular) / max(1. - angular, 1e-6)))
  angle = lerp(u[3], *fov)
  away = lerp(u[2], *distance) / jnp.tan(.5 * angle) if relative else lerp(u[2], *distance)
  return orbital(lerp(u[0], *azimuth), height, away, angle)


def fronts_and_backs(camera: Camera, *, width: float = math.radians(30.)) -> Camera:
  """The camera, its azimuth brought within `width` of the front or of the back, whichever is
  nearer: cameras from all around become as many fronts as backs, uniform in that range."""
  nearest = jnp.round(camera.azimuth / math.pi) * math.pi
  return orbital(nearest + (camera.azimuth - nearest) * width / (.5 * math.pi), camera.elevation,
                 camera.distance, camera.fov)


def jitter(key: Key[Array, ''], camera: Camera, *, position: float, target: float,
           up: float) -> Camera:
  """DreamFusion A.2: position + U(-p, p)^3, look-at point ~ N(0, target), up + N(0, up). The angles
  follow the position."""
  k_position, k_target, k_up = jax.random.split(key, 3)
  p = camera.world_from_camera[:3, 3] + position * jax.random.uniform(k_position, (3,), minval=-1.)
  distance = jnp.sqrt(jnp.maximum(jnp.sum(p * p), 1e-12))
  azimuth, elevation = jnp.arctan2(p[1], p[0]), jnp.arcsin(jnp.clip(p[2] / distance, -1., 1.))
  pose = look_at(p, target * jax.random.normal(k_target, (3,)),
                 _northward(azimuth, elevation) + up * jax.random.normal(k_up, (3,)))
  return Camera(pose, camera.fov, azimuth, elevation, distance)


def make_move(*, by: tuple[float, float, float] = (0., 0., 0.),
              front_back: int = 0) -> Move | None:
  """(key, Camera, step) -> Camera: `jitter` of position, target and up `by` so much; the first
  `front_back` steps see fronts and backs alone. None where cameras stay where they are drawn."""
  position, target, up = by
  def move(key, camera, step):
    if front_back:
      near = fronts_and_backs(camera)
      camera = jax.tree.map(lambda a, b: jnp.where(step < front_back, a, b), near, camera)
    return jitter(key, camera, position=position, target=target, up=up) if any(by) else camera
  return move if front_back or any(by) else None


def sample(key: Key[Array, ''], *, azimuth: Range = (-math.pi, math.pi),
           elevation: Range = (-math.radians(10.), math.radians(85.)), distance: Range = (2.8, 3.3),
           fov: Range = (math.radians(40.), math.radians(40.)), jitter_position: float = 0.,
           jitter_target: float = 0.,
           jitter_up: float = 0.) -> Camera:
  """One random camera, independent of all others."""
  k_uniform, k_jitter = jax.random.split(key)
  camera = from_uniform(jax.random.uniform(k_uniform, (4,)), azimuth=azimuth, elevation=elevation,
                        distance=distance,
                        fov=fov)
  return jitter(k_jitter, camera, position=jitter_position, target=jitter_target, up=jitter_up)


_place = jax.jit(jax.vmap(orbital))


def orbit(*rings: tuple[int, float], distance: float = 3.,
          fov: float = math.radians(40.)) -> Camera:
  """For each (n, elevation), n cameras at equal steps of azimuth from the front towards +y, ring
  after ring, in NumPy."""
  at = np.array([(2. * math.pi * k / n, elevation, distance, fov) for n, elevation in rings
                 for k in range(n)], np.float32)
  return jax.device_get(_place(*at.T))


def ray(camera: Camera, pixel: Float[Array, '2'], size: int) -> Rays:
  """The ray through the point `pixel` = (row, column) of a square image of `size` pixels."""
  scale = 2. * jnp.tan(.5 * camera.fov) / size
  in_camera = jnp.stack([(pixel[1] - .5 * size) * scale, (.5 * size - pixel[0]) * scale,
                         -jnp.ones(())])
  rotation, position = camera.world_from_camera[:3, :3], camera.world_from_camera[:3, 3]
  return Rays(position, normalize(jnp.sum(rotation * in_camera[None], 1)))


def rays(camera: Camera, size: int) -> Rays:
  """The [size, size] rays through the centers of the pixels of one camera."""
  center = jnp.arange(size) + .5
  one = lambda i, j: ray(camera, jnp.stack([i, j]), size)
  return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(center, center)


def view_bin(azimuth: Float[Array, '*b'], elevation: Float[Array, '*b'], *,
             front: float = math.radians(45.),
             back: float = math.radians(45.), overhead: float = math.radians(60.)) -> Int[
                 Array, '*b']:
  """The row of Text.views: 0 front, 1 side, 2 back, 3 overhead. `front` and `back` are half widths
  in azimuth."""
  off_front = jnp.abs(jnp.arctan2(jnp.sin(azimuth), jnp.cos(azimuth)))
  around = jnp.where(off_front < front, 0, jnp.where(off_front > math.pi - back, 2, 1))
  return jnp.where(elevation > overhead, 3, around)


def camera_vector(camera: Camera) -> Float[Array, '6']:
  """What a prior may know of a camera: (cos az, sin az, sin el, cos el, distance - 3, 1); zeros
  where it is not `known`."""
  vector = jnp.stack([jnp.cos(camera.azimuth), jnp.sin(camera.azimuth), jnp.sin(camera.elevation),
                      jnp.cos(camera.elevation), camera.distance - 3.,
                      jnp.ones_like(camera.azimuth)])
  return hidden(camera, vector)


def hidden(camera: Camera, numbers: Float[Array, '*b n']) -> Float[Array, '*b n']:
  """The `numbers` made of each camera, zeros where it is not `known`."""
  known = camera.fov > 0. if camera.known is None else camera.known
  return known[..., None] * numbers
