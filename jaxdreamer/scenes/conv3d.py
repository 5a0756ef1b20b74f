"""3DConv-Net (ScaleDreamer, Ma et al. 2024): StyleGAN2 (Karras et al. 2020) in three dimensions
grows a volume of features.

A vector w of the prompt and of normal draws modulates every convolution. From a learned 4^3 block
each further block doubles the volume, and all of them add their features to the code [n, n, n, F],
which a point reads by trilinear interpolation; corners are aligned throughout. Between the two
convolutions of a block a learned map as large as their output is added; 4^3 has its constant alone.
Features have biases.
The noise of each layer is drawn from a key made of y.noise, so that a code remains a function of
(params, y).
"""
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdreamer.scenes import hashgrid, volsdf, voxels
from jaxdreamer.types import Scene

normal, zeros = nn.initializers.normal(1.), nn.initializers.zeros_init()


def lrelu(x: Array) -> Array:
  """Leaky ReLU that keeps the variance, clamped."""
  return jnp.clip(math.sqrt(2.) * jax.nn.leaky_relu(x, .2), -256., 256.)


def modulated(x: Float[Array, 'n n n c'], kernel: Float[Array, 'k k k c d'],
              style: Float[Array, 'c']) -> Float[Array, 'n n n d']:
  """Convolution by kernel * style, each output channel of it scaled to unit norm (Karras et al.
  2020, Eqs. 1 and 3).

  Both scales are applied to activations. So under vmap over prompts the kernel is one array, and
  the convolution one of the whole batch, where a grouped convolution would need a kernel of its own
  for each prompt.
  """
  y = jax.lax.conv_general_dilated((x * style[None, None, None])[None], kernel, (1, 1, 1), 'SAME',
                                   dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'))[0]
  norm = jax.lax.rsqrt(style ** 2 @ jnp.sum(kernel ** 2, (0, 1, 2)) + 1e-8)
  return y * norm[None, None, None]


class Equalized(nn.Module):
  """Dense, its kernel scaled by 1 / sqrt(inputs) at run time (Karras et al. 2018)."""
  width: int
  bias: float = 0.

  @nn.compact
  def __call__(self, x: Float[Array, '*b c']) -> Float[Array, '*b d']:
    kernel = self.param('kernel', normal, (x.shape[-1], self.width))
    bias = self.param('bias', nn.initializers.constant(self.bias), (self.width,))
    return x @ kernel / math.sqrt(x.shape[-1]) + jnp.broadcast_to(bias, (*x.shape[:-1], self.width))


class Mapping(nn.Module):
  """Two layers of the draws, brought to a mean square of 1, and a linear one of these and the
  prompt."""
  width: int

  @nn.compact
  def __call__(self, noise: Float[Array, 'Z'], pooled: Float[Array, 'D']) -> Float[Array, 'W']:
    h = lrelu(Equalized(self.width,
                        name='noise_0')(noise * jax.lax.rsqrt(jnp.mean(noise ** 2) + 1e-8)))
    h = lrelu(Equalized(self.width, name='noise_1')(h))
    return Equalized(self.width, name='text')(jnp.concatenate([h, pooled]))


class SynthesisLayer(nn.Module):
  """Modulated 3^3 convolution, enlargement to `size` nodes a side, noise, bias, activation
  (`learned_map`: and what is learned for each node, of a channel's share of unit variance at
  first)."""
  channels: int
  size: int
  learned_map: bool

  @nn.compact
  def __call__(self, key: Key[Array, ''], x: Float[Array, 'n n n c'],
               w: Float[Array, 'W']) -> Float[Array, 'm m m d']:
    style = Equalized(x.shape[-1], bias=1., name='affine')(w)
    x = modulated(x, self.param('kernel', normal, (3, 3, 3, x.shape[-1], self.channels)), style)
    if x.shape[0] != self.size:
      x = voxels.upsample(x, self.size)
    cube = (self.size,) * 3
    noise = self.param('noise_strength', zeros, ()) * jax.random.normal(key, (*cube, 1))
    x = lrelu(x + noise + self.param('bias', zeros, (self.channels,))[None, None, None])
    if self.learned_map:
      x = x + self.param('map', nn.initializers.normal(self.channels ** -.5),
                         (*cube, self.channels))
    return x


class ToFeatures(nn.Module):
  """StyleGAN's toRGB: a modulated 1^3 convolution without normalization."""
  features: int

  @nn.compact
  def __call__(self, x: Float[Array, 'n n n c'], w: Float[Array, 'W']) -> Float[Array, 'n n n F']:
    style = Equalized(x.shape[-1], bias=1., name='affine')(w)
    return Equalized(self.features, name='conv')(x * style[None, None, None])


class Synthesis(nn.Module):
  """(y.noise, y.pooled) -> volume. `channels` of the blocks of 4^3, 8^3, ... nodes; maps are
  learned up to `mapped` nodes."""
  channels: tuple[int, ...]
  features: int
  width: int
  mapped: int

  @nn.compact
  def __call__(self, noise: Float[Array, 'Z'], pooled: Float[Array, 'D']) -> Float[
      Array, 'n n n F']:
    w = Mapping(self.width, name='mapping')(noise, pooled)
    keys = jax.random.split(jax.random.key(jax.lax.bitcast_convert_type(noise[0], jnp.uint32)),
                            (len(self.channels), 2))
    x = self.param('constant', normal, (4, 4, 4, self.channels[0]))
    volume = jnp.zeros((4, 4, 4, self.features))
    for i, c in enumerate(self.channels):
      n = 4 * 2 ** i
      if i:
        x = SynthesisLayer(c, n, n <= self.mapped, name=f'conv0_{n}')(keys[i, 0], x, w)
        volume = voxels.upsample(volume, n)
      x = SynthesisLayer(c, n, False, name=f'conv1_{n}')(keys[i, 1], x, w)
      volume = volume + ToFeatures(self.features, name=f'features_{n}')(x, w)
    return volume


def conv3d(*, text: int = 128, noise: int = 64, channels: tuple[int, ...] = (64, 64, 32, 16),
           features: int = 16, width: int = 64, mapped: int = 64, hidden: int = 64,
           radius: float = .5, extent: float = 1.) -> Scene:
  """A volume of 4 * 2^(blocks - 1) nodes a side over [-extent, extent]^3. `noise` is the size of
  y.noise.

  The published networks have channels (512, 512, 512, 256, 128, 64), or (512, 512, 512, 512, 256,
  128), 32 features and a width of 256.

  Args:
    text: size of y.pooled.
    channels: of each block.
    features: that a node of the volume holds.
    width: size of w, which styles all blocks.
    mapped: size of what becomes of the text.
    hidden: units of the networks that read the volume.
    radius: of the sphere that a scene starts from.
    extent: half a side of the cube that the volume fills.
  """
  net = Synthesis(channels, features, width, mapped)
  n = 4 * 2 ** (len(channels) - 1)

  def init(key: Key[Array, '']):
    k_net, k_networks = jax.random.split(key)
    # compiled: the volume itself is not made
    variables = jax.jit(net.init)(k_net, jnp.zeros(noise), jnp.zeros(text))
    return {'synthesis': variables['params'],
            **volsdf.init_networks(k_networks, features, hidden=(hidden,))}

  def prepare(params, y):
    volume = net.apply({'params': params['synthesis']}, y.noise, y.pooled)
    return {'volume': volume, 'sdf': params['sdf'], 'rgb': params['rgb']}

  def encode(code, xyz):
    return hashgrid.lookup(code['volume'].reshape(-1, features), xyz / extent, size=n - 1)

  return volsdf.surface(init, prepare, encode, radius=radius)
