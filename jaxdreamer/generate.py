"""python -m jaxdreamer.generate --prompt="a pink teapot" [--prompts=FILE --out=generated]

A trained generator: text -> turntable.mp4, its strip, mesh.glb, .obj and .ply, and report.html over
them, in seconds, in a folder a prompt; and for more than one prompt gallery.html over all of them.
Prompts need not be among those it was trained on. The generator is the shipped one, which knows the
toybox; or that of --generator=FILE or --workdir=RUN.
"""
import pathlib
import re
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from absl import flags

from jaxdreamer import cameras, cli, prompts, runs, workdirs
from jaxdreamer.objects import Object
from jaxdreamer.options import place
from jaxdreamer.outputs import gallery, mesh, report, video
from jaxdreamer.types import Camera, Rendering

STRIP = 8                              # frames of a gallery's picture


def folders_of(out: pathlib.Path, phrases: tuple[str, ...]) -> list[pathlib.Path]:
  """out/a-red-cube and so on; where two prompts would share a name, the later one ends in its
  number."""
  found = []
  for number, phrase in enumerate(phrases, 1):
    slug = re.sub(r'[^a-z0-9]+', '-', phrase.lower()).strip('-')[:80] or 'prompt'
    found.append(out / slug if out / slug not in found else out / f'{slug}-{number}')
  return found


def main() -> int:
  """Checks the options and writes the objects of the prompts; the exit status."""
  cli.compile_cache()
  options = flags.FLAGS
  if bool(options.prompt) == bool(options.prompts):
    cli.die('give --prompt="a red cube" or --prompts=FILE, one of the two', status=cli.MISUSED)
  if options.workdir and options.generator:
    cli.die('give --workdir=RUN or --generator=FILE, one of the two', status=cli.MISUSED)
  cli.asset()
  phrases = prompts.read_file(place(options.prompts), option='--prompts') if options.prompts else (
      options.prompt,)
  if not options.workdir:
    return write(of_file(), place(options.out or 'generated'), phrases)
  workdir = workdirs.newest_stage(place(options.workdir))
  out = place(options.out) if options.out else workdir / 'generated'
  with workdirs.writing(out, workdir):
    return write(of_run(workdir), out, phrases)


def of_file() -> runs.Restored:
  """The generator of --generator, else the shipped one."""
  given = flags.FLAGS.generator
  if not given and not runs.SHIPPED.exists():
    cli.die(f'{runs.SHIPPED}, the shipped generator, is not here: give --generator=FILE or '
            '--workdir=RUN')
  return runs.restore_generator(place(given) if given else runs.SHIPPED, **cli.moved())


def of_run(workdir: pathlib.Path) -> runs.Restored:
  """The generator of --workdir."""
  restored = runs.restore(workdir, **cli.moved())
  if len(restored.model.prompts) == 1:
    cli.die(f'--workdir={workdir} holds one object, of {restored.model.prompts[0]!r}, and no '
            'generator: python -m jaxdreamer.export writes its mesh', status=cli.MISUSED)
  return restored


def write(restored: runs.Restored, out: pathlib.Path, phrases: tuple[str, ...]) -> int:
  """Writes the outputs of each phrase into its folder. Returns the exit status."""
  options, model = flags.FLAGS, restored.model
  for phrase in phrases:
    model.embed(phrase)                # a phrase that is refused is so before any is made
  rows, status = [], 0
  for phrase, folder in zip(phrases, folders_of(out, phrases)):
    start = time.monotonic()
    object = model.object(restored.params, phrase)
    camera = cameras.orbit((options.frames, .26), distance=3. * object.radius)
    views, frames_s, why = write_files(object, camera, folder)
    if why:
      print(f'{phrase}: {why}')
      status = cli.FAILED
    report.write(folder, prompt=phrase, command=shlex.join(
      ['python', '-m', 'jaxdreamer.generate', *sys.argv[1:]]),
      settings={name: options[name].value for name in ('frames', 'height', 'resolution', 'faces',
                                                       'texture')},
      about={'generator': options.workdir or options.generator or 'the shipped one',
             'step': restored.step, 'jax': jax.__version__})
    rows.append(gallery.Row(phrase, 'generated',
                            views.rgb[np.arange(STRIP) * options.frames // STRIP], {}))
    print(f'{folder}  frames {frames_s:.1f} s, all {time.monotonic() - start:.1f} s', flush=True)
  if len(rows) > 1:
    print(gallery.write(out / 'gallery.html', rows, title=f'{len(rows)} prompts'))
  return status


def film(object: Object, camera: Camera, folder: pathlib.Path) -> tuple[Rendering, float]:
  """Writes the turntable of the [V] cameras; what they see, and the seconds until they saw it."""
  start = time.monotonic()
  views = video.render_views(object.over(1.), camera)
  seconds = time.monotonic() - start
  video.film_of(views, camera, folder, height=flags.FLAGS.height)
  return views, seconds


def write_files(object: Object, camera: Camera, folder: pathlib.Path
                ) -> tuple[Rendering, float, str]:
  """Film and, if asked for, mesh of one object in `folder`, side by side: much of either keeps one
  core busy. Returns what `film` does and why there is no mesh, '' if all is well."""
  folder.mkdir(parents=True, exist_ok=True)
  for path in folder.glob('mesh.*'):
    path.unlink()                                # of another object, and it may not come again
  with ThreadPoolExecutor(1) as beside:
    filmed, why = beside.submit(film, object, camera, folder), ''
    try:
      if flags.FLAGS.mesh:
        mesh.write(object, folder, resolution=flags.FLAGS.resolution, **cli.asset())
    except mesh.Empty as error:
      why = str(error)
    return *filmed.result(), why


if __name__ == '__main__':
  flags.DEFINE_string('workdir', '', 'A finished run of a generator, in place of the shipped one.')
  flags.DEFINE_string('generator', '', 'A file of python -m jaxdreamer.export --generator, '
                      'likewise.')
  cli.moved_flags()
  flags.DEFINE_string('prompt', '', 'One prompt.')
  flags.DEFINE_string('prompts', '', 'A file of prompts: text, one a line, or a JSON list.')
  flags.DEFINE_string('out', '', 'Where to write; generated/ here, or in --workdir, if not given.')
  flags.DEFINE_integer('frames', 24, 'Frames of one turn.', lower_bound=STRIP)
  flags.DEFINE_integer('height', 256, 'Height of the film in pixels; smaller renders are enlarged.',
                       lower_bound=16)
  flags.DEFINE_bool('mesh', True, 'Also the mesh.')
  flags.DEFINE_integer('resolution', 96, 'Nodes along a side of the density grid.', lower_bound=8,
                       upper_bound=512)
  cli.asset_flags(faces=8000, texture=512)
  cli.run(main)
