"""What becomes of a picture: kernels of sum 1, resampling as Pillow's, JPEG as its encoder's, all
of it a function of the key."""
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdreamer import restoration_eval
from jaxdreamer.toybox import degradations, geometry, render_buffer

KEY = jax.random.key(0)
WAYS = {'box': Image.Resampling.BOX, 'triangle': Image.Resampling.BILINEAR,
        'cubic': Image.Resampling.BICUBIC}


def drawn(size=64):
  """A picture of soft colors with hard edges, in whole 255ths."""
  y, x = np.mgrid[:size, :size] / size
  picture = np.stack([.5 + .4 * np.sin(7. * x), .5 + .4 * np.cos(5. * y + 3. * x), x * y], -1)
  picture[size // 4:size // 2, size // 3:2 * size // 3] = (.9, .1, .2)
  return np.round(255. * picture).astype(np.uint8)


def psnr(a, b):
  return -10. * np.log10(np.mean((np.asarray(a) - np.asarray(b)) ** 2))


def test_a_blur_has_sum_one_and_the_deviation_it_was_given():
  for seed in range(5):
    kernel = degradations.gaussian(jax.random.key(seed), (.2, 3.))
    assert abs(float(kernel.sum()) - 1.) < 1e-5 and float(kernel.min()) >= 0.
  kernel = np.asarray(degradations.gaussian(KEY, (2., 2.)), np.float64)
  at = np.arange(degradations.TAPS) - degradations.TAPS // 2
  assert np.allclose([kernel.sum(0) @ at ** 2, kernel.sum(1) @ at ** 2], 4., rtol=1e-3)
  turned = np.asarray(degradations.gaussian(KEY, (.5, 3.)))
  np.testing.assert_allclose(turned, turned[::-1, ::-1], atol=1e-7)


def test_blurring_leaves_a_constant_and_makes_a_point_the_kernel():
  kernel = degradations.gaussian(KEY, (1., 3.))
  flat = jnp.full((24, 24, 3), .3)
  np.testing.assert_allclose(degradations.blur(flat, kernel), flat, rtol=1e-5)
  point = jnp.zeros((41, 41, 3)).at[20, 20].set(jnp.array([1., 2., 0.]))
  seen = degradations.blur(point, kernel)[10:31, 10:31]
  np.testing.assert_allclose(seen[..., 1], 2. * kernel[::-1, ::-1], atol=1e-6)
  assert not np.any(seen[..., 2])


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('before, after', [(64, 24), (48, 16), (20, 64), (64, 31)])
def test_resizing_is_pillows(way, before, after):
  """On the corner of the canvas that the picture has; beyond it the last row goes on."""
  picture = drawn(before).astype(np.float32) / 255.
  planes = [Image.fromarray(np.ascontiguousarray(picture[..., c])) for c in range(3)]
  want = np.stack([plane.resize((after, after), WAYS[way]) for plane in planes], -1)
  canvas = np.pad(picture, ((0, 64 - before), (0, 64 - before), (0, 0)), 'edge')
  which = jnp.array([f.__name__ == way for f in degradations.WAYS], jnp.float32)
  got = degradations.resize(jnp.asarray(canvas), jnp.float32(before), jnp.float32(after), which)
  np.testing.assert_allclose(got[:after, :after], want, atol=2e-3)
  np.testing.assert_array_equal(got[after:, 3], np.broadcast_to(got[after - 1, 3],
                                                                (64 - after, 3)))


@pytest.mark.parametrize('quality', [10, 30, 60, 95])
def test_jpeg_loses_what_an_encoder_loses(quality):
  picture = drawn()
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'JPEG', quality=quality, subsampling=2)
  theirs, truth = np.asarray(Image.open(file), np.float32) / 255., picture / np.float32(255.)
  ours = degradations.jpeg(jnp.asarray(truth), float(quality))
  assert abs(psnr(ours, truth) - psnr(theirs, truth)) < .3
  assert psnr(ours, theirs) > psnr(theirs, truth) + 8.


def test_jpeg_of_the_best_quality_leaves_a_gray_picture_alone():
  gray = np.broadcast_to(drawn()[..., :1], (64, 64, 3)) / np.float32(255.)
  assert np.abs(degradations.jpeg(jnp.asarray(gray), 100.) - gray).max() < 1.5 / 255.


def test_a_degraded_picture_is_a_function_of_its_key_and_has_whole_bytes():
  truth = jnp.asarray(drawn(48), jnp.float32) / 255.
  degrade = jax.jit(degradations.degrade)
  low, other = degrade(KEY, truth), degrade(jax.random.key(1), truth)
  np.testing.assert_array_equal(low, degrade(KEY, truth))
  assert np.abs(low - other).max() > .05 and low.shape == truth.shape
  assert float(low.min()) >= 0. and float(low.max()) <= 1.
  np.testing.assert_allclose(255. * low, jnp.round(255. * low), atol=1e-3)
  lost = [psnr(degrade(jax.random.key(seed), truth), truth) for seed in range(12)]
  assert 12. < min(lost) < max(lost) < 35.


@pytest.mark.slow
def test_pairs_show_toys_that_the_reader_reads_and_loses_when_degraded():
  draw = jax.jit(lambda key: degradations.pairs(key, 16, size=64,
                                                share=render_buffer.WORLD_PAIRS))
  found = draw(KEY)
  jax.tree.map(np.testing.assert_array_equal, found, draw(KEY))
  assert found.low.shape == found.truth.shape == (16, 64, 64, 3)
  weights, labels = geometry.shipped(), geometry.labels(found.item,
                                                        geometry.mirrored(found.camera))
  share = lambda x: float(jnp.mean(geometry.right(geometry.read(weights, x), labels)['shape']))
  assert share(found.truth) > .6 and share(found.low) < share(found.truth) - .2
  near, far = (geometry.feature_distance(weights, x, found.truth) for x in (found.truth, found.low))
  assert not np.any(near) and 0. < float(far.min()) < float(far.max()) < 4.


def test_psnr_and_sharpness_are_what_they_say():
  truth = jnp.zeros((2, 8, 8, 3)).at[:, ::2].set(.5)
  worse = truth + jnp.array([.1, .01]).reshape(2, 1, 1, 1)
  np.testing.assert_allclose(restoration_eval.psnr(worse, truth), [20., 40.], rtol=1e-4)
  flat = .5 * truth + .125
  np.testing.assert_allclose(restoration_eval.roughness(flat) / restoration_eval.roughness(truth),
                             .5, rtol=1e-5)


@pytest.mark.slow
def test_what_restores_nothing_scores_as_what_it_was_given():
  scores = restoration_eval.score(KEY, lambda low: low, pictures=20)
  assert {len(values) for values in scores.values()} == {32}       # whole batches
  for name, given in (('restoration_psnr', 'bicubic_psnr'), ('sharpness', 'bicubic_sharpness'),
                      ('read', 'bicubic_read')):
    np.testing.assert_allclose(scores[name], scores[given], rtol=1e-5)
  means = restoration_eval.means(scores)
  assert means['true_read'].mean > .5 > means['read'].mean
  psnr = means['restoration_psnr']
  assert 12. < psnr.lower < psnr.mean < psnr.upper < 30. and means['sharpness'].mean != 1.
  darker = restoration_eval.score(KEY, lambda low: .9 * low, pictures=20)
  gain = restoration_eval.gains(scores, darker)['restoration_psnr']
  want = np.mean(scores['restoration_psnr'] - darker['restoration_psnr'])
  assert gain.lower <= gain.mean <= gain.upper and gain.mean == pytest.approx(want, rel=1e-5)
