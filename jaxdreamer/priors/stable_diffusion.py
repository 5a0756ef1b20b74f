"""A published latent diffusion model as a prior: Stable Diffusion 1.x and 2.x, from a folder or a single file on this disk.

Latents are scaling_factor times the posterior's mean; the image is resized to the model's own pixels on the way in. The UNet
predicts eps or v, as the scheduler's config says. Cameras reach a class embedding whose last matrix is zero: the frozen model
does not see them, a LoRA (VSD) learns to.
"""
import dataclasses
import hashlib
import json
from functools import partial

import jax
import jax.numpy as jnp

from jaxdreamer import prompts
from jaxdreamer.diffusion import BETAS, bcast, ddpm, eps_from_v
from jaxdreamer.nn import clip, clip_tokens, folder, layers, safe_files, tensors, unet, vae
from jaxdreamer.types import Prior, Schedule, Text

CAMERA = 16                              # world_from_camera, row by row
HELP = ("config.prior.path: give the folder of a model in diffusers' layout (unet, vae, text_encoder, tokenizer, scheduler), or a "
        "single .safetensors file of Stable Diffusion 1.x or 2.x with config.prior.stable_diffusion.tokenizer")
FIXED = {'trained_betas': None, 'rescale_betas_zero_snr': False, 'variance_type': 'fixed_small', 'thresholding': False}
# How a sampler walks, or what it does with x0: not the forward process that is distilled.
SAMPLER = '''
  clip_sample clip_sample_range set_alpha_to_one skip_prk_steps steps_offset timestep_spacing sample_max_value
  dynamic_thresholding_ratio interpolation_type use_karras_sigmas timestep_type sigma_min sigma_max final_sigmas_type
  solver_order algorithm_type solver_type lower_order_final euler_at_final use_lu_lambdas lambda_min_clipped
'''.split()
CONVERSIONS = {'epsilon': lambda out, z_t, alpha, sigma: out, 'v_prediction': eps_from_v}


def schedule_of(scheduler: dict) -> tuple[Schedule, int, str]:
  """(schedule, steps, prediction type) of a scheduler_config.json. ValueError lists what it asks for and this prior lacks."""
  known = {'beta_start', 'beta_end', 'beta_schedule', 'num_train_timesteps', 'prediction_type'}
  foreign = {k: v for k, v in scheduler.items()
             if k not in known and k not in SAMPLER and not k.startswith('_') and FIXED.get(k, ()) != v}
  kind, prediction = scheduler.get('beta_schedule', 'linear'), scheduler.get('prediction_type', 'epsilon')
  if kind not in BETAS:
    foreign['beta_schedule'] = kind
  if prediction not in CONVERSIONS:
    foreign['prediction_type'] = prediction
  if foreign:
    raise ValueError(f'this prior cannot serve a checkpoint whose scheduler_config.json says {foreign}')
  steps = scheduler.get('num_train_timesteps', 1000)
  schedule = ddpm(beta_start=scheduler.get('beta_start', 1e-4), beta_end=scheduler.get('beta_end', .02), steps=steps, kind=kind)
  return schedule, steps, prediction


def stable_diffusion(*, path: str, image_size: int = 64, dtype: str = 'bfloat16', prediction: str = '', tokenizer: str = '',
                     sha256: str = '') -> Prior:
  """`image_size`: pixels of the render that it is shown. `dtype` of weights and compute; norms and softmax are float32.
  `prediction`, 'epsilon' or 'v_prediction', and `tokenizer`, a folder, are for single files, which do not hold them; `sha256`
  is such a file's hash, where one wants it checked.

  FileNotFoundError or ValueError, one line, for what is missing or not of these models.
  """
  if not path:
    raise FileNotFoundError(f'{HELP}; it is empty')
  if prediction and prediction not in CONVERSIONS:
    raise ValueError(f'config.prior.stable_diffusion.prediction={prediction!r}: takes one of {sorted(CONVERSIONS)}')
  parts = folder.open_model(path, sha256=sha256 or None)
  told = parts['scheduler'] | ({'prediction_type': prediction} if prediction else {})
  if told.get('prediction_type', '') is None:
    raise ValueError(f'{path} does not say what its UNet predicts: config.prior.stable_diffusion.prediction takes one of '
                     f"{sorted(CONVERSIONS)}; Stable Diffusion 2.1's 768 px model is the v_prediction")
  schedule, steps, predicted = schedule_of(told)
  kind = jnp.dtype(dtype)
  unet_config, vae_config = unet.config_from_diffusers(parts['unet'].config), vae.config_from_diffusers(parts['vae'].config)
  if unet_config.class_embed_type or unet_config.addition_embed_type or unet_config.in_channels != vae_config.latent_channels:
    raise ValueError(f'{path}: this UNet wants more than a noisy latent and a text; Stable Diffusion 1.x and 2.x do not, XL, '
                     'inpainting and depth models do')
  side = parts['unet'].config.get('sample_size', 64)
  latent, pixels = (side, side, vae_config.latent_channels), side * 2 ** (len(vae_config.block_out_channels) - 1)
  network = unet.UNet2DCondition(dataclasses.replace(unet_config, class_embed_type='projection',
                                                     projection_class_embeddings_input_dim=CAMERA), kind, remat=True)
  autoencoder = vae.AutoencoderKL(vae_config, kind)
  words, where = jnp.zeros((1, 77, unet_config.cross_attention_dim)), jnp.zeros((1, CAMERA))
  key = jax.random.key(0)
  like = {'unet': jax.eval_shape(network.init, key, jnp.zeros((1, *latent)), jnp.zeros(1), words, where)['params'],
          'vae': jax.eval_shape(autoencoder.init, key, jnp.zeros((1, pixels, pixels, 3)))['params']}
  del like['unet']['class_embedding']
  weights = {name: folder.load_part(parts[name], like[name], dtype=kind) for name in like}
  camera_in = layers.TimestepEmbedding(4 * unet_config.block_out_channels[0]).init(key, where)['params']
  camera_in['linear_2']['kernel'] = jnp.zeros_like(camera_in['linear_2']['kernel'])
  weights['unet']['class_embedding'] = jax.tree.map(lambda a: a.astype(kind), camera_in)

  def encode(weights, x):
    x = jax.image.resize(x, (len(x), pixels, pixels, 3), 'bilinear')
    return vae_config.scaling_factor * autoencoder.apply({'params': weights['vae']}, 2. * x - 1., method='encode').mean

  def decode(weights, z):
    return .5 + .5 * autoencoder.apply({'params': weights['vae']}, z / vae_config.scaling_factor, method='decode')

  def eps(weights, z_t, t, text, camera):
    where = jnp.zeros((len(z_t), CAMERA))
    if camera is not None:
      where = camera.world_from_camera.reshape(-1, CAMERA) * (camera.fov > 0.)[:, None]
    out = network.apply({'params': weights['unet']}, z_t, t * (steps - 1), text, where)
    return CONVERSIONS[predicted](out, z_t, bcast(schedule.alpha(t), z_t), bcast(schedule.sigma(t), z_t))

  def embed(weights, prompt, negative=''):
    phrases = [*prompts.view_prompts(prompt), prompt, '', negative]
    rows = jnp.asarray(prompts.stored(text_name(parts, phrases), partial(text_rows, parts, tokenizer, phrases)))
    return Text(views=rows[:4], plain=rows[4], null=rows[5], negative=rows[6])

  return Prior(weights, schedule, image_size, latent, encode, decode, eps, embed)


def text_name(parts: dict, phrases: list[str]) -> str:
  """What names the rows of these phrases: the text encoder's weights and the phrases themselves."""
  mark = hashlib.sha256(json.dumps([parts['text_encoder'].config, phrases], sort_keys=True).encode())
  for file in tensors.files_of(parts['text_encoder'].file):
    mark.update(safe_files.sha256_of(file).encode())
  return mark.hexdigest()


def text_rows(parts: dict, tokenizer: str, phrases: list[str]) -> jax.Array:
  """[N, 77, D] rows of the phrases; the text encoder is let go afterwards."""
  where = tokenizer or parts.get('tokenizer')
  if not where:
    raise FileNotFoundError(f'config.prior.stable_diffusion.tokenizer is empty, and there is no tokenizer in the model. {HELP}')
  model = clip.CLIPTextModel(clip.config_from_transformers(parts['text_encoder'].config))
  ids = jnp.asarray(clip_tokens.load(where)(phrases))
  like = jax.eval_shape(model.init, jax.random.key(0), ids)['params']
  weights = folder.load_part(parts['text_encoder'], like, dtype=jnp.float32)
  return jax.jit(lambda w, ids: model.apply({'params': w}, ids)[0])(weights, ids)
