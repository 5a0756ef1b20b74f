"""Where the time of a step goes, and what bounds it, on any device:

    python -m benchmarks.roofline --config=configs/toybox.py [--rounds=9] [--quick]

The step of a config is taken apart: what it samples, its render and the render's pullback, the
prior's encoder and its pullback, the prior's prediction, what the estimator learns, the optimizer.
Each is a program of its own, timed by turns in random order, of whose times the least counts; FLOPs
and bytes are the compiler's count. A pullback is what it adds to the program that goes forward.
Shares are of the rates that the same rounds measure: products of large matrices, and copies. The
last line names the part that takes most, and which of both bounds it. The parts come to more than
the step where the compiler fuses them.

Models whose weights are not here have random ones, at the model's own size. Writes
benchmarks/results/roofline_cpu.json (roofline_gpu.json) for the toybox; others are printed.
"""
import sys
from functools import partial

import jax
import jax.numpy as jnp
from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks import full_size, peaks, results
from jaxdreamer import build, cli, conditioning, parallel, profiling, stages, train_step
from jaxdreamer.registry import make_regularize
from jaxdreamer.weights import model_shapes

PULLBACKS = {'render, pulled back': 'render', 'encode, pulled back': 'encode'}
TOYBOX = 'configs/toybox.py'
COLUMNS = ('part', 'milliseconds', 'share', 'GFLOP', 'GB', 'of_flops', 'of_bytes', 'bound')


def prepared(config, *, quick=False):
  """The config's first stage on one device; `quick`, of few samples and cells."""
  config = next(iter(stages.of(config).values()))
  config.mesh.data = 1
  if config.prior.name not in ('toybox', 'empirical') and not config.prior.path:
    config.prior.path = model_shapes.SHAPES
  if quick:
    config.render.update({'samples': 4, 'fine': 2})
    config.scene.sdf_voxels.levels = config.scene.voxels.levels = (8,)
  return config


def subject(config):
  """(Training, state, prior, text), the weights of what is here by its shapes alone drawn."""
  training = build.training(config, build.make_mesh(config), abstract=True)
  k_state, k_prior, k_text = jax.random.split(jax.random.key(0), 3)
  missing = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(training.prior))
  prior, text = training.prior, training.text(0)
  if missing:
    prior = jax.tree.unflatten(jax.tree.structure(prior), jax.tree.leaves(
      full_size.drawn(k_prior, prior)))
    text = full_size.drawn(k_text, text)
  return training, training.init(k_state), prior, text


def programs(config, training, state, prior, text):
  """{part: (jitted function, its arguments)} of a step at its first stage."""
  parts, ids, step = training.parts, jnp.arange(config.sampling.views), jnp.int32(0)
  scene, est = state.params['scene'], state.params['est']
  made = build.make_scene(config, prior=prior)
  draw = build.make_render(config, made)
  size = config.render.stages[0][1] if config.render.stages else prior.image_size
  regularize = make_regularize(config.regularizers)
  camera, draws, keys = jax.jit(partial(parts.sample, step=step))(state.key, ids)

  @conditioning.by_prompt
  def pictures(text, camera, keys, *, scene):
    text = text._replace(noise=jnp.zeros(train_step.NOISE))
    code = made.focus(made.prepare(scene, text), step)
    return jax.vmap(lambda camera, key: draw(size, code, camera, key, step))(camera, keys)

  def rendered(scene, text):
    rendering = pictures(text, camera, keys, scene=scene)
    return rendering.rgb, regularize(rendering, step)

  def pulled(f):
    def run(x, *rest):
      out, pullback = jax.vjp(lambda x: f(x, *rest), x)
      return out, pullback(jax.tree.map(jnp.ones_like, out))
    return run
  encode = lambda rgb, prior: prior.sample(keys, rgb)
  rgb, _ = jax.jit(rendered)(scene, text)
  z, _, views, _ = jax.jit(lambda *a: parts.render_latents(*a, camera, keys, step)[:3] + (0,))(
    scene, prior, text)
  each = len(draws.t) // len(keys)
  views, z = jax.tree.map(lambda a: jnp.repeat(a, each, 0), (views, z))
  predict = lambda est, prior: train_step.residual(parts.estimator, draws, est, prior, z, views,
                                                   step)
  learn = lambda est, prior: jax.value_and_grad(lambda est: parts.estimator.loss(
    draws, est, prior, z, views, step))(est)
  one_step = parallel.single_device(train_step.make_local_step(
    sample=parts.sample, gradient=parts.gradient, tx=parts.tx), views=len(ids))
  found = {'sample': (lambda key: parts.sample(key, ids, step), (state.key,)),
           'render': (rendered, (scene, text)), 'render, pulled back': (pulled(rendered),
                                                                        (scene, text)),
           'encode': (encode, (rgb, prior)), 'encode, pulled back': (pulled(encode), (rgb, prior)),
           'predict': (predict, (est, prior)), 'learn': (learn, (est, prior)),
           'optimizer': (lambda g, opt, params: parts.tx.update(g, opt, params),
                         (state.params, state.opt, state.params))}
  if not jax.tree.leaves(est):
    del found['learn']
  return {name: (jax.jit(f), args) for name, (f, args) in found.items()} | {
    'step': (jax.jit(one_step), (state, prior, text))}


def measure(config, *, rounds, tiny=False):
  """{'flops', 'bytes' a second, 'rows' of COLUMNS, 'bottleneck': a line}."""
  built = {name: (f.lower(*args).compile(), args)
           for name, (f, args) in programs(config, *subject(config)).items()}
  rates = peaks.runs(tiny=tiny)
  turns = {name: partial(_once, run, args) for name, (run, args) in built.items()} | {
    name: partial(_once, run, ()) for name, (run, _) in rates.items()}
  for turn in turns.values():
    turn()
  # other work of the machine only adds to what a program takes
  seconds = {name: min(taken) for name, taken in profiling.by_turns(
    jax.random.key(0), turns, rounds=rounds).items()}
  best = {name: work / seconds[name] for name, (_, work) in rates.items()}
  costs = {name: run.cost_analysis() or {} for name, (run, _) in built.items()}
  found = {name: [seconds[name], costs[name].get('flops', 0.),
                  costs[name].get('bytes accessed', 0.)] for name in built}
  for name, forward in PULLBACKS.items():
    found[name] = [max(whole - part, 0.) for whole, part in zip(found[name], found[forward])]
  rows = [row(name, *values, whole=seconds['step'], best=best) for name, values in found.items()]
  return {**best, 'rows': rows, 'bottleneck': bottleneck(rows)}


def _once(run, args):
  jax.block_until_ready(run(*args))


def row(name, seconds, flops, nbytes, *, whole, best):
  """One of the table: what a part takes, and how near it is to the device's best."""
  of_flops, of_bytes = (work / rate / seconds if seconds else 0. for work, rate in (
    (flops, best['flops']), (nbytes, best['bytes'])))
  return peaks.rounded({
    'part': name, 'milliseconds': 1e3 * seconds, 'share': seconds / whole, 'GFLOP': flops / 1e9,
    'GB': nbytes / 1e9, 'of_flops': of_flops, 'of_bytes': of_bytes,
    'bound': 'arithmetic' if of_flops > of_bytes else 'memory'})


def bottleneck(rows):
  """The line that names the part to look at next."""
  worst = max((row for row in rows if row['part'] != 'step'), key=lambda row: row['milliseconds'])
  share = worst['of_flops' if worst['bound'] == 'arithmetic' else 'of_bytes']
  rate = 'product' if worst['bound'] == 'arithmetic' else 'copy'
  return (f'next bottleneck: {worst["part"]}, {worst["share"]:.0%} of a step; it comes to '
          f'{share:.0%} of the {rate} rate of this device')


def show(found):
  """Prints the table, and the last line."""
  out = Table(*COLUMNS)
  for one in found['rows']:
    out.add_row(*(value if isinstance(value := one[column], str) else f'{value:.3g}'
                  for column in COLUMNS))
  console = Console(width=110)
  console.print(out)
  console.print(f'measured: {found["flops"] / 1e9:,.0f} GFLOP and {found["bytes"] / 1e9:,.1f} GB a '
                'second', highlight=False)
  console.print(found['bottleneck'], highlight=False)


def main():
  """Prints the table of a config's step, and writes the toybox's."""
  config, quick = flags.FLAGS.config, flags.FLAGS.quick
  if config is None:
    cli.die('give a --config, as configs/toybox.py', status=cli.MISUSED)
  found = measure(prepared(config, quick=quick), rounds=2 if quick else flags.FLAGS.rounds,
                  tiny=quick)
  show(found)
  if sys.argv[1:] == [f'--config={TOYBOX}']:
    kind = 'cpu' if jax.default_backend() == 'cpu' else 'gpu'
    results.write(f'roofline_{kind}', found, f'python -m benchmarks.roofline --config={TOYBOX}')


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_integer('rounds', 9, 'Timed calls of each part.')
  flags.DEFINE_bool('quick', False, 'A small scene, two rounds.')
  cli.run(main)
