"""A mesh made in stages against the field that it starts from:
python -m benchmarks.stages [--quick]

configs/toybox_mesh.py on the eight prompts of benchmarks.toybox, with the perfect prior and with
the shipped one, each a process of its own as a user starts it. Both the first stage, a field, and
the last, a textured mesh, are held against the truth: Chamfer distance, the mean angle between the
mesh's normals and the true ones at 20,000 points of the mesh, and PSNR in 32 unseen views. Ratios
are of the means over prompts, mesh over field. Runs are kept under runs/benchmarks, by a hash of
the sources: after an interruption the same command goes on. `measure` returns the figures;
benchmarks/assets.py writes them.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

from benchmarks import results, toybox
from jaxdreamer import cli, evaluate, runs, scores
from jaxdreamer.outputs import surface
from jaxdreamer.toybox import truth

PRIORS = {'': ':empirical', 'shipped_': ''}      # of the figures' names: what the config is told
STAGES = {'nerf': 'field', 'textured': 'texture'}
QUICK = ('--config.steps=10', '--config.stage.geometry.steps=4', '--config.stage.texture.steps=4')


def normal_angle(mesh, prompt):
  """Mean degrees between the normals of a mesh, interpolated in its faces as viewers do, and the
  true ones."""
  spread = lambda values: surface.sample_points(mesh._replace(colors=values), scores.SURFACE)[1]
  points, normals = spread(mesh.vertices), spread(surface.normals_of(mesh))
  true = np.asarray(truth.normals(prompt, np.asarray(points, np.float32)))
  return scores.normal_degrees(normals, true, np.ones(len(true), bool))


def figures_of(workdir, prompt):
  """Those of one stage's folder."""
  _, model, params, _ = runs.restore(workdir)
  mesh, _ = evaluate.extract(model.object(params, prompt), resolution=96)
  found = json.loads((workdir / 'scores.json').read_text())['scores']
  return {'psnr': found['psnr'], 'iou': found['silhouette_iou'], 'chamfer': found['chamfer'],
          'normal_angle': normal_angle(mesh, prompt)}


def row_of(prompt, argument, folder, options):
  """Trains one prompt, unless it is kept, and measures its first and its last stage."""
  kept = folder.with_suffix('.json')
  if not kept.exists():
    begin = time.monotonic()
    subprocess.run([sys.executable, '-m', 'jaxdreamer.train',
                    f'--config=configs/toybox_mesh.py{argument}', f'--config.prompt={prompt}',
                    f'--workdir={folder}', *options], cwd=results.ROOT, check=True,
                   stdout=subprocess.DEVNULL)
    row = {'prompt': prompt, 'seconds': time.monotonic() - begin}
    for name, stage in STAGES.items():
      row |= {f'{figure}_{name}': value
              for figure, value in figures_of(folder / stage, prompt).items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(row, indent=2) + '\n')
    print(json.dumps(row), flush=True)
  return json.loads(kept.read_text())


def summary(rows):
  """The figures of one prior's rows."""
  mean = lambda name: statistics.mean(row[name] for row in rows)
  ratio = lambda name: mean(f'{name}_textured') / mean(f'{name}_nerf')
  return {'chamfer_ratio': ratio('chamfer'), 'normal_angle_ratio': ratio('normal_angle'),
          **{f'{figure}_{stage}': mean(f'{figure}_{stage}')
             for figure in ('normal_angle', 'psnr', 'iou') for stage in STAGES}}


def measure(quick):
  """{'chamfer_ratio', 'normal_angle_ratio', 'psnr_textured', 'psnr_nerf', ...} with the perfect
  prior, and as 'shipped_...' with the shipped one; and the rows of both."""
  root = (results.ROOT / 'runs' / 'benchmarks'
          / f'stages-{toybox.source_hash()}{"-quick" * quick}')
  figures = {}
  for name, argument in PRIORS.items():
    rows = [row_of(prompt, argument, root / f'{name}{prompt.replace(" ", "-")}', QUICK * quick)
            for prompt in toybox.PROMPTS[:1 if quick else None]]
    figures |= {f'{name}{figure}': value for figure, value in summary(rows).items()}
    figures[f'{name}stages'] = rows
  return figures


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removesuffix(':'))
  parser.add_argument('--quick', action='store_true', help='few steps of the first prompt')
  cli.compile_cache()
  for name, value in measure(parser.parse_args().quick).items():
    if isinstance(value, float):
      print(f'{name:28} {value:.4f}')


if __name__ == '__main__':
  main()
