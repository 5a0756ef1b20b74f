"""The exact mesh of a toy, colored by other words:   python -m benchmarks.texturing [--quick]

The mesh of a caption of the toybox is cut from its exact shape, laid flat and written as a GLB, as
one comes from anywhere; configs/toybox.py with scene.name=mesh then colors it by the words of
another color, with the shipped prior, as a user starts it. texturing_color_error is the mean
absolute difference of the color of its renders from the truth's where both see the surface, in the
32 views of jaxdreamer.evaluate: the mean of all prompts, each of which has a row. Runs are kept
under runs/benchmarks/texturing. `measure` returns the figures; benchmarks/assets.py writes them.
"""
import argparse
import json
import shutil
import subprocess
import sys
import time

import numpy as np

from benchmarks import results
from jaxdreamer.meshes import files
from jaxdreamer.outputs import mesh_files, surface, unwrap
from jaxdreamer.toybox import truth

ROOT = results.ROOT / 'runs' / 'benchmarks' / 'texturing'
# whose mesh: what it is to become
PAIRS = {'a red car': 'a blue car', 'a yellow duck': 'a pink duck', 'a green cube': 'a red cube',
         'a blue chair': 'a brown chair',
         'a green cone on a yellow cylinder': 'an orange cone on a white cylinder'}
RESOLUTION, FACES, TEXTURE = 96, 6000, 512
QUICK = ('--config.steps=10',)


def write_exact(caption, path):
  """The surface of the exact shape of `caption` as a GLB, gray, with UVs."""
  grid = surface.depth_inside(truth.shape(caption).distance, radius=1., resolution=RESOLUTION)
  solid = surface.isosurface(grid, 0., radius=1.)
  whole = surface.Mesh(np.array(solid.vertices), np.array(solid.faces),
                       np.full(solid.vertices.shape, .5))
  small = surface.simplify(whole, FACES)
  atlas = unwrap.unwrap(small.vertices, small.faces, size=TEXTURE)
  plain = surface.Texture(atlas.uv, surface.normals_of(small)[atlas.origin], None,
                          np.full((8, 8, 3), .5), None)
  data, = mesh_files.to_glb(surface.Mesh(small.vertices[atlas.origin], atlas.faces,
                                         small.colors[atlas.origin], plain)).values()
  path.write_bytes(data)


def row(of, words, *, quick):
  """The figures of one mesh and its new words."""
  name = words.replace(' ', '-')
  given, workdir = ROOT / f'{name}.glb', ROOT / name
  write_exact(of, given)
  command = [sys.executable, '-m', 'jaxdreamer.train', '--config=configs/toybox.py',
             '--config.scene.name=mesh', f'--config.scene.mesh.path={given}',
             '--config.scene.mesh.scale=0', f'--config.prompt={words}', f'--workdir={workdir}',
             *(QUICK if quick else ())]
  begin = time.monotonic()
  subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
  seconds = time.monotonic() - begin
  scores = json.loads((workdir / 'scores.json').read_text())['scores']
  before, after = (files.read(path, option='path') for path in (given, workdir / 'mesh.glb'))
  return {'prompt': words, 'mesh_of': of, 'color_error': scores['color_error'],
          'color_right': scores['color_right'], 'seconds': seconds, 'faces': len(after.faces),
          'uv_kept': bool(np.array_equal(before.uv.astype(np.float32),
                                         after.uv.astype(np.float32)))}


def measure(quick):
  """{'texturing_color_error', 'texturing_seconds', 'texturing_uv_kept', 'texturing_rows'};
  `quick`: one mesh, of few steps, which show that it runs."""
  shutil.rmtree(ROOT, ignore_errors=True)
  ROOT.mkdir(parents=True)
  rows = [row(of, words, quick=quick) for of, words in list(PAIRS.items())[:1 if quick else None]]
  return {'texturing_color_error': float(np.mean([row['color_error'] for row in rows])),
          'texturing_seconds': max(row['seconds'] for row in rows),
          'texturing_uv_kept': all(row['uv_kept'] for row in rows), 'texturing_rows': rows}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(':')[0])
  parser.add_argument('--quick', action='store_true', help='one mesh, few steps')
  print(json.dumps(measure(parser.parse_args().quick), indent=1))


if __name__ == '__main__':
  main()
