"""The truth scores itself perfectly; what is turned, or of the wrong color, is named."""
import math

import jax
import numpy as np
import pytest

from jaxdreamer import cameras, evaluate, scores
from jaxdreamer.objects import Object
from jaxdreamer.toybox import geometry, truth, world
from jaxdreamer.types import Rendering

SIZE = 32


@pytest.mark.slow
@pytest.mark.parametrize('prompt, which', [('a spotted pink teapot', 0),
                                           ('a red cone on a blue cube', 1)])
def test_all_colors_of_an_object_follow_from_three(prompt, which):
  item, camera = world.parse(prompt), cameras.orbit((3, .4))
  found = truth.in_each_color(item, which, camera, size=SIZE)
  for k, color in enumerate(world.COLORS):
    repainted = world.caption(world.repainted(item, which, k))
    assert color in repainted
    np.testing.assert_allclose(found[k], evaluate.true_pictures(repainted, camera, size=SIZE)[0],
                               atol=2e-5)


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


@pytest.mark.slow
def test_the_truth_is_perfect(car):
  assert car['silhouette_iou'] == 1. and car['pose_gap'] == 0. and car['yaw'] == 0.
  assert car['psnr'] > 60. and car['color_error'] < 1e-3 and car['normal_degrees'] < .1
  assert car['color_right'] and car['color_found'] == 'red'
  assert car['one_front'] and car['front'] == car['back'] == pytest.approx(1., abs=1e-4) and car[
      'symmetry'] < 1e-4
  assert set(car) <= set(scores.MEANING)


@pytest.mark.slow
def test_a_turned_car_is_told_by_its_pose_not_by_its_shape(car):
  found = evaluate.score_views('a red car', object_of('a red car', turn=math.pi / 2.))
  assert found['yaw'] == pytest.approx(90.) and found['pose_gap'] > .1
  assert found['silhouette_iou'] + found['pose_gap'] > .95


def test_the_wrong_color_is_named():
  found = evaluate.score_views('a red cone on a blue cube', object_of('a red cone on a green cube'))
  assert found['color_found'] == 'red, green' and not found['color_right']
  assert found['one_front'] is None and found['symmetry'] is None


@pytest.mark.slow
def test_the_exact_shape_as_a_density_has_its_surface_and_volume(monkeypatch):
  monkeypatch.setattr(scores, 'SURFACE', 4000)
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
    seen = truth.views(world.caption(item), camera, size=SIZE, many=True)
    x = truth.over_gray(seen.rgb, seen.mask)
    assert scores.unlikeness(x[::16], x[8::16]) > .004, kind


def test_the_rivals_of_a_prompt_differ_in_one_word():
  items = truth.rivals('a red cube')
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
  def choose(weights, x, items):  # the prompt for the first two pictures, a rival for the last
    n = items.relation.shape[0]
    return jax.nn.one_hot(np.array([0, 0, 1]), n)
  monkeypatch.setattr(geometry, 'caption_scores', choose)
  assert evaluate.read_back('a red cube', x) == pytest.approx(2 / 3)
