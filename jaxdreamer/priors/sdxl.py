"""Stable Diffusion XL (Podell et al. 2023) as a prior, from a folder or a single file on this disk.

Its text is what enters the last layers of two encoders, side by side [77, D], and the second
encoder's embedding of the whole prompt. That one travels as a row more, [78, D], padded with zeros,
so that whatever mixes or batches texts does both. The empty prompt is zeros, as the model was
trained, unless model_index.json says otherwise. The sizes it is given are those of a whole
picture. It does not see cameras, nor does a LoRA of it. Latents and schedule are latent.py's; the
autoencoder is for bfloat16 or float32, half precision overflows.
"""
from typing import Callable

import jax
import jax.numpy as jnp

from jaxdreamer import prompts
from jaxdreamer.nn import clip, unet, unet_config
from jaxdreamer.priors import latent
from jaxdreamer.types import Prior, Text
from jaxdreamer.weights.diffusers_folder import load_part

SIDE = 128  # of the latents of a 1024 px picture; a single file does not say it
SECTION = 'config.prior.sdxl'
HELP = ("config.prior.path: give the folder of Stable Diffusion XL in diffusers' layout, or its "
        "single .safetensors file with "
        f'{SECTION}.tokenizer and {SECTION}.tokenizer_2')


def make_embed(parts: dict, *tokenizers, whole: int) -> Callable[..., Text]:
  """Prior.embed_fn: the words by two towers, and as a last row what the second, of width `whole`,
  makes of the prompt as a whole."""
  towers = parts['text_encoder'], parts['text_encoder_2']
  zeros = parts.get('force_zeros_for_empty_prompt', True)

  def rows(ids):
    one = latent.encode_text(clip.CLIPTextModel, towers[0], ids[0])
    two = latent.encode_text(clip.CLIPTextModelWithProjection, towers[1], ids[1])
    words = jnp.concatenate([one[-1], two[-1]], -1)
    last = jnp.pad(two[0], ((0, 0), (0, words.shape[-1] - whole)))
    return jnp.concatenate([words, last[:, None]], 1)

  def embed(weights, prompt, negative=''):
    phrases = [*prompts.view_prompts(prompt), prompt, '', negative]
    ids = [latent.tokens(tower, phrases, tokenizer=where, option=f'{SECTION}.tokenizer{number}',
                         warn=not number)
           # both cut at one place: one warning
           for tower, where, number in zip(towers, tokenizers, ('', '_2'))]
    text = latent.stored(towers, ids, lambda: rows(ids))
    if zeros:
      text = text * jnp.array([bool(phrase) for phrase in phrases])[:, None, None]
    return Text(views=text[:4], plain=text[4], null=text[5], negative=text[6],
                pooled=text[4, -1, :whole])
  return embed


def sdxl(*, path: str = '', image_size: int = 64, dtype: str = 'auto', prediction: str = '',
         tokenizer: str = '',
         tokenizer_2: str = '', sha256: str = '', sample: bool = False, lora: str = '',
         lora_scale: float = 1.) -> Prior:
  """`lora` as Stable Diffusion's.

  Args:
    image_size: pixels of the render that it takes, enlarged to the model's own.
    dtype: of weights and compute; norms and softmax are float32. 'auto' is latent.precision's.
    prediction: one of diffusion.PREDICTIONS, which goes before what the model says of itself.
    tokenizer, tokenizer_2: folders, for single files, which hold none.
    sha256: a single file's hash, where one wants it checked.
    sample: True: training sees draws of the autoencoder's posterior, else its mean.

  FileNotFoundError or ValueError, one line, for what is missing or not this model.
  """
  parts = latent.opened(path, model='sdxl', sha256=sha256, wanted=HELP, lora=lora,
                        lora_scale=lora_scale)
  forward = latent.schedule_of(latent.predicting(parts['scheduler'], prediction, path=path,
                                                 section=SECTION))
  kind = latent.precision(dtype)
  wired = unet_config.from_diffusers(parts['unet'].config)
  given, each = wired.projection_class_embeddings_input_dim, wired.addition_time_embed_dim
  if 'text_encoder_2' not in parts or given is None or each is None:
    raise ValueError(f"{path} is no Stable Diffusion XL, of two text encoders; "
                     "config.prior.name='stable_diffusion' may serve it")
  coder = latent.coder(parts['vae'], side=parts['unet'].config.get('sample_size', SIDE), dtype=kind)
  sizes = jnp.array([[coder.pixels, coder.pixels, 0., 0., coder.pixels, coder.pixels]])
  whole = given - sizes.size * each    # sizes: original, crop, aimed at
  network = unet.UNet2DCondition(wired, kind, remat=True)
  apply = lambda variables, z_t, t, text: network.apply(
    variables, z_t, forward.timestep(t), text[:, :-1], text_embeds=text[:, -1, :whole],
    time_ids=jnp.repeat(sizes, len(z_t), 0))
  like = jax.eval_shape(lambda key, z, text: network.init(key, z, jnp.zeros(1), text,
                                                          text_embeds=jnp.zeros((1, whole)),
                                                          time_ids=sizes)['params'],
                        jax.random.key(0), jnp.zeros((1, *coder.latent)),
                        jnp.zeros((1, 77, wired.cross_attention_dim)))
  weights = {'unet': load_part(parts['unet'], like, dtype=kind), 'vae': coder.weights}

  def eps(weights, z_t, t, text, camera):
    return forward.eps(apply({'params': weights['unet']}, z_t, t, text), z_t, t)

  embed = make_embed(parts, tokenizer or parts.get('tokenizer'),
                     tokenizer_2 or parts.get('tokenizer_2'), whole=whole)
  return latent.as_prior(weights, forward, coder, eps, embed, image_size=image_size,
                         sample=sample)
