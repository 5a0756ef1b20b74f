"""Attention and the transformer of latent-diffusion networks, in the maths of diffusers' torch
classes; names and dtypes as in layers.py. The last projection of a SpatialTransformer starts at
zero (Dhariwal & Nichol 2021)."""
import math
import re
from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn.layers import Dense, GroupNorm, gelu, zeros

FUSED = (jnp.float16, jnp.bfloat16)
FEWEST = 64  # tokens, from which a kernel of its own pays
QUERIES = 512  # at a time on a CPU, whose caches hold one head's scores of so many
WORTH = 2 ** 18                  # scores of a head, from which that pays


def capability() -> tuple[int, int]:
  """The compute capability of NVIDIA's where programs are traced for one of its GPUs, (9, 0) of an
  H100; (0, 0) anywhere else."""
  device = jax.config.jax_default_device or jax.devices()[0]
  told = re.fullmatch(r'(\d+)\.(\d+)', str(getattr(device, 'compute_capability', '')))
  return (int(told[1]), int(told[2])) if told else (0, 0)


def implementation(q: Float[Array, 'B N K D'], k: Float[Array, 'B M K D']) -> str:
  """'cudnn', fused attention whose scores never reach the memory, where cuDNN has it for such
  arrays and their gradient; else 'xla'. JAX takes it only by name. Of one sequence with itself
  alone: a gradient wants even lengths, which CLIP's 77 words are not, and all arrays mapped alike,
  which a text is not that many renders share."""
  able, length, width = capability(), q.shape[1], q.shape[-1]
  fits = width % 8 == 0 and width <= (256 if able >= (9, 0) else 128)
  itself = q.shape == k.shape and length % 2 == 0 and length >= FEWEST
  return 'cudnn' if able >= (8, 0) and q.dtype in FUSED and fits and itself else 'xla'


def softmax_mixed(q: Float[Array, 'B N K D'], k: Float[Array, 'B M K D'],
                  v: Float[Array, 'B M K D'], *, causal: bool = False) -> Float[Array, 'B N K D']:
  """softmax(q k / sqrt D) v, softmax in float32, by the fastest `implementation` there is."""
  return jax.nn.dot_product_attention(q, k, v, is_causal=causal,
                                      implementation=implementation(q, k))


def attend(q: Float[Array, 'B N K D'], k: Float[Array, 'B M K D'], v: Float[Array, 'B M K D'], *,
           views: int = 1,
           chunk: int | None = None) -> Float[Array, 'B N K D']:
  """softmax(q k / sqrt D) v, softmax in float32. `views` successive examples attend as one sequence
  of tokens; with `chunk`, that many queries at a time where scores reach the memory, so that they
  take chunk / (views N) of it, in the backward pass too."""
  b, n, heads, d = q.shape
  if b % views or (chunk and views * n % chunk and views * n > chunk):
    raise ValueError(f'attend: {b} examples of {n} tokens divide into no groups of {views} views, '
                     f'or no chunks of {chunk} queries')
  q, k, v = (x.reshape(b // views, -1, heads, d) for x in (q, k, v))
  block = min(views * n, chunk or views * n, math.gcd(views * n, QUERIES))
  if jax.default_backend() == 'cpu' and block >= QUERIES // 8 and views * n * k.shape[1] >= WORTH:
    return by_heads(q, k, v, queries=block).reshape(b, n, heads, d)
  if chunk and chunk < views * n and implementation(q, k) == 'xla':
    one = jax.checkpoint(lambda part: softmax_mixed(part, k, v))
    parts = jax.lax.map(one, q.reshape(b // views, -1, chunk, heads, d).swapaxes(0, 1))
    return parts.swapaxes(0, 1).reshape(b, n, heads, d)
  return softmax_mixed(q, k, v).reshape(b, n, heads, d)


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
