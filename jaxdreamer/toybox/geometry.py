"""Two small networks that look at toybox pictures: monocular geometry, and a reader of what is
shown.

`geometry`: image [B, 64, 64, 3] in [0, 1], noisy or not, -> disparity [B, 64, 64] (1 / distance, 0
where nothing is) and camera-frame unit normals [B, 64, 64, 3] (x right, y up, z towards the
camera).
`read`: image -> log-probabilities of the parts of a caption, by independent heads. The score of a
caption is the sum of its parts' log-probabilities: an image-text scorer whose text side is exact,
and the classifier of prompt fidelity.
"""
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from jaxdreamer.nn.layers import GroupNorm, pixel_unshuffle, upsample_nearest
from jaxdreamer.toybox import world
from jaxdreamer.types import Camera
from jaxdreamer.weights import safetensors_io

SIZE = 64
MIDDLE, SPREAD = .33, .05  # disparities of the toybox: in these units Adam's steps are small enough
SHIPPED = pathlib.Path(__file__).parents[1] / 'assets' / 'geometry.safetensors'


class Block(nn.Module):
  """Pre-normed residual 3x3 convolution."""
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    return x + nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype,
                       name='conv')(nn.silu(GroupNorm(8, dtype=self.dtype, name='norm')(x)))


class Geometry(nn.Module):
  """A small UNet on 2x2 patches at 32, 16 and 8 pixels."""
  widths: tuple[int, ...] = (32, 80, 192)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W 3']) -> Float[Array, 'B H W 4']:
    h, kept = nn.Conv(self.widths[0], (3, 3), dtype=self.dtype,
                      name='conv_in')(pixel_unshuffle(2. * x - 1., 2)), []
    for i, width in enumerate(self.widths):
      if i:
        h = nn.Conv(width, (3, 3), 2, padding=((1, 1), (1, 1)), dtype=self.dtype,
                    name=f'down_{i}')(h)
      h = Block(self.dtype, name=f'down_block_{i}')(h)
      kept.append(h)
    h = Block(self.dtype, name='mid_block')(h)
    for i in reversed(range(len(self.widths) - 1)):
      h = upsample_nearest(nn.Conv(self.widths[i], (1, 1), dtype=self.dtype,
                                   name=f'up_{i}')(h)) + kept[i]
      h = Block(self.dtype, name=f'up_block_{i}')(h)
    h = nn.Conv(16, (3, 3), dtype=self.dtype,
                name='conv_out')(nn.silu(GroupNorm(8, dtype=self.dtype, name='norm_out')(h)))
    return rearrange(h.astype(jnp.float32), 'b h w (p q c) -> b (h p) (w q) c', p=2, q=2)


class Reader(nn.Module):
  """Convolutions on 2x2 patches, then a head for each part of a caption. The last map is read place
  by place, not pooled: which of two toys is on top is a matter of place."""
  widths: tuple[int, ...] = (48, 96, 192, 256)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W 3']) -> dict[str, Float[Array, 'B n']]:
    h = nn.Conv(self.widths[0], (3, 3), dtype=self.dtype,
                name='conv_in')(pixel_unshuffle(2. * x - 1., 2))
    for i, width in enumerate(self.widths):
      if i:
        h = nn.Conv(width, (3, 3), 2, padding=((1, 1), (1, 1)), dtype=self.dtype,
                    name=f'down_{i}')(h)
      h = Block(self.dtype, name=f'block_{i}_1')(Block(self.dtype, name=f'block_{i}_0')(h))
    h = nn.silu(GroupNorm(8, dtype=self.dtype, name='norm_out')(h))
    h = nn.silu(nn.Dense(256, dtype=self.dtype, name='dense')(h.reshape(len(h), -1)))
    # the weights' keys keep the spelling that the shipped file was written with
    key = lambda name: name.replace('color', 'colour')
    return {name: jax.nn.log_softmax(nn.Dense(n, name=key(name))(h.astype(jnp.float32)))
            for name, n in HEADS.items()}


HEADS = {'kind_a': len(world.KINDS), 'kind_b': len(world.KINDS) + 1, 'color_a': len(world.COLORS),
         'color_b': len(world.COLORS) + 1, 'pattern_a': len(world.PATTERNS),
         'pattern_b': len(world.PATTERNS) + 1,
         'relation': len(world.RELATIONS)}
geometry_net, reader_net = Geometry(), Reader()


def init(key: Key[Array, '']) -> PyTree:
  """Random weights {'geometry', 'reader'}."""
  k_geometry, k_reader = jax.random.split(key)
  x = jnp.zeros((1, SIZE, SIZE, 3))
  return {'geometry': geometry_net.init(k_geometry, x)['params'],
          'reader': reader_net.init(k_reader, x)['params']}


def shipped() -> PyTree:
  """The weights that come with the package. FileNotFoundError or ValueError, one line, where the
  file is damaged."""
  return safetensors_io.load(str(SHIPPED), jax.eval_shape(init, jax.random.key(0)))


def geometry(weights: PyTree, x: Float[Array, 'B H W 3'], *, dtype: Any = jnp.float32
             ) -> tuple[Float[Array, 'B H W'], Float[Array, 'B H W 3']]:
  """(disparity, normal) of images; differentiable. `dtype` is that of convolutions."""
  out = geometry_net.clone(dtype=dtype).apply({'params': weights['geometry']}, x)
  normal = out[..., 1:]
  return MIDDLE + SPREAD * out[..., 0], normal / jnp.sqrt(
      jnp.maximum(jnp.sum(normal ** 2, -1, keepdims=True), 1e-6))


def read(weights: PyTree, x: Float[Array, 'B H W 3'], *,
         dtype: Any = jnp.float32) -> dict[str, Float[Array, 'B n']]:
  """Log-probabilities of each part of the caption; the last class of the `_b` heads is 'no second
  object'."""
  return reader_net.clone(dtype=dtype).apply({'params': weights['reader']}, x)


def features(weights: PyTree, x: Float[Array, 'B H W 3']) -> list[Float[Array, 'B h w C']]:
  """What each of the reader's blocks makes of images, every place a vector of length 1."""
  x = jax.image.resize(x, (len(x), SIZE, SIZE, 3), 'linear')
  _, kept = reader_net.apply({'params': weights['reader']}, x, mutable=['intermediates'],
                             capture_intermediates=lambda module, _: isinstance(module, Block))
  maps = jax.tree.leaves(kept)
  return [h * jax.lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) + 1e-10) for h in maps]


def feature_distance(weights: PyTree, x: Float[Array, 'B H W 3'],
                     y: Float[Array, 'B H W 3']) -> Float[Array, 'B']:
  """How differently the reader sees two pictures: LPIPS (Zhang et al. 2018) with its blocks in
  place of VGG's and without learned weights, the squared distance of `features`, a mean over
  places, then over blocks. From 0 to 4."""
  apart = [jnp.mean(jnp.sum((a - b) ** 2, -1), (1, 2))
           for a, b in zip(features(weights, x), features(weights, y))]
  return sum(apart) / len(apart)


def mirrored(camera: Camera) -> Bool[Array, '*b']:
  """Whether the camera sees on the right what is on the left, at -y, from the front."""
  return camera.world_from_camera[..., 1, 0] < 0.


def labels(item: world.Item, mirrored: bool | Bool[Array, '*b']) -> dict[str, Int[Array, '*b']]:
  """The classes of an item, one a head. Of two toys beside one another `a` is the one on the left
  of the picture: that much can be read off it, and who was named first cannot."""
  alone, swap = item.relation == world.ALONE, (item.relation == world.BESIDE) & mirrored
  def pair(values, n):
    a, b = values[..., 0], values[..., 1]
    return jnp.where(swap, b, a), jnp.where(alone, n, jnp.where(swap, a, b))
  out = {'relation': jnp.asarray(item.relation)}
  for name, values, n in (('kind', item.kind, len(world.KINDS)),
                          ('color', item.color, len(world.COLORS)),
                          ('pattern', item.pattern, len(world.PATTERNS))):
    out[f'{name}_a'], out[f'{name}_b'] = pair(values, n)
  return out


def right(logp: dict[str, Float[Array, 'B n']], classes: dict[str, Int[Array, 'B']]) -> dict[
    str, Bool[Array, 'B']]:
  """Whether shape, color and relation are read as they are: of both toys, where there are two."""
  same = {name: jnp.argmax(logp[name], -1) == classes[name] for name in HEADS}
  return {'shape': same['kind_a'] & same['kind_b'], 'color': same['color_a'] & same['color_b'],
          'relation': same['relation']}


def caption_scores(weights: PyTree, x: Float[Array, 'B H W 3'],
                   items: world.Item) -> Float[Array, 'B N']:
  """log p(caption | image) up to a constant, for each image, of any size, and each of N items,
  wherever the camera stood."""
  logp = read(weights, jax.image.resize(x, (len(x), SIZE, SIZE, 3), 'linear'))
  def of(turned):
    classes = labels(items, turned)
    return sum(logp[name][:, classes[name]] for name in HEADS)
  return jnp.logaddexp(of(False), of(True)) - jnp.log(2.)


def pearson(a: Float[Array, 'N'], b: Float[Array, 'N'],
            mask: Float[Array, 'N']) -> Float[Array, '']:
  """Correlation of a and b over mask."""
  n = jnp.maximum(jnp.sum(mask), 1.)
  a, b = ((v - jnp.sum(mask * v) / n) * mask for v in (a, b))
  return jnp.sum(a * b) / jnp.sqrt(jnp.maximum(jnp.sum(a * a) * jnp.sum(b * b), 1e-12))
