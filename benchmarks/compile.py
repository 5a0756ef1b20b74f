"""How long the published configs compile before their first step:   python -m benchmarks.compile
[--only=dreamfusion_sd,prolificdreamer_sd]

For each stage of each of PUBLISHED, of the models' shapes at full size, in processes of their own
and without the compile cache: seconds to build and trace its steps, to compile the first step's
program alone, and to compile all its programs (one for each size of the renders) side by side, as a
run does. On a CPU, in float32 as by default; scaledreamer_amortised, whose step reads a corpus, is
left out. Writes benchmarks/results/compile.json once all are there; configs asked for alone are
printed.
"""
import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks import results

PUBLISHED = ('dreamfusion_sd', 'csd_sd', 'magic3d_sd', 'prolificdreamer_sd',
             'prolificdreamer_scene_sd', 'steindreamer_sd', 'steindreamer_scene_sd',
             'scaledreamer_sd', 'scaledreamer_mvdream', 'osediff_sd')


def stages_of(name):
  """{stage: its config} of a published config, of its model's shapes."""
  from jaxdreamer import stages
  from jaxdreamer.weights import model_shapes
  found = stages.of(importlib.import_module(f'jaxdreamer.configs.{name}').get_config())
  for stage in found.values():
    stage.prior.path, stage.mesh.data = model_shapes.SHAPES, 1
  return found


def timed(config, *, alone):
  """Seconds to trace and to compile the first program of a config, or all of them."""
  from jaxdreamer import build, seeds
  from jaxdreamer.training import compiled, lowered
  begin = time.perf_counter()
  mesh = build.make_mesh(config)
  programs, _ = lowered(seeds.key(config.seed), build.training(config, mesh, abstract=True), mesh)
  traced = time.perf_counter()
  compiled(programs[:1] if alone else programs)
  return {'programs': len(programs), 'trace': traced - begin,
          'compile': time.perf_counter() - traced}


def child(name, stage, *, alone):
  """`timed` of one stage, in a process of its own."""
  done = subprocess.run((sys.executable, '-m', 'benchmarks.compile', '--child',
                         json.dumps([name, stage, alone])), cwd=results.ROOT, check=True, text=True,
                        stdout=subprocess.PIPE,
                        env=os.environ | {'JAX_ENABLE_COMPILATION_CACHE': '0'})
  return json.loads(done.stdout.splitlines()[-1])


def rows_of(name):
  """A row for each stage of a config."""
  rows = []
  for stage in stages_of(name):
    first = child(name, stage, alone=True)
    whole = child(name, stage, alone=False) if first['programs'] > 1 else first
    rows.append({'config': name, 'stage': stage, 'programs': first['programs'],
                 'trace': first['trace'], 'first': first['compile'], 'all': whole['compile']})
    print(json.dumps(rows[-1]), flush=True)
  return rows


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default=','.join(PUBLISHED), help='comma-separated configs')
  parser.add_argument('--child', help=argparse.SUPPRESS)
  given = parser.parse_args()
  if given.child:
    name, stage, alone = json.loads(given.child)
    print(json.dumps(timed(stages_of(name)[stage], alone=alone)))
    return
  asked = given.only.split(',')
  if unknown := sorted(set(asked) - set(PUBLISHED)):
    parser.error(f'--only={",".join(unknown)}: takes some of {", ".join(PUBLISHED)}')
  rows = [row for name in asked for row in rows_of(name)]
  if sorted(asked) == sorted(PUBLISHED):
    print(results.write('compile', {
      'first_step_seconds': max(row['first'] for row in rows),
      'slowest': max(rows, key=lambda row: row['first'])['config'],
      'median_seconds': statistics.median(row['first'] for row in rows),
      'rows': rows}, 'python -m benchmarks.compile'))


if __name__ == '__main__':
  main()
