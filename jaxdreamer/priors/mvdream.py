"""MVDream (Shi et al. 2023) as a prior: Stable Diffusion 2.1 taught to draw four views of one scene
at a time.

Four successive rows of a batch are one scene: the pixels of its views attend to each other
(Prior.views_per_scene), so they must share t, elevation, distance and fov and stand a quarter turn
apart: sampling.rings. It sees cameras, and therefore no view words. Without a camera it is the
two-dimensional model that it was trained to be as well, one picture at a time.
Latents, schedule and text are latent.py's.
"""
import dataclasses

import jax
import jax.numpy as jnp

from jaxdreamer import cameras
from jaxdreamer.nn import mvdream as networks
from jaxdreamer.nn import unet, unet_config
from jaxdreamer.priors import latent
from jaxdreamer.types import Prior, Text
from jaxdreamer.weights.diffusers_folder import load_part

VIEWS = 4
SIDE = 32  # of the latents of a 256 px picture; a single file does not say it
SECTION = 'config.prior.mvdream'
HELP = ('config.prior.path: give a folder of MVDream in the layout of diffusers, as '
        'config.prior.hub=mvdream fetches it and as python -m jaxdreamer.convert makes it of the '
        'pickle of sd-v2.1-base-4view; or its single .safetensors file with '
        f"{SECTION}.tokenizer, the tokenizer's folder of Stable Diffusion 2.x")


def mvdream(*, path: str = '', image_size: int = 64, dtype: str = 'auto', tokenizer: str = '',
            sha256: str = '',
            sample: bool = False, lora: str = '', lora_scale: float = 1.) -> Prior:
  """`lora` as Stable Diffusion's.

  Args:
    image_size: pixels of the render that it takes, enlarged to the model's own.
    dtype: of weights and compute; norms and softmax are float32. 'auto' is latent.precision's.
    tokenizer: folder, for single files, which hold none.
    sha256: a single file's hash, where one wants it checked.
    sample: True: training sees draws of the autoencoder's posterior, else its mean.

  FileNotFoundError or ValueError, one line, for what is missing or not this model.
  """
  parts = latent.opened(path, model='mvdream', sha256=sha256, wanted=HELP, lora=lora,
                        lora_scale=lora_scale)
  forward = latent.schedule_of(parts['scheduler'])
  kind = latent.precision(dtype)
  wired = unet_config.from_diffusers(parts['unet'].config)
  embedding = wired.class_embed_type, wired.projection_class_embeddings_input_dim
  if embedding != ('projection', networks.CAMERA):
    raise ValueError(f"{path}: this UNet takes no cameras as MVDream's does; "
                     "config.prior.name='stable_diffusion' may serve it")
  coder = latent.coder(parts['vae'], side=parts['unet'].config.get('sample_size', SIDE), dtype=kind)
  scene = unet.UNet2DCondition(wired, kind, VIEWS, remat=True)
  picture = unet.UNet2DCondition(dataclasses.replace(wired, class_embed_type=None,
                                                     projection_class_embeddings_input_dim=None),
                                 kind, remat=True)
  like = jax.eval_shape(scene.init, jax.random.key(0), jnp.zeros((VIEWS, *coder.latent)),
                        jnp.zeros(VIEWS),
                        jnp.zeros((VIEWS, 77, wired.cross_attention_dim)),
                        jnp.zeros((VIEWS, networks.CAMERA)))['params']
  weights = {'unet': load_part(parts['unet'], like, dtype=kind), 'vae': coder.weights}

  def eps(weights, z_t, t, text, camera):
    args = {'params': weights['unet']}, z_t, forward.timestep(t), text
    if camera is None:
      return forward.eps(picture.apply(*args), z_t, t)
    where = cameras.hidden(camera, networks.camera_vector(camera))
    return forward.eps(scene.apply(*args, where), z_t, t)

  def embed(weights, prompt, negative=''):
    (plain, away, denied), pooled = latent.rows(parts, [prompt, '', negative], tokenizer=tokenizer,
                                                section=SECTION)
    return Text(views=jnp.stack([plain] * 4), plain=plain, null=away, negative=denied,
                pooled=pooled[0])

  return latent.as_prior(weights, forward, coder, eps, embed, image_size=image_size,
                         sample=sample, views_per_scene=VIEWS)
