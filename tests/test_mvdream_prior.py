"""MVDream as a prior: a checkpoint in the published layout, made here, in; a step of four views
that see each other out."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from refusals import refused

from configs import scaledreamer_mvdream
from jaxdreamer import build, cameras, sampling
from jaxdreamer.diffusion import cosine, predictions
from jaxdreamer.estimators.asd import asd
from jaxdreamer.nn import mvdream as networks
from jaxdreamer.nn import unet, unet_config
from jaxdreamer.priors.mvdream import mvdream
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.toybox import xla_flags
from jaxdreamer.types import Draws, Views

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures('own_cache')
QUICK = xla_flags.known({'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False})


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mvdream')
  return folder, published.write_mvdream(folder)


@pytest.fixture(scope='module')
def prior(model):
  return mvdream(path=str(model[0] / 'mvdream.safetensors'), tokenizer=str(model[0] / 'tokenizer'),
                 image_size=8, dtype='float32')


def ring(n):
  """n scenes of four views."""
  u = sampling.rings(KEY, jnp.arange(4 * n), views=4 * n, dims=4)
  ranges = {'azimuth': (-np.pi, np.pi), 'elevation': (0., .5), 'distance': (.8, 1.),
            'fov': (.3, 1.)}
  return jax.vmap(lambda u: cameras.from_uniform(u, relative=True, **ranges))(u)


@pytest.mark.slow
def test_predictions_are_the_networks_own_and_views_of_a_scene_see_each_other(model, prior):
  """Two scenes of small latents: the network does not mind their size. Rows for guidance keep each
  scene's views together."""
  _, params = model
  assert prior.views_per_scene == 4 and prior.latent == (32, 32, 4) and prior.sample_fn is None
  z, text, camera = jax.random.normal(KEY, (8, 4, 4, 4)), jax.random.normal(KEY, (8, 77, 64)), ring(
      2)
  t = jnp.repeat(jnp.array([200., 700.]), 4) / 999.
  network = unet.UNet2DCondition(unet_config.from_diffusers(published.MVDREAM), views=4)

  told = networks.camera_vector(camera)
  own = jax.jit(lambda z, text: network.apply({'params': params['unet']}, z, 999. * t, text, told),
                compiler_options=QUICK)
  rows = jax.jit(lambda z: predictions(prior, [(z, t, text), (z, t, 0. * text)], camera),
                 compiler_options=QUICK)
  before = rows(z)
  for ours, y in zip(before, (text, 0. * text)):
    np.testing.assert_allclose(ours, own(z, y), rtol=2e-3, atol=2e-4)
  change = np.abs(rows(z.at[1].add(1.))[0] - before[0]).reshape(8, -1).max(1)
  assert (change[:4] > 1e-4).all() and (change[4:] < 1e-6).all()


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory):
  """The same model as one can download it."""
  home = tmp_path_factory.mktemp('folder')
  published.write_mvdream_folder(home, model[1])
  return home


@pytest.mark.slow
def test_the_folder_that_one_can_download_gives_the_predictions_of_the_single_file(folder, prior):
  ours = mvdream(path=str(folder), image_size=8, dtype='float32')
  z, t = jax.random.normal(KEY, (4, 4, 4, 4)), jnp.full(4, .5)
  outs = []
  for one in (ours, prior):
    text = one.embed('a red mug', 'red')
    rows = [(z, t, jnp.stack([row] * 4)) for row in (text.plain, text.negative)]
    eps = jax.jit(lambda one, rows: predictions(one, rows, ring(1)), compiler_options=QUICK)
    outs.append((eps(one, rows), one.weights))
  for a, b in zip(*map(jax.tree.leaves, outs), strict=True):
    np.testing.assert_array_equal(a, b)
  assert ours.latent == prior.latent == (32, 32, 4) and ours.views_per_scene == 4


@pytest.mark.parametrize('change, said', [
  ({'ip_dim': 16}, "unet/config.json says {'ip_dim': 16}, which is no MultiViewUNetModel"),
  ({'use_scale_shift_norm': True}, 'use_scale_shift_norm'), ({'num_heads': 8}, 'num_heads'),
  ({'num_head_channels': -1}, 'num_head_channels'), ({'image_size': None}, 'image_size')])
def test_another_network_of_that_class_is_refused(folder, tmp_path, change, said):
  home = shutil.copytree(folder, tmp_path / 'model')
  told = json.loads((home / 'unet' / 'config.json').read_text())
  published.write_json(home / 'unet' / 'config.json', told | change)
  with refused(said):
    mvdream(path=str(home))


def test_the_folder_of_mvdream_is_no_stable_diffusion_to_others(folder):
  with refused("config.prior.name='mvdream' is for that"):
    stable_diffusion(path=str(folder))


@pytest.mark.slow
def test_without_a_camera_each_picture_is_alone(prior):
  z, t, text = jax.random.normal(KEY, (2, 4, 4, 4)), jnp.array([.3, .3]), jax.random.normal(
      KEY, (2, 77, 64))
  eps = jax.jit(lambda z: prior.eps(z, t, text, None), compiler_options=QUICK)
  change = np.abs(eps(z.at[0].add(1.)) - eps(z)).reshape(2, -1).max(1)
  assert change[0] > 1e-3 and change[1] < 1e-6


def test_text_has_no_view_words_and_the_empty_prompt_is_the_negative_one_unless_there_is_another(
    prior):
  text = prior.embed('a red mug', 'mug')
  assert all((row == text.plain).all() for row in text.views) and np.abs(
      text.plain - text.null).max() > 1e-3
  assert np.abs(text.negative - text.null).max() > 1e-3
  np.testing.assert_array_equal(prior.embed('a red mug').negative, text.null)


@pytest.mark.slow
def test_rings_share_all_but_the_azimuth_and_no_device_changes_them():
  u = sampling.rings(KEY, jnp.arange(12), views=12, dims=6).reshape(3, 4, 6)
  np.testing.assert_array_equal(u[:, :, 1:], jnp.broadcast_to(u[:, :1, 1:], (3, 4, 5)))
  np.testing.assert_allclose(jnp.diff(u[:, :, 0], axis=1) % 1., .25, atol=1e-5)
  first = np.sort(np.floor(3. * (np.asarray(u[:, 0]) * np.array([4., 1., 1., 1., 1., 1.]) % 1.)),
                  axis=0)
  np.testing.assert_array_equal(first, np.broadcast_to(np.arange(3.)[:, None], (3, 6)))
  np.testing.assert_array_equal(sampling.rings(KEY, jnp.arange(4, 8), views=12, dims=6), u[1])


def test_a_relative_distance_keeps_the_size_of_what_is_seen():
  ranges = {'azimuth': (0., 1.), 'elevation': (0., 1.), 'distance': (.8, .8), 'fov': (.3, 1.)}
  for u in (0., 1.):
    camera = cameras.from_uniform(jnp.full(4, u), relative=True, **ranges)
    assert abs(camera.distance * jnp.tan(.5 * camera.fov) - .8) < 1e-6


@pytest.mark.slow
def test_the_later_time_of_asd_is_one_for_the_views_of_a_scene():
  seen = []

  class Ear:
    views_per_scene = 4
    schedule = cosine()

    def eps(self, z_t, t, text, camera):
      seen.append(t)
      return 0. * z_t

  z, y = jnp.zeros((8, 2, 2, 1)), jnp.zeros((8, 1, 1))
  draws = Draws(jnp.repeat(jnp.array([.4, .8]), 4), z, jnp.ones(8), jax.random.split(KEY, 8),
                jnp.zeros(8))
  asd(guidance=7.5).residual(draws, (), Ear(), z, Views(ring(2), y, y, y, y), 0)
  later = seen[0].reshape(3, 2, 4)[2]
  assert (later == later[:, :1]).all() and (later[:, 0] > draws.t[::4]).all() and abs(
      later[0, 0] / .4 - later[1, 0] / .8) > 1e-4


def small(folder):
  config = scaledreamer_mvdream.get_config()
  config.update_from_flattened_dict({
    'prior.path': str(folder / 'mvdream.safetensors'),
    'prior.mvdream.tokenizer': str(folder / 'tokenizer'),
    'prior.mvdream.image_size': 8, 'render.samples': 4, 'render.fine': 0, 'steps_per_call': 1,
    'scene.hashgrid.levels': 2,
    'scene.hashgrid.log2_table': 6, 'scene.hashgrid.finest': 16})
  return config


@pytest.mark.slow
@pytest.mark.parametrize('option, value, named', [
  ('sampling.design', 'stratified', "takes 'rings'"),
  ('sampling.draws', 2, 'config.sampling.draws=2'),
  ('sampling.views', 6, 'config.sampling.views=6'), ('cameras.azimuth', (0., 180.),
                                                     'config.cameras.azimuth'),
  ('mesh.data', 4, 'config.sampling.views=4'), ('prior.path', '', 'config.prior.path')])
def test_a_config_whose_views_do_not_suit_is_refused_by_name(model, option, value, named):
  config = small(model[0])
  config.update_from_flattened_dict({option: value})
  with refused(named, (ValueError, FileNotFoundError)):
    build.training(config, build.make_mesh(config))


def test_each_prior_refuses_the_others_checkpoint(model, tmp_path):
  with pytest.raises(ValueError, match='mvdream'):
    stable_diffusion(path=str(model[0] / 'mvdream.safetensors'), prediction='epsilon')
  published.write_model(tmp_path)
  with pytest.raises(ValueError, match='stable_diffusion'):
    mvdream(path=str(tmp_path))


@pytest.mark.slow
def test_a_step_of_the_config_trains(model):
  config = small(model[0])
  mesh = build.make_mesh(config)
  assert mesh.devices.size == 1
  training = build.training(config, mesh)
  state = training.init(KEY)
  before = jax.device_get(state.params['scene'])
  camera, draws, _ = training.parts.sample(KEY, jnp.arange(4), jnp.int32(0))
  assert len(set(map(float, draws.t))) == 1 and (draws.eps[0] != draws.eps[1]).all()
  np.testing.assert_allclose(jnp.diff(camera.azimuth) % (2. * np.pi), np.pi / 2, atol=1e-4)
  assert len(set(map(float, camera.elevation))) == len(set(map(float, camera.distance))) == 1
  _, state, info = next(training.fit(state, steps=1))
  assert info['finite'] == 1. and info['gradient_norm'] > 0.
  changed = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before,
                         jax.device_get(state.params['scene']))
  assert max(jax.tree.leaves(changed)) > 1e-4
