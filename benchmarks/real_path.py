"""The way of published models, on the small one that is shipped:   python -m benchmarks.real_path
[--only=model,objects,janus,diffusers,restoration] [--estimators=sds,csd,vsd,ssd,asd] [--quick]

  model        PSNR of the autoencoder on held-out renders, in dB, and how far the fidelity of
               toybox-sd's samples is below the pixel prior's (benchmarks.prior): the largest gap of
               shape, color and relation
  objects      the eight prompts of benchmarks.toybox by each estimator, view words alone
  janus        the share of one front, of five toys that have one and three seeds: toybox-sd beside
               toybox-mvdream (--mvdream=FOLDER), the same cameras and steps
  diffusers    the largest difference of pixels of the same noise through diffusers' pipeline, 20
               steps of DDIM in float32; wants the extra `parity`
  restoration  PSNR, sharpness and the reader's accuracy of 256 held-out degraded renders, enlarged
               cubically, restored by configs/toybox_restore.py without VSD and with it, and what
               VSD gains on the same pictures, with intervals

Each object is a process of its own, as benchmarks.toybox's; runs are kept by a hash of the sources,
and the same command goes on. Writes benchmarks/results/real_path.json, real_path.png and
restoration.png once all parts are there; parts asked for alone are printed.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys

import jax
import numpy as np
from PIL import Image

from benchmarks import prior, results, toybox
from jaxdreamer import restoration_eval, runs
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.toybox import geometry, sd, sd_inspection
from jaxdreamer.weights import safetensors_io

METHODS = ('sds', 'csd', 'vsd', 'ssd', 'asd')
FRONTED = ('a red car', 'a snowman with a blue hat', 'a purple house', 'an orange chair',
           'a white duck')
SEEDS = (0, 1, 2)
PICTURES = ('a red cube', 'a green cone on a yellow cylinder, side view', 'a purple house')
NOISE = jax.random.key(3)
QUICK = ('--config.steps=20',)
RESTORED = {'restoration_psnr': 'psnr', 'sharpness': 'sharpness', 'read': 'read'}


def model(folder, *, samples):
  """What toybox-sd knows, beside the pixel prior."""
  pixel = results.read('prior')
  ours, _ = prior.of_latents(folder, geometry.shipped(), samples=samples, batches=64)
  return ours | {'fidelity_gap': max(pixel[name] - ours[name] for name in (
    'shape_accuracy', 'color_accuracy', 'relation_accuracy'))}


def at(path):
  """The option that names a model's folder."""
  return f'--config.prior.path={path}'


def objects(folder, path, options, *, prompts=toybox.PROMPTS, methods=METHODS):
  """The eight prompts by each of the estimators, of which the first gives mean and least."""
  found = toybox.run(prompts, folder, options, {
    name: (f'--config=configs/toybox_sd.py:{name}', at(path)) for name in methods})
  rows = [{'method': name, 'iou': statistics.mean(row['iou'] for row in found[name]),
           'least': min(row['iou'] for row in found[name]),
           'psnr': statistics.mean(row['psnr'] for row in found[name]),
           'color': statistics.mean(bool(row['color_right']) for row in found[name]),
           'recall_at_1': statistics.mean(row['recall_at_1'] for row in found[name]),
           'seconds': statistics.median(row['seconds'] for row in found[name])}
          for name in methods]
  return {'mean_iou': rows[0]['iou'], 'min_iou': rows[0]['least'], 'rows': rows,
          'prompts': {name: [{'prompt': row['prompt'], 'iou': row['iou'], 'psnr': row['psnr']}
                             for row in found[name]] for name in methods}}


def janus(folder, path, mvdream, options, *, prompts=FRONTED, seeds=SEEDS):
  """The share of runs with one front, words alone and four views at a time."""
  ways = {'sd': ('--config=configs/toybox_sd.py:asd', at(path))}
  if mvdream:
    ways['mvdream'] = ('--config=configs/toybox_mvdream.py', at(mvdream))
  variants = {f'{way}-{seed}': (*given, f'--config.seed={seed}')
              for seed in seeds for way, given in ways.items()}
  found = toybox.run(prompts, folder, options, variants)
  share = lambda way: statistics.mean(bool(row['one_front']) for seed in seeds
                                      for row in found[f'{way}-{seed}'])
  return {f'one_front_{way}': share(way) for way in ways}


def restoration(folder, path, options):
  """Two restorers of the same pictures and steps, with VSD and without."""
  scores = {}
  for name, weight in (('with', 1), ('without', 0)):
    workdir = folder / f'restoration-{name}'
    command = [sys.executable, '-m', 'jaxdreamer.train', '--config=configs/toybox_restore.py',
               at(path), f'--config.scene.restoration.vsd={weight}', *options,
               f'--workdir={workdir}']
    workdir.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, cwd=results.ROOT, check=True)
    scores[name] = restoration_eval.score(NOISE, runs.restorer(workdir).restore)
  both = {name: restoration_eval.means(found) for name, found in scores.items()}
  gains = restoration_eval.gains(scores['with'], scores['without'])
  cubic = {name: both['with'][f'bicubic_{name.removeprefix("restoration_")}'] for name in RESTORED}
  return {'restoration_psnr': both['with']['restoration_psnr'].mean,
          'bicubic_psnr': both['with']['bicubic_psnr'].mean,
          'restoration_psnr_without_vsd': both['without']['restoration_psnr'].mean,
          'true_read': both['with']['true_read'].mean,
          'restoration': [restored(*row) for row in (
            ('cubic enlargement', cubic), ('without VSD', both['without']),
            ('with VSD', both['with']), ('gain of VSD', gains))]}


def restored(name, figures):
  """A row of the three figures of RESTORED, each with its interval."""
  return {'restorer': name, **{
    column + end: value for figure, column in RESTORED.items()
    for end, value in zip(('', '_lower', '_upper'), figures[figure], strict=True)}}


def sheet(folder, path, *, prompts=toybox.PROMPTS, methods=METHODS):
  """One picture: a row a prompt, a column an estimator, each seen from five sides."""
  tiles, captions = [], []
  for prompt in prompts:
    for method in methods:
      strip = Image.open(folder / method / prompt.replace(' ', '-') / 'turntable.png')
      high = strip.height // 3                           # colors alone
      side = strip.width // 8
      tile = strip.convert('RGB').crop((0, 0, 5 * side, high))
      tiles.append(tile.resize((tile.width // 2, high // 2), Image.Resampling.LANCZOS))
      captions.append(f'{method}: {prompt}')
  toybox.captioned(tiles, captions, columns=len(methods)).save(path)


def restored_sheet(folder, path):
  """One picture: what either restorer's last preview shows, twice as large."""
  tiles = [Image.open(max((folder / f'restoration-{name}' / 'previews').glob('*.png')))
           for name in ('without', 'with')]
  tiles = [tile.resize((2 * tile.width, 2 * tile.height), Image.Resampling.NEAREST)
           for tile in tiles]
  toybox.captioned(tiles, ('without VSD', 'with VSD'), columns=2).save(path)


def diffusers_difference(folder):
  """The largest difference of pixels in [0, 1]; None without diffusers."""
  if not all(importlib.util.find_spec(name) for name in ('torch', 'diffusers', 'transformers')):
    return {'diffusers_difference': None}
  import torch
  from diffusers import StableDiffusionPipeline
  pipe = StableDiffusionPipeline.from_pretrained(folder)
  pipe.set_progress_bar_config(disable=True)
  ours, worst = stable_diffusion(path=os.fspath(folder), dtype='float32'), 0.
  z = jax.random.normal(NOISE, (1, *ours.latent))
  for prompt in PICTURES:
    drawn = sd_inspection.picture(ours, z, prompt, scale=3., steps=20)[0]
    noise = torch.from_numpy(np.array(z).transpose(0, 3, 1, 2).copy())
    theirs = pipe(prompt, num_inference_steps=20, guidance_scale=3., latents=noise,
                  output_type='np').images[0]
    worst = max(worst, float(np.abs(drawn - theirs).max()))
  return {'diffusers_difference': worst}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parts = ('model', 'objects', 'janus', 'diffusers', 'restoration')
  parser.add_argument('--only', default=','.join(parts), help='comma-separated parts')
  parser.add_argument('--folder', type=pathlib.Path, default=sd.SHIPPED, help='of toybox-sd')
  parser.add_argument('--mvdream', default='', help='folder of toybox-mvdream')
  parser.add_argument('--samples', type=int, default=512, help='captions for prompt fidelity')
  parser.add_argument('--estimators', default=','.join(METHODS), help='comma-separated, of '
                      'objects')
  parser.add_argument('--quick', action='store_true', help='20 steps of two prompts, 32 samples; '
                      'writes nothing')
  given = parser.parse_args()
  asked, methods = given.only.split(','), tuple(given.estimators.split(','))
  root = (results.ROOT / 'runs' / 'benchmarks'
          / f'real_path-{toybox.source_hash()}{"-quick" * given.quick}')
  options = QUICK if given.quick else ()
  few = slice(2 if given.quick else None)
  figures = {}
  if 'model' in asked:
    figures |= model(given.folder, samples=32 if given.quick else given.samples)
  if 'diffusers' in asked:
    figures |= diffusers_difference(given.folder)
  if 'objects' in asked:
    figures |= objects(root, given.folder, options, prompts=toybox.PROMPTS[few],
                       methods=methods)
  if 'janus' in asked:
    figures |= janus(root, given.folder, given.mvdream, options, prompts=FRONTED[few],
                     seeds=SEEDS[few])
    if given.mvdream:
      made = safetensors_io.read_metadata(pathlib.Path(given.mvdream) / sd.UNET_FILE)
      figures |= {'mvdream_images': int(made['images']), 'mvdream_command': made['command']}
  if 'restoration' in asked:
    figures |= restoration(root, given.folder, options)
  print(json.dumps(figures, indent=1))
  if not given.quick and set(asked) == set(parts) and methods == METHODS:
    print(results.write('real_path', figures, 'python -m benchmarks.real_path'))
    sheet(root, results.RESULTS / 'real_path.png')
    restored_sheet(root, results.RESULTS / 'restoration.png')


if __name__ == '__main__':
  main()
