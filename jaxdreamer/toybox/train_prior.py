r"""Trains the shipped text-conditioned prior on endless fresh renders.

  python -m jaxdreamer.toybox.train_prior --images=3000000         # a day of two cores
  python -m jaxdreamer.toybox.train_prior --minutes=9.15 --batch=256 --steps_per_call=32 \
      --fresh=512 --slots=65536 --dtype=bfloat16 --rate=2e-3 --every=4000 --nolook

The second made the shipped weights, on one H100.

x0-prediction, stratified t, denser where noise leaves words and camera to decide; mask and normals
predicted beside the image, and what the caption names read off the pooled text, by heads that
training alone needs; the object's pixels weigh more than the background, which no caption tells;
AdamW, EMA, a plateau and then a cosine decay over the last `--decay` of the run, of the rate and of
the object's weight alike. Captions are dropped in a tenth of the images, view words told in .6 of
them and the camera in .7. Resumes from `--workdir` by itself; a longer `--images` continues a run
that has not begun to decay. The batch is shared by all devices.
"""
import os

import jax
import jax.numpy as jnp
from absl import app, flags
from optax import contrib

from jaxdreamer import cameras
from jaxdreamer.diffusion import diffuse
from jaxdreamer.toybox import (
  geometry,
  inspection,
  meaning,
  network,
  render_buffer,
  trainer,
  views,
  world,
)
from jaxdreamer.weights import safetensors_io

FLAGS = flags.FLAGS
CAMERA_KEPT = .7
GEOMETRY_WEIGHT = .3
OBJECT_WEIGHT = 4.  # of a pixel of the object, beside the 1 of every pixel


def optimizer():
  """AdamW at rate 1; Muon (Jordan et al. 2024), rescaled to Adam's step sizes, for the matrices
  through which words, times and cameras act: it gives the faint directions of a gradient, as the
  camera's are, the step of the strong ones."""
  def matrices(params):
    def of(path, x):
      name = jax.tree_util.keystr(path)
      acts = 'kernel' in name and any(part in name for part in (
          'time_emb_proj', "class_embedding']['linear_2", 'text_model'))
      return contrib.MuonDimensionNumbers((0,), (1,)) if acts else None
    return jax.tree_util.tree_map_with_path(of, params)
  return trainer.muon(matrices)


def init(key):
  """The network's weights, and 'meaning', the heads that read the pooled text."""
  return network.init(key) | {'meaning': meaning.heads(network.TEXT.hidden_size)}


def networks(params):
  """Those of the weights that are shipped."""
  return {name: params[name] for name in ('unet', 'text_model')}


def examples(key, source, n):
  """`n` images of the ring as network inputs: latents, token ids, camera vectors, the geometry that
  is seen, and the classes of what the caption names, -1 where there is no caption."""
  k_slot, k_back, k_words, k_drop = jax.random.split(key, 4)
  pick = render_buffer.some(k_slot, source, n)
  x = render_buffer.shown(k_back, pick)
  told, seen, blank = jax.random.uniform(k_drop, (3, n))
  bins = jnp.where(seen < meaning.VIEW_WORDS,
                   views.view_bin(pick.camera.azimuth, pick.camera.elevation), -1)
  ids = jax.vmap(world.tokens)(jax.random.split(k_words, n), pick.item, bins)
  is_blank = blank < meaning.CAPTION_DROPPED
  ids = jnp.where(is_blank[:, None], jnp.asarray(world.tokenize(''))[None], ids)
  classes = {name: jnp.where(is_blank, -1, label)
             for name, label in geometry.labels(pick.item, False).items()}
  vector = jax.vmap(cameras.camera_vector)(pick.camera) * (told < CAMERA_KEPT)[:, None]
  return network.encode(x), ids, vector, network.geometry(pick.mask, pick.normal), classes


def loss(params, key, z, ids, vector, seen, classes, *, emphasis=1., dtype=jnp.float32):
  """Mean of |x0_hat - z|^2 over a batch, and GEOMETRY_WEIGHT as much of the geometry's,
  meaning.WEIGHT of `misread`.

  t is stratified over the batch and densest at 1 (density 1 / (2 sqrt(1 - t))): there words and
  camera decide what little noise leaves to guess. Most of the plain error is the background's, so
  the object's pixels weigh 1 + OBJECT_WEIGHT times `emphasis`, in a mean of 1; a weight that knows
  the truth leans the prediction towards 'object' where that is uncertain, and so ends at 0."""
  k_t, k_eps = jax.random.split(key)
  n = z.shape[0]
  t = 1. - (1. - (jnp.arange(n) + jax.random.uniform(k_t, (n,))) / n) ** 2
  eps = jax.random.normal(k_eps, z.shape)
  text = network.embed(params, ids)
  x0_hat, seen_hat = network.predict(params, diffuse(z, t, eps, schedule=network.SCHEDULE), t, text,
                                     vector, dtype=dtype)
  weight = 1. + OBJECT_WEIGHT * emphasis * network.of_object(seen)
  image = jnp.mean(weight * (x0_hat - z) ** 2) / jnp.mean(weight)
  return (image + GEOMETRY_WEIGHT * jnp.mean((seen_hat - seen) ** 2)
          + meaning.WEIGHT * meaning.misread(params['meaning'], text[:, 0], classes))


def renders(key, *, fresh):
  """`fresh` renders of one composition."""
  return render_buffer.batch(key, fresh, size=network.SIZE)


def begin(key):
  """What is trained, as it is before the first step, from --start or from random weights."""
  params = jax.jit(init)(key)
  if FLAGS.start:
    params |= safetensors_io.load(FLAGS.start, jax.eval_shape(network.init, jax.random.key(0)))
  return params


def look(weights, i):
  """Held-out errors, and a grid of samples in --workdir."""
  k_held, k_grid = jax.random.split(jax.random.fold_in(jax.random.key(FLAGS.seed), 2))
  inspection.grid(k_grid, weights).save(os.path.join(FLAGS.workdir, f'samples_{i:06d}.png'))
  return inspection.held_out(k_held, weights, batches=32)


TASK = trainer.Task(init, optimizer, lambda key: renders(key, fresh=FLAGS.fresh), examples, loss,
                    networks, look)


def main(_):
  """Trains the prior of prior.safetensors, from where the last run of --workdir ended."""
  params = begin(jax.random.fold_in(jax.random.key(FLAGS.seed), 0))
  weights, metadata = trainer.run(TASK, params, command='jaxdreamer.toybox.train_prior')
  safetensors_io.save(FLAGS.out, weights, metadata=metadata)


if __name__ == '__main__':
  trainer.options(images=3_000_000, rate=1.5e-3, slots=8192, workdir='runs/prior',
                  out='jaxdreamer/assets/prior.safetensors')
  app.run(main)
