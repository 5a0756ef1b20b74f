"""The pictures that a run leaves on its way, and what it leaves at its end: film, mesh, scores, and
the page about it all. A generator of many prompts leaves a gallery in place of the first three.

    workdir/previews/         four views each `preview_every` steps
"""
import math
import pathlib
import traceback
from typing import Callable

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxdreamer import cameras, files, metrics, workdirs
from jaxdreamer.objects import Model, Object

IN_PREVIEW, IN_GALLERY = 4, 48         # prompts of a corpus
PREVIEW = (4, math.radians(15.))       # front, left, back and right, a little from above
OUTPUTS = ('gallery.html', 'turntable.*', 'panorama*', 'mesh.*', 'scores.json', 'report.*',
           'failed.txt')


def spread(prompts: tuple[str, ...], most: int) -> tuple[str, ...]:
  """At most so many of the prompts, evenly apart: neighbors in a corpus are alike."""
  return prompts[::-(-len(prompts) // most)]


def drop_previews(workdir: pathlib.Path, step: int):
  """Removes the pictures of steps that are to be made again."""
  for path in (workdir / 'previews').glob('step_*.png'):
    if int(path.stem.removeprefix('step_')) > step:
      path.unlink()


def preview(model: Model, params: PyTree, workdir: pathlib.Path, *, step: int):
  """Objects of some prompts from four sides, side by side on white; or the model's own sheet. One
  that lies there stays."""
  from jaxdreamer.outputs import video
  path = workdir / 'previews' / f'step_{step:06}.png'
  if path.exists():
    return
  path.parent.mkdir(exist_ok=True)
  with files.whole(path) as draft:
    draft.write_bytes(video.png(model.sheet(params) if model.sheet else views(model, params)))


def views(model: Model, params: PyTree) -> np.ndarray:
  """Objects of some prompts [H, W, 3], each from four sides."""
  from jaxdreamer.outputs import video
  objects = [model.object(params, prompt) for prompt in spread(model.prompts, IN_PREVIEW)]
  camera = cameras.orbit(PREVIEW, distance=objects[0].away, fov=objects[0].fov)
  return np.concatenate([np.concatenate(video.render_views(object.over(1.), camera).rgb, axis=1)
                         for object in objects])


def finish(config: ConfigDict, model: Model, params: PyTree, workdir: pathlib.Path, *, step: int,
           clock: metrics.Clock, say: Callable, command: str, devices: int) -> dict[str, str]:
  """Writes all outputs. What fails is returned, by name, and takes nothing else along."""
  with clock('imports'):
    from jaxdreamer.outputs import report
  for pattern in OUTPUTS:
    for path in workdir.glob(pattern):
      path.unlink()                              # of an earlier step

  def write_report():
    report.write(workdir, prompt=config.corpus.path or config.prompt, settings=config.to_dict(),
                 command=command, about={
      'step': f'{step} of {config.steps}',
      'devices': f'{devices} x {jax.devices()[0].device_kind}', 'jax': jax.__version__,
      'seconds': {use: round(seconds, 2) for use, seconds in clock.seconds.items()}})
  if config.corpus.path:
    outputs = {'gallery': lambda: write_gallery(model, params, workdir)}
  elif model.sheet:
    outputs = {'preview': lambda: preview(model, params, workdir, step=step)}
  else:
    object = model.object(params, config.prompt)
    with clock('imports'):
      outputs = of_object(object, config.prompt, workdir, step=step,
                          resolution=config.eval.mesh_resolution, faces=config.eval.faces,
                          texture=config.eval.texture)
  failed = {}
  for name, write in (outputs | {'report': write_report}).items():
    try:
      with clock(name):
        write()
    except Exception as error:
      if workdirs.is_full(error):
        raise
      failed[name] = ' '.join(str(error).split())[:300] or type(error).__name__
      with (workdir / 'failed.txt').open('a') as file:
        file.write(f'{name} of step {step}\n{traceback.format_exc()}\n')
      say(f'{name} failed: {failed[name]}; the rest goes on, details in {workdir / "failed.txt"}')
  return failed


def of_object(object: Object, prompt: str, workdir: pathlib.Path, *, step: int,
              resolution: int, faces: int, texture: int) -> dict[str, Callable]:
  """{name: what writes that output} of one object, in their order; a panorama of a scene one stands
  in; scores where the prompt names a toy or a room, of the mesh that was made."""
  from jaxdreamer import evaluate
  from jaxdreamer.outputs import inside, mesh, video
  made = []
  outputs = {
    'film': lambda: video.turntable(object.over(1.), workdir, distance=object.away,
                                    fov=object.fov),
    **({'panorama': lambda: inside.write_panorama(object, workdir)} if object.inside else {}),
    'mesh': lambda: made.append(mesh.write(object, workdir, resolution=resolution, faces=faces,
                                           texture=texture))}
  if evaluate.knows(prompt):
    outputs['scores'] = lambda: evaluate.write(workdir, prompt, step, object, resolution=resolution,
                                               extracted=made[0] if made else None)
  return outputs


def write_gallery(model: Model, params: PyTree, workdir: pathlib.Path):
  """gallery.html: objects of some of the prompts; evaluate makes and scores all of them."""
  from jaxdreamer import generator_eval
  from jaxdreamer.outputs import gallery
  some = spread(model.prompts, IN_GALLERY)
  gallery.write(workdir / 'gallery.html',
                list(generator_eval.make_rows(model, params, {'trained': some})),
                title=f'{len(some)} of {len(model.prompts)} prompts')
