r"""Trains the shipped text-conditioned prior on endless fresh renders.

  python -m jaxdreamer.toybox.train_prior --images=3000000         # a day of two cores
  python -m jaxdreamer.toybox.train_prior --minutes=9.15 --batch=256 --steps_per_call=32 \
      --fresh=512 --slots=65536 --dtype=bfloat16 --rate=2e-3 --every=4000 --nolook

The second made the shipped weights, on one H100.

x0-prediction, stratified t, denser where noise leaves words and camera to decide; mask and normals
predicted beside the image, and what the caption names read off the pooled text, by heads that
training alone needs; the object's pixels weigh more than the background, which no caption tells;
AdamW, EMA, a plateau and then a cosine decay over the last `--decay` of the run, of the rate and of
the object's weight alike. Captions are dropped in a tenth of the images, view words told in .6 of
them and the camera in .7. Resumes from `--workdir` by itself; a longer `--images` continues a run
that has not begun to decay. The batch is shared by all devices.
"""
import json
import os
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax import contrib

from jaxdreamer import cameras
from jaxdreamer.diffusion import diffuse
from jaxdreamer.toybox import (
  files,
  fit,
  geometry,
  inspection,
  network,
  render_buffer,
  views,
  world,
  xla_flags,
)
from jaxdreamer.weights import safetensors_io

FLAGS = flags.FLAGS
CAMERA_KEPT, VIEW_WORDS, CAPTION_DROPPED = .7, .6, .1
GEOMETRY_WEIGHT, MEANING_WEIGHT = .3, .02
OBJECT_WEIGHT = 4.  # of a pixel of the object, beside the 1 of every pixel
WARM_UP = 500                                    # steps


def optimizer():
  """AdamW at rate 1; Muon (Jordan et al. 2024), rescaled to Adam's step sizes, for the matrices
  through which words, times and cameras act: it gives the faint directions of a gradient, as the
  camera's are, the step of the strong ones."""
  tiny = 1e-15  # the lowest level's gradients are about 1e-8, and that is where words act
  def matrices(params):
    def of(path, x):
      name = jax.tree_util.keystr(path)
      acts = 'kernel' in name and any(part in name for part in (
          'time_emb_proj', "class_embedding']['linear_2", 'text_model'))
      return contrib.MuonDimensionNumbers((0,), (1,)) if acts else None
    return jax.tree_util.tree_map_with_path(of, params)
  return optax.chain(optax.clip_by_global_norm(1.), contrib.muon(
      1., adam_learning_rate=1., muon_weight_dimension_numbers=matrices, consistent_rms=.2,
      adam_b2=.99,
      eps=tiny, weight_decay=.01, adam_weight_decay=.01))


def init(key):
  """The network's weights, and 'meaning', the heads that read the pooled text."""
  width = network.TEXT.hidden_size
  heads = {name: {'kernel': jnp.zeros((width, n)), 'bias': jnp.zeros(n)}
           for name, n in geometry.HEADS.items()}
  return network.init(key) | {'meaning': heads}


def networks(params):
  """Those of the weights that are shipped."""
  return {name: params[name] for name in ('unet', 'text_model')}


def examples(key, source, n):
  """`n` images of the ring as network inputs: latents, token ids, camera vectors, the geometry that
  is seen, and the classes of what the caption names, -1 where there is no caption."""
  k_slot, k_back, k_words, k_drop = jax.random.split(key, 4)
  pick = render_buffer.some(k_slot, source, n)
  back = jax.vmap(lambda k: render_buffer.background(k, network.SIZE))(jax.random.split(k_back, n))
  x = jax.vmap(render_buffer.composite)(pick.rgb, pick.mask, back)
  told, seen, blank = jax.random.uniform(k_drop, (3, n))
  bins = jnp.where(seen < VIEW_WORDS, views.view_bin(pick.camera.azimuth, pick.camera.elevation),
                   -1)
  ids = jax.vmap(world.tokens)(jax.random.split(k_words, n), pick.item, bins)
  is_blank = blank < CAPTION_DROPPED
  ids = jnp.where(is_blank[:, None], jnp.asarray(world.tokenize(''))[None], ids)
  classes = {name: jnp.where(is_blank, -1, label)
             for name, label in geometry.labels(pick.item, False).items()}
  vector = jax.vmap(cameras.camera_vector)(pick.camera) * (told < CAMERA_KEPT)[:, None]
  return network.encode(x), ids, vector, network.geometry(pick.mask, pick.normal), classes


def misread(heads, pooled, classes):
  """Cross-entropies of what the pooled text says, summed over heads; a mean over the captions that
  say anything."""
  total = 0.
  for name, label in classes.items():
    logp = jax.nn.log_softmax(pooled @ heads[name]['kernel'] + heads[name]['bias'][None])
    total -= jnp.where(label < 0, 0., jnp.take_along_axis(logp, jnp.maximum(label, 0)[:, None],
                                                          -1)[:, 0])
  return jnp.mean(total)


def loss(params, key, z, ids, vector, seen, classes, *, emphasis=1., dtype=jnp.float32):
  """Mean of |x0_hat - z|^2 over a batch, and GEOMETRY_WEIGHT as much of the geometry's,
  MEANING_WEIGHT of `misread`.

  t is stratified over the batch and densest at 1 (density 1 / (2 sqrt(1 - t))): there words and
  camera decide what little noise leaves to guess. Most of the plain error is the background's, so
  the object's pixels weigh 1 + OBJECT_WEIGHT times `emphasis`, in a mean of 1; a weight that knows
  the truth leans the prediction towards 'object' where that is uncertain, and so ends at 0."""
  k_t, k_eps = jax.random.split(key)
  n = z.shape[0]
  t = 1. - (1. - (jnp.arange(n) + jax.random.uniform(k_t, (n,))) / n) ** 2
  eps = jax.random.normal(k_eps, z.shape)
  text = network.embed(params, ids)
  x0_hat, seen_hat = network.predict(params, diffuse(z, t, eps, schedule=network.SCHEDULE), t, text,
                                     vector, dtype=dtype)
  weight = 1. + OBJECT_WEIGHT * emphasis * network.of_object(seen)
  image = jnp.mean(weight * (x0_hat - z) ** 2) / jnp.mean(weight)
  return (image + GEOMETRY_WEIGHT * jnp.mean((seen_hat - seen) ** 2)
          + MEANING_WEIGHT * misread(params['meaning'], text[:, 0], classes))


def renders(key, *, fresh):
  """`fresh` renders of one composition."""
  return render_buffer.batch(key, fresh, size=network.SIZE)


def make_step(tx, *, n, steps, fraction, peak, sharded, dtype=jnp.float32):
  """(state, ring, progress) -> state, loss, as in `fit`: `steps` steps of `n` images; state =
  (step, params, ema, opt, key)."""
  def step(ring, progress, state):
    i, params, ema, opt, key = state
    k_batch, k_loss = jax.random.split(jax.random.fold_in(key, i))
    some = jax.lax.with_sharding_constraint(examples(k_batch, ring, n), sharded)
    value, grads = jax.value_and_grad(loss)(params, k_loss, *some,
                                            emphasis=fit.decay(progress, fraction), dtype=dtype)
    updates, opt = tx.update(grads, opt, params)
    rate = peak * fit.pace(i, progress, warm_up=WARM_UP, fraction=fraction, last=.02)
    params = jax.tree.map(lambda p, u: p + rate * u, params, updates)
    keep = jnp.minimum(.999, (1. + i) / (10. + i))
    ema = optax.incremental_update(params, ema, 1. - keep)
    return (i + 1, params, ema, opt, key), value
  return lambda state, ring, progress: fit.scan(partial(step, ring, progress), state, steps)


def note_start(images):
  """Adds this start to --workdir/history.txt, if its settings are new and it trains at all, and
  returns all of the file:
  weights that were made with more than one set of settings say so."""
  path = pathlib.Path(FLAGS.workdir) / 'history.txt'
  lines = path.read_text().splitlines() if path.exists() else []
  line = fit.settings()
  if images < FLAGS['images'].value and not (lines and lines[-1].endswith(line)):
    lines.append(f'from image {images:,}: {line}')
    path.write_text('\n'.join(lines) + '\n')
  return lines


def begin():
  """What is trained, as it is before the first step: (step, params, ema, opt), from --start or from
  random weights."""
  params = jax.jit(init)(jax.random.fold_in(jax.random.key(FLAGS.seed), 0))
  if FLAGS.start:
    params |= safetensors_io.load(FLAGS.start, jax.eval_shape(network.init, jax.random.key(0)))
  return jnp.int32(0), params, jax.tree.map(jnp.copy, params), optimizer().init(params)


def main(_):
  """Trains the prior of prior.safetensors, from where the last run of --workdir ended."""
  os.makedirs(FLAGS.workdir, exist_ok=True)
  k_run, k_held, k_grid = jax.random.split(jax.random.fold_in(jax.random.key(FLAGS.seed), 1), 3)
  compositions, make, state = fit.compositions(), partial(renders, fresh=FLAGS.fresh), begin()
  path = os.path.join(FLAGS.workdir, 'state.safetensors')
  if os.path.exists(path):
    state = files.restore(path, state)
  first = int(state[0])
  history = note_start(first * FLAGS.batch)
  print(f'{sum(p.size for p in jax.tree.leaves(networks(state[1]))) / 1e6:.1f} M parameters, step '
        f'{first}', flush=True)
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
  everywhere = NamedSharding(mesh, PartitionSpec()) if jax.device_count() > 1 else None
  ring, add = render_buffer.fill(k_run, first // FLAGS.steps_per_call, make,
                                 compositions=compositions, slots=FLAGS.slots,
                                 sharding=everywhere)
  state = jax.device_put((*state, jnp.copy(k_run)), everywhere)
  step = make_step(optimizer(), n=FLAGS.batch, steps=FLAGS.steps_per_call,
                   fraction=FLAGS.decay, peak=FLAGS.rate,
                   sharded=NamedSharding(mesh, PartitionSpec('data')), dtype=jnp.dtype(FLAGS.dtype))
  run = jax.jit(step, donate_argnums=0, compiler_options=xla_flags.own_convolutions()).lower(
      state, ring, jnp.float32(0.)).compile()
  print(f'compiled, {FLAGS.slots:,} renders in the ring', flush=True)

  def keep(state, i, value):
    files.save(path, state[:-1])
    row = {'step': i, 'images': i * FLAGS.batch, 'loss': value}
    if FLAGS.look:
      weights = networks(state[2])
      row |= inspection.held_out(k_held, weights, batches=32)
      inspection.grid(k_grid, weights).save(
          os.path.join(FLAGS.workdir, f'samples_{i:06d}.png'))
    print(json.dumps(row), flush=True)
    with open(os.path.join(FLAGS.workdir, 'metrics.jsonl'), 'a') as f:
      f.write(json.dumps(row) + '\n')

  state, i = fit.fit(run, state, ring, add, first=first, keep=keep)
  safetensors_io.save(FLAGS.out, networks(state[2]), metadata={
    'images': str(i * FLAGS.batch), 'seed': str(FLAGS.seed), 'hardware': f'{jax.device_count()} x '
    f'{jax.devices()[0].device_kind}',
    'command': f'python -m jaxdreamer.toybox.train_prior {fit.settings()}',
    'history': '\n'.join(history)})


if __name__ == '__main__':
  fit.options(images=3_000_000, rate=1.5e-3, slots=8192, workdir='runs/prior',
              out='jaxdreamer/assets/prior.safetensors')
  flags.DEFINE_bool('look', True, 'held-out errors and a grid of samples at every checkpoint, by '
                    'programs of their own')
  app.run(main)
