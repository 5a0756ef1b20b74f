"""How near our networks are to the torch classes they stand for:   python -m benchmarks.parity
[--quick]

The largest difference, relative to torch's largest value: of the output in float32 and in bfloat16,
and of the gradient by the input (None for text towers, whose input is integers). Weights are
random, configs tiny but with the structure of the published ones, as in tests/parity;
unet_sd15_full is Stable Diffusion 1.5's UNet in its full size. Needs torch, diffusers and
transformers (pip install '.[parity]'). Writes benchmarks/results/parity.json; --quick leaves out
the full one and writes nothing.
"""
import argparse
import gc
import json
import pathlib
import sys
import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results

sys.path.insert(0, str(results.ROOT / 'tests' / 'parity'))
import compare  # noqa: E402

from jaxdreamer.nn import unet, unet_config  # noqa: E402
from jaxdreamer.weights import safetensors_io  # noqa: E402

NETWORKS = {
    'unet_sd15': ('unet', 'sd1'),
    'unet_sd21': ('unet', 'sd2'),
    'unet_sdxl': ('unet', 'sdxl'),
    'mvdream': ('unet', 'mvdream'),
    'vae_encode': ('vae', 'three_levels', 'encode'),
    'vae_decode': ('vae', 'three_levels', 'decode'),
    'clip_l': ('clip', 'quick_gelu'),
    'clip_h': ('clip', 'gelu'),
    'clip_bigg': ('clip_projection', 'gelu'),
    'clip_vision': ('clip_vision', 'quick_gelu'),
    'dpt_hybrid': ('depth', 'dpt', 'midas', (96, 64)),
    'depth_anything_v2_small': ('depth', 'depth_anything', 'relative', (70, 42)),
}
SD15 = dict(cross_attention_dim=768)  # diffusers' defaults are Stable Diffusion 1's but for this
LATENT = (1, 32, 32, 4)


def row(name, ours, low, theirs):
  """One network's errors."""
  gradient = None if theirs[1] is None else compare.error(ours[1], theirs[1])
  return {'network': name, 'float32': compare.error(ours[0], theirs[0]),
          'bfloat16': compare.error(low, theirs[0]),
          'gradient': gradient}


def tiny(live, name):
  """A network of the parity tests."""
  case = NETWORKS[name]
  return row(name, compare.ours(*case), compare.ours_in_bfloat16(*case), live.theirs(*case))


def full(live):
  """Stable Diffusion 1.5's UNet at half its width and height in pixels, with the weights that torch
  draws."""
  import safetensors.torch
  import torch
  from diffusers import UNet2DConditionModel
  noise = np.random.RandomState(0)
  x, cotangent, text = (noise.standard_normal(s).astype(np.float32)
                        for s in (LATENT, LATENT, (1, 77, 768)))
  t = np.array([500.], np.float32)
  torch.manual_seed(0)
  theirs = UNet2DConditionModel(**SD15).eval().requires_grad_(False)
  run = partial(live.make_golden.run_unet, theirs)
  torchs = live.pulled_back(lambda x: run(x, t, text, None), torch.from_numpy(x), cotangent)
  config = unet_config.from_diffusers(dict(theirs.config))
  like = jax.eval_shape(unet.UNet2DCondition(config).init, jax.random.key(0), x, t, text)['params']
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'unet.safetensors'
    safetensors.torch.save_file(theirs.state_dict(), file)
    del theirs, run
    gc.collect()
    params = safetensors_io.load(file, like)

  def run(dtype):
    return lambda params, x: unet.UNet2DCondition(config, dtype).apply(
        {'params': params}, x, jnp.asarray(t), jnp.asarray(text))

  @jax.jit
  def ours(params, x, cotangent):
    out, pullback = jax.vjp(lambda x: run(jnp.float32)(params, x), x)
    return out, pullback(cotangent)[0]

  return row('unet_sd15_full', ours(params, x, cotangent), jax.jit(run(jnp.bfloat16))(params, x),
             torchs)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='tiny networks alone; writes nothing')
  quick = parser.parse_args().quick
  try:
    import live
  except ImportError as error:
    sys.exit(f"benchmarks.parity compares with torch, diffusers and transformers, and {error}: pip "
             "install '.[parity]'")
  # float32 means float32 on accelerators too
  jax.config.update('jax_default_matmul_precision', 'highest')
  rows = []
  for name in [*NETWORKS, *([] if quick else ['unet_sd15_full'])]:
    rows.append(tiny(live, name) if name in NETWORKS else full(live))
    print(json.dumps(rows[-1]), flush=True)
  if not quick:
    worst = {f'worst_{k}': max(r[k] for r in rows if r[k] is not None)
             for k in ('float32', 'bfloat16', 'gradient')}
    results.write('parity', {r['network']: r['float32'] for r in rows} | worst | {'rows': rows},
                  'python -m benchmarks.parity')


if __name__ == '__main__':
  main()
