"""A published latent diffusion model as a prior: Stable Diffusion 1.x and 2.x, from a folder or a
single file on this disk.

Latents, schedule and text are latent.py's. The UNet predicts eps or v, as the scheduler's config
says. Cameras reach a class embedding whose last matrix is zero: the frozen model does not see them,
VSD trains it whole, beside its LoRA.
"""
import dataclasses

import jax
import jax.numpy as jnp

from jaxdreamer import cameras, prompts
from jaxdreamer.nn import layers, unet, unet_config
from jaxdreamer.nn.unet_config import UNetConfig
from jaxdreamer.priors import latent
from jaxdreamer.types import Prior, Text
from jaxdreamer.weights.diffusers_folder import load_part

CAMERA = 16                              # world_from_camera, row by row
SECTION = 'config.prior.stable_diffusion'
HELP = ("config.prior.path: give the folder of a model in diffusers' layout (unet, vae, "
        "text_encoder, tokenizer, scheduler), or a "
        f'single .safetensors file of Stable Diffusion 1.x or 2.x with {SECTION}.tokenizer')


def refuse_other_kinds(path: str, wired: UNetConfig):
  """ValueError where the UNet takes more than these models do: cameras, or the sizes of
  pictures."""
  if wired.class_embed_type:
    raise ValueError(f"{path}: this UNet wants cameras, as MVDream's does: "
                     "config.prior.name='mvdream' is for that")
  if wired.addition_embed_type:
    raise ValueError(f"{path}: this UNet wants what Stable Diffusion XL's does: "
                     "config.prior.name='sdxl' is for that")


def refuse_other_channels(path: str, wired: UNetConfig, channels: int):
  """ValueError where the UNet does not turn a latent of so many channels into another."""
  if wired.out_channels != channels:
    raise ValueError(f'{path}: this UNet returns {wired.out_channels} channels for {channels} of a '
                     'latent: it learns a variance too, or belongs to another autoencoder')
  if wired.in_channels != channels:
    raise ValueError(f'{path}: this UNet wants more than a noisy latent and a text, as those of '
                     'inpainting and depth models do')


def stable_diffusion(*, path: str = '', image_size: int = 64, dtype: str = 'auto',
                     prediction: str = '', tokenizer: str = '',
                     sha256: str = '', sample: bool = False, lora: str = '',
                     lora_scale: float = 1.) -> Prior:
  """`lora`: a file of loras.py, added `lora_scale` times to the weights.

  Args:
    image_size: pixels of the render that it takes, enlarged to the model's own.
    dtype: of weights and compute; norms and softmax are float32. 'auto' is latent.precision's.
    prediction: one of diffusion.PREDICTIONS, which goes before what the model says of itself.
    tokenizer: folder, for single files, which hold none.
    sha256: a single file's hash, where one wants it checked.
    sample: True: training sees draws of the autoencoder's posterior, else its mean.

  FileNotFoundError or ValueError, one line, for what is missing or not of these models.
  """
  parts = latent.opened(path, model='sd21-base', sha256=sha256, wanted=HELP, lora=lora,
                        lora_scale=lora_scale)
  forward = latent.schedule_of(latent.predicting(parts['scheduler'], prediction, path=path,
                                                 section=SECTION))
  kind = latent.precision(dtype)
  wired = unet_config.from_diffusers(parts['unet'].config)
  refuse_other_kinds(path, wired)
  coder = latent.coder(parts['vae'], side=parts['unet'].config.get('sample_size', 64), dtype=kind)
  refuse_other_channels(path, wired, coder.latent[-1])
  network = unet.UNet2DCondition(dataclasses.replace(wired, class_embed_type='projection',
                                                     projection_class_embeddings_input_dim=CAMERA),
                                 kind, remat=True)
  words, where = jnp.zeros((1, 77, wired.cross_attention_dim)), jnp.zeros((1, CAMERA))
  key = jax.random.key(0)
  like = jax.eval_shape(network.init, key, jnp.zeros((1, *coder.latent)), jnp.zeros(1), words,
                        where)['params']
  del like['class_embedding']
  camera_in = layers.TimestepEmbedding(4 * wired.block_out_channels[0]).init(key, where)[
      'params']
  camera_in['linear_2'] = jax.tree.map(jnp.zeros_like, camera_in['linear_2'])
  weights = {'unet': load_part(parts['unet'], like, dtype=kind), 'vae': coder.weights}
  weights['unet']['class_embedding'] = jax.tree.map(lambda a: a.astype(kind), camera_in)

  def eps(weights, z_t, t, text, camera):
    where = jnp.zeros((len(z_t), CAMERA))
    if camera is not None:
      where = cameras.hidden(camera, camera.world_from_camera.reshape(-1, CAMERA))
    return forward.eps(network.apply({'params': weights['unet']}, z_t, forward.timestep(t), text,
                                     where), z_t, t)

  def embed(weights, prompt, negative=''):
    phrases = [*prompts.view_prompts(prompt), prompt, '', negative]
    rows, pooled = latent.rows(parts, phrases, tokenizer=tokenizer, section=SECTION)
    return Text(views=rows[:4], plain=rows[4], null=rows[5], negative=rows[6], pooled=pooled[4])

  return latent.as_prior(weights, forward, coder, eps, embed, image_size=image_size,
                         sample=sample)
