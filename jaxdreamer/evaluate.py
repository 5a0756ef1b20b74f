"""python -m jaxdreamer.evaluate --workdir=...: how near a finished run is to what its prompt names.

Where the prompt names a toy of the toybox, the exact shape is known, and the run is held against it
in 32 views that no step was trained on, as a mesh, and as a volume. Writes scores.json (every score
and its meaning), prints a table, renews the report. Functions before the banner are pure; images
are [V, H, W, 3] in [0, 1], masks and opacity [V, H, W].

`--clip=FOLDER` asks a CLIP model as well, for any prompt, and with `--prompts=FILE`, a prompt a
line, which of them it would choose; clip.json names the protocol.
"""
import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import rich
from absl import flags
from jaxtyping import Bool, Float, PyTree
from rich.table import Table
from scipy.spatial import KDTree

from jaxdreamer import (
  cameras,
  checkpoints,
  cli,
  clip_score,
  generator_eval,
  prompts,
  registry,
  runs,
)
from jaxdreamer.objects import Model, Object
from jaxdreamer.options import place
from jaxdreamer.outputs import gallery, report, video
from jaxdreamer.outputs import mesh as meshes
from jaxdreamer.toybox import geometry, truth, world
from jaxdreamer.toybox.truth import over_gray, silhouette_iou
from jaxdreamer.types import Camera

RING, ELEVATIONS = 16, (.15, .6)       # 32 views: azimuths in steps of 22.5 degrees, on two heights
QUARTERS = slice(None, None, RING // 4)                # 8 of the views are enough to tell colors
# colors whose every channel, and the other part of whose patterns, tell those of all others
BASIS = ('black', 'pink', 'white')
SURFACE = 20_000                       # points on each surface for the Chamfer distance
Images = Float[np.ndarray, 'V H W 3']
Masks = Float[np.ndarray, 'V H W']

MEANING = {
  'silhouette_iou': 'overlap of opacity and true mask, mean of 32 unseen views; 1 is perfect',
  'psnr': 'decibels, against the true pictures in the same views',
  'normal_degrees': 'mean angle between the normals of render and truth, where both are opaque',
  'color_error': 'mean absolute difference of color where render and truth are both opaque',
  'color_right': 'the color that explains the object best is the one asked for',
  'color_found': 'that color, of the twelve of the toybox',
  'recall_at_1': 'share of views that a reader finds to fit the prompt better than any prompt with '
  'one other word',
  'chamfer': f'mean distance between the surfaces, both ways; its floor, from {SURFACE} points on '
  'each, is .01',
  'volume_iou': 'overlap of the solids',
  'pose_gap': 'what the silhouettes gain if the object is turned to its best yaw; 0 is a true pose',
  'yaw': 'that best yaw, in degrees',
  'front': 'of [-1, 1]: 1 the front view is the true front, -1 it is the true back',
  'back': 'of [-1, 1]: 1 the back view is the true back, -1 it is the true front (Janus)',
  'one_front': 'both of them are above 0',
  'symmetry': 'of [0, 1]: 0 front and back differ at least as they should, 1 they are the same',
  'mesh_iou': 'silhouettes of the mesh against those of the render; .95 is faithful',
  'watertight': 'the mesh is closed',
  'clip_similarity': "mean cosine of CLIP's view of the pictures and of the prompt",
  'clip_recall_at_1': 'share of views that CLIP finds nearest to the prompt, of all in --prompts',
}


def psnr(x: Images, y: Images) -> float:
  """-10 log10 of the mean squared difference."""
  return float(-10. * np.log10(max(np.mean((x - y) ** 2), 1e-12)))


def normal_degrees(a: Images, b: Images, opaque: Bool[np.ndarray, 'V H W']) -> float | None:
  """Mean angle in degrees between normals of any length, where `opaque`; None where nothing is."""
  unit = lambda n: n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-9)
  cosine = np.sum(unit(np.asarray(a, float)) * unit(np.asarray(b, float)), -1)[opaque]
  return float(np.degrees(np.arccos(np.clip(cosine, -1., 1.)).mean())) if len(cosine) else None


def chamfer(a: Float[np.ndarray, 'N 3'], b: Float[np.ndarray, 'M 3']) -> float:
  """(mean_a min_b |a - b| + mean_b min_a |a - b|) / 2."""
  return float(.5 * (np.mean(KDTree(b).query(a)[0]) + np.mean(KDTree(a).query(b)[0])))


def pose_gap(opacity: Masks, mask: Masks, *, ring: int) -> tuple[float, float]:
  """Best-yaw IoU minus true-pose IoU, and that yaw in radians, from views in rings of `ring` equal
  steps of azimuth.

  Turning the object by k steps moves each view k places along its ring, so no view is rendered
  twice.
  """
  turned = opacity.reshape(-1, ring, *opacity.shape[1:])
  scores = [silhouette_iou(np.roll(turned, -k, axis=1).reshape(opacity.shape), mask)
            for k in range(ring)]
  best = int(np.argmax(scores))
  return scores[best] - scores[0], math.remainder(2. * math.pi * best / ring, 2. * math.pi)


def unlikeness(a: Images, b: Images) -> float:
  """d(a, b) = min over b and b mirrored left to right of mean |a - b|: a distance, since mirroring
  keeps lengths.

  Front and back silhouettes mirror each other, so without the mirror any lopsided object would seem
  to have two faces.
  """
  return float(min(np.mean(np.abs(a - b)), np.mean(np.abs(a - b[:, :, ::-1]))))


def janus(front: Images, back: Images, true_front: Images, true_back: Images) -> dict:
  """Does the back look like the front where it must not? Renders and truths from azimuths 0 and pi,
  same backgrounds.

    front = (d(front, true_back) - d(front, true_front)) / d(true_front, true_back)
    back = (d(back, true_front) - d(back, true_back)) / d(true_front, true_back)
    one_front = front > 0 and back > 0
    symmetry = max(0, 1 - d(front, back) / d(true_front, true_back))

  d is `unlikeness`. By the triangle inequality front and back are in [-1, 1]; symmetry is blind to
  the pose.
  """
  apart = unlikeness(true_front, true_back)
  if apart < 1e-6:
    raise ValueError('the true front and back are the same picture: this object cannot be a Janus')
  ahead = (unlikeness(front, true_back) - unlikeness(front, true_front)) / apart
  behind = (unlikeness(back, true_front) - unlikeness(back, true_back)) / apart
  return {'front': ahead, 'back': behind, 'one_front': ahead > 0. and behind > 0.,
          'symmetry': max(0., 1. - unlikeness(front, back) / apart)}


def nearest_color(x: Images, opacity: Masks,
                  candidates: Float[np.ndarray, 'K V H W 3']) -> int | None:
  """Which of K recolorings of the truth explains x best (least squares), over solid pixels where
  they differ."""
  where = (np.ptp(candidates, axis=0).max(-1) > .1) & (opacity >= .5)
  errors = np.mean((candidates[:, where] - x[where]) ** 2, (1, 2)) if where.any() else []
  return int(np.argmin(errors)) if len(errors) else None


def recall_at_1(scores: Float[np.ndarray, 'V K'], target: int) -> float:
  """R@1: the share of views that text number `target`, of K, fits best (CLIP R-precision, Park et
  al. 2021)."""
  return float(np.mean(scores.argmax(1) == target))


def occupied(grid: meshes.Grid, threshold: float) -> Bool[np.ndarray, 'R R R']:
  """The solid of a log-density grid, closed cavities filled."""
  level = np.log(threshold)
  return meshes.fill_cavities(grid, level) >= level


# --------------------------------------------------------------------------------------------------
# against the toybox


def true_pictures(prompt: str, camera: Camera, *, size: int) -> tuple[Images, Masks]:
  """What the prompt means, over the background, and where it is."""
  view = jax.device_get(truth.views(prompt, camera, size=size))
  return over_gray(view.rgb, view.mask), view.mask


def in_each_color(item: world.Item, which: int, camera: Camera, *,
                  size: int) -> Float[np.ndarray, 'K V H W 3']:
  """The truth in each of the world's colors of object `which`, over the background.

  A pixel's color is linear in the object's own and in that of the other part of its pattern, so
  that three tracings tell all."""
  known = [list(world.COLORS).index(name) for name in BASIS]
  traced = [jax.device_get(truth.views(
      world.caption(item._replace(color=item.color.at[which].set(k))), camera, size=size))
            for k in known]
  own = np.array(list(world.COLORS.values()))
  parts = np.stack([own, np.broadcast_to(np.array(world.PARTNERS)[:, None], own.shape),
                    np.ones_like(own)], -1).swapaxes(0, 1)
  shares = parts @ np.linalg.inv(parts[:, known])  # [channel, K, tracing], of [channel, K, part]
  rgb = np.einsum('ckm,mvhwc->kvhwc', shares, np.stack([view.rgb for view in traced]))
  return over_gray(rgb, traced[0].mask)


def colors_of(prompt: str, x: Images, opacity: Masks, camera: Camera, *, size: int) -> dict:
  """color_right and color_found: the truth in each color there is, for each object of the
  prompt."""
  item = world.parse(prompt)
  names, found = list(world.COLORS), []
  for which in range(1 if item.relation == world.ALONE else 2):
    found.append(nearest_color(x, opacity, in_each_color(item, which, camera, size=size)))
  wanted = [int(k) for k in item.color[:len(found)]]
  return {'color_right': found == wanted, 'color_found': ', '.join('none' if k is None else names[k]
                                                                   for k in found)}


def rivals(prompt: str) -> world.Item:
  """The item [K] of the prompt, first, and all that differ from it in one color or one kind."""
  target, found = world.parse(prompt), []
  lone = int(target.relation) == world.ALONE
  for which in range(1 if lone else 2):
    colors = [target._replace(color=target.color.at[which].set(k))
              for k in range(len(world.COLORS))]
    kinds = [target._replace(kind=target.kind.at[which].set(k))
             for k in range(len(world.KINDS if lone else world.SOLIDS))]
    found += [item for item in colors + kinds if world.caption(item) != world.caption(target)]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), target, *found)


def read_back(prompt: str, x: Images) -> float | None:
  """R@1 of the toybox's scorer, which was trained on renders alone, over the prompt and its rivals;
  None without its file."""
  if not geometry.SHIPPED.exists():
    return None
  x = jax.image.resize(jnp.asarray(x, jnp.float32), (len(x), geometry.SIZE, geometry.SIZE, 3),
                       'linear')
  return recall_at_1(np.asarray(jax.jit(geometry.caption_scores)(geometry.shipped(), x,
                                                                 rivals(prompt))), 0)


def score_views(prompt: str, object: Object) -> dict:
  """The scores that compare pictures."""
  camera, size = cameras.orbit(*((RING, elevation) for elevation in ELEVATIONS)), object.size
  views = video.render_views(object.over(0.), camera)  # over black: its rgb is premultiplied
  true = jax.device_get(truth.views(prompt, camera, size=size))
  x, true_x = over_gray(views.rgb, views.opacity), over_gray(true.rgb, true.mask)
  gap, yaw = pose_gap(views.opacity, true.mask, ring=RING)
  scores = {'silhouette_iou': silhouette_iou(views.opacity, true.mask), 'psnr': psnr(x, true_x),
            'normal_degrees': normal_degrees(views.normal, true.normal,
                                             (views.opacity > .9) & (true.mask > .9)),
            'color_error': float(truth.color_error(jnp.asarray(views.rgb),
                                                   jnp.asarray(views.opacity), true)),
            **colors_of(prompt, x[QUARTERS], views.opacity[QUARTERS],
                        jax.tree.map(lambda v: v[QUARTERS], camera), size=size),
            'recall_at_1': read_back(prompt, x),
            'pose_gap': gap, 'yaw': math.degrees(yaw)}
  if truth.shape(prompt).has_front:
    return scores | janus(x[::RING], x[RING // 2::RING], true_x[::RING], true_x[RING // 2::RING])
  return scores | dict.fromkeys(('front', 'back', 'one_front', 'symmetry'))


def extract(object: Object, *, resolution: int) -> tuple[meshes.Mesh, dict] | None:
  """meshes.extract, or None where there is no surface."""
  camera = meshes.lookouts(radius=object.radius)
  opacity = video.render_views(object.over(0.), camera).opacity
  try:
    return meshes.extract(object.density, object.color, camera, opacity, radius=object.radius,
                          resolution=resolution)
  except meshes.Empty as error:
    print(error)


def score_shape(prompt: str, object: Object,
                extracted: tuple[meshes.Mesh, dict] | None) -> dict:
  """The scores that compare solids; None for each where there is no surface."""
  if extracted is None:
    return dict.fromkeys(('chamfer', 'volume_iou', 'mesh_iou', 'watertight'))
  mesh, facts = extracted
  exact = np.asarray(truth.surface_points(jax.random.key(0), prompt, SURFACE), float)
  xyz = meshes.nodes(object.radius, facts['resolution'])
  inside = meshes.evaluate(truth.shape(prompt).distance,
                           xyz.reshape(-1, 3)).reshape(xyz.shape[:3]) < 0.
  solid = occupied(meshes.log_density(object.density, radius=object.radius,
                                      resolution=facts['resolution']), facts['threshold'])
  return {'chamfer': chamfer(meshes.sample_points(mesh, SURFACE)[0], exact),
          'volume_iou': meshes.iou(solid, inside),
          'mesh_iou': facts['silhouette_iou'], 'watertight': facts['watertight']}


def table(scores: dict) -> Table:
  """{score: value} for a terminal, with meanings."""
  out = Table('score', 'value', 'meaning', title_justify='left')
  for name, value in scores.items():
    out.add_row(name, report.number(value), MEANING.get(name, ''))
  return out


def write(folder: pathlib.Path, prompt: str, step: int, object: Object, *, resolution: int = 96,
          extracted: tuple[meshes.Mesh, dict] | None = None) -> dict:
  """Scores the object against what its prompt names; writes scores.json and returns the scores.
  ValueError: no toy's prompt.

  `extracted` is its mesh (meshes.extract), for a caller that has it already."""
  world.parse(prompt)
  extracted = extracted or extract(object, resolution=resolution)
  scores = score_views(prompt, object) | score_shape(prompt, object, extracted)
  (folder / 'scores.json').write_text(json.dumps(
    {'prompt': prompt, 'step': step, 'scores': scores,
     'meaning': {name: MEANING[name] for name in scores}}, indent=2) + '\n')
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
  """The command."""
  cli.compile_cache()
  folder = place(flags.FLAGS.workdir)
  with checkpoints.alone(folder):
    score_run(folder, ask=flags.FLAGS.clip and os.fspath(place(flags.FLAGS.clip)))


def score_run(folder: pathlib.Path, *, ask: str):
  """Every score there is of the run; `ask` is the folder of a CLIP model, or ''."""
  config, model, params, step = runs.restore(folder, **cli.moved())
  texts = read_prompts(flags.FLAGS.prompts, config.prompt) if ask else []
  if config.corpus.path:
    rich.print(table(score_corpus(folder, config.corpus.path, model, params, step)))
    return
  object, scores = model.object(params, config.prompt), {}
  if not ask or world.names_a_toy(config.prompt):
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
