"""python -m benchmarks.prior: how well the shipped prior, and the networks that look at pictures,
know the toybox.

Writes benchmarks/results/prior.json, a sheet of samples beside it, and the card
jaxdreamer/assets/prior.md. Prompt fidelity is read off guided samples of random captions by the
reader, which was trained on renders alone: what it reads right on renders (read_shape, read_color,
read_relation) is the most that samples can reach. Without jaxdreamer/assets/geometry.safetensors it
is left out.
"""
import argparse
import json

import jax
import numpy as np

from benchmarks import results
from jaxdreamer import cameras
from jaxdreamer.priors.toybox import SHIPPED
from jaxdreamer.toybox import geometry, inspection, network, train_geometry, views, world
from jaxdreamer.weights import safetensors_io

PRIOR = ('prior', "The toybox prior: `jaxdreamer/toybox/network.py` in float16, in the published "
         "checkpoints' key layout.",
         'Made by `{command}`, seed {seed}, on {hardware}, from {images} images of 64 px, each '
         'render seen four times under new '
         'backgrounds, words and noise; its settings')
GEOMETRY = ('geometry', 'The depth and normal estimator and the reader of the toybox: '
            '`jaxdreamer/toybox/geometry.py`.',
            'Made on {hardware} from pictures under random backgrounds, half of them noisy for the '
            'geometry, a quarter for the '
            'reader')


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
  figures = {f'{name}_accuracy': np.mean(right[name])
             for name in ('shape', 'color', 'relation')} | {
f'{name}_accuracy_{told}': np.mean(right[name][relation == i])
for i, told in enumerate(world.RELATIONS) for name in ('shape', 'color')}
  return {name: float(value) for name, value in figures.items()}


def card(what, figures, metadata):
  """What the file is, and how to make it again: PRIOR or GEOMETRY, its scores, the metadata of its
  file."""
  name, says, made = what
  past = ''.join(f'  - {line}\n' for line in metadata['history'].splitlines())
  rows = '\n'.join(f'| {name} | {value:.4g} |' for name, value in figures.items())
  return f'''# {name}.safetensors

{says}

- {made.format(**{k: f'{int(v):,}' if v.isdigit() else v for k, v in metadata.items()})}:
{past}- Scores, by `python -m benchmarks.prior`:

| score | value |
| --- | --- |
{rows}
'''


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--samples', type=int, default=512, help='captions for prompt fidelity')
  parser.add_argument('--quick', action='store_true', help='a tenth of everything; writes nothing')
  options = parser.parse_args()
  shrink = 10 if options.quick else 1
  weights = safetensors_io.load(SHIPPED, jax.eval_shape(network.init, jax.random.key(0)))
  metadata = safetensors_io.read_metadata(SHIPPED)
  errors = inspection.held_out(jax.random.key(10 ** 6), weights, batches=64 // shrink)
  figures = {'images_trained': int(metadata['images'])} | {f'held_out_{name}': value
                                                           for name, value in errors.items()}
  seen = {}
  if geometry.SHIPPED.exists():
    reader = geometry.shipped()
    figures |= fidelity(weights, reader, samples=options.samples // shrink)
    seen = train_geometry.held_out(jax.random.key(10 ** 6), reader, batches=192 // shrink)
  print(json.dumps(figures | seen, indent=1))
  if not options.quick:
    results.write('prior', figures | seen, 'python -m benchmarks.prior')
    inspection.grid(jax.random.key(5), weights).save(results.RESULTS / 'prior.png')
    scores = {name: value for name, value in figures.items() if isinstance(value, float)}
    SHIPPED.with_name('prior.md').write_text(card(PRIOR, scores, metadata))
    if seen:
      SHIPPED.with_name('geometry.md').write_text(
          card(GEOMETRY, seen, safetensors_io.read_metadata(geometry.SHIPPED)))


if __name__ == '__main__':
  main()
