r"""python -m jaxdreamer.variance --config=configs/toybox.py \
    --config.prompt="a red car" [--at=0,50,150 --methods="..."]
python -m jaxdreamer.variance --config=configs/toybox.py \
    --prompts="a red car; a blue torus; a purple house"
python -m jaxdreamer.variance --workdir=runs/a-red-car-1a2b3c4d

The variance of score-distillation gradients, measured side by side at frozen parameters: of a fresh
scene and of later steps of a run (`--at`) of each prompt, or of a finished run (`--workdir`).
Writes variance.json, variance.png and a table into `--out`; what is measured and how,
jaxdreamer/variance_lab.py and comparison.py say. The methods are separated by `;`, each an
estimator and its options; 'sds' is always the first.
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

from jaxdreamer import build, cli, comparison, method_texts, runs, seeds, variance_lab, workdirs
from jaxdreamer.optim import adam_v
from jaxdreamer.options import place
from jaxdreamer.sampling import best_density
from jaxdreamer.statistics import Interval

METHODS = ('sds; ssd; csd; vsd; asd; sds sampling.design=stratified; '
           'sds sampling.design=lattice;'
           'sds sampling.design=stratified sampling.draws=4')


def states_of(config, prompts: list[str], at: list[int]):
  """(prompt, step, scene params, Adam's v or None) of a run of `config` for each prompt, at the
  steps `at`, as they come."""
  training = build.training(config, build.make_mesh(config))
  embed = build.embedder(config, training.prior)
  for prompt in prompts:
    state, own = training.init(seeds.key(config.seed)), training.of(embed(prompt))
    for step in sorted(at):
      state = own.advanced(state, steps=step)
      yield prompt, int(state.step), jax.tree.map(
          jnp.copy, state.params['scene']), adam_v(state, config.optim.b2)


def text(interval: Interval) -> str:
  """'1.23 [1.1, 1.4]': mean and both ends of the interval."""
  return f'{interval.mean:.3g} [{interval.lower:.3g}, {interval.upper:.3g}]'


DRAW = {'image': 'image', 'parameter': 'parameters', 'second_moment': 'second moment',
        'camera': 'of the camera',
        'render': 'of the render', 'time': 'of t', 'noise': 'of eps'}
STEP = {'cost': 'cost', 'step': 'variance', 'preconditioned': "as Adam's v divides it",
        'step_times_cost': 'variance x cost',
        'signal': 'mean^2 / variance', 'bias': 'bias', 'cosine': 'cosine'}


def table(rows: dict[str, dict], columns: dict[str, str], title: str) -> Table:
  """The rows that have all of `columns` ({name in the rows: heading}), for the terminal."""
  out = Table(title=title)
  for name in ('method', 'against', *columns.values()):
    out.add_column(name)
  for name, row in rows.items():
    if all(c in row for c in columns):
      out.add_row(name, row['over'], *(text(row[c]) for c in columns))
  return out


def plot(rows: dict[str, dict], path: pathlib.Path):
  """Left: where the variance of one draw comes from. Right: variance times cost of a whole step,
  with intervals. Of each mean the first method is the unit."""
  figure = Figure(figsize=(14., 1.8 + .35 * len(rows)), layout='constrained')
  left, right = figure.subplots(1, 2, sharey=True)
  names = list(rows)[::-1]
  start = np.zeros(len(names))
  for part, color in zip(comparison.SHARES, ('tab:blue', 'tab:cyan', 'tab:orange', 'tab:green')):
    size = np.array([rows[n]['parameter'].mean * rows[n][part].mean if 'parameter' in rows[n]
                     else 0. for n in names])
    left.barh(names, size, left=start, color=color,
              label={'time': 't', 'noise': 'eps'}.get(part, part))
    start = start + np.maximum(size, 0.)
  left.set_yticks(range(len(names)), [method_texts.label(n) for n in names])
  left.set_xlabel('variance of one draw / that of the first method of the same mean')
  left.legend(loc='lower center', bbox_to_anchor=(.5, 1.), ncols=4)
  for y, n in enumerate(names):
    for key, marker, color in (('step_times_cost', 'o', 'tab:red'),
                               ('preconditioned_times_cost', 's', 'tab:purple')):
      i = rows[n][key]
      right.plot([i.lower, i.upper], [y, y], color=color)
      right.plot([i.mean], [y], marker, color=color, label=key.replace('_', ' ')
                 if y == 0 else None)
  right.axvline(1., color='gray', linewidth=.7)
  right.set_xscale('log')
  right.set_xlabel('of a whole step / that of the first method of the same mean')
  right.legend(loc='lower center', bbox_to_anchor=(.5, 1.))
  figure.savefig(path, dpi=120)


def chosen_prompts(text: str, config) -> list[str]:
  """Those of --prompts, or the config's own."""
  prompts = [p.strip() for p in text.split(';') if p.strip()] or [config.prompt]
  if len(prompts) > 1 and config.prior.name == 'empirical':
    raise ValueError("--prompts: config.prior.name='empirical' knows one caption, config.prompt; "
                     "take another prior")
  return prompts


def against(subjects: list[variance_lab.Method]) -> dict[str, str]:
  """{method: the first of the same mean}."""
  first = {}
  return {s.name: first.setdefault(s.mean, s.name) for s in subjects}


def progress(of: int):
  """A function that says what has been done, and how long as much more of the `of` in all will
  take."""
  start, done = time.time(), [0]
  def say(what):
    done[0] += 1
    spent = time.time() - start
    print(f'{spent:6.0f} s  [{done[0]}/{of}] {what}; about '
          f'{spent * (of - done[0]) / done[0] / 60:.1f} min left', flush=True)
  return say


def main() -> int:
  """Checks the options and compares; the exit status."""
  options = flags.FLAGS
  cli.compile_cache()
  if (options.config is None) == (options.workdir is None):
    raise ValueError('give --config=configs/toybox.py for a fresh scene and its run, or --workdir '
                     'of a run')
  workdir = workdirs.newest_stage(place(options.workdir)) if options.workdir else None
  folder = place(options.out) if options.out else workdir or place('runs/variance')
  with workdirs.writing(folder, workdir) if workdir else nullcontext():
    return compare(folder)


def asked(options):
  """(config, prompts, steps, states as of `states_of`, what estimators have learned) of the run of
  --workdir or of those of --config."""
  if options.workdir:
    if options.prompts:
      raise ValueError('--prompts: takes --config, for the run of --workdir has its own prompt')
    config, _, state = runs.restore_state(workdirs.newest_stage(place(options.workdir)))
    prompts, at = [config.prompt], [int(state.step)]
    states = [(config.prompt, int(state.step), state.params['scene'],
               adam_v(state, config.optim.b2))]
    return config, prompts, at, states, {config.estimator.name: state.params['est']}
  config, at = options.config, sorted({int(step) for step in options.at})
  prompts = chosen_prompts(options.prompts, config)
  config.prompt = prompts[0]
  return config, prompts, at, states_of(config, prompts, at), {}


def compare(folder: pathlib.Path) -> int:
  """Measures the methods' variance at each state and writes table and figures into `folder`; the
  exit status."""
  options = flags.FLAGS
  config, prompts, at, states, kept = asked(options)
  methods = list(dict.fromkeys([method_texts.REFERENCE,
                                *(m.strip() for m in options.methods.split(';') if m.strip())]))
  shape = (options.renders, options.times, options.noises)
  subjects = [variance_lab.subject(config, m, renders=shape[0], times=shape[1], noises=shape[2])
              for m in methods]
  over = against(subjects)
  key, say = seeds.key(options.seed), progress(len(prompts) * len(at) * len(subjects) + 1)
  drawn_of, learned = {prompt: [] for prompt in prompts}, {prompt: {} for prompt in prompts}
  seconds = None
  for prompt, step, scene, v in states:
    drawn, est = variance_lab.measure(key, subjects, prompt, scene, v, step,
                                      cameras=options.cameras, repeats=options.repeats,
                                      warm=options.warm, shape=shape, kept=kept,
                                      before=learned[prompt], say=say)
    learned[prompt] = est
    drawn_of[prompt].append(drawn)
    if seconds is None:
      seconds = variance_lab.take_time(key, subjects, prompt, scene, est, step,
                                       rounds=options.rounds, say=say)
  states = list(drawn_of.values())
  by_step = [{'step': step, 'rows': comparison.plain(comparison.compare([[of[i]] for of in states],
                                                                        seconds, over))}
             for i, step in enumerate(at)]
  over_all = comparison.compare(states, seconds, over)
  folder.mkdir(parents=True, exist_ok=True)
  console = Console(width=max(160, Console().width))
  whose = f"95% intervals {'over prompts' if len(prompts) > 1 else 'of this prompt'}"
  console.print(table(over_all, DRAW, f'one draw: variances against the first of the same mean, '
                      f'and shares; {whose}'))
  console.print(table(over_all, STEP, f'a whole step: its cost against {methods[0]!r}, its '
                      'variance against the first of the same '
                                      f'mean; {whose}'))
  figures = {'ssd_parameters_over_sds': comparison.worst(by_step, 'ssd'),
             'best': comparison.best(comparison.plain(over_all)),
             'prompts': prompts, 'cameras': options.cameras, 'draws_under_a_camera': list(shape),
             'repeats': options.repeats,
             'rounds': options.rounds, 'density': density_of(states, config.sampling)}
  print(f'best density of t: {figures["density"]}')
  figures |= {'all': comparison.plain(over_all), 'states': by_step,
              'by_prompt': [{'prompt': prompt, 'rows': comparison.of_prompt(drawn_of[prompt], over)}
                            for prompt in prompts]}
  (folder / 'variance.json').write_text(json.dumps(figures, indent=1) + '\n')
  plot(over_all, folder / 'variance.png')
  print(folder / 'variance.json')
  return 0


def density_of(states: list[list[comparison.State]], sampling) -> list[float] | None:
  """`best_density` of the reference at all states; None where it has no draws of its
  own."""
  power = [next(iter(state.values())).power for of in states for state in of]
  if not power[0]:
    return None
  t, square = (np.concatenate(a) for a in zip(*power))
  return best_density(t, square, t_min=float(sampling.t_min[0]),
                      t_max=float(sampling.t_max[0]))


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_string('workdir', None, 'A run, in place of --config.')
  flags.DEFINE_string('prompts', '', 'What the runs of --config are of, separated by `;`, in place '
                      'of its own prompt.')
  flags.DEFINE_list('at', ['0', '50', '150'], 'Steps of the run of --config to measure at.')
  flags.DEFINE_string('methods', METHODS, 'What is measured, separated by `;`.')
  flags.DEFINE_integer('cameras', 24, 'Cameras of the nested draws.', lower_bound=3)
  flags.DEFINE_integer('renders', 2, 'Renders of a camera.', lower_bound=2)
  flags.DEFINE_integer('times', 2, 'Times under a render.', lower_bound=2)
  flags.DEFINE_integer('noises', 2, 'Noises under a time.', lower_bound=2)
  flags.DEFINE_integer('repeats', 48, 'Whole steps.', lower_bound=6)
  flags.DEFINE_integer('rounds', 10, f'Rounds of {variance_lab.TURN} timed steps of each method.',
                       lower_bound=6)
  flags.DEFINE_integer('warm', 100, 'Steps for which an estimator may learn on the frozen scene '
                       'before it is measured, at each.',
                       lower_bound=0)
  flags.DEFINE_integer('seed', 0, 'Of all draws.', lower_bound=0, upper_bound=seeds.MOST)
  flags.DEFINE_string('out', None, 'Where to write; the run, or runs/variance.')
  flags.register_validator('at', lambda steps: all(step.strip().isdecimal() for step in steps),
                           'takes whole numbers: 0,50,150')
  cli.run(main)
