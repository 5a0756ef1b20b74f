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

import jax
from absl import app, flags

from jaxdreamer.toybox import sd, sd_inspection, sd_training, trainer

FLAGS = flags.FLAGS
COMMAND = 'jaxdreamer.toybox.train_sd'


def task(folder):
  """The training on the latents of the autoencoder in `folder`."""
  autoencoder, scale = sd.load_autoencoder(folder)

  def look(weights, i):
    k_held, k_grid = jax.random.split(jax.random.fold_in(jax.random.key(FLAGS.seed), 2))
    model = sd_inspection.Model(weights, autoencoder, scale, FLAGS.prediction)
    sd_inspection.grid(k_grid, model).save(os.path.join(FLAGS.workdir, f'samples_{i:06d}.png'))
    return sd_inspection.held_out(k_held, model, batches=16)

  return trainer.Task(
      sd_training.init, sd_training.optimizer,
      lambda key: sd_training.renders(key, autoencoder, scale, fresh=FLAGS.fresh),
      sd_training.examples,
      lambda *args, **kw: sd_training.loss(*args, prediction=FLAGS.prediction, **kw),
      sd_training.shipped, look)


def main(_):
  """Trains toybox-sd, from where the last run of --workdir ended."""
  folder = pathlib.Path(FLAGS.out)
  made = task(folder)
  params = jax.jit(sd_training.init)(jax.random.fold_in(jax.random.key(FLAGS.seed), 0))
  if FLAGS.start:
    params |= sd.load(pathlib.Path(FLAGS.start))
  command = f'{COMMAND} --prediction={FLAGS.prediction}'
  weights, metadata = trainer.run(made, params, command=command)
  sd.save(folder, weights, prediction=FLAGS.prediction, metadata=metadata)


if __name__ == '__main__':
  trainer.options(images=1_000_000, rate=1.5e-3, slots=16384, workdir='runs/sd',
                  out='jaxdreamer/assets/toybox_sd')
  flags.DEFINE_enum('prediction', 'epsilon', ['epsilon', 'v_prediction'],
                    'what the UNet predicts')
  app.run(main)
