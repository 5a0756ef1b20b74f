"""The 2D case: the scene is one picture, and every camera sees it. For estimators' toys and for
latents.

The picture is the code, and the scene's renderer shows it as it is. In space it hangs in the plane
x = 0, facing the front.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.types import Rendering, Scene


def picture(code: Float[Array, 'h w c']) -> Rendering:
  """The picture as a fully opaque Rendering at distance 0: regularizers of shape have value and
  gradient 0."""
  flat = jnp.zeros(code.shape[:2])
  return Rendering(rgb=code, opacity=flat + 1., depth=flat, normal=jnp.zeros((*code.shape[:2], 3)),
                   orientation=flat,
                   distortion=flat, z_variance=flat, eikonal=flat)


def image(*, size: int = 64, features: int = 3, scale: float = .1, squash: bool = True,
          thickness: float = .05, density: float = 200.) -> Scene:
  """[size, size] raw values near 0.

  Args:
    size: pixels a side.
    features: channels.
    scale: standard deviation of the values at the start.
    squash: True makes them colors in [0, 1]; False leaves them, as latents.
    thickness: of the picture that hangs in the scene.
    density: of the same.
  """

  def init(key: Key[Array, '']):
    return {'image': scale * jax.random.normal(key, (size, size, features))}

  def prepare(params, y):
    return jax.nn.sigmoid(params['image']) if squash else params['image']

  def field(code, xyz):
    x, y, z = xyz
    row, column = jnp.clip(.5 * (1. - z) * size, 0., size - 1.), jnp.clip(.5 * (y + 1.) * size,
                                                                          0., size - 1.)
    inside = jnp.maximum(jnp.abs(x) / thickness, jnp.maximum(jnp.abs(y), jnp.abs(z))) < 1.
    return density * inside, code[row.astype(jnp.int32), column.astype(jnp.int32)]

  return Scene(init, prepare, field, render=lambda code, camera, **options: picture(code))
