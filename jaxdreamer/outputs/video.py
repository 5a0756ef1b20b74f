"""Pictures and films of a scene: renders in panels, turntables, strips, contact sheets.

Images are [H, W, 3] floats in [0, 1] until they are written. `render` maps one camera to a
Rendering, weights and background bound. Panels show color, depth (near is bright) and normals (in
the camera's frame: right is red, up is green, towards the camera is blue). Films are H.264 in
yuv420p with even sides, which every browser plays.
"""
import io
import math
import pathlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import imageio_ffmpeg
import jax
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxdreamer import cameras
from jaxdreamer.types import Camera, Rendering

FPS = 30
ABREAST = 2                      # views that are rendered together
STRIP = 384                      # pixels of height that turntable.png has at least
FILTERS = {'nearest': Image.Resampling.NEAREST, 'lanczos': Image.Resampling.LANCZOS}
Images = Float[np.ndarray, 'V H W 3']


def unbatch(camera: Camera) -> list[Camera]:
  """The cameras of a batch, one by one."""
  return [jax.tree.map(lambda a, i=i: a[i], camera) for i in range(len(camera.fov))]


def render_views(render: Callable, camera: Camera) -> Rendering:
  """The [V, H, W] Rendering, in NumPy, of [V] cameras: the first, which compiles, then ABREAST at a
  time, as one keeps no more than one core busy."""
  get = lambda one: jax.device_get(render(one))
  first, *rest = unbatch(camera)
  with ThreadPoolExecutor(ABREAST) as threads:
    renderings = [get(first), *threads.map(get, rest)]
  return jax.tree.map(lambda *a: np.stack(a), *renderings)


def show_depth(rendering: Rendering, *, background: float = 1.) -> Images:
  """Depth through the magma map, near bright, scaled to what the solid parts of all views span."""
  solid = rendering.opacity >= .5
  near, far = (rendering.depth[solid].min(), rendering.depth[solid].max()) if solid.any() else (
      0., 1.)
  value = np.clip((far - rendering.depth) / max(far - near, 1e-6), 0., 1.)
  opacity = rendering.opacity[..., None]
  return opacity * matplotlib.colormaps['magma'](.1 + .85 * value)[...,
                                                                   :3] + (1. - opacity) * background


def show_normals(rendering: Rendering, camera: Camera, *, background: float = 1.) -> Images:
  """(n + 1) / 2 of the normals n in each camera's frame."""
  rotation = np.asarray(camera.world_from_camera)[:, :3, :3]
  in_camera = np.einsum('vhwi,vij->vhwj', rendering.normal, rotation)
  opacity = rendering.opacity[..., None]
  return np.clip(.5 * in_camera + .5 * opacity + (1. - opacity) * background, 0., 1.)


def panels(rendering: Rendering, camera: Camera, *, background: float = 1.) -> list[Images]:
  """Color, depth and normals of [V] views."""
  return [np.clip(rendering.rgb, 0., 1.), show_depth(rendering, background=background),
          show_normals(rendering, camera, background=background)]


def to_bytes(image: Float[np.ndarray, '*b H W 3']) -> UInt8[np.ndarray, '*b H W 3']:
  """Images in [0, 1], clipped, as 0 to 255."""
  return np.round(np.clip(image, 0., 1.) * 255.).astype(np.uint8)


def enlarge(image: Float[np.ndarray, 'H W 3'], height: int, *,
            how: str = 'lanczos') -> Float[np.ndarray, 'h w 3']:
  """At least `height` pixels high; a larger image stays as it is. 'nearest' shows the pixels,
  'lanczos' the picture."""
  h, w = image.shape[:2]
  if h >= height:
    return image
  big = Image.fromarray(to_bytes(image)).resize((round(w * height / h), height), FILTERS[how])
  return np.asarray(big) / 255.


def sheet(images: list[Float[np.ndarray, 'H W 3']], *, columns: int, gap: int = 2,
          background: float = 1.
          ) -> Float[np.ndarray, 'h w 3']:
  """Images of one size in rows of `columns`, `gap` pixels apart."""
  h, w = images[0].shape[:2]
  rows = -(-len(images) // columns)
  out = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), background)
  for k, image in enumerate(images):
    i, j = k // columns * (h + gap), k % columns * (w + gap)
    out[i:i + h, j:j + w] = image
  return out


def strip(rows: list[Images], *, count: int = 8) -> Float[np.ndarray, 'h w 3']:
  """`count` views at equal steps of each of the rows, under one another."""
  chosen = np.arange(count) * len(rows[0]) // count
  return sheet([row[k] for row in rows for k in chosen], columns=count)


def even(frame: UInt8[np.ndarray, 'H W 3']) -> UInt8[np.ndarray, 'h w 3']:
  """With the last row or column doubled where a side is odd: yuv420p halves both."""
  return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode='edge')


def png(image: Float[np.ndarray, 'H W 3']) -> bytes:
  """The bytes of a PNG file of one image in [0, 1]."""
  out = io.BytesIO()
  Image.fromarray(to_bytes(image)).save(out, 'png')
  return out.getvalue()


def save_video(path: pathlib.Path, frames: list[Float[np.ndarray, 'H W 3']], *,
               fps: int = FPS) -> pathlib.Path:
  """An mp4 that starts to play before all of it is read. ffmpeg is run directly: imageio forks,
  which JAX forbids."""
  film = np.stack([even(to_bytes(frame)) for frame in frames])
  source = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{film.shape[2]}x{film.shape[1]}', '-r',
            str(fps), '-i', '-']
  target = ['-c:v', 'libx264', '-pix_fmt', 'yuv420p', '-crf', '18', '-movflags',
            '+faststart', str(path)]
  command = [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-loglevel', 'error', *source, *target]
  done = subprocess.run(command, input=film.tobytes(), capture_output=True)
  if done.returncode:
    raise OSError(f'{path}: ffmpeg: {done.stderr.decode().strip()}')
  return path


def turntable(render: Callable, folder: pathlib.Path, *, frames: int = 90, elevation: float = .26,
              distance: float = 3., fov: float = math.radians(40.), height: int = 256,
              how: str = 'lanczos', background: float = 1.) -> list[pathlib.Path]:
  """Writes turntable.mp4, one turn of `frames` at 30 a second, and turntable.png, eight of its
  views; both enlarged where small."""
  camera = cameras.orbit((frames, elevation), distance=distance, fov=fov)
  return film_of(render_views(render, camera), camera, folder, height=height, how=how,
                 background=background)


def film_of(rendering: Rendering, camera: Camera, folder: pathlib.Path, *, height: int = 256,
            how: str = 'lanczos',
            background: float = 1.) -> list[pathlib.Path]:
  """The same of views that are there already."""
  views = panels(rendering, camera, background=background)
  film = [enlarge(np.concatenate(parts, 1), height, how=how) for parts in zip(*views)]
  path = folder / 'turntable.png'
  path.write_bytes(png(enlarge(strip(views), STRIP, how=how)))
  return [save_video(folder / 'turntable.mp4', film), path]
