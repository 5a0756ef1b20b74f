"""Generators of the toybox, by estimator, at equal compute:   python -m benchmarks.amortised
[--quick] [--estimators=asd,sds]

Each estimator trains by configs/toybox_amortised.py, which asks the prior for the same number of
rows by any of them; the result is scored on the captions it was trained on and on compositions that
it never saw. Runs are kept under runs/benchmarks, by a hash of the sources, and resume. Writes
benchmarks/results/amortised.json: train_iou, heldout_iou, train_recall_at_1 and heldout_recall_at_1
of each estimator with 95% intervals over prompts, seconds, prior rows; by how much its scores are
above those of the first estimator (above_asd), prompt by prompt; parameter counts of the published
sizes; seconds for a prompt; seconds of a step by its number of prompts; memory that it takes to
read from a store of 100 and of 100,000 prompts.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from benchmarks import results
from benchmarks.toybox import source_hash
from benchmarks.unet import medians
from configs import toybox_amortised

SIZES = {'hyper_ingp': {}, 'conv3d': {}, 'conv3d_m2': {'channels': (512, 512, 512, 512, 256, 128)},
         'triplane_transformer': {}}
STORES, READERS = (100, 100_000), 5  # prompts of a store, processes that read it in turn
SPLITS = {'trained': 'train', 'held_out': 'heldout'}
PROMPTS, ROUNDS = (2, 4, 8), 9  # prompts of a step whose time is taken, steps of each
QUICK = ('--config.steps=4', '--config.corpus.prompts=2', '--config.sampling.views=2',
         '--config.render.samples=4',
         '--config.render.fine=0', '--config.preview_every=0')


def command(*arguments):
  started = time.monotonic()
  subprocess.run([sys.executable, '-m', *arguments], cwd=results.ROOT, check=True)
  return time.monotonic() - started


def train(estimator, workdir, options):
  """Seconds of training, over all starts, and the scores of the result."""
  command('jaxdreamer.train', f'--config=configs/toybox_amortised.py:{estimator}',
          f'--workdir={workdir}', *options)
  command('jaxdreamer.evaluate', f'--workdir={workdir}')
  rows = [json.loads(line) for line in (workdir / 'timing.jsonl').read_text().splitlines()]
  # one a start
  ends = [row for row, after in zip(rows, [*rows[1:], {'total': 0.}])
          if after['total'] < row['total']]
  return sum(row['total'] for row in ends), json.loads((workdir / 'scores.json').read_text())[
      'scores']


def row_of(workdir, estimator, seconds, scores):
  """The figures of one estimator; of each score the mean, and the ends of its interval as
  NAME_lower and NAME_upper."""
  config = json.loads((workdir / 'config.json').read_text())
  named = {f'{SPLITS[split]}_{name}{end}': interval[key] for split, of in scores.items()
           for name, interval in of.items()
           for key, end in (('mean', ''), ('lower', '_lower'), ('upper', '_upper'))}
  steps, rows = config['steps'], toybox_amortised.ROWS[estimator] * config['sampling']['views']
  return {'estimator': estimator, 'steps': steps, 'seconds': seconds, 'prior_rows': steps * rows,
          **named}


def differences(root, names):
  """{estimator after the first: {score: its mean above the first one's, with an interval}}, both on
  the same prompts."""
  import numpy as np

  from jaxdreamer import generator_eval
  from jaxdreamer.outputs import gallery
  unseen = np.zeros((0, 1, 1, 3), np.float32)

  def above(one, other):
    scores = {name: value - other[name] for name, value in one.items()
              if name not in ('prompt', 'split')}
    return gallery.Row(one['prompt'], one['split'], unseen, scores)

  first, *others = (json.loads((root / name / 'scores.json').read_text())['prompts']
                    for name in names)
  summaries = (generator_eval.summary([above(a, b) for a, b in zip(rows, first, strict=True)])
               for rows in others)
  return {name: {f'{SPLITS[split]}_{score}': interval._asdict() for split, of in summary.items()
                 for score, interval in of.items()}
          for name, summary in zip(names[1:], summaries)}


def parameters():
  """Millions, of the published sizes."""
  import jax

  from jaxdreamer import registry

  count = lambda name, options: sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(
    registry.SCENES[name](**options).init, jax.random.key(0))))
  return {name: count(name.removesuffix('_m2'), options) / 1e6 for name, options in SIZES.items()}


def store_memory(counts):
  """{prompts of a store: GiB that a process takes to read 64 steps of 8 from it}: its peak, over
  what it held with the prompts' text alone; the median of READERS processes after the one that made
  the store."""
  def ask(count, what):
    folder = results.ROOT / 'runs' / 'benchmarks' / f'store-{count}'
    itself = [sys.executable, '-m', 'benchmarks.amortised', f'--store={count}',
              f'--folder={folder}', f'--what={what}']
    return subprocess.run(itself, cwd=results.ROOT, check=True, capture_output=True,
                          text=True).stdout
  for count in counts:
    ask(count, 'make')
  taken = [[float(ask(count, 'read').split()[-1]) for count in counts] for _ in range(READERS)]
  return {str(count): statistics.median(of) for count, of in zip(counts, zip(*taken))}


def store(folder, count, what):
  """The other side of `store_memory`: 16 tokens of 64 numbers, as how many prompts there are is
  what matters."""
  import numpy as np

  from jaxdreamer import corpus, metrics, prompts
  from jaxdreamer.types import Text
  row = np.ones((16, 64), np.float32)
  text = Text(views=np.stack([row] * 4), plain=row, null=row, negative=row, pooled=row[0])
  names = tuple(f'prompt {i}' for i in range(count))
  before, _ = metrics.process_memory()
  opened = corpus.open_store(pathlib.Path(folder), names, lambda prompt: text, say=lambda _: None)
  if what == 'read':
    for step in range(64):
      opened.read(prompts.chosen(0, step, count=count, each=8))
    print((metrics.process_memory()[1] - before) / 2 ** 30)


def step_seconds(counts):
  """{prompts of a step: median seconds of ASD's step}, two views a prompt."""
  import jax

  from jaxdreamer import build

  def stepper(count):
    config = toybox_amortised.get_config()
    config.update_from_flattened_dict({'corpus.prompts': count, 'sampling.views': 2 * count,
                                       'mesh.data': 1})
    job = build.job(config, build.make_mesh(config))
    state, text = job.init(jax.random.key(0)), job.text(0)

    def run():
      nonlocal state
      state, _ = jax.block_until_ready(job.step(state, job.prior, text))
    return run
  return medians({str(count): stepper(count) for count in counts}, repeats=ROUNDS)


def seconds_per_prompt(workdir):
  """From text to the frames of a turntable, once loaded and compiled: the median of those after the
  first."""
  phrases = workdir / 'some.txt'
  phrases.write_text('a red cube\na blue torus\na yellow mug\na purple house\n')
  done = subprocess.run([sys.executable, '-m', 'jaxdreamer.generate', f'--workdir={workdir}',
                         f'--prompts={phrases}', '--nomesh'],
                        cwd=results.ROOT, check=True, capture_output=True, text=True)
  seconds = [float(line.split('frames ')[1].split(' s')[0]) for line in done.stdout.splitlines()
             if 'frames ' in line]
  return statistics.median(seconds[1:])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='a few steps of one estimator')
  parser.add_argument('--estimators', default='asd,sds,csd,vsd')
  parser.add_argument('--store', type=int, default=0, help=argparse.SUPPRESS)
  parser.add_argument('--folder', help=argparse.SUPPRESS)
  parser.add_argument('--what', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.store:
    store(options.folder, options.store, options.what)
    return
  names, changes = options.estimators.split(','), ()
  if unknown := set(names) - set(toybox_amortised.ROWS):
    parser.error(f'--estimators: unknown {sorted(unknown)}; takes '
                 f'{", ".join(toybox_amortised.ROWS)}')
  if options.quick:
    names, changes = names[:1], QUICK
  root = (results.ROOT / 'runs' / 'benchmarks'
          / f'amortised-{source_hash()}{"-quick" * options.quick}')
  root.mkdir(parents=True, exist_ok=True)
  os.environ.setdefault('XDG_CACHE_HOME', str(root / 'caches'))
  table = []
  for name in names:
    kept = root / f'{name}.json'
    if not kept.exists():
      print(name, flush=True)
      kept.write_text(json.dumps(row_of(root / name, name, *train(name, root / name, changes)),
                                 indent=2) + '\n')
    table.append(json.loads(kept.read_text()))
  figures = {'rows': table, f'above_{names[0]}': differences(root, names),
             'parameters_millions': parameters(),
             'seconds_per_prompt': seconds_per_prompt(root / names[0]),
             'step_seconds': step_seconds(PROMPTS[:1] if options.quick else PROMPTS),
             'store_gib': store_memory(STORES[:1 if options.quick else 2])}
  if options.quick:
    print(json.dumps(figures, indent=2))
  else:
    print(results.write('amortised', figures,
                        ' '.join(('python -m benchmarks.amortised', *sys.argv[1:]))))


if __name__ == '__main__':
  main()
