"""What a maker takes away:   python -m benchmarks.assets [--quick]

The eight prompts of benchmarks.toybox are trained as it trains them, or its runs of these sources
are taken, and then each of PARTS measures something on them; MORE are benchmarks of their own, of
the rasterizer, a room, meshes made in stages and given meshes. The GLB is written at 15,000 faces
and a texture of 1,024 pixels, read back by trimesh and judged by the npm package gltf-validator,
which node must find:

    npm install --prefix=FOLDER gltf-validator
    NODE_PATH=FOLDER/node_modules python -m benchmarks.assets

Writes benchmarks/results/assets.json: a row a prompt, and of each figure the worst of all prompts.
glb_seconds are from the trained field to the file; glb_texture_difference is the mean absolute
difference of the texture and the field's paint at 20,000 points of the surface; glb_mesh_iou is
that of the silhouettes of the simplified mesh and of the render; gltf_errors and gltf_warnings are
null where there is no validator.
"""
import argparse
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import trimesh

from benchmarks import rasterizer, results, room, stages, texturing, toybox
from jaxdreamer import cli, runs
from jaxdreamer.outputs import bake, mesh, mesh_files, surface

FACES, TEXTURE, POINTS = 15_000, 1024, 20_000
VALIDATE = '''
require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))
  .then(found => console.log(JSON.stringify(found.issues)));
'''
WORST = {'glb_mesh_iou': min}          # of all other figures the largest


def texture_difference(path, paint):
  """Mean |texture - paint| at points spread evenly over the mesh of a GLB file, which trimesh
  reads; paint(points, inward) gives colors."""
  back, = trimesh.load_scene(path, process=False).geometry.values()
  in_world = lambda vectors: np.array(vectors) @ mesh_files.Y_UP
  vertices, faces, uv = in_world(back.vertices), np.array(back.faces), np.array(back.visual.uv)
  spread = lambda values: surface.sample_points(surface.Mesh(vertices, faces, values), POINTS)[1]
  image = np.asarray(back.visual.material.baseColorTexture.convert('RGB')) / 255.
  seen = bake.sample(image, spread(np.pad(uv, ((0, 0), (0, 1))))[:, :2])
  inward = -bake.unit(spread(in_world(back.vertex_normals)))
  return float(np.abs(seen - paint(spread(vertices), inward)).mean())


def validated(path):
  """(errors, warnings) of a GLB file by gltf-validator; None for both where node does not find
  it."""
  if not shutil.which('node'):
    return None, None
  done = subprocess.run(['node', '-e', VALIDATE, str(path)], capture_output=True, text=True)
  if done.returncode:
    return None, None
  issues = json.loads(done.stdout)
  return issues['numErrors'], issues['numWarnings']


def textured_glb(workdir):
  """The figures of the GLB of one run."""
  _, model, params, _ = runs.restore(workdir)
  object = model.object(params, model.prompts[0])
  with tempfile.TemporaryDirectory() as folder:
    begin = time.monotonic()
    _, facts = mesh.write(object, Path(folder), formats=('glb',), faces=FACES, texture=TEXTURE)
    seconds = time.monotonic() - begin
    path = Path(folder) / 'mesh.glb'
    errors, warnings = validated(path)
    cell = 2. * object.radius / (facts['resolution'] - 1)
    difference = texture_difference(path, lambda points, inward: surface.paint(
      object.density, object.color, points, inward, cell=cell))
    return {'glb_seconds': seconds, 'glb_texture_difference': difference,
            'glb_mesh_iou': facts['asset']['silhouette_iou'], 'glb_faces': facts['asset']['faces'],
            'glb_mb': path.stat().st_size / 1e6, 'gltf_errors': errors, 'gltf_warnings': warnings}


# each: the workdir of a run -> figures of it, by name
PARTS = (textured_glb,)
# each: whether quickly -> figures of the whole
MORE = (rasterizer.measure, room.measure, stages.measure, texturing.measure)


def summary(rows):
  """The worst of each figure; None where a row has none. And the rows."""
  figures = {}
  for name in rows[0]:
    values = [row[name] for row in rows]
    if name != 'prompt':
      figures[name] = None if None in values else WORST.get(name, max)(values)
  if figures['gltf_errors'] is None:
    figures['note'] = 'gltf_errors and gltf_warnings: node found no gltf-validator'
  return figures | {'rows': rows}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(':')[0])
  parser.add_argument('--quick', action='store_true', help='20 steps of the first two prompts; '
                      'writes nothing')
  quick = parser.parse_args().quick
  cli.compile_cache()
  root = (results.ROOT / 'runs' / 'benchmarks'
          / f'toybox-{toybox.source_hash()}{"-quick" * quick}')
  prompts = toybox.PROMPTS[:2 if quick else None]
  toybox.run(prompts, root, toybox.QUICK * quick, {'default': toybox.VARIANTS['default']})
  rows = []
  for prompt in prompts:
    row = {'prompt': prompt}
    for part in PARTS:
      row |= part(root / 'default' / prompt.replace(' ', '-'))
    rows.append(row)
    print(json.dumps(row), flush=True)
  figures = summary(rows)
  for measure in MORE:
    figures |= measure(quick)
  print(json.dumps({name: value for name, value in figures.items() if not isinstance(value, list)},
                   indent=2))
  if not quick:
    print(results.write('assets', figures, 'python -m benchmarks.assets'))


if __name__ == '__main__':
  main()
