"""One self-contained HTML page about a run: no network, no server, opens from a file.

The page is built from what lies in the run's folder, each part optional:
  report.json      prompt, settings, command, about: what `write` was told
  metrics.jsonl    {'step': .., name: number} a line
  previews/*.png   the last number in a name is its step
  turntable.mp4    the film
  panorama.png     and panorama_depth.png, of a scene one stands in
  mesh.glb         or else mesh.ply; mesh.json holds facts about it
  scores.json      {'scores': {name: value}, 'meaning': {name: text}}
All text is escaped, so a prompt may hold anything. The mesh travels as a whole GLB file, and the
page's own WebGL draws it.
"""
import json
import math
import pathlib
import re
from typing import Sequence

import numpy as np
import trimesh
from flax.traverse_util import empty_node, flatten_dict

from jaxdreamer.outputs import mesh_files, pages
from jaxdreamer.outputs.surface import Mesh

POINTS = 400                     # of one curve; more are averaged
PREVIEWS = 80                    # more are thinned out evenly


def number(value) -> str:
  """A value as a person reads it: four digits of a float, yes or no, a dash for None."""
  if value is None:
    return '–'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def flatten(tree: dict) -> list[tuple]:
  """Nested dicts as (dotted name, value)."""
  flat = flatten_dict(tree, keep_empty_nodes=True, sep='.')
  return [(name, {} if value is empty_node else value) for name, value in flat.items()]


def curves(rows: Sequence[dict], *, points: int = POINTS) -> list[dict]:
  """name, steps and values of each metric that is ever other than 0; long ones as the means of
  `points` equal groups, non-finite ones as None."""
  out = []
  for name in dict.fromkeys(name for row in rows for name in row if name != 'step'):
    pairs = [(row['step'], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    if not any(value for _, value in pairs):
      continue
    groups = [g for g in np.array_split(np.array(pairs, float).reshape(-1, 2),
                                        min(points, len(pairs)) or 1) if len(g)]
    steps, values = zip(*(g.mean(0).tolist() for g in groups))
    out.append({'name': name, 'steps': steps, 'values': [v if math.isfinite(v) else None
                                                         for v in values]})
  return out


def page(*, prompt: str, settings: dict, command: str, about: dict, rows: Sequence[dict] = (),
         previews: Sequence[tuple] = (), video: bytes | None = None,
         panoramas: Sequence[bytes] = (), mesh: bytes | None = None,
         mesh_facts: dict | None = None, scores: dict | None = None,
         meaning: dict | None = None) -> str:
  """The page. `previews` are (step, png bytes) in order, `mesh` is a GLB of mesh_files.py, the
  dicts become tables."""
  scores, meaning, mesh_facts = scores or {}, meaning or {}, mesh_facts or {}
  keep = np.unique(np.linspace(0, len(previews) - 1, min(PREVIEWS, len(previews))).round().astype(
      int))
  data = {'curves': curves(rows), 'mesh': mesh and pages.base64_of(mesh),
          'previews': [[previews[k][0], pages.data_url('image/png', previews[k][1])]
                       for k in keep]}
  absent = {'video': video is None, 'mesh': mesh is None, 'previews': not previews,
            'scores': not scores,
            'curves': not data['curves'], 'facts': not mesh_facts}
  return pages.render(
    'report.html', prompt=prompt, command=command, data=data, number=number,
    settings=flatten(settings), about=flatten(about), facts=flatten(mesh_facts),
    scores=[(name, value, meaning.get(name, '')) for name, value in flatten(scores)
            if value is not None],
    video=pages.data_url('video/mp4', video) if video else '',
    panoramas=[pages.data_url('image/png', picture) for picture in panoramas],
    absent=' '.join(f'no-{name}' for name, is_absent in absent.items() if is_absent))


def step_of(path: pathlib.Path) -> int:
  """The last number in a file's name, which is its step; 0 where it has none."""
  return int((re.findall(r'\d+', path.stem) or ['0'])[-1])


def glb_in(folder: pathlib.Path) -> bytes | None:
  """The mesh of the folder as a GLB, None where there is none."""
  if (folder / 'mesh.glb').exists():
    return (folder / 'mesh.glb').read_bytes()
  if not (folder / 'mesh.ply').exists():
    return None
  ply = trimesh.load_mesh(folder / 'mesh.ply', process=False)
  colors = ply.visual.vertex_colors[:, :3] / 255.
  return mesh_files.to_glb(Mesh(np.array(ply.vertices), np.array(ply.faces), colors))['mesh.glb']


def refresh(folder: pathlib.Path) -> pathlib.Path:
  """Builds report.html anew from the files in `folder`; `write` must have been there once."""
  read = lambda name: json.loads((folder / name).read_text()) if (folder / name).exists() else {}
  lines = (folder / 'metrics.jsonl').read_text().splitlines() if (
      folder / 'metrics.jsonl').exists() else []
  video, found = folder / 'turntable.mp4', read('scores.json')
  previews = sorted((folder / 'previews').glob('*.png'), key=step_of)
  out = folder / 'report.html'
  out.write_text(page(
    **read('report.json'), rows=[json.loads(line) for line in lines],
    previews=[(step_of(path), path.read_bytes()) for path in previews],
    video=video.read_bytes() if video.exists() else None,
    panoramas=[path.read_bytes() for path in sorted(folder.glob('panorama*.png'))],
    mesh=glb_in(folder), mesh_facts=read('mesh.json'),
    scores=found.get('scores'), meaning=found.get('meaning')), encoding='utf-8')
  return out


def write(folder: pathlib.Path, *, prompt: str, settings: dict, command: str,
          about: dict) -> pathlib.Path:
  """report.json with what the other files do not say, then report.html. `about` holds versions,
  device, times."""
  told = {'prompt': prompt, 'settings': settings, 'command': command, 'about': about}
  (folder / 'report.json').write_text(json.dumps(told, indent=2, default=str) + '\n')
  return refresh(folder)
