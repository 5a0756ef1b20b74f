"""python -m benchmarks.prior: how well the shipped priors, and the networks that look at pictures,
know the toybox.

Writes benchmarks/results/prior.json, sheets of samples beside it, and the cards of the weights.
Prompt fidelity is read off guided samples of random captions by the reader, which was trained on
renders alone: what it reads right on renders (read_shape, read_color, read_relation) is the most
that samples can reach. Figures that begin with sd_ are toybox-sd's, which is told view words alone.
"""
import argparse
import json

import jax
import numpy as np

from benchmarks import results
from jaxdreamer import cameras
from jaxdreamer.priors.toybox import SHIPPED
from jaxdreamer.toybox import (
  geometry,
  inspection,
  network,
  sd,
  sd_inspection,
  train_autoencoder,
  train_geometry,
  views,
  world,
)
from jaxdreamer.weights import safetensors_io

PRIOR = ('prior.safetensors', 'The toybox prior: `jaxdreamer/toybox/network.py` in float16, in the '
         "published checkpoints' key layout.",
         'Made by `{command}`, seed {seed}, on {hardware}, from {images} images of 64 px, each '
         'render seen four times under new '
         'backgrounds, words and noise; its settings')
GEOMETRY = ('geometry.safetensors', 'The depth and normal estimator and the reader of the toybox: '
            '`jaxdreamer/toybox/geometry.py`.',
            'Made on {hardware} from pictures under random backgrounds, half of them noisy for the '
            'geometry, a quarter for the '
            'reader')
SMALL_SD = ('toybox-sd', 'A small Stable Diffusion of the toybox, in the published layout: '
            "`jaxdreamer/toybox/sd.py`. The autoencoder's file says how that was made.",
            'Made by `{command}`, seed {seed}, on {hardware}, from {images} images of 64 px, each '
            'render seen four times, or as `--reuse` says, under other words and noise; its '
            'settings')
HELD_OUT = jax.random.key(10 ** 6)                # of pictures that no training draws


def fidelity(weights, reader, *, samples):
  """Accuracy of the parts of random captions, from random cameras that are told, as the reader sees
  them in samples; of shape and color also by how many toys there are and how they stand."""
  seen = []
  for i in range(0, samples, 32):
    k_item, k_words, k_camera, k_noise = jax.random.split(jax.random.fold_in(jax.random.key(1), i),
                                                          4)
    items = jax.vmap(world.sample)(jax.random.split(k_item, 32))
    ids = jax.vmap(lambda k, item: world.tokens(k, item, -1))(jax.random.split(k_words, 32), items)
    camera = jax.vmap(views.sample_camera)(jax.random.split(k_camera, 32))
    x = network.sample(weights, k_noise, ids, jax.vmap(cameras.camera_vector)(camera))
    seen.append((items.relation, geometry.right(geometry.read(reader, x),
                                                geometry.labels(items, geometry.mirrored(camera)))))
  relation, right = jax.tree.map(lambda *rows: np.concatenate(rows), *seen)
  figures = {f'{name}_accuracy': np.mean(right[name]) for name in ('shape', 'color', 'relation')}
  figures |= {f'{name}_accuracy_{told}': np.mean(right[name][relation == i])
              for i, told in enumerate(world.RELATIONS) for name in ('shape', 'color')}
  return {name: float(value) for name, value in figures.items()}


def of_pixels(weights, reader, *, samples, batches):
  """The scores of the pixel prior."""
  errors = inspection.held_out(HELD_OUT, weights, batches=batches)
  return {f'held_out_{name}': value for name, value in errors.items()} | fidelity(
      weights, reader, samples=samples)


def of_latents(folder, reader, *, samples, batches):
  """The scores of the toybox-sd in a folder, and it."""
  model = sd_inspection.load(folder)
  seen, _ = train_autoencoder.held_out(HELD_OUT, model.autoencoder, batches=batches)
  errors = sd_inspection.held_out(HELD_OUT, model, batches=batches)
  return {'autoencoder_psnr': seen['psnr'], 'autoencoder_object_psnr': seen['object_psnr'],
          **{f'held_out_{name}': value for name, value in errors.items()},
          **sd_inspection.fidelity(model, reader, samples=samples)}, model


def card(path, what, figures, metadata):
  """Writes what the weights are, and how to make them again: PRIOR, GEOMETRY or SMALL_SD, their
  scores, the metadata of their file."""
  name, says, made = what
  past = ''.join(f'  - {line}\n' for line in metadata['history'].splitlines())
  rows = '\n'.join(f'| {name} | {value:.4g} |' for name, value in figures.items())
  path.write_text(f'''# {name}

{says}

- {made.format(**{k: f'{int(v):,}' if v.isdigit() else v for k, v in metadata.items()})}:
{past}- Scores, by `python -m benchmarks.prior`:

| score | value |
| --- | --- |
{rows}
''')


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--samples', type=int, default=512, help='captions for prompt fidelity')
  parser.add_argument('--quick', action='store_true', help='a tenth of everything; writes nothing')
  options = parser.parse_args()
  shrink = 10 if options.quick else 1
  some = {'samples': options.samples // shrink, 'batches': 64 // shrink}
  reader = geometry.shipped()
  weights = safetensors_io.load(SHIPPED, jax.eval_shape(network.init, jax.random.key(0)))
  pixel = of_pixels(weights, reader, **some)
  small, model = of_latents(sd.SHIPPED, reader, **some)
  seen = train_geometry.held_out(HELD_OUT, reader, batches=192 // shrink)
  made = safetensors_io.read_metadata(SHIPPED)
  made_small = safetensors_io.read_metadata(sd.SHIPPED / sd.UNET_FILE)
  figures = {'images_trained': int(made['images']), **pixel, **seen,
             'sd_images_trained': int(made_small['images']),
             **{f'sd_{name}': value for name, value in small.items()}}
  print(json.dumps(figures, indent=1))
  if not options.quick:
    results.write('prior', figures, 'python -m benchmarks.prior')
    inspection.grid(jax.random.key(5), weights).save(results.RESULTS / 'prior.png')
    sd_inspection.grid(jax.random.key(5), model).save(results.RESULTS / 'toybox_sd.png')
    card(SHIPPED.with_name('prior.md'), PRIOR, pixel, made)
    card(geometry.SHIPPED.with_suffix('.md'), GEOMETRY, seen,
         safetensors_io.read_metadata(geometry.SHIPPED))
    card(sd.SHIPPED / 'README.md', SMALL_SD, small, made_small)


if __name__ == '__main__':
  main()
