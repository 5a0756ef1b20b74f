r"""Trains the autoencoder of toybox-sd, on renders under random backgrounds.

  python -m jaxdreamer.toybox.train_autoencoder --images=200000    # hours of two cores
  python -m jaxdreamer.toybox.train_autoencoder --minutes=3 --batch=256 --steps_per_call=16 \
      --fresh=512 --slots=65536 --dtype=bfloat16

Squared error and a little of the divergence from a unit normal (Kingma & Welling 2014; Rombach et
al. 2022, Sec. 3.1), no discriminator: what the toybox shows has no texture that one would have to
invent. An object's pixels weigh more, for there are the eyes and buttons; a quarter of the pictures
are half transparent, as what a scene shows before it has become one. Resumes from --workdir.
"""
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from PIL import Image

from jaxdreamer.toybox import render_buffer, sd, trainer

FLAGS = flags.FLAGS
DIVERGENCE = 1e-4    # weight of a latent number's, beside the squared error of a pixel in [-1, 1]
OBJECT_WEIGHT = 4.   # of a pixel of the object, beside the 1 of every pixel
FADED = .25          # the share of pictures whose object is half transparent


def pictures(key, ring, n, *, faded=FADED):
  """`n` pictures [n, H, W, 3] in [0, 1] and where the object is [n, H, W]."""
  k_slot, k_back, k_fade, k_which = jax.random.split(key, 4)
  pick = render_buffer.some(k_slot, ring, n)
  back = jax.vmap(lambda k: render_buffer.background(k, sd.SIZE))(jax.random.split(k_back, n))
  x = jax.vmap(render_buffer.composite)(pick.rgb, pick.mask, back)
  seen = jnp.where(jax.random.uniform(k_which, (n,)) < faded, jax.random.uniform(k_fade, (n,)), 1.)
  return back + seen[:, None, None, None] * (x - back), pick.mask / 255.


def examples(key, ring, n):
  """`pictures`."""
  return pictures(key, ring, n)


def loss(params, key, x, mask, *, emphasis=1., dtype=jnp.float32):
  """Mean squared error in [-1, 1], weighted, and DIVERGENCE times the mean divergence of a latent
  number from N(0, 1)."""
  mean, logvar = sd.encode(params, x, dtype=dtype)
  z = mean + jnp.exp(.5 * logvar) * jax.random.normal(key, mean.shape)
  off = 4. * (sd.decode(params, z, dtype=dtype) - x) ** 2
  weight = 1. + OBJECT_WEIGHT * emphasis * mask[..., None]
  divergence = .5 * jnp.mean(mean ** 2 + jnp.exp(logvar) - 1. - logvar)
  return jnp.mean(weight * off) / jnp.mean(weight) + DIVERGENCE * divergence


@jax.jit
def _seen(weights, key):
  k_pool, k_pick = jax.random.split(key)
  pool = render_buffer.batch(k_pool, 8, size=sd.SIZE, pairs=render_buffer.WORLD_PAIRS)
  x, mask = pictures(k_pick, pool, 8, faded=0.)
  mean, _ = sd.encode(weights, x)
  return x, mask, mean, jnp.clip(sd.decode(weights, mean), 0., 1.)


def held_out(key, weights, *, batches):
  """On `batches` of 8 renders of a composition that no training has seen: PSNR of pictures and of
  the object alone, in dB, means over pictures; mean and deviation of latents before the scaling
  factor; and some pictures above what became of them."""
  rows, sheet, means = [], [], []
  for k in jax.random.split(key, batches):
    x, mask, mean, y = (np.asarray(a) for a in _seen(weights, k))
    off = ((x - y) ** 2).mean(-1)
    rows.append(-10. * np.log10(np.stack([off.mean((1, 2)),
                                          (mask * off).sum((1, 2)) / mask.sum((1, 2))])))
    sheet.append(np.concatenate([x[0], y[0]]))
    means.append(mean)
  psnr, object_psnr = np.concatenate(rows, 1).mean(1)
  latents = np.concatenate(means)
  return {'psnr': float(psnr), 'object_psnr': float(object_psnr),
          'mean': float(latents.mean()), 'deviation': float(latents.std())}, Image.fromarray(
              (255. * np.concatenate(sheet[:12], 1)).astype(np.uint8))


def look(weights, i):
  """Held-out scores; pictures in --workdir."""
  key = jax.random.fold_in(jax.random.key(FLAGS.seed), 2)
  scores, sheet = held_out(key, weights, batches=16)
  sheet.save(os.path.join(FLAGS.workdir, f'pictures_{i:06d}.png'))
  return scores


def optimizer():
  """As train_geometry's: Muon for every kernel."""
  return trainer.muon(trainer.kernels, adam_rate=1. / 3.)


TASK = trainer.Task(sd.init_autoencoder, optimizer,
                    lambda key: render_buffer.batch(key, FLAGS.fresh, size=sd.SIZE), examples,
                    loss, lambda params: params, look)


def main(_):
  """Trains the autoencoder, from where the last run of --workdir ended."""
  params = jax.jit(TASK.init)(jax.random.fold_in(jax.random.key(FLAGS.seed), 0))
  if FLAGS.start:
    params, _ = sd.load_autoencoder(pathlib.Path(FLAGS.start))
  weights, metadata = trainer.run(TASK, params, command='jaxdreamer.toybox.train_autoencoder')
  scores, _ = held_out(jax.random.key(10 ** 6), weights, batches=64)
  sd.save_autoencoder(pathlib.Path(FLAGS.out), weights, scale=1. / scores['deviation'],
                      metadata=metadata | {'scores': scores})


if __name__ == '__main__':
  trainer.options(images=200_000, rate=6e-3, slots=8192, workdir='runs/autoencoder',
                  out='jaxdreamer/assets/toybox_sd')
  app.run(main)
