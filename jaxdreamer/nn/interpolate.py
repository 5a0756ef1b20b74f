"""Resizing of images and feature maps [B, h, w, C] as torch.nn.functional.interpolate does it, and
what networks expect of an image. jax.image.resize has neither align_corners nor torch's cubic (its
Keys kernel has a = -0.5, torch's -0.75).

`resize` is two products with constant matrices in float32, so its derivative is two more. Borders
repeat; there is no antialiasing. `preprocess` takes images in [0, 1] and does antialias, as PIL and
torchvision do.
"""
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# (mean, std) per channel, of images in [0, 1].
NORMALIZATION = {'midas': ((.5,) * 3, (.5,) * 3), 'imagenet': ((.485, .456, .406),
                                                               (.229, .224, .225)),
                 'omnidata_normal': ((0.,) * 3, (1.,) * 3)}


def linear_weights(f: np.ndarray) -> dict[int, np.ndarray]:
  """{offset from the left neighbor: weight} at the fraction f in [0, 1)."""
  return {0: 1 - f, 1: f}


def cubic_weights(f: np.ndarray) -> dict[int, np.ndarray]:
  """The same for Keys (1981), Eq. 4, with a = -0.75."""
  a = -.75

  def near(d):                                           # distance in [0, 1]
    return ((a + 2) * d - (a + 3)) * d * d + 1

  def far(d):                                            # distance in [1, 2]
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

  return {-1: far(1 + f), 0: near(f), 1: near(1 - f), 2: far(2 - f)}


METHODS = {'linear': linear_weights, 'cubic': cubic_weights}


def matrix(old: int, new: int, *, method: str, align_corners: bool) -> np.ndarray:
  """[new, old]: row i holds the weights of output pixel i. Aligned corners are at pixel centers,
  else at pixel edges."""
  i = np.arange(new)
  at = i * ((old - 1) / max(new - 1, 1)) if align_corners else (i + .5) * old / new - .5
  left = np.floor(at).astype(int)
  rows = np.zeros((new, old))
  for offset, weights in METHODS[method](at - left).items():
    np.add.at(rows, (i, np.clip(left + offset, 0, old - 1)), weights)
  return rows.astype(np.float32)


def resize(x: Float[Array, 'B h w C'], shape: tuple[int, int], *, method: str = 'linear',
           align_corners: bool = False) -> Float[Array, 'B H W C']:
  """x at `shape` = (H, W), in x's dtype."""
  if x.shape[1:3] == tuple(shape):
    return x  # every kernel is 1 at 0 and 0 at other whole numbers
  y = x.astype(jnp.float32)
  for axis, product in ((0, 'Hh,bhwc->bHwc'), (1, 'Ww,bhwc->bhWc')):
    rows = matrix(x.shape[1 + axis], shape[axis], method=method, align_corners=align_corners)
    y = jnp.einsum(product, rows, y, precision=jax.lax.Precision.HIGHEST)
  return y.astype(x.dtype)


def network_size(height: int, width: int, *, size: int, multiple: int) -> tuple[int, int]:
  """About `size` on the side that needs the smaller change, the aspect kept, both sides multiples
  of `multiple`."""
  scale = min(size / height, size / width, key=lambda s: abs(1 - s))
  rounded = [max(multiple, round(scale * n / multiple) * multiple) for n in (height, width)]
  return rounded[0], rounded[1]


def preprocess(image: Float[Array, 'B H W 3'], *, shape: tuple[int, int], normalization: str,
               method: str = 'cubic') -> Float[Array, 'B h w 3']:
  """Images in [0, 1] -> a network's input: resized to `shape`, less the mean, over the
  deviation."""
  mean, std = (jnp.array(row, jnp.float32)[None, None, None]
               for row in NORMALIZATION[normalization])
  x = image.astype(jnp.float32)
  if x.shape[1:3] != tuple(shape):
    x = jax.image.resize(x, (x.shape[0], *shape, x.shape[3]), method, antialias=True)
  return (x - mean) / std
