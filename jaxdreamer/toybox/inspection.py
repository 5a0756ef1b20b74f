"""The toybox's prior as one watches it train: its errors on renders that it never saw, and a
picture of what it draws."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxdreamer import cameras
from jaxdreamer.diffusion import diffuse
from jaxdreamer.toybox import network, render_buffer, views, world

TIMES = (.5, .8, .95)                    # at which held-out errors are taken
CAPTIONS = ('a red cube', 'a blue torus', 'a green cone on a yellow cylinder', 'a yellow mug',
            'a red car', 'a snowman with a blue hat', 'a purple house', 'an orange chair',
            'a blue ball beside a red cube', 'a white duck')


@partial(jax.jit, static_argnames='n')
def _errors(key, weights, *, n):
  k_pool, k_back, k_words, k_noise = jax.random.split(key, 4)
  source = render_buffer.batch(k_pool, n, size=network.SIZE, pairs=render_buffer.WORLD_PAIRS)
  z = network.encode(render_buffer.shown(k_back, source))
  bins = views.view_bin(source.camera.azimuth, source.camera.elevation)
  text = network.embed(weights, jax.vmap(world.tokens)(jax.random.split(k_words, n),
                                                       source.item, bins))
  vector, seen = jax.vmap(cameras.camera_vector)(source.camera), network.geometry(
      source.mask, source.normal)
  patches = network.PATCH ** 2
  row = {}
  for t, k in zip(TIMES, jax.random.split(k_noise, len(TIMES))):
    ts = jnp.full(n, t)
    z_t = diffuse(z, ts, jax.random.normal(k, z.shape), schedule=network.SCHEDULE)
    x0_hat, seen_hat = network.predict(weights, z_t, ts, text, vector)
    off, here = (x0_hat - z) ** 2, network.of_object(seen)
    row |= {f'x0_{t}': jnp.mean(off), f'object_{t}': jnp.sum(here * off) / jnp.sum(here),
            f'mask_{t}': jnp.mean((seen_hat - seen)[..., :patches] ** 2)}
  return row


def held_out(key, weights, *, batches, n=8):
  """Errors on `batches` of `n` renders that a key never used in training fixes, words, view and
  camera told: mean squared error of x0 everywhere and on the object's pixels, and of the mask, at
  each of TIMES."""
  rows = [_errors(k, weights, n=n) for k in jax.random.split(key, batches)]
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def grid(key, weights, *, columns=8):
  """A picture of samples: a row a caption, a column an azimuth; the left half is told words, the
  right the camera."""
  azimuth = np.tile(np.arange(columns // 2) * 2 * np.pi / (columns // 2), 2)
  camera = jax.vmap(lambda a: cameras.orbital(a, jnp.radians(20.), jnp.float32(3.),
                                              jnp.radians(40.)))(jnp.asarray(azimuth))
  bins = np.asarray(views.view_bin(camera.azimuth, camera.elevation))
  words = ('front', 'side', 'back', 'overhead')
  vector = jax.vmap(cameras.camera_vector)(camera) * (jnp.arange(columns) >= columns // 2)[:, None]
  rows = []
  for caption in CAPTIONS:
    ids = np.stack([world.tokenize(f'{caption}, {words[b]} view' if j < columns // 2 else caption)
                    for j, b in enumerate(bins)])
    rows.append(np.concatenate(list(np.asarray(network.sample(weights, key, jnp.asarray(ids),
                                                              vector))), 1))
  return Image.fromarray((255 * np.clip(np.concatenate(rows), 0, 1)).astype(np.uint8))
