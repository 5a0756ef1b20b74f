"""The convolutional decoder of DPT (Ranftl et al. 2021), transformers' DPTNeck: features of four
depths, maps or tokens, to one map. Depth Anything's too."""
from typing import Any, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn import interpolate
from jaxdreamer.nn.layers import gelu


class Deconv(nn.Module):
  """Transposed convolution whose stride is its size: every pixel becomes a block. Kernel [n, n,
  out, in], as torch's."""
  factor: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B H W C']:
    b, h, w, c = x.shape
    n = self.factor
    kernel = self.param('kernel', nn.initializers.lecun_normal(in_axis=-1, out_axis=-2),
                        (n, n, c, c))
    bias = self.param('bias', nn.initializers.zeros_init(), (c,))
    y = jnp.einsum('bhwi,yxoi->bhywxo', x.astype(self.dtype), kernel.astype(self.dtype))
    return y.reshape(b, n * h, n * w, c) + bias.astype(self.dtype)[None, None, None]


class ReassembleLayer(nn.Module):
  """A 1x1 convolution, then `factor` times the resolution."""
  channels: int
  factor: float | int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w D']) -> Float[Array, 'B H W channels']:
    x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name='projection')(x)
    if self.factor > 1:
      return Deconv(int(self.factor), self.dtype, name='resize')(x)
    if self.factor < 1:
      stride, pad = (int(1 / self.factor),) * 2, ((1, 1), (1, 1))
      return nn.Conv(self.channels, (3, 3), stride, pad, dtype=self.dtype, name='resize')(x)
    return x


class Reassemble(nn.Module):
  """Maps pass; tokens on a grid become maps. `readout`: each token sees the class token through a
  dense layer, else that token is dropped."""
  neck_hidden_sizes: tuple[int, ...]
  factors: tuple[float | int, ...]
  readout: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: Sequence[Array],
               grid: tuple[int, int]) -> list[Float[Array, 'B _ _ _']]:
    maps = []
    for i, (x, channels, factor) in enumerate(zip(features, self.neck_hidden_sizes, self.factors)):
      if x.ndim == 3:
        b, _, d = x.shape
        first, x = x[:, :1], x[:, 1:]
        if self.readout:
          both = jnp.concatenate([x, jnp.broadcast_to(first, x.shape)], -1)
          x = gelu(nn.Dense(d, dtype=self.dtype, name=f'readout_projects_{i}_0')(both))
        x = ReassembleLayer(channels, factor, self.dtype,
                            name=f'layers_{i}')(x.reshape(b, *grid, d))
      maps.append(x)
    return maps


class Residual(nn.Module):
  """x + conv(relu(conv(relu(x))))."""
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
    h = x
    for name in ('convolution1', 'convolution2'):
      h = nn.Conv(x.shape[-1], (3, 3), use_bias=self.use_bias, dtype=self.dtype,
                  name=name)(nn.relu(h))
    return x + h


class FusionLayer(nn.Module):
  """What came from below plus a map of the same size (None at the lowest), then resized to
  `shape`."""
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C'], skip: Float[Array, 'B h w C'] | None,
               shape: tuple[int, int]) -> Float[Array, 'B H W C']:
    residual = Residual(self.use_bias, self.dtype, name='residual_layer1')
    if skip is not None:
      x = x + residual(skip)
    elif self.is_initializing():
      residual(x)  # the lowest has none to add, but the checkpoint holds its weights
    x = Residual(self.use_bias, self.dtype, name='residual_layer2')(x)
    x = interpolate.resize(x, shape, align_corners=True)
    return nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name='projection')(x)


class Fusion(nn.Module):
  """From the lowest resolution to the highest, each fused at the size of the next; the last at
  twice its size."""
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps: Sequence[Float[Array, 'B _ _ C']]) -> Float[Array, 'B H W C']:
    maps = maps[::-1]
    shapes = [m.shape[1:3] for m in maps[1:]] + [(2 * maps[-1].shape[1], 2 * maps[-1].shape[2])]
    x = maps[0]
    for i, (skip, shape) in enumerate(zip(maps, shapes)):
      x = FusionLayer(self.use_bias, self.dtype, name=f'layers_{i}')(x, skip if i else None, shape)
    return x


class Neck(nn.Module):
  """Features of four depths -> one map at twice the size of the first."""
  neck_hidden_sizes: tuple[int, ...]
  factors: tuple[float | int, ...]
  fusion_hidden_size: int
  readout: bool
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: Sequence[Array], grid: tuple[int, int]) -> Float[Array, 'B H W C']:
    maps = Reassemble(self.neck_hidden_sizes, self.factors, self.readout, self.dtype,
                      name='reassemble_stage')(features, grid)
    maps = [nn.Conv(self.fusion_hidden_size, (3, 3), use_bias=False, dtype=self.dtype,
                    name=f'convs_{i}')(m)
            for i, m in enumerate(maps)]
    return Fusion(self.use_bias, self.dtype, name='fusion_stage')(maps)
