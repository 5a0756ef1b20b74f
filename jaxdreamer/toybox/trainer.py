"""What the toybox's diffusion models are trained by: a step with an average of the weights, and a
run of it that resumes.

A training is a `Task`, a few functions of one file; `run` gives it the ring of renders, all
devices, checkpoints and curves.
"""
import json
import os
import pathlib
from functools import partial
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import flags
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from optax import contrib

from jaxdreamer.toybox import files, fit, render_buffer, xla_flags

FLAGS = flags.FLAGS
WARM_UP = 500                                    # steps


class Task(NamedTuple):
  """One training: what is rendered, seen, lost and shipped."""
  init: Callable[..., PyTree]                    # key -> all that is trained
  optimizer: Callable[[], optax.GradientTransformation]  # at rate 1
  renders: Callable[..., PyTree]                 # key -> what is added to the ring
  examples: Callable[..., tuple]                 # (key, ring, n) -> n rows of the loss's arguments
  loss: Callable[..., Any]                       # (params, key, *examples, emphasis, dtype) -> []
  shipped: Callable[[PyTree], PyTree]            # those of the params that are shipped
  look: Callable[[PyTree, int], dict]            # (shipped weights, step) -> scores


def muon(matrices: Callable[[PyTree], PyTree], *,
         adam_rate: float = 1.) -> optax.GradientTransformation:
  """AdamW at rate 1, or `adam_rate`; Muon (Jordan et al. 2024), rescaled to Adam's step sizes, for
  what `matrices` (params) gives dimension numbers."""
  tiny = 1e-15  # the lowest level's gradients are about 1e-8, and that is where words act
  return optax.chain(optax.clip_by_global_norm(1.), contrib.muon(
      1., adam_learning_rate=adam_rate, muon_weight_dimension_numbers=matrices, consistent_rms=.2,
      adam_b2=.99, eps=tiny, weight_decay=.01, adam_weight_decay=.01))


def kernels(params: PyTree) -> PyTree:
  """Dimension numbers of every kernel: all that has more than one axis."""
  return jax.tree.map(lambda a: contrib.MuonDimensionNumbers(tuple(range(a.ndim - 1)), (
      a.ndim - 1,)) if a.ndim > 1 else None, params)


def options(**defaults):
  """The flags of `fit.options`, and --look."""
  fit.options(**defaults)
  flags.DEFINE_bool('look', True, 'held-out errors and a grid of samples at every checkpoint, by '
                    'programs of their own')


def make_step(task: Task, tx: optax.GradientTransformation, *, n: int, steps: int, fraction: float,
              peak: float, sharded: Any, dtype: Any = jnp.float32) -> Callable:
  """(state, ring, progress) -> state, loss, as in `fit`: `steps` steps of `n` images; state =
  (step, params, ema, opt, key)."""
  def step(ring, progress, state):
    i, params, ema, opt, key = state
    k_batch, k_loss = jax.random.split(jax.random.fold_in(key, i))
    some = jax.lax.with_sharding_constraint(task.examples(k_batch, ring, n), sharded)
    value, grads = jax.value_and_grad(task.loss)(params, k_loss, *some,
                                                 emphasis=fit.decay(progress, fraction),
                                                 dtype=dtype)
    updates, opt = tx.update(grads, opt, params)
    rate = peak * fit.pace(i, progress, warm_up=WARM_UP, fraction=fraction, last=.02)
    params = jax.tree.map(lambda p, u: p + rate * u, params, updates)
    keep = jnp.minimum(.999, (1. + i) / (10. + i))
    ema = optax.incremental_update(params, ema, 1. - keep)
    return (i + 1, params, ema, opt, key), value
  return lambda state, ring, progress: fit.scan(partial(step, ring, progress), state, steps)


def note_start(images: int) -> list[str]:
  """Adds this start to --workdir/history.txt, if its settings are new and it trains at all, and
  returns all of the file: weights that were made with more than one set of settings say so."""
  path = pathlib.Path(FLAGS.workdir) / 'history.txt'
  lines = path.read_text().splitlines() if path.exists() else []
  line = fit.settings()
  if images < FLAGS['images'].value and not (lines and lines[-1].endswith(line)):
    lines.append(f'from image {images:,}: {line}')
    path.write_text('\n'.join(lines) + '\n')
  return lines


def run(task: Task, params: PyTree, *, command: str) -> tuple[PyTree, dict[str, str]]:
  """Trains `params` from where the last run of --workdir ended, or from its first step -> the
  average of the weights that are shipped, and the metadata of their file. `command` is the
  module's name."""
  os.makedirs(FLAGS.workdir, exist_ok=True)
  k_run = jax.random.fold_in(jax.random.key(FLAGS.seed), 1)
  tx, compositions = task.optimizer(), fit.compositions()
  state = (jnp.int32(0), params, jax.tree.map(jnp.copy, params), tx.init(params))
  path = os.path.join(FLAGS.workdir, 'state.safetensors')
  if os.path.exists(path):
    state = files.restore(path, state)
  first = int(state[0])
  history = note_start(first * FLAGS.batch)
  print(f'{sum(p.size for p in jax.tree.leaves(task.shipped(state[1]))) / 1e6:.1f} M parameters, '
        f'step {first}', flush=True)
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
  everywhere = NamedSharding(mesh, PartitionSpec()) if jax.device_count() > 1 else None
  ring, add = render_buffer.fill(k_run, first // FLAGS.steps_per_call, task.renders,
                                 compositions=compositions, slots=FLAGS.slots,
                                 sharding=everywhere)
  state = jax.device_put((*state, jnp.copy(k_run)), everywhere)
  step = make_step(task, tx, n=FLAGS.batch, steps=FLAGS.steps_per_call, fraction=FLAGS.decay,
                   peak=FLAGS.rate, sharded=NamedSharding(mesh, PartitionSpec('data')),
                   dtype=jnp.dtype(FLAGS.dtype))
  compiled = jax.jit(step, donate_argnums=0, compiler_options=xla_flags.own_convolutions()).lower(
      state, ring, jnp.float32(0.)).compile()
  print(f'compiled, {FLAGS.slots:,} renders in the ring', flush=True)

  def keep(state, i, value):
    files.save(path, state[:-1])
    row = {'step': i, 'images': i * FLAGS.batch, 'loss': value}
    if FLAGS.look:
      row |= task.look(task.shipped(state[2]), i)
    print(json.dumps(row), flush=True)
    with open(os.path.join(FLAGS.workdir, 'metrics.jsonl'), 'a') as f:
      f.write(json.dumps(row) + '\n')

  state, i = fit.fit(compiled, state, ring, add, first=first, keep=keep)
  return task.shipped(state[2]), {
    'images': str(i * FLAGS.batch), 'seed': str(FLAGS.seed),
    'hardware': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'command': f'python -m {command} {fit.settings()}', 'history': '\n'.join(history)}
