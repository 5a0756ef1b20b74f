"""The calculus of one ray, as pure functions of arrays along it.

A ray is cut into S intervals by S + 1 sorted edges `dist`; density is constant inside an interval
(Max 1995, NeRF Eq. 3).
`weights` [S] and the final transmittance `trans` sum to 1. Samples are always the last axis;
callers vmap over rays.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def alpha_weights(density: Float[Array, 'S'], dist: Float[Array, 'S+1']) -> tuple[
    Float[Array, 'S'], Float[Array, '']]:
  """Probability that light ends in each interval, and that it passes all of them."""
  return depth_weights(density * jnp.diff(dist))


def fall_weights(clearness: Float[Array, 'E']) -> tuple[Float[Array, 'E-1'], Float[Array, '']]:
  """The same, of a clearness at the edges: an interval's optical depth is what it falls by, if it
  falls. NeuS Eq. 13, whose alpha is 1 - exp(-depth)."""
  return depth_weights(jnp.maximum(clearness[:-1] - clearness[1:], 0.))


def depth_weights(depth: Float[Array, 'S']) -> tuple[Float[Array, 'S'], Float[Array, '']]:
  """The same, of the intervals' optical depths."""
  far = jnp.cumsum(depth)  # at the far edge of an interval
  trans = jnp.exp(-jnp.concatenate([jnp.zeros(1), far]))
  return trans[:-1] - trans[1:], trans[-1]  # telescopes: the sum is 1 by construction


def composite(weights: Float[Array, 'S'], values: Float[Array, '*f S']) -> Float[Array, '*f']:
  """sum_i w_i values_i: what the hit part contributes; the background adds trans * color."""
  return jnp.sum(jnp.broadcast_to(weights, values.shape) * values, -1)


def spaced(near: Float[Array, ''], far: Float[Array, ''], u: Float[Array, 'n'], *,
           disparity: bool) -> Float[Array, 'n']:
  """The distances at shares u of the way from near to far: in equal steps or, with `disparity`, in
  equal steps of 1 / (1 + distance), which are finer near by. That is disparity as one sees it from
  one unit behind the eye; the eye's own has no end where it is inside the ball."""
  if not disparity:
    return near + (far - near) * u
  first, last = 1. / (1. + near), 1. / (1. + far)
  return 1. / (first + (last - first) * u) - 1.


def midpoints(dist: Float[Array, 'n']) -> Float[Array, 'n-1']:
  """The middle of each interval between successive distances."""
  return .5 * (dist[:-1] + dist[1:])


def stratified(key: Key[Array, ''], n: int, *, jitter: float = 1.) -> Float[Array, 'n']:
  """One number in each of n equal strata of [0, 1], sorted: uniform for jitter = 1, the middle for
  jitter = 0."""
  return (jnp.arange(n) + .5 + jitter * (jax.random.uniform(key, (n,)) - .5)) / n


def invert_cdf(u: Float[Array, 'n'], dist: Float[Array, 'm'],
               weights: Float[Array, 'm-1']) -> Float[Array, 'n']:
  """Distances below which a share u of the weight lies; sorted where u is. With no weight at all,
  intervals count equally."""
  mass = weights + 1e-6 * jnp.mean(weights) + 1e-20  # strictly increasing, so it has an inverse
  cdf = jnp.concatenate([jnp.zeros(1), jnp.cumsum(mass)])
  return jnp.interp(u, cdf / cdf[-1], dist)


def spread(weights: Float[Array, 'S'], dist: Float[Array, 'S+1'], *,
           share: float) -> Float[Array, 'S']:
  """Proposal weights: the larger of each interval and its neighbors (mip-NeRF Eq. 18 blurs
  likewise), mixed with uniform."""
  padded = jnp.pad(weights, 1, mode='edge')
  wide = jnp.maximum(weights, jnp.maximum(padded[:-2], padded[2:]))
  length = jnp.diff(dist) / jnp.maximum(dist[-1] - dist[0], 1e-9)
  return (1. - share) * wide / jnp.maximum(jnp.sum(wide), 1e-9) + share * length


def expected_depth(weights: Float[Array, 'S'], dist: Float[Array, 'S+1'],
                   far: Float[Array, '']) -> Float[Array, '']:
  """Mean distance of the hit part; goes to `far` as the opacity goes to 0, with bounded gradients
  on the way."""
  opacity = jnp.sum(weights)
  rest = 1e-2 * jnp.maximum(1. - opacity, 0.)
  return (composite(weights, midpoints(dist)) + rest * far) / jnp.maximum(opacity + rest, 1e-2)


def distortion(weights: Float[Array, 'S'], dist: Float[Array, 'S+1']) -> Float[Array, '']:
  """sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 delta_i, mip-NeRF 360 Eq. 15, in O(S) because m is
  sorted."""
  m = midpoints(dist)
  m = m - m[0]  # differences of distances: keep the digits
  before = jnp.cumsum(weights) - weights
  moment = jnp.cumsum(weights * m) - weights * m
  return 2. * jnp.sum(weights * (m * before - moment)) + jnp.sum(weights ** 2 * jnp.diff(dist)) / 3.


def ball_interval(origin: Float[Array, '3'], direction: Float[Array, '3'], radius: float,
                  ) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Where a ray enters and leaves the ball around 0; an empty interval at the nearest point for a
  ray that misses."""
  nearest = -jnp.sum(origin * direction)
  chord2 = radius ** 2 - jnp.sum(origin ** 2) + nearest ** 2
  half = jnp.where(chord2 > 0., jnp.sqrt(jnp.maximum(chord2, 1e-12)), 0.)
  return jnp.maximum(nearest - half, 0.), jnp.maximum(nearest + half, 0.)
