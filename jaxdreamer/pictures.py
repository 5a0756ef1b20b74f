"""Pictures that a user gives: RGB in [0, 1], as it is seen, whatever the file holds."""
import os
import pathlib
import warnings

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

KINDS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
MOST = 2 ** 24                                   # pixels


def read(path: str | os.PathLike, *, option: str) -> Float[np.ndarray, 'H W 3']:
  """The picture at `path`, upright, over white where it is transparent, the first of several.
  ValueError, one line with the `option`, for what is none, broken or too large."""
  shown = f'{option}={os.fspath(path)!r}'
  if not os.path.exists(path):
    raise FileNotFoundError(f'{shown}: no such file')
  if not os.path.isfile(path):
    raise ValueError(f'{shown}: takes a file')
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')            # of odd tags, and of sizes that are checked here
      with Image.open(path) as image:
        width, height = image.size
        if width * height > MOST:
          raise ValueError(f'{width} x {height} pixels; takes up to {MOST}')
        image = of_bytes(ImageOps.exif_transpose(image)).convert('RGBA')
        behind = Image.new('RGBA', image.size, 'white')
        seen = np.asarray(Image.alpha_composite(behind, image).convert('RGB'), np.float32) / 255.
  except Exception as error:                     # decoders raise all there is
    said = ' '.join(str(error).split())[:200] or type(error).__name__
    raise ValueError(f'{shown} cannot be read as a picture: {said}') from None
  return seen


def of_bytes(image: Image.Image) -> Image.Image:
  """The same with 8 bits a value, where it has 16. ValueError for other numbers."""
  if image.mode == 'F':
    raise ValueError('holds numbers of 32 bits; takes 8 or 16')
  if not image.mode.startswith('I'):
    return image
  return Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))


def files_in(folder: str | os.PathLike, *, option: str) -> list[pathlib.Path]:
  """The pictures in a folder and those below it, in order. ValueError where there are none."""
  found = sorted(path for path in pathlib.Path(folder).rglob('*')
                 if path.suffix.lower() in KINDS and path.is_file())
  if not found:
    raise ValueError(f'{option}={os.fspath(folder)!r} holds no pictures: takes a folder of '
                     f'{", ".join(kind[1:] for kind in KINDS)} files')
  return found


def crop(image: Float[np.ndarray, 'H W 3'], side: int, *,
         at: tuple[float, float]) -> Float[np.ndarray, 'side side 3']:
  """A square of a picture, which is enlarged where it is smaller: how far down and to the right it
  lies, each from 0 to 1, which it leaves out."""
  image = at_least(image, side)
  top, left = (int(share * (n - side + 1)) for share, n in zip(at, image.shape[:2]))
  return image[top:top + side, left:left + side]


def at_least(image: Float[np.ndarray, 'H W 3'], side: int) -> Float[np.ndarray, 'h w 3']:
  """The picture, enlarged until its shorter side has so many pixels."""
  short = min(image.shape[:2])
  if short >= side:
    return image
  return resized(image, tuple(max(side, round(n * side / short)) for n in image.shape[:2]))


def resized(image: Float[np.ndarray, 'H W 3'],
            shape: tuple[int, ...]) -> Float[np.ndarray, 'h w 3']:
  """The picture at another height and width, by cubic interpolation."""
  planes = [Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)) for c in range(3)]
  bands = [plane.resize(shape[::-1], Image.Resampling.BICUBIC) for plane in planes]
  return np.clip(np.stack([np.asarray(band, np.float32) for band in bands], -1), 0., 1.)
