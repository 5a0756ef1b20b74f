r"""Trains the toybox's depth and normal estimator and its reader.

  python -m jaxdreamer.toybox.train_geometry --images=340000       # hours of two cores
  python -m jaxdreamer.toybox.train_geometry --minutes=4.2 --batch=512 --steps_per_call=16 \
      --fresh=512 --slots=65536 --dtype=bfloat16

The second made the shipped weights, on one H100.

Both see renders under random backgrounds; half of the geometry's pictures, and a quarter of the
reader's, are noised as the prior's latents are, with t up to .6. Resumes from --workdir; writes the
weights with held-out scores in a card.
--only trains one of the two, --start goes on from a finished file.
"""
import json
import os
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float, Int8, UInt8

from jaxdreamer.toybox import (
  files,
  fit,
  geometry,
  network,
  render_buffer,
  trainer,
  world,
  xla_flags,
)
from jaxdreamer.types import Camera
from jaxdreamer.weights import safetensors_io

FLAGS = flags.FLAGS
WARM_UP = 200                                    # steps


class Ring(NamedTuple):
  rgb: UInt8[Array, 'P H W 3']
  mask: UInt8[Array, 'P H W']
  disparity: Float[Array, 'P H W']
  normal: Int8[Array, 'P H W 3']       # camera frame, times 127
  item: world.Item
  camera: Camera


def fresh(key, n, *, pairs=render_buffer.PAIRS):
  """`n` renders of one composition with their geometry."""
  items, camera, view = render_buffer.draw(key, n, size=geometry.SIZE, pairs=pairs)
  turn = camera.world_from_camera[:, :3, :3]                       # columns: right, up, backwards
  normal = jnp.einsum('bji,bhwj->bhwi', turn, view.normal)
  byte = lambda a: jnp.round(255. * jnp.clip(a, 0., 1.)).astype(jnp.uint8)
  # on every pixel that a loss may count
  disparity = jnp.where(view.mask > 0., 1. / jnp.maximum(view.depth, 1.), 0.)
  return Ring(byte(view.rgb), byte(view.mask), disparity.astype(jnp.float16),
              jnp.round(127. * normal).astype(jnp.int8),
              items, camera)


def noisy(key, x, t):
  """The picture of alpha x + sigma eps in [-1, 1] coordinates, brought to unit scale: what an
  estimator sees of z_t."""
  alpha, sigma = (f(t)[:, None, None, None] for f in (network.SCHEDULE.alpha,
                                                      network.SCHEDULE.sigma))
  return .5 * (alpha * (2. * x - 1.) + sigma * jax.random.normal(key, x.shape)) + .5


def examples(key, ring, n, *, fraction):
  """`n` pictures, a `fraction` of them noised with t ~ U(0, .6): (x, picked slots, t)."""
  k_slot, k_back, k_t, k_noise, k_which = jax.random.split(key, 5)
  pick = render_buffer.some(k_slot, ring, n)
  x = render_buffer.shown(k_back, pick)
  t = jnp.where(jax.random.uniform(k_which, (n,)) < fraction,
                jax.random.uniform(k_t, (n,), maxval=.6),
                0.)
  return jnp.where((t > 0.)[:, None, None, None], noisy(k_noise, x, t), x), pick, t


def geometry_loss(weights, x, pick, dtype):
  """1 - Pearson of disparity and 1 - cosine of normals on the object, and a little L1 of disparity
  everywhere.

  One picture leaves scale and shift of disparity to guess, and an error in them must not drown the
  shape (Ranftl et al.
  2020, MiDaS, Sec. 5); the L1 settles what can be known of them, and that there is nothing beside
  the object."""
  mask = (pick.mask > 127).astype(jnp.float32)
  disparity, normal = geometry.geometry(weights, x, dtype=dtype)
  true = pick.disparity.astype(jnp.float32)
  flat = lambda a: a.reshape(len(a), -1)
  cosine = jnp.sum(normal * pick.normal.astype(jnp.float32) / 127., -1)
  return (1. - jnp.mean(jax.vmap(geometry.pearson)(flat(disparity), flat(true), flat(mask)))
          + jnp.sum((1. - cosine) * mask) / jnp.maximum(jnp.sum(mask), 1.)
          + jnp.mean(jnp.abs(disparity - true)))


def labels(pick):
  """The classes of the picked items, one a head, as their cameras show them."""
  return geometry.labels(pick.item, geometry.mirrored(pick.camera))


def reader_loss(weights, x, pick, dtype):
  """Cross-entropy, summed over heads."""
  logp, classes = geometry.read(weights, x, dtype=dtype), labels(pick)
  return -sum(jnp.mean(jnp.take_along_axis(logp[k], classes[k][:, None], -1)) for k in logp)


LOSSES = {'geometry': geometry_loss, 'reader': reader_loss}
NOISY = {'geometry': .5, 'reader': .25}          # the fraction of noisy pictures


def optimizer():
  """At rate 1: Muon for every kernel, AdamW at a third of its rate for the rest: after 700 steps
  the loss is .552, with AdamW alone .638."""
  return trainer.muon(trainer.kernels, adam_rate=1. / 3.)


def make_step(tx, *, n, steps, fraction, peak, dtype=jnp.float32):
  """(state, ring, progress) -> state, loss, as in `fit`; state = (step, weights of one of the
  networks or both, opt, key)."""
  def step(ring, progress, state):
    i, weights, opt, key = state
    keys = jax.random.split(jax.random.fold_in(key, i), len(LOSSES))
    def total(w):
      return sum(LOSSES[name](w, *examples(k, ring, n, fraction=NOISY[name])[:2], dtype)
                 for name, k in zip(LOSSES, keys) if name in w)
    value, grads = jax.value_and_grad(total)(weights)
    updates, opt = tx.update(grads, opt, weights)
    rate = peak * fit.pace(i, progress, warm_up=WARM_UP, fraction=fraction, last=.01)
    return (i + 1, jax.tree.map(lambda w, u: w + rate * u, weights, updates), opt, key), value
  return lambda state, ring, progress: fit.scan(partial(step, ring, progress), state, steps)


def held_out(key, weights, *, batches=192):
  """Scores on `batches` of 4 renders of a composition, never trained on: Pearson of disparity on
  the object (clean; at t = .4), cosine of normals, and how many the reader reads right."""
  @jax.jit
  def one(weights, key):
    k_fresh, k_pick, k_noise = jax.random.split(key, 3)
    x, pick, _ = examples(k_pick, fresh(k_fresh, 4, pairs=render_buffer.WORLD_PAIRS), 4,
                          fraction=0.)
    mask = (pick.mask > 127).astype(jnp.float32)
    flat = lambda a: a.reshape(a.shape[0], -1).astype(jnp.float32)
    def correlation(x):
      guess = flat(geometry.geometry(weights, x)[0])
      return jnp.mean(jax.vmap(geometry.pearson)(guess, flat(pick.disparity), flat(mask)))
    normal = geometry.geometry(weights, x)[1]
    cosine = jnp.sum(jnp.sum(normal * pick.normal / 127., -1) * mask) / jnp.maximum(
        jnp.sum(mask), 1.)
    right = geometry.right(geometry.read(weights, x), labels(pick))
    return {'depth_pearson_clean': correlation(x), 'normal_cosine': cosine,
            'depth_pearson_noisy': correlation(noisy(k_noise, x, jnp.full(4, .4))),
            **{f'read_{name}': jnp.mean(hits.astype(jnp.float32)) for name, hits in right.items()}}
  rows = [one(weights, k) for k in jax.random.split(key, batches)]
  return {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}


def main(_):
  """Trains the networks of geometry.safetensors, from where the last run of --workdir ended."""
  os.makedirs(FLAGS.workdir, exist_ok=True)
  path = os.path.join(FLAGS.workdir, 'state.safetensors')
  k_init, k_run, k_held = jax.random.split(jax.random.key(FLAGS.seed), 3)
  whole, before = jax.jit(geometry.init)(k_init), []
  if FLAGS.start:
    whole = safetensors_io.load(FLAGS.start, whole)
    before = safetensors_io.read_metadata(FLAGS.start)['history'].splitlines()
  weights = {name: whole[name] for name in LOSSES if FLAGS.only in ('', name)}
  tx, compositions, make = optimizer(), fit.compositions(), partial(fresh, n=FLAGS.fresh)
  state = (jnp.int32(0), weights, tx.init(weights))
  if os.path.exists(path):
    state = files.restore(path, state)
  first = int(state[0])
  print(f'{sum(p.size for p in jax.tree.leaves(weights)) / 1e6:.2f} M parameters, step {first}',
        flush=True)
  ring, add = render_buffer.fill(k_run, first // FLAGS.steps_per_call, make,
                                 compositions=compositions, slots=FLAGS.slots)
  step = make_step(tx, n=FLAGS.batch, steps=FLAGS.steps_per_call,
                   fraction=FLAGS.decay, peak=FLAGS.rate, dtype=jnp.dtype(FLAGS.dtype))
  # the steps take their state's memory, and the ring has this key too
  state = (*state, jnp.copy(k_run))
  run = jax.jit(step, donate_argnums=0, compiler_options=xla_flags.own_convolutions()).lower(
      state, ring, jnp.float32(0.)).compile()
  print(f'compiled, {FLAGS.slots:,} renders in the ring', flush=True)
  state, i = fit.fit(run, state, ring, add, first=first,
                     keep=lambda state, i, loss: files.save(path, state[:-1]))
  weights = whole | state[1]
  scores = held_out(k_held, weights)
  print(json.dumps(scores, indent=1))
  command = f'python -m jaxdreamer.toybox.train_geometry {fit.settings()}' + (
      f' --only={FLAGS.only}' if FLAGS.only else '')
  safetensors_io.save(FLAGS.out, weights, metadata={
    'history': '\n'.join([*before, f'`{command}`: {i * FLAGS.batch:,} pictures for '
                          f'{" and ".join(state[1])}']),
    'hardware': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'scores': json.dumps(scores)})


if __name__ == '__main__':
  fit.options(images=340_000, rate=6e-3, slots=6144, workdir='runs/geometry',
              out='jaxdreamer/assets/geometry.safetensors')
  flags.DEFINE_enum('only', '', ['', *LOSSES], 'the network to train; both if not given')
  app.run(main)
