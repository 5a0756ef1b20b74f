r"""Teaches toybox-sd to draw four views of one scene at a time, as MVDream was made of Stable
Diffusion (Shi et al. 2023): self-attention spans the views, a vector of each camera joins the
embedding of time, and no view words are said.

  python -m jaxdreamer.toybox.train_mvdream --images=400000        # a night of two cores
  python -m jaxdreamer.toybox.train_mvdream --minutes=7 --batch=256 --steps_per_call=16 \
      --fresh=512 --slots=16384 --dtype=bfloat16 --every=4000 --nolook

--start is toybox-sd's folder, whose autoencoder and, at first, whose weights these are: the way in
of cameras begins at zero. Its own training of single pictures is not gone on with, as MVDream's was
in 30% of its steps: toybox-sd itself is there for them. Resumes from --workdir.
"""
import os
import pathlib
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags
from jaxtyping import Array, Float

from jaxdreamer.nn import mvdream
from jaxdreamer.toybox import meaning, render_buffer, sd, sd_inspection, sd_training, trainer

FLAGS = flags.FLAGS


class Ring(NamedTuple):
  """Scenes [P], of TURNS views each."""
  seen: sd_training.Ring
  where: Float[Array, 'P 4 16']


def renders(key, autoencoder, scale, *, fresh):
  """fresh / TURNS scenes of one composition, each under one background."""
  k_pool, k_back = jax.random.split(key)
  pool = render_buffer.batch(k_pool, fresh, size=sd.SIZE, turns=sd.TURNS)
  back = jax.vmap(lambda k: render_buffer.background(k, sd.SIZE))(
      jax.random.split(k_back, fresh // sd.TURNS))
  seen = sd_training.latents(pool, jnp.repeat(back, sd.TURNS, 0), autoencoder, scale)
  where = mvdream.camera_vector(pool.camera)
  return jax.tree.map(lambda a: a.reshape(-1, sd.TURNS, *a.shape[1:]), Ring(seen, where))


def examples(key, ring, n):
  """As sd_training.examples, of n / TURNS scenes, without view words; and where each camera stands.
  The views of a scene have one caption."""
  k_slot, k_draw, k_words = jax.random.split(key, 3)
  scenes = render_buffer.some(k_slot, ring, n // sd.TURNS)
  first = jax.tree.map(lambda a: a[:, 0], scenes.seen)
  ids, classes = sd_training.captions(k_words, first.item, jnp.full(len(first.view), -1))
  ids, classes = jax.tree.map(lambda a: jnp.repeat(a, sd.TURNS, 0), (ids, classes))
  pick, where = jax.tree.map(lambda a: a.reshape(n, *a.shape[2:]), tuple(scenes))
  return sd_training.drawn(k_draw, pick), ids, pick.mask / 255., classes, where


def init(key, weights):
  """toybox-sd's weights, with a way in of cameras that changes nothing yet, and the heads of
  sd_training."""
  row = jnp.zeros((sd.TURNS, sd.SIDE, sd.SIDE, 4))
  words = jnp.zeros((sd.TURNS, 1, sd.UNET['cross_attention_dim']))
  drawn = sd.denoiser(seen=True).init(key, row, jnp.zeros(sd.TURNS), words,
                                      jnp.zeros((sd.TURNS, mvdream.CAMERA)))['params']
  way_in = drawn['class_embedding']
  way_in = way_in | {'linear_2': jax.tree.map(jnp.zeros_like, way_in['linear_2'])}
  return weights | {'unet': weights['unet'] | {'class_embedding': way_in},
                    'meaning': meaning.heads(sd.TEXT['hidden_size'])}


def task(start):
  """The training from the toybox-sd in the folder `start`."""
  model = sd_inspection.load(start)

  def look(weights, i):
    key = jax.random.fold_in(jax.random.key(FLAGS.seed), 2)
    picture = sd_inspection.turntables(key, model._replace(weights=weights))
    picture.save(os.path.join(FLAGS.workdir, f'samples_{i:06d}.png'))
    return {}

  return trainer.Task(lambda key: init(key, model.weights), sd_training.optimizer,
                      lambda key: renders(key, model.autoencoder, model.scale, fresh=FLAGS.fresh),
                      examples, lambda *args, **kw: sd_training.loss(
                        *args, prediction=model.prediction, **kw),
                      sd_training.shipped, look), model


def main(_):
  """Trains toybox-mvdream, from where the last run of --workdir ended."""
  start, folder = pathlib.Path(FLAGS.start), pathlib.Path(FLAGS.out)
  made, model = task(start)
  params = made.init(jax.random.fold_in(jax.random.key(FLAGS.seed), 0))
  weights, metadata = trainer.run(made, params, command='jaxdreamer.toybox.train_mvdream')
  sd.save(folder, weights, prediction=model.prediction, metadata=metadata)
  shutil.copytree(start / 'vae', folder / 'vae', dirs_exist_ok=True)


if __name__ == '__main__':
  trainer.options(images=400_000, rate=7e-4, slots=4096, workdir='runs/mvdream',
                  out='runs/toybox_mvdream')
  flags.FLAGS.set_default('start', os.fspath(sd.SHIPPED))
  app.run(main)
