"""What a CPU gains where XLA computes convolutions itself:   python -m benchmarks.convolutions [--quick]

jaxdreamer/__init__.py keeps them from XLA's YNN library. The toybox prior's network, forward and with the gradient at its weights,
compiled both ways; all take turns in one process, and what counts are medians. Writes benchmarks/results/convolutions.json.
"""
import argparse
import json
import sys

import jax
import jax.numpy as jnp

import jaxdreamer
from benchmarks import results
from benchmarks.unet import medians
from jaxdreamer.toybox import network, world

ROWS = 8                                         # of a step of four views: with the caption and without


def programs(rows):
  """{what is run: a function of a compiler's options that compiles and returns it}"""
  weights = jax.jit(network.init)(jax.random.key(0))
  z, t = jax.random.normal(jax.random.key(1), (rows, *network.LATENT)), jnp.full(rows, .5)
  text = network.embed(weights, jnp.asarray(world.tokenize('a red cube'))[None])
  text = jnp.broadcast_to(text, (rows, *text.shape[1:]))
  forward = lambda weights: network.predict(weights, z, t, text, jnp.zeros((rows, 6)))[0]
  gradient = jax.grad(lambda weights: jnp.sum(forward(weights) ** 2))
  return {name: lambda options, f=f: jax.jit(f, compiler_options=options).lower(weights).compile()
          for name, f in (('forward', forward), ('gradient', gradient))}, weights


def measure(*, rows, repeats):
  """Seconds of each program by XLA's own choice and by ours, and ours over XLA's."""
  flag, ours = jaxdreamer.YNN.removeprefix('--'), jaxdreamer.KEPT
  ways = {'xla': ','.join((ours, 'LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION')), 'ours': ours}
  compile_, weights = programs(rows)
  runs = {f'{name}_seconds_{way}': build({flag: kinds}) for name, build in compile_.items() for way, kinds in ways.items()}
  seconds = medians({name: lambda run=run: jax.block_until_ready(run(weights)) for name, run in runs.items()}, repeats=repeats)
  return seconds | {f'{name}_ours_over_xla': seconds[f'{name}_seconds_ours'] / seconds[f'{name}_seconds_xla'] for name in compile_}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='two calls of each; writes nothing')
  quick = parser.parse_args().quick
  if jax.default_backend() != 'cpu' or not jaxdreamer.TRIED:
    sys.exit('benchmarks.convolutions measures a flag of XLA on a CPU (x86-64), with jax 0.10')
  figures = measure(rows=ROWS, repeats=2 if quick else 41)
  print(json.dumps(figures, indent=1))
  if not quick:
    results.write('convolutions', figures, 'python -m benchmarks.convolutions')


if __name__ == '__main__':
  main()
