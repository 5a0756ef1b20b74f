"""What becomes of a picture on its way to a small file: blurred, made smaller, noisy and
compressed, twice over (Real-ESRGAN, Wang et al. 2021, whose ranges these are where no word says
else), and enlarged again to the pixels it had.

    low = degrade(key, x)                        # one picture [H, W, 3] in [0, 1]
    seen = pairs(key, 8, size=64)                # renders of the toybox with what is left of them

All sizes are arrays of one shape: a picture of m x m pixels lies in the upper left corner of the
canvas, its last row and column repeated beyond it, as an encoder pads its blocks.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdreamer.toybox import render_buffer, world
from jaxdreamer.types import Camera

TAPS = 21                                        # of a blur's kernel, in each direction
QUALITY = (30., 95.)                             # of JPEG
GRAY = .4                                        # share of noises that are gray
TOGETHER = 2                                     # renders of one composition, see render_buffer


class Stage(NamedTuple):
  """One of the two passes."""
  blurred: float                                 # the share of pictures that are
  sigma: tuple[float, float]                     # of the blur, in pixels
  side: tuple[float, float]                      # pixels of a side after it, of the first ones
  noise: tuple[float, float]                     # its deviation, of 255


# a half to a quarter of the pixels of a side are left, where Real-ESRGAN leaves a quarter of 512
STAGES = (Stage(1., (.2, 3.), (.5, 1.), (1., 30.)), Stage(.8, (.2, 1.5), (.25, .5), (1., 25.)))


class Pairs(NamedTuple):
  """Pictures [N], and what is left of them."""
  low: Float[Array, 'N H W 3']
  truth: Float[Array, 'N H W 3']
  item: world.Item | None = None                 # [N]: what they show
  camera: Camera | None = None                   # [N]


def gaussian(key: Key[Array, ''], sigma: tuple[float, float]) -> Float[Array, 'TAPS TAPS']:
  """A kernel of sum 1: a normal density of two random deviations, turned by a random angle."""
  k_sigma, k_angle = jax.random.split(key)
  wide = jax.random.uniform(k_sigma, (2,), minval=sigma[0], maxval=sigma[1])
  angle = jax.random.uniform(k_angle, maxval=jnp.pi)
  at = jnp.arange(TAPS) - TAPS // 2.
  x, y = at[None, :], at[:, None]
  u, v = jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x
  kernel = jnp.exp(-.5 * ((u / wide[0]) ** 2 + (v / wide[1]) ** 2))
  return kernel / jnp.sum(kernel)


def blur(x: Float[Array, 'H W 3'], kernel: Float[Array, 'TAPS TAPS']) -> Float[Array, 'H W 3']:
  """Every color convolved with the kernel; edges repeat."""
  n = TAPS // 2
  padded = jnp.pad(x, ((n, n), (n, n), (0, 0)), 'edge').transpose(2, 0, 1)[..., None]
  out = jax.lax.conv_general_dilated(padded, kernel[..., None, None], (1, 1), 'VALID',
                                     dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return out[..., 0].transpose(1, 2, 0)


def box(u):
  """Weights of the mean over an area; the nearest pixel where a picture grows."""
  return ((u > -.5) & (u <= .5)).astype(jnp.float32)


def triangle(u):
  """Weights of linear interpolation."""
  return jnp.maximum(1. - jnp.abs(u), 0.)


def cubic(u):
  """Weights of cubic interpolation (Keys 1981, a = -1/2)."""
  u = jnp.abs(u)
  near, far = 1. + u * u * (1.5 * u - 2.5), 2. - u * (4. - u * (2.5 - .5 * u))
  return jnp.where(u < 1., near, jnp.where(u < 2., far, 0.))


WAYS = (box, triangle, cubic)


def resize_matrix(n: int, before: Float[Array, ''], after: Float[Array, ''],
                  way: Float[Array, '3']) -> Float[Array, 'n n']:
  """Rows that make `after` pixels of `before` ones, on a canvas of n, by the one of WAYS that `way`
  is 1 at; where there are fewer, the weights widen, and nothing is aliased."""
  shrink = before / after
  center = (jnp.minimum(jnp.arange(n), after - 1.) + .5) * shrink
  u = (jnp.arange(n)[None, :] + .5 - center[:, None]) / jnp.maximum(shrink, 1.)
  weight = sum(share * f(u) for share, f in zip(way, WAYS))
  weight = weight * (jnp.arange(n) < before)[None, :]
  return weight / jnp.sum(weight, 1, keepdims=True)


def resize(x: Float[Array, 'n n 3'], before: Float[Array, ''], after: Float[Array, ''],
           way: Float[Array, '3']) -> Float[Array, 'n n 3']:
  """A picture of `before` pixels a side on its canvas -> one of `after`."""
  rows = resize_matrix(len(x), before, after, way)
  return jnp.einsum('ij,jkc,lk->ilc', rows, x, rows, precision='highest')


def noisy(key: Key[Array, ''], x: Float[Array, 'H W 3'],
          deviation: tuple[float, float]) -> Float[Array, 'H W 3']:
  """Normal noise, in some pictures the same of all colors."""
  k_size, k_gray, k_noise = jax.random.split(key, 3)
  noise = jax.random.normal(k_noise, x.shape)
  noise = jnp.where(jax.random.uniform(k_gray) < GRAY, noise[..., :1], noise)
  size = jax.random.uniform(k_size, minval=deviation[0], maxval=deviation[1]) / 255.
  return jnp.clip(x + size * noise, 0., 1.)


# ITU-T T.81, tables K.1 and K.2
LUMINANCE = np.array([
  [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
  [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
  [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
  [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]], np.float32)
CHROMINANCE = np.array([
  [17, 18, 24, 47, 99, 99, 99, 99], [18, 21, 26, 66, 99, 99, 99, 99],
  [24, 26, 56, 99, 99, 99, 99, 99], [47, 66, 99, 99, 99, 99, 99, 99],
  *[[99] * 8] * 4], np.float32)
# of T.871: RGB in 0..255 -> luminance, and the two colors about 0
YCC = np.array([[.299, .587, .114], [-.168736, -.331264, .5], [.5, -.418688, -.081312]], np.float32)
COSINES = (np.sqrt(np.where(np.arange(8) == 0, 1., 2.) / 8.)[:, None] * np.cos(
  np.pi / 8. * np.outer(np.arange(8), np.arange(8) + .5))).astype(np.float32)


def quantized(plane: Float[Array, 'h w'], table: Float[Array, '8 8']) -> Float[Array, 'h w']:
  """The plane whose 8 x 8 blocks' cosine transforms were rounded to multiples of `table`."""
  h, w = plane.shape
  turn = lambda a, b, c: jnp.einsum('uy,iyjx,vx->iujv', a, b, c, precision='highest')
  found = turn(COSINES, plane.reshape(h // 8, 8, w // 8, 8), COSINES)
  step = table[None, :, None, :]
  return turn(COSINES.T, step * jnp.round(found / step), COSINES.T).reshape(h, w)


def jpeg(x: Float[Array, 'H W 3'], quality: Float[Array, ''] | float) -> Float[Array, 'H W 3']:
  """A picture of whole 16 x 16 blocks after JPEG of a `quality` from 1 to 100, its colors at half
  the pixels of a side, as encoders have it. It has no useful gradient."""
  scale = jnp.where(quality < 50., 5000. / quality, 200. - 2. * quality)
  luminance, chrominance = (jnp.clip(jnp.floor((table * scale + 50.) / 100.), 1., 255.)
                            for table in (LUMINANCE, CHROMINANCE))
  h, w, _ = x.shape
  planes = jnp.einsum('hwc,kc->khw', 255. * x, YCC, precision='highest')
  small = planes[1:].reshape(2, h // 2, 2, w // 2, 2).mean((2, 4))
  small = jnp.stack([quantized(plane, chrominance) for plane in small])
  planes = jnp.concatenate([128. + quantized(planes[0] - 128., luminance)[None],
                            jax.image.resize(small, (2, h, w), 'linear')])
  rgb = jnp.einsum('khw,ck->hwc', planes, np.linalg.inv(YCC), precision='highest')
  return jnp.clip(jnp.round(rgb), 0., 255.) / 255.


def degrade(key: Key[Array, ''], x: Float[Array, 'n n 3']) -> Float[Array, 'n n 3']:
  """What is left of a picture whose side is a multiple of 16, enlarged cubically to its size."""
  n, side, out = len(x), jnp.float32(len(x)), x
  for i, stage in enumerate(STAGES):
    keys = jax.random.split(jax.random.fold_in(key, i), 6)
    blurred = jax.random.uniform(keys[0]) < stage.blurred
    out = jnp.where(blurred, blur(out, gaussian(keys[1], stage.sigma)), out)
    after = jnp.round(n * jax.random.uniform(keys[2], minval=stage.side[0], maxval=stage.side[1]))
    way = jax.nn.one_hot(jax.random.randint(keys[3], (), 0, len(WAYS)), len(WAYS))
    out, side = jnp.clip(resize(out, side, after, way), 0., 1.), after
    out = noisy(keys[4], out, stage.noise)
    out = jpeg(out, jax.random.uniform(keys[5], minval=QUALITY[0], maxval=QUALITY[1]))
  back = resize(out, side, jnp.float32(n), jnp.array([0., 0., 1.]))
  return jnp.clip(jnp.round(255. * back), 0., 255.) / 255.


def of_truth(key: Key[Array, ''], truth: Float[Array, 'N n n 3']) -> Float[Array, 'N n n 3']:
  """`degrade` of each picture, by its own key."""
  return jax.vmap(degrade)(jax.random.split(key, len(truth)), truth)


def pairs(key: Key[Array, ''], n: int, *, size: int,
          share: float = render_buffer.PAIRS) -> Pairs:
  """`n` renders of the toybox under random backgrounds, and what is left of them; `share` shows two
  toys."""
  k_render, k_back, k_low = jax.random.split(key, 3)
  each = TOGETHER if n % TOGETHER == 0 else 1
  pool = jax.lax.map(lambda k: render_buffer.batch(k, each, size=size, pairs=share),
                     jax.random.split(k_render, n // each))
  pool = jax.tree.map(lambda a: a.reshape(n, *a.shape[2:]), pool)
  truth = render_buffer.shown(k_back, pool)
  return Pairs(of_truth(k_low, truth), truth, pool.item, pool.camera)
