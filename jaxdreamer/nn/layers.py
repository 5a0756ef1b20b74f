"""Building blocks of latent-diffusion networks, channels last [B, h, w, C], in the maths of
diffusers' torch classes.

Submodule names follow the published checkpoints: `resnets.0.conv1.weight` lives at
['resnets_0']['conv1']['kernel'] (weights.py holds the rule). Parameters are float32; `dtype` is the
type of convolutions and matrix products; normalization and softmax are float32 always. The last
convolution of a Resnet and of a SpatialTransformer starts at zero (Dhariwal & Nichol 2021).
"""
import math
from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

zeros = nn.initializers.zeros_init()
QUERIES = 512  # at a time on a CPU, whose caches hold one head's scores of so many
WORTH = 2 ** 18                  # scores of a head, from which that pays


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


def attend(q: Float[Array, 'B N K D'], k: Float[Array, 'B M K D'], v: Float[Array, 'B M K D'], *,
           views: int = 1,
           chunk: int | None = None) -> Float[Array, 'B N K D']:
  """softmax(q k / sqrt D) v, softmax in float32. `views` successive examples attend as one sequence
  of tokens; with `chunk`, that many queries at a time, so that scores take chunk / (views N) of the
  memory, in the backward pass too."""
  b, n, heads, d = q.shape
  if b % views or (chunk and views * n % chunk and views * n > chunk):
    raise ValueError(f'attend: {b} examples of {n} tokens divide into no groups of {views} views, '
                     f'or no chunks of {chunk} queries')
  q, k, v = (x.reshape(b // views, -1, heads, d) for x in (q, k, v))
  block = min(views * n, chunk or views * n, math.gcd(views * n, QUERIES))
  if jax.default_backend() == 'cpu' and block >= QUERIES // 8 and views * n * k.shape[1] >= WORTH:
    return by_heads(q, k, v, queries=block).reshape(b, n, heads, d)
  if chunk and chunk < views * n:
    one = jax.checkpoint(lambda part: jax.nn.dot_product_attention(part, k, v))
    parts = jax.lax.map(one, q.reshape(b // views, -1, chunk, heads, d).swapaxes(0, 1))
    return parts.swapaxes(0, 1).reshape(b, n, heads, d)
  return jax.nn.dot_product_attention(q, k, v).reshape(b, n, heads, d)


def by_heads(q: Float[Array, 'B N K D'], k: Float[Array, 'B M K D'], v: Float[Array, 'B M K D'], *,
             queries: int
             ) -> Float[Array, 'B N K D']:
  """softmax(q k / sqrt D) v of one head and `queries` of its N rows at a time, divided by the sum
  of the exponentials last: on a CPU several times faster than a library's attention, which walks
  through the scores of all heads again and again."""
  b, n, heads, d = q.shape

  def of_head(rows):
    q, k, v = rows

    @jax.checkpoint
    def some(part):
      scores = jnp.einsum('nd,md->nm', part, k, preferred_element_type=jnp.float32) / math.sqrt(d)
      likely = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
      return (likely.astype(v.dtype) @ v / jnp.sum(likely, -1, keepdims=True)).astype(v.dtype)
    return jax.lax.map(some, q.reshape(-1, queries, d)).reshape(n, d)
  out = jax.lax.map(of_head, tuple(x.swapaxes(1, 2).reshape(b * heads, -1, d) for x in (q, k, v)))
  return out.reshape(b, heads, n, d).swapaxes(1, 2)


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


class Attention(nn.Module):
  """Multi-head attention from x [B, N, C] to context [B, M, D]; Vaswani et al. (2017). No bias but
  the last."""
  heads: int
  dtype: Any = jnp.float32
  attend: Callable = attend  # (q, k, v) [B, tokens, heads, channels] -> as q

  @nn.compact
  def __call__(self, x: Float[Array, 'B N C'], context: Float[Array, 'B M D']) -> Float[
      Array, 'B N C']:
    b, n, c = x.shape
    if c % self.heads:
      raise ValueError(f'Attention: {c} channels do not divide into {self.heads} heads')

    def heads_of(name, y):
      return Dense(c, use_bias=False, dtype=self.dtype,
                   name=name)(y).reshape(b, -1, self.heads, c // self.heads)

    q, k, v = heads_of('to_q', x), heads_of('to_k', context), heads_of('to_v', context)
    mixed = self.attend(q, k, v).reshape(b, n, c)
    return Dense(c, dtype=self.dtype, name='to_out_0')(mixed)


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


class GEGLU(nn.Module):
  """h * gelu(g) with (h, g) one dense layer; Shazeer (2020). Exact gelu."""
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N C']) -> Float[Array, 'B N width']:
    h, gate = jnp.split(nn.Dense(2 * self.width, dtype=self.dtype, name='proj')(x), 2, -1)
    return h * gelu(gate)


class FeedForward(nn.Module):
  """GEGLU to four times the width, and back."""
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N C']) -> Float[Array, 'B N C']:
    h = GEGLU(4 * x.shape[-1], self.dtype, name='net_0')(x)
    return nn.Dense(x.shape[-1], dtype=self.dtype, name='net_2')(h)


class TransformerBlock(nn.Module):
  """Pre-norm self-attention (by `attend`), attention to the text, feed-forward."""
  heads: int
  dtype: Any = jnp.float32
  attend: Callable = attend

  @nn.compact
  def __call__(self, x: Float[Array, 'B N C'], context: Float[Array, 'B L D']) -> Float[
      Array, 'B N C']:
    def norm(name):
      return nn.LayerNorm(1e-5, self.dtype, use_fast_variance=False, name=name)

    h = norm('norm1')(x)
    x = x + Attention(self.heads, self.dtype, self.attend, name='attn1')(h, h)
    x = x + Attention(self.heads, self.dtype, name='attn2')(norm('norm2')(x), context)
    return x + FeedForward(self.dtype, name='ff')(norm('norm3')(x))


class SpatialTransformer(nn.Module):
  """diffusers' Transformer2DModel: pixels as tokens, `depth` transformer blocks, a residual around
  all."""
  heads: int
  depth: int
  groups: int
  linear: bool = False  # projections dense (SD 2) or 1x1 convolutions (SD 1): equal but in shape
  dtype: Any = jnp.float32
  attend: Callable = attend              # of pixels to each other

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C'], context: Float[Array, 'B L D']) -> Float[
      Array, 'B h w C']:
    b, h, w, c = x.shape

    def project(name, y, init):
      if self.linear:
        return nn.Dense(c, dtype=self.dtype, kernel_init=init, name=name)(y)
      return nn.Conv(c, (1, 1), dtype=self.dtype, kernel_init=init, name=name)(y)

    y = project('proj_in', GroupNorm(self.groups, 1e-6, self.dtype, name='norm')(x),
                nn.initializers.lecun_normal())
    y = y.reshape(b, h * w, c)
    for i in range(self.depth):
      y = TransformerBlock(self.heads, self.dtype, self.attend,
                           name=f'transformer_blocks_{i}')(y, context)
    return x + project('proj_out', y.reshape(b, h, w, c), zeros)
