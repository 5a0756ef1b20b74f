"""One-step restoration: the generator against its formula, what is trained and by which loss, and a
run that learns it, killed and resumed, whose restorer a command opens."""
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import published
import pytest
from absl import flags
from PIL import Image
from refusals import refused

from configs import toybox_restore
from jaxdreamer import build, cameras, cli, loop, restore, restoring, runs
from jaxdreamer.nn import lora, unet, unet_config, vae
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.scenes import restoration
from jaxdreamer.toybox import geometry
from jaxdreamer.types import Text

KEY = jax.random.key(0)
CAMERAS = cameras.orbit((2, 0.))
SMALL = {'steps': 4, 'steps_per_call': 1, 'log_every': 1, 'preview_every': 2, 'checkpoint_every': 2,
         'sampling.views': 2, 'mesh.data': 2, 'scene.restoration.rank': 2,
         # other tests have these, and they take long to compile
         'scene.restoration.feature': 0., 'estimator.vsd.matrices': 'attention'}
pytestmark = pytest.mark.usefixtures('own_cache')


@pytest.fixture(scope='module')
def prior(model):
  made = stable_diffusion(path=str(model[0]), dtype='float32')
  return made.replace(weights=made.weights | {'reader': geometry.shipped()['reader']})


@pytest.fixture(scope='module')
def pictures():
  """Two of 16 pixels, and what they should be."""
  return jax.random.uniform(KEY, (2, 2, 16, 16, 3))


def moved(params):
  """LoRAs that change something."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(KEY, len(leaves))
  return tree.unflatten([x + .05 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Of pictures of two sizes."""
  home, rng = tmp_path_factory.mktemp('pictures'), np.random.RandomState(1)
  for i, shape in enumerate([(20, 30), (8, 50)]):
    Image.fromarray(rng.randint(0, 256, (*shape, 3)).astype(np.uint8)).save(home / f'{i}.png')
  return home


def words(prior, text, pair):
  """A Text for each of the pictures."""
  each = jnp.broadcast_to(text, (len(pair), *text.shape))
  return Text(jnp.stack([each] * 4, 1), each, each, each, pair=pair)


def config_of(folder, **changes):
  config = toybox_restore.get_config()
  config.update_from_flattened_dict(SMALL | {'prior.path': str(folder)} | changes)
  return config


@pytest.mark.slow
def test_without_loras_the_generator_is_one_step_of_the_published_model(model, prior, pictures):
  """Written out, of the networks and of NumPy's product of 1 - beta: the encoder's mean is taken
  for what the last time leaves of a latent."""
  _, weights = model
  low, text = pictures[0], jax.random.normal(KEY, (2, 77, 32))
  small = restoration.init(KEY, prior.weights, rank=3)
  z, x = jax.jit(restoration.restored)(prior, small, low, text)

  coder = vae.AutoencoderKL(vae.config_from_diffusers(published.VAE))
  network = unet.UNet2DCondition(unet_config.from_diffusers(published.UNET))
  s, betas = .18215, np.linspace(.00085 ** .5, .012 ** .5, 1000) ** 2
  alpha = float(np.sqrt(np.prod(1. - betas)))
  sigma = float(np.sqrt(1. - alpha ** 2))
  code = lambda value, method: coder.apply({'params': weights['vae']}, value, method=method)
  z_low = s * code(2. * low - 1., 'encode').mean
  eps = network.apply({'params': weights['unet']}, z_low, jnp.full(2, 999.), text)
  z_hat = (z_low - sigma * eps) / alpha
  np.testing.assert_allclose(z, z_hat, rtol=2e-3, atol=2e-3 * np.abs(z_hat).max())
  want = jnp.clip(.5 + .5 * code(z_hat / s, 'decode'), 0., 1.)
  np.testing.assert_allclose(x, want, atol=5e-3)
  assert 0. < float(jnp.mean((want > 0.) & (want < 1.)))
  again = jax.jit(restoration.restored)(prior, moved(small), low, text)[0]
  assert np.abs(again - z).max() > .1


def test_loras_are_of_the_unet_and_the_encoder_alone_and_conv_in_is_whole(prior):
  small = restoration.init(KEY, prior.weights, rank=3)
  shapes = {path: x.shape for path, x in lora.flatten(prior.weights).items()}
  assert all(name.startswith(('unet/', 'vae/encoder/', 'vae/quant_conv/')) for name in small)
  whole = {name for name, w in small.items() if 'change' in w}
  assert whole == {'unet/conv_in/kernel', 'unet/conv_in/bias'}
  for name, w in small.items():
    if name not in whole:
      assert w['down'].shape == (*shapes[name][:-1], 3), name
      assert w['up'].shape == (3, shapes[name][-1]) and not np.any(w['up'])
  adapted = {name for name in shapes if name.endswith('/kernel') and len(shapes[name]) in (2, 4)
             and name.startswith(('unet', 'vae/enc', 'vae/quant'))}
  left = adapted - set(small)
  assert left and all('emb' in name for name in left), left       # of time, and of cameras


@pytest.mark.slow
def test_the_pullback_is_the_gradient_of_the_three_losses_and_reaches_every_lora(prior, pictures):
  """MSE in [-1, 1] + 2 x the reader's distance + MSE(z, sg(z - g)), each a mean, g any residual."""
  low, truth = pictures
  text = words(prior, jax.random.normal(KEY, (77, 32)), jnp.stack([low, truth], 1))
  scene = restoration.restoration(prior=prior, rank=2, vsd=.7)
  params = moved(scene.init(KEY))
  g = jax.random.normal(jax.random.key(2), (2, 8, 8, 4))
  keys = jax.random.split(KEY, 2)

  @jax.jit
  def got(params, prior):
    z, cost, views, pullback = scene.latents(params, prior, text, CAMERAS, keys, 0)
    return z, cost, views, pullback(g / 2., jnp.ones_like(cost))

  def loss(params, prior):
    z, x = restoration.restored(prior, params, low, text.plain)
    apart = geometry.feature_distance(prior.weights, x, truth)
    own = jnp.mean((2. * x - 2. * truth) ** 2) + 2. * jnp.mean(apart)
    return own + .7 * jnp.mean((z - jax.lax.stop_gradient(z - g)) ** 2), (z, own)
  (_, (z, own)), want = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, prior)
  found_z, cost, views, found = got(params, prior)
  np.testing.assert_allclose(found_z, z, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(cost, own, rtol=1e-4)
  assert views.camera is None and views.rendering.rgb.shape == (2, 16, 16, 3)
  for name, w in want.items():
    for part, value in w.items():
      size = float(jnp.abs(value).max())
      assert size > 0., (name, part)
      np.testing.assert_allclose(found[name][part], value, rtol=2e-2, atol=2e-3 * size)


@pytest.mark.slow
def test_squared_error_alone_lowers_in_a_few_steps(prior, pictures):
  low, truth = pictures
  text = words(prior, jax.random.normal(KEY, (77, 32)), jnp.stack([low, truth], 1))
  scene = restoration.restoration(prior=prior, rank=4, feature=0., vsd=0.)
  params, tx = scene.init(KEY), optax.adam(3e-3)
  opt = tx.init(params)

  @jax.jit
  def step(params, opt, prior):
    z, cost, _, pullback = scene.latents(params, prior, text, CAMERAS, jax.random.split(KEY, 2), 0)
    updates, opt = tx.update(pullback(jnp.ones_like(z), jnp.ones_like(cost)), opt, params)
    return optax.apply_updates(params, updates), opt, cost
  costs = []
  for _ in range(25):
    params, opt, cost = step(params, opt, prior)
    costs.append(float(cost))
  assert costs[-1] < .8 * costs[0], costs


@pytest.mark.slow
def test_a_run_resumed_is_the_unbroken_one_and_a_command_restores_by_it(
    model, folder, tmp_path, monkeypatch, capsys):
  make = lambda: config_of(model[0], **{'scene.restoration.path': str(folder),
                                        'optim.groups': (('.*', 1e-3),)})
  config = make()
  mesh = build.make_mesh(config)
  assert loop.run(config, tmp_path / 'whole', mesh) == (4, 'done', {})
  config.steps = 2
  loop.run(config, tmp_path / 'broken', mesh)
  loop.run(make(), tmp_path / 'broken', mesh)
  whole, broken = ((tmp_path / name / 'metrics.jsonl').read_text() for name in ('whole', 'broken'))
  assert whole == broken and len(whole.splitlines()) == 4
  states = [runs.restore_state(tmp_path / name)[2] for name in ('whole', 'broken')]
  jax.tree.map(np.testing.assert_array_equal, *(state.params for state in states))
  assert all(np.isfinite(value) for line in whole.splitlines()
             for value in json.loads(line).values())
  sheet = np.asarray(Image.open(tmp_path / 'whole' / 'previews' / 'step_000004.png'))
  assert sheet.shape == (16, 3 * 16, 3) and (tmp_path / 'whole' / 'report.html').exists()
  ups = [w['up'] for w in states[0].params['scene'].values() if 'up' in w]
  assert ups and all(float(jnp.abs(up).max()) > 0. for up in ups)        # all have learned
  with refused('makes no object: python -m jaxdreamer.restore'):
    runs.restore(tmp_path / 'whole')

  restorer = runs.restorer(tmp_path / 'whole')
  assert (restorer.side, restorer.step) == (16, 4)
  picture = np.random.RandomState(0).randint(0, 256, (24, 40, 3)).astype(np.uint8)
  Image.fromarray(picture).save(tmp_path / 'low.png')
  monkeypatch.setattr(cli, 'compile_cache', lambda: '')
  asked = {'workdir': str(tmp_path / 'whole'), 'image': str(tmp_path / 'low.png'), 'scale': 2,
           'out': '', 'prior': '', 'tokenizer': '', 'tokenizer_2': ''}
  monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(**asked))
  assert restore.main() == 0
  assert '80 x 48 pixels, step 4' in capsys.readouterr().out
  assert np.asarray(Image.open(tmp_path / 'low_restored.png')).shape == (48, 80, 3)
  monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(
    **asked | {'prior': str(tmp_path / 'nowhere')}))
  with refused('leads nowhere', FileNotFoundError):
    restore.main()


def test_pictures_of_a_folder_are_cropped_by_the_key_alone(folder, tmp_path):
  draw = restoring.source(str(folder), 3, 16)
  found, again, other = draw(KEY), draw(KEY), draw(jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, found, again)
  assert found.low.shape == found.truth.shape == (3, 16, 16, 3)
  assert np.abs(found.truth - other.truth).max() > .1
  with refused('config.scene.restoration.path=.*holds no pictures'):
    restoring.source(str(tmp_path / 'none'), 3, 16)


@pytest.mark.parametrize('changes, said', [
  ({'prior.name': 'toybox', 'prior.path': ''}, "prior.name='toybox' has no autoencoder"),
  ({'corpus.path': 'toybox'}, "config.corpus.path='toybox': takes ''"),
  ({'scene.particles': 2}, 'config.scene.particles=2: takes 1'),
  ({'scene.restoration.vsd': -1.}, 'restoration.vsd=-1.0: takes a number, 0 or more'),
  ({'estimator.vsd.matrices': 'some'}, 'matrices=.some.: takes one of')])
def test_what_cannot_restore_is_refused_before_anything_compiles(model, changes, said):
  config = config_of(model[0], **changes)
  with refused(said):
    build.training(config, build.make_mesh(config))


def test_runs_of_objects_are_no_restorers(tmp_path, monkeypatch):
  config = toybox_restore.get_config()
  config.scene.name = 'voxels'
  monkeypatch.setattr(runs, 'read_config', lambda workdir: config)
  with refused("holds no restorer: its config.scene.name is 'voxels'"):
    runs.restorer(tmp_path)
