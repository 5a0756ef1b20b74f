"""Everything worth knowing on a GPU, in the order of its worth, within the minutes that there are:

    python -m benchmarks.gpu --minutes=8 [--out=FILE] [--tiny]

PARTS says what is measured: the card's own rates and versions, the CPU's numbers on it, the UNets
of Stable Diffusion 1.5 and XL, whole steps at full size with random weights beside the same in
plain PyTorch (benchmarks/torch_step.py), the toybox from a prompt to pictures, generators, what
half of the rays save and what deterministic operations cost. A figure is written as soon as it is
known, so that a run that is cut leaves what it has; what fails is written as its error, and what
there is no time for as skipped. Where fused attention fails the rest goes on without it. PyTorch
runs in a process of its own, since both bring CUDA's libraries; this one waits meanwhile.

Writes benchmarks/results/gpu.json; --tiny, or a CPU, small sizes to runs/benchmarks/gpu_tiny.json.
"""
import argparse
import functools
import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')      # PyTorch wants some of it

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import full_size, gpu_parity, peaks, results  # noqa: E402
from jaxdreamer import build, cameras, metrics, profiling  # noqa: E402
from jaxdreamer.configs import scaledreamer_amortised, toybox, toybox_amortised  # noqa: E402
from jaxdreamer.nn import attention  # noqa: E402
from jaxdreamer.toybox import xla_flags  # noqa: E402
from jaxdreamer.weights import model_shapes  # noqa: E402

TINY = results.ROOT / 'runs' / 'benchmarks' / 'gpu_tiny.json'
VERSIONS = ('jax', 'jaxlib', 'flax', 'optax', 'torch', 'triton', 'jax-cuda13-plugin',
            'nvidia-cudnn-cu13', 'nvidia-cudnn-cu12')
# what the whole command of a run needs beside what its steps need
OUTPUTS = ('ml_collections', 'platformdirs', 'trimesh', 'imageio_ffmpeg', 'fast_simplification',
           'jinja2', 'matplotlib', 'skimage')
PROMPT = 'a green cone on a yellow cylinder'


def version(package):
  """Its version, or None."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def card(told):
  """Versions, and the rates of this device."""
  device = jax.devices()[0]
  limit = (device.memory_stats() or {}).get('bytes_limit', 0)
  best = peaks.peaks(tiny=told.tiny)
  return {'kind': device.device_kind, 'platform': device.platform,
          'capability': str(getattr(device, 'compute_capability', '')),
          'memory_gib': limit / metrics.GIB, **best, 'dtype': jnp.dtype(peaks.kind()).name,
          'versions': {name: version(name) for name in VERSIONS}}


def parity(told):
  """How far each case of gpu_parity is from the CPU. Fused attention that fails is left alone from
  here on."""
  found = {}
  for name in gpu_parity.CASES:
    try:
      far, most = gpu_parity.difference(name, jax.devices()[0], jax.devices('cpu')[0])
      found[name] = {'apart': far if math.isfinite(far) else None, 'tolerance': most,
                     'passes': far < most}
    except Exception as error:
      found[name] = {'error': words(error), 'passes': False}
    if name == 'attention' and not found[name]['passes']:
      attention.capability = lambda: (0, 0)
    told.keep('parity', found | {'all_pass': None})
  return found | {'all_pass': all(case['passes'] for case in found.values())}


def unet(told, name):
  """Milliseconds of a forward pass in half precision, and its share of the card's matrix rate."""
  config, side = full_size.unets(tiny=told.tiny)[name]
  dtype, found = peaks.kind(), {}
  apply = full_size.apply_unet(config, dtype)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype),
                        full_size.unet_shapes(config, side))
  params = full_size.drawn(jax.random.key(0), shapes)
  for batch in full_size.BATCHES:
    args = params, *map(jnp.asarray, full_size.unet_inputs(config, side, batch))
    with plain_attention():
      flops = peaks.matrix_flops(apply, *args)
    run = jax.jit(apply).lower(*args).compile()
    took = peaks.seconds(lambda run=run, args=args: run(*args), least=told.least)
    rate = told.figures['card'].get('flops', math.nan)
    found |= {f'batch{batch}_ms': 1e3 * took, f'batch{batch}_gflop': flops / 1e9,
              f'batch{batch}_share': flops / took / rate}
    told.keep(f'unet_{name}', found)
  return found


class plain_attention:
  """Within it XLA's attention is traced, whose products can be counted."""
  def __enter__(self):
    self.was, attention.capability = attention.capability, lambda: (0, 0)

  def __exit__(self, *_):
    attention.capability = self.was


def timed(told, training, *, prior, text):
  """What steps of a training take: their rate, the compiler's seconds, and memory as it was
  foreseen and as it came."""
  state = training.init(jax.random.key(0))
  begin = time.monotonic()
  run = training.stages[0][1].lower(state, prior, text).compile()
  found = {'compile_seconds': time.monotonic() - begin,
           'steps_per_call': training.steps_per_call,
           'foreseen_gib': profiling.bytes_of(run) / metrics.GIB}
  state, info = jax.block_until_ready(run(state, prior, text))
  calls, begin = 0, time.perf_counter()
  while not calls or time.perf_counter() - begin < 4. * told.least:
    state, info = jax.block_until_ready(run(state, prior, text))
    calls += 1
  took = (time.perf_counter() - begin) / calls / training.steps_per_call
  return found | {'ms': 1e3 * took, 'steps_a_second': 1. / took, 'finite': float(info['finite']),
                  # of all that this process has run
                  'peak_gib': metrics.memory() / metrics.GIB}


def step(told, name, **options):
  """A step of a published config, with these options, at full size."""
  with full_size.models(tiny=told.tiny):
    config = full_size.config(name, tiny=told.tiny)
    config.update(options)
    training = full_size.training(config)
    text = training.text(0)
  k_prior, k_text = jax.random.split(jax.random.key(0))
  prior = training.prior.replace(weights=full_size.drawn(k_prior, training.prior.weights))
  return timed(told, training, prior=prior, text=full_size.drawn(k_text, text))


def deterministic(told):
  """The first step again, its sums in a fixed order; and whether a hash grid's gradient, asked
  twice, has the same bits then and by default."""
  if jax.default_backend() != 'gpu':
    return {'missing': 'a GPU'}
  case, bits = gpu_parity.CASES['hash grid'](), {}
  for name, options in (('same_bits', xla_flags.deterministic()), ('same_bits_by_default', {})):
    one, two = (gpu_parity.run(case, jax.devices()[0], options) for _ in range(2))
    bits[name] = bool(jax.tree.all(jax.tree.map(np.array_equal, one, two)))
  found = step(told, 'dreamfusion_sd', deterministic=True)
  return found | bits | {'over_default': found['ms'] / told.figures['step_dreamfusion_sd']['ms']}


def in_torch(told, *arguments):
  """What benchmarks.torch_step prints, as far as it comes."""
  if importlib.util.find_spec('torch') is None:
    return {'missing': 'torch'}
  command = (sys.executable, '-m', 'benchmarks.torch_step', f'--seconds={4. * told.least}',
             *arguments, *(('--tiny',) if told.tiny else ()))
  with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
    try:
      code = subprocess.run(command, cwd=results.ROOT, stdout=out, stderr=err,
                            env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
                            timeout=max(told.left(), 1.)).returncode
    except subprocess.TimeoutExpired:
      code = 'out of time'
    out.seek(0), err.seek(0)
    found = {}
    for line in out:
      if line.startswith('{'):
        found |= json.loads(line)
    return found | ({} if code == 0 else {'error': f'{code}: {err.read()[-300:]}'})


def small(config):
  """Of a few samples and steps."""
  config.steps, config.preview_every, config.checkpoint_every, config.log_every = 2, 0, 0, 2
  config.render.update({'samples': 4, 'fine': 2})
  config.eval.update({'size': 8, 'samples': 4, 'fine': 2})
  config.prior.stable_diffusion.update({'image_size': 8, 'dtype': 'float32'})


def toybox_object(told):
  """Seconds from a prompt to pictures from all around, in this process: with all to be compiled,
  and once more with the programs kept on disk."""
  config = toybox.get_config()
  config.prompt, config.mesh.data = PROMPT, 1
  if told.tiny:
    small(config)

  def once():
    begin = time.monotonic()
    training = build.training(config, build.make_mesh(config))
    model = build.model(config, build.embedder(config, training.prior), (PROMPT,))
    state = training.advanced(training.init(jax.random.key(config.seed)), steps=config.steps)
    jax.block_until_ready(state)
    steps = time.monotonic()
    made = model.object(state.params['scene'], PROMPT)
    around = cameras.orbit((8, .3), distance=made.away, fov=made.fov)
    jax.block_until_ready(jax.jit(jax.vmap(made.over(1.)))(around).rgb)
    return {'seconds': time.monotonic() - begin, 'steps_seconds': steps - begin}
  found = {}
  for name in ('cold', 'warm'):
    jax.clear_caches()
    found |= {f'{name}_{key}': value for key, value in once().items()}
    told.keep('toybox', found)
  return found


def toybox_command(told):
  """Seconds of python -m jaxdreamer.train with all its outputs, cold and warm."""
  missing = [name for name in OUTPUTS if importlib.util.find_spec(name) is None]
  if missing:
    return {'missing': ', '.join(missing)}
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    for name in ('cold', 'warm'):
      workdir = pathlib.Path(folder) / name
      command = [sys.executable, '-m', 'jaxdreamer.train', '--config=jaxdreamer/configs/toybox.py',
                 f'--workdir={workdir}', f'--config.prompt={PROMPT}']
      command += ['--config.steps=2', '--config.eval.mesh_resolution=16',
                  '--config.eval.size=8', '--config.eval.faces=200'] if told.tiny else []
      begin = time.monotonic()
      done = subprocess.run(command, cwd=results.ROOT, capture_output=True, text=True,
                            timeout=max(told.left(), 1.),
                            env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': f'{folder}/programs'})
      found |= {f'{name}_seconds': time.monotonic() - begin}
      if done.returncode:
        return found | {'error': f'{done.returncode}: {done.stderr[-300:]}'}
      told.keep('toybox_command', found)
  return found


def generator(told, name):
  """A step of a generator of many prompts: the toybox's, or ScaleDreamer's at full size."""
  with tempfile.TemporaryDirectory() as folder, full_size.models(tiny=told.tiny):
    if name == 'toybox':
      config = toybox_amortised.get_config()
    else:
      config = scaledreamer_amortised.get_config('df415,1')
      path = pathlib.Path(folder) / 'corpus.txt'
      path.write_text('a red mug\na blue car\n')
      config.corpus.path, config.prior.path = str(path), model_shapes.SHAPES
    config.corpus.store, config.mesh.data = folder, 1
    if told.tiny:
      small(config)
      wide = model_shapes.MODELS['sd21-base'][0].cross_attention_dim
      config.scene.conv3d.update({'text': wide, 'channels': (16, 8), 'width': 8, 'features': 4})
    training = build.training(config, build.make_mesh(config), abstract=True)
    k_prior, k_text = jax.random.split(jax.random.key(0))
    prior, text = training.prior, training.text(0)
    if name != 'toybox':
      prior = prior.replace(weights=full_size.drawn(k_prior, prior.weights))
      text = full_size.drawn(k_text, text)
    return timed(told, training, prior=prior, text=text)


# (what, seconds it may take, how), in the order of worth
PARTS = (
  ('card', 15, card), ('parity', 45, parity),
  ('unet_sd15', 40, functools.partial(unet, name='sd15')),
  ('step_dreamfusion_sd', 60, functools.partial(step, name='dreamfusion_sd')),
  ('toybox', 40, toybox_object),
  ('torch_dreamfusion_sd', 60, lambda told: in_torch(told, '--name=dreamfusion_sd')),
  ('toybox_command', 60, toybox_command),
  ('step_prolificdreamer_sd', 90, functools.partial(step, name='prolificdreamer_sd')),
  ('torch_prolificdreamer_sd', 75, lambda told: in_torch(told, '--name=prolificdreamer_sd')),
  ('generator_toybox', 40, functools.partial(generator, name='toybox')),
  ('unet_sdxl', 50, functools.partial(unet, name='sdxl')),
  ('torch_unet', 75, lambda told: in_torch(told, '--unet')),
  ('generator_df415', 60, functools.partial(generator, name='df415')),
  ('half_of_the_rays', 60, functools.partial(step, name='dreamfusion_sd', render={'room': .5})),
  ('deterministic', 60, deterministic))


def words(error):
  """An error as one line."""
  return ' '.join(f'{type(error).__name__}: {error}'.split())[:500]


class Told:
  """What is known so far, and the time that is left."""
  def __init__(self, *, path, minutes, tiny):
    self.path, self.tiny, self.figures = path, tiny, {}
    self.least = .05 if tiny else 1.5             # seconds of a measurement
    self.end = time.monotonic() + 60. * minutes

  def left(self):
    """Seconds."""
    return self.end - time.monotonic()

  def keep(self, name, found):
    """Writes what is known with what a part has found, whole or not at all."""
    self.figures[name] = peaks.rounded(found)
    draft = self.path.with_suffix('.part')
    self.path.parent.mkdir(parents=True, exist_ok=True)
    command = 'python -m benchmarks.gpu'
    draft.write_text(json.dumps(self.figures | {'ratios': ratios(self.figures),
                                                'made': results.made(command)}, indent=2) + '\n')
    os.replace(draft, self.path)


def ratios(figures):
  """PyTorch's milliseconds, its best way's, over ours."""
  found = {}
  for name in full_size.STEPS:
    ours, theirs = figures.get(f'step_{name}', {}), figures.get(f'torch_{name}', {})
    best = [theirs[key] for key in ('eager_ms', 'compiled_ms') if key in theirs]
    if best and 'ms' in ours:
      found[f'{name}_faster_than_torch'] = min(best) / ours['ms']
  for key, theirs in figures.get('torch_unet', {}).items():
    name, *rest = key.split('_')
    ours = figures.get(f'unet_{name}', {}).get(f'{rest[0]}_ms') if rest else None
    if ours and key.endswith('_ms'):
      found[f'{key.removesuffix("_ms")}_over_ours'] = theirs / ours
  return peaks.rounded(found)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(',')[0])
  parser.add_argument('--minutes', type=float, default=8.)
  parser.add_argument('--out', type=pathlib.Path, help='where the figures go')
  parser.add_argument('--tiny', action='store_true', help='small sizes, as on any CPU')
  parser.add_argument('--only', default='', help='parts, separated by commas')
  options = parser.parse_args()
  tiny = options.tiny or jax.default_backend() == 'cpu'
  told = Told(path=options.out or (TINY if tiny else results.RESULTS / 'gpu.json'),
              minutes=options.minutes, tiny=tiny)
  only = options.only.split(',') if options.only else [name for name, *_ in PARTS]
  with tempfile.TemporaryDirectory() as programs:
    jax.config.update('jax_compilation_cache_dir', programs)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.)
    for name, seconds, measure in PARTS:
      if name not in only and name != 'card':
        continue
      begin = time.monotonic()
      if told.left() < (0 if tiny else seconds):
        told.keep(name, {'skipped': f'takes {seconds} s, and {told.left():.0f} are left'})
        continue
      try:
        told.keep(name, measure(told))
      except Exception as error:
        told.keep(name, told.figures.get(name, {}) | {'error': words(error)})
      gc.collect()
      print(f'{name}, {time.monotonic() - begin:.1f} s: {json.dumps(told.figures[name])}',
            flush=True)
  print(json.dumps(ratios(told.figures)), told.path)


if __name__ == '__main__':
  main()
