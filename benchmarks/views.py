"""How fast the toybox is drawn, one ray a pixel:   python -m benchmarks.views [--quick]

Batches of random compositions, as training draws them (toybox/render_buffer.py); the median over
many batches, images a second.
Writes benchmarks/results/views.json.
"""
import argparse
import json
import statistics
import time
from functools import partial

import jax

from benchmarks import results
from jaxdreamer.toybox import render_buffer

BATCH = 64


def images_per_second(size, *, batches):
  """The median over `batches` batches, after one that compiles."""
  draw = jax.jit(partial(render_buffer.draw, n=BATCH, size=size, supersample=1))
  seconds = []
  for key in jax.random.split(jax.random.key(0), batches + 1):
    begin = time.perf_counter()
    jax.block_until_ready(draw(key))
    seconds.append(time.perf_counter() - begin)
  return BATCH / statistics.median(seconds[1:])


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--quick', action='store_true', help='few batches; writes nothing')
  quick = parser.parse_args().quick
  figures = {f'images_per_second_{size}': images_per_second(size, batches=3 if quick else 60)
             for size in (32, 64)}
  print(json.dumps(figures, indent=1))
  if not quick:
    results.write('views', figures, 'python -m benchmarks.views')


if __name__ == '__main__':
  main()
