"""A published checkpoint as a prior: files of its layout, made here, in; latents, predictions and a trained scene out."""
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from flax.traverse_util import flatten_dict

from jaxdreamer import cameras, prompts
from jaxdreamer.diffusion import bcast, diffuse
from jaxdreamer.estimators.vsd import vsd
from jaxdreamer.nn import clip_tokens, lora, unet, vae
from jaxdreamer.priors.latent import schedule_of
from jaxdreamer.priors.stable_diffusion import stable_diffusion

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEY = jax.random.key(0)
QUICK = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model')
  return folder, published.write_model(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))


def two_views():
  return jax.vmap(lambda a: cameras.orbital(a, jnp.float32(.3), jnp.float32(2.), jnp.float32(.8)))(jnp.array([0., 1.]))


def test_the_tokenizer_merges_cuts_and_pads(tmp_path):
  words = published.write_tokenizer(tmp_path)
  with pytest.warns(UserWarning, match="100 tokens.* takes 75: it is cut at letter 299, after .*red red'"):
    ids = clip_tokens.load(tmp_path)(['A  red MUG', '', 'red ' * 100])
  start, end = words['<|startoftext|>'], words['<|endoftext|>']
  assert ids.shape == (3, 77) and ids.dtype == np.int32
  assert ids[0].tolist() == [start, words['a</w>'], words['red</w>'], words['mug</w>'], end] + [end] * 72
  assert ids[1].tolist() == [start] + [end] * 76
  assert ids[2].tolist() == [start] + [words['red</w>']] * 75 + [end]
  published.write_tokenizer(tmp_path, pad={'content': '!', 'lstrip': False})
  assert clip_tokens.load(tmp_path)([''])[0].tolist() == [start, end] + [words['!']] * 75


def test_a_broken_tokenizer_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='vocab.json'):
    clip_tokens.load(tmp_path)
  published.write_tokenizer(tmp_path)
  (tmp_path / 'vocab.json').write_text('{"a": ')
  with pytest.raises(ValueError, match='no CLIP tokenizer'):
    clip_tokens.load(tmp_path)


def test_predictions_are_the_networks_own(model):
  """encode is scaling_factor times the posterior's mean of the enlarged picture, sample a draw of it, decode undoes the scaling,
  eps is the UNet's at the step of that time, and the frozen model does not see the camera."""
  folder, params = model
  prior = stable_diffusion(path=str(folder), image_size=8, dtype='float32', sample=True)
  assert prior.latent == (8, 8, 4) and prior.image_size == 8
  network = unet.UNet2DCondition(unet.config_from_diffusers(published.UNET))
  coder = vae.AutoencoderKL(vae.config_from_diffusers(published.VAE))
  x, keys = jax.random.uniform(KEY, (2, 8, 8, 3)), jax.random.split(KEY, 2)
  large = jax.image.resize(x, (2, 16, 16, 3), 'bilinear')
  posterior = coder.apply({'params': params['vae']}, 2. * large - 1., method='encode')
  z, noise = .18215 * posterior.mean, jnp.stack([jax.random.normal(key, (1, 8, 8, 4))[0] for key in keys])
  mean, drawn = jax.jit(lambda x: (prior.encode(x), prior.sample(keys, x)))(x)
  np.testing.assert_allclose(mean, z, rtol=2e-4, atol=2e-5)
  np.testing.assert_allclose(drawn, z + .18215 * jnp.exp(.5 * posterior.logvar) * noise, rtol=2e-4, atol=2e-5)
  back = .5 + .5 * coder.apply({'params': params['vae']}, z / .18215, method='decode')
  np.testing.assert_allclose(jax.jit(prior.decode)(z), back, rtol=2e-4, atol=2e-4)
  t, text = jnp.array([200., 700.]) / 999., jax.random.normal(KEY, (2, 77, 32))
  expected = network.apply({'params': params['unet']}, z, jnp.array([200., 700.]), text)
  for camera in (None, two_views()):
    np.testing.assert_allclose(jax.jit(prior.eps)(z, t, text, camera), expected, rtol=2e-3, atol=2e-4)


def test_v_prediction_becomes_noise(model, tmp_path):
  params = published.write_model(tmp_path, scheduler={'prediction_type': 'v_prediction'})
  prior = stable_diffusion(path=str(tmp_path), image_size=8, dtype='float32')
  z_t, t, text = jax.random.normal(KEY, (2, 8, 8, 4)), jnp.array([300., 900.]) / 999., jax.random.normal(KEY, (2, 77, 32))
  v = unet.UNet2DCondition(unet.config_from_diffusers(published.UNET)).apply({'params': params['unet']}, z_t, 999. * t, text)
  bar = np.cumprod(1. - np.linspace(.00085 ** .5, .012 ** .5, 1000) ** 2)[[300, 900]]
  expected = bcast(jnp.sqrt(1. - bar), z_t) * z_t + bcast(jnp.sqrt(bar), z_t) * v
  np.testing.assert_allclose(jax.jit(prior.eps)(z_t, t, text, None), expected, rtol=2e-3, atol=2e-4)


def test_text_is_embedded_once(model, monkeypatch):
  folder, _ = model
  prior = stable_diffusion(path=str(folder), image_size=8)
  first = prior.embed('a red mug')
  assert first.views.shape == (4, 77, 32) and np.isfinite(first.views).all()
  np.testing.assert_array_equal(first.null, first.negative)
  assert np.abs(first.plain - first.null).max() > 1e-3 and np.abs(first.views[0] - first.views[1]).max() > 1e-3
  with monkeypatch.context() as m:
    m.setattr(clip_tokens, 'load', lambda folder: pytest.fail('embedded twice'))
    again = prior.embed('a red mug')
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert np.abs(prior.embed('a red mug', 'blurry').negative - first.null).max() > 1e-3


def test_a_store_that_is_damaged_or_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
  make = lambda: np.arange(3.)
  assert prompts.stored('a', make).tolist() == [0., 1., 2.]
  (tmp_path / 'jaxdreamer' / 'text' / 'a.npy').write_bytes(b'\x93NUMPY')
  assert prompts.stored('a', make).tolist() == [0., 1., 2.]
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert prompts.stored('a', make).tolist() == [0., 1., 2.]


def test_vsd_trains_a_lora_and_the_whole_way_in_of_the_camera_that_the_frozen_model_does_not_see(model):
  folder, _ = model
  prior = stable_diffusion(path=str(folder), image_size=8, dtype='bfloat16')
  est = vsd(weights=prior.weights, guidance=lambda i: 7.5).init(KEY)
  mlp = flatten_dict({'unet': {'class_embedding': prior.weights['unet']['class_embedding']}}, sep='/')
  assert {path: w['change'].shape for path, w in est.items() if 'change' in w} == {path: x.shape for path, x in mlp.items()}
  assert est['unet/down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q/kernel']['down'].shape == (32, 4)
  assert not any(path.startswith('vae') for path in est)
  twice = lambda *shape: jnp.repeat(jax.random.normal(KEY, (1, *shape)), 2, 0)
  eps = jax.jit(lambda est: prior.replace(weights=lora.beside(prior.weights, est)).eps(
    twice(8, 8, 4), jnp.full(2, .3), twice(77, 32), two_views()), compiler_options=QUICK)
  assert prior.branches and np.ptp(eps(est), 0).max() == 0.                    # the last layer is zero at first
  assert np.ptp(eps(est | {path: {'change': w['change'] + .3} for path, w in est.items() if 'change' in w}), 0).max() > .01
  attention = {path: w if 'change' in w else {'down': w['down'], 'up': w['up'] + .3} for path, w in est.items()}
  assert np.abs(eps(attention) - eps(est)).max() > .01


@pytest.mark.parametrize('change, said', [
  ({'beta_schedule': 'squaredcos_cap_v2'}, 'squaredcos_cap_v2'), ({'prediction_type': 'flow_prediction'}, 'flow_prediction'),
  ({'rescale_betas_zero_snr': True}, 'rescale_betas_zero_snr'), ({'flux': 1}, 'flux'), ({'trained_betas': [.1]}, 'trained_betas')])
def test_a_scheduler_that_asks_for_more_is_refused(change, said):
  schedule_of(published.SCHEDULER)
  with pytest.raises(ValueError, match=said):
    schedule_of(published.SCHEDULER | change)


def test_a_model_that_predicts_the_sample_is_served():
  forward, t = schedule_of(published.SCHEDULER | {'prediction_type': 'sample'}), jnp.array([.2, .7])
  x0, eps = jax.random.normal(KEY, (2, 2, 4, 4, 3))
  z_t = diffuse(x0, t, eps, schedule=forward.schedule)
  np.testing.assert_allclose(forward.eps(x0, z_t, t), eps, atol=1e-4)


def test_what_is_missing_is_named(model, tmp_path):
  with pytest.raises(FileNotFoundError, match='config.prior.path'):
    stable_diffusion(path='')
  published.write_model(tmp_path)
  (tmp_path / 'vae' / 'diffusion_pytorch_model.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match='vae'):
    stable_diffusion(path=str(tmp_path))


def test_a_model_that_wants_more_is_refused(tmp_path):
  published.write_model(tmp_path)
  path = tmp_path / 'unet' / 'config.json'
  larger = json.loads(path.read_text()) | {'addition_embed_type': 'text_time', 'addition_time_embed_dim': 8,
                                           'projection_class_embeddings_input_dim': 80}
  path.write_text(json.dumps(larger))
  with pytest.raises(ValueError, match='sdxl'):
    stable_diffusion(path=str(tmp_path))


@pytest.mark.slow
def test_steindreamer_trains_on_a_published_checkpoint(model, tmp_path):
  """The command of the config's own head, twenty steps of it, on the small model."""
  folder, _ = model
  small = {'prior.path': folder, 'prior.stable_diffusion.image_size': 16, 'steps': 20, 'render.samples': 8, 'render.fine': 0,
           'scene.hashgrid.log2_table': 8, 'scene.hashgrid.levels': 4, 'scene.hashgrid.finest': 32, 'steps_per_call': 1,
           'log_every': 5, 'preview_every': 20, 'checkpoint_every': 20, 'eval.size': 16, 'eval.samples': 16,
           'eval.mesh_resolution': 16, 'mesh.data': 1}
  options = ['--config=configs/steindreamer_sd.py', f'--workdir={tmp_path / "run"}']
  options += [f'--config.{k}={v}' for k, v in small.items()]
  done = subprocess.run([sys.executable, '-m', 'jaxdreamer.train', *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr[-2000:]
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['step'] == 20 and all(np.isfinite(row['gradient_norm']) for row in rows)
  assert (tmp_path / 'run' / 'mesh.glb').exists() or 'mesh' in done.stdout + done.stderr
