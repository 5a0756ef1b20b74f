"""Building blocks of latent-diffusion networks, channels last [B, h, w, C], in the maths of
diffusers' torch classes.

Submodule names follow the published checkpoints: `resnets.0.conv1.weight` lives at
['resnets_0']['conv1']['kernel'] (weights/safetensors_io.py holds the rule). Parameters are float32;
`dtype` is the type of convolutions and matrix products; normalization and softmax are float32
always. The last convolution of a Resnet starts at zero (Dhariwal & Nichol 2021).
"""
import math
from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

zeros = nn.initializers.zeros_init()


def timestep_features(timesteps: Float[Array, 'B'], *, width: int, flip_sin_to_cos: bool = True,
                      freq_shift: int = 0) -> Float[Array, 'B width']:
  """Sinusoids of t (0..1000) at `width`/2 geometric frequencies from 1 to about 1e-4; Ho et al.
  (2020)."""
  half = width // 2
  frequency = jnp.exp(-math.log(10_000.) * jnp.arange(half, dtype=jnp.float32)
                      / (half - freq_shift))
  phase = timesteps.astype(jnp.float32)[:, None] * frequency[None]
  parts = (jnp.cos(phase), jnp.sin(phase)) if flip_sin_to_cos else (jnp.sin(phase), jnp.cos(phase))
  return jnp.concatenate(parts, -1)


def upsample_nearest(x: Float[Array, 'B h w C']) -> Float[Array, 'B 2*h 2*w C']:
  """Every pixel becomes a 2x2 block."""
  b, h, w, c = x.shape
  return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def pixel_unshuffle(x: Float[Array, 'B H W C'], n: int) -> Float[Array, 'B h w D']:
  """Every n x n patch into channels, in the order row, column, channel (Shi et al. 2016
  backwards)."""
  b, h, w, c = x.shape
  return x.reshape(b, h // n, n, w // n, n, c).transpose(0, 1, 3, 2, 4,
                                                         5).reshape(b, h // n, w // n, n * n * c)


class GroupNorm(nn.Module):
  """Wu & He (2018). Reduces over pixels before channels, so the inner loop runs over whole channel
  rows."""
  groups: int
  eps: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
    c = x.shape[-1]
    if c % self.groups:
      raise ValueError(f'GroupNorm: {c} channels do not divide into {self.groups} groups')
    scale = self.param('scale', nn.initializers.ones_init(), (c,))
    bias = self.param('bias', zeros, (c,))

    def of_group(pixel_mean):  # [B, C] -> mean over each group's channels [B, 1, 1, C]
      mean = pixel_mean.reshape(-1, self.groups, c // self.groups).mean(-1)
      return jnp.repeat(mean, c // self.groups, -1)[:, None, None]

    x = x.astype(jnp.float32)
    d = x - of_group(x.mean((1, 2)))
    gain = jax.lax.rsqrt(of_group((d * d).mean((1, 2))) + self.eps) * scale[None, None, None]
    return (d * gain + bias[None, None, None]).astype(self.dtype)


class Dense(nn.Module):
  """flax's Dense, with the same parameters. Those of a LoRA that lie beside them (lora.beside) are
  a branch, summed in float32 before it is rounded to `dtype`: an update that is lost in a rounded
  kernel is not lost in a product."""
  width: int
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.linear.default_kernel_init

  @nn.compact
  def __call__(self, x: Float[Array, '*B C']) -> Float[Array, '*B D']:
    kernel = self.param('kernel', self.kernel_init, (x.shape[-1], self.width))
    bias = self.param('bias', zeros, (self.width,)) if self.use_bias else None
    down, up, change, shift = (self.get_variable('params', name)
                               for name in ('kernel_down', 'kernel_up', 'kernel_change',
                                            'bias_change'))
    wide = None if down is None and change is None and shift is None else jnp.float32

    def times(x, kernel):
      return jax.lax.dot_general(x.astype(self.dtype), kernel.astype(self.dtype),
                                 (((x.ndim - 1,), (0,)), ((), ())),
                                 preferred_element_type=wide)
    y = times(x, kernel)
    if down is not None:
      y = y + times(times(x, down), up)
    if change is not None:
      y = y + times(x, change)
    for b in (bias, shift):
      y = y if b is None else y + b.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
    return y.astype(self.dtype)


class TimestepEmbedding(nn.Module):
  """Two dense layers with a SiLU between: features -> embedding."""
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B F']) -> Float[Array, 'B width']:
    x = nn.silu(Dense(self.width, dtype=self.dtype, name='linear_1')(x))
    return Dense(self.width, dtype=self.dtype, name='linear_2')(x)


class Downsample(nn.Module):
  """Strided 3x3 convolution. `padding` is torch's symmetric 1 in the UNet, ((0, 1), (0, 1)) in the
  VAE encoder."""
  channels: int
  padding: Any = ((1, 1), (1, 1))
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h2 w2 D']:
    return nn.Conv(self.channels, (3, 3), 2, padding=self.padding, dtype=self.dtype, name='conv')(x)


class Upsample(nn.Module):
  """Nearest neighbor, then a 3x3 convolution."""
  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B 2*h 2*w D']:
    return nn.Conv(self.channels, (3, 3), dtype=self.dtype, name='conv')(upsample_nearest(x))


class Resnet(nn.Module):
  """diffusers' ResnetBlock2D: x + conv2(silu(norm2(conv1(silu(norm1 x)) + proj(silu(temb))))); temb
  None in the VAE."""
  channels: int
  groups: int
  eps: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C'], temb: Float[Array, 'B E'] | None) -> Float[
      Array, 'B h w D']:
    h = nn.silu(GroupNorm(self.groups, self.eps, self.dtype, name='norm1')(x))
    h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name='conv1')(h)
    if temb is not None:
      h = h + nn.Dense(self.channels, dtype=self.dtype, name='time_emb_proj')(nn.silu(temb))[
          :, None, None]
    h = nn.silu(GroupNorm(self.groups, self.eps, self.dtype, name='norm2')(h))
    h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, kernel_init=zeros, name='conv2')(h)
    if x.shape[-1] != self.channels:
      x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name='conv_shortcut')(x)
    return x + h


@jax.custom_jvp
def gelu(x: Float[Array, '*n']) -> Float[Array, '*n']:
  """x times the normal distribution's share below x (Hendrycks & Gimpel 2016), exact. Its slope is
  written out: jax 0.12 cannot differentiate erfc inside shard_map."""
  return .5 * x * jax.lax.erfc(-x * math.sqrt(.5))


@gelu.defjvp
def _slope_of_gelu(primals, tangents):
  (x,), (dx,) = primals, tangents
  below = .5 * jax.lax.erfc(-x * math.sqrt(.5))
  return x * below, (below + x * jnp.exp(-.5 * x * x) / math.sqrt(2. * math.pi)) * dx
