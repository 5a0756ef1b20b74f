"""The toybox's small Stable Diffusion: its tokenizer, its files, what trains it and on what."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxdreamer import build, cameras
from jaxdreamer.configs import toybox_sd
from jaxdreamer.diffusion import PREDICTIONS, bcast, diffuse
from jaxdreamer.nn import lora, mvdream
from jaxdreamer.priors import mvdream as priors_mvdream
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.toybox import (
  geometry,
  language,
  meaning,
  render_buffer,
  sd,
  sd_inspection,
  sd_text,
  sd_training,
  train_autoencoder,
  train_mvdream,
  views,
  world,
)
from jaxdreamer.weights import clip_tokens, lora_files, loras
from jaxdreamer.weights.diffusers_folder import open_model

KEY = jax.random.key(0)
QUICK = {'xla_backend_optimization_level': 0}
pytestmark = pytest.mark.usefixtures('own_cache')


def drawn(init, seed=0):
  """Weights like `init`'s, of a seed."""
  return jax.tree.map(jnp.asarray, published.filled(jax.eval_shape(init, KEY), seed))


@pytest.fixture(scope='module')
def weights():
  return drawn(sd.init), drawn(sd.init_autoencoder, 1)


@pytest.fixture(scope='module')
def folder(weights, tmp_path_factory):
  place = tmp_path_factory.mktemp('sd')
  sd.save_autoencoder(place, weights[1], scale=.7, dtype=jnp.float32)
  sd.save(place, weights[0], prediction='epsilon', dtype=jnp.float32)
  return place


def test_every_word_is_one_token_and_training_writes_what_the_tokenizer_reads(folder):
  read = clip_tokens.load(folder / 'tokenizer')
  ends = read(language.VOCABULARY[2:-1])[:, 2]
  end = sd_text.vocabulary()[clip_tokens.END]
  assert (ends == end).all()
  draw = jax.jit(sd_text.tokens, compiler_options=QUICK)
  for i in range(60):
    key, view = jax.random.key(i), i % 5 - 1
    item = world.sample(key)
    said = language.words(language.tokens(key, item, jnp.int32(-1)))
    text = said + (f', {language.VIEW_WORDS[view]} view' if view >= 0 else '')
    np.testing.assert_array_equal(draw(key, item, jnp.int32(view)), read([text])[0])
    np.testing.assert_array_equal(sd_text.tokenize([text]), read([text]))
  np.testing.assert_array_equal(sd_text.blank(), read([''])[0])
  assert len(set(read(['a wooden badger'])[0])) > 6       # other words come in pieces, none is lost


def test_training_speaks_as_the_shipped_tokenizer_reads_in_every_process(tmp_path):
  read = clip_tokens.load(sd.SHIPPED / 'tokenizer')
  words = [word for word in language.VOCABULARY[2:-1] if word != sd_text.COMMA]
  np.testing.assert_array_equal(sd_text.tokenize(words), read(words))
  sd_text.learn(tmp_path)                                # of which the order of some is chance
  ours, anew = (set((folder / 'merges.txt').read_text().splitlines())
                for folder in (sd.SHIPPED / 'tokenizer', tmp_path))
  assert ours == anew
  again = clip_tokens.load(tmp_path)
  assert (again(words)[:, 2] == again([''])[0, 1]).all()


@pytest.mark.slow
@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
def test_a_folder_is_read_as_published_ones_are(weights, folder, tmp_path, prediction):
  place = tmp_path / 'model'
  sd.save_autoencoder(place, weights[1], scale=.7, dtype=jnp.float32)
  sd.save(place, weights[0], prediction=prediction, dtype=jnp.float32)
  prior = stable_diffusion(path=str(place), dtype='float32')
  assert (prior.image_size, prior.latent) == (64, (16, 16, 4))
  text = prior.embed('a red mug', '')
  words, _ = sd.embed(weights[0], jnp.asarray(sd_text.tokenize(['a red mug, side view'])))
  np.testing.assert_allclose(text.views[1], words[0], atol=1e-5)
  z, t = jax.random.normal(KEY, (2, 16, 16, 4)), jnp.array([.2, .9])
  rows = jnp.stack([text.plain, text.null])
  ours = jax.jit(prior.eps, compiler_options=QUICK)(z, t, rows, None)
  model = sd_inspection.load(place)
  assert model.prediction == prediction and model.scale == .7
  theirs = jax.jit(sd_inspection.eps_of, static_argnames='prediction', compiler_options=QUICK)(
      model.weights, z, t, rows, None, prediction=prediction)
  np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
  x = jax.random.uniform(KEY, (1, 64, 64, 3))
  encoded = jax.jit(lambda w, x: sd.encode(w, x).mean, compiler_options=QUICK)(weights[1], x)
  np.testing.assert_allclose(prior.encode(x), .7 * encoded, atol=1e-5 * np.abs(encoded).max())


def guessing(monkeypatch, x0_hat, prediction):
  """A UNet that always guesses this latent."""
  def predict(params, z_t, t, words, where=None, *, dtype=jnp.float32):
    schedule = sd_training.SCHEDULE
    alpha, sigma = (bcast(f(t), z_t) for f in (schedule.alpha, schedule.sigma))
    eps = (z_t - alpha * x0_hat) / sigma
    return {'epsilon': eps, 'v_prediction': alpha * eps - sigma * x0_hat}[prediction]
  monkeypatch.setattr(sd, 'predict', predict)
  monkeypatch.setattr(sd, 'embed', lambda params, ids: (None, jnp.zeros((len(ids), 128))))


@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
def test_the_loss_is_that_of_v_whatever_is_predicted(monkeypatch, prediction):
  """Of a guess that is off by d everywhere v is off by d / sigma: closed form, times are
  stratified."""
  n, off = 4000, .3
  z, mask = jnp.ones((n, 1, 1, 4)), jnp.ones((n, 1, 1))
  classes = {name: jnp.full(n, -1) for name in geometry.HEADS}
  params = {'meaning': meaning.heads(128)}
  guessing(monkeypatch, z + off, prediction)
  ids = jnp.zeros((n, 24), jnp.int32)
  loss = lambda z: sd_training.loss(params, KEY, z, ids, mask, classes, None,
                                    prediction=prediction)
  t = (np.arange(n) + .5) / n
  expected = np.mean((off / np.asarray(sd_training.SCHEDULE.sigma(jnp.asarray(t)))) ** 2)
  np.testing.assert_allclose(loss(z), expected, rtol=.02)
  guessing(monkeypatch, z, prediction)
  assert loss(z) < 1e-4
  known = {name: jnp.zeros(n, jnp.int32) for name in geometry.HEADS}
  chance = sum(np.log(size) for size in geometry.HEADS.values())
  np.testing.assert_allclose(sd_training.loss(params, KEY, z, jnp.zeros((n, 24), jnp.int32), mask,
                                           known, None, prediction=prediction),
                             meaning.WEIGHT * chance, rtol=1e-3)


def test_the_objects_places_weigh_more_in_a_mean_of_one(monkeypatch):
  z = jnp.zeros((2, 1, 2, 4))
  mask = jnp.array([[[1., 0.]]] * 2)
  guessing(monkeypatch, z + jnp.array([.2, 0.])[None, None, :, None], 'epsilon')
  classes = {name: jnp.full(2, -1) for name in geometry.HEADS}
  at = lambda emphasis: sd_training.loss({'meaning': meaning.heads(128)}, KEY, z,
                                      jnp.zeros((2, 24), jnp.int32), mask, classes, None,
                                      prediction='epsilon', emphasis=emphasis)
  heavy = 1. + sd_training.OBJECT_WEIGHT
  np.testing.assert_allclose(at(1.) / at(0.), heavy / ((heavy + 1.) / 2.), rtol=1e-5)


def test_latents_of_the_ring_are_draws_of_their_posterior_and_words_are_dropped_as_said():
  n, slots = 3000, 2
  item = jax.vmap(world.sample)(jax.random.split(KEY, slots))
  ring = sd_training.Ring(jnp.array([1., -1.], jnp.float16)[:, None, None, None] * jnp.ones(
      (1, 2, 2, 4), jnp.float16), jnp.full((slots, 2, 2, 4), .25, jnp.float16),
      jnp.full((slots, 2, 2), 51, jnp.uint8), item, jnp.array([0, 3]))
  z, ids, mask, classes, _ = jax.jit(lambda key: sd_training.examples(key, ring, n),
                                  compiler_options=QUICK)(KEY)
  np.testing.assert_allclose(np.abs(np.sign(z) * z - 1.).mean(), .25 * np.sqrt(2. / np.pi),
                             rtol=.03)
  np.testing.assert_allclose(mask, 51 / 255., rtol=1e-6)
  blank = np.asarray((ids == sd_text.blank()[None]).all(-1))
  assert abs(blank.mean() - meaning.CAPTION_DROPPED) < .02
  for label in classes.values():
    np.testing.assert_array_equal(np.asarray(label) == -1, blank)
  comma = sd_text.vocabulary()[f'{sd_text.COMMA}</w>']
  told = np.asarray((ids == comma).any(-1))[~blank]
  assert abs(told.mean() - meaning.VIEW_WORDS) < .03
  first = np.asarray(z).mean((1, 2, 3)) > 0.
  front = sd_text.vocabulary()['front</w>']
  np.testing.assert_array_equal(np.asarray((ids == front).any(-1))[~blank], told & first[~blank])


@pytest.mark.slow
def test_the_ring_holds_what_the_autoencoder_makes_of_renders(weights, monkeypatch):
  """On pictures that are quickly made: the mean is that of the picture under its background."""
  def pool(key, n, *, size):
    bits = lambda k, *shape: jax.random.bits(k, shape, jnp.uint8)
    k_rgb, k_mask = jax.random.split(key)
    return render_buffer.Pool(bits(k_rgb, n, size, size, 3) // 2, bits(k_mask, n, size, size),
                              jnp.zeros((n, size, size, 3), jnp.int8),
                              jax.vmap(world.sample)(jax.random.split(key, n)),
                              jax.vmap(cameras.sample)(jax.random.split(key, n)))
  monkeypatch.setattr(render_buffer, 'batch', pool)
  monkeypatch.setattr(render_buffer, 'background', lambda key, size: jnp.full((size, size, 3), .5))
  ring = jax.jit(lambda key: sd_training.renders(key, weights[1], .7, fresh=2),
                 compiler_options=QUICK)(KEY)
  made = pool(jax.random.split(KEY)[0], 2, size=64)
  x = jax.vmap(render_buffer.composite)(made.rgb, made.mask, jnp.full((2, 64, 64, 3), .5))
  mean, logvar = jax.jit(sd.encode, compiler_options=QUICK)(weights[1], x)
  np.testing.assert_allclose(ring.mean, .7 * mean, atol=2e-3 * np.abs(mean).max())
  np.testing.assert_allclose(ring.spread, .7 * np.exp(.5 * logvar), rtol=2e-3, atol=1e-4)
  np.testing.assert_allclose(ring.mask, np.asarray(made.mask).reshape(2, 16, 4, 16, 4).mean((2, 4)),
                             atol=1.)
  np.testing.assert_array_equal(ring.view, views.view_bin(made.camera.azimuth,
                                                          made.camera.elevation))


def test_the_autoencoders_loss_is_squared_error_and_divergence(monkeypatch):
  x, mask = jnp.full((2, 4, 4, 3), .75), jnp.zeros((2, 4, 4)).at[:, 0].set(1.)
  row = jnp.zeros((2, 4, 4, 3)).at[:, 0].set(.1)
  monkeypatch.setattr(sd, 'decode', lambda w, z, **kw: x + row)
  posterior = lambda mean, logvar: lambda w, x, **kw: (jnp.full((2, 1, 1, 4), mean),
                                                       jnp.full((2, 1, 1, 4), logvar))
  monkeypatch.setattr(sd, 'encode', posterior(0., 0.))
  heavy = 1. + train_autoencoder.OBJECT_WEIGHT
  expected = 4. * .01 * heavy / (heavy + 3.)
  np.testing.assert_allclose(train_autoencoder.loss({}, KEY, x, mask), expected, rtol=1e-5)
  np.testing.assert_allclose(train_autoencoder.loss({}, KEY, x, mask, emphasis=0.), .01, rtol=1e-5)
  monkeypatch.setattr(sd, 'encode', posterior(2., -1.))
  divergence = .5 * (4. + np.exp(-1.) - 1. + 1.)
  np.testing.assert_allclose(train_autoencoder.loss({}, KEY, x, mask), expected
                             + train_autoencoder.DIVERGENCE * divergence, rtol=1e-5)


def test_pictures_are_faded_towards_their_background(monkeypatch):
  monkeypatch.setattr(render_buffer, 'background', lambda key, size: jnp.full((size, size, 3), .25))
  one = lambda a: jnp.stack([a] * 2)
  pool = render_buffer.Pool(one(jnp.full((4, 4, 3), 255, jnp.uint8)),
                            one(jnp.full((4, 4), 255, jnp.uint8)),
                            jnp.zeros((2, 4, 4, 3), jnp.int8), None, None)
  monkeypatch.setattr(sd, 'SIZE', 4)
  x, mask = train_autoencoder.pictures(KEY, pool, 4000)
  shown = (np.asarray(x)[:, 0, 0, 0] - .25) / .75
  assert mask.min() == 1. and abs((shown < 1.).mean() - train_autoencoder.FADED) < .03
  assert abs(shown[shown < 1.].mean() - .5) < .03


@pytest.mark.slow
def test_fidelity_of_true_renders_is_the_readers_own(monkeypatch):
  """Where samples are renders of the very captions from the very cameras, the reader reads them
  right: also two beside one another, from behind."""
  asked = []
  real = jax.vmap(world.sample)
  def sample(key, model, ids):
    i = len(asked)
    k_item, _, k_camera, _ = jax.random.split(jax.random.fold_in(jax.random.key(1), 8 * i), 4)
    items = real(jax.random.split(k_item, 8))
    camera = jax.vmap(views.sample_camera)(jax.random.split(k_camera, 8))
    pick = lambda tree, j: jax.tree.map(lambda a: a[j], tree)
    shown = [views.render(jax.tree.map(np.asarray, pick(items, j)), pick(camera, j), views.LIGHT,
                          size=64) for j in range(8)]
    asked.append(ids)
    return jnp.stack([v.rgb + (1. - v.mask[..., None]) * .5 for v in shown])
  monkeypatch.setattr(sd_inspection, 'sample', sample)
  scores = sd_inspection.fidelity(None, geometry.shipped(), samples=24, batch=8)
  assert all(value > .85 for value in scores.values()) and len(asked) == 3, scores


@pytest.mark.parametrize('matrices', [lora.ATTENTION, lora.UNET])
def test_a_lora_is_written_in_diffusers_layout_and_read_again(folder, tmp_path, matrices):
  prior = stable_diffusion(path=str(folder), dtype='float32')
  small = lora.init(KEY, prior.weights, rank=2, matrices=matrices)
  assert any(w['down'].ndim == 4 for w in small.values() if 'down' in w) == (matrices == lora.UNET)
  small = {path: w if 'change' in w else w | {'up': w['up'] + .1} for path, w in small.items()}
  path = tmp_path / 'style.safetensors'
  assert lora_files.save(path, small) == sum('down' in w for w in small.values()) > 10
  merged = lora.merge(prior.weights, {p: w for p, w in small.items() if 'down' in w})
  again = stable_diffusion(path=str(folder), dtype='float32', lora=str(path)).weights
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, again)
  assert loras.added(open_model(folder), path, scale=1., option='x')['unet'].changes
  with pytest.raises(ValueError, match='no LoRA'):
    lora_files.save(tmp_path / 'none.safetensors', {'a': {'change': np.zeros(2)}})


def test_the_config_names_the_shipped_folder_and_keeps_each_estimators_settings(folder,
                                                                              monkeypatch):
  from jaxdreamer import places
  config = toybox_sd.get_config('asd')
  assert (config.estimator.name, config.prior.path) == ('asd', 'toybox-sd')
  assert config.sampling.t_min == (.5, .02, config.steps)
  monkeypatch.setitem(places.NAMED, 'toybox-sd', folder / 'nowhere')
  with pytest.raises(FileNotFoundError, match="'toybox-sd': no model at .*nowhere; .*train_sd"):
    build.make_prior(config)
  monkeypatch.setitem(places.NAMED, 'toybox-sd', folder)
  prior = build.make_prior(config)
  assert prior.latent == (16, 16, 4) and 'prior.path' in places.contents(config)


def test_a_missing_autoencoder_is_named_with_its_command(tmp_path):
  with pytest.raises(FileNotFoundError, match=f'train_autoencoder --out={tmp_path}'):
    sd.load_autoencoder(tmp_path)
  sd.save_autoencoder(tmp_path, drawn(sd.init_autoencoder), scale=2.)
  assert json.loads((tmp_path / 'vae' / 'config.json').read_text())['scaling_factor'] == 2.


@pytest.mark.slow
def test_the_shipped_autoencoder_keeps_what_renders_show():
  weights, scale = sd.load_autoencoder(sd.SHIPPED)
  scores, _ = train_autoencoder.held_out(jax.random.key(77), weights, batches=6)
  assert scores['psnr'] > 33. and scores['object_psnr'] > 29., scores
  assert abs(scale * scores['deviation'] - 1.) < .25     # latents of unit variance


@pytest.mark.slow
def test_the_shipped_model_draws_what_it_is_told():
  scores = sd_inspection.fidelity(sd_inspection.load(sd.SHIPPED), geometry.shipped(), samples=64)
  assert scores['shape_accuracy'] > .75 and scores['color_accuracy'] > .9, scores
  assert scores['relation_accuracy'] > .9, scores


def test_the_schedule_is_the_published_one():
  z, eps = jnp.ones((2, 1, 1, 4)), jnp.zeros((2, 1, 1, 4))
  t = jnp.array([0., 1.])
  z_t = diffuse(z, t, eps, schedule=sd.schedule())[:, 0, 0, 0]
  betas = np.linspace(.00085 ** .5, .012 ** .5, 1000) ** 2
  np.testing.assert_allclose(z_t ** 2, [1. - betas[0], np.prod(1. - betas)], rtol=1e-3)
  assert sd.SCHEDULER['prediction_type'] in PREDICTIONS


def scenes(n):
  """A ring of `n` scenes of four views of constant latents."""
  item = jax.vmap(world.sample)(jax.random.split(KEY, n))
  four = lambda a: jnp.repeat(jnp.asarray(a)[:, None], sd.TURNS, 1)
  latent = jnp.arange(n, dtype=jnp.float16)[:, None, None, None, None] * jnp.ones(
      (1, sd.TURNS, 2, 2, 4), jnp.float16)
  seen = sd_training.Ring(latent, 0. * latent, jnp.zeros((n, sd.TURNS, 2, 2), jnp.uint8),
                       jax.tree.map(four, item), four(jnp.arange(n) % 4))
  turn = jnp.arange(n)[:, None, None] + .1 * jnp.arange(sd.TURNS)[None, :, None]
  where = jnp.broadcast_to(turn, (n, sd.TURNS, 16))
  return train_mvdream.Ring(seen, where)


def test_views_of_a_scene_come_together_under_one_caption_without_view_words():
  z, ids, _, classes, where = jax.jit(lambda key: train_mvdream.examples(key, scenes(5), 40),
                                      compiler_options=QUICK)(KEY)
  scene = np.asarray(z)[:, 0, 0, 0]
  np.testing.assert_allclose(where[:, 0], scene + .1 * (np.arange(40) % sd.TURNS), atol=1e-5)
  for row in (scene, np.asarray(ids), *map(np.asarray, classes.values())):
    grouped = row.reshape(10, sd.TURNS, -1)
    assert (grouped == grouped[:, :1]).all()
  assert not (ids == sd_text.vocabulary()[f'{sd_text.COMMA}</w>']).any()
  assert len(set(scene)) > 2


def test_a_ring_of_renders_turns_around_one_toy_in_one_light(monkeypatch):
  lights, none = [], jnp.zeros((12, 64, 64, 3))
  monkeypatch.setattr(views, 'render_batch', lambda item, camera, light, **_: (
    lights.append(light), views.View(none, none[..., 0], none[..., 0], none))[1])
  items, camera, _ = render_buffer.draw(KEY, 12, size=64, turns=4)
  light, = lights
  for leaf in jax.tree.leaves((items, light, camera.elevation, camera.distance, camera.fov)):
    grouped = np.asarray(leaf).reshape(3, 4, -1)
    assert (grouped == grouped[:, :1]).all()
  around = np.exp(1j * np.asarray(camera.azimuth)).reshape(3, 4)
  np.testing.assert_allclose(around[:, 1:] / around[:, :-1], 1j, atol=1e-5)
  assert len(np.unique(np.asarray(camera.elevation))) == 3


@pytest.mark.slow
def test_mvdream_begins_as_toybox_sd_and_its_folder_is_read_as_mvdreams(weights, tmp_path):
  begun = train_mvdream.init(KEY, weights[0])
  z, t = jax.random.normal(KEY, (4, 16, 16, 4)), jnp.full(4, .5)
  words, _ = sd.embed(begun, jnp.asarray(sd_text.tokenize(['a red car'] * 4)))
  camera = cameras.orbit((4, .3))
  where = mvdream.camera_vector(jax.tree.map(jnp.asarray, camera))
  predict = jax.jit(sd.predict, compiler_options=QUICK)
  np.testing.assert_array_equal(predict(begun, z, t, words, where),
                                predict(begun, z, t, words, 0. * where))
  moved = jax.tree.map(jnp.copy, begun)
  moved['unet']['class_embedding']['linear_2']['kernel'] += .3
  there, opposite = (predict(moved, z, t, words, v) for v in (where, -where))
  assert np.abs(there - opposite).max() > .01
  sd.save(tmp_path, sd_training.shipped(moved), prediction='epsilon', dtype=jnp.float32)
  sd.save_autoencoder(tmp_path, weights[1], scale=1., dtype=jnp.float32)
  prior = priors_mvdream.mvdream(path=str(tmp_path), dtype='float32')
  text = prior.embed('a red car', '')
  np.testing.assert_allclose(text.plain, words[0], atol=1e-5)
  ours = jax.jit(prior.eps, compiler_options=QUICK)(z, t, words, jax.tree.map(jnp.asarray, camera))
  np.testing.assert_allclose(ours, predict(moved, z, t, words, where), atol=1e-4)


def test_views_of_a_scene_share_their_time(monkeypatch):
  times = []
  monkeypatch.setattr(sd, 'embed', lambda params, ids: (None, jnp.zeros((len(ids), 128))))
  monkeypatch.setattr(sd, 'predict', lambda params, z_t, t, words, where, **_: (
    times.append(np.asarray(t)), z_t)[1])
  n = 4 * sd.TURNS
  sd_training.loss({'meaning': meaning.heads(128)}, KEY, jnp.zeros((n, 1, 1, 4)),
                jnp.zeros((n, 24), jnp.int32), jnp.zeros((n, 1, 1)),
                {name: jnp.full(n, -1) for name in geometry.HEADS}, jnp.zeros((n, 16)),
                prediction='epsilon')
  t = times[0].reshape(4, sd.TURNS)
  assert (t == t[:, :1]).all() and (np.floor(4. * t[:, 0]) == np.arange(4)).all()
