"""The command that restores a picture of any size; three hundred broken files, each of which is
answered in one line, and nothing is written half."""
import io
import random
import time

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from jaxdreamer import files, pictures, restore, runs

SECONDS = 5.


def drawn(height, width, *, mode='RGB'):
  """A picture of noise over a ramp, of a mode of Pillow's."""
  rng = np.random.RandomState(height + width)
  ramp = np.linspace(0., 200., width)[None, :, None] + rng.rand(height, width, 3) * 50.
  return Image.fromarray(ramp.astype(np.uint8)).convert(mode)


def encoded(kind, **options):
  out = io.BytesIO()
  drawn(20, 28).save(out, kind, **options)
  return out.getvalue()


GOOD = {'png': encoded('png'), 'jpg': encoded('jpeg'), 'webp': encoded('webp', lossless=True),
        'bmp': encoded('bmp'), 'tif': encoded('tiff'), 'gif': encoded('gif')}


def broken():
  """(name, bytes) of three hundred files: cut, flipped, of two kinds at once, hostile or none."""
  rng = random.Random(0)
  for i in range(300):
    kind = rng.choice(sorted(GOOD))
    good = GOOD[kind]
    raw = bytearray(good)
    how = ('cut', 'flips', 'head', 'joined', 'noise', 'sizes')[i % 6]
    if how == 'cut':
      raw = raw[:rng.randrange(len(raw))]
    elif how == 'flips':
      for _ in range(rng.randrange(1, 40)):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif how == 'head':
      for at in range(rng.randrange(1, 60)):
        raw[at] = rng.randrange(256)
    elif how == 'joined':
      other = GOOD[rng.choice(sorted(GOOD))]
      raw = raw[:rng.randrange(4, len(raw))] + other[rng.randrange(len(other)):]
    elif how == 'noise':
      raw = bytearray(rng.randbytes(rng.randrange(200)))
    else:
      at = rng.randrange(min(len(raw) - 4, 40))
      raw[at:at + 4] = rng.choice([b'\xff\xff\xff\x7f', b'\x00\x00\x00\x00', b'\x7f\xff\xff\xff'])
    yield f'{i}_{how}.{kind}', bytes(raw)


def test_three_hundred_broken_pictures_are_read_or_refused_in_one_line(tmp_path):
  turned = 0
  for name, content in broken():
    path = tmp_path / name
    path.write_bytes(content)
    start = time.process_time()
    try:
      seen = pictures.read(path, option='--image')
      assert seen.ndim == 3 and seen.shape[-1] == 3 and np.isfinite(seen).all()
    except ValueError as error:
      turned += 1
      said = str(error)
      assert len(said.splitlines()) == 1 and said.startswith(f"--image='{path}'"), said
      assert len(said) < 500 + len(str(path))
    assert time.process_time() - start < SECONDS, name
  assert 100 < turned < 300


def test_what_is_no_picture_is_named(tmp_path, monkeypatch):
  with refused("--image='.*none.png': no such file", FileNotFoundError):
    pictures.read(tmp_path / 'none.png', option='--image')
  with refused('takes a file'):
    pictures.read(tmp_path, option='--image')
  drawn(40, 50).save(tmp_path / 'large.png')
  monkeypatch.setattr(pictures, 'MOST', 1999)
  with refused('50 x 40 pixels; takes up to 1999'):
    pictures.read(tmp_path / 'large.png', option='--image')


@pytest.mark.parametrize('mode, white', [('L', False), ('P', False), ('RGBA', True), ('1', False),
                                         ('CMYK', False), ('I;16', False)])
def test_every_kind_of_color_becomes_rgb_and_what_is_transparent_white(mode, white, tmp_path):
  image = drawn(6, 8, mode='L' if mode == 'I;16' else mode)
  if mode == 'I;16':
    image = Image.fromarray(np.asarray(image, np.uint16) * 257)
  if mode == 'RGBA':
    image.putalpha(0)
  image.save(tmp_path / ('x.tif' if mode in ('CMYK', 'I;16') else 'x.png'))
  seen = pictures.read(next(tmp_path.glob('x.*')), option='--image')
  assert seen.shape == (6, 8, 3) and seen.dtype == np.float32
  assert np.all(seen == 1.) == white


def test_a_picture_that_was_turned_by_its_camera_is_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6                               # shown by a quarter turn
  drawn(20, 30).save(tmp_path / 'x.jpg', exif=exif)
  assert pictures.read(tmp_path / 'x.jpg', option='--image').shape == (30, 20, 3)


@pytest.mark.parametrize('height, width', [(16, 16), (17, 40), (64, 16), (33, 51)])
def test_tiles_cover_every_pixel_blend_to_one_and_overlap(height, width):
  image = np.random.RandomState(0).rand(height, width, 3).astype(np.float32)
  shapes = set()
  def restorer(x):
    shapes.add(x.shape)
    return .5 * x + .25
  made = restore.tiled(restorer, image, 16)
  np.testing.assert_allclose(made, .5 * image + .25, atol=1e-6)
  assert len(shapes) == 1                        # one program, however many there are
  for n in (height, width):
    begin = restore.starts(n, 16)
    assert begin[0] == 0 and begin[-1] == n - 16
    assert all(0 < b - a <= 12 for a, b in zip(begin, begin[1:]))


@pytest.mark.parametrize('shape, scale', [((10, 14), 1), ((10, 14), 3), ((40, 8), 1),
                                          ((16, 16), 1)])
def test_a_restored_picture_has_the_pixels_that_were_asked_for(shape, scale):
  height, width = shape
  ramp = np.linspace(.1, .9, width, dtype=np.float32)
  image = np.broadcast_to(ramp[None, :, None], (height, width, 3))
  restorer = runs.Restorer(lambda x: x, 16, 7)
  made = restore.restored(restorer, image, scale=scale)
  assert made.shape == (scale * height, scale * width, 3)
  want = pictures.resized(image, made.shape[:2])
  assert np.abs(made - want).max() < .05


def test_the_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'x.png'
  restore.write(path, np.full((4, 5, 3), .5))
  before = path.read_bytes()
  def fails(path, replaced):
    raise OSError('no room')
  monkeypatch.setattr(files.os, 'replace', fails)
  with pytest.raises(OSError, match='no room'):
    restore.write(path, np.zeros((4, 5, 3)))
  assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ['x.png']
