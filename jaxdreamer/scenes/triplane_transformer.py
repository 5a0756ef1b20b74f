"""Triplane transformer (ScaleDreamer, Ma et al. 2024; after OpenLRM): learned tokens read the words
of the prompt and become three planes of features. A point reads each by bilinear interpolation,
corners aligned.

The planes are smooth, which ScaleDreamer's are not: a token begins as a wave over its plane, and
its nodes blend with those of the tokens around it. From independent numbers the first shapes are
combs of the tokens' spacing, and take twice the steps; tokens side by side leave steps where they
meet. Words come at one scale, whatever encoder they are from: a small one's would drown in the
tokens.
Attention has no biases but those of its last projections, which are .02% of the published number of
parameters.
"""
import math
from functools import reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.nn.attention import Attention
from jaxdreamer.nn.layers import gelu
from jaxdreamer.scenes import volsdf
from jaxdreamer.types import Scene

AXES = ((0, 1), (0, 2), (1, 2))                  # of xyz, for each plane
FREQUENCY = 2.                                   # radians to half a plane's side


def waves(key: Key[Array, ''], shape: tuple[int, int, int]) -> Float[Array, '1 N C']:
  """Initializer of 3 * n^2 tokens: each number is sqrt(2) cos(f . uv + phase) of the token's place
  uv in [-1, 1]^2, with f ~ N(0, FREQUENCY^2) the same on all planes (random Fourier features,
  Rahimi and Recht 2007)."""
  k_frequency, k_phase = jax.random.split(key)
  n = math.isqrt(shape[1] // 3)
  place = (jnp.arange(n) + .5) / n * 2. - 1.
  uv = jnp.stack(jnp.meshgrid(place, place, indexing='ij'), -1).reshape(-1, 2)
  frequency = FREQUENCY * jax.random.normal(k_frequency, (2, shape[-1]))
  phase = jax.random.uniform(k_phase, (3, 1, shape[-1]), maxval=2. * math.pi)
  return (math.sqrt(2.) * jnp.cos((uv @ frequency)[None] + phase)).reshape(shape)


def tent(key: Key[Array, ''], shape: tuple[int, int, int, int], dtype) -> Float[Array, 'k k C F']:
  """Initializer of an upsampling kernel: one matrix times weights that fall linearly from the
  kernel's middle, so that planes begin as the tokens' linear interpolation."""
  k, *matrix = shape[1:]
  weight = 1. - jnp.abs(2. * (jnp.arange(k, dtype=dtype) + .5) / k - 1.)
  return jnp.einsum('i,j,cf->ijcf', weight, weight,
                    nn.initializers.lecun_normal()(key, matrix, dtype))


class Upsample(nn.Module):
  """Each token adds a square of 2 `times` nodes a side, centered on its own `times`: half of it
  overlaps its neighbors'.

  A transposed convolution with the kernel turned round, as one matrix product and four shifted
  sums: its gradient takes a CPU less than half the time."""
  features: int
  times: int

  @nn.compact
  def __call__(self, x: Float[Array, '3 n n C']) -> Float[Array, '3 N N F']:
    n, s = x.shape[1], self.times
    kernel = self.param('kernel', tent, (2 * s, 2 * s, x.shape[-1], self.features), jnp.float32)
    quarters = jnp.einsum('pijc,asbtcf->abpisjtf', x, kernel.reshape(2, s, 2, s, *kernel.shape[2:]))
    quarters = quarters.reshape(2, 2, 3, n * s, n * s, self.features)
    shifted = [jnp.pad(quarters[a, b], ((0, 0), (a * s, s - a * s), (b * s, s - b * s), (0, 0)))
               for a in (0, 1) for b in (0, 1)]
    inside = slice(s // 2, s // 2 + n * s)
    return reduce(jnp.add, shifted)[:, inside, inside]


class Block(nn.Module):
  """Pre-norm attention to the text, self-attention, MLP of four times the width."""
  heads: int

  @nn.compact
  def __call__(self, x: Float[Array, '1 N C'], text: Float[Array, '1 L D']) -> Float[
      Array, '1 N C']:
    def norm(name):
      return nn.LayerNorm(1e-6, use_fast_variance=False, name=name)

    x = x + Attention(self.heads, name='cross_attn')(norm('norm1')(x), text)
    h = norm('norm2')(x)
    x = x + Attention(self.heads, name='self_attn')(h, h)
    h = gelu(nn.Dense(4 * x.shape[-1], name='mlp_0')(norm('norm3')(x)))
    return x + nn.Dense(x.shape[-1], name='mlp_1')(h)


class TriplaneTransformer(nn.Module):
  """Words [L, D] -> planes of `upsample` * `tokens` nodes a side. A block is computed again in the
  backward pass: else the scores of 3 * tokens^2 tokens by each other and head would be kept for all
  blocks."""
  tokens: int
  width: int
  blocks: int
  heads: int
  features: int
  upsample: int

  @nn.compact
  def __call__(self, text: Float[Array, 'L D']) -> Float[Array, '3 n n F']:
    n = self.tokens
    words = nn.LayerNorm(1e-6, use_bias=False, use_scale=False, use_fast_variance=False,
                         name='words')(text[None])
    x = self.param('tokens', waves, (1, 3 * n * n, self.width))
    for i in range(self.blocks):
      x = nn.remat(Block)(self.heads, name=f'blocks_{i}')(x, words)
    x = nn.LayerNorm(1e-6, use_fast_variance=False, name='norm')(x).reshape(3, n, n, self.width)
    return Upsample(self.features, self.upsample, name='upsample')(x)


def bilinear(plane: Float[Array, 'n n F'], u: Float[Array, ''],
             v: Float[Array, '']) -> Float[Array, 'F']:
  """The plane at a point of [-1, 1]^2; constant along each axis outside."""
  n = plane.shape[0]
  place = [jnp.clip(.5 * (a + 1.) * (n - 1), 0., n - 1.) for a in (u, v)]
  cell = [jnp.minimum(jnp.floor(p), n - 2.) for p in place]
  (i, j), (f, g) = [c.astype(jnp.int32) for c in cell], [p - c for p, c in zip(place, cell)]
  mix = lambda f, a, b: a + f * (b - a)
  at = lambda di, dj: plane.at[i + di, j + dj].get(mode='promise_in_bounds',
                                                   wrap_negative_indices=False)
  return mix(f, mix(g, at(0, 0), at(0, 1)), mix(g, at(1, 0), at(1, 1)))


def triplane_transformer(*, text: int = 128, tokens: int = 8, width: int = 128, blocks: int = 4,
                         heads: int = 4, features: int = 16, upsample: int = 4, hidden: int = 32,
                         radius: float = .5, extent: float = 1.) -> Scene:
  """Three planes that a transformer makes of the text's rows.

  Args:
    text: width of y.plain.
    tokens: a side of each plane.
    width: of the transformer.
    blocks: of the transformer.
    heads: of its attention.
    features: that a node of a plane holds.
    upsample: nodes of a plane to each token.
    hidden: units of the networks that read the planes.
    radius: of the sphere that a scene starts from.
    extent: half a side of the cube that the planes span.
  """
  net = TriplaneTransformer(tokens, width, blocks, heads, features, upsample)

  def init(key: Key[Array, '']):
    k_net, k_networks = jax.random.split(key)
    # compiled: the planes themselves are not made
    variables = jax.jit(net.init)(k_net, jnp.zeros((1, text)))
    return {'transformer': variables['params'],
            **volsdf.init_networks(k_networks, 3 * features, hidden=(hidden, hidden))}

  def prepare(params, y):
    planes = net.apply({'params': params['transformer']}, y.plain)
    return {'planes': planes, 'sdf': params['sdf'], 'rgb': params['rgb']}

  def encode(code, xyz):
    xyz = xyz / extent
    return jnp.concatenate([bilinear(plane, xyz[a], xyz[b])
                            for plane, (a, b) in zip(code['planes'], AXES)])

  return volsdf.surface(init, prepare, encode, radius=radius, squash=volsdf.wide_sigmoid)
