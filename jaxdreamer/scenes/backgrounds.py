"""What a ray that passes the scene sees: Background = (init, colour), colour(params, key, direction) -> [3] in [0, 1].

Give one key per view: a random background is then one colour over the whole picture.
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.scenes import fields

Colour = Float[Array, '3']


class Background(NamedTuple):
  init: Callable                       # key -> params
  colour: Callable                     # (params, key, direction [3]) -> [3]


def constant(*, rgb: tuple[float, float, float] = (1., 1., 1.)) -> Background:
  return Background(lambda key: (), lambda params, key, direction: jnp.array(rgb))


def random() -> Background:
  """A new colour for each view: what is transparent cannot hide."""
  return Background(lambda key: (), lambda params, key, direction: jax.random.uniform(key, (3,)))


def black_or_white() -> Background:
  """Black or white for each view: all that the empirical prior's images have."""
  return Background(lambda key: (), lambda params, key, direction: jnp.full(3, jax.random.bernoulli(key), jnp.float32))


def learnt(*, rgb: tuple[float, float, float] = (.5, .5, .5)) -> Background:
  """One colour, learnt."""
  logit = lambda p: jnp.log(p) - jnp.log1p(-p)
  return Background(lambda key: {'raw': logit(jnp.array(rgb))},
                    lambda params, key, direction: jax.nn.sigmoid(params['raw']))


def environment(*, octaves: int = 3, width: int = 32) -> Background:
  """A small network of the ray's direction (DreamFusion A.2)."""
  def init(key: Key[Array, '']):
    k_hidden, k_out = jax.random.split(key)
    return {'hidden': fields.dense_init(k_hidden, 6 * octaves, width),
            'out': fields.dense_init(k_out, width, 3, gain=.1)}

  def colour(params, key, direction):
    hidden = jax.nn.silu(fields.dense(params['hidden'], fields.octaves(direction, octaves).reshape(-1)))
    return jax.nn.sigmoid(fields.dense(params['out'], hidden))

  return Background(init, colour)


def mixed(background: Background, *, probability: float = .5) -> Background:
  """In this share of the views, a random colour instead (threestudio's random_aug): the map cannot draw the object."""
  def colour(params, key, direction):
    k_which, k_random, k_inner = jax.random.split(key, 3)
    other = jax.random.uniform(k_random, (3,))
    return jnp.where(jax.random.bernoulli(k_which, probability), other, background.colour(params, k_inner, direction))

  return Background(background.init, colour)
