"""A published checkpoint as a prior: files of its layout, made here, in; latents, predictions and a
trained scene out."""
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
from jaxdreamer.nn import lora, unet, unet_config, vae
from jaxdreamer.priors import latent
from jaxdreamer.priors.latent import schedule_of
from jaxdreamer.priors.stable_diffusion import stable_diffusion
from jaxdreamer.toybox import xla_flags
from jaxdreamer.weights import clip_tokens, safe_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures('own_cache')
QUICK = xla_flags.known({'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False})


def two_views():
  return jax.vmap(lambda a: cameras.orbital(a, jnp.float32(.3), jnp.float32(2.), jnp.float32(.8)))(
      jnp.array([0., 1.]))


def test_the_tokenizer_merges_cuts_and_pads(tmp_path):
  words = published.write_tokenizer(tmp_path)
  with pytest.warns(UserWarning, match="100 tokens.* takes 75: it is cut at letter 299, after "
                    ".*red red'"):
    ids = clip_tokens.load(tmp_path)(['A  red MUG', '', 'red ' * 100])
  start, end = words['<|startoftext|>'], words['<|endoftext|>']
  assert ids.shape == (3, 77) and ids.dtype == np.int32
  assert ids[0].tolist() == [start, words['a</w>'], words['red</w>'], words['mug</w>'],
                             end] + [end] * 72
  assert ids[1].tolist() == [start] + [end] * 76
  assert ids[2].tolist() == [start] + [words['red</w>']] * 75 + [end]
  published.write_tokenizer(tmp_path, pad={'content': '!', 'lstrip': False})
  assert clip_tokens.load(tmp_path)([''])[0].tolist() == [start, end] + [words['!']] * 75


@pytest.mark.parametrize('pad', ['<|endoftext|>', '!'])
def test_both_published_forms_of_a_tokenizer_give_the_same_ids(tmp_path, pad):
  texts = ['A  red MUG!', '', "the mug's 12 reds", 'naïve café']
  words = published.write_tokenizer(tmp_path / 'old', pad=pad)
  published.write_new_tokenizer(tmp_path / 'new', pad=pad)
  new = tmp_path / 'new' / 'tokenizer.json'
  np.testing.assert_array_equal(clip_tokens.load(tmp_path / 'new')(texts),
                                clip_tokens.load(tmp_path / 'old')(texts))
  told = json.loads(new.read_text())
  told['model']['merges'] = list(published.MERGES)  # as releases before 5 wrote them
  new.write_text(json.dumps(told))
  np.testing.assert_array_equal(clip_tokens.load(tmp_path / 'new')(texts),
                                clip_tokens.load(tmp_path / 'old')(texts))
  published.write_new_tokenizer(tmp_path / 'new', pad=pad, more=['<cat-toy>'])
  ids = clip_tokens.load(tmp_path / 'new')(['a <cat-toy>'])[0]
  assert ids[:3].tolist() == [words['<|startoftext|>'], words['a</w>'], len(words)]


def test_the_map_of_special_tokens_says_what_pads_where_two_files_differ(tmp_path):
  """As in transformers: Stable Diffusion 2.1 is published with both, and was trained on the
  map's."""
  words = published.write_tokenizer(tmp_path, pad='!')
  published.write_json(tmp_path / 'tokenizer_config.json', {'pad_token': '<|endoftext|>',
                                                            'model_max_length': 77})
  assert clip_tokens.load(tmp_path)([''])[0, 2] == words['!']


@pytest.mark.slow
def test_words_of_views_are_kept_and_one_warning_says_what_was_lost(model, monkeypatch):
  folder, _ = model
  rows = lambda network, part, ids: (jnp.tile(ids[..., None] * 1., 32), jnp.zeros((len(ids), 32)),
                                     None)
  monkeypatch.setattr(latent, 'encode_text', rows)
  with pytest.warns(UserWarning, match='cut at letter') as said:
    text = stable_diffusion(path=str(folder), image_size=8).embed('red mug ' * 45 + 'zebra')
  assert len([w for w in said if 'cut at letter' in str(w.message)]) == 1 and "zebra'" in str(
      said[0].message)
  assert len({np.asarray(row).tobytes() for row in (*text.views, text.plain)}) == 5
  tokenize = clip_tokens.load(folder / 'tokenizer')
  with pytest.warns(UserWarning, match='cut'):
    rows = tokenize(prompts.view_prompts('red ' * 90), ends=prompts.ENDS)
  for row, end in zip(rows, tokenize(prompts.ENDS)):
    count = int((end != end[-1]).sum()) - 1                         # without the start
    assert row[76 - count:76].tolist() == end[1:1 + count].tolist() and row[75 - count] == row[1]


def test_a_broken_tokenizer_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='vocab.json'):
    clip_tokens.load(tmp_path)
  published.write_tokenizer(tmp_path)
  (tmp_path / 'vocab.json').write_text('{"a": ')
  with pytest.raises(ValueError, match='no CLIP tokenizer'):
    clip_tokens.load(tmp_path)


@pytest.mark.slow
def test_predictions_are_the_networks_own(model):
  """encode is scaling_factor times the posterior's mean of the enlarged picture, sample a draw of
  it, decode undoes the scaling, eps is the UNet's at the step of that time, and the frozen model
  does not see the camera."""
  folder, params = model
  prior = stable_diffusion(path=str(folder), image_size=8, sample=True)
  assert prior.latent == (8, 8, 4) and prior.image_size == 8
  assert {x.dtype for x in jax.tree.leaves(prior.weights)} == {jnp.dtype('float32')}
  network = unet.UNet2DCondition(unet_config.from_diffusers(published.UNET))
  coder = vae.AutoencoderKL(vae.config_from_diffusers(published.VAE))
  x, keys = jax.random.uniform(KEY, (2, 8, 8, 3)), jax.random.split(KEY, 2)
  large = jax.image.resize(x, (2, 16, 16, 3), 'bilinear')
  posterior = coder.apply({'params': params['vae']}, 2. * large - 1., method='encode')
  z, noise = .18215 * posterior.mean, jnp.stack([jax.random.normal(key, (1, 8, 8, 4))[0]
                                                 for key in keys])
  mean, drawn = jax.jit(lambda x: (prior.encode(x), prior.sample(keys, x)))(x)
  np.testing.assert_allclose(mean, z, rtol=2e-4, atol=2e-5)
  np.testing.assert_allclose(drawn, z + .18215 * jnp.exp(.5 * posterior.logvar) * noise,
                             rtol=2e-4, atol=2e-5)
  back = .5 + .5 * coder.apply({'params': params['vae']}, z / .18215, method='decode')
  np.testing.assert_allclose(jax.jit(prior.decode)(z), back, rtol=2e-4, atol=2e-4)
  t, text = jnp.array([200., 700.]) / 999., jax.random.normal(KEY, (2, 77, 32))
  expected = network.apply({'params': params['unet']}, z, jnp.array([200., 700.]), text)
  for camera in (None, two_views()):
    np.testing.assert_allclose(jax.jit(prior.eps)(z, t, text, camera), expected,
                               rtol=2e-3, atol=2e-4)


def test_a_prior_is_in_the_precision_that_its_device_is_fast_in(monkeypatch):
  for backend, kind in (('cpu', 'float32'), ('gpu', 'bfloat16'), ('tpu', 'bfloat16')):
    monkeypatch.setattr(latent.jax, 'default_backend', lambda name=backend: name)
    assert latent.precision('auto') == kind and latent.precision('float16') == 'float16'


@pytest.mark.slow
def test_v_prediction_becomes_noise(model, tmp_path):
  params = published.write_model(tmp_path, scheduler={'prediction_type': 'v_prediction'})
  prior = stable_diffusion(path=str(tmp_path), image_size=8, dtype='float32')
  z_t, t, text = jax.random.normal(KEY, (2, 8, 8, 4)), jnp.array(
      [300., 900.]) / 999., jax.random.normal(KEY, (2, 77, 32))
  v = unet.UNet2DCondition(unet_config.from_diffusers(published.UNET)).apply(
      {'params': params['unet']}, z_t, 999. * t, text)
  bar = np.cumprod(1. - np.linspace(.00085 ** .5, .012 ** .5, 1000) ** 2)[[300, 900]]
  expected = bcast(jnp.sqrt(1. - bar), z_t) * z_t + bcast(jnp.sqrt(bar), z_t) * v
  np.testing.assert_allclose(jax.jit(prior.eps)(z_t, t, text, None), expected, rtol=2e-3, atol=2e-4)


def test_text_is_embedded_once(model, monkeypatch):
  folder, _ = model
  prior = stable_diffusion(path=str(folder), image_size=8)
  first = prior.embed('a red mug')
  assert first.views.shape == (4, 77, 32) and np.isfinite(first.views).all()
  np.testing.assert_array_equal(first.null, first.negative)
  assert np.abs(first.plain - first.null).max() > 1e-3 and np.abs(first.views[0]
                                                                  - first.views[1]).max() > 1e-3
  with monkeypatch.context() as m:
    m.setattr(latent, 'encode_text', lambda *_: pytest.fail('embedded twice'))
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


@pytest.mark.slow
def test_vsd_trains_a_lora_and_the_whole_way_in_of_the_camera_that_the_frozen_model_does_not_see(
    model):
  folder, _ = model
  prior = stable_diffusion(path=str(folder), image_size=8, dtype='bfloat16')
  est = vsd().init(KEY, prior)
  mlp = flatten_dict({'unet': {'class_embedding': prior.weights['unet']['class_embedding']}},
                     sep='/')
  assert {path: w['change'].shape for path, w in est.items() if 'change' in w} == {
      path: x.shape for path, x in mlp.items()}
  assert est['unet/down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q/kernel'][
      'down'].shape == (32, 4)
  assert not any(path.startswith('vae') for path in est)
  twice = lambda *shape: jnp.repeat(jax.random.normal(KEY, (1, *shape)), 2, 0)
  camera = two_views()
  eps = jax.jit(lambda est, camera=camera: prior.replace(
    weights=lora.beside(prior.weights, est)).eps(
      twice(8, 8, 4), jnp.full(2, .3), twice(77, 32), camera), compiler_options=QUICK)
  assert prior.branches and np.ptp(eps(est), 0).max() == 0.  # the last layer is zero at first
  moved = est | {path: {'change': w['change'] + .3} for path, w in est.items() if 'change' in w}
  assert np.ptp(eps(moved), 0).max() > .01
  half = eps(moved, camera._replace(known=jnp.array([False, True])))
  np.testing.assert_allclose(half, [eps(moved, None)[0], eps(moved)[1]], atol=1e-5)
  attention = {path: w if 'change' in w else {'down': w['down'], 'up': w['up'] + .3}
               for path, w in est.items()}
  assert np.abs(eps(attention) - eps(est)).max() > .01


@pytest.mark.parametrize('change, said', [
  ({'beta_schedule': 'squaredcos_cap_v2'}, 'squaredcos_cap_v2'),
  ({'prediction_type': 'flow_prediction'}, 'flow_prediction'),
  ({'use_flow_sigmas': True}, 'use_flow_sigmas'), ({'trained_betas': [.1]}, 'trained_betas'),
  ({'beta_end': 1.2}, 'beta_end'),
  ({'timestep_type': 'continuous'}, 'timestep_type'), ({'variance_type': 'learned_range'},
                                                       'variance_type'),
  ({'_class_name': 'CogVideoXDDIMScheduler', 'snr_shift_scale': 3.}, 'snr_shift_scale')])
def test_a_scheduler_that_asks_for_more_is_refused(change, said):
  schedule_of(published.SCHEDULER)
  with pytest.raises(ValueError, match=said):
    schedule_of(published.SCHEDULER | change)


@pytest.mark.parametrize('told', [
  {'_class_name': 'FlowMatchEulerDiscreteScheduler', 'shift': 3., 'num_train_timesteps': 1000},
  {'_class_name': 'EDMEulerScheduler', 'sigma_data': .5, 'prediction_type': 'v_prediction'},
  {'_class_name': 'IPNDMScheduler', 'num_train_timesteps': 1000, 'trained_betas': None}])
def test_a_scheduler_without_betas_is_refused(told):
  with pytest.raises(ValueError, match='forward process'):
    schedule_of(told)


# What each sampler adds to the fields of the forward process, as diffusers 0.42 saves it.
SAMPLERS = {
  'DDIMScheduler': {'clip_sample_range': 1., 'dynamic_thresholding_ratio': .995,
                    'thresholding': True,
                    'timestep_spacing': 'leading'},
  'PNDMScheduler': {'skip_prk_steps': True, 'set_alpha_to_one': False, 'steps_offset': 1},
  'LMSDiscreteScheduler': {'use_beta_sigmas': False, 'use_exponential_sigmas': True,
                           'use_karras_sigmas': False},
  'EulerDiscreteScheduler': {'final_sigmas_type': 'zero', 'interpolation_type': 'linear',
                             'sigma_max': None, 'sigma_min': None,
                             'timestep_type': 'discrete', 'use_beta_sigmas': True},
  'KDPM2AncestralDiscreteScheduler': {'use_exponential_sigmas': False, 'steps_offset': 0},
  'HeunDiscreteScheduler': {'clip_sample': False, 'use_beta_sigmas': False},
  'DPMSolverMultistepScheduler': {'algorithm_type': 'sde-dpmsolver++',
                                  'lambda_min_clipped': -np.inf, 'variance_type': None,
                                  'use_flow_sigmas': False, 'flow_shift': 1.,
                                  'use_dynamic_shifting': False, 'use_lu_lambdas': True,
                                  'time_shift_type': 'exponential'},
  'DEISMultistepScheduler': {'solver_type': 'logrho', 'use_flow_sigmas': False},
  'UniPCMultistepScheduler': {'disable_corrector': [0, 1], 'predict_x0': True, 'solver_p': None,
                              'shift_terminal': None,
                              'sigma_max': None},
  'LCMScheduler': {'original_inference_steps': 50, 'timestep_scaling': 10.},
  'TCDScheduler': {'eta_of_tomorrow': [None, {}]}}


@pytest.mark.parametrize('name', SAMPLERS)
def test_no_field_of_a_sampler_refuses_a_model(tmp_path, name):
  published.write_json(tmp_path / 'scheduler_config.json',
                       {'_class_name': name, '_diffusers_version': '0.42.1', **SAMPLERS[name],
                        **published.FORWARD, 'prediction_type': 'v_prediction'})
  forward = schedule_of(safe_files.read_json(tmp_path / 'scheduler_config.json'))
  assert (forward.steps, forward.predicted) == (1000, 'v_prediction')
  bar = np.cumprod(1. - np.linspace(.00085 ** .5, .012 ** .5, 1000) ** 2)
  np.testing.assert_allclose(forward.schedule.alpha(jnp.array([0., .5, 1.])) ** 2,
                             [bar[0], (bar[499] * bar[500]) ** .5, bar[999]],
                             rtol=1e-4)


def test_what_a_scheduler_leaves_out_is_its_own_classs():
  for told, last in (({}, 4e-5), ({'_class_name': 'HeunDiscreteScheduler'}, 1.6e-3),
                     ({'_class_name': 'LCMScheduler', 'beta_start': None}, 4.66e-3)):
    assert schedule_of(told).schedule.alpha(jnp.ones(())) ** 2 == pytest.approx(last, rel=.05)


def test_zero_snr_and_given_betas_are_served():
  """Lin et al. (2023), Algorithm 1, as they write it."""
  betas = np.linspace(.00085 ** .5, .012 ** .5, 1000) ** 2
  root = np.sqrt(np.cumprod(1. - betas))
  wanted = (root - root[-1]) * root[0] / (root[0] - root[-1])
  for told in ({}, {'trained_betas': betas.tolist(), 'beta_start': .1}):
    schedule = schedule_of(published.SCHEDULER | told | {'rescale_betas_zero_snr': True}).schedule
    got = np.asarray(schedule.alpha(jnp.arange(1000) / 999.))
    np.testing.assert_allclose(got[:-1], wanted[:-1], rtol=1e-3)
    assert 0. < got[-1] < 1e-3 and schedule.sigma(jnp.ones(())) > .999999


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
  larger = json.loads(path.read_text()) | {'addition_embed_type': 'text_time',
                                           'addition_time_embed_dim': 8,
                                           'projection_class_embeddings_input_dim': 80}
  path.write_text(json.dumps(larger))
  with pytest.raises(ValueError, match='sdxl'):
    stable_diffusion(path=str(tmp_path))


@pytest.mark.slow
def test_steindreamer_trains_on_a_published_checkpoint(model, tmp_path):
  """The command of the config's own head, twenty steps of it, on the small model."""
  folder, _ = model
  small = {'prior.path': folder, 'prior.stable_diffusion.image_size': 16, 'steps': 20,
           'render.samples': 8, 'render.fine': 0,
           'scene.hashgrid.log2_table': 8, 'scene.hashgrid.levels': 4, 'scene.hashgrid.finest': 32,
           'steps_per_call': 1,
           'log_every': 5, 'preview_every': 20, 'checkpoint_every': 20, 'eval.size': 16,
           'eval.samples': 16,
           'eval.mesh_resolution': 16, 'mesh.data': 1}
  options = ['--config=configs/steindreamer_sd.py', f'--workdir={tmp_path / "run"}']
  options += [f'--config.{k}={v}' for k, v in small.items()]
  done = subprocess.run([sys.executable, '-m', 'jaxdreamer.train', *options], cwd=ROOT,
                        capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr[-2000:]
  rows = [json.loads(line)
          for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['step'] == 20 and all(np.isfinite(row['gradient_norm']) for row in rows)
  assert (tmp_path / 'run' / 'mesh.glb').exists() or 'mesh' in done.stdout + done.stderr
