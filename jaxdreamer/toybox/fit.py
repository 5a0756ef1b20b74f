"""The loop of the toybox's trainings: a run of so many steps, or of so many minutes, cut at any
time and gone on with.

A call of a training adds fresh renders to a ring (`render_buffer`), then makes `steps_per_call`
steps in one program, `run(state, ring, progress) -> state, loss`, where `progress` is the fraction
of the run that is done, by which rates fall. With --images that is counted in steps, and a run that
was cut goes on bit for bit; with --minutes it is the clock's, from the start of the process.
"""
import math
import time
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, Int, PyTree

from jaxdreamer import training

FLAGS = flags.FLAGS
BEGAN = time.time()  # of the process: --minutes counts imports and compilation
Scalar = Float[Array, ''] | float
SAID = 10.                                       # seconds between lines


def options(*, images: int, rate: float, slots: int, workdir: str, out: str):
  """The flags of every training, with defaults that suit two CPU cores."""
  flags.DEFINE_string('workdir', workdir, 'checkpoints and curves')
  flags.DEFINE_integer('images', images, 'images to train on')
  flags.DEFINE_float('minutes', 0., 'the length of the run from its start, compilation counted, in '
                     'place of --images')
  flags.DEFINE_float('decay', .4, 'the last fraction of the run, over which the rate falls')
  flags.DEFINE_integer('batch', 32, 'images a step')
  flags.DEFINE_integer('reuse', 4, 'times a render is seen before it is replaced')
  flags.DEFINE_integer('fresh', 8, 'renders of one composition made at once')
  flags.DEFINE_integer('slots', slots, 'renders in the ring')
  flags.DEFINE_integer('steps_per_call', 1, 'steps in one program; above 1 on accelerators')
  flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'],
                    'of convolutions and matrix products')
  flags.DEFINE_float('rate', rate, 'learning rate of the plateau')
  flags.DEFINE_integer('every', 1000, 'steps between checkpoints')
  flags.DEFINE_integer('seed', 0, 'of weights, renders and noise')
  flags.DEFINE_string('start', '', 'weights to begin from: the rate warms up again')
  flags.DEFINE_string('out', out, 'where the finished weights go')


SETTINGS = ('images', 'minutes', 'decay', 'batch', 'reuse', 'fresh', 'slots', 'steps_per_call',
            'dtype', 'rate', 'seed', 'start')


def settings() -> str:
  """The options that shape the weights, those that are not at their default."""
  return ' '.join(f'--{name}={FLAGS[name].value}' for name in SETTINGS
                  if FLAGS[name].value != FLAGS[name].default)


def compositions() -> int:
  """How many compositions a call draws `--fresh` renders of. ValueError where the sizes do not
  fit."""
  n, k, fresh = FLAGS.batch, FLAGS.steps_per_call, FLAGS.fresh
  count, left = divmod(n * k, FLAGS.reuse * fresh)
  if n % jax.device_count() or left or not count or FLAGS.slots % (fresh * count):
    raise ValueError(f'--batch={n} must divide by the {jax.device_count()} devices, batch x '
                     f'--steps_per_call={k} by '
                     f'--reuse={FLAGS.reuse} x --fresh={fresh}, and --slots={FLAGS.slots} by what '
                     'a call adds to the ring, '
                     f'{n * k / FLAGS.reuse:g}')
  return count


def decay(progress: Scalar, fraction: float) -> Float[Array, '']:
  """1 until the last `fraction` of a run, then a cosine to 0 at its end."""
  return .5 + .5 * jnp.cos(jnp.pi * jnp.clip((progress - 1. + fraction) / max(fraction, 1e-6), 0.,
                                            1.))


def pace(i: Int[Array, ''] | int, progress: Scalar, *, warm_up: int, fraction: float,
         last: float) -> Float[Array, '']:
  """What the plateau's rate is multiplied by: a rise over `warm_up` steps, 1, and the decay to
  `last`."""
  return jnp.minimum(1., i / warm_up) * (last + (1. - last) * decay(progress, fraction))


def scan(step: Callable, state: PyTree, n: int) -> tuple[PyTree, Array]:
  """`n` steps of state -> state, loss, and their mean loss. One is not looped: on a CPU XLA's
  convolutions are some forty times slower inside a compiled loop."""
  if n == 1:
    return step(state)
  state, values = jax.lax.scan(lambda state, _: step(state), state, length=n)
  return state, jnp.mean(values)


def fit(run: Callable, begin: PyTree, ring: PyTree, add: Callable, *, first: int,
        keep: Callable) -> tuple[PyTree, int]:
  """Steps of `run` from `begin`, step `first`, until the run is done -> state, step;
  `keep(state, step, loss)` every --every steps and at the end. Says step, loss, speed and time left
  as it goes. FloatingPointError where the loss is not finite, before anything is kept."""
  k, n = FLAGS.steps_per_call, FLAGS.batch
  steps = math.inf if FLAGS.minutes else -(-FLAGS.images // (n * k)) * k
  start = said = time.time()
  i, state, last, done = first, begin, None, first / steps

  def feed(i):
    nonlocal ring
    ring = add(ring, jnp.int32(i // k))
    return ring
  advance = lambda i, state, ring: run(state, ring, jnp.float32(done))
  for i, state, loss in training.fit(advance, begin, feed, step=first, stride=k, steps=steps):
    if last is not None:
      # at most two calls are under way, so that the clock is the device's
      jax.block_until_ready(last)
    last, seconds = loss, time.time() - start
    left = 60. * FLAGS.minutes - (time.time() - BEGAN) if FLAGS.minutes else (
        steps - i) * seconds / (i - first)
    done = seconds / max(seconds + left, 1e-6) if FLAGS.minutes else i / steps
    kept = training.crosses(i - k, i, FLAGS.every) or done >= 1.
    if time.time() - said > SAID or kept:
      said, value = time.time(), float(loss)
      print(f'step {i}  images {i * n:,}  loss {value:.4f}  {(i - first) * n / seconds:,.0f} '
            f'images/s  {done:.1%}  '
            f'left {max(left, 0.) / 60.:.1f} min', flush=True)
      if not np.isfinite(value):
        raise FloatingPointError(f'the loss is {value} at step {i}; the last good state is in '
                                 f'{FLAGS.workdir}')
      if kept:
        keep(state, i, value)
    if done >= 1.:
      break
  return state, i
