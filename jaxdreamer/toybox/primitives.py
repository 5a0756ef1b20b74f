"""The vocabulary of shapes: signed distance functions of p = (x, y, z), three arrays of one shape.

Each never exceeds the true distance and is 1-Lipschitz, so a sphere tracer cannot step through it;
those that are not exact say so. Lengths and centers are numbers, known when the function is traced.
"""
from functools import reduce

import jax.numpy as jnp
import numpy as np


def norm(*v):
  """The length of a vector given by its coordinates."""
  return jnp.sqrt(sum(u * u for u in v))


def move(p, *c):
  """p seen from the center c."""
  return tuple(u - o for u, o in zip(p, c))


def lean(p, angle):
  """p turned about y: the toy's z axis leans towards +x by `angle`."""
  (x, y, z), c, s = p, np.cos(angle), np.sin(angle)
  return c * x - s * z, y, s * x + c * z


def along_x(p):
  """p with the toy's z axis laid along +x."""
  x, y, z = p
  return -z, y, x


def along_y(p):
  """p with the toy's z axis laid along +y."""
  x, y, z = p
  return x, -z, y


def corner(*q):
  """Distance to the corner where all q are negative: exact for boxes and for drums."""
  return norm(*(jnp.maximum(u, 0.) for u in q)) + jnp.minimum(most(*q), 0.)


def most(*d):
  """The largest of some distances: where all their shapes overlap."""
  return reduce(jnp.maximum, d)


def least(*d):
  """The smallest of some distances: all their shapes together."""
  return reduce(jnp.minimum, d)


def ball(p, c, r):
  """Distance to a ball of radius r about c."""
  return norm(*move(p, *c)) - r


def box(p, c, half, *, soft=0.):
  """Distance to a box about c with half sides `half`, its edges rounded by `soft`."""
  return corner(*(jnp.abs(u) - (h - soft) for u, h in zip(move(p, *c), half))) - soft


def drum(p, r, h, *, soft=0.):
  """Upright cylinder of radius r and half height h."""
  x, y, z = p
  return corner(norm(x, y) - (r - soft), jnp.abs(z) - (h - soft)) - soft


def ring(p, major, minor):
  """Torus about z."""
  x, y, z = p
  return norm(norm(x, y) - major, z) - minor


def rod(p, a, b, r):
  """Capsule from a to b."""
  a, b = np.array(a), np.array(b)
  q, axis = move(p, *a), b - a
  s = jnp.clip(sum(u * v for u, v in zip(q, axis)) / np.dot(axis, axis), 0., 1.)
  return norm(*(u - s * v for u, v in zip(q, axis))) - r


def taper(r, z, r0, r1, z0, z1):
  """Radius r0 at z0 to r1 at z1 (a bound: half planes); r is any convex radius, such as |x, y| or
  max(|x|, |y|)."""
  slope = (r0 - r1) / (z1 - z0)
  side = (r - r0 + slope * (z - z0)) / np.hypot(1., slope)
  return most(side, z0 - z, z - z1)


def spike(p, r0, r1, z0, z1):
  """Cone or frustum about z."""
  x, y, z = p
  return taper(norm(x, y), z, r0, r1, z0, z1)


def pear(p, r0, r1, z0, z1):
  """The hull of two balls on the z axis: the nearest point lies on one of them or on the cone that
  touches both."""
  x, y, z = p
  r, h = norm(x, y), z1 - z0
  s = (r0 - r1) / h
  c = np.sqrt(1 - s * s)
  t = c * (z - z0) - s * r                       # along the touching cone, from its lower circle
  cone = c * r + s * (z - z0) - r0
  return jnp.where(t < 0., norm(r, z - z0) - r0, jnp.where(t > c * h, norm(r, z - z1) - r1, cone))


def blob(p, c, radii):
  """Ellipsoid (a bound, from scaling by the least radius)."""
  return (norm(*(u / r for u, r in zip(move(p, *c), radii))) - 1.) * min(radii)


def wrap(u, period):
  """u modulo period; `jnp.mod` is many times slower on a CPU."""
  return u - period * jnp.floor(u / period)


def dress(*parts):
  """The union of (distance, slot) parts."""
  d, slot = parts[0][0], jnp.full(parts[0][0].shape, parts[0][1], jnp.int32)
  for e, s in parts[1:]:
    d, slot = jnp.minimum(d, e), jnp.where(e < d, s, slot)
  return d, slot
