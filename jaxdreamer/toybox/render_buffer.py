"""An endless stream of fresh renders for training: a ring of images, a few of which are replaced at
every step.

A batch of renders shares one composition (so that tracing it is straight-line code) and differs in
colors, patterns, camera and light; the ring mixes compositions, and lets every image be seen a few
times under new backgrounds, words and noise. What a call of a training adds depends on (key, index
of the call) alone: a resumed run rebuilds its ring exactly.
"""
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8, Key, PyTree, UInt8

from jaxdreamer import cameras
from jaxdreamer.toybox import views, world
from jaxdreamer.types import Camera

PAIRS = .5  # the share of pairs in training, where they are harder than toys alone
WORLD_PAIRS = .4                     # and of what is held out, as of the world's captions


class Pool(NamedTuple):
  rgb: UInt8[Array, 'P H W 3']         # premultiplied by mask
  mask: UInt8[Array, 'P H W']
  normal: Int8[Array, 'P H W 3']       # 127 times the world's, premultiplied by mask
  item: world.Item                     # [P]
  camera: Camera                       # [P]


def draw(key: Key[Array, ''], n: int, *, size: int, supersample: int = 2, pairs: float = PAIRS,
         turns: int = 1) -> tuple[world.Item, Camera, views.View]:
  """`n` renders of one random composition: items [n], cameras [n], View [n]; `turns` successive
  ones are of one item in one light, from azimuths that divide the circle."""
  k_what, k_item, k_camera, k_light = jax.random.split(key, 4)
  composition = world.sample_composition(k_what, pairs=pairs)
  each = lambda make, k: jax.tree.map(lambda a: jnp.repeat(a, turns, 0),
                                      jax.vmap(make)(jax.random.split(k, n // turns)))
  items = each(lambda k: world.sample_of(k, *composition), k_item)
  camera, light = each(views.sample_camera, k_camera), each(views.sample_light, k_light)
  if turns > 1:
    step = 2. * jnp.pi / turns * (jnp.arange(n) % turns)
    camera = jax.vmap(cameras.orbital)(camera.azimuth + step, camera.elevation, camera.distance,
                                       camera.fov)
  one = items._replace(kind=items.kind[0], relation=items.relation[0])
  return items, camera, views.render_batch(one, camera, light, size=size, supersample=supersample)


def batch(key: Key[Array, ''], n: int, *, size: int, pairs: float = PAIRS,
          turns: int = 1) -> Pool:
  """`n` fresh slots; `turns` as in `draw`."""
  items, camera, view = draw(key, n, size=size, pairs=pairs, turns=turns)
  byte = lambda a: jnp.round(255. * jnp.clip(a, 0., 1.)).astype(jnp.uint8)
  normal = jnp.round(127. * view.normal * view.mask[..., None]).astype(jnp.int8)
  return Pool(byte(view.rgb), byte(view.mask), normal, items, camera)


def refresh(key: Key[Array, ''], ring: PyTree, j: Int[Array, ''], make: Callable, *,
            compositions: int) -> PyTree:
  """The ring with what call `j` of a training adds, in the place after that of the call before:
  `make(key)` for each of `compositions` keys. The ring's length is a multiple of what is added."""
  keys = jax.random.split(jax.random.fold_in(key, j), compositions)
  fresh = make(keys[0]) if compositions == 1 else jax.tree.map(
      lambda a: a.reshape(-1, *a.shape[2:]), jax.lax.map(make, keys))
  slots, n = (jax.tree.leaves(tree)[0].shape[0] for tree in (ring, fresh))
  return jax.tree.map(lambda p, f: jax.lax.dynamic_update_slice_in_dim(p, f, j % (slots // n) * n,
                                                                       0), ring, fresh)


def fill(key: Key[Array, ''], j: int, make: Callable, *, compositions: int, slots: int,
         sharding: Any = None
         ) -> tuple[PyTree, Callable]:
  """The ring as call `j` finds it, with what the calls before it have added, or would have; and the
  compiled (ring, index of a call) -> ring that adds, in the memory of the ring it is given.
  `sharding` says where the ring lies."""
  one = jax.eval_shape(make, key)
  ring = jax.tree.map(lambda s: jnp.zeros((slots, *s.shape[1:]), s.dtype), one)
  add = jax.jit(lambda ring, k: refresh(key, ring, k, make, compositions=compositions),
                donate_argnums=0,
                **({'out_shardings': sharding} if sharding else {}))
  for k in range(j - slots // (compositions * jax.tree.leaves(one)[0].shape[0]), j):
    ring = add(ring, jnp.int32(k))
  return ring, add


def some(key: Key[Array, ''], ring: PyTree, n: int) -> PyTree:
  """`n` slots at random."""
  slot = jax.random.randint(key, (n,), 0, jax.tree.leaves(ring)[0].shape[0])
  return jax.tree.map(lambda a: a[slot], ring)


def background(key: Key[Array, ''], size: int) -> Float[Array, 'H W 3']:
  """A constant gray, a constant color or a linear gradient between two colors, a third each."""
  k_kind, k_colors, k_angle = jax.random.split(key, 3)
  kind = jax.random.randint(k_kind, (), 0, 3)
  a, b = jax.random.uniform(k_colors, (2, 1, 1, 3))
  angle = jax.random.uniform(k_angle, maxval=2. * jnp.pi)
  u = (jnp.arange(size) + .5) / size - .5
  ramp = .5 + (jnp.cos(angle) * u[:, None] + jnp.sin(angle) * u[None, :]) / 1.5
  ramp = jnp.where(kind == 2, ramp, 0.)[..., None]
  return jnp.where(kind == 0, a[..., :1], a) * (1. - ramp) + b * ramp


def composite(rgb: UInt8[Array, 'H W 3'], mask: UInt8[Array, 'H W'],
              back: Float[Array, 'H W 3']) -> Float[Array, 'H W 3']:
  """Premultiplied color over `back`, in [0, 1]; rgb and mask are 0 to 255."""
  return (rgb + (255. - mask.astype(jnp.float32))[..., None] * back) / 255.


def shown(key: Key[Array, ''], renders: Any) -> Float[Array, 'N H W 3']:
  """Renders [N], of which rgb and mask are read, each over a background of its own, in [0, 1]."""
  n, size = renders.rgb.shape[:2]
  back = jax.vmap(lambda k: background(k, size))(jax.random.split(key, n))
  return jax.vmap(composite)(renders.rgb, renders.mask, back)
