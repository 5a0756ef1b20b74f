"""python -m jaxdreamer.generate --workdir=... --prompt="a red cube" [--prompts=FILE --out=...]

A trained generator: text -> turntable.mp4, its strip, and mesh.glb, .obj and .ply in seconds, in a
folder a prompt; and for more than one prompt gallery.html over all of them. Prompts need not be
among those it was trained on.
"""
import pathlib
import re
import time

import numpy as np
from absl import flags

from jaxdreamer import cameras, cli, prompts, runs, workdirs
from jaxdreamer.options import place
from jaxdreamer.outputs import gallery, mesh, video

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
  """Checks the options and writes the meshes of the prompts; the exit status."""
  cli.compile_cache()
  options = flags.FLAGS
  if bool(options.prompt) == bool(options.prompts):
    cli.die('give --prompt="a red cube" or --prompts=FILE, one of the two', status=cli.MISUSED)
  phrases = prompts.read_file(place(options.prompts), option='--prompts') if options.prompts else (
      options.prompt,)
  workdir = place(options.workdir)
  out = (place(options.out) if options.out else workdir) / 'generated'
  with workdirs.writing(out, workdir):
    return write(workdir, out, phrases)


def write(workdir: pathlib.Path, out: pathlib.Path, phrases: tuple[str, ...]) -> int:
  """Writes the outputs of each phrase into its folder. Returns the exit status."""
  options = flags.FLAGS
  _, model, params, _ = runs.restore(workdir, **cli.moved())
  if len(model.prompts) == 1:
    cli.die(f'--workdir={options.workdir} holds one object, of {model.prompts[0]!r}, and no '
            'generator: python -m jaxdreamer.export writes its mesh', status=cli.MISUSED)
  for phrase in phrases:
    model.embed(phrase)                # a phrase that is refused is so before any is made
  rows, status = [], 0
  for phrase, folder in zip(phrases, folders_of(out, phrases)):
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    object = model.object(params, phrase)
    camera = cameras.orbit((options.frames, .26), distance=3. * object.radius)
    views = video.render_views(object.over(1.), camera)
    frames_s = time.monotonic() - start
    video.film_of(views, camera, folder, height=options.height)
    rows.append(gallery.Row(phrase, 'generated',
                            views.rgb[np.arange(STRIP) * options.frames // STRIP], {}))
    if options.mesh:
      try:
        mesh.write(object, folder, resolution=options.resolution)
      except mesh.Empty as error:
        print(f'{phrase}: {error}')
        status = cli.FAILED
    print(f'{folder}  frames {frames_s:.1f} s, all {time.monotonic() - start:.1f} s', flush=True)
  if len(rows) > 1:
    print(gallery.write(out / 'gallery.html', rows, title=f'{len(rows)} prompts'))
  return status


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'A finished run of a generator.', required=True)
  cli.moved_flags()
  flags.DEFINE_string('prompt', '', 'One prompt.')
  flags.DEFINE_string('prompts', '', 'A file of prompts: text, one a line, or a JSON list.')
  flags.DEFINE_string('out', '', 'Where to write; the run itself if not given.')
  flags.DEFINE_integer('frames', 24, 'Frames of one turn.', lower_bound=STRIP)
  flags.DEFINE_integer('height', 256, 'Height of the film in pixels; smaller renders are enlarged.',
                       lower_bound=16)
  flags.DEFINE_bool('mesh', True, 'Also the mesh.')
  flags.DEFINE_integer('resolution', 96, 'Nodes along a side of the density grid.', lower_bound=8,
                       upper_bound=512)
  cli.run(main)
