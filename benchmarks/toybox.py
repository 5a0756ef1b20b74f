"""The default config on eight prompts, scored against the truth:   python -m benchmarks.toybox
[--quick]

Each prompt is a process of its own, `python -m jaxdreamer.train`, as a user starts it; seconds are
from the start of the process to its end, all outputs written. The first process finds empty caches,
the others what it left there. Each prompt also runs with view words alone in place of the camera,
with the exact prior over true views, and with that prior on the plain voxel grid, whose surface is
the one to beat: normals_over_voxels and steps_over_voxels. Runs are kept under runs/benchmarks, by
a hash of the sources: after an interruption the same command goes on with the first prompt that has
no result. Writes benchmarks/results/toybox.json and toybox.png.

  python -m benchmarks.toybox --prompts=40

does so for as many captions drawn of all, by the default alone, and writes captions.json, and
captions.png of those with the least IoU, there. With captions in place of a number, or --quick,
figures.json and sheet.png are in the folder of its runs.
"""
import argparse
import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time

import jax
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from benchmarks import results
from jaxdreamer import runs
from jaxdreamer.toybox import world

PROMPTS = ('a red cube', 'a blue torus', 'a green cone on a yellow cylinder', 'a yellow mug',
           'a red car',
           'a snowman with a blue hat', 'a purple house', 'an orange chair')
VARIANTS = {
    'default': ('--config=configs/toybox.py',),
    'words_only': ('--config=configs/toybox.py', '--config.prior.toybox.camera=False'),
    'empirical': ('--config=configs/toybox.py:empirical',),
    # as before there were distances: at one rate to the end
    'voxels': ('--config=configs/toybox.py:empirical', '--config.scene.name=voxels',
               "--config.optim.groups=(('scene/field/.*', .05),)"),
}
# run where they are asked for by name
MORE = {
    'neus': ('--config=configs/toybox.py:empirical', '--config.scene.sdf_voxels.density=neus'),
    'sdf_hashgrid': ('--config=configs/toybox.py:empirical', '--config.scene.name=sdf_hashgrid',
                     "--config.optim.groups=(('scene/field/tables.*', (.02, .002, 75, 75)), "
                     "('scene/field/.*', (.005, .0005, 75, 75)))"),
}
WORST = {'normal_degrees': 180.}  # what stands for a score that could not be taken, if not 0
QUICK = ('--config.steps=20',)
LEAST = 10                             # captions that are shown of those that were drawn
SCORES = {'iou': 'silhouette_iou'} | {name: name for name in (
    'psnr', 'normal_degrees', 'chamfer', 'volume_iou', 'mesh_iou', 'color_right', 'recall_at_1',
    'one_front', 'pose_gap', 'yaw')}


def source_hash(*more):
  """Eight digits that change with anything a run depends on: the library, its weights, its configs,
  and the files `more`. The shipped generator is what a run made, and none reads it."""
  digest = hashlib.sha256()
  for folder in ('jaxdreamer', 'configs'):
    for path in sorted((results.ROOT / folder).rglob('*')):
      if path.suffix in ('.py', '.json', '.html', '.safetensors') and path != runs.SHIPPED:
        digest.update(str(path.relative_to(results.ROOT)).encode() + path.read_bytes())
  for name in more:
    digest.update(name.encode() + results.ROOT.joinpath(name).read_bytes())
  return digest.hexdigest()[:8]


def drawn(n):
  """`n` different captions of the world, as its own draws fall, always the same ones."""
  items = jax.vmap(world.sample)(jax.random.split(jax.random.key(40), 2 * n))
  captions = dict.fromkeys(world.caption(jax.tree.map(lambda leaf, i=i: leaf[i], items))
                           for i in range(2 * n))
  return tuple(captions)[:n]


def train(prompt, workdir, caches, options):
  """Runs one prompt to its end in a fresh workdir. Returns its times, its memory and its scores."""
  shutil.rmtree(workdir, ignore_errors=True)
  workdir.mkdir(parents=True)
  log = workdir.with_suffix('.log')
  command = [sys.executable, '-m', 'jaxdreamer.train', *options, f'--config.prompt={prompt}',
             f'--workdir={workdir}']
  env = {**os.environ, 'XDG_CACHE_HOME': str(caches),
         'JAX_COMPILATION_CACHE_DIR': str(caches / 'jax')}
  start, first, pid = time.monotonic(), None, 0
  with log.open('w') as out:
    process = subprocess.Popen(command, cwd=results.ROOT, env=env, stdin=subprocess.DEVNULL,
                               stdout=out, stderr=out)
    try:
      while not pid:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.monotonic() - start
        metrics = workdir / 'metrics.jsonl'
        if first is None and metrics.exists() and metrics.stat().st_size:
          first = seconds
        time.sleep(0 if pid else .05)
      process.returncode = os.waitstatus_to_exitcode(status)
    finally:
      if not pid:
        process.kill()
        process.wait()
  if process.returncode:
    fail(command, process.returncode, log)
  if not (workdir / 'scores.json').exists():
    command = [sys.executable, '-m', 'jaxdreamer.evaluate', f'--workdir={workdir}']
    with log.open('a') as out:
      done = subprocess.run(command, cwd=results.ROOT, env=env, stdin=subprocess.DEVNULL,
                            stdout=out, stderr=out)
    if done.returncode:
      fail(command, done.returncode, log)
  scores = json.loads((workdir / 'scores.json').read_text())['scores']
  parts = json.loads((workdir / 'report.json').read_text())['about']['seconds']
  kib = usage.ru_maxrss / (1024 if sys.platform == 'darwin' else 1)
  return {'prompt': prompt, **{name: scores[of] for name, of in SCORES.items()}, 'seconds': seconds,
          'first_step_seconds': first, 'peak_gib': kib / 2 ** 20, 'parts': parts}


def fail(command, code, log):
  sys.exit(f'{shlex.join(command)}\nended with {code}; its words are in '
           f'{log}:\n{log.read_text()[-2000:]}')


def run(prompts, root, options, variants):
  """{variant: [row of each prompt]} of `variants` {name: its options}, from the kept results where
  there are any."""
  jobs = [(variant, prompt) for prompt in prompts for variant in variants]       # side by side
  rows = {variant: [] for variant in variants}
  spent = []
  for i, (variant, prompt) in enumerate(jobs):
    workdir = root / variant / prompt.replace(' ', '-')
    kept = workdir.with_suffix('.json')
    if not kept.exists():
      if i == 0:
        shutil.rmtree(root / 'caches', ignore_errors=True)
      left = (f', about {statistics.mean(spent) * (len(jobs) - i) / 60:.0f} min left'
              if spent else '')
      print(f'[{i + 1}/{len(jobs)}] {variant}: {prompt}{left}', flush=True)
      row = train(prompt, workdir, root / 'caches', (*variants[variant], *options))
      spent.append(row['seconds'])
      kept.write_text(json.dumps(row, indent=2) + '\n')
      print(f'    {row["seconds"]:.0f} s, IoU {row["iou"]:.3f}', flush=True)
    rows[variant].append(json.loads(kept.read_text()))
  return rows


def over(rows, voxels):
  """Medians, over the prompts that have both, of what the default scene's figures are over those
  of the plain voxel grid."""
  of = {'normals': lambda row: row['normal_degrees'], 'chamfer': lambda row: row['chamfer'],
        'steps': lambda row: row['parts']['steps']}
  ratios = {name: [figure(a) / figure(b) for a, b in zip(rows, voxels, strict=True)
                   if figure(a) and figure(b)] for name, figure in of.items()}
  return {f'{name}_over_voxels': statistics.median(found)
          for name, found in ratios.items() if found}


def summary(rows):
  """The figures of README."""
  default = rows['default']
  mean = lambda variant, name: statistics.mean(WORST.get(name, 0.) if row[name] is None
                                               else row[name] for row in rows[variant])
  share = lambda name, fits: statistics.mean(fits(row[name]) for row in default
                                             if row[name] is not None) if any(
row[name] is not None for row in default) else None
  gap = lambda variant: max(row['pose_gap'] for row in rows[variant])
  seconds = [row['first_step_seconds'] for row in default]
  return {
      'mean_iou': mean('default', 'iou'),
      'min_iou': min(row['iou'] for row in default),
      'mean_psnr': mean('default', 'psnr'),
      'mean_normal_degrees': mean('default', 'normal_degrees'),
      'one_front': share('one_front', bool),
      'reader_agrees': share('recall_at_1', lambda of_views: of_views >= .9),
      'mean_mesh_iou': mean('default', 'mesh_iou'),
      'mean_volume_iou': mean('default', 'volume_iou'),
      'max_pose_gap': gap('default'),
      'train_seconds': statistics.median(row['seconds'] for row in default),
      'train_seconds_cold': default[0]['seconds'],
      'parts': {name: statistics.median(row['parts'][name] for row in default)
                for name in default[0]['parts']},
      'scores_seconds_cold': default[0]['parts']['scores'],
      'first_step_seconds_cold': seconds[0],
      'first_step_seconds_warm': statistics.median(seconds[1:] or seconds),
      'peak_gib': max(row['peak_gib'] for row in default),
      **{f'{variant}_mean_{name}': mean(variant, name) for name in ('iou', 'psnr', 'normal_degrees')
         for variant in rows if variant != 'default'},
      **{f'{variant}_max_pose_gap': gap(variant) for variant in rows if variant != 'default'},
      **(over(rows['empirical'], rows['voxels']) if {'empirical', 'voxels'} <= set(rows) else {}),
      'rows': default, **{variant: rows[variant] for variant in rows if variant != 'default'},
  }


def sheet(prompts, root, path, *, columns=4):
  """One picture: for each prompt its caption and half a turn of the default run, at half its
  size."""
  tiles = []
  for prompt in prompts:
    strip = Image.open(root / 'default' / prompt.replace(' ', '-') / 'turntable.png').convert('RGB')
    half = strip.crop((0, 0, strip.width // 2, strip.height))
    tiles.append(half.resize((half.width // 2, half.height // 2), Image.Resampling.LANCZOS))
  captioned(tiles, prompts, columns=columns).save(path)


def captioned(tiles, captions, *, columns):
  """One picture of tiles of one size, each under its caption."""
  wide, high, caption = tiles[0].width, tiles[0].height, 20
  out = Image.new('RGB', (columns * wide, -(-len(tiles) // columns) * (high + caption)), 'white')
  draw = ImageDraw.Draw(out)
  for i, (words, tile) in enumerate(zip(captions, tiles, strict=True)):
    x, y = i % columns * wide, i // columns * (high + caption)
    draw.text((x + 4, y + 3), words, 'black', font=ImageFont.load_default(12))
    out.paste(tile, (x, y + caption))
  return out


def show(figures):
  console, table = Console(), Table(title='toybox')
  names = ('prompt', *SCORES, 'seconds', 'peak_gib')
  for name in names:
    table.add_column(name)
  for row in figures['rows']:
    table.add_row(*(f'{row[n]:.3f}' if isinstance(row[n], float) else str(row[n]) for n in names))
  console.print(table)
  for name, value in figures.items():
    if isinstance(value, float):
      print(f'{name:26} {value:.3f}')


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--prompts', default='', help='in place of the eight: captions, '
                      'comma-separated, or how many to draw of all')
  parser.add_argument('--quick', action='store_true', help='20 steps of the first two prompts')
  parser.add_argument('--variants', help='comma-separated; the first is always default; all four, '
                      'and of captions that are drawn none beside it')
  arguments = parser.parse_args()
  number = int(arguments.prompts) if arguments.prompts.isdecimal() else 0
  others = (arguments.variants.split(',') if arguments.variants is not None
            else () if number else VARIANTS)
  variants = [v for v in VARIANTS | MORE if v == 'default' or v in others]
  asked = drawn(number) if number else tuple(
    p.strip() for p in arguments.prompts.split(',') if p.strip())
  prompts = asked or PROMPTS[:2 if arguments.quick else None]
  root = (results.ROOT / 'runs' / 'benchmarks'
          / f'toybox-{source_hash()}{"-quick" * arguments.quick}')
  rows = run(prompts, root, QUICK * arguments.quick,
             {name: (VARIANTS | MORE)[name] for name in variants})
  figures = summary(rows)
  show(figures)
  given = '' if arguments.variants is None else f' --variants={",".join(variants)}'
  if prompts == PROMPTS and not arguments.quick:
    print(results.write('toybox', figures, f'python -m benchmarks.toybox{given}'))
    sheet(prompts, root, results.RESULTS / 'toybox.png')
  elif number and not arguments.quick:
    least = sorted(figures['rows'], key=lambda row: row['iou'])[:LEAST]
    print(results.write('captions', {'count': number, **figures, 'least': least},
                        f'python -m benchmarks.toybox --prompts={number}{given}'))
    sheet([row['prompt'] for row in least], root, results.RESULTS / 'captions.png', columns=5)
  else:
    (root / 'figures.json').write_text(json.dumps(figures, indent=2) + '\n')
    sheet(prompts, root, root / 'sheet.png')
    print(root)


if __name__ == '__main__':
  main()
