"""python -m jaxdreamer.restore --workdir=RUN --image=FILE [--scale=4] [--out=FILE.png]

A run of configs/toybox_restore.py or configs/osediff_sd.py makes a good picture of a poor one, in
one step of its prior, and writes it as a PNG file of as many pixels. The prior sees squares of its
own size (64 pixels, or 512): a larger picture is restored in such tiles, each of which knows
nothing of the others, that overlap and are blended; a smaller one is enlarged for it. --scale
enlarges the picture first, by cubic interpolation, and the restored one is so much larger.
"""
import pathlib
import time
from typing import Callable

import numpy as np
from absl import flags
from jaxtyping import Float

from jaxdreamer import cli, files, pictures, runs, workdirs
from jaxdreamer.options import place
from jaxdreamer.outputs import video

TOGETHER = 4                                     # tiles restored at once


def starts(n: int, side: int) -> list[int]:
  """Where tiles of `side` begin in `n` pixels: evenly, each over a quarter of the next or more."""
  count = 1 + -(-4 * (n - side) // (3 * side))
  return np.linspace(0, n - side, count).round().astype(int).tolist()


def tiled(restore: Callable[[np.ndarray], np.ndarray], image: Float[np.ndarray, 'H W 3'],
          side: int) -> Float[np.ndarray, 'H W 3']:
  """The picture, none of whose sides is below `side`, restored in tiles [n, side, side, 3], which
  count for less towards their edges where they overlap."""
  h, w, _ = image.shape
  places = [(i, j) for i in starts(h, side) for j in starts(w, side)]
  tent = np.minimum(np.arange(side) + 1., side - np.arange(side))
  window = np.outer(tent, tent)[..., None].astype(np.float32)
  total, weight = np.zeros_like(image), np.zeros((h, w, 1), np.float32)
  for first in range(0, len(places), TOGETHER):
    some = places[first:first + TOGETHER]
    padded = some + some[-1:] * (min(TOGETHER, len(places)) - len(some))   # one program for all
    made = np.asarray(restore(np.stack([image[i:i + side, j:j + side] for i, j in padded])))
    for (i, j), tile in zip(some, made):
      total[i:i + side, j:j + side] += window * tile
      weight[i:i + side, j:j + side] += window
  return total / weight


def restored(restorer: runs.Restorer, image: Float[np.ndarray, 'H W 3'], *,
             scale: int = 1) -> Float[np.ndarray, 'h w 3']:
  """The picture, `scale` times as high and wide, restored."""
  height, width = (scale * n for n in image.shape[:2])
  if scale > 1:
    image = pictures.resized(image, (height, width))
  made = tiled(restorer.restore, pictures.at_least(image, restorer.side), restorer.side)
  return made if made.shape[:2] == (height, width) else pictures.resized(made, (height, width))


def main() -> int:
  """Writes the picture of --image, restored."""
  options = flags.FLAGS
  if not (options.workdir and options.image):
    cli.die('give --workdir=RUN and --image=FILE', status=cli.MISUSED)
  source = place(options.image)
  out = place(options.out) if options.out else source.with_name(f'{source.stem}_restored.png')
  if out.suffix.lower() != '.png':
    cli.die(f'--out={options.out}: takes a .png file', status=cli.MISUSED)
  image = pictures.read(source, option='--image')
  if image.size // 3 * options.scale ** 2 > pictures.MOST:
    cli.die(f'--scale={options.scale}: makes more than {pictures.MOST} pixels of {source}')
  cli.compile_cache()
  workdir = workdirs.newest_stage(place(options.workdir))
  restorer = runs.restorer(workdir, **cli.moved())
  start = time.monotonic()
  made = restored(restorer, image, scale=options.scale)
  with workdirs.writing(out.parent, workdir):
    write(out, made)
  print(f'{out}  {made.shape[1]} x {made.shape[0]} pixels, step {restorer.step}, '
        f'{time.monotonic() - start:.1f} s')
  return 0


def write(path: pathlib.Path, image: Float[np.ndarray, 'H W 3']) -> None:
  """The picture as a PNG file, whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.whole(path) as draft:
    draft.write_bytes(video.png(image))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', '', 'A run that restores pictures.')
  flags.DEFINE_string('image', '', 'The picture: PNG, JPEG or what else Pillow reads.')
  flags.DEFINE_integer('scale', 1, 'How many times higher and wider it is to be.', lower_bound=1,
                       upper_bound=8)
  flags.DEFINE_string('out', '', 'The .png file to write; IMAGE_restored.png if not given.')
  cli.moved_flags()
  cli.run(main)
