"""python -m jaxdreamer.variance --config=configs/toybox.py --config.prompt="a red car" [--at=0,50,200 --methods="..."]
python -m jaxdreamer.variance --workdir=runs/a-red-car-1a2b3c4d

The variance of score-distillation gradients, measured side by side at frozen parameters: of a fresh scene and of later steps
of a run (`--at`), or of a finished run (`--workdir`). Writes variance.json, variance.png and a table into `--out`; what is
measured and how, jaxdreamer/laboratory.py says. The methods are separated by `;`, each an estimator and its options.
"""
import json
import pathlib
import time
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from jaxdreamer import build, checkpoints, cli, laboratory, moments, seeds
from jaxdreamer.options import place

METHODS = ('sds; ssd; ssd estimator.ssd.mu=moments; csd; vsd; asd; sds sampling.design=stratified; sds sampling.design=lattice;'
           'sds sampling.design=stratified sampling.draws=4')


def states_of(config, at: list[int]):
  """(step, scene params) of a run of `config`, at the steps `at`, as they come."""
  job = build.job(config, build.make_mesh(config))
  state = job.init(seeds.key(config.seed))
  for step in sorted(at):
    while int(state.step) < step:
      state, _ = job.step(state, job.prior, job.text(int(state.step)))
    yield int(state.step), jax.tree.map(jnp.copy, state.params['scene'])


def text(interval: moments.Interval) -> str:
  return f'{interval.mean:.3g} [{interval.lower:.3g}, {interval.upper:.3g}]'


DRAW = {'image': 'image', 'parameter': 'parameters', 'camera': 'of the camera', 'time': 'of t', 'noise': 'of eps'}
STEP = {'step': 'variance', 'step_times_cost': 'variance x cost', 'relative_times_cost': 'relative x cost', 'bias': 'bias',
        'cosine': 'cosine'}


def table(rows: dict[str, dict], columns: dict[str, str], title: str) -> Table:
  out = Table(title=f'{title}, over {laboratory.REFERENCE!r} as published, with 95% intervals')
  for name in ('method', *columns.values()):
    out.add_column(name)
  for name, row in rows.items():
    if all(c in row for c in columns):
      out.add_row(name, *(text(row[c]) for c in columns))
  return out


def plot(rows: dict[str, dict], path: pathlib.Path):
  """Left: where the variance of one draw comes from. Right: variance times cost of a whole step, with intervals."""
  figure = Figure(figsize=(14., 1.8 + .35 * len(rows)), layout='constrained')
  left, right = figure.subplots(1, 2, sharey=True)
  names = list(rows)[::-1]
  start = np.zeros(len(names))
  for part, colour in (('camera', 'tab:blue'), ('time', 'tab:orange'), ('noise', 'tab:green')):
    size = np.array([rows[n]['parameter'].mean * rows[n][part].mean if part in rows[n] else 0. for n in names])
    left.barh(names, size, left=start, color=colour, label={'time': 't', 'noise': 'eps'}.get(part, part))
    start = start + np.maximum(size, 0.)
  left.set_yticks(range(len(names)), [laboratory.label(n) for n in names])
  left.set_xlabel(f'variance of one draw / {laboratory.REFERENCE}')
  left.legend(loc='lower center', bbox_to_anchor=(.5, 1.))
  for y, n in enumerate(names):
    for key, marker, colour in (('step_times_cost', 'o', 'tab:red'), ('relative_times_cost', 's', 'tab:purple')):
      i = rows[n][key]
      right.plot([i.lower, i.upper], [y, y], color=colour)
      right.plot([i.mean], [y], marker, color=colour, label=key.replace('_', ' ') if y == 0 else None)
  right.axvline(1., color='grey', linewidth=.7)
  right.axvline(1. / 3., color='grey', linewidth=.7, linestyle=':')
  right.set_xscale('log')
  right.set_xlabel(f'of a whole step / {laboratory.REFERENCE}')
  right.legend(loc='lower center', bbox_to_anchor=(.5, 1.))
  figure.savefig(path, dpi=120)


def plain(rows: dict[str, dict]) -> list[dict]:
  return [{'method': name, **{k: v._asdict() if isinstance(v, moments.Interval) else v for k, v in row.items()}}
          for name, row in rows.items()]


def main() -> int:
  options = flags.FLAGS
  cli.compile_cache()
  if (options.config is None) == (options.workdir is None):
    raise ValueError('give --config=configs/toybox.py for a fresh scene and its run, or --workdir of a run')
  folder = place(options.out or options.workdir or 'runs/variance')
  with checkpoints.writing(folder, place(options.workdir)) if options.workdir else nullcontext():
    return compare(folder)


def compare(folder: pathlib.Path) -> int:
  options = flags.FLAGS
  if options.workdir:
    config, job, state = build.restore(place(options.workdir))
    states = [(int(state.step), state.params['scene'])]
    learnt = {config.estimator.name: state.params['est']}
  else:
    config, learnt = options.config, {}
    states = states_of(config, [int(step) for step in options.at])
  methods = [m.strip() for m in options.methods.split(';') if m.strip()]
  if laboratory.REFERENCE not in methods:
    methods = [laboratory.REFERENCE, *methods]
  shape = (options.times, options.noises)
  subjects = [laboratory.subject(config, m, times=shape[0], noises=shape[1]) for m in methods]
  start, seen, rows = time.time(), [], []
  for step, scene in states:
    say = lambda what: print(f'{time.time() - start:6.0f} s  {what}', flush=True)
    kept = {m: est for m, est in learnt.items() if m in methods}
    seen.append(laboratory.measure(seeds.key(options.seed), subjects, scene, step, cameras=options.cameras,
                                   repeats=options.repeats, warm=options.warm, shape=shape, kept=kept, say=say))
    rows.append({'step': step, 'rows': plain(laboratory.compare(seen[-1:]))})
  over_all = laboratory.compare(seen)
  folder.mkdir(parents=True, exist_ok=True)
  console = Console(width=max(140, Console().width))
  console.print(table(over_all, DRAW, 'variance of one draw'))
  console.print(table(over_all, STEP, 'a whole step'))
  density = laboratory.best_density(seen, t_min=float(config.sampling.t_min[0]), t_max=float(config.sampling.t_max[0]))
  print(f'best density of t: {tuple(density)}')
  (folder / 'variance.json').write_text(json.dumps(
    {'prompt': config.prompt, 'cameras': options.cameras, 'draws_under_a_camera': list(shape), 'repeats': options.repeats,
     'density': density, 'all': plain(over_all), 'states': rows}, indent=1) + '\n')
  plot(over_all, folder / 'variance.png')
  print(folder / 'variance.json')
  return 0


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_string('workdir', None, 'A run, in place of --config.')
  flags.DEFINE_list('at', ['0', '50', '200'], 'Steps of the run of --config to measure at.')
  flags.DEFINE_string('methods', METHODS, 'What is measured, separated by `;`.')
  flags.DEFINE_integer('cameras', 32, 'Cameras of the nested draws.', lower_bound=3)
  flags.DEFINE_integer('times', 3, 'Times under a camera.', lower_bound=2)
  flags.DEFINE_integer('noises', 2, 'Noises under a time.', lower_bound=2)
  flags.DEFINE_integer('repeats', 48, 'Whole steps.', lower_bound=3)
  flags.DEFINE_integer('warm', 100, 'Steps for which an estimator may learn on the frozen scene before it is measured.',
                       lower_bound=0)
  flags.DEFINE_integer('seed', 0, 'Of all draws.', lower_bound=0, upper_bound=seeds.MOST)
  flags.DEFINE_string('out', None, 'Where to write; the run, or runs/variance.')
  flags.register_validator('at', lambda steps: all(step.strip().isdecimal() for step in steps), 'takes whole numbers: 0,50,200')
  cli.run(main)
