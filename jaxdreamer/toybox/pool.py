"""An endless stream of fresh renders for training: a ring of images, a few of which are replaced at every step.

A batch of renders shares one composition (so that tracing it is straight-line code) and differs in colours, patterns,
camera and light; the ring mixes compositions, and lets every image be seen a few times under new backgrounds, words and
noise. Slot contents depend on (key, batch index) alone: a resumed run rebuilds its ring exactly.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8, Key, PyTree, UInt8

from jaxdreamer.toybox import views, world
from jaxdreamer.types import Camera


class Pool(NamedTuple):
  rgb: UInt8[Array, 'P H W 3']         # premultiplied by mask
  mask: UInt8[Array, 'P H W']
  normal: Int8[Array, 'P H W 3']       # 127 times the world's, premultiplied by mask
  item: world.Item                     # [P]
  camera: Camera                       # [P]


def draw(key: Key[Array, ''], n: int, *, size: int, supersample: int = 2) -> tuple[world.Item, Camera, views.View]:
  """`n` renders of one random composition: items [n], cameras [n], View [n]."""
  k_what, k_item, k_camera, k_light = jax.random.split(key, 4)
  composition = world.sample_composition(k_what)
  items = jax.vmap(lambda k: world.sample_of(k, *composition))(jax.random.split(k_item, n))
  camera = jax.vmap(views.sample_camera)(jax.random.split(k_camera, n))
  light = jax.vmap(views.sample_light)(jax.random.split(k_light, n))
  one = items._replace(kind=items.kind[0], relation=items.relation[0])
  return items, camera, views.render_batch(one, camera, light, size=size, supersample=supersample)


def batch(key: Key[Array, ''], n: int, *, size: int) -> Pool:
  """`n` fresh slots."""
  items, camera, view = draw(key, n, size=size)
  byte = lambda a: jnp.round(255. * jnp.clip(a, 0., 1.)).astype(jnp.uint8)
  normal = jnp.round(127. * view.normal * view.mask[..., None]).astype(jnp.int8)
  return Pool(byte(view.rgb), byte(view.mask), normal, items, camera)


def write(pool: PyTree, fresh: PyTree, at: Int[Array, '']) -> PyTree:
  """`fresh` into the ring from slot `at` on; the ring's length is a multiple of the batch's."""
  return jax.tree.map(lambda p, f: jax.lax.dynamic_update_slice_in_dim(p, f, at, 0), pool, fresh)


def background(key: Key[Array, ''], size: int) -> Float[Array, 'H W 3']:
  """A constant grey, a constant colour or a linear gradient between two colours, a third each."""
  k_kind, k_colours, k_angle = jax.random.split(key, 3)
  kind = jax.random.randint(k_kind, (), 0, 3)
  a, b = jax.random.uniform(k_colours, (2, 1, 1, 3))
  angle = jax.random.uniform(k_angle, maxval=2. * jnp.pi)
  u = (jnp.arange(size) + .5) / size - .5
  ramp = .5 + (jnp.cos(angle) * u[:, None] + jnp.sin(angle) * u[None, :]) / 1.5
  ramp = jnp.where(kind == 2, ramp, 0.)[..., None]
  return jnp.where(kind == 0, a[..., :1], a) * (1. - ramp) + b * ramp


def composite(rgb: UInt8[Array, 'H W 3'], mask: UInt8[Array, 'H W'], back: Float[Array, 'H W 3']) -> Float[Array, 'H W 3']:
  return (rgb + (255. - mask.astype(jnp.float32))[..., None] * back) / 255.
