"""Scores in closed form on made-up images and points; the truth scores itself perfectly; Janus is
caught, both ways."""
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer import cameras, evaluate
from jaxdreamer.objects import Object
from jaxdreamer.outputs import mesh
from jaxdreamer.toybox import geometry, truth, world
from jaxdreamer.types import Rendering

SIZE = 32


def random_images(seed, count, size=8):
  return np.random.default_rng(seed).random((count, 2, size, size, 3))


def test_silhouette_iou_counts_pixels():
  a, b = np.zeros((2, 4, 4)), np.zeros((2, 4, 4))
  a[0, :2], b[0, 1:3] = 1., .6                                   # 4 of 12 pixels shared
  a[1, 0], b[1, 0] = .5, .5                                      # the same
  assert evaluate.silhouette_iou(a, b) == pytest.approx((4 / 12 + 1.) / 2.)
  assert mesh.iou(np.zeros(3, bool), np.zeros(3, bool)) == 1.


def test_psnr_in_closed_form():
  x = np.full((2, 4, 4, 3), .5)
  assert evaluate.psnr(x, x + .1) == pytest.approx(20.)
  assert evaluate.psnr(x, x) == pytest.approx(120.)              # finite: cut at 1e-12


def test_chamfer_of_parallel_sheets_is_their_distance():
  u = np.stack(np.meshgrid(np.arange(8.), np.arange(8.)), -1).reshape(-1, 2)
  sheet = lambda z: np.concatenate([u, np.full((64, 1), z)], 1)
  assert evaluate.chamfer(sheet(0.), sheet(.3)) == pytest.approx(.3)
  half = sheet(0.)[u[:, 0] < 4]  # one way 0, back 0 1 2 3 4 on the missing half
  expected = pytest.approx(.5 * (1 + 2 + 3 + 4) / 8)
  assert evaluate.chamfer(half, sheet(0.)) == expected and evaluate.chamfer(sheet(0.),
                                                                            half) == expected


@pytest.mark.parametrize('steps', [0, 1, 5, 15])
def test_pose_gap_finds_the_yaw(steps):
  blobs = np.random.default_rng(0).random((2, 16, 6, 6)) > .5
  seen = np.roll(blobs, steps, axis=1)  # turned by +steps: azimuth k + steps sees what k saw
  gap, yaw = evaluate.pose_gap(seen.reshape(32, 6, 6) * 1., blobs.reshape(32, 6, 6) * 1., ring=16)
  assert yaw == pytest.approx(math.remainder(2. * math.pi * steps / 16, 2. * math.pi))
  assert (gap > .3) if steps else gap == 0.


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2 ** 16))
def test_unlikeness_is_a_distance_and_blind_to_mirrors(seed):
  a, b, c = random_images(seed, 3)
  d = evaluate.unlikeness
  assert d(a, b) == pytest.approx(d(b, a)) and d(a, a) == 0. and d(
      a, b[:, :, ::-1]) == pytest.approx(d(a, b))
  assert d(a, c) <= d(a, b) + d(b, c) + 1e-12


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2 ** 16))
def test_janus_scores_stay_in_their_ranges(seed):
  found = evaluate.janus(*random_images(seed, 4))
  assert -1. <= found['front'] <= 1. and -1. <= found['back'] <= 1. and 0. <= found[
      'symmetry'] <= 1.


def test_janus_tells_one_face_two_faces_no_face_and_a_turned_one():
  front, back = random_images(0, 2)
  score = lambda a, b: evaluate.janus(a, b, front, back)
  assert score(front, back) == {'front': 1., 'back': 1., 'one_front': True, 'symmetry': 0.}
  # Janus
  assert score(front, front) == {'front': 1., 'back': -1., 'one_front': False, 'symmetry': 1.}
  assert score(back, back) == {'front': -1., 'back': 1., 'one_front': False, 'symmetry': 1.}
  # turned, not Janus
  assert score(back, front) == {'front': -1., 'back': -1., 'one_front': False, 'symmetry': 0.}
  weak = score(.5 * front + .5 * back, back)                     # half a face is still the only one
  assert weak['back'] == 1. and weak['symmetry'] == pytest.approx(.5, abs=.1)
  with pytest.raises(ValueError, match='same picture'):
    evaluate.janus(front, back, front, front[:, :, ::-1])


def test_nearest_color_looks_only_where_colors_differ_and_something_is():
  candidates = np.full((3, 1, 4, 4, 3), .75)
  candidates[:, 0, 1:3, 1:3] = np.eye(3)[:, None, None]
  x, opacity = candidates[1] * .8, np.ones((1, 4, 4))            # darker, as a shadow makes it
  x[0, 0] = [1., 0., 0.]  # red where the candidates agree: not asked
  assert evaluate.nearest_color(x, opacity, candidates) == 1
  assert evaluate.nearest_color(x, 0. * opacity, candidates) is None


def test_normals_differ_by_the_angle_between_them_whatever_their_length():
  a = np.zeros((1, 2, 2, 3))
  a[..., 2] = .5
  b = np.array([[[[0., 0., 3.], [0., 2., 2.]], [[1., 0., 0.], [0., 0., -1.]]]])
  on = np.ones((1, 2, 2), bool)
  assert evaluate.normal_degrees(a, b, on) == pytest.approx((0. + 45. + 90. + 180.) / 4.)
  on[0, 1, 1] = False
  assert evaluate.normal_degrees(a, b, on) == pytest.approx(45.) and evaluate.normal_degrees(
      a, b, ~on) == pytest.approx(180.)
  assert evaluate.normal_degrees(a, b, on & False) is None


@pytest.mark.parametrize('prompt, which', [('a spotted pink teapot', 0),
                                           ('a red cone on a blue cube', 1)])
def test_all_colors_of_an_object_follow_from_three(prompt, which):
  item, camera = world.parse(prompt), cameras.orbit((3, .4))
  found = evaluate.in_each_color(item, which, camera, size=SIZE)
  for k, color in enumerate(world.COLORS):
    repainted = world.caption(item._replace(color=item.color.at[which].set(k)))
    assert color in repainted
    np.testing.assert_allclose(found[k], evaluate.true_pictures(repainted, camera, size=SIZE)[0],
                               atol=2e-5)


def test_recall_is_the_share_of_views_that_the_text_fits_best():
  scores = np.array([[5., 1., 0.], [3., 0., 4.], [0., 2., 0.], [9., 0., 0.]])
  assert [evaluate.recall_at_1(scores, k) for k in range(3)] == [.5, .25, .25]


# ------------------------------------------------------------------------------------------------
# with the exact shapes


def object_of(prompt, *, turn=0., density=None, color=None):
  """The truth as if it were a trained scene, turned by `turn` about z, over black."""
  def render(camera, background):
    np.testing.assert_array_equal(background, 0.)
    batch = jax.tree.map(lambda a: np.asarray(a)[None], camera)
    pose = np.array(batch.world_from_camera)
    c, s = math.cos(turn), math.sin(turn)
    back = np.array([[c, s, 0., 0.], [-s, c, 0., 0.], [0., 0., 1., 0.], [0., 0., 0., 1.]],
                    np.float32)
    seen = truth.views(prompt, batch._replace(world_from_camera=back @ pose), size=SIZE)
    x, mask, depth, normal = (np.asarray(v[0]) for v in seen)
    return Rendering(x, mask, depth, normal, mask, mask, mask)
  return Object(render, density, color, 1., SIZE)


@pytest.fixture(scope='module')
def car():
  return evaluate.score_views('a red car', object_of('a red car'))


def test_the_truth_is_perfect(car):
  assert car['silhouette_iou'] == 1. and car['pose_gap'] == 0. and car['yaw'] == 0.
  assert car['psnr'] > 60. and car['color_error'] < 1e-3 and car['normal_degrees'] < .1
  assert car['color_right'] and car['color_found'] == 'red'
  assert car['one_front'] and car['front'] == car['back'] == pytest.approx(1., abs=1e-4) and car[
      'symmetry'] < 1e-4
  assert set(car) <= set(evaluate.MEANING)


def test_a_turned_car_is_told_by_its_pose_not_by_its_shape(car):
  found = evaluate.score_views('a red car', object_of('a red car', turn=math.pi / 2.))
  assert found['yaw'] == pytest.approx(90.) and found['pose_gap'] > .1
  assert found['silhouette_iou'] + found['pose_gap'] > .95


def test_the_wrong_color_is_named():
  found = evaluate.score_views('a red cone on a blue cube', object_of('a red cone on a green cube'))
  assert found['color_found'] == 'red, green' and not found['color_right']
  assert found['one_front'] is None and found['symmetry'] is None


def test_the_exact_shape_as_a_density_has_its_surface_and_volume(monkeypatch):
  monkeypatch.setattr(evaluate, 'SURFACE', 4000)
  prompt = 'a red torus'
  distance = truth.shape(prompt).distance
  density = lambda xyz: 60. / (1. + np.exp(np.clip(80. * np.asarray(distance(xyz)), -50., 50.)))
  color = lambda xyz: np.full((len(xyz), 3), [.9, .1, .1])
  object = object_of(prompt, density=density, color=color)
  found = evaluate.score_shape(prompt, object, evaluate.extract(object, resolution=48))
  assert found['volume_iou'] > .88 and found['chamfer'] < .03 and found['mesh_iou'] > .95 and found[
      'watertight']
  empty = object._replace(density=lambda xyz: 0. * xyz[:, 0])
  nothing = evaluate.score_shape(prompt, empty, evaluate.extract(empty, resolution=8))
  assert set(nothing.values()) == {None} and set(nothing) == set(found)


def test_every_kind_with_a_front_has_one_that_differs_from_its_back():
  camera = cameras.orbit((16, .15), (16, .6))  # a shape of batch that is compiled already
  for kind in world.FRONT:
    item = world.parse('a snowman with a red hat' if kind == 'snowman' else f'a red {kind}')
    x, _ = evaluate.true_pictures(world.caption(item), camera, size=SIZE)
    assert evaluate.unlikeness(x[::16], x[8::16]) > .004, kind


def test_the_rivals_of_a_prompt_differ_in_one_word():
  items = evaluate.rivals('a red cube')
  captions = [world.caption(jax.tree.map(lambda a, i=i: a[i], items))
              for i in range(len(items.relation))]
  assert captions[0] == 'a red cube' and len(set(captions)) == len(captions)
  assert len(captions) == len(world.COLORS) + len(world.KINDS) - 1
  words = [set(caption.split()) - {'a', 'an'} for caption in captions]
  assert all(len(words[0] - other) == 1 for other in words[1:])


def test_read_back_asks_the_reader_for_the_best_of_the_rivals(monkeypatch, tmp_path):
  x = np.zeros((3, SIZE, SIZE, 3))
  monkeypatch.setattr(geometry, 'SHIPPED', tmp_path / 'none')
  assert evaluate.read_back('a red cube', x) is None
  monkeypatch.setattr(geometry, 'SHIPPED', tmp_path)
  monkeypatch.setattr(geometry, 'shipped', lambda: None)
  def scores(weights, x, items):  # the prompt for the first two pictures, a rival for the last
    n = items.relation.shape[0]
    return jax.nn.one_hot(np.array([0, 0, 1]), n)
  monkeypatch.setattr(geometry, 'caption_scores', scores)
  assert evaluate.read_back('a red cube', x) == pytest.approx(2 / 3)
