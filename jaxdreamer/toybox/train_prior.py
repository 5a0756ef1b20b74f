"""Trains the shipped text-conditioned prior on endless fresh renders.

  python -m jaxdreamer.toybox.train_prior --images=1000000

x0-prediction, stratified t, denser where noise leaves words and camera to decide, mask and normals predicted beside the
image, AdamW, EMA, a plateau and then a cosine decay over the last `--decay` of the run; captions dropped in a tenth of the
images, view words told in .6 of them and the camera in .7. Resumes from
`--workdir` by itself; a longer `--images` continues a run that has not begun to decay. The batch is shared by all devices.
"""
import json
import os
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax import contrib

from jaxdreamer import cameras
from jaxdreamer.diffusion import diffuse
from jaxdreamer.nn import weights as weight_files
from jaxdreamer.toybox import compiler, files, network, pool, views, world

FLAGS = flags.FLAGS
CAMERA_KEPT, VIEW_WORDS, CAPTION_DROPPED = .7, .6, .1
GEOMETRY_WEIGHT = .3

def schedule(steps, share, peak):
  """Warm-up over 500 steps, plateau, cosine to 2% over the last `share`."""
  falling = int(steps * share)
  return optax.join_schedules([optax.linear_schedule(0., peak, 500), optax.constant_schedule(peak),
                               optax.cosine_decay_schedule(peak, max(falling, 1), .02)], [500, steps - falling])


def optimizer(steps, share, peak):
  """AdamW; Muon (Jordan et al. 2024), rescaled to Adam's step sizes, for the matrices through which words, times and cameras
  act: it gives the faint directions of a gradient, as the camera's are, the step of the strong ones."""
  rate = schedule(steps, share, peak)
  tiny = 1e-15                                   # the lowest level's gradients are about 1e-8, and that is where words act
  def matrices(params):
    def of(path, x):
      name = jax.tree_util.keystr(path)
      acts = 'kernel' in name and any(part in name for part in ('time_emb_proj', "class_embedding']['linear_2", 'text_model'))
      return contrib.MuonDimensionNumbers((0,), (1,)) if acts else None
    return jax.tree_util.tree_map_with_path(of, params)
  return optax.chain(optax.clip_by_global_norm(1.), contrib.muon(
      rate, adam_learning_rate=rate, muon_weight_dimension_numbers=matrices, consistent_rms=.2, adam_b2=.99,
      eps=tiny, weight_decay=.01, adam_weight_decay=.01))


def examples(key, source, n):
  """`n` images of the ring as network inputs: latents, token ids, camera vectors, and the geometry that is seen."""
  k_slot, k_back, k_words, k_drop = jax.random.split(key, 4)
  pick = jax.tree.map(lambda a: a[jax.random.randint(k_slot, (n,), 0, source.mask.shape[0])], source)
  back = jax.vmap(lambda k: pool.background(k, network.SIZE))(jax.random.split(k_back, n))
  x = jax.vmap(pool.composite)(pick.rgb, pick.mask, back)
  told, seen, blank = jax.random.uniform(k_drop, (3, n))
  bins = jnp.where(seen < VIEW_WORDS, views.view_bin(pick.camera.azimuth, pick.camera.elevation), -1)
  ids = jax.vmap(world.tokens)(jax.random.split(k_words, n), pick.item, bins)
  ids = jnp.where((blank < CAPTION_DROPPED)[:, None], jnp.asarray(world.tokenize(''))[None], ids)
  vector = jax.vmap(cameras.camera_vector)(pick.camera) * (told < CAMERA_KEPT)[:, None]
  return network.encode(x), ids, vector, network.geometry(pick.mask, pick.normal)


def loss(params, key, z, ids, vector, seen):
  """Mean of |x0_hat - z|^2 over a batch, and GEOMETRY_WEIGHT as much of the geometry's. t is stratified over the batch and
  densest at 1 (density 1 / (2 sqrt(1 - t))): there words and camera decide what little noise leaves to guess."""
  k_t, k_eps = jax.random.split(key)
  n = z.shape[0]
  t = 1. - (1. - (jnp.arange(n) + jax.random.uniform(k_t, (n,))) / n) ** 2
  eps = jax.random.normal(k_eps, z.shape)
  text = network.embed(params, ids)
  x0_hat, seen_hat = network.predict(params, diffuse(z, t, eps, schedule=network.SCHEDULE), t, text, vector)
  return jnp.mean((x0_hat - z) ** 2) + GEOMETRY_WEIGHT * jnp.mean((seen_hat - seen) ** 2)


@partial(jax.jit, static_argnames='n')
def _unseen(params, key, *, n):
  k_pool, k_pick, k_loss = jax.random.split(key, 3)
  return loss(params, k_loss, *examples(k_pick, pool.batch(k_pool, n, size=network.SIZE), n))


def held_out(params, key, *, batches, n=8):
  """The mean loss on `batches` of `n` renders, with words, times and noise, that a key never used in training fixes."""
  return float(np.mean([_unseen(params, k, n=n) for k in jax.random.split(key, batches)]))


def make_step(tx, *, n, fresh, ring, sharded):
  """(state, pool) -> (state, pool), loss with state = (step, params, ema, opt, key). One step a call: XLA's convolutions
  are some forty times slower inside a compiled loop on a CPU."""
  def step(carry):
    (i, params, ema, opt, key), source = carry
    k_fresh, k_batch, k_loss = jax.random.split(jax.random.fold_in(key, i), 3)
    at = (i + ring // fresh) * fresh % ring
    source = pool.write(source, pool.batch(k_fresh, fresh, size=network.SIZE), at)
    some = jax.lax.with_sharding_constraint(examples(k_batch, source, n), sharded)
    value, grads = jax.value_and_grad(loss)(params, k_loss, *some)
    updates, opt = tx.update(grads, opt, params)
    params = optax.apply_updates(params, updates)
    keep = jnp.minimum(.999, (1. + i) / (10. + i))
    ema = jax.tree.map(lambda e, p: keep * e + (1. - keep) * p, ema, params)
    return ((i + 1, params, ema, opt, key), source), value
  return step


def fill(key, i, *, fresh, ring):
  """The ring as step `i` finds it: its last `ring` renders, each in its slot."""
  one = jax.jit(lambda source, j: pool.write(
      source, pool.batch(jax.random.split(jax.random.fold_in(key, j), 3)[0], fresh, size=network.SIZE),
      (j + ring // fresh) * fresh % ring),
      donate_argnums=0)
  blank = jax.eval_shape(lambda: pool.batch(key, fresh, size=network.SIZE))
  source = jax.tree.map(lambda s: jnp.zeros((ring, *s.shape[1:]), s.dtype), blank)
  for j in range(i - ring // fresh, i):
    source = one(source, jnp.int32(j))
  return source


CAPTIONS = ('a red cube', 'a blue torus', 'a green cone on a yellow cylinder', 'a yellow mug', 'a red car',
            'a snowman with a blue hat', 'a purple house', 'an orange chair', 'a blue ball beside a red cube', 'a white duck')


def grid(params, key, *, columns=8):
  """A picture of samples: a row a caption, a column an azimuth; the left half is told words, the right the camera."""
  from PIL import Image
  azimuth = np.tile(np.arange(columns // 2) * 2 * np.pi / (columns // 2), 2)
  camera = jax.vmap(lambda a: cameras.orbital(a, jnp.radians(20.), jnp.float32(3.), jnp.radians(40.)))(jnp.asarray(azimuth))
  bins = np.asarray(views.view_bin(camera.azimuth, camera.elevation))
  words = ('front', 'side', 'back', 'overhead')
  vector = jax.vmap(cameras.camera_vector)(camera) * (jnp.arange(columns) >= columns // 2)[:, None]
  rows = []
  for caption in CAPTIONS:
    ids = np.stack([world.tokenize(f'{caption}, {words[b]} view' if j < columns // 2 else caption)
                    for j, b in enumerate(bins)])
    rows.append(np.concatenate(list(np.asarray(network.sample(params, key, jnp.asarray(ids), vector))), 1))
  return Image.fromarray((255 * np.clip(np.concatenate(rows), 0, 1)).astype(np.uint8))


def note_start(images):
  """Adds this start to --workdir/history.txt, if its settings are new and it trains at all, and returns all of the file:
  weights that were made with more than one set of settings say so."""
  path = pathlib.Path(FLAGS.workdir) / 'history.txt'
  lines = path.read_text().splitlines() if path.exists() else []
  line = ' '.join(f'--{name}={FLAGS[name].value}' for name in ('images', 'decay', 'batch', 'reuse', 'rate', 'seed'))
  if images < FLAGS['images'].value and not (lines and lines[-1].endswith(line)):
    lines.append(f'from image {images:,}: {line}')
    path.write_text('\n'.join(lines) + '\n')
  return lines


def main(_):
  os.makedirs(FLAGS.workdir, exist_ok=True)
  n, fresh, ring = FLAGS.batch, FLAGS.batch // FLAGS.reuse, FLAGS.slots
  if n % jax.device_count() or ring % fresh or n % FLAGS.reuse:
    raise ValueError(f'--batch={n} must divide by the {jax.device_count()} devices and by --reuse={FLAGS.reuse}, '
                     f'--slots={ring} by batch / reuse = {fresh}')
  steps = FLAGS.images // n
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
  tx = optimizer(steps, FLAGS.decay, FLAGS.rate)
  key = jax.random.key(FLAGS.seed)
  k_init, k_run, k_held, k_grid = jax.random.split(key, 4)
  params = jax.jit(network.init)(k_init)
  state = (jnp.int32(0), params, jax.tree.map(jnp.copy, params), tx.init(params))
  path = os.path.join(FLAGS.workdir, 'state.safetensors')
  if os.path.exists(path):
    state = files.restore(path, state)
  history = note_start(int(state[0]) * n)
  source = fill(k_run, int(state[0]), fresh=fresh, ring=ring)
  state = jax.device_put((*state, k_run), NamedSharding(mesh, PartitionSpec()))
  step = make_step(tx, n=n, fresh=fresh, ring=ring, sharded=NamedSharding(mesh, PartitionSpec('data')))
  run = jax.jit(step, donate_argnums=0, compiler_options=compiler.own_convolutions())

  carry, start, first = (state, source), time.time(), int(state[0])
  i = first
  print(f'{sum(p.size for p in jax.tree.leaves(params)) / 1e6:.1f} M parameters, step {i} of {steps}', flush=True)
  while i < steps:
    carry, value = run(carry)
    i += 1
    if i % 100 == 0:
      speed = (i - first) * n / (time.time() - start)
      print(f'step {i}/{steps}  images {i * n}  loss {float(value):.4f}  {speed:.0f} images/s  '
            f'left {(steps - i) * n / speed / 60:.0f} min', flush=True)
    if i % FLAGS.every == 0 or i >= steps:
      if not np.isfinite(float(value)):
        raise FloatingPointError(f'loss is {value} at step {i}; the last good state is {path}')
      files.save(path, carry[0][:-1])
      with open(os.path.join(FLAGS.workdir, 'metrics.jsonl'), 'a') as f:
        f.write(json.dumps({'step': i, 'images': i * n, 'loss': float(value),
                            'held_out': held_out(carry[0][2], k_held, batches=256 // fresh, n=fresh)}) + '\n')
      grid(carry[0][2], k_grid).save(os.path.join(FLAGS.workdir, f'samples_{i:06d}.png'))
  weight_files.save(FLAGS.out, carry[0][2], metadata={
    'images': str(i * n), 'seed': str(FLAGS.seed), 'hardware': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'command': f'python -m jaxdreamer.toybox.train_prior --images={FLAGS.images} --decay={FLAGS.decay} --rate={FLAGS.rate}',
    'history': '\n'.join(history)})


if __name__ == '__main__':
  flags.DEFINE_string('workdir', 'runs/prior', 'checkpoints, curves and sample grids')
  flags.DEFINE_integer('images', 1_000_000, 'images to train on')
  flags.DEFINE_float('decay', .4, 'the last share of the run, over which the rate falls to 2%')
  flags.DEFINE_integer('batch', 32, 'images a step')
  flags.DEFINE_integer('reuse', 4, 'times a render is seen before it is replaced')
  flags.DEFINE_integer('slots', 8192, 'renders in the ring')
  flags.DEFINE_float('rate', 1.5e-3, 'learning rate of the plateau')
  flags.DEFINE_integer('every', 1000, 'steps between checkpoints, held-out losses and sample grids')
  flags.DEFINE_integer('seed', 0, '')
  flags.DEFINE_string('out', 'jaxdreamer/assets/prior.safetensors', 'where the finished EMA weights go')
  app.run(main)
