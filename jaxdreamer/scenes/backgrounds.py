"""What a ray that passes the scene sees: Background = (init, color, prepare), color(code, key,
direction) -> [3] in [0, 1].

Give one key per view: a random background is then one color over the whole picture.
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.scenes import fields, hashgrid, hyper_ingp
from jaxdreamer.types import Code, Init, Prepare, Scene

Color = Float[Array, '3']


class Background(NamedTuple):
  init: Init
  color: Callable[[Code, Array, Array], Array]   # (code, key, direction [3]) -> [3]
  prepare: Prepare = lambda params, y: params


def constant(*, rgb: tuple[float, float, float] = (1., 1., 1.)) -> Background:
  """One color, white unless another is given.

  Args:
    rgb: the color, in [0, 1].
  """
  return Background(lambda key: (), lambda params, key, direction: jnp.array(rgb))


def random() -> Background:
  """A new color for each view: what is transparent cannot hide."""
  return Background(lambda key: (), lambda params, key, direction: jax.random.uniform(key, (3,)))


def black_or_white() -> Background:
  """Black or white for each view: all that the empirical prior's images have."""
  return Background(lambda key: (), lambda params, key, direction: jnp.full(
      3, jax.random.bernoulli(key), jnp.float32))


def learned(*, rgb: tuple[float, float, float] = (.5, .5, .5)) -> Background:
  """One color, learned.

  Args:
    rgb: the color at the start, above 0 and below 1.
  """
  logit = lambda p: jnp.log(p) - jnp.log1p(-p)
  return Background(lambda key: {'raw': logit(jnp.array(rgb))},
                    lambda params, key, direction: jax.nn.sigmoid(params['raw']))


def harmonics(direction: Float[Array, '3']) -> Float[Array, '9']:
  """The real spherical harmonics of degrees 0 to 2 of a unit vector, orthonormal on the sphere
  (Sloan 2008)."""
  x, y, z = direction
  linear, square = .48860251, 1.0925484
  return jnp.stack([jnp.full_like(x, .28209479), linear * y, linear * z, linear * x, square * x * y,
                    square * y * z,
                    .94617470 * z * z - .31539157, square * x * z, .5 * square * (x * x - y * y)])


def environment(*, width: int = 16) -> Background:
  """A small network of the ray's direction (DreamFusion A.2): harmonics and two layers without
  biases, as threestudio's.

  Args:
    width: units of each layer.
  """
  return Background(lambda key: {'network': fields.network_init(key, (9, width, width, 3))},
                    lambda params, key, direction: jax.nn.sigmoid(
                        fields.network(params['network'], harmonics(direction))))


def hash_map(*, levels: int = 4, base: int = 4, finest: int = 256, log2_table: int = 19,
             width: int = 16) -> Background:
  """`environment` with a hash grid of the direction in place of harmonics (ScaleDreamer's single
  prompts).

  Args:
    levels, base, finest, log2_table: of the grid, as scenes/hashgrid.py's.
    width: units of each layer.
  """
  sizes = [hashgrid.resolution(l, levels=levels, base=base, finest=finest) for l in range(levels)]

  def init(key: Key[Array, '']):
    k_tables, k_network = jax.random.split(key)
    return {'tables': hashgrid.init_tables(k_tables, sizes, per_level=2, log2_table=log2_table),
            'network': fields.network_init(k_network, (2 * levels, width, width, 3))}

  def color(params, key, direction):
    return jax.nn.sigmoid(fields.network(params['network'],
                                         hashgrid.encode(params['tables'], direction, sizes=sizes)))

  return Background(init, color)


def hypernet(*, text: int = 128, levels: int = 16, size: int = 16, width: int = 64,
             hidden: int = 64) -> Background:
  """A map of each prompt's own: grids of the direction which prompts share, and a network of one
  layer that a hypernetwork writes (ScaleDreamer's Hyper-iNGP). `text` is the size of y.pooled.

  Args:
    levels: grids.
    size: cells a side of each grid.
    width: units of the network.
    hidden: units of the hypernetwork.
  """
  net = hyper_ingp.Hypernet(((2 * levels, width), (width, 3)), hidden)

  def init(key: Key[Array, '']):
    k_tables, k_net = jax.random.split(key)
    return {'tables': hashgrid.init_tables(k_tables, [size] * levels, per_level=2, log2_table=19),
            'hypernet': net.init(k_net, jnp.zeros(text))['params']}

  def prepare(params, y):
    return {'tables': params['tables'], 'network': net.apply({'params': params['hypernet']},
                                                             y.pooled)}

  def color(code, key, direction):
    return jax.nn.sigmoid(fields.network(code['network'], hashgrid.encode(code['tables'], direction,
                                                                          sizes=[size] * levels)))

  return Background(init, color, prepare)


def mixed(background: Background, *, probability: float = .5) -> Background:
  """In this share of the views, a random color instead (threestudio's random_aug): the map cannot
  draw the object."""
  def color(code, key, direction):
    k_which, k_random, k_inner = jax.random.split(key, 3)
    other = jax.random.uniform(k_random, (3,))
    return jnp.where(jax.random.bernoulli(k_which, probability), other,
                     background.color(code, k_inner, direction))

  return background._replace(color=color)


def with_background(scene: Scene, background: Background) -> Scene:
  """The scene whose parameters, and whose code, are {'field', 'background'}; all but the renderer's
  `background` looks at the first."""
  adopt = scene.adopt
  of_field = lambda f: f and (lambda code, *args, **options: f(code['field'], *args, **options))
  def init(key):
    k_field, k_background = jax.random.split(key)
    return {'field': scene.init(k_field), 'background': background.init(k_background)}
  def prepare(params, y):
    return {'field': scene.prepare(params['field'], y),
            'background': background.prepare(params['background'], y)}
  def focus(code, step):
    return code | {'field': scene.focus(code['field'], step)}
  return Scene(init, prepare, of_field(scene.field), focus,
               *map(of_field, (scene.distance, scene.render, scene.mesh)),
               clearness=of_field(scene.clearness),
               adopt=adopt and (lambda params, object: params | {
                 'field': adopt(params['field'], object)}), given=scene.given)
