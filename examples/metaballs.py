r"""Metaballs (Blinn 1982), a scene of one's own: Gaussian balls that flow together.

  python -m jaxdreamer.train --config=examples/metaballs.py \
      --config.prompt='a snowman with a blue hat'

The raw density at a point is the sum of all balls there less a level; the color is that of the
balls, each counted by how much of it is there. Sixty-four balls of eight numbers each are the
whole scene.
"""
import jax
import jax.numpy as jnp

from jaxdreamer.configs import toybox
from jaxdreamer.types import Scene


def metaballs(*, balls=64, spread=.3, radius=.15, strength=30., level=8.):
  """`balls` centers ~ N(0, spread^2 I), all of the same `radius` and height `strength` at first;
  what is above `level` is solid."""
  def init(key):
    return {'center': spread * jax.random.normal(key, (balls, 3)), 'size': jnp.zeros(balls),
            'height': jnp.zeros(balls), 'color': jnp.zeros((balls, 3))}

  def prepare(params, text):                    # once a step; a generator would read the text here
    return params

  def field(params, xyz):                       # one point [3] -> density [], albedo [3]
    square = jnp.sum((xyz[None] - params['center']) ** 2, 1)
    there = jnp.exp(params['height'] - .5 * square / (radius * jnp.exp(params['size'])) ** 2)
    color = there @ jax.nn.sigmoid(4. * params['color']) / (jnp.sum(there) + 1e-6)
    return jax.nn.softplus(strength * jnp.sum(there) - level), color

  return Scene(init, prepare, field)


def get_config():
  config = toybox.get_config()
  config.scene.name = 'metaballs:metaballs'
  config.optim.groups = (('scene/field/.*', .02), *config.optim.groups[1:])
  return config
