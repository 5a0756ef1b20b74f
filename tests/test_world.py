"""The embedded world: distances are distances, toys fit, pairs touch, and what is said is what is
meant."""
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxdreamer.toybox import world

COLORS = tuple(world.COLORS)
ALONE = [f'a {COLORS[i % len(COLORS)]} {kind}' for i, kind in enumerate(world.KINDS)]
PAIRS = ([f'a red {a} on a blue {b}' for a in world.SOLIDS for b in world.BASES]
         + [f'a red {a} beside a blue {b}' for a in world.SOLIDS for b in world.SOLIDS])
distance, surface, gradient, of_both = (jax.jit(f) for f in (world.distance, world.surface,
                                                             world.gradient, world._pair))


def random_points(n, reach):
  return tuple(jnp.asarray(u) for u in np.random.default_rng(0).uniform(-reach, reach,
                                                                        (3, n)).astype(np.float32))


def same(a, b):
  return all(np.array_equal(u, v) for u, v in zip(a, b))


def draw(n):
  """n random items, a view for each, and the tokens of a random caption."""
  def one(key):
    k_item, k_view, k_words = jax.random.split(key, 3)
    item, view = world.sample(k_item), jax.random.randint(k_view, (), -1, 4)
    return item, view, world.tokens(k_words, item, view)
  items, views, tokens = jax.device_get(
      jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), n)))
  return [jax.tree.map(lambda v, i=i: v[i], items) for i in range(n)], views, tokens


def test_the_sphere_and_the_cube_are_exact():
  p = random_points(5000, 1.5)
  rows = np.stack(p)
  radius, half = world.toys.BALL, world.toys.CUBE
  np.testing.assert_allclose(distance(world.parse('a red sphere'), p), np.linalg.norm(rows, axis=0)
                             - radius, atol=1e-5)
  nearest = np.clip(rows, -half, half)
  outside, inside = np.linalg.norm(rows - nearest, axis=0), np.min(half - np.abs(rows), axis=0)
  np.testing.assert_allclose(distance(world.parse('a red cube'), p),
                             np.where(outside > 0., outside, -inside), atol=1e-5)


@pytest.mark.parametrize('caption', ALONE + PAIRS[::7])
def test_distance_is_lipschitz_and_the_toy_fits_the_ball(caption):
  item, p = world.parse(caption), random_points(20000, 1.2)
  step = np.random.default_rng(1).normal(size=(3, 20000)) * np.exp(np.random.default_rng(2).uniform(
      -5., -1., 20000))
  q = tuple(u + jnp.asarray(s, jnp.float32) for u, s in zip(p, step))
  at_p, at_q = np.asarray(distance(item, p)), np.asarray(distance(item, q))
  apart = np.sqrt(sum((np.asarray(u) - np.asarray(v)) ** 2 for u, v in zip(p, q)))
  assert np.all(np.abs(at_p - at_q) <= apart * 1.0001 + 1e-6)
  slope = np.sqrt(sum(np.asarray(g) ** 2 for g in gradient(item, p)))
  # taps straddle creases
  assert (slope <= 1.001).mean() > .9 and slope.max() < 1.25 and np.isfinite(at_p).all()
  reach = np.sqrt(sum(np.asarray(u) ** 2 for u in p))[at_p < 0.]
  assert .75 < reach.max() <= world.RADIUS


@pytest.mark.parametrize('caption', ALONE + PAIRS[::7] + ['a spotted pink teapot'])
def test_a_known_composition_is_the_toy_that_an_argument_would_choose(caption):
  item, p = world.parse(caption), random_points(300, 1.)
  for known, chosen in ((world.distance, distance), (world.gradient, gradient),
                        (world.surface, surface)):
    chex.assert_trees_all_close(known(item, p), chosen(item, p), atol=4e-4 if chosen is gradient
                                else 2e-6)
  one = jax.make_jaxpr(partial(world.distance, item))(p)
  assert 'cond' not in str(one) and 'cond' in str(jax.make_jaxpr(world.distance)(item, p))


@pytest.mark.parametrize('caption', PAIRS)
def test_two_solids_touch_or_stand_on_one_floor(caption):
  item = world.parse(caption)
  (_, z_a, s_a), (_, z_b, s_b) = world.PLACES[int(item.relation), int(item.kind[0]),
                                              int(item.kind[1])]
  assert 0. < s_a < 1.01 and 0. < s_b < 1.01
  p = random_points(20000, .9)
  _, (first, second) = of_both(item, p)
  both = np.maximum(first, second)
  if int(item.relation) == world.ON:
    assert z_a > z_b and -.01 < both.min() < .1
  else:
    low = [np.asarray(p[2])[np.asarray(d) < 0.].min() for d in (first, second)]
    assert both.min() > .03 and abs(low[0] - low[1]) < .08


@pytest.mark.slow
def test_vmap_over_items_agrees_with_one_at_a_time():
  items = [world.parse(c) for c in ('a red car', 'a striped blue cube',
                                    'a green cone on a yellow cylinder')]
  p = random_points(50, .9)
  stacked = jax.tree.map(lambda *v: jnp.stack(v), *items)
  together = jax.jit(jax.vmap(lambda i: (world.distance(i, p), world.surface(i, p))))(stacked)
  for i, item in enumerate(items):
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[i], together),
                                (distance(item, p), surface(item, p)), rtol=1e-7, atol=1e-6)


def test_each_solid_of_a_pair_wears_its_own_color():
  item = world.parse('a green ball beside a red cube')
  y = jnp.array([-.7, .7])  # seen from the front, the first stands on the left
  rgb = np.stack(surface(item, (jnp.zeros(2), y, jnp.zeros(2))), -1)
  np.testing.assert_allclose(rgb, [world.COLORS['green'], world.COLORS['red']], atol=1e-6)


def test_patterns_alternate_the_main_color_with_one_other():
  p = random_points(4000, .5)
  for pattern in world.PATTERNS[1:]:
    red = np.stack(surface(world.parse(f'a {pattern} red cube'), p), -1)
    is_red = np.all(np.abs(red - world.COLORS['red']) < 1e-6, -1)
    assert .3 < is_red.mean() < .9 and np.allclose(red[~is_red], .95)


def test_the_snowman_wears_his_color_on_the_hat_alone():
  top, belly = (jnp.array([[v] for v in p]) for p in ((.05, .05, .88), (-.3, 0., -.5)))
  for color in COLORS:
    item = world.parse(f'a snowman with a {color} hat')
    np.testing.assert_allclose(np.stack(surface(item, tuple(top)), -1)[0], world.COLORS[color],
                               atol=1e-6)
    np.testing.assert_allclose(np.stack(surface(item, tuple(belly)), -1)[0],
                               world.toys.FIXED[world.toys.SNOW], atol=1e-6)


@pytest.mark.slow
def test_random_captions_parse_to_the_item_they_were_made_for():
  items, views, tokens = draw(3000)
  for item, view, ids in zip(items, views, tokens):
    text = world.words(ids)
    assert same(world.parse(text), item), text
    assert same(world.parse(world.caption(item)), item), world.caption(item)
    assert np.array_equal(world.tokenize(text), ids), text
    assert ids.argmax() == np.flatnonzero(ids == world.EOS)[0] and ids[0] == world.BOS
    assert text.endswith(f'{world.VIEW_WORDS[view]} view') if view >= 0 else 'view' not in text
  assert {int(i.kind[0]) for i in items} == set(range(len(world.KINDS)))


def test_samples_have_the_advertised_shares():
  items, _, _ = draw(3000)
  pairs = np.array([int(i.relation) != world.ALONE for i in items])
  dressed = np.array([int(i.pattern[0]) > 0 for i in items])
  assert abs(pairs.mean() - .4) < .04 and abs(dressed[~pairs].mean() - .25) < .04 and not dressed[
      pairs].any()
  assert all(i.color[0] != i.color[1] for i, is_pair in zip(items, pairs) if is_pair)


@pytest.mark.parametrize(('said', 'meant'), [
  ('A cube, red', 'a red cube'), ('The donut in violet, front view', 'a purple torus'),
  ('a red cube under a blue ball', 'a blue sphere on a red cube'),
  ('Teddy with stripes, gray', 'a striped grey bear'),
  ('a yellow pill next to a stripy green box', 'a yellow capsule beside a striped green cube'),
  ('snowman wearing a dotted turquoise hat', 'a snowman with a spotted cyan hat'),
  ('a red snowman', 'a snowman with a red hat'),
  ('a green cone on top of a yellow drum overhead view', 'a green cone on a yellow cylinder')])
def test_parse_is_tolerant(said, meant):
  assert world.caption(world.parse(said)) == meant


@pytest.mark.parametrize('caption', [
  'a red cube', 'a blue torus', 'a green cone on a yellow cylinder', 'a yellow mug', 'a red car',
  'a snowman with a blue hat',
  'a purple house', 'an orange chair', 'a blue sphere beside a red cube'])
def test_the_captions_of_the_scoreboard_are_canonical(caption):
  assert world.caption(world.parse(caption)) == caption


@pytest.mark.parametrize(('text', 'reason'), [
  ('a purple hause', "unknown word 'hause'.*house"), ('a red zebra', 'unknown word'),
  ('a red', 'no toy'), ('', 'no toy'),
  ('a cube', 'no color for the cube'), ('a red blue cube', 'two colors'),
  ('a red cube ball', 'two kinds'),
  ('a red car on a blue cube', 'no car in pairs'), ('a red cube on a blue pyramid',
                                                    'no pyramid below'),
  ('a red cube on a blue cube on a green cube', 'out of place'), ('a red cube on', 'no toy')])
def test_parse_refuses_in_one_line(text, reason):
  with refused(reason):
    world.parse(text)


def test_a_caption_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='at most'):
    world.tokenize('red ' * world.LENGTH)
  assert list(world.tokenize('')[:3]) == [world.BOS, world.EOS, world.PAD]
