"""toybox-sd as one watches it train and as it is scored: errors on renders that it never saw,
guided samples, and what the reader makes of them."""
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from PIL import Image

from jaxdreamer import cameras
from jaxdreamer.diffusion import PREDICTIONS, bcast, ddim, diffuse, guide, x0_from_eps
from jaxdreamer.nn import mvdream
from jaxdreamer.toybox import (
  geometry,
  inspection,
  language,
  render_buffer,
  sd,
  sd_text,
  views,
  world,
)

SCHEDULE = sd.schedule()


class Model(NamedTuple):
  """A folder's weights."""
  weights: PyTree                                # {'unet', 'text_model'}
  autoencoder: PyTree
  scale: float
  prediction: str


def load(folder) -> Model:
  """The toybox-sd of a folder."""
  autoencoder, scale = sd.load_autoencoder(folder)
  return Model(sd.load(folder), autoencoder, scale, sd.prediction_of(folder))


def eps_of(weights, z_t, t, words, where, *, prediction):
  """The noise in z_t; `where` as sd.predict's."""
  return PREDICTIONS[prediction].eps(sd.predict(weights, z_t, t, words, where), z_t,
                                     bcast(SCHEDULE.alpha(t), z_t), bcast(SCHEDULE.sigma(t), z_t))


@partial(jax.jit, static_argnames=('n', 'prediction'))
def _errors(key, weights, autoencoder, scale, *, n, prediction):
  k_pool, k_back, k_words, k_noise = jax.random.split(key, 4)
  pool = render_buffer.batch(k_pool, n, size=sd.SIZE, pairs=render_buffer.WORLD_PAIRS)
  x = render_buffer.shown(k_back, pool)
  z = scale * sd.encode(autoencoder, x).mean
  mask = jax.image.resize(pool.mask / 255., (n, sd.SIDE, sd.SIDE), 'linear')[..., None]
  view = views.view_bin(pool.camera.azimuth, pool.camera.elevation)
  ids = jax.vmap(sd_text.tokens)(jax.random.split(k_words, n), pool.item, view)
  words, _ = sd.embed(weights, ids)
  row = {}
  for time, k in zip(inspection.TIMES, jax.random.split(k_noise, len(inspection.TIMES))):
    t = jnp.full(n, time)
    z_t = diffuse(z, t, jax.random.normal(k, z.shape), schedule=SCHEDULE)
    eps_hat = eps_of(weights, z_t, t, words, None, prediction=prediction)
    off = (x0_from_eps(eps_hat, z_t, bcast(SCHEDULE.alpha(t), z),
                       bcast(SCHEDULE.sigma(t), z)) - z) ** 2
    row |= {f'x0_{time}': jnp.mean(off),
            f'object_{time}': jnp.sum(mask * off) / jnp.sum(mask) / z.shape[-1]}
  return row


def held_out(key, model, *, batches, n=8):
  """Mean squared error of latents, everywhere and on the object, at each of inspection.TIMES, on
  `batches` of `n` renders that a key never used in training fixes, words and view told."""
  rows = [_errors(k, *model[:3], n=n, prediction=model.prediction)
          for k in jax.random.split(key, batches)]
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@partial(jax.jit, static_argnames='prediction')
def guided(weights, z_t, t, text, null, where, scale, *, prediction):
  """Guided noise prediction."""
  double = lambda a: jnp.concatenate([a, a])
  eps = eps_of(weights, double(z_t), double(t), jnp.concatenate([text, null]),
               jax.tree.map(double, where), prediction=prediction)
  return guide(*jnp.split(eps, 2), scale)


def sample(key, model, ids, *, where=None, guidance=3., steps=20):
  """Guided DDIM samples [n, H, W, 3] of token rows [n, L]; `where` as sd.predict's."""
  words = jax.jit(lambda weights, ids: sd.embed(weights, ids)[0])
  text = words(model.weights, ids)
  null = words(model.weights, jnp.broadcast_to(sd_text.blank(), ids.shape))
  z = jax.random.normal(key, (len(ids), sd.SIDE, sd.SIDE, 4))
  eps = lambda z_t, t: guided(model.weights, z_t, t, text, null, where, guidance,
                              prediction=model.prediction)
  z = ddim(eps, z, np.linspace(1., 1. / steps, steps), schedule=SCHEDULE)
  return jnp.clip(jax.jit(sd.decode)(model.autoencoder, z / model.scale), 0., 1.)


def sheet(x, columns):
  """One picture of pictures [n, H, W, 3], row by row."""
  rows = [np.concatenate(list(x[i:i + columns]), 1) for i in range(0, len(x), columns)]
  return Image.fromarray((255. * np.concatenate(rows)).astype(np.uint8))


def grid(key, model, *, columns=4):
  """A picture of samples: a row a caption, a column each of front, side, back and overhead."""
  said = [f'{caption}, {language.VIEW_WORDS[j % 4]} view'
          for caption in inspection.CAPTIONS for j in range(columns)]
  x = np.concatenate([np.asarray(sample(jax.random.fold_in(key, i), model, jnp.asarray(
      sd_text.tokenize(said[i:i + 20])))) for i in range(0, len(said), 20)])
  return sheet(x, columns)


def fidelity(model, reader, *, samples, batch=32):
  """Accuracy of the parts of random captions, with view words, as the reader sees them in samples.
  Words do not tell on which side of the toys the camera stands: of two beside one another either
  may be on the left, and the likelier reading counts."""
  seen = []
  for i in range(0, samples, batch):
    k_item, k_words, k_camera, k_noise = jax.random.split(
        jax.random.fold_in(jax.random.key(1), i), 4)
    items = jax.vmap(world.sample)(jax.random.split(k_item, batch))
    camera = jax.vmap(views.sample_camera)(jax.random.split(k_camera, batch))
    ids = jax.vmap(sd_text.tokens)(jax.random.split(k_words, batch), items,
                              views.view_bin(camera.azimuth, camera.elevation))
    logp = geometry.read(reader, sample(k_noise, model, ids))
    likely, right = [], []
    for turned in (False, True):
      classes = geometry.labels(items, turned)
      likely.append(sum(jnp.take_along_axis(logp[k], classes[k][:, None], -1) for k in classes))
      right.append(geometry.right(logp, classes))
    first = (likely[0] >= likely[1])[:, 0]
    seen.append(jax.tree.map(lambda a, b, first=first: jnp.where(first, a, b), *right))
  right = jax.tree.map(lambda *rows: np.concatenate(rows), *seen)
  return {f'{name}_accuracy': float(np.mean(right[name])) for name in right}


def picture(prior, z, prompt, *, scale, steps):
  """The guided DDIM pictures [n, H, W, 3] of noise z [n, h, w, 4] by a published model's Prior,
  whose steps are those of diffusers' sampler with 'leading' spacing and an offset of 1: of 20, 951,
  901, ... 1."""
  text = prior.embed(prompt, '')
  rows = lambda row: jnp.stack([row] * len(z))

  @jax.jit
  def eps(z_t, t):
    both = prior.eps(jnp.concatenate([z_t] * 2), jnp.concatenate([t] * 2),
                     jnp.concatenate([rows(text.plain), rows(text.null)]), None)
    return guide(*jnp.split(both, 2), scale)
  count = sd.SCHEDULER['num_train_timesteps']
  times = (np.arange(steps)[::-1] * (count // steps) + 1.) / (count - 1)
  return jnp.clip(prior.decode(ddim(eps, z, times, schedule=prior.schedule)), 0., 1.)


def turntables(key, model, *, elevation=20.):
  """A picture of samples of a model that sees cameras: a row a caption, the four views of one
  scene."""
  rings = [(sd.TURNS, np.radians(elevation))] * len(inspection.CAPTIONS)
  where = mvdream.camera_vector(jax.tree.map(jnp.asarray, cameras.orbit(*rings)))
  ids = jnp.repeat(jnp.asarray(sd_text.tokenize(list(inspection.CAPTIONS))), sd.TURNS, 0)
  return sheet(np.asarray(sample(key, model, ids, where=where)), sd.TURNS)
