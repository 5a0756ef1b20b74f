"""Gradient variance of the estimators, and of ways of sampling, on the toybox:   python -m benchmarks.variance [--quick]

Runs `python -m jaxdreamer.variance` on a fresh scene and on later steps of a run, and writes its figures to
benchmarks/results/variance.json, with variance.png beside it; with --quick, a few draws into runs/. SDS as published is the
reference: independent t, noise and cameras, one draw a render, as many views. The density of t that importance sampling wants
comes from draws of its own, before those that it is measured by. A process measures a few methods, each beside the reference on
the same draws, for compiled programs fill what memory a process may map; what one has found is kept under runs/benchmarks, by a
hash of the sources, and after an interruption the same command goes on. Figures that decide:

  ssd_over_sds_parameter_space          of SSD with learnt weights, one draw, the greatest over the states
  best_variance_times_cost_over_sds     by name: variance of a step's gradient over its squared mean, times its seconds; so that
                                        a method whose mean is shorter than SDS's gains nothing by that
  best_with_the_mean_of_sds             the same of what has SDS's mean: its variance as it is
"""
import argparse
import hashlib
import json
import subprocess
import sys

from benchmarks import results
from benchmarks.toybox import source_hash
from jaxdreamer import moments, variance

SSD = 'ssd estimator.ssd.mu=learnt'
DENSITY = ' sampling.density={0}'
SPREAD, LATTICE = ' sampling.design=stratified', ' sampling.design=lattice'
TWICE, FOUR = ' sampling.draws=2', ' sampling.draws=4'
MIDDLE = ' sampling.t_min=.2 sampling.t_max=.8'
METHODS = (
    'sds', SSD, 'ssd estimator.ssd.mu=moments', 'ssd estimator.ssd.mu=learnt estimator.ssd.per=h,w,c',
    'ssd estimator.ssd.phi=constant,neighbours', 'ssd estimator.ssd.phi=constant,depth', 'ssd estimator.ssd.phi=constant,normals',
    'csd', 'vsd', 'asd', 'sds' + SPREAD, 'sds' + LATTICE, 'sds' + SPREAD + TWICE,
    'sds' + SPREAD + FOUR, 'sds' + SPREAD + FOUR + ' sampling.antithetic=True', 'csd' + SPREAD + TWICE, 'csd' + LATTICE + TWICE,
    'csd' + LATTICE + TWICE + MIDDLE, 'csd' + LATTICE + TWICE + MIDDLE + ' estimator.csd.weight=uniform',
    'sds' + DENSITY, 'sds' + LATTICE + DENSITY, 'ssd estimator.ssd.mu=moments' + SPREAD + DENSITY,
    'csd' + LATTICE + TWICE + DENSITY, 'csd' + LATTICE + TWICE + ' sampling.t_min=.1 sampling.t_max=.6',
    'csd' + LATTICE + ' sampling.draws=3' + MIDDLE)
UNBIASED = ('sds', 'ssd')                        # estimators whose mean is that of the raw score
QUICK = ('--at=0', '--cameras=3', '--repeats=3', '--warm=2')
PILOT = ('--methods=sds', '--seed=1')
TOGETHER = 6                                     # methods of a process


def decide(seen):
  """The figures on top of the table of `seen`, what `jaxdreamer.variance` wrote."""
  numbers = ('mean', 'lower', 'upper')
  at = [next(row for row in state['rows'] if row['method'] == SSD)['parameter'] for state in seen['states']]
  worst = max(at, key=lambda interval: interval['upper'])
  honest = [row for row in seen['all'] if row['method'].split()[0] in UNBIASED and row['method'] != 'sds']
  def best(rows, figure):
    least = min(rows, key=lambda row: row[figure]['mean'])
    return {'name': least['method'], **{k: least[figure][k] for k in numbers}}
  return {'ssd_over_sds_parameter_space': {k: worst[k] for k in numbers},
          'best_variance_times_cost_over_sds': best(seen['all'], 'relative_times_cost'),
          'best_with_the_mean_of_sds': best(honest, 'step_times_cost')}


def rows(seen):
  """README's table."""
  show = lambda i: f'{i["mean"]:.2f} [{i["lower"]:.2f}, {i["upper"]:.2f}]' if i else '-'
  return [{'method': row['method'],
           'image, one draw': show(row.get('image')), 'parameters, one draw': show(row.get('parameter')),
           'of t': show(row.get('time')), 'of the camera': show(row.get('camera')), 'of the noise': show(row.get('noise')),
           'step': show(row['step']), 'seconds': row['cost'], 'step x seconds': show(row['step_times_cost']),
           'relative x seconds': show(row['relative_times_cost'])} for row in seen['all']]


def measure(prompt, root, *options):
  """What `jaxdreamer.variance` wrote, now or before: each prompt and list of options has a folder of its own in `root`."""
  out = root / hashlib.sha256(json.dumps([prompt, *options]).encode()).hexdigest()[:8]
  if (out / 'variance.json').exists():
    return json.loads((out / 'variance.json').read_text())
  done = subprocess.run((sys.executable, '-m', 'jaxdreamer.variance', '--config=configs/toybox.py', f'--config.prompt={prompt}',
                         f'--out={out}', *options), cwd=results.ROOT)
  if done.returncode:
    sys.exit(done.returncode)
  return json.loads((out / 'variance.json').read_text())


def merged(parts, density):
  """What several processes found, as if one had: the reference's rows once, and this density of t called measured."""
  def once(tables):
    first = {}
    for row in (row for table in tables for row in table):
      name = row['method'].replace(density, 'measured')
      first.setdefault(name, row | {'method': name})
    return list(first.values())
  same_step = zip(*(part['states'] for part in parts))
  return parts[0] | {'all': once([part['all'] for part in parts]),
                     'states': [{'step': same[0]['step'], 'rows': once([state['rows'] for state in same])} for same in same_step]}


def intervals(row):
  """A row of JSON as `variance.plot` takes it."""
  return {k: moments.Interval(**v) if isinstance(v, dict) else v for k, v in row.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='a few draws of two methods')
  parser.add_argument('--prompt', default='a red car')
  arguments = parser.parse_args()
  out = results.ROOT / 'runs' / 'benchmarks' / f'variance-{source_hash()}{"-quick" * arguments.quick}'
  size = QUICK if arguments.quick else ()
  density = ','.join(map(str, measure(arguments.prompt, out, *PILOT, *size)['density']))
  methods = [method.format(density) for method in ((SSD, 'sds' + DENSITY) if arguments.quick else METHODS[1:])]
  groups = [methods[i:i + TOGETHER] for i in range(0, len(methods), TOGETHER)]
  seen = merged([measure(arguments.prompt, out, *size, f'--methods={"; ".join(["sds", *group])}') for group in groups], density)
  figures = decide(seen) | {'prompt': seen['prompt'], 'density': density, 'rows': rows(seen), 'all': seen['all'],
                            'states': seen['states']}
  if arguments.quick:
    (out / 'figures.json').write_text(json.dumps(figures, indent=2) + '\n')
    print(out / 'figures.json')
  else:
    variance.plot({row['method']: intervals(row) for row in seen['all']}, results.RESULTS / 'variance.png')
    print(results.write('variance', figures, 'python -m benchmarks.variance'))


if __name__ == '__main__':
  main()
