"""The autoencoder of Stable Diffusion (Rombach et al. 2022; Kingma & Welling 2014), NHWC, in the
maths of diffusers' AutoencoderKL.

`VAEConfig` has the names of the published config.json, and the parameter tree those of the
published checkpoint: safetensors_io.load(path, like, rename=VAE_RENAME) reads new files and old.
Images [B, H, W, 3] are in [-1, 1], not the [0, 1] of the rest of jaxdreamer; latents are
[B, H/f, W/f, 4] with f = 2^(levels - 1).
What the UNet diffuses is `scaling_factor` times these latents; encode and decode know nothing of
that factor, as in diffusers.

    mean, logvar = vae.apply(variables, 2 * x - 1, method='encode')
    latent = config.scaling_factor * sample(key, Posterior(mean, logvar))
    x = .5 + .5 * vae.apply(variables, latent / config.scaling_factor, method='decode')

Outputs are float32; decode does not clip. Half precision should be bfloat16: activations of the
SDXL autoencoder exceed float16. ValueError for wrong shapes, and for configs the class does not
know.
"""
import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.nn import attention, layers

EPS = 1e-6                               # of every norm here; no field of config.json
DOWN, UP = 'DownEncoderBlock2D', 'UpDecoderBlock2D'

# For loading: older releases of diffusers named the attention's layers so.
VAE_RENAME = ((r'(attentions\.\d+)\.query\.', r'\1.to_q.'), (r'(attentions\.\d+)\.key\.',
                                                             r'\1.to_k.'),
              (r'(attentions\.\d+)\.value\.', r'\1.to_v.'), (r'(attentions\.\d+)\.proj_attn\.',
                                                             r'\1.to_out.0.'))


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """diffusers' names and defaults. The network has as many levels as block_out_channels."""
  in_channels: int = 3
  out_channels: int = 3
  latent_channels: int = 4
  block_out_channels: tuple[int, ...] = (64,)
  layers_per_block: int = 1
  down_block_types: tuple[str, ...] = (DOWN,)
  up_block_types: tuple[str, ...] = (UP,)
  norm_num_groups: int = 32
  scaling_factor: float = 0.18215

  def __post_init__(self):
    levels = len(self.block_out_channels)
    if not levels == len(self.down_block_types) == len(self.up_block_types):
      raise ValueError(f'VAEConfig: {levels} block_out_channels, {len(self.down_block_types)} '
                       'down_block_types and '
                       f'{len(self.up_block_types)} up_block_types; one of each per level')
    unknown = [b for b in self.down_block_types if b != DOWN] + [b for b in self.up_block_types
                                                                 if b != UP]
    if unknown:
      raise ValueError(f'VAEConfig: unknown block types {unknown}; known are {[DOWN, UP]}')


# Stable Diffusion 1.x and 2.x; SDXL's has scaling_factor 0.13025.
STABLE_DIFFUSION = VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2,
                             down_block_types=(DOWN,) * 4,
                             up_block_types=(UP,) * 4)

# Fields of published config.json files that this class fixes, and the value it fixes each to.
FIXED = dict(_class_name='AutoencoderKL', act_fn='silu', use_quant_conv=True,
             use_post_quant_conv=True,
             mid_block_add_attention=True, shift_factor=None, latents_mean=None, latents_std=None)
IGNORED = ('sample_size', 'force_upcast')                # tiles, and the dtype, are the caller's


def config_from_diffusers(config: dict) -> VAEConfig:
  """The VAEConfig of a published config.json. ValueError lists every field that asks for maths this
  class lacks."""
  known = {f.name for f in dataclasses.fields(VAEConfig)}
  rest = {k: v for k, v in config.items()
          if k in FIXED or not (k in known or k in IGNORED or k.startswith('_'))}
  foreign = {k: v for k, v in rest.items() if FIXED.get(k) != v}
  if foreign:
    raise ValueError(f'this VAE cannot serve a checkpoint whose config.json says {foreign}')
  return VAEConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()
                      if k in known})


class Posterior(NamedTuple):
  """A normal distribution of every latent, before scaling_factor."""
  mean: Float[Array, 'B h w Z']
  logvar: Float[Array, 'B h w Z']


def sample(key: Key[Array, ''], posterior: Posterior) -> Float[Array, 'B h w Z']:
  """mean + std * noise; differentiable in both, at fixed noise."""
  noise = jax.random.normal(key, posterior.mean.shape)
  return posterior.mean + jnp.exp(.5 * posterior.logvar) * noise


def resnet(cfg: VAEConfig, dtype: Any, channels: int, name: str) -> layers.Resnet:
  """The VAE's residual block, to be called (x, None): no timestep."""
  return layers.Resnet(channels, cfg.norm_num_groups, EPS, dtype, name=name)


class PixelAttention(nn.Module):
  """x + self-attention of pixels, one head as wide as the channels, biases in every layer."""
  config: VAEConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
    b, h, w, c = x.shape
    y = layers.GroupNorm(self.config.norm_num_groups, EPS, self.dtype,
                         name='group_norm')(x).reshape(b, h * w, c)
    q, k, v = [nn.Dense(c, dtype=self.dtype, name=name)(y)[:, :, None]
               for name in ('to_q', 'to_k', 'to_v')]
    mixed = attention.attend(q, k, v)[:, :, 0]
    return x + nn.Dense(c, dtype=self.dtype, name='to_out_0')(mixed).reshape(b, h, w, c)


class MidBlock(nn.Module):
  """Resnet, attention, resnet at the lowest resolution."""
  config: VAEConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
    x = resnet(self.config, self.dtype, x.shape[-1], 'resnets_0')(x, None)
    x = PixelAttention(self.config, self.dtype, name='attentions_0')(x)
    return resnet(self.config, self.dtype, x.shape[-1], 'resnets_1')(x, None)


class DownBlock(nn.Module):
  """`layers_per_block` resnets at one level, then half the resolution but on the last level."""
  config: VAEConfig
  level: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h2 w2 D']:
    cfg, channels = self.config, self.config.block_out_channels[self.level]
    for i in range(cfg.layers_per_block):
      x = resnet(cfg, self.dtype, channels, f'resnets_{i}')(x, None)
    if self.level < len(cfg.block_out_channels) - 1:
      x = layers.Downsample(channels, ((0, 1), (0, 1)), self.dtype, name='downsamplers_0')(x)
    return x


class UpBlock(nn.Module):
  """`layers_per_block` + 1 resnets at one level, then double the resolution but on the top
  level."""
  config: VAEConfig
  level: int                                             # counted from the image, as in DownBlock
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h2 w2 D']:
    cfg, channels = self.config, self.config.block_out_channels[self.level]
    for i in range(cfg.layers_per_block + 1):
      x = resnet(cfg, self.dtype, channels, f'resnets_{i}')(x, None)
    if self.level > 0:
      x = layers.Upsample(channels, self.dtype, name='upsamplers_0')(x)
    return x


class Encoder(nn.Module):
  """Image -> mean and log-variance beside each other, before quant_conv."""
  config: VAEConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w M']:
    cfg, dtype = self.config, self.dtype
    x = nn.Conv(cfg.block_out_channels[0], (3, 3), dtype=dtype, name='conv_in')(x)
    for level in range(len(cfg.block_out_channels)):
      x = DownBlock(cfg, level, dtype, name=f'down_blocks_{level}')(x)
    x = MidBlock(cfg, dtype, name='mid_block')(x)
    x = nn.silu(layers.GroupNorm(cfg.norm_num_groups, EPS, dtype, name='conv_norm_out')(x))
    return nn.Conv(2 * cfg.latent_channels, (3, 3), dtype=dtype, name='conv_out')(x)


class Decoder(nn.Module):
  """Latents after post_quant_conv -> image."""
  config: VAEConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Float[Array, 'B h w Z']) -> Float[Array, 'B H W C']:
    cfg, dtype, levels = self.config, self.dtype, len(self.config.block_out_channels)
    x = nn.Conv(cfg.block_out_channels[-1], (3, 3), dtype=dtype, name='conv_in')(z)
    x = MidBlock(cfg, dtype, name='mid_block')(x)
    for i in range(levels):
      x = UpBlock(cfg, levels - 1 - i, dtype, name=f'up_blocks_{i}')(x)
    x = nn.silu(layers.GroupNorm(cfg.norm_num_groups, EPS, dtype, name='conv_norm_out')(x))
    return nn.Conv(cfg.out_channels, (3, 3), dtype=dtype, name='conv_out')(x)


class AutoencoderKL(nn.Module):
  """Images to latents by `encode`, latents to images by `decode`; see the module's docstring for
  ranges and shapes."""
  config: VAEConfig
  dtype: Any = jnp.float32

  def setup(self):
    cfg, dtype = self.config, self.dtype
    self.encoder, self.decoder = Encoder(cfg, dtype), Decoder(cfg, dtype)
    self.quant_conv = nn.Conv(2 * cfg.latent_channels, (1, 1), dtype=dtype)
    self.post_quant_conv = nn.Conv(cfg.latent_channels, (1, 1), dtype=dtype)

  def encode(self, x: Float[Array, 'B H W C']) -> Posterior:
    """The posterior of an image's latents."""
    cfg, factor = self.config, 2 ** (len(self.config.block_out_channels) - 1)
    if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor or x.shape[3] != cfg.in_channels:
      raise ValueError(f'AutoencoderKL: image {x.shape} must be [B, H, W, {cfg.in_channels}], H '
                       f'and W multiples of {factor}')
    moments = self.quant_conv(self.encoder(x)).astype(jnp.float32)
    mean, logvar = jnp.split(moments, 2, -1)
    return Posterior(mean, jnp.clip(logvar, -30., 20.))

  def decode(self, z: Float[Array, 'B h w Z']) -> Float[Array, 'B H W C']:
    """The image of latents, about [-1, 1]."""
    if z.ndim != 4 or z.shape[3] != self.config.latent_channels:
      raise ValueError(f'AutoencoderKL: latents {z.shape} must be [B, h, w, '
                       f'{self.config.latent_channels}]')
    return self.decoder(self.post_quant_conv(z)).astype(jnp.float32)

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    """The image of the posterior's mean: for `init`, and to see what the latents lose."""
    return self.decode(self.encode(x).mean)
