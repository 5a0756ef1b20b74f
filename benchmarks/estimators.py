"""The estimators, and their controls, at equal compute on the toybox:   python -m benchmarks.estimators [--quick]

Every method gets the same number of prior calls: what SDS's 200 steps of 4 views spend, two rows a view; so a method that asks
for more rows a step takes fewer steps. Each of six prompts runs with three seeds; curves of silhouette IoU are taken on the
way. Seconds are steps times the seconds of a step, which are measured last, the methods by turns; row_over_sds is a step's
seconds for each row of the prior, over SDS's. Runs are kept under
runs/benchmarks, by a hash of the sources: after an interruption the same command goes on with the first run that has no result.
Writes benchmarks/results/estimators.json, and estimators.png: each prompt's last object under each method. --quick: one prompt,
two methods, a few steps, into runs/.
"""
import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image, ImageDraw, ImageFont

from benchmarks import results
from benchmarks.toybox import source_hash
from configs import toybox as config_file
from configs.toybox_amortised import ROWS
from jaxdreamer import cli, evaluate, laboratory, moments
from jaxdreamer.outputs import video
from jaxdreamer.toybox import truth

PROMPTS = ('a red cube', 'a blue torus', 'a green cone on a yellow cylinder', 'a red car', 'a snowman with a blue hat',
           'an orange chair')
SPREAD = ' sampling.design=stratified'
TWICE = 'csd sampling.design=lattice sampling.draws=2'         # the quietest, by benchmarks.variance, with one of:
MIDDLE, UNIFORM, MEASURED = ' sampling.t_min=.2 sampling.t_max=.8', ' estimator.csd.weight=uniform', ' sampling.density=measured'
METHODS = ('sds', 'sds' + SPREAD, 'csd' + SPREAD, TWICE + MIDDLE, TWICE + MIDDLE + UNIFORM, TWICE + MEASURED, 'ssd' + SPREAD,
           'asd' + SPREAD, 'vsd' + SPREAD)
SEEDS = (0, 1, 2)
STEPS = 200                                      # of the reference
MARKS = (.7, .8, .9)                             # IoUs whose steps and seconds are told
RECOGNISABLE = .8
CURVE = 10                                       # points of a curve
TURNS = 40                                       # timed steps of each method
NEAR = video.rings((6, .3), (2, 1.))             # eight views no step was trained on


def spelled(method):
  """With the density of t that benchmarks.variance measured, where the method asks for it."""
  if 'measured' not in method:
    return method
  return method.replace('measured', json.loads((results.RESULTS / 'variance.json').read_text())['density'])


def subject_of(method):
  return laboratory.subject(config_file.get_config(), spelled(method), times=2, noises=2)


def rows_of(method):
  """Rows of the prior that a view of a step costs. A backward pass counts two: VSD's LoRA learns by one forward, one backward."""
  return ROWS[method.split()[0]] * laboratory.configured(config_file.get_config(), spelled(method)).sampling.draws


def steps_of(method, steps):
  """As many steps as spend what `steps` of the reference do, in whole stretches of the curve."""
  return max(1, round(steps * rows_of('sds') / rows_of(method) / CURVE)) * CURVE


def spread(gradients):
  """Variance of a step's gradient over its squared mean, at the end of a run."""
  gram = gradients.astype(np.float64) @ gradients.T.astype(np.float64)
  return moments.relative_variance(gram, np.ones(len(gram)))


def run(subject, prompt, seed, steps):
  """One run: its curve, its scores, its picture."""
  job, state, text = subject.job, subject.job.init(jax.random.key(seed)), subject.job.told(prompt)
  code = lambda state: job.code(state.params['scene'], text)
  over_black = lambda code: lambda camera: job.render(code, camera, np.zeros(3, np.float32))
  true = np.asarray(jax.device_get(truth.views(prompt, NEAR, size=job.size)).mask)
  curve = []
  for _ in range(CURVE):
    for _ in range(steps // CURVE):
      state, _ = job.step(state, job.prior, text)
    shown = video.shoot(over_black(code(state)), NEAR)
    curve.append({'step': int(state.step), 'iou': evaluate.silhouette_iou(shown.opacity, true)})
  scores = evaluate.score_views(prompt, over_black(code(state)), size=job.size)
  keys = jax.random.split(jax.random.key(9), 16)
  gradients = np.stack([subject.whole(k, state.params, job.prior, text, state.step) for k in keys])
  picture = np.asarray(job.render(code(state), video.each(NEAR)[1], jnp.ones(3)).rgb)
  return {'iou': scores['silhouette_iou'], 'colour': scores['colour_right'], 'one_front': scores['one_front'],
          'steps': steps, 'curve': curve, 'relative_variance': spread(gradients)}, picture


def everything(prompts, methods, seeds, root, steps):
  """{(method, prompt): [run of each seed]}, from the kept results where there are any."""
  jobs = [(prompt, method, seed) for method in methods for prompt in prompts for seed in seeds]
  rows, spent, subject, built = {}, [], None, None
  for i, (prompt, method, seed) in enumerate(jobs):
    kept = root / f'{prompt}_{method}_{seed}.json'.replace(' ', '-')
    if not kept.exists():
      start = time.time()
      if built != method:                        # one of its steps for all prompts; programs of the last one fill no memory
        jax.clear_caches()
        subject, built = subject_of(method), method
      row, picture = run(subject, prompt, seed, steps_of(method, steps))
      Image.fromarray(video.to_bytes(picture)).save(kept.with_suffix('.png'))
      kept.write_text(json.dumps(row) + '\n')
      spent.append(time.time() - start)
      left = statistics.mean(spent) * (len(jobs) - i - 1) / 60
      print(f'[{i + 1}/{len(jobs)}] {prompt}, {method}, seed {seed}: IoU {row["iou"]:.3f};'
            f' about {left:.0f} min left', flush=True)
    rows.setdefault((method, prompt), []).append(json.loads(kept.read_text()))
  return rows


def costs(methods):
  """{method: (median seconds of a step, seconds to trace and compile it, nothing kept from before)}. Steps go by turns in one
  process: a slow minute of the machine is one for all."""
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  jobs = {method: subject_of(method).job for method in methods}
  states, programs, compiling = {method: job.init(jax.random.key(0)) for method, job in jobs.items()}, {}, {}
  for method, job in jobs.items():
    start = time.perf_counter()
    programs[method] = job.stages[0][1].lower(states[method], job.prior, job.text(0)).compile()
    compiling[method] = time.perf_counter() - start
  seconds = {method: [] for method in methods}
  for _ in range(TURNS):
    for method, job in jobs.items():
      start = time.perf_counter()
      states[method], _ = jax.block_until_ready(programs[method](states[method], job.prior, job.text(0)))
      seconds[method].append(time.perf_counter() - start)
  return {method: (statistics.median(seconds[method]), compiling[method]) for method in methods}


def reached(runs, mark):
  """The median over runs of the steps to an IoU; None where less than half of them get there."""
  first = [next((point['step'] for point in r['curve'] if point['iou'] >= mark), float('inf')) for r in runs]
  middle = statistics.median_low(first)
  return None if middle == float('inf') else middle


def mean_of(runs, name):
  """Mean over runs, and its interval."""
  values = np.array([float(r[name]) for r in runs])
  return moments.bootstrap(lambda w: float(w @ values / w.sum()), len(runs))


def summary(rows, prompts, costs):
  """A row for each method of `costs`, seconds of its step and of its compilation: means with 95% intervals over prompts and
  seeds, and how many prompts it makes recognisable."""
  table = []
  for method, (each, compiling) in costs.items():
    runs = [r for prompt in prompts for r in rows[method, prompt]]
    fronts = [r['one_front'] for r in runs if r['one_front'] is not None]
    good = sum(statistics.mean(r['iou'] for r in rows[method, prompt]) >= RECOGNISABLE for prompt in prompts)
    marks = {mark: reached(runs, mark) for mark in MARKS}
    iou, variance = mean_of(runs, 'iou'), mean_of(runs, 'relative_variance')
    table.append({'method': method, 'steps': runs[0]['steps'], 'seconds': runs[0]['steps'] * each,
                  'row_over_sds': each / rows_of(method) / (costs['sds'][0] / rows_of('sds')),
                  'compile_seconds': compiling,
                  'iou': iou.mean, 'iou_lower': iou.lower, 'iou_upper': iou.upper,
                  'colour': statistics.mean(bool(r['colour']) for r in runs),
                  'one_front': statistics.mean(fronts) if fronts else None, 'recognisable': good,
                  'relative_variance': variance.mean, 'relative_variance_lower': variance.lower,
                  'relative_variance_upper': variance.upper,
                  **{f'steps_to_{mark}': steps for mark, steps in marks.items()},
                  **{f'seconds_to_{mark}': steps and steps * each for mark, steps in marks.items()}})
  good = {row['method']: row['recognisable'] for row in table}
  return {'prompts_recognisable': {**good, 'min': min(good.values()), 'of': len(prompts)}, 'rows': table,
          'runs': [{'method': m, 'prompt': p, **r} for (m, p), found in rows.items() for r in found]}


def sheet(prompts, methods, seed, root, path):
  """A column a method, a row a prompt."""
  labels = [laboratory.label(method, between='\n') for method in methods]
  tile, head, side = 96, 6 + 13 * max(1 + label.count('\n') for label in labels), 120
  out = Image.new('RGB', (side + tile * len(methods), head + tile * len(prompts)), 'white')
  draw, font = ImageDraw.Draw(out), ImageFont.load_default(10)
  for j, method in enumerate(methods):
    draw.text((side + tile * j + 3, 2), labels[j], 'black', font=font)
    for i, prompt in enumerate(prompts):
      draw.text((3, head + tile * i + 30), prompt.replace(' on ', '\non ').replace(' with ', '\nwith '), 'black', font=font)
      picture = Image.open(root / f'{prompt}_{method}_{seed}.png'.replace(' ', '-')).convert('RGB')
      out.paste(picture.resize((tile, tile), Image.Resampling.LANCZOS), (side + tile * j, head + tile * i))
  out.save(path)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='one prompt, two methods, one seed, a few steps')
  quick = parser.parse_args().quick
  prompts, methods, seeds = (PROMPTS[:1], METHODS[:2], SEEDS[:1]) if quick else (PROMPTS, METHODS, SEEDS)
  root = results.ROOT / 'runs' / 'benchmarks' / f'estimators-{source_hash()}{"-quick" * quick}'
  root.mkdir(parents=True, exist_ok=True)
  cli.keep_freed_memory()
  cli.compile_cache()
  print(f'{len(prompts) * len(methods) * len(seeds)} runs, about {"2" if quick else "100"} minutes on two cores', flush=True)
  rows = everything(prompts, methods, seeds, root, CURVE if quick else STEPS)
  figures = summary(rows, prompts, costs(methods))
  if quick:
    (root / 'figures.json').write_text(json.dumps(figures, indent=2) + '\n')
    sheet(prompts, methods, seeds[-1], root, root / 'sheet.png')
    print(root)
  else:
    sheet(prompts, methods, seeds[-1], root, results.RESULTS / 'estimators.png')
    print(results.write('estimators', figures, 'python -m benchmarks.estimators'))


if __name__ == '__main__':
  main()
