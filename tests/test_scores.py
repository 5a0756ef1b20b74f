"""Scores in closed form on made-up images and points; Janus is caught, both ways."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer import scores


def random_images(seed, count, size=8):
  return np.random.default_rng(seed).random((count, 2, size, size, 3))


def test_silhouette_iou_counts_pixels():
  a, b = np.zeros((2, 4, 4)), np.zeros((2, 4, 4))
  a[0, :2], b[0, 1:3] = 1., .6                                   # 4 of 12 pixels shared
  a[1, 0], b[1, 0] = .5, .5                                      # the same
  assert scores.silhouette_iou(a, b) == pytest.approx((4 / 12 + 1.) / 2.)
  assert scores.iou(np.zeros(3, bool), np.zeros(3, bool)) == 1.


def test_psnr_in_closed_form():
  x = np.full((2, 4, 4, 3), .5)
  assert scores.psnr(x, x + .1) == pytest.approx(20.)
  assert scores.psnr(x, x) == pytest.approx(120.)              # finite: cut at 1e-12


def test_chamfer_of_parallel_sheets_is_their_distance():
  u = np.stack(np.meshgrid(np.arange(8.), np.arange(8.)), -1).reshape(-1, 2)
  sheet = lambda z: np.concatenate([u, np.full((64, 1), z)], 1)
  assert scores.chamfer(sheet(0.), sheet(.3)) == pytest.approx(.3)
  half = sheet(0.)[u[:, 0] < 4]  # one way 0, back 0 1 2 3 4 on the missing half
  expected = pytest.approx(.5 * (1 + 2 + 3 + 4) / 8)
  assert scores.chamfer(half, sheet(0.)) == expected and scores.chamfer(sheet(0.),
                                                                            half) == expected


@pytest.mark.parametrize('steps', [0, 1, 5, 15])
def test_pose_gap_finds_the_yaw(steps):
  blobs = np.random.default_rng(0).random((2, 16, 6, 6)) > .5
  seen = np.roll(blobs, steps, axis=1)  # turned by +steps: azimuth k + steps sees what k saw
  gap, yaw = scores.pose_gap(seen.reshape(32, 6, 6) * 1., blobs.reshape(32, 6, 6) * 1., ring=16)
  assert yaw == pytest.approx(math.remainder(2. * math.pi * steps / 16, 2. * math.pi))
  assert (gap > .3) if steps else gap == 0.


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2 ** 16))
def test_unlikeness_is_a_distance_and_blind_to_mirrors(seed):
  a, b, c = random_images(seed, 3)
  d = scores.unlikeness
  assert d(a, b) == pytest.approx(d(b, a)) and d(a, a) == 0. and d(
      a, b[:, :, ::-1]) == pytest.approx(d(a, b))
  assert d(a, c) <= d(a, b) + d(b, c) + 1e-12


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2 ** 16))
def test_janus_scores_stay_in_their_ranges(seed):
  found = scores.janus(*random_images(seed, 4))
  assert -1. <= found['front'] <= 1. and -1. <= found['back'] <= 1. and 0. <= found[
      'symmetry'] <= 1.


def test_janus_tells_one_face_two_faces_no_face_and_a_turned_one():
  front, back = random_images(0, 2)
  score = lambda a, b: scores.janus(a, b, front, back)
  assert score(front, back) == {'front': 1., 'back': 1., 'one_front': True, 'symmetry': 0.}
  # Janus
  assert score(front, front) == {'front': 1., 'back': -1., 'one_front': False, 'symmetry': 1.}
  assert score(back, back) == {'front': -1., 'back': 1., 'one_front': False, 'symmetry': 1.}
  # turned, not Janus
  assert score(back, front) == {'front': -1., 'back': -1., 'one_front': False, 'symmetry': 0.}
  weak = score(.5 * front + .5 * back, back)                     # half a face is still the only one
  assert weak['back'] == 1. and weak['symmetry'] == pytest.approx(.5, abs=.1)
  with pytest.raises(ValueError, match='same picture'):
    scores.janus(front, back, front, front[:, :, ::-1])


def test_nearest_color_looks_only_where_colors_differ_and_something_is():
  candidates = np.full((3, 1, 4, 4, 3), .75)
  candidates[:, 0, 1:3, 1:3] = np.eye(3)[:, None, None]
  x, opacity = candidates[1] * .8, np.ones((1, 4, 4))            # darker, as a shadow makes it
  x[0, 0] = [1., 0., 0.]  # red where the candidates agree: not asked
  assert scores.nearest_color(x, opacity, candidates) == 1
  assert scores.nearest_color(x, 0. * opacity, candidates) is None


def test_normals_differ_by_the_angle_between_them_whatever_their_length():
  a = np.zeros((1, 2, 2, 3))
  a[..., 2] = .5
  b = np.array([[[[0., 0., 3.], [0., 2., 2.]], [[1., 0., 0.], [0., 0., -1.]]]])
  on = np.ones((1, 2, 2), bool)
  assert scores.normal_degrees(a, b, on) == pytest.approx((0. + 45. + 90. + 180.) / 4.)
  on[0, 1, 1] = False
  assert scores.normal_degrees(a, b, on) == pytest.approx(45.) and scores.normal_degrees(
      a, b, ~on) == pytest.approx(180.)
  assert scores.normal_degrees(a, b, on & False) is None


def test_recall_is_the_share_of_views_that_the_text_fits_best():
  rows = np.array([[5., 1., 0.], [3., 0., 4.], [0., 2., 0.], [9., 0., 0.]])
  assert [scores.recall_at_1(rows, k) for k in range(3)] == [.5, .25, .25]
