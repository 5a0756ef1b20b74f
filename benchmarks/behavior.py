"""Shows that a change of the code changed no number: short runs of everything, compared bit by bit.

  python -m benchmarks.behavior --out=FOLDER [--only=SUBSTRING,...]
  python -m benchmarks.behavior --against=FOLDER --out=OTHER [--only=...] [--tolerance=1e-6]

The first runs each of CASES on 1 and on 4 devices of a CPU, in a process each, and writes
  NAME-DEVICES.npz     the final parameters in the order of their key paths, under neutral names:
                       a parameter that is renamed still compares, if it keeps its place
  NAME-DEVICES.json    their SHA-256 and paths, infos of the first and the last call; or an error
The second runs nothing. It says `equal` of a case whose parameters agree bit for bit, else the
largest |a - b| / max |b| of a leaf, and the same of what the first call told, before Adam makes
large differences of small ones. Ends with 1 for cases further apart, failed, not finite or missing.

Only folders of one machine, version of JAX and XLA_FLAGS (by default QUICK) can be compared.
JAX_ENABLE_COMPILATION_CACHE=0 compiles anew what an earlier run has compiled.
"""
import argparse
import hashlib
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks import results

QUICK = '--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false'   # to compile
SMALL = {'steps': 20, 'steps_per_call': 1, 'sampling.views': 4, 'render.samples': 4,
         'render.fine': 4, 'render.chunk': 0, 'render.stages': ((0, 16),),
         'scene.sdf_voxels.levels': (4, 7), 'scene.hashgrid.levels': 2, 'scene.hashgrid.finest': 16}
SLOW = {'steps': 10}
LATENT = SLOW | {'scene.hashgrid.log2_table': 8, 'scene.hashgrid.base': 4}
TERMS = {f'regularizers.{name}': (.1,) for name in ('opacity', 'sparsity', 'opaque', 'distortion')}

# Name, config and its argument, what changes in it. FILES is the folder that `write_files` fills.
CASES = (
  ('sds', 'sds', {}),
  ('csd', 'csd', {'negative_prompt': 'a blue torus', 'estimator.csd.omega2': (.5, .1, 20)}),
  ('vsd', 'vsd', SLOW),
  ('particles', 'sds', {'scene.particles': 2, 'optim.clip': 1.} | SLOW),
  ('ssd-learnt', 'ssd', {'estimator.ssd.phi': ('constant', 'depth', 'normals'),
                         'estimator.ssd.mu': 'learned', 'estimator.ssd.per': ('c',)} | SLOW),
  ('ssd-moments', 'ssd', {'estimator.ssd.phi': ('constant', 'neighbors'),
                          'estimator.ssd.mu': 'moments'} | SLOW),
  ('asd-perp-neg', 'asd', {'perp_neg': .5}),
  ('empirical', 'toybox:empirical', {'prior.empirical.images': 8, 'render.stages': ()}),
  ('stable-diffusion', 'dreamfusion_sd', {
    'prior.path': 'FILES/stable_diffusion', 'prior.stable_diffusion.dtype': 'float32',
    'render.shaded': (.5,)} | LATENT),
  ('sdxl', 'csd_sd', {'prior.name': 'sdxl', 'prior.path': 'FILES/sdxl',
                      'prior.sdxl.dtype': 'float32', 'render.remat': False} | LATENT),
  ('mvdream', 'scaledreamer_mvdream', {
    'prior.path': 'FILES/mvdream/mvdream.safetensors', 'prior.mvdream.dtype': 'float32',
    'prior.mvdream.tokenizer': 'FILES/mvdream/tokenizer', 'prior.mvdream.image_size': 16,
    'sampling.views': 8, 'render.remat': False} | LATENT),
  ('learnt', 'toybox', {'render.background': 'learned', 'optim.weight_decay': .01} | TERMS | SLOW),
  ('hashgrid', 'toybox', {'scene.name': 'hashgrid', 'scene.hashgrid.band': (1, 2, 10),
                          'sampling.design': 'lattice', 'sampling.draws': 2,
                          'sampling.antithetic': True, 'sampling.density': (1., 2.)} | SLOW),
  ('mlp', 'toybox', {'scene.name': 'mlp', 'scene.mlp.width': 16, 'scene.mlp.blur': (.1, 0., 10),
                     'render.shaded': (1.,), 'render.normals': 'central'} | SLOW),
  ('image', 'image2d', {'steps_per_call': 5, 'mesh.map': 'pmap'}),
  ('hyper-ingp', 'toybox', {
    'scene.name': 'hyper_ingp', 'scene.hyper_ingp.log2_table': 8, 'scene.hyper_ingp.levels': 2,
    'render.background': 'hypernet', 'regularizers.eikonal': (.1,)} | SLOW),
  ('conv3d', 'toybox', {'scene.name': 'conv3d', 'scene.conv3d.channels': (8, 8, 8)} | SLOW),
  ('triplane-corpus', 'toybox_amortised', {
    'corpus.path': 'FILES/prompts.txt', 'corpus.store': 'FILES/store', 'corpus.prompts': 4,
    'scene.triplane_transformer.tokens': 4, 'scene.triplane_transformer.blocks': 1,
    'optim.accumulate': 2} | SLOW),
)
PROMPTS = 'a red cube', 'a blue torus', 'a yellow mug', 'a red car', 'a purple house'


def configured(source, changes, files):
  """The config of a row, its files in the folder `files`."""
  module, _, argument = source.partition(':')
  config = importlib.import_module(f'configs.{module}').get_config(*filter(None, [argument]))
  config.update_from_flattened_dict({
    name: value.replace('FILES', files) if isinstance(value, str) else value
    for name, value in (SMALL | changes).items()})
  return config


def train(config):
  """(final parameters, infos of the first and the last call) of a run, as the loop makes it."""
  from jaxdreamer import build, processes, seeds
  mesh = build.make_mesh(config)
  training = build.training(config, mesh)
  training = training._replace(prior=processes.place(training.prior, mesh))
  infos = []
  state = processes.place(training.init(seeds.key(config.seed)), mesh)
  for _, later, info in training.fit(state, steps=config.steps):
    state = later
    infos.append({name: float(value) for name, value in info.items()})
  return jax.device_get(state.params), infos[0], infos[-1]


def save(stem, params, first, last):
  """Writes stem.npz and stem.json."""
  named = sorted({jax.tree_util.keystr(path): np.asarray(leaf)
                  for path, leaf in jax.tree_util.tree_leaves_with_path(params)}.items())
  np.savez(f'{stem}.npz', **{f'leaf_{i:03}': leaf for i, (_, leaf) in enumerate(named)})
  told = {'sha256': hashlib.sha256(b''.join(leaf.tobytes() for _, leaf in named)).hexdigest(),
          'paths': [path for path, _ in named], 'first': first, 'last': last}
  pathlib.Path(f'{stem}.json').write_text(json.dumps(told, indent=1))


def write_files(folder):
  """The corpus, and the tiny published models that the tests make."""
  sys.path.insert(0, str(results.ROOT / 'tests'))
  import published
  (folder / 'prompts.txt').write_text('\n'.join(PROMPTS) + '\n')
  published.write_model(folder / 'stable_diffusion')
  published.write_sdxl(folder / 'sdxl')
  published.write_mvdream(folder / 'mvdream')


def run(out, only):
  """Runs the cases on all devices of this process. Returns whether any failed."""
  from jaxdreamer import cli
  cli.compile_cache()
  failed, devices = False, jax.device_count()
  with tempfile.TemporaryDirectory() as folder:
    write_files(pathlib.Path(folder))
    for name, source, changes in [c for c in CASES if any(part in c[0] for part in only)]:
      begin, stem, said = time.perf_counter(), out / f'{name}-{devices}', 'done'
      stem.with_suffix('.npz').unlink(missing_ok=True)
      try:
        save(stem, *train(configured(source, changes, folder)))
      except Exception as error:                 # the others go on
        said, failed = f'failed: {type(error).__name__}: {error}', True
        pathlib.Path(f'{stem}.json').write_text(json.dumps({'error': said}))
      print(f'{stem.name:24} {time.perf_counter() - begin:6.1f} s  {said}', flush=True)
      jax.clear_caches()                         # programs fill what memory a process may map
  return failed


def apart(ours, theirs):
  """The largest |a - b| / max |b| of pairs of arrays."""
  far = lambda a, b: np.max(np.abs(a - b), initial=0.) / np.max(np.abs(b), initial=1e-30)
  return max((float(far(a, b)) for a, b in zip(ours, theirs)), default=0.)


def compare(stem, other, tolerance):
  """(whether they agree, what there is to say) of a case in two folders."""
  if lost := [str(s) for s in (stem, other) if not pathlib.Path(f'{s}.npz').exists()]:
    return False, f'missing or failed: {", ".join(lost)}'
  ours, theirs = ([*np.load(f'{s}.npz').values()] for s in (stem, other))
  if not all(np.isfinite(leaf).all() for leaf in (*ours, *theirs)):
    return False, 'not finite'
  if [(a.dtype, a.shape) for a in ours] != [(b.dtype, b.shape) for b in theirs]:
    return False, 'leaves of other shapes'
  if all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs)):
    return True, 'equal'
  infos = [json.loads(pathlib.Path(f'{s}.json').read_text())['first'] for s in (stem, other)]
  told = ([np.array(info[name]) for name in infos[0] if name in infos[1]] for info in infos)
  far = apart(ours, theirs)
  return far <= tolerance, f'{far:.1e} apart; {apart(*told):.1e} in what the first call told'


def compare_all(out, against, only, tolerance):
  """Says how each case of two folders compares. Returns whether any does not agree, or none is."""
  names = sorted({path.stem for folder in (out, against) for path in folder.glob('*.json')
                  if any(part in path.stem for part in only)})
  found = {name: compare(out / name, against / name, tolerance) for name in names}
  for name, (_, said) in found.items():
    print(f'{name:24} {said}')
  return not found or not all(good for good, _ in found.values())


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', required=True, type=pathlib.Path)
  parser.add_argument('--against', type=pathlib.Path, help='compare with this folder; run nothing')
  parser.add_argument('--only', default=[''], type=lambda parts: parts.split(','))
  parser.add_argument('--tolerance', type=float, default=1e-6)
  parser.add_argument('--here', action='store_true', help='run on the devices of this process')
  args = parser.parse_args()
  if args.against:
    return compare_all(args.out, args.against, args.only, args.tolerance)
  args.out.mkdir(parents=True, exist_ok=True)
  if args.here:
    return run(args.out, args.only)
  flags = os.environ.get('XLA_FLAGS', QUICK) + ' --xla_force_host_platform_device_count='
  command = (sys.executable, '-m', 'benchmarks.behavior', '--here', *sys.argv[1:])
  of = lambda n: os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': f'{flags}{n}'}
  return bool(sum(abs(subprocess.run(command, env=of(n)).returncode) for n in (1, 4)))


if __name__ == '__main__':
  sys.exit(main())
