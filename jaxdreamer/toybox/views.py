"""Pictures of the world by sphere tracing: color, mask, depth and normal.

Images are [H, W, ...], as in cameras.py; H = W is a multiple of `TILE`. `rgb` is premultiplied by
the mask, so that rgb + (1 - mask) * background composites; `depth` is the distance along the ray, 0
where missed; `normal` is in the world frame. The light is fixed in the world. A batch is *one
composition*: kind and relation are shared, while colors, patterns, cameras and lights vary. First a
cone is marched for each tile of all pictures; only tiles that may see something are then traced ray
by ray, a chunk at a time.
"""
from functools import partial
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Key

from jaxdreamer import cameras
from jaxdreamer.toybox import world
from jaxdreamer.toybox.primitives import norm
from jaxdreamer.types import Camera

TILE = 4                         # pixels along the side of a tile
CHUNK = 2 ** 15                  # rays traced together: fits a CPU's cache
CHUNK_GPU = 2 ** 21
CONE_STEPS = 16
STEPS = 40                       # of sphere tracing, from where the cone stopped
HIT = 1.5e-3                     # a ray that ends nearer than this has hit
OCCLUSION = (.06, .16, .32)  # heights above the surface at which nearness to other surfaces is felt


class Light(NamedTuple):
  """Direction towards the lamp, and the share of light that comes from everywhere."""
  direction: Float[Array, '*b 3']
  ambient: Float[Array, '*b']


class View(NamedTuple):
  rgb: Float[Array, '*b H W 3']
  mask: Float[Array, '*b H W']
  depth: Float[Array, '*b H W']
  normal: Float[Array, '*b H W 3']


def sample_light(key: Key[Array, '']) -> Light:
  """From above, in front and to the right, with jitter."""
  k_direction, k_ambient = jax.random.split(key)
  direction = jnp.array([.4, .3, .85]) + .2 * jax.random.normal(k_direction, (3,))
  return Light(direction / jnp.sqrt(jnp.sum(direction ** 2)),
               jax.random.uniform(k_ambient, (), minval=.5, maxval=.7))


# without jitter, for truth and sheets
LIGHT = Light(np.array([.4, .32, .86], np.float32), np.float32(.6))


# 0 front (within 45 degrees), 1 side, 2 back, 3 overhead (above 60 degrees)
view_bin = cameras.view_bin


def sample_camera(key: Key[Array, '']) -> Camera:
  """Azimuth uniform, elevation -10 to 85 degrees uniform in its sine, distance 2.8 to 3.3, field of
  view 40 degrees."""
  return cameras.sample(key)


def _tile(camera, ids, side, offset):
  """Origins [N, 1], directions [N, M] of the rays at `offset` [M, 2] (row, column; in tiles) of the
  tiles `ids` [N]."""
  image, corner = ids // side ** 2, jnp.stack([ids // side % side, ids % side], -1)
  ray = jax.vmap(jax.vmap(cameras.ray, (None, 0, None)), (0, 0, None))
  origin, direction = ray(jax.tree.map(lambda v: v[image], camera), corner[:, None] + offset[None],
                          side)
  return tuple(origin[:, :1, i] for i in range(3)), tuple(direction[..., i] for i in range(3))


def along(origin: tuple, direction: tuple, t: Array) -> tuple:
  """The points (x, y, z) at distance t of rays; shapes broadcast."""
  return tuple(o + t * d for o, d in zip(origin, direction))


def _enter(origin, direction, radius):
  """Where a ray meets the ball of this radius: its near and far end, and whether it does."""
  middle = -sum(o * d for o, d in zip(origin, direction))
  chord = radius ** 2 + middle ** 2 - sum(o * o for o in origin)
  half = jnp.sqrt(jnp.maximum(chord, 0.))
  return middle - half, middle + half, chord > 0.


def _approach(item, camera, ids, side):
  """March a cone around each tile: how far all its rays are free, and whether any may hit."""
  origin, direction = _tile(camera, ids, side, jnp.full((1, 2), .5))
  # radius of the cone at distance 1
  width = jnp.sqrt(2.) * jnp.tan(camera.fov / 2)[ids // side ** 2, None] / side
  margin = width * (camera.distance[ids // side ** 2, None] + world.RADIUS)
  near, far, inside = _enter(origin, direction, world.RADIUS + margin)

  def step(_, t):
    free = world.distance(item, along(origin, direction, t)) - width * t
    return jnp.minimum(t + free / (1. + width), far)

  t = jax.lax.fori_loop(0, CONE_STEPS, step, jnp.maximum(near, 0.))
  return t[:, 0], (inside & (t < far))[:, 0]


def _trace(item, origin, direction, start, steps):
  """Distance along each ray to the surface, and whether it is there."""
  _, far, inside = _enter(origin, direction, world.RADIUS)

  def step(_, state):
    t, _ = state
    free = world.distance(item, along(origin, direction, t))
    return jnp.minimum(t + free, far), free

  start = jnp.broadcast_to(start, far.shape)
  t, free = jax.lax.fori_loop(0, steps, step, (start, jnp.full_like(start, jnp.inf)))
  return t, (free < HIT) & inside


def lit(distance: Callable[[world.Point], Array], p: world.Point, n: world.Point,
        toward: Float[Array, '*n'], ambient: Float[Array, '*m']) -> Float[Array, '*n']:
  """The share of its color that a point p shows, where the surface `distance` has the normal n and
  `toward` is the cosine to the lamp. Corners are darker, for they see less of the open sky."""
  felt = jax.lax.map(lambda h: (h - distance(along(p, n, h))) / h, jnp.array(OCCLUSION))
  sky = jnp.clip(1. - sum(w * f for w, f in zip((.18, .22, .25), felt)), .3, 1.)
  return sky * ambient * (.85 + .15 * n[2]) + (1. - ambient) * (.25 + .75 * sky) * jnp.maximum(
      (toward + .35) / 1.35, 0.)


def _shade(item, camera, light, ids, start, side, k, steps):
  """[N, TILE^2, 8] of the tiles `ids`: means over k x k rays of rgb, normal, depth and 1, each 0
  where a ray missed."""
  at = (jnp.arange(TILE * k) + .5) / (TILE * k)
  offset = jnp.stack(jnp.meshgrid(at, at, indexing='ij'), -1).reshape(-1, 2)
  origin, direction = _tile(camera, ids, side, offset)
  t, hit = _trace(item, origin, direction, start[:, None], steps)
  p = along(origin, direction, t)
  n = world.gradient(item, p)
  length = jnp.maximum(norm(*n), 1e-6)
  n = tuple(c / length for c in n)
  image = ids // side ** 2
  toward = sum(c * light.direction[image, i, None] for i, c in enumerate(n))
  share = lit(partial(world.distance, item), p, n, toward, light.ambient[image, None])
  rgb = [c * share for c in world.surface(item._replace(color=item.color[image],
                                                        pattern=item.pattern[image]), p)]
  pool = lambda v: jnp.where(hit, v, 0.).reshape(-1, TILE, k, TILE,
                                                 k).mean((2, 4)).reshape(-1, TILE ** 2)
  return jnp.stack([pool(v) for v in (*rgb, *n, t, jnp.ones_like(t))], -1)


def render_batch(item: world.Item, camera: Camera, light: Light, *, size: int, supersample: int = 1,
                 steps: int = STEPS,
                 chunk: int | None = None) -> View:
  """Pictures of one composition; color, pattern, camera and light have a leading axis, kind and
  relation none."""
  if size % TILE:
    raise ValueError(f'size {size} is not a multiple of {TILE}')
  item = item._replace(color=jnp.asarray(item.color), pattern=jnp.asarray(item.pattern))
  b, side = camera.fov.shape[0], size // TILE
  chunk = chunk or (CHUNK if jax.default_backend() == 'cpu' else CHUNK_GPU)
  tiles = b * side ** 2
  batch = min(tiles, chunk // (TILE * supersample) ** 2)
  start, alive = _approach(item, camera, jnp.arange(tiles), side)
  order = jnp.argsort(~alive, stable=True)
  padded = jnp.pad(order, (0, -tiles % batch))

  def paint(i, out):
    ids = jax.lax.dynamic_slice(padded, (i * batch,), (batch,))
    done = _shade(item, camera, light, ids, start[ids], side, supersample, steps)
    return jax.lax.dynamic_update_slice(out, done, (i * batch, 0, 0))

  out = jax.lax.fori_loop(0, -(-alive.sum() // batch), paint,
                          jnp.zeros((padded.size, TILE ** 2, 8)))
  out = rearrange(out[jnp.argsort(order)], '(b h w) (p q) c -> b (h p) (w q) c', h=side, w=side,
                  p=TILE)
  rgb, normal, depth, mask = out[..., :3], out[..., 3:6], out[..., 6], out[..., 7]
  length = jnp.sqrt(jnp.maximum(jnp.sum(normal ** 2, -1, keepdims=True), 1e-12))
  return View(rgb, mask, depth / jnp.where(mask > 0., mask, 1.), normal / length)


def render(item: world.Item, camera: Camera, light: Light, *, size: int, supersample: int = 1,
           steps: int = STEPS) -> View:
  """One picture."""
  item = item._replace(color=item.color[None], pattern=item.pattern[None])
  camera, light = jax.tree.map(lambda v: jnp.asarray(v)[None], (camera, light))
  batch = render_batch(item, camera, light, size=size, supersample=supersample, steps=steps)
  return jax.tree.map(lambda v: v[0], batch)
