"""The toybox prior's networks: the published UNet and CLIP text classes at toybox size, predicting
the clean image.

Beside the image the UNet predicts the object's mask and its normals in the world's frame, which
training alone reads:
unlike colors they owe nothing to the background, and normals say from where the camera looks
(`geometry`).

Images are 64 px. `encode` maps [0, 1] to [-1, 1] and moves every patch of PATCH x PATCH pixels into
channels (Shi et al. 2016): a permutation, so white noise stays white and diffusion happens on
pixels at the cost of a 16 px latent.
A text row [L, D] is CLIP's last hidden state; its first row, which a causal encoder leaves without
content, carries the pooled state instead. The UNet attends to the rows and is told pooled state,
camera and their products (`conditioning`) through its class embedding; beside the noisy latent it
sees, place by place, the ray through each patch (`ray_map`).
"""
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Int8, Key, PyTree, UInt8

from jaxdreamer import cameras
from jaxdreamer.diffusion import bcast, cosine, ddim, eps_from_x0, guide
from jaxdreamer.nn.clip import CLIPTextConfig, CLIPTextModel
from jaxdreamer.nn.layers import pixel_unshuffle
from jaxdreamer.nn.unet import UNet2DCondition
from jaxdreamer.nn.unet_config import UNetConfig
from jaxdreamer.toybox import world
from jaxdreamer.types import Camera

SIZE, PATCH, CAMERA = 64, 4, 6
LATENT = (SIZE // PATCH, SIZE // PATCH, 3 * PATCH ** 2)
SCHEDULE = cosine(shift=32 / SIZE)
GEOMETRY = (*LATENT[:2], 4 * PATCH ** 2)
FEATURES = 15                                    # of a camera, see `camera_features`
FOV = math.radians(40.)                          # of every camera that the prior is told of
RAYS = 18                                        # numbers of a ray, see `ray_map`
TEXT = CLIPTextConfig(vocab_size=len(world.VOCABULARY), hidden_size=128, intermediate_size=512,
                      num_hidden_layers=2,
                      num_attention_heads=4, max_position_embeddings=world.LENGTH,
                      eos_token_id=world.EOS)
# 96 channels for patches of 48 numbers: with 48 the noisy picture does not fit through the last
# norm and SiLU, so that the error at little noise stays as large as the noise, and learning takes
# 1.6 times as many images.
# Words are attended to on 8 x 8 as well as on 4 x 4, where one cell holds a quarter of an object.
UNET = UNetConfig(in_channels=LATENT[-1] + RAYS, out_channels=LATENT[-1] + GEOMETRY[-1],
                  block_out_channels=(96, 128, 176), layers_per_block=1,
                  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
                  up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
                  attention_head_dim=4,
                  norm_num_groups=16, use_linear_projection=True,
                  cross_attention_dim=TEXT.hidden_size,
                  class_embed_type='projection',
                  projection_class_embeddings_input_dim=(1 + FEATURES) * (1 + TEXT.hidden_size) - 1)
unet, text_model = UNet2DCondition(UNET), CLIPTextModel(TEXT)


def encode(x: Float[Array, 'B H W 3']) -> Float[Array, 'B h w c']:
  """[0, 1] pixels -> [-1, 1] patches; differentiable, and exactly inverted by `decode`."""
  return pixel_unshuffle(2. * x - 1., PATCH)


def geometry(mask: UInt8[Array, 'B H W'], normal: Int8[Array, 'B H W 3']) -> Float[
    Array, 'B h w g']:
  """Mask [0, 1] and normal [-1, 1], as in render_buffer.Pool, in patches."""
  return jnp.concatenate([pixel_unshuffle(mask[..., None] / 255., PATCH),
                          pixel_unshuffle(normal / 127., PATCH)], -1)


def of_object(seen: Float[Array, 'B h w g']) -> Float[Array, 'B h w c']:
  """The mask of `geometry` at each number of a latent."""
  return jnp.repeat(seen[..., :PATCH ** 2], 3, -1)


def decode(z: Float[Array, 'B h w c']) -> Float[Array, 'B H W 3']:
  """The inverse of `encode`: patches in [-1, 1] to images in [0, 1]."""
  return .5 * rearrange(z, 'b h w (p q c) -> b (h p) (w q) c', p=PATCH, q=PATCH) + .5


def init_text(key: Key[Array, '']) -> PyTree:
  """Random weights {'text_model'}, which are all that `embed` reads."""
  return {'text_model': text_model.init(key, jnp.zeros((1, world.LENGTH), jnp.int32))['params']}


def init(key: Key[Array, '']) -> PyTree:
  """Random weights {'unet', 'text_model'}."""
  k_unet, k_text = jax.random.split(key)
  latent, text = jnp.zeros((1, *LATENT[:2], UNET.in_channels)), jnp.zeros(
      (1, world.LENGTH, TEXT.hidden_size))
  return {'unet': unet.init(k_unet, latent, jnp.zeros(1), text,
                            conditioning(jnp.zeros((1, CAMERA)), text[:, 0]))['params'],
          **init_text(k_text)}


def embed(weights: PyTree, ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
  """Token ids (world.tokens) -> text rows."""
  hidden, pooled, _ = text_model.apply({'params': weights['text_model']}, ids)
  return hidden.at[:, 0].set(pooled)


def camera_features(camera: Float[Array, 'B 6']) -> Float[Array, 'B 15']:
  """Four harmonics of the azimuth (a cube looks the same every 90 degrees), elevation, distance,
  and the first two harmonics by elevation, scaled to about [-2, 2]; zeros for a camera that is not
  told."""
  cos_1, sin_1, sin_el, cos_el, distance, is_told = (camera[:, i] for i in range(CAMERA))
  turn = jax.lax.complex(cos_1, sin_1)
  turns = [turn, turn ** 2, turn ** 3, turn ** 4]
  azimuth = [part for z in turns for part in (z.real, z.imag)]
  rest = [2. * sin_el, 4. * (cos_el - .85 * is_told), 5. * distance,
          *(2. * sin_el * part for part in azimuth[:4])]
  return 2. * jnp.stack(azimuth + rest, -1)


def ray_map(camera: Float[Array, 'B 6']) -> Float[Array, 'B h w 18']:
  """Of the ray through the center of each patch: its point nearest to the origin, its direction,
  and sine and cosine of pi and 2 pi times the point; zeros for a camera that is not told. Where the
  camera stands is so said in every place, as what it sees there, which a network of convolutions
  does not work out from two angles (Watson et al. 2022, 3DiM, Sec. 2.3)."""
  cos_az, sin_az, sin_el, cos_el, further, is_told = (camera[:, i, None, None]
                                                      for i in range(CAMERA))
  at = jnp.tan(.5 * FOV) * (2. * (jnp.arange(LATENT[0]) + .5) / LATENT[0] - 1.)
  right, up = at[None, None, :], -at[None, :, None]
  backward = (cos_el * cos_az, cos_el * sin_az, sin_el)
  rightward, upward = (-sin_az, cos_az, 0. * sin_az), (-sin_el * cos_az, -sin_el * sin_az, cos_el)
  direction = jnp.stack([right * r + up * u - b for r, u, b in zip(rightward, upward, backward)],
                        -1)
  direction = direction / jnp.sqrt(1. + right ** 2 + up ** 2)[..., None]
  origin = (3. + further)[..., None] * jnp.stack(backward, -1)
  point = origin - jnp.sum(origin * direction, -1, keepdims=True) * direction
  turns = [f(octave * jnp.pi * point) for octave in (1., 2.) for f in (jnp.sin, jnp.cos)]
  return is_told[..., None] * jnp.concatenate([point, direction, *turns], -1)


def conditioning(camera: Float[Array, 'B 6'], pooled: Float[Array, 'B D']) -> Float[Array, 'B K']:
  """Camera features, pooled text and all their products: how a view changes depends on what is
  seen, and a sum of the two learns that an order of magnitude later."""
  features = camera_features(camera)
  # 1,920 of them: as loud as the rest together
  products = .125 * pooled[:, :, None] * features[:, None, :]
  return jnp.concatenate([features, pooled, products.reshape(len(pooled), -1)], -1)


def predict(weights: PyTree, z_t: Float[Array, 'B h w c'], t: Float[Array, 'B'],
            text: Float[Array, 'B L D'],
            camera: Float[Array, 'B 6'], *, dtype: Any = jnp.float32
            ) -> tuple[Float[Array, 'B h w c'], Float[Array, 'B h w g']]:
  """The predicted clean latent x0_hat and its `geometry`; camera rows of zeros mean 'not told'
  (cameras.camera_vector).
  `dtype` is that of convolutions and matrix products."""
  seen = jnp.concatenate([z_t, ray_map(camera)], -1)
  out = unet.clone(dtype=dtype).apply({'params': weights['unet']}, seen, 1000. * t, text,
                                      conditioning(camera, text[:, 0]))
  return out[..., :LATENT[-1]], out[..., LATENT[-1]:]


def denoise(weights: PyTree, z_t: Float[Array, 'B h w c'], t: Float[Array, 'B'],
            text: Float[Array, 'B L D'],
            camera: Float[Array, 'B 6']) -> Float[Array, 'B h w c']:
  """x0_hat alone."""
  return predict(weights, z_t, t, text, camera)[0]


def eps(weights: PyTree, z_t: Float[Array, 'B h w c'], t: Float[Array, 'B'],
        text: Float[Array, 'B L D'],
        camera: Camera | None) -> Float[Array, 'B h w c']:
  """The same prediction as noise; camera None is 'not told'."""
  vector = jnp.zeros((t.shape[0], CAMERA)) if camera is None else jax.vmap(cameras.camera_vector)(
      camera)
  x0_hat = denoise(weights, z_t, t, text, vector)
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
