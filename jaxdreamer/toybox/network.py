"""The toybox prior's networks: the published UNet and CLIP text classes at toybox size, predicting the clean image.

Images are 64 px. `encode` maps [0, 1] to [-1, 1] and moves every patch of PATCH x PATCH pixels into channels
(Shi et al. 2016): a permutation, so white noise stays white and diffusion happens on pixels at the cost of a 16 px latent.
A text row [L, D] is CLIP's last hidden state; its first row, which a causal encoder leaves without content, carries the
pooled state instead. The UNet attends to the rows and is told (camera vector, pooled state) through its class embedding.
"""
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxdreamer import cameras
from jaxdreamer.diffusion import bcast, cosine, ddim, eps_from_x0, guide
from jaxdreamer.nn.clip import CLIPTextConfig, CLIPTextModel
from jaxdreamer.nn.unet import UNet2DCondition, UNetConfig
from jaxdreamer.toybox import world
from jaxdreamer.types import Camera

SIZE, PATCH, CAMERA = 64, 4, 6
LATENT = (SIZE // PATCH, SIZE // PATCH, 3 * PATCH ** 2)
SCHEDULE = cosine(shift=32 / SIZE)
LOUDNESS = 6.                                    # of 6 camera numbers beside 128 of text, lest Adam learn them last
TEXT = CLIPTextConfig(vocab_size=len(world.VOCABULARY), hidden_size=128, intermediate_size=512, num_hidden_layers=2,
                      num_attention_heads=4, max_position_embeddings=world.LENGTH, eos_token_id=world.EOS)
# 96 channels for patches of 48 numbers: with 48 the noisy picture does not fit through the last norm and SiLU, so that the
# error at little noise stays as large as the noise, and learning takes 1.6 times as many images.
UNET = UNetConfig(in_channels=LATENT[-1], out_channels=LATENT[-1], block_out_channels=(96, 128, 192), layers_per_block=1,
                  down_block_types=('DownBlock2D', 'DownBlock2D', 'CrossAttnDownBlock2D'),
                  up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D', 'UpBlock2D'), attention_head_dim=4,
                  norm_num_groups=16, use_linear_projection=True, cross_attention_dim=TEXT.hidden_size,
                  class_embed_type='projection', projection_class_embeddings_input_dim=CAMERA + TEXT.hidden_size)
unet, text_model = UNet2DCondition(UNET), CLIPTextModel(TEXT)


def encode(x: Float[Array, 'B H W 3']) -> Float[Array, 'B h w c']:
  """[0, 1] pixels -> [-1, 1] patches; differentiable, and exactly inverted by `decode`."""
  b, h, w, _ = x.shape
  x = (2. * x - 1.).reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, 3)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // PATCH, w // PATCH, -1)


def decode(z: Float[Array, 'B h w c']) -> Float[Array, 'B H W 3']:
  b, h, w, _ = z.shape
  z = z.reshape(b, h, w, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
  return .5 * z.reshape(b, h * PATCH, w * PATCH, 3) + .5


def init(key: Key[Array, '']) -> PyTree:
  """Random weights {'unet', 'text_model'}."""
  k_unet, k_text = jax.random.split(key)
  ids = jnp.zeros((1, world.LENGTH), jnp.int32)
  return {'unet': unet.init(k_unet, jnp.zeros((1, *LATENT)), jnp.zeros(1), jnp.zeros((1, world.LENGTH, TEXT.hidden_size)),
                            jnp.zeros((1, CAMERA + TEXT.hidden_size)))['params'],
          'text_model': text_model.init(k_text, ids)['params']}


def embed(weights: PyTree, ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
  """Token ids (world.tokens) -> text rows."""
  hidden, pooled = text_model.apply({'params': weights['text_model']}, ids)
  return hidden.at[:, 0].set(pooled)


def denoise(weights: PyTree, z_t: Float[Array, 'B h w c'], t: Float[Array, 'B'], text: Float[Array, 'B L D'],
            camera: Float[Array, 'B 6']) -> Float[Array, 'B h w c']:
  """The predicted clean latent x0_hat; camera rows of zeros mean 'not told' (cameras.camera_vector)."""
  told = jnp.concatenate([LOUDNESS * camera, text[:, 0]], -1)
  return unet.apply({'params': weights['unet']}, z_t, 1000. * t, text, told)


def eps(weights: PyTree, z_t: Float[Array, 'B h w c'], t: Float[Array, 'B'], text: Float[Array, 'B L D'],
        camera: Camera | None) -> Float[Array, 'B h w c']:
  """The same prediction as noise; camera None is 'not told'."""
  told = jnp.zeros((t.shape[0], CAMERA)) if camera is None else jax.vmap(cameras.camera_vector)(camera)
  x0_hat = denoise(weights, z_t, t, text, told)
  return eps_from_x0(x0_hat, z_t, bcast(SCHEDULE.alpha(t), z_t), bcast(SCHEDULE.sigma(t), z_t))


@jax.jit
def guided(params, z_t, t, text, null, vector, scale):
  """Guided noise prediction whose x0 is clipped to the range of images."""
  double = lambda a: jnp.concatenate([a, a])
  x0_hat = denoise(params, double(z_t), double(t), jnp.concatenate([text, null]), double(vector))
  a, s = (bcast(f(t), z_t) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
  return eps_from_x0(jnp.clip(guide(*jnp.split(x0_hat, 2), scale), -1., 1.), z_t, a, s)


def sample(params, key, ids, vector, *, scale=3., steps=20):
  """Guided DDIM samples [n, H, W, 3] of token rows [n, L] and camera rows [n, 6]."""
  rows = jax.jit(embed)
  text = rows(params, ids)
  null = rows(params, jnp.broadcast_to(jnp.asarray(world.tokenize('')), ids.shape))
  z = jax.random.normal(key, (ids.shape[0], *LATENT))
  eps = lambda z_t, t: guided(params, z_t, t, text, null, vector, scale)
  return decode(ddim(eps, z, np.linspace(1., 1 / steps, steps), schedule=SCHEDULE))
