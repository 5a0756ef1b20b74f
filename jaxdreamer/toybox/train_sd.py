r"""Trains the UNet and the text encoder of toybox-sd, on latents of endless fresh renders.

  python -m jaxdreamer.toybox.train_sd --images=1000000            # a night of two cores
  python -m jaxdreamer.toybox.train_sd --minutes=7.5 --batch=256 --steps_per_call=32 \
      --fresh=512 --slots=65536 --dtype=bfloat16 --rate=2e-3 --every=4000 --nolook

--out holds the autoencoder already, by train_autoencoder. Words alone tell what is to be seen, and
in .6 of the captions from where, as in Stable Diffusion's own: no camera, no mask, no normals. Loss
is that of v, whatever the network predicts: an error of eps alone says next to nothing where all is
noise, and that is where words decide (Salimans & Ho 2022, Sec. 4). What the caption names is read
off the end of the text too, as in train_prior, by heads that training alone needs; captions are
dropped in a tenth of the pictures. Resumes from --workdir.
"""
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from jaxtyping import Array, Float16, Int, UInt8
from optax import contrib

from jaxdreamer.diffusion import PREDICTIONS, bcast, diffuse
from jaxdreamer.toybox import (
  geometry,
  render_buffer,
  sd,
  sd_inspection,
  train_prior,
  trainer,
  views,
  world,
)

FLAGS = flags.FLAGS
CAPTION_DROPPED, VIEW_WORDS = train_prior.CAPTION_DROPPED, train_prior.VIEW_WORDS
SCHEDULE = sd.schedule()


class Ring(NamedTuple):
  """Latents of pictures, whose background they keep: to encode costs as much as a step."""
  mean: Float16[Array, 'P h w 4']                # of a variance of 1
  spread: Float16[Array, 'P h w 4']              # the posterior's deviation
  mask: UInt8[Array, 'P h w']
  item: world.Item                               # [P]
  view: Int[Array, 'P']                          # its words, as views.view_bin


def renders(key, autoencoder, scale, *, fresh):
  """`fresh` latents of one composition."""
  k_pool, k_back = jax.random.split(key)
  pool = render_buffer.batch(k_pool, fresh, size=sd.SIZE)
  back = jax.vmap(lambda k: render_buffer.background(k, sd.SIZE))(jax.random.split(k_back, fresh))
  posterior = sd.encode(autoencoder, jax.vmap(render_buffer.composite)(pool.rgb, pool.mask, back))
  mask = pool.mask.reshape(fresh, sd.SIDE, sd.SIZE // sd.SIDE, sd.SIDE, -1)
  half = lambda a: (scale * a).astype(jnp.float16)
  return Ring(half(posterior.mean), half(jnp.exp(.5 * posterior.logvar)),
              jnp.mean(mask.astype(jnp.float32), (2, 4)).astype(jnp.uint8), pool.item,
              views.view_bin(pool.camera.azimuth, pool.camera.elevation))


def examples(key, ring, n):
  """`n` latents of the ring, token ids, the object's share of each place, and the classes of what
  the caption names, -1 where there is none."""
  k_slot, k_draw, k_words, k_seen, k_blank = jax.random.split(key, 5)
  pick = render_buffer.some(k_slot, ring, n)
  mean, spread = (a.astype(jnp.float32) for a in (pick.mean, pick.spread))
  z = mean + spread * jax.random.normal(k_draw, mean.shape)
  view = jnp.where(jax.random.uniform(k_seen, (n,)) < VIEW_WORDS, pick.view, -1)
  ids = jax.vmap(sd.tokens)(jax.random.split(k_words, n), pick.item, view)
  blank = jax.random.uniform(k_blank, (n,)) < CAPTION_DROPPED
  ids = jnp.where(blank[:, None], sd.blank(), ids)
  classes = {name: jnp.where(blank, -1, label)
             for name, label in geometry.labels(pick.item, False).items()}
  return z, ids, pick.mask / 255., classes


def loss(params, key, z, ids, mask, classes, *, prediction, emphasis=1., dtype=jnp.float32):
  """Mean squared error of v, whose weights are `train_prior.loss`'s, and MEANING_WEIGHT of
  `misread`; times are stratified over the batch."""
  k_t, k_eps = jax.random.split(key)
  n = len(z)
  t = (jnp.arange(n) + jax.random.uniform(k_t, (n,))) / n
  eps = jax.random.normal(k_eps, z.shape)
  words, pooled = sd.embed(params, ids)
  z_t, alpha, sigma = diffuse(z, t, eps, schedule=SCHEDULE), SCHEDULE.alpha(t), SCHEDULE.sigma(t)
  out = sd.predict(params, z_t, t, words, dtype=dtype)
  eps_hat = PREDICTIONS[prediction].eps(out, z_t, bcast(alpha, z), bcast(sigma, z))
  weight = 1. + train_prior.OBJECT_WEIGHT * emphasis * mask[..., None]
  off = bcast(PREDICTIONS['v_prediction'].error(alpha, sigma), z) * (eps_hat - eps)
  return (jnp.mean(weight * off ** 2) / jnp.mean(weight)
          + train_prior.MEANING_WEIGHT * train_prior.misread(params['meaning'], pooled, classes))


def optimizer():
  """As train_prior's: Muon for the matrices through which words and times act."""
  def matrices(params):
    def of(path, x):
      name = jax.tree_util.keystr(path)
      acts = name.endswith("['kernel']") and x.ndim == 2 and any(part in name for part in (
          'time_emb_proj', 'attn2', 'text_model'))
      return contrib.MuonDimensionNumbers((0,), (1,)) if acts else None
    return jax.tree_util.tree_map_with_path(of, params)
  return optax.chain(optax.clip_by_global_norm(1.), contrib.muon(
      1., adam_learning_rate=1., muon_weight_dimension_numbers=matrices, consistent_rms=.2,
      adam_b2=.99, eps=1e-15, weight_decay=.01, adam_weight_decay=.01))


def init(key):
  """The weights, and 'meaning', the heads that read the end of the text."""
  return sd.init(key) | {'meaning': train_prior.heads(sd.TEXT['hidden_size'])}


def shipped(params):
  """Those of the weights that are shipped."""
  return {name: params[name] for name in ('unet', 'text_model')}


def task(folder):
  """The training on the latents of the autoencoder in `folder`."""
  autoencoder, scale = sd.load_autoencoder(folder)

  def look(weights, i):
    k_held, k_grid = jax.random.split(jax.random.fold_in(jax.random.key(FLAGS.seed), 2))
    model = sd_inspection.Model(weights, autoencoder, scale, FLAGS.prediction)
    sd_inspection.grid(k_grid, model).save(os.path.join(FLAGS.workdir, f'samples_{i:06d}.png'))
    return sd_inspection.held_out(k_held, model, batches=16)

  return trainer.Task(init, optimizer,
                      lambda key: renders(key, autoencoder, scale, fresh=FLAGS.fresh), examples,
                      lambda *args, **kw: loss(*args, prediction=FLAGS.prediction, **kw), shipped,
                      look)


def main(_):
  """Trains toybox-sd, from where the last run of --workdir ended."""
  folder = pathlib.Path(FLAGS.out)
  made = task(folder)
  params = jax.jit(init)(jax.random.fold_in(jax.random.key(FLAGS.seed), 0))
  if FLAGS.start:
    params |= sd.load(pathlib.Path(FLAGS.start))
  weights, metadata = trainer.run(made, params, command='jaxdreamer.toybox.train_sd')
  sd.save(folder, weights, prediction=FLAGS.prediction, metadata=metadata)


if __name__ == '__main__':
  trainer.options(images=1_000_000, rate=1.5e-3, slots=16384, workdir='runs/sd',
                  out='jaxdreamer/assets/toybox_sd')
  flags.DEFINE_enum('prediction', 'epsilon', ['epsilon', 'v_prediction'],
                    'what the UNet predicts')
  app.run(main)
