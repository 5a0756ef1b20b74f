"""The estimators, and their controls, at equal compute on the toybox:   python -m
benchmarks.estimators [--quick]

Every method gets the same number of prior calls: what SDS's steps of 4 views spend, two rows a
view; so a method that asks for more rows a step takes fewer steps. Each of six prompts runs with
three seeds; curves of silhouette IoU are taken on the way.
The seeds of a prompt are no independent runs: intervals are over prompts, of each its mean. ASD,
CSD and VSD run twice: with SDS's times and this world's scale, and with what their papers publish
(PUBLISHED), as far as this world goes.

Seconds are steps times the seconds of a step, which are measured last, the methods by turns in
random order; row_over_sds is a step's seconds for each row of the prior, over SDS's. `best` is the
method of the best IoU on every second seed, told from the other seeds. Runs are kept under
runs/benchmarks, by a hash of the sources: after an interruption the same command goes on with the
first run that has no result. Writes benchmarks/results/estimators.json, and estimators.png: each
prompt's last object under each method. --quick: two prompts, two methods, a few steps, into runs/.
"""
import argparse
import functools
import json
import re
import time
from statistics import mean, median_low

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image, ImageDraw, ImageFont

from benchmarks import results
from benchmarks.toybox import source_hash
from configs import toybox as config_file
from configs.toybox_amortised import ROWS
from jaxdreamer import (
  build,
  cameras,
  cli,
  comparison,
  evaluate,
  method_texts,
  profiling,
  statistics,
  variance_lab,
)
from jaxdreamer.outputs import video
from jaxdreamer.schedules import is_never
from jaxdreamer.scores import silhouette_iou
from jaxdreamer.toybox import truth

PROMPTS = ('a red cube', 'a blue torus', 'a green cone on a yellow cylinder', 'a red car',
           'a snowman with a blue hat',
           'an orange chair')
SPREAD = ' sampling.design=stratified'
# the quietest, by benchmarks.variance, with one of:
TWICE = 'csd sampling.design=lattice sampling.draws=2'
MIDDLE, UNIFORM, MEASURED = (' sampling.t_min=.2 sampling.t_max=.8',
                             ' sampling.weight=uniform', ' sampling.density=measured')
# Of the papers' code: scale, annealing and Perp-Neg. STEPS, HALF and FIFTH stand for those of the
# run. The words of CSD's negative prompt ("oversaturated, ugly, low quality, ...") are none of this
# world's: a lump without color is its nearest.
PUBLISHED = {
    'asd': ' estimator.asd.guidance=7.5 perp_neg=.5 sampling.t_min=.5,.02,STEPS '
    'sampling.t_max=.98,.5,STEPS',
    'csd': ' negative_prompt="a grey sphere" estimator.csd.omega2=0,1,HALF '
    'sampling.weight=uniform '
    'sampling.t_max=.98,.5,HALF,1',
    'vsd': ' estimator.vsd.guidance=7.5 sampling.t_max=.98,.5,FIFTH,1',
}
METHODS = ('sds', 'sds' + SPREAD, 'ssd' + SPREAD, 'csd' + SPREAD, TWICE + MIDDLE,
           TWICE + MIDDLE + UNIFORM, TWICE + MEASURED,
           'asd' + SPREAD, 'vsd' + SPREAD,
           *(name + SPREAD + options for name, options in PUBLISHED.items()))
SEEDS = (0, 1, 2)
STEPS = config_file.get_config().steps           # of the reference
MARKS = (.7, .8, .9)                             # IoUs whose steps and seconds are told
RECOGNISABLE = .8
CURVE = 10                                       # points of a curve
ROUNDS = 10                                      # turns of each method's timed steps
MINUTES = .6                                     # of a run, on two cores
NEAR = cameras.orbit((6, .3), (2, 1.))             # eight views no step was trained on


def spelled(method, steps):
  """A method of METHODS for a run of `steps`, with the density of t that benchmarks.variance
  measured where it asks for it."""
  for word, number in (('STEPS', steps), ('HALF', steps // 2), ('FIFTH', steps // 5)):
    method = method.replace(word, str(max(1, number)))
  return method.replace('measured',
                        results.read('variance')['density']) if 'measured' in method else method


def subject_of(method, steps):
  return variance_lab.subject(config_file.get_config(), spelled(method, steps))


def rows_of(method):
  """Rows of the prior that a view of a step costs. A backward pass counts two: VSD's LoRA learns by
  one forward, one backward."""
  name = method.split()[0]
  config = method_texts.configured(config_file.get_config(), spelled(method, STEPS))
  negative = name == 'csd' and not is_never(config.estimator.csd.omega2)
  return (ROWS[name] + 2 * bool(config.perp_neg) + negative) * config.sampling.draws


def steps_of(method, steps):
  """As many steps as spend what `steps` of the reference do, in whole stretches of the curve."""
  return max(1, round(steps * rows_of('sds') / rows_of(method) / CURVE)) * CURVE


def spread(gradients):
  """Variance of a step's gradient over its squared mean, at the end of a run."""
  gram = gradients.astype(np.float64) @ gradients.T.astype(np.float64)
  return statistics.relative_variance(gram, np.ones(len(gram)))


def run(subject, model, prompt, seed, steps):
  """One run: its curve, its scores, its picture."""
  text, curve = subject.embed(prompt), []
  training = subject.training.of(text)
  for step, state, _ in training.fit(training.init(jax.random.key(seed)), steps=steps):
    if step % (steps // CURVE) == 0:
      object = model.object(state.params['scene'], prompt)
      views = video.render_views(object.over(0.), NEAR)
      true = np.asarray(jax.device_get(truth.views(prompt, NEAR, size=object.size)).mask)
      curve.append({'step': step, 'iou': silhouette_iou(views.opacity, true)})
  scores = evaluate.score_views(prompt, object)
  keys = jax.random.split(jax.random.key(9), 16)
  gradients = np.stack([subject.whole(k, state.params, training.prior, text, state.step)
                        for k in keys])
  picture = np.asarray(object.over(1.)(video.unbatch(NEAR)[1]).rgb)
  return {'iou': scores['silhouette_iou'], 'color': scores['color_right'],
          'one_front': scores['one_front'],
          'steps': steps, 'curve': curve, 'relative_variance': spread(gradients)}, picture


def file_of(prompt, method, seed, ending):
  return re.sub(r'[^\w.=,-]+', '-', f'{prompt}_{method}_{seed}') + f'.{ending}'


def everything(prompts, methods, seeds, root, steps, sources):
  """{(method, prompt): [run of each seed]}, from the kept results of these sources where there are
  any."""
  jobs = [(prompt, method, seed) for method in methods for prompt in prompts for seed in seeds]
  rows, spent, built = {}, [], None
  for i, (prompt, method, seed) in enumerate(jobs):
    kept = root / file_of(prompt, method, seed, 'json')
    row = results.kept(kept, sources)
    if row is None:
      start = time.time()
      # one of its steps for all prompts; programs of the last one fill no memory
      if built != method:
        jax.clear_caches()
        subject, built = subject_of(method, steps_of(method, steps)), method
        model = build.model(subject.config, subject.embed, build.phrases(subject.config))
      row, picture = run(subject, model, prompt, seed, steps_of(method, steps))
      Image.fromarray(video.to_bytes(picture)).save(kept.with_suffix('.png'))
      results.keep(kept, row, sources)
      spent.append(time.time() - start)
      left = mean(spent) * (len(jobs) - i - 1) / 60
      print(f'[{i + 1}/{len(jobs)}] {prompt}, {method}, seed {seed}: IoU {row["iou"]:.3f};'
            f' about {left:.0f} min left', flush=True)
    rows.setdefault((method, prompt), []).append(row)
  return rows


def costs(methods, steps):
  """{method: (seconds of a step in each round [ROUNDS], seconds to trace and compile it, nothing
  kept from before)}, the methods by turns in one process: a slow minute of the machine is one for
  all."""
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  trainings = {method: subject_of(method, steps_of(method, steps)).training for method in methods}
  states, programs, compiling = {method: training.init(jax.random.key(0))
                                 for method, training in trainings.items()}, {}, {}
  for method, training in trainings.items():
    start = time.perf_counter()
    programs[method] = training.stages[0][1].lower(states[method], training.prior,
                                                   training.text(0)).compile()
    compiling[method] = time.perf_counter() - start

  def turn(method):
    training = trainings[method]
    for _ in range(variance_lab.TURN):
      states[method], _ = programs[method](states[method], training.prior, training.text(0))
    jax.block_until_ready(states[method])
  seconds = profiling.by_turns(jax.random.key(0), {method: functools.partial(turn, method)
                                                   for method in methods}, rounds=ROUNDS)
  return {method: (np.array(seconds[method]) / variance_lab.TURN, compiling[method])
          for method in methods}


def reached(runs, mark):
  """The median over runs of the steps to an IoU; None where less than half of them get there."""
  first = [next((point['step'] for point in r['curve'] if point['iou'] >= mark), float('inf'))
           for r in runs]
  middle = median_low(first)
  return None if middle == float('inf') else middle


def by_prompt(rows, method, prompts, name, *, half=None):
  """Each prompt's mean over its seeds [P]: over all, or over every second one, from the first (0)
  or the second (1) on."""
  seeds = slice(half, None, 1 if half is None else 2)
  return np.array([mean(float(r[name]) for r in rows[method, prompt][seeds]) for prompt in prompts])


def mean_of(values):
  """Mean over prompts, and its interval: None of what one prompt does not tell, and of all where a
  value is none."""
  if not np.isfinite(values).all():
    return dict.fromkeys(statistics.Interval._fields)
  return {k: v if np.isfinite(v) else None
          for k, v in statistics.interval(statistics.clustered(values))._asdict().items()}


def seconds_of(costs, method):
  """The figures of a step's seconds: themselves, and their cost over SDS's."""
  spent, ratio = costs[method][0], comparison.cost_of({name: of for name, (of, _) in costs.items()},
                                                      method, 'sds')
  seconds = comparison.Figure(lambda w: statistics.middle(np.log(spent), w), len(spent), True)
  return tuple(statistics.interval(comparison.estimate([figure])) for figure in (seconds, ratio))


def best(rows, methods, prompts):
  """The method of the greatest mean IoU on one half of the seeds, told from the other half; None of
  a single seed."""
  if min(len(runs) for runs in rows.values()) < 2:
    return None
  name = max(methods, key=lambda method: by_prompt(rows, method, prompts, 'iou', half=0).mean())
  told, reference = (by_prompt(rows, method, prompts, 'iou', half=1) for method in (name, 'sds'))
  return {'name': name, 'of': len(methods), 'iou': mean_of(told),
          'iou_above_sds': mean_of(told - reference)}


def summary(rows, prompts, costs):
  """A row for each method of `costs`, seconds of its step in each round and of its compilation:
  means with 95% intervals over prompts, and how many prompts it makes recognizable."""
  table = []
  for method, (_, compiling) in costs.items():
    runs = [r for prompt in prompts for r in rows[method, prompt]]
    each, cost = seconds_of(costs, method)
    fronts = [r['one_front'] for r in runs if r['one_front'] is not None]
    good = sum(by_prompt(rows, method, prompts, 'iou') >= RECOGNISABLE)
    marks = {mark: reached(runs, mark) for mark in MARKS}
    spread_over = lambda name, i: {f'{name}{end}': i[k] for k, end in (
        ('mean', ''), ('lower', '_lower'), ('upper', '_upper'))}
    times = lambda i, by: {k: by * v for k, v in i._asdict().items()}
    table.append({'method': method, 'steps': runs[0]['steps'],
                  **spread_over('seconds', times(each, runs[0]['steps'])),
                  **spread_over('cost', times(cost, 1.)),
                  **spread_over('row_over_sds', times(cost, rows_of('sds') / rows_of(method))),
                  'compile_seconds': compiling,
                  **spread_over('iou', mean_of(by_prompt(rows, method, prompts, 'iou'))),
                  **spread_over('iou_above_sds', mean_of(
                    by_prompt(rows, method, prompts, 'iou')
                    - by_prompt(rows, 'sds', prompts, 'iou'))),
                  'color': mean(bool(r['color']) for r in runs),
                  'one_front': mean(fronts) if fronts else None, 'recognizable': int(good),
                  **spread_over('relative_variance',
                                mean_of(by_prompt(rows, method, prompts, 'relative_variance'))),
                  **{f'steps_to_{mark}': steps for mark, steps in marks.items()},
                  **{f'seconds_to_{mark}': steps and steps * each.mean
                     for mark, steps in marks.items()}})
  good = {row['method']: row['recognizable'] for row in table}
  return {'prompts_recognizable': {**good, 'min': min(good.values()), 'of': len(prompts)},
          'best': best(rows, list(costs), prompts),
          'rows': table, 'runs': [{'method': m, 'prompt': p, **r, 'relative_variance': known(
            r['relative_variance'])} for (m, p), found in rows.items() for r in found]}


def known(value):
  """A figure that is finite, else None: where noise hides a mean, its relative variance is none."""
  return value if np.isfinite(value) else None


def sheet(prompts, methods, seed, root, path):
  """A column a method, a row a prompt."""
  labels = [method_texts.label(method, between='\n') for method in methods]
  tile, head, side = 96, 6 + 13 * max(1 + label.count('\n') for label in labels), 120
  out = Image.new('RGB', (side + tile * len(methods), head + tile * len(prompts)), 'white')
  draw, font = ImageDraw.Draw(out), ImageFont.load_default(10)
  for j, method in enumerate(methods):
    draw.text((side + tile * j + 3, 2), labels[j], 'black', font=font)
    for i, prompt in enumerate(prompts):
      draw.text((3, head + tile * i + 30),
                prompt.replace(' on ', '\non ').replace(' with ', '\nwith '), 'black', font=font)
      picture = Image.open(root / file_of(prompt, method, seed, 'png')).convert('RGB')
      out.paste(picture.resize((tile, tile), Image.Resampling.LANCZOS),
                (side + tile * j, head + tile * i))
  out.save(path)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='two prompts, two methods, one seed, a '
                      'few steps')
  quick = parser.parse_args().quick
  prompts, methods, seeds = (PROMPTS[:2], (METHODS[0], METHODS[-2]),
                             SEEDS[:1]) if quick else (PROMPTS, METHODS, SEEDS)
  steps = CURVE if quick else STEPS
  # of the latter, the density
  sources = source_hash('benchmarks/estimators.py', 'benchmarks/results/variance.json')
  root = results.ROOT / 'runs' / 'benchmarks' / f'estimators-{sources}{"-quick" * quick}'
  root.mkdir(parents=True, exist_ok=True)
  cli.keep_freed_memory()
  cli.compile_cache()
  number = len(prompts) * len(methods) * len(seeds)
  print(f'{number} runs, about {5 if quick else MINUTES * number:.0f} minutes on two cores',
        flush=True)
  rows = everything(prompts, methods, seeds, root, steps, sources)
  figures = {'sources': sources, 'density': results.read('variance')['density']} | summary(
      rows, prompts, costs(methods, steps))
  if quick:
    (root / 'figures.json').write_text(json.dumps(figures, indent=2) + '\n')
    sheet(prompts, methods, seeds[-1], root, root / 'sheet.png')
    print(root)
  else:
    sheet(prompts, methods, seeds[-1], root, results.RESULTS / 'estimators.png')
    print(results.write('estimators', figures, 'python -m benchmarks.estimators'))


if __name__ == '__main__':
  main()
