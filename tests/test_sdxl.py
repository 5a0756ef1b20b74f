"""Stable Diffusion XL as a prior: two text encoders, a row for the whole prompt, and sizes. Random
weights in its layout."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxdreamer import cameras
from jaxdreamer.diffusion import guided
from jaxdreamer.nn import clip, unet, unet_config
from jaxdreamer.priors import latent
from jaxdreamer.priors.sdxl import sdxl
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.toybox import xla_flags
from jaxdreamer.types import Views
from jaxdreamer.weights import clip_tokens

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures('own_cache')
QUICK = xla_flags.known({'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False})


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sdxl')
  return folder, published.write_sdxl(folder)


@pytest.fixture(scope='module')
def prior(model):
  return sdxl(path=str(model[0]), image_size=8, dtype='float32', sample=True)


@pytest.mark.slow
def test_text_is_what_enters_the_last_layers_and_the_embedding_of_the_whole(model, prior):
  folder, params = model
  text = prior.embed('a red mug', 'mug')
  assert text.views.shape == (4, 78, 80) and not text.null.any()
  for row, phrase in ((text.plain, 'a red mug'), (text.views[0], 'a red mug, front view'),
                      (text.negative, 'mug')):
    for name, network, width, part in (('text_encoder', clip.CLIPTextModel, 32, slice(0, 32)),
                                       ('text_encoder_2', clip.CLIPTextModelWithProjection, 48,
                                        slice(32, 80))):
      ids = jnp.asarray(clip_tokens.load(folder / name.replace('text_encoder', 'tokenizer'))(
          [phrase]))
      layers = {k: v for k, v in params[name].get('text_model', params[name])['encoder'].items()
                if k != 'layers_1'}
      tower = params[name].get('text_model', params[name]) | {'encoder': layers}
      shape = clip.CLIPTextConfig(vocab_size=len(tower['embeddings']['token_embedding'][
          'embedding']), hidden_size=width,
                                  intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                                  hidden_act='gelu' if '2' in name else 'quick_gelu')
      x = clip.Embeddings(shape).apply({'params': tower['embeddings']}, ids)
      x, _ = clip.Encoder(shape).apply({'params': layers}, x)
      np.testing.assert_allclose(row[:77, part], x[0], rtol=1e-3, atol=1e-4)
      if '2' in name:
        config = {'projection_dim': 24, 'num_hidden_layers': 2,
                  'eos_token_id': shape.vocab_size - 1}
        whole = network(clip.CLIPTextConfig(**vars(shape) | config)).apply({'params': params[name]},
                                                                           ids)[0][0]
        np.testing.assert_allclose(row[77], jnp.pad(whole, (0, 56)), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_predictions_are_the_networks_own_told_of_whole_pictures(model, prior):
  _, params = model
  assert prior.latent == (8, 8, 4) and prior.sample_fn is not None
  assert jax.eval_shape(prior.sample, jax.random.split(KEY, 2),
                        jnp.zeros((2, 8, 8, 3))).shape == (2, 8, 8, 4)
  z, t, text = jax.random.normal(KEY, (2, 8, 8, 4)), jnp.array(
      [200., 700.]) / 999., jax.random.normal(KEY, (2, 78, 80))
  network = unet.UNet2DCondition(unet_config.from_diffusers(published.SDXL))
  sizes = jnp.array([[16., 16., 0., 0., 16., 16.]] * 2)
  own = jax.jit(lambda text: network.apply({'params': params['unet']}, z, 999. * t, text[:, :77],
                                           text_embeds=text[:, 77, :24],
                                           time_ids=sizes), compiler_options=QUICK)
  camera = jax.vmap(lambda a: cameras.orbital(a, .3, 2., .8))(jnp.array([0., 1.]))
  eps = jax.jit(lambda: guided(prior, z, t, Views(camera, text, text, 0. * text, 0. * text),
                               scale=3.), compiler_options=QUICK)()
  null = own(0. * text)
  np.testing.assert_allclose(eps, null + 3. * (own(text) - null), rtol=5e-3, atol=5e-4)
  assert np.abs(own(text.at[:, 77].set(0.)) - own(text)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('told, zeros', [(None, True), (False, False)])
def test_the_empty_prompt_is_zeros_where_the_models_index_says_so(model, tmp_path, monkeypatch,
                                                                  told, zeros):
  """The cache holds what the encoders made, for either."""
  folder = shutil.copytree(model[0], tmp_path / 'model')
  index = json.loads((folder / 'model_index.json').read_text())
  del index['force_zeros_for_empty_prompt']
  published.write_json(folder / 'model_index.json',
                       index | ({} if told is None else {'force_zeros_for_empty_prompt': told}))
  encoded = iter(((jnp.zeros((7, 77, 32)), jnp.zeros((7, 32)), jnp.ones((7, 77, 32))),
                  (2. * jnp.ones((7, 24)), jnp.ones((7, 77, 48)))))
  monkeypatch.setattr(latent, 'encode_text', lambda *_: next(encoded))
  text = sdxl(path=str(folder), image_size=8).embed('a red mug')
  assert (not text.null.any()) == (not text.negative.any()) == zeros and text.plain[
      0, 0] == 1. and text.plain[77, 0] == 2.


def test_what_a_single_file_says_is_read_and_the_option_goes_before_it(model):
  folder, _ = model
  assert sdxl(path=str(folder), image_size=8, prediction='v_prediction').predicted == 'v_prediction'
  with pytest.raises(ValueError, match='config.prior.sdxl.prediction='):
    sdxl(path=str(folder), prediction='v')
  with pytest.raises(ValueError, match='does not say .*config.prior.sdxl.prediction takes'):
    latent.predicting({'prediction_type': None}, '', path='x', section='config.prior.sdxl')
  assert latent.predicting({'prediction_type': None}, 'epsilon', path='x',
                           section='s')['prediction_type'] == 'epsilon'


def test_other_models_are_refused(model, tmp_path):
  with pytest.raises(ValueError, match='sdxl'):
    stable_diffusion(path=str(model[0]))
  with pytest.raises(FileNotFoundError, match='config.prior.path'):
    sdxl(path='')
  published.write_model(tmp_path)
  with pytest.raises(ValueError, match='no Stable Diffusion XL'):
    sdxl(path=str(tmp_path))
