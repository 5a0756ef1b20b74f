"""Trains the toybox's depth and normal estimator and its reader:  python -m jaxdreamer.toybox.train_geometry --steps=6000

Both see renders under random backgrounds; half of the geometry's pictures, and a quarter of the reader's, are noised as
the prior's latents are, with t up to .6. Resumes from --workdir; writes the weights with held-out scores in a card.
--only trains one of the two, --start goes on from a finished file.
"""
import json
import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jaxtyping import Array, Float, Int8, UInt8
from optax import contrib

from jaxdreamer.nn import weights as weight_files
from jaxdreamer.toybox import compiler, files, geometry, network, pool, world
from jaxdreamer.types import Camera

FLAGS = flags.FLAGS


class Ring(NamedTuple):
  rgb: UInt8[Array, 'P H W 3']
  mask: UInt8[Array, 'P H W']
  disparity: Float[Array, 'P H W']
  normal: Int8[Array, 'P H W 3']       # camera frame, times 127
  item: world.Item
  camera: Camera


def fresh(key, n):
  """`n` renders of one composition with their geometry."""
  items, camera, view = pool.draw(key, n, size=geometry.SIZE)
  turn = camera.world_from_camera[:, :3, :3]                       # columns: right, up, backwards
  normal = jnp.einsum('bji,bhwj->bhwi', turn, view.normal)
  byte = lambda a: jnp.round(255. * jnp.clip(a, 0., 1.)).astype(jnp.uint8)
  disparity = jnp.where(view.mask > 0., 1. / jnp.maximum(view.depth, 1.), 0.)      # on every pixel that a loss may count
  return Ring(byte(view.rgb), byte(view.mask), disparity.astype(jnp.float16), jnp.round(127. * normal).astype(jnp.int8),
              items, camera)


def noisy(key, x, t):
  """The picture of alpha x + sigma eps in [-1, 1] coordinates, brought to unit scale: what an estimator sees of z_t."""
  alpha, sigma = (f(t)[:, None, None, None] for f in (network.SCHEDULE.alpha, network.SCHEDULE.sigma))
  return .5 * (alpha * (2. * x - 1.) + sigma * jax.random.normal(key, x.shape)) + .5


def examples(key, ring, n, *, share):
  """`n` pictures, a `share` of them noised with t ~ U(0, .6): (x, picked slots, t)."""
  k_slot, k_back, k_t, k_noise, k_which = jax.random.split(key, 5)
  pick = jax.tree.map(lambda a: a[jax.random.randint(k_slot, (n,), 0, ring.mask.shape[0])], ring)
  back = jax.vmap(lambda k: pool.background(k, geometry.SIZE))(jax.random.split(k_back, n))
  x = jax.vmap(pool.composite)(pick.rgb, pick.mask, back)
  t = jnp.where(jax.random.uniform(k_which, (n,)) < share, jax.random.uniform(k_t, (n,), maxval=.6), 0.)
  return jnp.where((t > 0.)[:, None, None, None], noisy(k_noise, x, t), x), pick, t


def geometry_loss(weights, x, pick):
  """1 - Pearson of disparity and 1 - cosine of normals on the object, and a little L1 of disparity everywhere.

  One picture leaves scale and shift of disparity to guess, and an error in them must not drown the shape (Ranftl et al.
  2020, MiDaS, Sec. 5); the L1 settles what can be known of them, and that there is nothing beside the object."""
  mask = (pick.mask > 127).astype(jnp.float32)
  disparity, normal = geometry.geometry(weights, x)
  true = pick.disparity.astype(jnp.float32)
  flat = lambda a: a.reshape(len(a), -1)
  cosine = jnp.sum(normal * pick.normal.astype(jnp.float32) / 127., -1)
  return (1. - jnp.mean(jax.vmap(geometry.pearson)(flat(disparity), flat(true), flat(mask)))
          + jnp.sum((1. - cosine) * mask) / jnp.maximum(jnp.sum(mask), 1.) + jnp.mean(jnp.abs(disparity - true)))


def labels(pick):
  return geometry.labels(pick.item, geometry.mirrored(pick.camera))


def reader_loss(weights, x, pick):
  """Cross-entropy, summed over heads."""
  logp, classes = geometry.read(weights, x), labels(pick)
  return -sum(jnp.mean(jnp.take_along_axis(logp[k], classes[k][:, None], -1)) for k in logp)


LOSSES = {'geometry': geometry_loss, 'reader': reader_loss}
NOISY = {'geometry': .5, 'reader': .25}          # the share of noisy pictures


def optimizer(steps):
  """Muon (Jordan et al. 2024) for every kernel, AdamW for the rest: after 700 steps the loss is .552, with AdamW alone .638."""
  rate = lambda peak: optax.warmup_cosine_decay_schedule(0., peak, min(200, steps // 4), steps, .01 * peak)
  def kernels(params):
    matrix = lambda a: contrib.MuonDimensionNumbers(tuple(range(a.ndim - 1)), (a.ndim - 1,)) if a.ndim > 1 else None
    return jax.tree.map(matrix, params)
  return optax.chain(optax.clip_by_global_norm(1.), contrib.muon(
      rate(6e-3), adam_learning_rate=rate(2e-3), muon_weight_dimension_numbers=kernels, consistent_rms=.2, adam_b2=.99,
      eps=1e-15, weight_decay=.01, adam_weight_decay=.01))


def make_step(tx, *, n, slots, some):
  """(weights of one of the networks or both, opt, ring, key, i) -> the same, a step on, with {network: loss}."""
  def step(weights, opt, ring, key, i):
    k_fresh, *keys = jax.random.split(jax.random.fold_in(key, i), 1 + len(LOSSES))
    ring = pool.write(ring, fresh(k_fresh, some), i * some % slots)
    def total(w):
      losses = {name: LOSSES[name](w, *examples(k, ring, n, share=NOISY[name])[:2]) for name, k in zip(LOSSES, keys) if name in w}
      return sum(losses.values()), losses
    (_, losses), grads = jax.value_and_grad(total, has_aux=True)(weights)
    updates, opt = tx.update(grads, opt, weights)
    return optax.apply_updates(weights, updates), opt, ring, losses
  return step


def held_out(key, weights, *, batches=192):
  """Scores on `batches` of 4 renders of a composition, never trained on: Pearson of disparity on the object (clean; at t = .4),
  cosine of normals, and how many the reader reads right."""
  @jax.jit
  def one(weights, key):
    k_fresh, k_pick, k_noise = jax.random.split(key, 3)
    x, pick, _ = examples(k_pick, fresh(k_fresh, 4), 4, share=0.)
    mask = (pick.mask > 127).astype(jnp.float32)
    flat = lambda a: a.reshape(a.shape[0], -1).astype(jnp.float32)
    def correlation(x):
      guess = flat(geometry.geometry(weights, x)[0])
      return jnp.mean(jax.vmap(geometry.pearson)(guess, flat(pick.disparity), flat(mask)))
    normal = geometry.geometry(weights, x)[1]
    cosine = jnp.sum(jnp.sum(normal * pick.normal / 127., -1) * mask) / jnp.maximum(jnp.sum(mask), 1.)
    right = geometry.right(geometry.read(weights, x), labels(pick))
    return {'depth_pearson_clean': correlation(x), 'normal_cosine': cosine,
            'depth_pearson_noisy': correlation(noisy(k_noise, x, jnp.full(4, .4))),
            **{f'read_{name}': jnp.mean(hits.astype(jnp.float32)) for name, hits in right.items()}}
  rows = [one(weights, k) for k in jax.random.split(key, batches)]
  return {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}


def main(_):
  os.makedirs(FLAGS.workdir, exist_ok=True)
  path = os.path.join(FLAGS.workdir, 'state.safetensors')
  k_init, k_run, k_held = jax.random.split(jax.random.key(FLAGS.seed), 3)
  whole, before = jax.jit(geometry.init)(k_init), []
  if FLAGS.start:
    whole, before = weight_files.load(FLAGS.start, whole), weight_files.read_metadata(FLAGS.start)['history'].splitlines()
  weights = {name: whole[name] for name in LOSSES if FLAGS.only in ('', name)}
  tx = optimizer(FLAGS.steps)
  opt, first = tx.init(weights), 0
  if os.path.exists(path):
    weights, opt, first = files.restore(path, (weights, opt, jnp.int32(0)))
  some = FLAGS.fresh
  make = jax.jit(lambda ring, j: pool.write(ring, fresh(jax.random.fold_in(k_run, 10 ** 6 + j), some), j * some),
                 donate_argnums=0)
  blank = jax.eval_shape(lambda: fresh(k_run, some))
  ring = jax.tree.map(lambda s: jnp.zeros((FLAGS.slots, *s.shape[1:]), s.dtype), blank)
  for j in range(FLAGS.slots // some):
    ring = make(ring, jnp.int32(j))
  step = jax.jit(make_step(tx, n=FLAGS.batch, slots=FLAGS.slots, some=some), donate_argnums=(0, 1, 2),
                 compiler_options=compiler.own_convolutions())
  begin = time.time()
  size = sum(p.size for p in jax.tree.leaves(weights)) / 1e6
  print(f'{size:.2f} M parameters, step {int(first)} of {FLAGS.steps}', flush=True)
  for i in range(int(first), FLAGS.steps):
    weights, opt, ring, losses = step(weights, opt, ring, k_run, jnp.int32(i))
    if (i + 1) % 100 == 0:
      left = (time.time() - begin) / (i + 1 - int(first)) * (FLAGS.steps - i - 1)
      told = '  '.join(f'{name} {loss:.3f}' for name, loss in losses.items())
      print(f'step {i + 1}/{FLAGS.steps}  {told}  left {left / 60:.1f} min', flush=True)
    if (i + 1) % 500 == 0 or i + 1 == FLAGS.steps:
      files.save(path, (weights, opt, jnp.int32(i + 1)))
  scores = held_out(k_held, whole | weights)
  print(json.dumps(scores, indent=1))
  command = f'python -m jaxdreamer.toybox.train_geometry --steps={FLAGS.steps} --seed={FLAGS.seed}'
  command += ''.join(f' --{name}={FLAGS[name].value}' for name in ('only', 'start') if FLAGS[name].value)
  weight_files.save(FLAGS.out, whole | weights, metadata={
    'history': '\n'.join([*before, f'`{command}`: {FLAGS.steps * FLAGS.batch:,} pictures for {" and ".join(weights)}']),
    'hardware': f'{jax.device_count()} x {jax.devices()[0].device_kind}', 'scores': json.dumps(scores)})


if __name__ == '__main__':
  flags.DEFINE_string('workdir', 'runs/geometry', 'checkpoints')
  flags.DEFINE_integer('steps', 6000, 'steps of the whole run')
  flags.DEFINE_integer('batch', 32, 'pictures a step, for each of the two networks')
  flags.DEFINE_integer('fresh', 8, 'renders replaced a step')
  flags.DEFINE_integer('slots', 6144, 'renders in the ring')
  flags.DEFINE_integer('seed', 0, '')
  flags.DEFINE_enum('only', '', ['', *LOSSES], 'the network to train; both if not given')
  flags.DEFINE_string('start', '', 'the weights to go on from')
  flags.DEFINE_string('out', 'jaxdreamer/assets/geometry.safetensors', 'where the finished weights go')
  app.run(main)
