"""python -m jaxdreamer.evaluate --workdir=...: how near a finished run is to what its prompt names.

Where the prompt names a toy of the toybox, the exact shape is known, and the run is held against it
in 32 views that no step was trained on, as a mesh, and as a volume; a room in 24 views from inside.
Writes scores.json (every score and its meaning), prints a table, renews the report. Images are
[V, H, W, 3] in [0, 1], masks and opacity [V, H, W].

`--clip=FOLDER` asks a CLIP model as well, for any prompt, and with `--prompts=FILE`, a prompt a
line, which of them it would choose; clip.json names the protocol.
"""
import json
import math
import os
import pathlib

import jax
import numpy as np
import rich
from absl import flags
from jaxtyping import PyTree
from rich.table import Table

from jaxdreamer import cameras, cli, clip_score, generator_eval, prompts, registry, runs, workdirs
from jaxdreamer import scores as score
from jaxdreamer.objects import Model, Object
from jaxdreamer.options import place
from jaxdreamer.outputs import gallery, report, silhouettes, surface, video
from jaxdreamer.outputs import mesh as meshes
from jaxdreamer.scores import Images, Masks
from jaxdreamer.toybox import geometry, rooms, truth, world, xla_flags
from jaxdreamer.toybox.truth import over_gray
from jaxdreamer.types import Camera

RING, ELEVATIONS = 16, (.15, .6)       # 32 views: azimuths in steps of 22.5 degrees, on two heights
ROOM_VIEWS = 24
QUARTERS = slice(None, None, RING // 4)                # 8 of the views are enough to tell colors


def knows(prompt: str) -> bool:
  """Whether the toybox knows what the prompt means, a toy or a room."""
  return world.names_a_toy(prompt) or rooms.names_a_room(prompt)


def true_pictures(prompt: str, camera: Camera, *, size: int) -> tuple[Images, Masks]:
  """What the prompt means, over the background, and where it is."""
  view = truth.views(prompt, camera, size=size)
  return over_gray(view.rgb, view.mask), view.mask


def colors_of(prompt: str, x: Images, opacity: Masks, camera: Camera, *, size: int) -> dict:
  """color_right and color_found: the truth in each color there is, for each object of the
  prompt."""
  item = world.parse(prompt)
  names, found = list(world.COLORS), []
  for which in range(1 if item.relation == world.ALONE else 2):
    candidates = truth.in_each_color(item, which, camera, size=size)
    found.append(score.nearest_color(x, opacity, candidates))
  wanted = [int(k) for k in item.color[:len(found)]]
  return {'color_right': found == wanted, 'color_found': ', '.join('none' if k is None else names[k]
                                                                   for k in found)}


def read_back(prompt: str, x: Images) -> float | None:
  """R@1 of the toybox's scorer, which was trained on renders alone, over the prompt and its rivals;
  None without its file."""
  if not geometry.SHIPPED.exists():
    return None
  fit = jax.jit(geometry.caption_scores, compiler_options=xla_flags.once())
  fits = fit(geometry.shipped(), np.asarray(x, np.float32), truth.rivals(prompt))
  return score.recall_at_1(np.asarray(fits), 0)


def score_views(prompt: str, object: Object) -> dict:
  """The scores that compare pictures."""
  camera, size = cameras.orbit(*((RING, elevation) for elevation in ELEVATIONS)), object.size
  # over black: its rgb is premultiplied
  views = video.render_views(object.over(0.), camera)
  true = truth.views(prompt, camera, size=size)
  x, true_x = over_gray(views.rgb, views.opacity), over_gray(true.rgb, true.mask)
  gap, yaw = score.pose_gap(views.opacity, true.mask, ring=RING)
  scores = {'silhouette_iou': score.silhouette_iou(views.opacity, true.mask),
            'psnr': score.psnr(x, true_x),
            'normal_degrees': score.normal_degrees(views.normal, true.normal,
                                                   (views.opacity > .9) & (true.mask > .9)),
            'color_error': truth.color_error(views.rgb, views.opacity, true),
            **colors_of(prompt, x[QUARTERS], views.opacity[QUARTERS],
                        jax.tree.map(lambda v: v[QUARTERS], camera), size=size),
            'recall_at_1': read_back(prompt, x),
            'pose_gap': gap, 'yaw': math.degrees(yaw)}
  if truth.shape(prompt).has_front:
    back = slice(RING // 2, None, RING)
    return scores | score.janus(x[::RING], x[back], true_x[::RING], true_x[back])
  return scores | dict.fromkeys(('front', 'back', 'one_front', 'symmetry'))


def score_room(prompt: str, object: Object) -> dict:
  """The scores that compare pictures from inside a room."""
  camera = rooms.unseen(ROOM_VIEWS)
  views = video.render_views(object.over(1.), camera)
  true = rooms.pictures(prompt, camera, size=object.size)
  everywhere = np.ones(true.depth.shape, bool)
  return {'room_psnr': score.psnr(views.rgb, true.rgb),
          'room_depth_pearson': score.pearson(views.depth, true.depth),
          'room_depth_error': float(np.abs(views.depth - true.depth).mean()),
          'room_normal_degrees': score.normal_degrees(views.normal, true.normal, everywhere),
          'room_opacity': float(views.opacity.mean())}


def extract(object: Object, *, resolution: int) -> tuple[surface.Mesh, dict] | None:
  """meshes.extract, or None where there is no surface."""
  camera = silhouettes.lookouts(radius=object.radius)
  opacity = video.render_views(object.over(0.), camera).opacity
  try:
    return meshes.extract(object, camera, opacity, resolution=resolution)
  except surface.Empty as error:
    print(error)


def score_shape(prompt: str, object: Object,
                extracted: tuple[surface.Mesh, dict] | None) -> dict:
  """The scores that compare solids; None for each where there is no surface."""
  if extracted is None:
    return dict.fromkeys(('chamfer', 'volume_iou', 'mesh_iou', 'watertight'))
  mesh, facts = extracted
  exact = np.asarray(truth.surface_points(jax.random.key(0), prompt, score.SURFACE), float)
  xyz = surface.nodes(object.radius, facts['resolution'])
  inside = surface.evaluate(truth.shape(prompt).distance,
                            xyz.reshape(-1, 3)).reshape(xyz.shape[:3]) < 0.
  grid, level = surface.grid_of(object, facts['resolution']), facts['level']
  return {'chamfer': score.chamfer(surface.sample_points(mesh, score.SURFACE)[0], exact),
          'volume_iou': score.iou(surface.fill_cavities(grid, level) >= level, inside),
          'mesh_iou': facts['silhouette_iou'], 'watertight': facts['watertight']}


def table(scores: dict) -> Table:
  """The scores with their meanings, for the terminal."""
  out = Table('score', 'value', 'meaning', title_justify='left')
  for name, value in scores.items():
    out.add_row(name, report.number(value), score.MEANING.get(name, ''))
  return out


def write(folder: pathlib.Path, prompt: str, step: int, object: Object, *, resolution: int = 96,
          extracted: tuple[surface.Mesh, dict] | None = None) -> dict:
  """Scores the object against what its prompt names; writes scores.json and returns the scores.
  ValueError: no prompt of a toy or a room.

  `extracted` is its mesh (meshes.extract), for a caller that has it already."""
  if rooms.is_room(prompt):
    scores = score_room(prompt, object)
  else:
    world.parse(prompt)
    extracted = extracted or extract(object, resolution=resolution)
    scores = score_views(prompt, object) | score_shape(prompt, object, extracted)
  (folder / 'scores.json').write_text(json.dumps(
    {'prompt': prompt, 'step': step, 'scores': scores,
     'meaning': {name: score.MEANING[name] for name in scores}}, indent=2) + '\n')
  return scores


def read_prompts(path: str, prompt: str) -> list[str]:
  """The lines of a file, of which the prompt must be one; the prompt alone without a file."""
  lines = list(prompts.read_file(place(path), option='--prompts', blank=True)) if path else [prompt]
  if prompt not in lines:
    raise ValueError(f'--prompts={path}: the prompt of this run, {prompt!r}, is not among its '
                     f'{len(lines)} lines')
  return lines


def score_clip(folder: pathlib.Path, prompt: str, step: int, object: Object, *, model: str,
               texts: list[str], protocol: str) -> dict:
  """What CLIP says of a ring of views on white; writes clip.json. `model` is its folder."""
  of_images, of_texts = clip_score.load(model)
  camera = cameras.orbit(clip_score.PROTOCOLS[protocol], distance=3. * object.radius)
  images = of_images(np.clip(video.render_views(object.over(1.), camera).rgb, 0., 1.))
  rows = of_texts(texts)
  target = texts.index(prompt)
  scores = {'clip_similarity': clip_score.similarity(images, rows[target])}
  if len(texts) > 1:
    scores['clip_recall_at_1'] = clip_score.recall_at_1(images, rows, target)
  how = clip_score.identity(protocol, backbone=pathlib.Path(model).name, prompts=len(texts),
                            size=object.size)
  row = {'prompt': prompt, 'step': step, 'protocol': how, 'scores': scores}
  (folder / 'clip.json').write_text(json.dumps(row, indent=2) + '\n')
  return scores


def score_corpus(folder: pathlib.Path, corpus: str, model: Model, params: PyTree,
                 step: int) -> dict:
  """Of a generator: scores of all prompts it was trained on and, on the toybox, of those it was
  not, in scores.json, and gallery.html over them."""
  splits = {'trained': model.prompts}
  if f'{corpus}:held_out' in registry.CORPORA:
    splits['held_out'] = registry.read_corpus(f'{corpus}:held_out')
  rows = list(generator_eval.make_rows(model, params, splits,
                                       say=lambda text: print(text, end='\r', flush=True)))
  scores = {split: {name: interval._asdict() for name, interval in of.items()}
            for split, of in generator_eval.summary(rows).items()}
  (folder / 'scores.json').write_text(json.dumps(
    {'corpus': corpus, 'step': step, 'scores': scores,
     'prompts': [{'prompt': row.prompt, 'split': row.split} | row.scores for row in rows]},
     indent=2) + '\n')
  gallery.write(folder / 'gallery.html', rows, title=f'{len(rows)} prompts of {corpus}')
  return {f'{split} {name}': interval['mean'] for split, of in scores.items()
          for name, interval in of.items()}


def main():
  """Scores the run in --workdir, while nothing else writes there."""
  cli.compile_cache()
  folder = workdirs.newest_stage(place(flags.FLAGS.workdir))
  with workdirs.alone(folder):
    score_run(folder, ask=flags.FLAGS.clip and os.fspath(place(flags.FLAGS.clip)))


def score_run(folder: pathlib.Path, *, ask: str):
  """Every score there is of the run; `ask` is the folder of a CLIP model, or ''."""
  config, model, params, step = runs.restore(folder, **cli.moved())
  texts = read_prompts(flags.FLAGS.prompts, config.prompt) if ask else []
  if config.corpus.path:
    rich.print(table(score_corpus(folder, config.corpus.path, model, params, step)))
    return
  object, scores = model.object(params, config.prompt), {}
  if not ask or knows(config.prompt):
    scores |= write(folder, config.prompt, step, object, resolution=flags.FLAGS.resolution)
  if ask:
    scores |= score_clip(folder, config.prompt, step, object, model=ask, texts=texts,
                         protocol=flags.FLAGS.protocol)
  rich.print(table(scores))
  if (folder / 'report.json').exists():
    print(report.refresh(folder))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'A finished run.', required=True)
  cli.moved_flags()
  flags.DEFINE_integer('resolution', 96, 'Nodes along a side of the grid for mesh and '
                       'volume.', lower_bound=8, upper_bound=512)
  flags.DEFINE_string('clip', '', 'Folder of a CLIP model to ask too.')
  flags.DEFINE_string('prompts', '', 'File of prompts, one a line, among which CLIP is to find the '
                      'right one.')
  flags.DEFINE_enum('protocol', 'scaledreamer', sorted(clip_score.PROTOCOLS),
                    'Whose views CLIP is shown.')
  cli.run(main)
