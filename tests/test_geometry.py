"""The networks that look at pictures: what they are told, how they are scored, and that they
learn."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import cameras
from jaxdreamer.toybox import geometry, network, train_geometry, views, world
from jaxdreamer.weights import safetensors_io

KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def weights():
  return jax.jit(geometry.init)(KEY)


def test_pearson_is_numpys_over_the_mask():
  a, b, mask = np.random.default_rng(0).normal(size=(3, 200))
  mask = (mask > 0.).astype(float)
  where = mask > 0.
  found = geometry.pearson(*map(jnp.asarray, (a, a + b, mask)))
  np.testing.assert_allclose(found, np.corrcoef(a[where], (a + b)[where])[0, 1], atol=1e-6)
  np.testing.assert_allclose(geometry.pearson(jnp.asarray(a), 3. - 2. * jnp.asarray(a),
                                              jnp.asarray(mask)), -1., atol=1e-6)
  # a flat guess knows nothing
  assert geometry.pearson(jnp.ones(9), jnp.arange(9.), jnp.ones(9)) == 0.


@pytest.mark.slow
def test_the_score_of_a_caption_is_the_sum_of_its_parts(weights):
  captions = ['a red cube', 'a striped blue mug', 'a green cone on a yellow cylinder',
              'a yellow cylinder beside a green cone']
  items = [world.parse(caption) for caption in captions]
  x = jax.random.uniform(KEY, (3, geometry.SIZE, geometry.SIZE, 3))
  scores = geometry.caption_scores(weights, x, jax.tree.map(lambda *leaves: jnp.stack(leaves),
                                                            *items))
  said = geometry.read(weights, x)
  for i in range(3):
    for j, item in enumerate(items):
      chances = [np.exp(sum(said[head][i, int(index)]
                            for head, index in geometry.labels(item, turned).items()))
                 for turned in (False, True)]
      np.testing.assert_allclose(scores[i, j], np.log(np.mean(chances)), rtol=1e-5)
  turned = jax.tree.map(lambda leaf: leaf[None],
                        world.parse('a green cone beside a yellow cylinder'))
  same = geometry.caption_scores(weights, x, turned)  # who is named first says nothing of a picture
  np.testing.assert_allclose(same[:, 0], scores[:, 3], rtol=1e-6)
  assert all(abs(np.exp(v).sum(-1) - 1.).max() < 1e-5 for v in said.values())


def test_a_lone_toy_has_no_second_object():
  alone, pair = (geometry.labels(world.parse(caption), False)
                 for caption in ('a red cube', 'a red cube on a blue cylinder'))
  assert {name: int(v) for name, v in alone.items() if name.endswith('_b')} == {
    'kind_b': len(world.KINDS), 'color_b': len(world.COLORS), 'pattern_b': len(world.PATTERNS)}
  assert int(pair['kind_b']) == world.KINDS.index('cylinder') and int(pair['color_b']) == list(
      world.COLORS).index('blue')


@pytest.mark.slow
def test_normals_have_length_one_and_gradients_reach_the_picture(weights):
  x = jax.random.uniform(KEY, (2, geometry.SIZE, geometry.SIZE, 3))
  disparity, normal = geometry.geometry(weights, x)
  assert disparity.shape == (2, geometry.SIZE, geometry.SIZE)
  np.testing.assert_allclose(jnp.linalg.norm(normal, axis=-1), 1., atol=1e-3)
  grad = jax.grad(lambda x: jnp.sum(geometry.geometry(weights, x)[0] ** 2))(x)
  assert np.isfinite(grad).all() and (np.abs(grad).max((1, 2, 3)) > 0.).all()


def test_noisy_pictures_are_those_of_the_prior_at_unit_scale():
  x, t = jax.random.uniform(KEY, (2, 64, 64, 3)), jnp.array([.1, .4])
  z = 2. * train_geometry.noisy(KEY, x, t) - 1.
  alpha, sigma = network.SCHEDULE.alpha(t), network.SCHEDULE.sigma(t)
  rest = z - alpha[:, None, None, None] * (2. * x - 1.)
  np.testing.assert_allclose(rest.std((1, 2, 3)), sigma, rtol=.03)


@pytest.mark.slow
def test_disparity_and_normals_of_fresh_renders_fit_together():
  """Finite differences of the stored depth agree in sign with the stored camera-frame normal."""
  ring = jax.jit(lambda key: train_geometry.fresh(key, 8))(KEY)
  inside = np.asarray(ring.mask) > 250
  near = np.asarray(ring.disparity, np.float32)
  right = near[:, :, 2:] - near[:, :, :-2]  # nearer to the right: the surface faces left
  where = inside[:, :, 2:] & inside[:, :, :-2] & (np.abs(right) > .004)
  normal = np.asarray(ring.normal, np.float32)[:, :, 1:-1, 0] / 127.
  assert where.sum() > 50 and np.mean((right * normal)[where] < 0.) > .9


@pytest.mark.slow
def test_every_pixel_of_the_mask_has_a_disparity_of_the_toy():
  """Half covered ones too: a single 0 among them would outweigh the toy's whole relief in a
  correlation."""
  ring = jax.jit(lambda key: train_geometry.fresh(key, 8))(KEY)
  near, on = np.asarray(ring.disparity, np.float32), np.asarray(ring.mask) > 127
  distance = np.asarray(ring.camera.distance)[:, None, None]
  assert (np.asarray(ring.mask) == 128).sum() > 20             # two of four rays of a pixel hit
  assert np.where(on, np.abs(1. / np.maximum(near, 1e-3) - distance), 0.).max() < 1.2


@pytest.mark.slow
def test_both_losses_fall(monkeypatch):
  monkeypatch.setattr(geometry, 'geometry_net', geometry.Geometry(widths=(16, 32)))
  monkeypatch.setattr(geometry, 'reader_net', geometry.Reader(widths=(16, 32)))
  tx = train_geometry.optimizer()
  # not the cached ones of the whole networks
  weights = jax.jit(lambda key: geometry.init(key))(KEY)
  ring = jax.jit(lambda key: train_geometry.fresh(key, 8))(KEY)
  step = jax.jit(train_geometry.make_step(tx, n=8, steps=1, fraction=.4, peak=6e-3),
                 donate_argnums=0)
  losses = jax.jit(lambda w: {name: of(w, *train_geometry.examples(KEY, ring, 8, fraction=0.)[:2],
                                       jnp.float32)
                              for name, of in train_geometry.LOSSES.items()})
  state, before = (jnp.int32(200), weights, tx.init(weights), jax.random.key(1)), losses(weights)
  for _ in range(30):
    state, _ = step(state, ring, jnp.float32(0.))
  after = losses(state[1])
  assert all(float(after[name]) < .9 * float(before[name]) for name in train_geometry.LOSSES), (
      before, after)


@pytest.mark.slow
@pytest.mark.parametrize('azimuth', [0., .8, 2., 3.1, 4., 5.5])
def test_a_is_the_toy_on_the_left_of_the_picture(azimuth):
  """Judged by the picture's own pixels: red against blue."""
  item = world.parse('a red cube beside a blue ball')
  camera = cameras.orbital(jnp.float32(azimuth), jnp.float32(.2), jnp.float32(3.), jnp.float32(.7))
  light = views.sample_light(KEY)
  one = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)
  seen = views.render_batch(item._replace(color=item.color[None], pattern=item.pattern[None]),
                            one(camera), one(light),
                            size=32, supersample=1)
  red, blue = (np.asarray(seen.rgb[0])[..., c] * np.asarray(seen.mask[0]) for c in (0, 2))
  across = np.arange(32)[None]
  red_is_left = (np.where(red > blue, red, 0.) * across).sum() / np.where(red > blue, red,
                                                                          0.).sum() < (
np.where(blue > red, blue, 0.) * across).sum() / np.where(blue > red, blue, 0.).sum()
  classes = geometry.labels(item, geometry.mirrored(camera))
  names = [list(world.COLORS)[int(classes[head])] for head in ('color_a', 'color_b')]
  assert names == (['red', 'blue'] if red_is_left else ['blue', 'red'])


def test_who_stands_on_whom_does_not_depend_on_the_camera():
  for turned in (False, True):
    classes = geometry.labels(world.parse('a red cube on a blue cylinder'), turned)
    assert int(classes['kind_a']) == world.KINDS.index('cube') and int(
        classes['kind_b']) == world.KINDS.index('cylinder')


@pytest.mark.slow
def test_the_shipped_networks_know_the_toybox():
  """On renders of a key that training never saw, as well as their card says, within what so few
  pictures can tell."""
  card = json.loads(safetensors_io.read_metadata(geometry.SHIPPED)['scores'])
  seen = train_geometry.held_out(jax.random.key(77), geometry.shipped(), batches=8)
  for name in ('depth_pearson_clean', 'depth_pearson_noisy', 'normal_cosine'):
    assert seen[name] > card[name] - .1, (name, seen[name], card[name])
  assert seen['read_relation'] > .8 and seen['depth_pearson_clean'] > seen['depth_pearson_noisy']
