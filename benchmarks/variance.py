"""Gradient variance of the estimators, and of ways of sampling, on the toybox:

  python -m benchmarks.variance [--quick]

Runs `python -m jaxdreamer.variance` on fresh scenes and on later steps of runs of five prompts, and
writes its figures to benchmarks/results/variance.json, with variance.png beside it; with --quick, a
few draws of two prompts, to variance_quick.json there. SDS as published is the reference:
independent t, noise and cameras, one draw a render, as many views. The density of t that importance
sampling wants comes from draws of its own, before those that it is measured by. A process measures
a few methods on all prompts, each beside the reference and the first method of its mean, on the
same draws, for compiled programs fill what memory a process may map; what one has found is kept
under runs/benchmarks, by a hash of the sources, and after an interruption the same command goes on.
Intervals hold 95%, over prompts. Figures that decide:

  ssd_parameters_over_sds
      variance of one draw of SSD, as it is by default, over SDS's, in parameter space, on the same
      draws: at the step of the run where it is greatest; with the second moment there
  best
      the least variance x seconds of a step among the methods that have SDS's mean: chosen on one
      half of the draws, its figure from the other
  best_of_other_means
      the same among the methods of each other mean, over the first of them: no variance is compared
      across means
"""
import argparse
import hashlib
import json
import subprocess
import sys
import time

from benchmarks import results
from benchmarks.toybox import source_hash
from configs import toybox as config_file
from jaxdreamer import comparison, method_texts, statistics, variance

PROMPTS = ('a red car', 'a blue torus', 'a green cone on a yellow cylinder',
           'a snowman with a blue hat', 'an orange chair')
SSD = 'ssd'
DENSITY = ' sampling.density={0}'
SPREAD, LATTICE = ' sampling.design=stratified', ' sampling.design=lattice'
TWICE, FOUR = ' sampling.draws=2', ' sampling.draws=4'
MIDDLE = ' sampling.t_min=.2 sampling.t_max=.8'
METHODS = (
    'sds', SSD, 'ssd estimator.ssd.mu=learned',
    'ssd estimator.ssd.mu=learned estimator.ssd.per=h,w,c',
    'ssd estimator.ssd.phi=constant,neighbors', 'ssd estimator.ssd.phi=constant,depth',
    'ssd estimator.ssd.phi=constant,normals',
    'sds' + SPREAD, 'sds' + LATTICE, 'sds' + SPREAD + TWICE, 'sds' + SPREAD + FOUR,
    'sds' + SPREAD + FOUR + ' sampling.antithetic=True', 'sds' + DENSITY, 'sds' + LATTICE + DENSITY,
    SSD + SPREAD + DENSITY,
    'csd', 'csd' + SPREAD + TWICE, 'csd' + LATTICE + TWICE, 'csd' + LATTICE + TWICE + DENSITY,
    'csd' + LATTICE + TWICE + MIDDLE, 'csd' + LATTICE + TWICE + MIDDLE
    + ' sampling.weight=uniform', 'vsd', 'asd')
QUICK_METHODS = ('sds', SSD, 'vsd', 'sds' + DENSITY)
QUICK = ('--at=0', '--cameras=3', '--repeats=6', '--rounds=6', '--warm=2')
WHOLE = ('--at=0,50,150', '--cameras=24', '--repeats=32', '--rounds=10')
PILOT = ('--methods=sds', '--seed=1', '--repeats=6', '--rounds=6')
TOGETHER = 6                                     # methods of a process, beside the reference
MINUTES = .17                                    # on two cores, of a method at a state, all told


def groups(methods):
  """The methods of each process: the reference first in all, and with each method the first of its
  mean."""
  families = {}
  for method in methods:
    mean = method_texts.mean_of(method_texts.configured(config_file.get_config(), method))
    families.setdefault(mean, []).append(method)
  (reference, *same), *others = families.values()
  out = [[]]
  for together in (*([method] for method in same), *others):
    if len(out[-1]) + len(together) > TOGETHER:
      out.append([])
    out[-1] += together
  return [[reference, *group] for group in out]


def decide(seen):
  """The figures on top of the table of `seen`, what `jaxdreamer.variance` wrote."""
  best = comparison.best(seen['all'])
  return {'ssd_parameters_over_sds': comparison.worst(seen['states'], SSD),
          'best': best.pop('sds', None),
          'best_of_other_means': best}


def rows(seen):
  """README's table."""
  show = lambda i: f'{i["mean"]:.2f} [{i["lower"]:.2f}, {i["upper"]:.2f}]' if i else '-'
  columns = {'image, one draw': 'image', 'parameters, one draw': 'parameter', 'of t': 'time',
             'of the camera': 'camera',
             'of the render': 'render', 'of the noise': 'noise', 'step': 'step',
             "as Adam's v divides it": 'preconditioned',
             'cost': 'cost', 'step x cost': 'step_times_cost', 'mean² / variance': 'signal'}
  return [{'method': row['method'], 'against': row['over'],
           **{name: show(row.get(key)) for name, key in columns.items()}}
          for row in seen['all']]


def measure(prompts, root, sources, *options):
  """What `jaxdreamer.variance` wrote, now or before: each list of prompts and options has a folder
  of its own in `root`."""
  out = root / hashlib.sha256(json.dumps([prompts, *options]).encode()).hexdigest()[:8]
  found = results.kept(out / 'kept.json', sources)
  if found is None:
    done = subprocess.run((sys.executable, '-m', 'jaxdreamer.variance',
                           '--config=configs/toybox.py',
                           f'--prompts={"; ".join(prompts)}', f'--out={out}', *options),
                          cwd=results.ROOT)
    if done.returncode:
      sys.exit(done.returncode)
    found = json.loads((out / 'variance.json').read_text())
    results.keep(out / 'kept.json', found, sources)
  return found


def merged(parts, density):
  """What several processes found, as if one had: the reference's rows once, and this density of t
  called measured."""
  called = lambda name: name.replace(density, 'measured')
  def once(tables):
    first = {}
    for row in (row for table in tables for row in table):
      first.setdefault(called(row['method']), row | {'method': called(row['method']),
                                                     'over': called(row['over'])})
    return list(first.values())
  def split(name, by):
    return [{by: same[0][by], 'rows': once([one['rows'] for one in same])}
            for same in zip(*(part[name] for part in parts))]
  return parts[0] | {'all': once([part['all'] for part in parts]),
                     'states': split('states', 'step'),
                     'by_prompt': split('by_prompt', 'prompt')}


def intervals(row):
  """A row of JSON as `variance.plot` takes it."""
  return {k: statistics.Interval(**v) if isinstance(v, dict) else v for k, v in row.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='a few draws of four methods on '
                      'two prompts')
  parser.add_argument('--prompts', default='', help='separated by `;`, in place of the five; '
                      'writes into the folder of its runs')
  arguments = parser.parse_args()
  prompts = tuple(p.strip() for p in arguments.prompts.split(';') if p.strip()) or PROMPTS[
      :2 if arguments.quick else None]
  sources = source_hash('benchmarks/variance.py')
  root = results.ROOT / 'runs' / 'benchmarks' / f'variance-{sources}{"-quick" * arguments.quick}'
  size, methods = (QUICK, QUICK_METHODS) if arguments.quick else (WHOLE, METHODS)
  states = len(prompts) * len(size[0].split(','))
  # the density is not known yet, and changes no mean
  each = groups([method.format('1,2') for method in methods])
  expected = (sum(map(len, each)) + 1) * states * MINUTES
  print(f'{len(methods)} methods at {states} states of {len(prompts)} prompts, in {len(each)} '
        'processes after that of the density:'
        f' about {expected:.0f} minutes on two cores', flush=True)
  start = time.time()
  density = ','.join(map(str, measure(prompts, root, sources, *size, *PILOT)['density']))
  parts = []
  for i, group in enumerate(groups([method.format(density) for method in methods])):
    left = expected if not i else (time.time() - start) / (1 + sum(map(len, each[:i]))) * sum(
        map(len, each[i:])) / 60.
    print(f'[{i + 1}/{len(each)}] {"; ".join(group)}; about {left:.0f} min left in all', flush=True)
    parts.append(measure(prompts, root, sources, *size, f'--methods={"; ".join(group)}'))
  seen = merged(parts, density)
  figures = decide(seen) | {'sources': sources, 'prompts': prompts, 'density': density,
                            'rows': rows(seen), 'all': seen['all'],
                            'states': seen['states'], 'by_prompt': seen['by_prompt']}
  print(json.dumps({name: figures[name] for name in ('ssd_parameters_over_sds', 'best',
                                                     'best_of_other_means')}, indent=1))
  if arguments.quick:
    print(results.write('variance_quick', figures, 'python -m benchmarks.variance --quick'))
  elif prompts != PROMPTS:
    (root / 'figures.json').write_text(json.dumps(figures, indent=2) + '\n')
    print(root / 'figures.json')
  else:
    variance.plot({row['method']: intervals(row) for row in seen['all']},
                  results.RESULTS / 'variance.png')
    print(results.write('variance', figures, 'python -m benchmarks.variance'))


if __name__ == '__main__':
  main()
