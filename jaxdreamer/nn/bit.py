"""BiT (Kolesnikov et al. 2020) as DPT-Hybrid's stem: a ResNet whose convolutions standardise their
weights, with group normalization after each and TensorFlow's 'SAME' padding; transformers'
BitBackbone with layer_type 'bottleneck'.

NHWC in; maps of stage1, stage2, stage3 out, at strides 4, 8, 16. Normalization, of weights and of
pixels, is float32.
"""
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn import hf_config, layers


@dataclasses.dataclass(frozen=True)
class BitConfig:
  """transformers' names; the defaults are DPT-Hybrid's, the first three stages of ResNet-50."""
  embedding_size: int = 64
  hidden_sizes: tuple[int, ...] = (256, 512, 1024)
  depths: tuple[int, ...] = (3, 4, 9)
  num_groups: int = 32

  def __post_init__(self):
    if len(self.hidden_sizes) != 3 or len(self.depths) != 3:
      raise ValueError(f'BitConfig: hidden_sizes {self.hidden_sizes} and depths {self.depths}; '
                       'both need 3 stages')
    # a bottleneck has a quarter of it, in multiples of 8
    if any(n % 32 for n in self.hidden_sizes):
      raise ValueError(f'BitConfig: hidden_sizes {self.hidden_sizes} are not multiples of 32')


FIXED = dict(model_type='bit', layer_type='bottleneck', hidden_act='relu', global_padding='same',
             width_factor=1,
             embedding_dynamic_padding=True, output_stride=32)
DEFAULTS = dict(layer_type='preactivation', global_padding=None, embedding_dynamic_padding=False,
                depths=(3, 4, 6, 3),
                hidden_sizes=(256, 512, 1024, 2048))


def config_from_transformers(config: dict) -> BitConfig:
  """The BitConfig of a backbone_config. ValueError lists every field that asks for maths this class
  lacks."""
  values = hf_config.fields_of(config, BitConfig, defaults=DEFAULTS, fixed=FIXED,
                               ignored=('out_features', 'out_indices', 'num_channels'))
  stages = len(values['depths'])
  if hf_config.stage_indices('BitConfig', config, stages) != (1, 2, 3):
    raise ValueError(f'BitConfig: out_features {config.get("out_features")} must be stage1, stage2 '
                     'and stage3')
  return BitConfig(**values | {'hidden_sizes': values['hidden_sizes'][:stages]})


class StandardConv(nn.Module):
  """Convolution whose kernel has mean 0 and variance 1 over each output's inputs (Qiao et al.
  2019). No bias."""
  channels: int
  size: int
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h2 w2 channels']:
    shape = (self.size, self.size, x.shape[-1], self.channels)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    kernel = kernel - kernel.mean((0, 1, 2), keepdims=True)
    kernel = kernel * jax.lax.rsqrt((kernel * kernel).mean((0, 1, 2), keepdims=True) + 1e-8)
    return jax.lax.conv_general_dilated(x.astype(self.dtype), kernel.astype(self.dtype),
                                        (self.stride,) * 2, 'SAME',
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


class Downsample(nn.Module):
  """The shortcut where width or resolution change."""
  channels: int
  stride: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h2 w2 channels']:
    x = StandardConv(self.channels, 1, self.stride, self.dtype, name='conv')(x)
    return layers.GroupNorm(self.groups, dtype=self.dtype, name='norm')(x)


class Bottleneck(nn.Module):
  """1x1, 3x3 with the stride, 1x1; the activation comes after the sum."""
  channels: int
  stride: int
  groups: int
  first: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h2 w2 channels']:
    h = x
    for i, (channels, size, stride) in enumerate(
        ((self.channels // 4, 1, 1), (self.channels // 4, 3, self.stride), (self.channels, 1, 1)),
        1):
      h = StandardConv(channels, size, stride, self.dtype, name=f'conv{i}')(h)
      h = layers.GroupNorm(self.groups, dtype=self.dtype, name=f'norm{i}')(h)
      h = nn.relu(h) if i < 3 else h
    if self.first:
      x = Downsample(self.channels, self.stride, self.groups, self.dtype, name='downsample')(x)
    return nn.relu(h + x)


class Stage(nn.Module):
  """`depth` bottlenecks, the first with the stride."""
  channels: int
  depth: int
  stride: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h2 w2 channels']:
    for i in range(self.depth):
      x = Bottleneck(self.channels, self.stride if i == 0 else 1, self.groups, i == 0, self.dtype,
                     name=f'layers_{i}')(x)
    return x


class Embedder(nn.Module):
  """7x7 convolution, normalization, 3x3 maximum, each but the second at stride 2."""
  config: BitConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    x = StandardConv(self.config.embedding_size, 7, 2, self.dtype, name='convolution')(x)
    x = nn.relu(layers.GroupNorm(self.config.num_groups, dtype=self.dtype, name='norm')(x))
    # torch pads with 0, here -inf: equal, as no pixel is negative
    return nn.max_pool(x, (3, 3), (2, 2), 'SAME')


class Encoder(nn.Module):
  """The stages, each map kept."""
  config: BitConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w D']) -> list[Float[Array, 'B _ _ _']]:
    cfg, maps = self.config, []
    for i, (channels, depth) in enumerate(zip(cfg.hidden_sizes, cfg.depths)):
      x = Stage(channels, depth, 1 if i == 0 else 2, cfg.num_groups, self.dtype,
                name=f'stages_{i}')(x)
      maps.append(x)
    return maps


class Bit(nn.Module):
  """Stem and stages."""
  config: BitConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> list[Float[Array, 'B _ _ _']]:
    x = Embedder(self.config, self.dtype, name='embedder')(x)
    return Encoder(self.config, self.dtype, name='encoder')(x)


class BitBackbone(nn.Module):
  """Images -> maps of the three stages; see the module's docstring."""
  config: BitConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> list[Float[Array, 'B _ _ _']]:
    return Bit(self.config, self.dtype, name='bit')(x)
