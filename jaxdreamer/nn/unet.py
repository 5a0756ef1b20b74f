"""The denoising UNet of latent diffusion (Rombach et al. 2022), NHWC, in the maths of diffusers'
torch class.

The parameter tree has the names of the published checkpoint, so safetensors_io.load fills it, and
one class serves Stable Diffusion 1.x, 2.x and XL, MVDream and the small toybox prior.
sample [B, h, w, in_channels]; timesteps [B] in 0..1000 (float allowed), not the t in [0, 1] of the
rest of jaxdreamer; encoder_hidden_states [B, L, cross_attention_dim]; class_labels [B,
projection_class_embeddings_input_dim] (a camera vector, say) for class_embed_type 'projection'; for
addition_embed_type 'text_time' (XL) text_embeds [B, P], the pooled text, and time_ids [B, I], in
pixels: height and width of the original, top and left of the crop, height and width aimed at.
Output [B, h, w, out_channels], float32.
h and w must be multiples of 2^(levels - 1), else ValueError.
"""
import functools
from typing import Any, Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn import attention, layers
from jaxdreamer.nn.unet_config import DOWN, UP, UNetConfig


def per_level(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
  """A scalar repeated for every level; a tuple as it is."""
  return (value,) * levels if isinstance(value, int) else value


def resnet(cfg: UNetConfig, dtype: Any, channels: int, name: str) -> layers.Resnet:
  """The UNet's residual block, to be called (x, temb)."""
  return layers.Resnet(channels, cfg.norm_num_groups, cfg.norm_eps, dtype, name=name)


def transformer(cfg: UNetConfig, dtype: Any, attend: Callable, level: int,
                name: str) -> attention.SpatialTransformer:
  """The transformer of a level, to be called (x, text)."""
  levels = len(cfg.block_out_channels)
  return attention.SpatialTransformer(
      per_level(cfg.attention_head_dim, levels)[level], per_level(cfg.transformer_layers_per_block,
                                                                  levels)[level],
      cfg.norm_num_groups, cfg.use_linear_projection, dtype, attend, name=name)


class DownBlock(nn.Module):
  """`layers_per_block` resnets (and transformers) at one level, then half the resolution but on the
  last level."""
  config: UNetConfig
  level: int
  dtype: Any = jnp.float32
  attend: Callable = attention.attend

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C'], temb: Float[Array, 'B E'],
               text: Float[Array, 'B L D']):
    cfg, level, skips = self.config, self.level, []
    for i in range(cfg.layers_per_block):
      x = resnet(cfg, self.dtype, cfg.block_out_channels[level], f'resnets_{i}')(x, temb)
      if DOWN[cfg.down_block_types[level]]:
        x = transformer(cfg, self.dtype, self.attend, level, f'attentions_{i}')(x, text)
      skips.append(x)
    if level < len(cfg.block_out_channels) - 1:
      x = layers.Downsample(x.shape[-1], dtype=self.dtype, name='downsamplers_0')(x)
      skips.append(x)
    return x, skips


class MidBlock(nn.Module):
  """Resnet, transformer, resnet at the lowest resolution."""
  config: UNetConfig
  dtype: Any = jnp.float32
  attend: Callable = attention.attend

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C'], temb: Float[Array, 'B E'],
               text: Float[Array, 'B L D']):
    x = resnet(self.config, self.dtype, x.shape[-1], 'resnets_0')(x, temb)
    last = len(self.config.block_out_channels) - 1
    x = transformer(self.config, self.dtype, self.attend, last, 'attentions_0')(x, text)
    return resnet(self.config, self.dtype, x.shape[-1], 'resnets_1')(x, temb)


class UpBlock(nn.Module):
  """`layers_per_block` + 1 resnets, each on x beside a skip taken from the end of `skips`; then
  double resolution."""
  config: UNetConfig
  level: int  # counted from the top of the network, as in DownBlock
  dtype: Any = jnp.float32
  attend: Callable = attention.attend

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C'], skips: list, temb: Float[Array, 'B E'],
               text: Float[Array, 'B L D']):
    cfg, level = self.config, self.level
    for i in range(cfg.layers_per_block + 1):
      x = jnp.concatenate([x, skips[-1 - i]], -1)
      x = resnet(cfg, self.dtype, cfg.block_out_channels[level], f'resnets_{i}')(x, temb)
      if UP[cfg.up_block_types[-1 - level]]:
        x = transformer(cfg, self.dtype, self.attend, level, f'attentions_{i}')(x, text)
    if level > 0:
      x = layers.Upsample(x.shape[-1], dtype=self.dtype, name='upsamplers_0')(x)
    return x


class UNet2DCondition(nn.Module):
  """eps_hat (or v, or x0: the caller knows) of a noisy sample; see the module's docstring for
  shapes and units.

  The last two fields trade time for memory and change no number: they bound what the backward pass
  keeps, and what self-attention takes (by default float32 [B / views, heads, N, N], N = views h w
  at the largest level that attends).
  """
  config: UNetConfig
  dtype: Any = jnp.float32
  views: int = 1  # this many successive examples are one scene: their pixels attend to each other
  remat: bool = False                    # the backward pass computes every block anew
  chunk: int | None = None  # self-attention takes this many queries at a time, where there are more

  @nn.compact
  def __call__(self, sample: Float[Array, 'B h w C'], timesteps: Float[Array, 'B'],
               encoder_hidden_states: Float[Array, 'B L D'],
               class_labels: Float[Array, 'B K'] | None = None, *, text_embeds: Float[Array, 'B P']
               | None = None,
               time_ids: Float[Array, 'B I'] | None = None) -> Float[Array, 'B h w O']:
    cfg, dtype = self.config, self.dtype
    top, levels = cfg.block_out_channels[0], len(cfg.block_out_channels)
    check_input(cfg, sample, encoder_hidden_states, class_labels, text_embeds, time_ids)
    attend = functools.partial(attention.attend, views=self.views, chunk=self.chunk)
    down, mid, up = (nn.remat(block) if self.remat else block
                     for block in (DownBlock, MidBlock, UpBlock))

    sinusoids = functools.partial(layers.timestep_features, flip_sin_to_cos=cfg.flip_sin_to_cos,
                                  freq_shift=cfg.freq_shift)
    temb = layers.TimestepEmbedding(4 * top, dtype,
                                    name='time_embedding')(sinusoids(timesteps, width=top))
    if cfg.class_embed_type == 'projection':
      temb = temb + layers.TimestepEmbedding(4 * top, dtype, name='class_embedding')(class_labels)
    if cfg.addition_embed_type == 'text_time':
      sizes = sinusoids(time_ids.ravel(), width=cfg.addition_time_embed_dim).reshape(
          len(time_ids), -1)
      told = jnp.concatenate([text_embeds, sizes], -1)
      temb = temb + layers.TimestepEmbedding(4 * top, dtype, name='add_embedding')(told)
    text = encoder_hidden_states.astype(dtype)

    x = nn.Conv(top, (3, 3), dtype=dtype, name='conv_in')(sample)
    skips = [x]
    for level in range(levels):
      x, more = down(cfg, level, dtype, attend, name=f'down_blocks_{level}')(x, temb, text)
      skips += more
    x = mid(cfg, dtype, attend, name='mid_block')(x, temb, text)
    for i in range(levels):
      used = cfg.layers_per_block + 1
      skips, mine = skips[:-used], skips[-used:]
      x = up(cfg, levels - 1 - i, dtype, attend, name=f'up_blocks_{i}')(x, mine, temb, text)
    x = nn.silu(layers.GroupNorm(cfg.norm_num_groups, cfg.norm_eps, dtype, name='conv_norm_out')(x))
    x = nn.Conv(cfg.out_channels, (3, 3), dtype=dtype, kernel_init=layers.zeros, name='conv_out')(x)
    return x.astype(jnp.float32)


def check_input(cfg: UNetConfig, sample, text, class_labels, text_embeds, time_ids):
  """ValueError in words, where a wrong shape would otherwise fail deep inside or broadcast."""
  factor = 2 ** (len(cfg.block_out_channels) - 1)
  if sample.shape[1] % factor or sample.shape[2] % factor:
    raise ValueError(f'UNet2DCondition: sample {sample.shape} must be NHWC with h and w multiples '
                     f'of {factor}')
  if sample.shape[-1] != cfg.in_channels:
    raise ValueError(f'UNet2DCondition: sample {sample.shape} must be NHWC with {cfg.in_channels} '
                     'channels')
  if text.shape[-1] != cfg.cross_attention_dim:
    raise ValueError(f'UNet2DCondition: text {text.shape} must have width '
                     f'{cfg.cross_attention_dim}')
  asked = cfg.projection_class_embeddings_input_dim
  width = None if class_labels is None else class_labels.shape[-1]
  if width != (asked if cfg.class_embed_type else None):
    raise ValueError(f'UNet2DCondition: class_labels has width {width}, the config asks for '
                     f'{asked if cfg.class_embed_type else None}')
  added = None if text_embeds is None or time_ids is None else (text_embeds.shape[-1],
                                                                time_ids.shape[-1])
  if not cfg.addition_embed_type and (text_embeds is not None or time_ids is not None):
    raise ValueError('UNet2DCondition: the config has no use for text_embeds and time_ids')
  if cfg.addition_embed_type and (added is None or added[0]
                                  + added[1] * cfg.addition_time_embed_dim != asked):
    raise ValueError(f'UNet2DCondition: the widths (P, I) of text_embeds and time_ids are {added}, '
                     'the config asks for '
                     f'P + {cfg.addition_time_embed_dim} I = {asked}')
