"""Films play and have the right size; panels show near as bright and up as green; sheets have rows
and columns."""
import math
import re
import subprocess
from functools import partial

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdreamer import cameras
from jaxdreamer.outputs import video
from jaxdreamer.types import Rendering

RAYS = jax.jit(cameras.rays, static_argnums=1)


def ball(camera, *, radius=.6, size=16):
  """The exact Rendering of a red ball over white."""
  rays = jax.device_get(RAYS(camera, size))
  middle = -np.sum(rays.origin * rays.direction, -1)
  chord = radius ** 2 + middle ** 2 - np.sum(rays.origin ** 2, -1)
  hit = (chord > 0.).astype(np.float32)
  depth = np.where(chord > 0., middle - np.sqrt(np.maximum(chord, 0.)), 4.).astype(np.float32)
  normal = (rays.origin + depth[..., None] * rays.direction) / radius * hit[..., None]
  rgb = hit[..., None] * np.array([1., 0., 0.], np.float32) + (1. - hit[..., None])
  return Rendering(rgb, hit, depth, normal, 0. * hit, 0. * hit, 0. * hit)


def read(path):
  """What ffmpeg says of a film, and its frames [T, H, W, 3]."""
  command = [imageio_ffmpeg.get_ffmpeg_exe(), '-i', str(path), '-f', 'rawvideo', '-pix_fmt',
             'rgb24', '-']
  done = subprocess.run(command, capture_output=True, check=True)
  facts = done.stderr.decode()
  w, h = map(int, re.search(r'Video: .*?, (\d+)x(\d+)', facts).groups())
  return facts, np.frombuffer(done.stdout, np.uint8).reshape(-1, h, w, 3)


def test_rings_are_orbits_one_after_another():
  found = cameras.orbit((4, .2), (3, .8), distance=2.5)
  for part, (n, elevation) in ((slice(0, 4), (4, .2)), (slice(4, 7), (3, .8))):
    expected = jax.vmap(partial(cameras.orbital, elevation=elevation, distance=2.5,
                                fov=math.radians(40.)))(jnp.arange(n) * (2. * math.pi / n))
    np.testing.assert_allclose(found.world_from_camera[part], expected.world_from_camera, atol=1e-6)
  assert len(video.unbatch(found)) == 7


def test_depth_is_bright_where_near_and_spans_the_map():
  camera = cameras.orbit((2, .3))
  shown = video.show_depth(video.render_views(ball, camera)).sum(-1)
  depth, hit = video.render_views(ball, camera).depth, video.render_views(ball, camera).opacity > .5
  order = np.argsort(depth[hit])
  assert np.all(np.diff(shown[hit][order]) < .02)                # brightness falls with depth
  assert np.all(shown[~hit] == 3.)                               # white background


def test_normals_are_in_the_frame_of_the_camera():
  camera = cameras.orbit((3, .5))
  for image in video.show_normals(video.render_views(ball, camera), camera):
    right, left, top, bottom = image[8, 11], image[8, 4], image[4, 8], image[11, 8]
    assert right[0] > .7 > .3 > left[0] and top[1] > .7 > .3 > bottom[1]
    np.testing.assert_allclose(image[7:9, 7:9].mean((0, 1)), [.5, .5, 1.], atol=.02)
    np.testing.assert_allclose(image[0, 0], 1.)


def test_a_view_without_object_is_all_background():
  nothing = lambda camera: jax.tree.map(np.zeros_like, ball(camera))
  camera = cameras.orbit((1, 0.))
  empty = video.render_views(nothing, camera)
  np.testing.assert_allclose(video.show_depth(empty, background=.5), .5)
  np.testing.assert_allclose(video.show_normals(empty, camera, background=.5), .5)


def test_enlarging_keeps_shape_and_never_shrinks():
  x = np.random.default_rng(0).random((4, 6, 3))
  big = video.enlarge(x, 12, how='nearest')
  np.testing.assert_allclose(big, np.round(x * 255.).repeat(3, 0).repeat(3, 1) / 255.)
  assert video.enlarge(x, 12, how='lanczos').shape == (12, 18, 3)
  assert video.enlarge(x, 3) is x


def test_sheets_put_images_in_rows():
  images = [np.full((2, 3, 3), v) for v in (.1, .2, .3)]
  found = video.sheet(images, columns=2, gap=1)
  assert found.shape == (5, 7, 3)
  assert found[0, 0, 0] == .1 and found[0, 4, 0] == .2 and found[3, 0, 0] == .3
  assert found[2, 0, 0] == found[0, 3, 0] == found[3, 4, 0] == 1.
  row = [np.full((8, 2, 2, 3), v) * np.arange(8)[:, None, None, None] / 8. for v in (1., .5)]
  assert video.strip(row, count=4).shape == (2 * 4 - 2, 4 * 4 - 2, 3)
  assert video.strip(row, count=4)[0, 4, 0] == pytest.approx(2. / 8.)


def test_films_are_h264_with_even_sides_and_true_colors(tmp_path):
  frames = [np.full((33, 35, 3), [.8, .3, .1])] * 5 + [np.full((33, 35, 3), [.1, .3, .8])] * 5
  facts, found = read(video.save_video(tmp_path / 'a.mp4', frames))
  assert 'Video: h264' in facts and 'yuv420p' in facts and '30 fps' in facts
  assert found.shape == (10, 34, 36, 3)
  np.testing.assert_allclose(found[2].mean((0, 1)) / 255., [.8, .3, .1], atol=.03)
  np.testing.assert_allclose(found[8].mean((0, 1)) / 255., [.1, .3, .8], atol=.03)
  with pytest.raises(OSError, match='ffmpeg'):
    video.save_video(tmp_path / 'no such folder' / 'a.mp4', frames)


def test_a_turntable_is_one_turn_beside_depth_and_normals(tmp_path):
  film, strip = video.turntable(ball, tmp_path, frames=8, height=64)
  _, frames = read(film)
  assert frames.shape == (8, 64, 3 * 64, 3)
  np.testing.assert_allclose(frames[4, 32, 32] / 255., [1., 0., 0.], atol=.06)
  np.testing.assert_allclose(frames[4, 32, 160] / 255., [.5, .5, 1.], atol=.06)
  with Image.open(strip) as found:
    assert found.height == video.STRIP and found.width / found.height == pytest.approx(
        (8 * 18 - 2) / (3 * 18 - 2), rel=.01)
