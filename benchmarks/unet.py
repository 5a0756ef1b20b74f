"""Stable Diffusion 1.5's UNet, ours beside PyTorch's:   python -m benchmarks.unet [--quick]

Seconds of one forward pass, random weights, batch 1, latents of 64 x 64: jitted JAX over diffusers'
class in torch, eager and channels_last, in float32 and in bfloat16. Both run in one process by
turns, and what counts are medians: on a CPU pinned to one core with one thread each, on a GPU free.
Needs torch and diffusers (pip install '.[parity]').
Writes benchmarks/results/unet_cpu.json, or unet_gpu.json where jax and torch both see a GPU;
--quick takes a tiny network and writes nothing.
"""
import argparse
import gc
import importlib.metadata
import json
import os
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from jaxdreamer.nn import unet, unet_config

SD15 = {'cross_attention_dim': 768}  # diffusers' defaults are Stable Diffusion 1's but for this
TINY = {'cross_attention_dim': 32, 'block_out_channels': (32, 64), 'layers_per_block': 1,
        'attention_head_dim': 4,
        'down_block_types': ('CrossAttnDownBlock2D', 'DownBlock2D'),
        'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D')}
SIDE = 64


def medians(runs, *, repeats):
  """{name: median seconds} of functions that take turns, after one call of each that does not
  count."""
  seconds = {name: [] for name in runs}
  for i in range(repeats + 1):
    for name, run in runs.items():
      begin = time.perf_counter()
      run()
      if i:
        seconds[name].append(time.perf_counter() - begin)
  return {name: statistics.median(values) for name, values in seconds.items()}


def inputs(config, side):
  """(latent, timestep, text) as numpy arrays, NHWC."""
  noise = np.random.RandomState(0)
  shapes = (1, side, side, 4), (1, 77, config['cross_attention_dim'])
  x, text = (noise.standard_normal(shape).astype(np.float32) for shape in shapes)
  return x, np.array([500.], np.float32), text


def ours(config, side, dtype):
  """A function that runs our network once."""
  network = unet.UNet2DCondition(unet_config.from_diffusers(config), jnp.dtype(dtype))
  x, t, text = (jnp.asarray(a) for a in inputs(config, side))
  noise = np.random.RandomState(0)
  draw = lambda a: jnp.asarray(.02 * noise.standard_normal(a.shape), dtype)
  params = jax.tree.map(draw, jax.eval_shape(network.init, jax.random.key(0), x, t, text)['params'])
  forward = jax.jit(lambda params, x: network.apply({'params': params}, x, t, text))
  return lambda: forward(params, x).block_until_ready()


def theirs(config, side, dtype, device):
  """A function that runs torch's network once."""
  import torch
  from diffusers import UNet2DConditionModel
  kind = getattr(torch, dtype)
  network = UNet2DConditionModel(**config).eval().requires_grad_(False)
  network = network.to(device, kind, memory_format=torch.channels_last)
  x, t, text = (torch.from_numpy(a).to(device) for a in inputs(config, side))
  x = x.permute(0, 3, 1, 2).to(kind, memory_format=torch.channels_last)
  text = text.to(kind)

  def run():
    with torch.inference_mode():
      network(x, t, text)
    if device == 'cuda':
      torch.cuda.synchronize()
  return run


def measure(config, *, side, repeats, device):
  """The figures of both precisions."""
  figures = {}
  for short, dtype in (('fp32', 'float32'), ('bf16', 'bfloat16')):
    runs = {'jax': ours(config, side, dtype), 'torch': theirs(config, side, dtype, device)}
    seconds = medians(runs, repeats=repeats)
    figures |= {f'jax_over_torch_eager_{short}': seconds['jax'] / seconds['torch']}
    figures |= {f'{name}_seconds_{short}': value for name, value in seconds.items()}
    print(json.dumps(figures), flush=True)
    runs.clear()
    gc.collect()
  return figures


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='a tiny network; writes nothing')
  parser.add_argument('--repeats', type=int, default=11, help='timed calls of each')
  options = parser.parse_args()
  try:
    import diffusers  # noqa: F401
    import torch
  except ImportError as error:
    sys.exit(f"benchmarks.unet compares with torch and diffusers, and {error}: pip install "
             "'.[parity]'")
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  if device == 'cpu':
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
  if (jax.default_backend() == 'cpu') != (device == 'cpu'):
    sys.exit(f'benchmarks.unet: jax runs on {jax.default_backend()!r} and torch on {device!r}; '
             'install both for one device')
  config, side, repeats = (TINY, 8, 2) if options.quick else (SD15, SIDE, options.repeats)
  figures = measure(config, side=side, repeats=repeats, device=device)
  figures |= {'flags': os.environ.get('XLA_FLAGS', ''), 'repeats': repeats,
              'torch': {name: importlib.metadata.version(name) for name in ('torch', 'diffusers')}}
  if not options.quick:
    name = 'unet_cpu' if device == 'cpu' else 'unet_gpu'
    results.write(name, figures, 'python -m benchmarks.unet')


if __name__ == '__main__':
  main()
