"""The shipped generator:   python -m benchmarks.generator [--quick]

Scores jaxdreamer/assets/generator.safetensors, as it is, on the captions that it was trained on and
on the held-out compositions of the toybox, as `python -m jaxdreamer.evaluate` does a run of a
corpus; and times `python -m jaxdreamer.generate` in processes of their own, of which the first
finds no compiled program.

Writes benchmarks/results/generator.json: for trained and held-out captions the mean of each score,
and the ends of its 95% interval over prompts as NAME_lower and NAME_upper; file_mb; the seconds of
the first start from the shell and of the second (shell_first, shell_second), of the prompt of that
second start once all is loaded (first_prompt), and of a further one in the same process (prompt).
Also generator.png, a grid of held-out compositions, and the card jaxdreamer/assets/generator.md.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import results
from benchmarks.toybox import captioned
from jaxdreamer import cli, generator_eval, registry, runs
from jaxdreamer.finishing import spread
from jaxdreamer.outputs import video

NAMES = {'trained': 'trained', 'held_out': 'held out'}
SHOWN, COLUMNS, TILE, PAIR = 24, 4, 120, [1, 5]  # tiles of the picture, pixels, which two views
PHRASES = ('a pink teapot', 'a red cube', 'a blue torus', 'a yellow mug')
CARD = '''# generator.safetensors

The toybox generator: the parameters of its scene in float16; its metadata hold its config and the
captions it was trained on.

- Made by `python -m jaxdreamer.train --config=configs/toybox_amortised.py:{estimator}`, {step}
  steps of {prompts} prompts, seed {seed}, on the prior of {prior};
  written by `python -m jaxdreamer.export --workdir=RUN --generator=generator.safetensors`.
- Scores, by `python -m benchmarks.generator`:

| score | value |
| --- | --- |
{rows}
'''


def row_of(split, scores, count):
  """One row of the table: of each score the mean and the ends of its interval."""
  ends = {f'{name}{end}': value for name, of in scores.items()
          for end, value in zip(('', '_lower', '_upper'), (of.mean, of.lower, of.upper))}
  return {'captions': NAMES[split], 'prompts': count, **ends}


def picture(rows):
  """A grid of held-out compositions, each from two opposite sides."""
  held = {row.prompt: np.concatenate(list(row.frames[PAIR]), 1) for row in rows
          if row.split == 'held_out' and ' on ' in row.prompt}
  some = spread(tuple(held), SHOWN)
  tiles = [Image.fromarray(video.to_bytes(video.enlarge(held[prompt], TILE))) for prompt in some]
  return captioned(tiles, some, columns=COLUMNS)


def generate(folder, *arguments):
  """Seconds from the shell, and of each of its prompts, of one process whose caches are in
  `folder`."""
  started = time.monotonic()
  done = subprocess.run([sys.executable, '-m', 'jaxdreamer.generate', f'--out={folder}/out',
                         *arguments], cwd=results.ROOT, check=True, capture_output=True, text=True,
                        env={**os.environ, 'XDG_CACHE_HOME': folder,
                             'JAX_COMPILATION_CACHE_DIR': f'{folder}/jax'})
  seconds = time.monotonic() - started
  return seconds, [float(found) for found in re.findall(r'all ([\d.]+) s', done.stdout)]


def times():
  """The seconds that the module's words tell of."""
  with tempfile.TemporaryDirectory() as folder:
    (first, _), (second, (loaded,)) = (generate(folder, f'--prompt={PHRASES[0]}')
                                       for _ in range(2))
    many = os.path.join(folder, 'phrases.txt')
    with open(many, 'w') as file:
      file.write('\n'.join(PHRASES))
    _, (_, *further) = generate(folder, f'--prompts={many}')
  return {'shell_first': first, 'shell_second': second, 'first_prompt': loaded,
          'prompt': statistics.median(further)}


def card(config, step, contents, figures):
  """What the file is and how to make it again."""
  scores = {f'{row["captions"]} {name}': row[name] for row in figures['rows']
            for name in ('iou', 'recall_at_1', 'color_error')}
  return CARD.format(estimator=config.estimator.name, step=f'{step:,}', seed=config.seed,
                     prompts=config.corpus.prompts, prior=contents['prior.path'][:19],
                     rows='\n'.join(f'| {name} | {value:.4g} |' for name, value in scores.items()))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(':')[0])
  parser.add_argument('--quick', action='store_true', help='four prompts of each kind; '
                      'writes nothing')
  quick = parser.parse_args().quick
  if not runs.SHIPPED.exists():
    sys.exit(f'{runs.SHIPPED} is not here: python -m jaxdreamer.export --workdir=RUN '
             f'--generator={runs.SHIPPED} writes it')
  cli.compile_cache()
  config, model, params, step = runs.restore_generator(runs.SHIPPED)
  splits = {'trained': model.prompts, 'held_out': registry.read_corpus('toybox:held_out')}
  if quick:
    splits = {name: prompts[-4:] for name, prompts in splits.items()}
  rows = list(generator_eval.make_rows(model, params, splits,
                                       say=lambda text: print(text, end='\r', flush=True)))
  figures = {'rows': [row_of(split, scores, len(splits[split]))
                      for split, scores in generator_eval.summary(rows).items()],
             'step': step, 'file_mb': runs.SHIPPED.stat().st_size / 1e6, 'seconds': times()}
  print(json.dumps(figures, indent=2))
  if quick:
    return
  results.write('generator', figures, 'python -m benchmarks.generator')
  picture(rows).save(results.RESULTS / 'generator.png')
  contents = runs.told(runs.SHIPPED)['contents']
  runs.SHIPPED.with_suffix('.md').write_text(card(config, step, contents, figures))


if __name__ == '__main__':
  main()
