"""A visitor's camera as ours, and what it sees as a picture.

viser's cameras are OpenCV's: they look along +z with y down, in the same world, z up; a rotation is
a unit quaternion (w, x, y, z), `fov` is vertical, `aspect` is width over height. Ours are OpenGL's
and square: a picture is cut out of the square that holds it, or of an object of the one that holds
its ball, around which there is white.
"""
import math
from typing import NamedTuple, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxdreamer.outputs import video
from jaxdreamer.types import Camera, Rendering

KINDS = ('color', 'depth', 'normals')
SMOOTH = 2                               # pixels of a picture to one that is rendered, each way
WIDEST = math.radians(75.)               # half of what a square spans, where a ball bounds it
MOST = 2.                                # what a window spans to it, so that pictures stay small
FLIP = np.diag([1., -1., -1.])           # between the axes of OpenCV's cameras and of OpenGL's


class Lookout(NamedTuple):
  """Where a visitor stands, as viser tells it."""
  wxyz: Float[np.ndarray, '4']
  position: Float[np.ndarray, '3']
  fov: float
  aspect: float


def to_camera(lookout: Lookout, *, ball: float = 0.) -> Camera:
  """The square camera that sees all of a visitor's window; where that is less, all of the `ball` of
  this radius around 0, if it is one, but no less than a MOST-th of it."""
  w, *xyz = lookout.wxyz
  pose = np.eye(4, dtype=np.float32)
  pose[:3, :3] = Rotation.from_quat([*xyz, w]).as_matrix() @ FLIP
  pose[:3, 3] = lookout.position
  x, y, z = np.asarray(lookout.position, float)
  distance = max(math.sqrt(x * x + y * y + z * z), 1e-6)
  half = math.atan(math.tan(.5 * lookout.fov) * max(lookout.aspect, 1.))
  if ball and distance > ball:
    off = math.acos(np.clip(pose[:3, 2] @ pose[:3, 3] / distance, -1., 1.))
    if (bound := off + math.asin(ball / distance)) < WIDEST:
      half = min(half, max(bound, half / MOST))
  return Camera(pose, *map(np.float32, (2. * half, math.atan2(y, x), math.asin(z / distance),
                                        distance)))


def of_camera(camera: Camera) -> tuple[Float[np.ndarray, '4'], Float[np.ndarray, '3']]:
  """viser's (wxyz, position) of one of our cameras."""
  pose = np.asarray(camera.world_from_camera, float)
  x, y, z, w = Rotation.from_matrix(pose[:3, :3] @ FLIP).as_quat()
  return np.array([w, x, y, z]), pose[:3, 3]


def cut(values: Float[np.ndarray, 'S S'], camera: Camera, lookout: Lookout, *,
        how: Image.Resampling = Image.Resampling.BICUBIC) -> Float[np.ndarray, 'h w']:
  """The window of a visitor out of the square that the camera sees; the border falls between
  pixels where it must. Beyond the square all is as at its border: around a ball, nothing."""
  size = len(values)
  h = size * math.tan(.5 * lookout.fov) / math.tan(.5 * camera.fov)
  w = h * lookout.aspect
  more = max(math.ceil(.5 * (max(w, h) - size)), 0) + 2
  padded = np.pad(np.asarray(values, np.float32), more, mode='edge')
  center = .5 * len(padded)
  return np.asarray(Image.fromarray(padded).resize(
    (max(round(SMOOTH * w), 1), max(round(SMOOTH * h), 1)), how,
    box=(center - .5 * w, center - .5 * h, center + .5 * w, center + .5 * h)))


def picture(seen: Sequence[Rendering], camera: Camera, lookout: Lookout, *,
            kind: str) -> UInt8[np.ndarray, 'h w 3']:
  """The windows onto each object, side by side, of [S S] renderings over white. Depth has one scale
  for all of them."""
  stacked = Rendering(*(np.stack(values) for values in zip(*(one[:4] for one in seen))),
                      *(None,) * (len(Rendering._fields) - 4))
  same = Camera(*(None if a is None else np.stack([a] * len(seen)) for a in camera))
  parts = video.panels(stacked, same)[KINDS.index(kind)]
  return video.to_bytes(np.concatenate(
    [np.stack([cut(part[..., k], camera, lookout) for k in range(3)], -1) for part in parts],
    1))


def along_view(seen: Rendering, camera: Camera, lookout: Lookout, *,
               far: float) -> Float[np.ndarray, 'h w']:
  """How far the pixels of the window lie along its axis, of an [S S] rendering; `far` where less
  than half of the light stops."""
  size = len(seen.depth)
  off = (2. * np.arange(size) + 1. - size) / size * np.tan(.5 * camera.fov)
  depth = seen.depth / np.sqrt(1. + off[:, None] ** 2 + off ** 2)
  return cut(np.where(seen.opacity >= .5, depth, far), camera, lookout,
             how=Image.Resampling.NEAREST)
