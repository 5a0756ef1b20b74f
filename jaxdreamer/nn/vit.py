"""Parts of vision transformers (Dosovitskiy et al. 2021) under the names of transformers' ViT
checkpoints.

Tokens [B, 1 + h w, D]: the class token, then patches row by row. Parameters are float32, `dtype` is
the type of matrix products; normalization, softmax and the resizing of position embeddings are
float32.
"""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdreamer.nn import interpolate
from jaxdreamer.nn.attention import softmax_mixed
from jaxdreamer.nn.layers import gelu

normal = nn.initializers.normal(.02)


def layer_norm(eps: float, dtype: Any, name: str) -> nn.LayerNorm:
  """LayerNorm with two-pass statistics."""
  return nn.LayerNorm(eps, dtype, use_fast_variance=False, name=name)


def tokens(patches: Float[Array, 'B h w D'], cls_token: Float[Array, '1 1 D'],
           positions: Float[Array, '1 N D'], *,
           method: str) -> Float[Array, 'B M D']:
  """Patches behind a class token, plus positions learned on a square grid and resized to this
  one."""
  b, h, w, d = patches.shape
  n = round((positions.shape[1] - 1) ** .5)
  grid = interpolate.resize(positions[:, 1:].reshape(1, n, n, d), (h, w),
                            method=method).reshape(1, h * w, d)
  dtype = patches.dtype
  first = jnp.broadcast_to((cls_token + positions[:, :1]).astype(dtype), (b, 1, d))
  return jnp.concatenate([first, patches.reshape(b, h * w, d) + grid.astype(dtype)], 1)


class Nested(nn.Module):
  """A dense layer called `dense`, one level down."""
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N C']) -> Float[Array, 'B N width']:
    return nn.Dense(self.width, dtype=self.dtype, name='dense')(x)


class SelfAttention(nn.Module):
  """Multi-head attention without its last projection."""
  heads: int
  qkv_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    b, n, d = x.shape
    q, k, v = [nn.Dense(d, use_bias=self.qkv_bias, dtype=self.dtype,
                        name=name)(x).reshape(b, n, self.heads, d // self.heads)
               for name in ('query', 'key', 'value')]
    return softmax_mixed(q, k, v).reshape(b, n, d)


class Attention(nn.Module):
  """Multi-head self-attention."""
  heads: int
  qkv_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    mixed = SelfAttention(self.heads, self.qkv_bias, self.dtype, name='attention')(x)
    return Nested(x.shape[-1], self.dtype, name='output')(mixed)


class Layer(nn.Module):
  """Pre-norm transformer layer with an exact gelu."""
  heads: int
  intermediate_size: int
  eps: float
  qkv_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    h = layer_norm(self.eps, self.dtype, 'layernorm_before')(x)
    x = x + Attention(self.heads, self.qkv_bias, self.dtype, name='attention')(h)
    h = layer_norm(self.eps, self.dtype, 'layernorm_after')(x)
    h = gelu(Nested(self.intermediate_size, self.dtype, name='intermediate')(h))
    return x + Nested(x.shape[-1], self.dtype, name='output')(h)
