"""What the trainings of the toybox's networks gain on a CPU by toybox/xla_flags.py:   python -m
benchmarks.training [--quick]

One step of train_prior and one of train_geometry at their default batch, on a small ring of
renders, compiled as XLA would and with our options, take turns in one process; seconds are medians.
Writes benchmarks/results/training.json.
"""
import argparse
import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks import results
from benchmarks.unet import medians
from jaxdreamer.toybox import (
  geometry,
  network,
  render_buffer,
  train_geometry,
  train_prior,
  trainer,
  xla_flags,
)


def prior(key, *, batch, slots):
  """A step of the prior's training, and what it takes."""
  tx = train_prior.optimizer()
  weights = jax.jit(train_prior.init)(key)
  source = jax.jit(partial(render_buffer.batch, n=slots, size=network.SIZE))(key)
  step = trainer.make_step(train_prior.TASK, tx, n=batch, steps=1, fraction=.4, peak=1e-3,
                           sharded=SingleDeviceSharding(jax.devices()[0]))
  return step, ((jnp.int32(0), weights, weights, tx.init(weights), key), source, jnp.float32(0.))


def estimators(key, *, batch, slots):
  """A step of the training of both networks that look at pictures, and what it takes."""
  tx = train_geometry.optimizer()
  weights = jax.jit(geometry.init)(key)
  step = train_geometry.make_step(tx, n=batch, steps=1, fraction=.4, peak=6e-3)
  ring = jax.jit(partial(train_geometry.fresh, n=slots))(key)
  return step, ((jnp.int32(0), weights, tx.init(weights), key), ring, jnp.float32(0.))


def once(run, args):
  jax.block_until_ready(run(*args))


def measure(*, batch, slots, repeats):
  """Seconds of a step by XLA's choice and by ours, and ours over XLA's."""
  figures = {}
  for name, make in (('prior', prior), ('estimators', estimators)):
    step, args = make(jax.random.key(0), batch=batch, slots=slots)
    built = {way: jax.jit(step, compiler_options=options).lower(*args).compile()
             for way, options in (('xla', {}), ('ours', xla_flags.own_convolutions()))}
    seconds = medians({way: partial(once, run, args) for way, run in built.items()},
                      repeats=repeats)
    figures |= {f'{name}_{way}_seconds': value for way, value in seconds.items()}
    figures |= {f'{name}_ours_over_xla': seconds['ours'] / seconds['xla']}
  return figures


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='two calls of small steps; '
                      'writes nothing')
  quick = parser.parse_args().quick
  if not xla_flags.own_convolutions():
    sys.exit('benchmarks.training compares options that are known for jax 0.10 on an x86-64 CPU')
  figures = measure(**({'batch': 8, 'slots': 8, 'repeats': 2} if quick
                       else {'batch': 32, 'slots': 64, 'repeats': 21}))
  print(json.dumps(figures, indent=1))
  if not quick:
    results.write('training', figures, 'python -m benchmarks.training')


if __name__ == '__main__':
  main()
