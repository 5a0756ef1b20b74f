"""Stable Diffusion 1.5 at full size on this machine, with random weights: python -m benchmarks.sd15

Writes a folder in diffusers' layout (float16, 2.1 GB) into runs/benchmarks once, and measures, each
in a process of its own:
  load_over_read    seconds to load all its networks over seconds to read their files into memory:
                    the median of turns' ratios
  cold_*            the same where the system keeps nothing of the files: both wait for the disk
  load_peak_over_size
                    what loading adds to the process's peak memory, over the size of the files
  step_*            two steps of configs/dreamfusion_sd.py at the model's 512 pixels: seconds of the
                    second, the peak memory of the process, what `doctor` says of the step, and
                    their ratio
Writes benchmarks/results/sd15.json.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks import results

FOLDER = results.ROOT / 'runs' / 'benchmarks' / 'sd15'
UNET = {'block_out_channels': [320, 640, 1280, 1280], 'layers_per_block': 2,
        'cross_attention_dim': 768, 'sample_size': 64,
        'attention_head_dim': 8, 'down_block_types': ['CrossAttnDownBlock2D'] * 3 + ['DownBlock2D'],
        'up_block_types': ['UpBlock2D'] + ['CrossAttnUpBlock2D'] * 3}
VAE = {'block_out_channels': [128, 256, 512, 512], 'layers_per_block': 2,
       'down_block_types': ['DownEncoderBlock2D'] * 4,
       'up_block_types': ['UpDecoderBlock2D'] * 4}
TEXT = {'vocab_size': 49408, 'hidden_size': 768, 'intermediate_size': 3072, 'num_hidden_layers': 12,
        'num_attention_heads': 12}
TURNS = 15
GIB = 2 ** 30


def write():
  """The folder, whole or not at all."""
  import jax.numpy as jnp
  sys.path.insert(0, str(results.ROOT / 'tests'))
  import published
  part = FOLDER.with_suffix('.part')
  published.write_model(part, dtype=jnp.float16, sizes={'unet': UNET, 'vae': VAE,
                                                        'text_encoder': TEXT})
  os.replace(part, FOLDER)


def files():
  return sorted(FOLDER.glob('*/*.safetensors'))


def forget():
  """Lets the system drop what it keeps of the files."""
  for path in files():
    with path.open('rb') as file:
      os.fsync(file.fileno())
      os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load():
  """{seconds of each turn to read and to load, warm and cold, bytes added at the peak}."""
  import jax
  import jax.numpy as jnp

  from jaxdreamer import metrics
  from jaxdreamer.nn import clip, unet, unet_config, vae
  from jaxdreamer.weights.diffusers_folder import load_part, open_model
  parts = open_model(FOLDER)
  words = jnp.zeros((1, 77, 768))
  networks = {'unet': (unet.UNet2DCondition(unet_config.from_diffusers(parts['unet'].config)),
                       jnp.zeros((1, 8, 8, 4)),
                       jnp.zeros(1), words),
              'vae': (vae.AutoencoderKL(vae.config_from_diffusers(parts['vae'].config)),
                      jnp.zeros((1, 16, 16, 3))),
              'text_encoder': (clip.CLIPTextModel(clip.config_from_transformers(
                  parts['text_encoder'].config)),
                               jnp.zeros((1, 77), jnp.int32))}
  like = {name: jax.eval_shape(network.init, jax.random.key(0), *inputs)['params']
          for name, (network, *inputs) in networks.items()}
  read = lambda: [path.read_bytes() for path in files()]

  def everything():
    return jax.block_until_ready({name: load_part(parts[name], tree, dtype=jnp.float16)
                                  for name, tree in like.items()})

  before = metrics.process_memory()[0]
  everything()
  added, seconds = metrics.process_memory()[1] - before, {}
  for _ in range(TURNS):
    for name, run in (('read', read), ('load', everything)):
      for state, prepare in (('cold_', forget), ('', read)):
        prepare()
        begin = time.perf_counter()
        run()
        seconds.setdefault(state + name, []).append(time.perf_counter() - begin)
  return {**seconds, 'added': added}


def step():
  """What the doctor's compiler says of a step at 512 pixels, and what two of them take."""
  import jax

  from configs import dreamfusion_sd
  from jaxdreamer import build, doctor, metrics
  config = dreamfusion_sd.get_config()
  config.prior.path, config.prior.stable_diffusion.dtype = str(FOLDER), 'float32'
  config.mesh.data = 1
  config.prior.stable_diffusion.image_size, config.render.chunk = 512, 4096
  training = build.training(config, build.make_mesh(config))
  state, text = training.init(jax.random.key(0)), training.text(0)
  begin = time.perf_counter()
  compiled = training.stages[0][1].lower(state, training.prior, text).compile()
  figures = {'compile_seconds': time.perf_counter() - begin,
             'told': doctor.process_peak(compiled, (state, training.prior, text))}
  for _ in range(2):
    begin = time.perf_counter()
    state, info = jax.block_until_ready(compiled(state, training.prior, text))
    figures |= {'seconds': time.perf_counter() - begin, 'finite': float(info['finite'])}
  return figures | {'peak': metrics.process_memory()[1]}


def child(what):
  """What a process of its own finds: `load` or `step`."""
  done = subprocess.run((sys.executable, '-m', 'benchmarks.sd15', '--child', what),
                        cwd=results.ROOT, stdout=subprocess.PIPE,
                        text=True)
  if done.returncode:
    sys.exit(done.returncode)
  found = json.loads(done.stdout.splitlines()[-1])
  print(json.dumps({what: found}), flush=True)
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--child', choices=('load', 'step'), help=argparse.SUPPRESS)
  asked = parser.parse_args().child
  if asked:
    print(json.dumps({'load': load, 'step': step}[asked]()))
    return
  if not FOLDER.exists():
    write()
  size = sum(path.stat().st_size for path in files())
  loaded, stepped = child('load'), child('step')
  took = {name: statistics.median(turns) for name, turns in loaded.items() if name != 'added'}
  ratio = lambda a, b: statistics.median(x / y for x, y in zip(loaded[a], loaded[b], strict=True))
  print(results.write('sd15', {
    'files_gib': size / GIB, **{f'{name}_seconds': seconds for name, seconds in took.items()},
    'load_over_read': ratio('load', 'read'),
    'cold_load_over_cold_read': ratio('cold_load', 'cold_read'),
    'load_peak_over_size': loaded['added'] / size,
    'step_seconds': stepped['seconds'], 'step_compile_seconds': stepped['compile_seconds'],
    'step_finite': bool(stepped['finite']),
    'step_peak_gib': stepped['peak'] / GIB, 'step_doctor_gib': stepped['told'] / GIB,
    'step_peak_over_doctor': stepped['peak'] / stepped['told']}, 'python -m benchmarks.sd15'))


if __name__ == '__main__':
  main()
